//! VERSION: the first message of each side (specification, VFIO_USER_VERSION).

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::raw::{put, take};
use super::{Capabilities, Errno};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    major: U16,
    minor: U16,
}

/// The VERSION message: a proposal in the request, the agreement in the reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Version {
    /// Major version. Only 0 exists.
    pub major: u16,
    /// Minor version. The reply's must not exceed the request's; no value has a meaning so far.
    pub minor: u16,
    /// What the sender can do; all defaults if it sent no JSON.
    pub caps: Capabilities,
    /// False if the message ends behind the version numbers, which is legal.
    pub has_json: bool,
}

impl Version {
    /// A message that carries `caps` as JSON.
    pub fn new(major: u16, minor: u16, caps: Capabilities) -> Version {
        Version { major, minor, caps, has_json: true }
    }

    /// Reads the payload of either direction.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if the payload has less than 4 bytes, or for the JSON as
    /// [`Capabilities::parse`] says. Whether the numbers are supported is for the caller to judge.
    pub fn parse(payload: &[u8]) -> Result<Version, Errno> {
        let (raw, json) = take::<Raw>(payload)?;
        let has_json = !json.is_empty();
        let caps = if has_json { Capabilities::parse(json)? } else { Capabilities::default() };
        Ok(Version { major: raw.major.get(), minor: raw.minor.get(), caps, has_json })
    }

    /// Appends the payload: without JSON if `has_json` is false, whatever `caps` says.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put(out, &Raw { major: self.major.into(), minor: self.minor.into() });
        if self.has_json {
            self.caps.emit(out);
        }
    }
}
