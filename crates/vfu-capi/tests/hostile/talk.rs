//! What a hostile client says, in one line.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use vfu::wire::{Command, Errno, Kind};
use vfu_testkit::{DEADLINE, RawMessage, RawPeer, SharedRam, message};

use crate::specimen;

pub(crate) const NO_REPLY: u32 = 0x10;
pub(crate) const INVALID: Option<Errno> = Some(Errno::EINVAL);

/// Little-endian bytes of numbers.
macro_rules! bytes {
    ($($number:expr),* $(,)?) => {{
        let mut bytes: Vec<u8> = Vec::new();
        $(bytes.extend_from_slice(&$number.to_le_bytes());)*
        bytes
    }};
}
pub(crate) use bytes;

/// A hostile client.
#[derive(Debug)]
pub(crate) struct Peer(pub(crate) RawPeer);

impl Deref for Peer {
    type Target = RawPeer;

    fn deref(&self) -> &RawPeer {
        &self.0
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Peer {
    /// Sends a command with any payload, and gives the answer.
    pub(crate) fn ask(&self, command: u16, payload: &[u8]) -> RawMessage {
        self.ask_with(command, payload, &[])
    }

    pub(crate) fn ask_with(
        &self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> RawMessage {
        self.send_with(&message(77, command, 0, payload), fds).expect("the server reads");
        let answer = self.recv().expect("an answer");
        let header = answer.header;
        assert_eq!(header.kind(), Some(Kind::Reply), "{header:?}");
        assert_eq!((header.id, header.command), (77, command), "{header:?}");
        answer
    }

    /// Errno of the answer, which must be for this command.
    pub(crate) fn errno(&self, command: u16, payload: &[u8]) -> Option<Errno> {
        let answer = self.ask(command, payload);
        assert!(answer.errno().is_none() || answer.payload.is_empty(), "{answer:?}");
        answer.errno()
    }

    /// Sends a command that wants no answer.
    pub(crate) fn post(&self, command: u16, payload: &[u8]) {
        self.send(&message(78, command, NO_REPLY, payload)).expect("the server reads");
    }

    /// Whether the stream is where both think it is.
    pub(crate) fn in_sync(&self) {
        let answer = self.ask(Command::DeviceGetInfo.as_u16(), &bytes!(16u32, 0u32, 0u32, 0u32));
        assert_eq!((answer.errno(), answer.payload.len()), (None, 16));
    }

    pub(crate) fn read32(&self, offset: u64) -> u32 {
        let data = self.read_bytes(0, offset, 4).expect("a register");
        u32::from_le_bytes(data.try_into().expect("4 bytes"))
    }

    pub(crate) fn write32(&self, offset: u64, value: u32) {
        assert_eq!(self.write_bytes(0, offset, &value.to_le_bytes()), None);
    }

    pub(crate) fn write_bytes(&self, region: u32, offset: u64, data: &[u8]) -> Option<Errno> {
        let mut payload = bytes!(offset, region, data.len() as u32);
        payload.extend_from_slice(data);
        self.errno(Command::RegionWrite.as_u16(), &payload)
    }

    pub(crate) fn read_bytes(
        &self,
        region: u32,
        offset: u64,
        count: u32,
    ) -> Result<Vec<u8>, Errno> {
        let answer = self.ask(Command::RegionRead.as_u16(), &bytes!(offset, region, count));
        match answer.errno() {
            Some(errno) => Err(errno),
            None => Ok(answer.payload.get(16..).expect("16 bytes before the data").to_vec()),
        }
    }

    /// DMA_MAP; flags 1 read, 2 write, 4 mmap, 8 file I/O.
    pub(crate) fn map(
        &self,
        address: u64,
        size: u64,
        flags: u32,
        ram: Option<&SharedRam>,
    ) -> Option<Errno> {
        self.map_fd(address, size, flags, 0, ram.map(AsFd::as_fd))
    }

    pub(crate) fn map_fd(
        &self,
        address: u64,
        size: u64,
        flags: u32,
        offset: u64,
        fd: Option<BorrowedFd<'_>>,
    ) -> Option<Errno> {
        let payload = bytes!(32u32, flags, offset, address, size);
        self.ask_with(Command::DmaMap.as_u16(), &payload, fd.as_slice()).errno()
    }

    pub(crate) fn unmap(&self, address: u64, size: u64) -> Option<Errno> {
        let answer = self.ask(Command::DmaUnmap.as_u16(), &bytes!(24u32, 0u32, address, size));
        assert!(answer.errno().is_some() || answer.payload.len() == 24, "{answer:?}");
        answer.errno()
    }

    /// Has the device begin an operation, without waiting for anything.
    pub(crate) fn operate(&self, what: u32, address: u64, len: u32) {
        assert_eq!(self.write_bytes(0, specimen::ADDRESS, &address.to_le_bytes()), None);
        self.write32(specimen::LENGTH, len);
        // What the device asks for may come before an answer would.
        self.post(Command::RegionWrite.as_u16(), &bytes!(specimen::COMMAND, 0u32, 4u32, what));
    }

    /// Waits for the end of it.
    pub(crate) fn outcome(&self) -> Result<(), Errno> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.read32(specimen::STATUS) {
                specimen::DONE => return Ok(()),
                specimen::BUSY => assert!(Instant::now() < deadline, "the operation never ends"),
                failed => return Err(Errno::from_raw((failed - specimen::FAILED) as i32)),
            }
        }
    }

    /// Has the device read memory that it reaches without us.
    pub(crate) fn dma_read(&self, address: u64, len: u32) -> Result<(), Errno> {
        self.operate(specimen::READ, address, len);
        self.outcome()
    }

    pub(crate) fn dma_write(&self, address: u64, len: u32) -> Result<(), Errno> {
        self.operate(specimen::WRITE, address, len);
        self.outcome()
    }

    pub(crate) fn set_irqs(
        &self,
        flags: u32,
        index: u32,
        start: u32,
        count: u32,
        fds: &[BorrowedFd<'_>],
    ) -> Option<Errno> {
        let payload = bytes!(20u32, flags, index, start, count);
        self.ask_with(Command::DeviceSetIrqs.as_u16(), &payload, fds).errno()
    }

    /// The server ends the connection; what it says before does not matter.
    pub(crate) fn is_hung_up(&self) {
        loop {
            match self.recv() {
                Ok(_) => {}
                Err(vfu_testkit::KitError::Closed) => return,
                Err(e) => panic!("the server goes on: {e}"),
            }
        }
    }
}

/// Descriptors of nothing in particular.
pub(crate) fn eventfds(count: usize) -> Vec<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    let make = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
    (0..count).map(make).collect()
}

pub(crate) fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
