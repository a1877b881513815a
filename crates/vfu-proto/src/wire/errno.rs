//! The error numbers that travel in error replies.

use std::fmt;

/// A UNIX error number, 1 to 4095, with the values of Linux.
///
/// The values are the same on every architecture that the protocol is used on, so they are defined
/// here and not taken from the system. An error reply carries 1..=4095.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "` (", stringify!($value), "): ", $text, ".")]
                pub const $name: Errno = Errno($value);
            )*

            /// The symbol, such as `"EINVAL"`; `None` for a number that has no constant here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            const fn text(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "unnamed error",
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such entry";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "too long";
    EBADF = 9, "bad file descriptor";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "busy";
    EEXIST = 17, "exists already";
    ENODEV = 19, "no such device";
    EINVAL = 22, "invalid argument";
    EMFILE = 24, "too many open files";
    ENOTTY = 25, "inappropriate request";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left";
    EPIPE = 32, "broken pipe";
    ENOSYS = 38, "not implemented";
    EPROTO = 71, "protocol error";
    EOVERFLOW = 75, "value too large";
    EMSGSIZE = 90, "message too long";
    ENOTSUP = 95, "not supported";
    ECONNRESET = 104, "connection reset";
    ENOTCONN = 107, "not connected";
    ETIMEDOUT = 110, "timed out";
    ECANCELED = 125, "cancelled";
}

impl Errno {
    /// `EOPNOTSUPP`: on Linux another name of [`Errno::ENOTSUP`].
    pub const EOPNOTSUPP: Errno = Errno::ENOTSUP;

    /// The largest number that may stand in an error reply.
    pub const MAX: i32 = 4095;

    /// Takes a number from elsewhere. What is not in 1..=4095 becomes [`Errno::EIO`].
    pub const fn from_raw(raw: i32) -> Errno {
        if raw >= 1 && raw <= Errno::MAX { Errno(raw as u16) } else { Errno::EIO }
    }

    /// Takes the error field of a header, with the rule of [`Errno::from_raw`].
    pub(super) const fn from_wire(raw: u32) -> Errno {
        if raw <= Errno::MAX as u32 { Errno::from_raw(raw as i32) } else { Errno::EIO }
    }

    /// The number, 1 to 4095.
    pub const fn raw(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name})", self.text()),
            None => write!(f, "{} ({})", self.text(), self.0),
        }
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn numbers_outside_the_range_become_eio() {
        for raw in [0, -1, -22, 4096, i32::MIN, i32::MAX] {
            assert_eq!(Errno::from_raw(raw), Errno::EIO);
        }
        for raw in [1, 22, 4095] {
            assert_eq!(Errno::from_raw(raw).raw(), raw);
        }
    }

    #[test]
    fn names_are_shown() {
        assert_eq!(format!("{:?}", Errno::EINVAL), "EINVAL");
        assert_eq!(Errno::EINVAL.to_string(), "invalid argument (EINVAL)");
        assert_eq!(format!("{:?}", Errno::from_raw(4000)), "Errno(4000)");
        assert_eq!(Errno::EOPNOTSUPP.raw(), 95);
    }
}
