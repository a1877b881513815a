//! DEVICE_GET_IRQ_INFO and DEVICE_SET_IRQS (specification, VFIO_USER_DEVICE_GET_IRQ_INFO,
//! VFIO_USER_DEVICE_SET_IRQS).

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Errno;
use super::raw::{len32, need, put, take};

const INFO_SIZE: u32 = 16;
const SET_SIZE: u32 = 20;

/// Interrupt types that have one vector, which can only be triggered: ERR and REQ.
const SINGLE_VECTOR_TYPES: [u32; 2] = [3, 4];

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawInfo {
    argsz: U32,
    flags: U32,
    index: U32,
    count: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSet {
    argsz: U32,
    flags: U32,
    index: U32,
    start: U32,
    count: U32,
}

flags! {
    /// What the vectors of an interrupt type can do.
    pub struct IrqFlags(u32) {
        /// They are signalled through eventfds.
        EVENTFD = 1 << 0;
        /// They can be masked and unmasked.
        MASKABLE = 1 << 1;
        /// They mask themselves when they are signalled.
        AUTOMASKED = 1 << 2;
        /// Their number cannot change while some are in use.
        NORESIZE = 1 << 3;
    }
}

/// The request DEVICE_GET_IRQ_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IrqInfoRequest {
    /// Largest reply payload that the sender can take, in bytes; at least 16.
    pub argsz: u32,
    /// The interrupt type: 0 INTx, 1 MSI, 2 MSI-X, 3 ERR, 4 REQ.
    pub index: u32,
}

impl IrqInfoRequest {
    /// A request for this interrupt type.
    pub fn new(index: u32) -> IrqInfoRequest {
        IrqInfoRequest { argsz: INFO_SIZE, index }
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`.
    pub fn parse(payload: &[u8]) -> Result<IrqInfoRequest, Errno> {
        let (raw, _) = take::<RawInfo>(payload)?;
        need(raw.argsz.get(), INFO_SIZE.into())?;
        Ok(IrqInfoRequest { argsz: raw.argsz.get(), index: raw.index.get() })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_info(out, self.argsz, IrqFlags::empty(), self.index, 0);
    }
}

/// The reply to DEVICE_GET_IRQ_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IrqInfo {
    /// What the vectors can do.
    pub flags: IrqFlags,
    /// The request's value.
    pub index: u32,
    /// Number of vectors; 0 if the type is not there.
    pub count: u32,
}

impl IrqInfo {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`.
    pub fn parse(payload: &[u8]) -> Result<IrqInfo, Errno> {
        let (raw, _) = take::<RawInfo>(payload)?;
        need(raw.argsz.get(), INFO_SIZE.into())?;
        Ok(IrqInfo {
            flags: IrqFlags::from_bits_retain(raw.flags.get()),
            index: raw.index.get(),
            count: raw.count.get(),
        })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_info(out, INFO_SIZE, self.flags, self.index, self.count);
    }
}

const DATA_NONE: u32 = 1 << 0;
const DATA_BOOL: u32 = 1 << 1;
const DATA_EVENTFD: u32 = 1 << 2;
const DATA_MASK: u32 = 0b000_111;
const ACTION_MASK: u32 = 1 << 3;
const ACTION_UNMASK: u32 = 1 << 4;
const ACTION_TRIGGER: u32 = 1 << 5;

/// What DEVICE_SET_IRQS does to the vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum IrqAction {
    /// Mask them.
    Mask,
    /// Unmask them.
    Unmask,
    /// Trigger them, or say how they shall be signalled.
    Trigger,
}

/// To which of the vectors DEVICE_SET_IRQS does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IrqData<'a> {
    /// To all of them.
    None,
    /// To those whose byte is not 0. One byte for each vector.
    Bool(&'a [u8]),
    /// The fds of the message say: one for each vector, or none at all to take them away.
    EventFd,
}

/// The request DEVICE_SET_IRQS. Its reply has no payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetIrqs<'a> {
    /// The interrupt type: 0 INTx, 1 MSI, 2 MSI-X, 3 ERR, 4 REQ.
    pub index: u32,
    /// The first vector. `start + count` does not wrap; whether the device has so many is still to
    /// be checked.
    pub start: u32,
    /// Number of vectors. It is 0 only with `start` 0, [`IrqAction::Trigger`] and
    /// [`IrqData::None`]: that disables the whole type.
    pub count: u32,
    /// What is done.
    pub action: IrqAction,
    /// To which of the vectors.
    pub data: IrqData<'a>,
}

impl<'a> SetIrqs<'a> {
    /// Reads the payload. How many fds came with the message is still to be checked.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`, unknown flags, not exactly one kind of
    /// data or of action, a range that wraps or is empty (other than to disable), a payload that
    /// has not one byte for each vector when it should, and for anything but one trigger of ERR
    /// or REQ.
    pub fn parse(payload: &'a [u8]) -> Result<SetIrqs<'a>, Errno> {
        let (raw, rest) = take::<RawSet>(payload)?;
        need(raw.argsz.get(), SET_SIZE.into())?;
        let flags = raw.flags.get();
        let (index, start, count) = (raw.index.get(), raw.start.get(), raw.count.get());
        start.checked_add(count).ok_or(Errno::EINVAL)?;
        let data = match flags & DATA_MASK {
            DATA_NONE => IrqData::None,
            DATA_BOOL if rest.len() == count as usize => IrqData::Bool(rest),
            DATA_EVENTFD => IrqData::EventFd,
            _ => return Err(Errno::EINVAL),
        };
        let action = match flags & !DATA_MASK {
            ACTION_MASK => IrqAction::Mask,
            ACTION_UNMASK => IrqAction::Unmask,
            ACTION_TRIGGER => IrqAction::Trigger,
            _ => return Err(Errno::EINVAL),
        };
        let request = SetIrqs { index, start, count, action, data };
        if count == 0 && !request.disables() {
            return Err(Errno::EINVAL);
        }
        if SINGLE_VECTOR_TYPES.contains(&index) && (action != IrqAction::Trigger || count > 1) {
            return Err(Errno::EINVAL);
        }
        Ok(request)
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let (data_flag, bytes) = match self.data {
            IrqData::None => (DATA_NONE, &[][..]),
            IrqData::Bool(bytes) => (DATA_BOOL, bytes),
            IrqData::EventFd => (DATA_EVENTFD, &[][..]),
        };
        let action_flag = match self.action {
            IrqAction::Mask => ACTION_MASK,
            IrqAction::Unmask => ACTION_UNMASK,
            IrqAction::Trigger => ACTION_TRIGGER,
        };
        put(
            out,
            &RawSet {
                argsz: len32(bytes.len()).saturating_add(SET_SIZE).into(),
                flags: (data_flag | action_flag).into(),
                index: self.index.into(),
                start: self.start.into(),
                count: self.count.into(),
            },
        );
        out.extend_from_slice(bytes);
    }

    /// True for the message that disables the whole interrupt type and drops its eventfds.
    pub fn disables(&self) -> bool {
        self.start == 0
            && self.count == 0
            && self.action == IrqAction::Trigger
            && self.data == IrqData::None
    }

    /// Checks how many fds came with the message.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for fds without [`IrqData::EventFd`], and for a number of them that is
    /// neither 0 nor `count`.
    pub fn check_fds(&self, fds: usize) -> Result<(), Errno> {
        match (self.data, fds) {
            (_, 0) => Ok(()),
            (IrqData::EventFd, fds) if fds == self.count as usize => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn put_info(out: &mut Vec<u8>, argsz: u32, flags: IrqFlags, index: u32, count: u32) {
    put(
        out,
        &RawInfo {
            argsz: argsz.into(),
            flags: flags.bits().into(),
            index: index.into(),
            count: count.into(),
        },
    );
}
