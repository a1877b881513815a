//! Migration states and the two commands that move the stream (specification, VFIO_USER_MIG_DATA_READ,
//! VFIO_USER_MIG_DATA_WRITE; states as in the kernel's VFIO).

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Errno;
use super::raw::{len32, need, put, take, take_bytes};

const HEAD_SIZE: u32 = 8;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    argsz: U32,
    size: U32,
}

/// The migration state of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum DeviceState {
    /// A transition failed; only a reset leads out of it.
    Error = 0,
    /// Stopped: no DMA, no interrupts, nothing changes.
    Stop = 1,
    /// Running.
    Running = 2,
    /// Stopped, and its state can be read.
    StopCopy = 3,
    /// Stopped, and its state can be written.
    Resuming = 4,
    /// Running without peer-to-peer DMA. Not used by this protocol.
    RunningP2p = 5,
    /// Running, and its state can be read.
    PreCopy = 6,
    /// Like `PreCopy` without peer-to-peer DMA. Not used by this protocol.
    PreCopyP2p = 7,
}

impl DeviceState {
    /// Every state, in the order of their numbers.
    pub const ALL: [DeviceState; 8] = [
        DeviceState::Error,
        DeviceState::Stop,
        DeviceState::Running,
        DeviceState::StopCopy,
        DeviceState::Resuming,
        DeviceState::RunningP2p,
        DeviceState::PreCopy,
        DeviceState::PreCopyP2p,
    ];

    /// The state with this number, if there is one.
    pub fn from_u32(number: u32) -> Option<DeviceState> {
        usize::try_from(number).ok().and_then(|index| DeviceState::ALL.get(index).copied())
    }

    /// The number on the wire.
    pub const fn as_u32(self) -> u32 {
        self as u32
    }

    /// True for the states that a client may ask for.
    pub const fn is_requestable(self) -> bool {
        use DeviceState::*;
        matches!(self, Stop | Running | StopCopy | Resuming | PreCopy)
    }
}

/// The next state on the shortest way (as the kernel's VFIO finds it); `None` when the way is at its end. Ask
/// again from there until it is. A device without `PreCopy` must refuse that state by itself.
///
/// # Errors
/// [`Errno::EINVAL`] if there is no way, or if one of the states is none that a client may ask for.
pub fn next_hop(from: DeviceState, to: DeviceState) -> Result<Option<DeviceState>, Errno> {
    use DeviceState::*;
    if !from.is_requestable() || !to.is_requestable() {
        return Err(Errno::EINVAL);
    }
    Ok(match (from, to) {
        _ if from == to => None,
        (StopCopy, PreCopy) => return Err(Errno::EINVAL),
        (Stop, Running | PreCopy) => Some(Running),
        (Running, PreCopy) => Some(PreCopy),
        (PreCopy, StopCopy) => Some(StopCopy),
        (PreCopy, _) => Some(Running),
        (Stop, _) => Some(to),
        (_, _) => Some(Stop),
    })
}

/// The request MIG_DATA_READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MigDataReadRequest {
    /// Most bytes to read. Whether the number is within the limit is still to be checked.
    pub size: u32,
}

impl MigDataReadRequest {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload, and an `argsz` that has no room for the data.
    pub fn parse(payload: &[u8]) -> Result<MigDataReadRequest, Errno> {
        let (size, _) = take_head(payload)?;
        Ok(MigDataReadRequest { size })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_head(out, self.size);
    }
}

/// The reply to MIG_DATA_READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MigDataReadReply<'a> {
    /// The next bytes of the stream; less than asked for if there are no more for now.
    pub data: &'a [u8],
}

impl<'a> MigDataReadReply<'a> {
    /// Reads the payload. The size field counts, not the length of the message: there are servers
    /// that send padding.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`.
    pub fn parse(payload: &'a [u8]) -> Result<MigDataReadReply<'a>, Errno> {
        let (size, rest) = take_head(payload)?;
        let (data, _) = take_bytes(rest, size.into())?;
        Ok(MigDataReadReply { data })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_head(out, len32(self.data.len()));
        out.extend_from_slice(self.data);
    }
}

/// The request MIG_DATA_WRITE. Its reply has no payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MigDataWriteRequest<'a> {
    /// The next bytes of the stream.
    pub data: &'a [u8],
}

impl<'a> MigDataWriteRequest<'a> {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`.
    pub fn parse(payload: &'a [u8]) -> Result<MigDataWriteRequest<'a>, Errno> {
        let (size, rest) = take_head(payload)?;
        let (data, _) = take_bytes(rest, size.into())?;
        Ok(MigDataWriteRequest { data })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_head(out, len32(self.data.len()));
        out.extend_from_slice(self.data);
    }
}

fn take_head(payload: &[u8]) -> Result<(u32, &[u8]), Errno> {
    let (raw, rest) = take::<Raw>(payload)?;
    let size = raw.size.get();
    need(raw.argsz.get(), u64::from(HEAD_SIZE) + u64::from(size))?;
    Ok((size, rest))
}

fn put_head(out: &mut Vec<u8>, size: u32) {
    put(out, &Raw { argsz: size.saturating_add(HEAD_SIZE).into(), size: size.into() });
}

#[cfg(test)]
mod tests {
    use super::DeviceState::{self, *};
    use super::*;

    #[test]
    fn next_hops_are_those_of_the_table() {
        let targets = [Stop, Running, StopCopy, Resuming, PreCopy];
        let table = [
            (Stop, [None, Some(Running), Some(StopCopy), Some(Resuming), Some(Running)]),
            (Running, [Some(Stop), None, Some(Stop), Some(Stop), Some(PreCopy)]),
            (StopCopy, [Some(Stop), Some(Stop), None, Some(Stop), Some(Error)]),
            (Resuming, [Some(Stop), Some(Stop), Some(Stop), None, Some(Stop)]),
            (PreCopy, [Some(Running), Some(Running), Some(StopCopy), Some(Running), None]),
        ];
        for (from, hops) in table {
            for (to, hop) in targets.into_iter().zip(hops) {
                let expected = if hop == Some(Error) { Err(Errno::EINVAL) } else { Ok(hop) };
                assert_eq!(next_hop(from, to), expected, "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn every_way_ends_and_the_rest_is_refused() {
        for from in DeviceState::ALL {
            for to in DeviceState::ALL {
                let mut at = from;
                let mut hops = 0;
                while let Ok(Some(next)) = next_hop(at, to) {
                    assert!(next == to || !matches!(next, PreCopy | StopCopy));
                    at = next;
                    hops += 1;
                    assert!(hops < 4, "{from:?} -> {to:?}");
                }
                let legal = from.is_requestable()
                    && to.is_requestable()
                    && (from, to) != (StopCopy, PreCopy);
                assert_eq!(at == to && next_hop(at, to).is_ok(), legal, "{from:?} -> {to:?}");
            }
        }
        assert_eq!(DeviceState::from_u32(8), None);
        assert_eq!(DeviceState::from_u32(u32::MAX), None);
    }
}
