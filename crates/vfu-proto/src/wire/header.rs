//! The 16 bytes in front of every message (specification, "Header").

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::raw::len32;
use super::{Command, Errno};

/// Size of a header in bytes.
pub const HEADER_SIZE: usize = 16;

const TYPE_MASK: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const TYPE_REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    id: U16,
    command: U16,
    size: U32,
    flags: U32,
    error: U32,
}

/// Whether a message asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// A command.
    Command,
    /// The reply to one.
    Reply,
}

/// The header of a message, as it is on the wire: nothing in it is trusted yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Header {
    /// Chosen by the sender of the command, repeated in the reply.
    pub id: u16,
    /// Number of the command; see [`Command::from_u16`].
    pub command: u16,
    /// Size of the whole message in bytes, this header included.
    pub size: u32,
    /// Type (bits 0 to 3), NO_REPLY (bit 4), ERROR (bit 5); the rest is ignored.
    pub flags: u32,
    /// Error number of an error reply; see [`Header::errno`].
    pub error: u32,
}

impl Header {
    /// The header of a command with `payload_len` bytes behind it.
    #[inline]
    pub fn command(id: u16, command: Command, payload_len: usize) -> Header {
        Header {
            id,
            command: command.as_u16(),
            size: size_with(payload_len),
            flags: TYPE_COMMAND,
            error: 0,
        }
    }

    /// The header of the reply to this command, with `payload_len` bytes behind it.
    #[inline]
    #[must_use]
    pub fn reply(&self, payload_len: usize) -> Header {
        Header { size: size_with(payload_len), flags: TYPE_REPLY, error: 0, ..*self }
    }

    /// The whole error reply to this command: it has no payload.
    #[must_use]
    pub fn error_reply(&self, errno: Errno) -> Header {
        let error = errno.raw().unsigned_abs();
        Header { size: size_with(0), flags: TYPE_REPLY | ERROR, error, ..*self }
    }

    /// The same command, but nobody shall answer it.
    #[must_use]
    pub fn with_no_reply(self) -> Header {
        Header { flags: self.flags | NO_REPLY, ..self }
    }

    /// Reads a header. Any 16 bytes are one; what it says must still be judged.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Header {
        let raw: &Raw = zerocopy::transmute_ref!(bytes);
        Header {
            id: raw.id.get(),
            command: raw.command.get(),
            size: raw.size.get(),
            flags: raw.flags.get(),
            error: raw.error.get(),
        }
    }

    /// Writes the header.
    #[inline]
    pub fn emit(&self) -> [u8; HEADER_SIZE] {
        zerocopy::transmute!(Raw {
            id: self.id.into(),
            command: self.command.into(),
            size: self.size.into(),
            flags: self.flags.into(),
            error: self.error.into(),
        })
    }

    /// Writes the header to the front of a whole message, which has room for it there.
    #[inline]
    pub fn emit_into(&self, message: &mut [u8]) {
        if let Some(room) = message.first_chunk_mut() {
            *room = self.emit();
        }
    }

    /// Command or reply; `None` if the type is neither, and the stream cannot be trusted any more.
    #[inline]
    pub fn kind(&self) -> Option<Kind> {
        match self.flags & TYPE_MASK {
            TYPE_COMMAND => Some(Kind::Command),
            TYPE_REPLY => Some(Kind::Reply),
            _ => None,
        }
    }

    /// True for a command that must not be answered, not even with an error.
    #[inline]
    pub fn wants_no_reply(&self) -> bool {
        self.kind() == Some(Kind::Command) && self.flags & NO_REPLY != 0
    }

    /// True for a reply that says that the command failed.
    #[inline]
    pub fn is_error(&self) -> bool {
        self.kind() == Some(Kind::Reply) && self.flags & ERROR != 0
    }

    /// The error of an error reply. Numbers that no error reply may carry become [`Errno::EIO`].
    pub fn errno(&self) -> Errno {
        Errno::from_wire(self.error)
    }

    /// Bytes behind the header: `size - 16`, or 0 if the size is impossibly small.
    pub fn payload_len(&self) -> usize {
        (self.size as usize).saturating_sub(HEADER_SIZE)
    }
}

fn size_with(payload_len: usize) -> u32 {
    len32(payload_len.saturating_add(HEADER_SIZE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_drop_the_flags_of_the_command() {
        let command = Header::command(7, Command::RegionRead, 16).with_no_reply();
        assert!(command.wants_no_reply());
        let reply = command.reply(20);
        assert_eq!(reply.emit(), [7, 0, 9, 0, 36, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert!(!reply.wants_no_reply());
        let error = command.error_reply(Errno::EINVAL);
        assert_eq!(error.emit(), [7, 0, 9, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 22, 0, 0, 0]);
        assert!(error.is_error() && error.errno() == Errno::EINVAL);
    }

    #[test]
    fn unknown_high_flags_are_ignored_and_unknown_types_are_not() {
        let mut header = Header::command(0, Command::DeviceReset, 0);
        header.flags = 0xffff_ffc1;
        assert_eq!(header.kind(), Some(Kind::Reply));
        header.flags = 2;
        assert_eq!(header.kind(), None);
        header.flags = 0x20;
        assert!(!header.is_error(), "ERROR means nothing in a command");
    }

    #[test]
    fn impossible_sizes_have_no_payload() {
        let mut header = Header::command(0, Command::DeviceReset, 0);
        for size in 0..=16 {
            header.size = size;
            assert_eq!(header.payload_len(), 0);
        }
        header.error = 0;
        assert_eq!(header.errno(), Errno::EIO);
        header.error = u32::MAX;
        assert_eq!(header.errno(), Errno::EIO);
    }
}
