//! The device that is attacked: the same registers in Rust and in C.
//!
//! | BAR 0 | what it is |
//! |---|---|
//! | 0x000..0x100 | scratch, any width |
//! | 0x100, 64 bits | address |
//! | 0x108, 32 bits | length |
//! | 0x10c, 32 bits | a write begins an operation: [`READ`], [`WRITE`], [`RAISE`] |
//! | 0x110, 32 bits | how it went: [`BUSY`], [`DONE`], or an errno above [`FAILED`] |
//! | 0x114, 32 bits | how many writes reached the device |
//! | 0x800..0x1000 | what is read and written by DMA, as far as it goes |
//!
//! An operation runs beside the handlers: on a thread in Rust, between two calls of `vfu_run_ctx` in C.

/// Reads memory.
pub(crate) const READ: u32 = 1;
/// Writes memory.
pub(crate) const WRITE: u32 = 2;
/// Raises the vector in the length register.
pub(crate) const RAISE: u32 = 3;

pub(crate) const ADDRESS: u64 = 0x100;
pub(crate) const LENGTH: u64 = 0x108;
pub(crate) const COMMAND: u64 = 0x10c;
pub(crate) const STATUS: u64 = 0x110;
pub(crate) const WRITES: u64 = 0x114;
pub(crate) const WINDOW: u64 = 0x800;
pub(crate) const BAR0: u64 = 0x1000;

pub(crate) const BUSY: u32 = 1;
pub(crate) const DONE: u32 = 2;
pub(crate) const FAILED: u32 = 0x100;

/// The longest operation, in bytes.
const MOST: u32 = 4 << 20;
const STATE: usize = 256;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) what: u32,
    pub(crate) address: u64,
    pub(crate) len: u32,
    number: u32,
}

#[derive(Debug)]
pub(crate) struct Specimen {
    scratch: [u8; STATE],
    window: [u8; 0x800],
    address: u64,
    len: u32,
    status: u32,
    /// Of the operation that the status is about.
    number: u32,
    writes: u32,
    /// What was loaded so far.
    loaded: Vec<u8>,
    /// What of the state was given so far.
    pub(crate) saved: usize,
}

fn place(offset: u64, len: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    start..start.saturating_add(len)
}

impl Specimen {
    pub(crate) const fn new() -> Specimen {
        Specimen {
            scratch: [0; STATE],
            window: [0; 0x800],
            address: 0,
            len: 0,
            status: 0,
            number: 0,
            writes: 0,
            loaded: Vec::new(),
            saved: 0,
        }
    }

    /// What is not there reads as ones.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let register = match offset {
            ADDRESS => self.address,
            LENGTH => self.len.into(),
            STATUS => self.status.into(),
            WRITES => self.writes.into(),
            _ => {
                let bytes = self
                    .scratch
                    .get(place(offset, data.len()))
                    .or_else(|| self.window.get(place(offset.checked_sub(WINDOW)?, data.len())));
                match bytes {
                    Some(bytes) => data.copy_from_slice(bytes),
                    None => data.fill(0xff),
                }
                return;
            }
        };
        data.fill(0);
        let len = data.len().min(8);
        data[..len].copy_from_slice(&register.to_le_bytes()[..len]);
    }

    /// Gives the operation that begins.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Option<Job> {
        self.writes = self.writes.wrapping_add(1);
        let mut value = [0; 8];
        let len = data.len().min(8);
        value[..len].copy_from_slice(&data[..len]);
        let value = u64::from_le_bytes(value);
        match offset {
            ADDRESS => self.address = value,
            LENGTH => self.len = value as u32,
            COMMAND => {
                self.status = BUSY;
                self.number = self.number.wrapping_add(1);
                let (address, len) = (self.address, self.len.min(MOST));
                return Some(Job { what: value as u32, address, len, number: self.number });
            }
            _ => {
                let in_scratch = place(offset, data.len());
                let bytes = match offset.checked_sub(WINDOW) {
                    Some(offset) => self.window.get_mut(place(offset, data.len())),
                    None => self.scratch.get_mut(in_scratch),
                };
                if let Some(bytes) = bytes {
                    bytes.copy_from_slice(data);
                }
            }
        }
        None
    }

    /// What an operation writes.
    pub(crate) fn outgoing(&self, len: u32) -> Vec<u8> {
        let mut bytes = vec![0x5a; len as usize];
        let some = bytes.len().min(self.window.len());
        bytes[..some].copy_from_slice(&self.window[..some]);
        bytes
    }

    /// The end of an operation: what was read, or an errno.
    pub(crate) fn end(&mut self, job: Job, result: Result<&[u8], i32>) {
        if job.number != self.number {
            return; // one of a client that has gone
        }
        self.status = match result {
            Ok(bytes) => {
                let some = bytes.len().min(self.window.len());
                self.window[..some].copy_from_slice(&bytes[..some]);
                DONE
            }
            Err(errno) => FAILED.saturating_add(errno.unsigned_abs()),
        };
    }

    pub(crate) fn state(&self) -> Vec<u8> {
        self.scratch.to_vec()
    }

    /// Takes a piece of a saved state; false if that can't be one.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> bool {
        let fits = self.loaded.len() + bytes.len() <= STATE;
        if fits {
            self.loaded.extend_from_slice(bytes);
        }
        fits
    }

    pub(crate) fn begin_loading(&mut self) {
        self.loaded.clear();
    }

    /// False if what came is no state.
    pub(crate) fn take_over(&mut self) -> bool {
        if let Ok(scratch) = <[u8; STATE]>::try_from(&self.loaded[..]) {
            self.scratch = scratch;
        }
        matches!(std::mem::take(&mut self.loaded).len(), 0 | STATE)
    }
}
