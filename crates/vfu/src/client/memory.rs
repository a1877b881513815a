//! The client's memory, as it was announced to the server.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError};

use vfu_proto::wire::{DmaMapFlags, Errno};

use super::ClientError;
use crate::dma::dirty::{Log, Pages, Picture};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Memory that the server reaches by DMA_READ and DMA_WRITE messages.
///
/// Called from whatever thread reads the session's sockets at the moment. It must not call the
/// same [`Client`](super::Client): nobody would read the reply.
pub trait DmaMemory: Send + Sync {
    /// Fills `to` with what is at `address`, the device's address.
    ///
    /// # Errors
    /// The errno that the server gets.
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno>;

    /// Stores `from` at `address`.
    ///
    /// # Errors
    /// The errno that the server gets.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno>;

    /// Lends the `len` bytes at `address`: calls `send` with them, or doesn't, and [`read`](Self::read) is
    /// asked.
    ///
    /// Asked of long reads only, of 16 KiB or more: what is lent is sent from where it lies, and nothing is
    /// filled or copied before. `send` does not wait for the server. Only its first call counts, and only
    /// if the length is right.
    fn lend(&self, address: u64, len: usize, send: &mut dyn FnMut(&[u8])) {
        let _ = (address, len, send);
    }
}

/// How the server reaches memory that is mapped for it.
#[derive(Clone)]
pub enum Memory<'a> {
    /// Directly, in a file that is shared with it, from an offset in bytes. The server can reach
    /// all of the file from then on, for as long as it likes.
    File(BorrowedFd<'a>, u64),
    /// By messages, each of which is checked.
    Messages(Arc<dyn DmaMemory>),
    /// Not at all: its messages are refused. What a VMM does for ranges without memory.
    Nothing,
}

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Memory::File(..) => "File",
            Memory::Messages(_) => "Messages",
            Memory::Nothing => "Nothing",
        })
    }
}

/// What was announced and not taken back.
#[derive(Default)]
pub(super) struct Maps {
    by_address: RwLock<BTreeMap<u64, Map>>,
    /// Dirty page logging of what is written by messages.
    log: Log,
    /// The page size with which the server logs, in bytes.
    server_page_size: AtomicU64,
}

pub(super) struct Map {
    size: u64,
    flags: DmaMapFlags,
    /// The server has the file.
    shared: bool,
    memory: Option<Served>,
}

impl Map {
    fn pages(&self) -> Option<&Pages> {
        self.memory.as_ref().map(|served| &*served.pages)
    }
}

/// Memory that is served by messages, and what of it was written.
struct Served {
    memory: Arc<dyn DmaMemory>,
    pages: Arc<Pages>,
}

/// An address, a length in bytes, and who has them.
type Piece<'a> = (u64, usize, &'a Served);

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

impl Maps {
    /// Gives what was there, to be put back if the server refuses.
    ///
    /// # Errors
    /// There is no memory to log its dirty pages.
    pub(super) fn insert(
        &self,
        address: u64,
        size: u64,
        flags: DmaMapFlags,
        memory: &Memory<'_>,
    ) -> Result<Option<Map>, ClientError> {
        let mut maps = self.by_address.write().unwrap_or_else(PoisonError::into_inner);
        let shared = matches!(memory, Memory::File(..));
        let memory = match memory {
            Memory::Messages(memory) => {
                let before = maps.get(&address).filter(|map| map.size == size);
                // The same once more: what was written stays written.
                let pages = before.and_then(|map| map.memory.as_ref()).map(|s| s.pages.clone());
                let pages = match pages {
                    Some(pages) => pages,
                    None => {
                        let pages = Pages::new(address, size);
                        self.log.admit(&pages).map_err(|_| ClientError::no_room_to_log())?;
                        Arc::new(pages)
                    }
                };
                Some(Served { memory: memory.clone(), pages })
            }
            Memory::File(..) | Memory::Nothing => None,
        };
        Ok(maps.insert(address, Map { size, flags, shared, memory }))
    }

    /// Undoes an [`insert`](Self::insert).
    pub(super) fn restore(&self, address: u64, before: Option<Map>) {
        let mut maps = self.by_address.write().unwrap_or_else(PoisonError::into_inner);
        match before {
            Some(map) => maps.insert(address, map),
            None => maps.remove(&address),
        };
    }

    pub(super) fn remove(&self, address: u64) {
        self.by_address.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    pub(super) fn clear(&self) {
        self.by_address.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Serves a DMA_READ: `EFAULT` where nothing is mapped, `EPERM` where it is not allowed.
    pub(super) fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        // Locked until it is done: who takes a mapping back waits for what still uses it.
        let maps = self.by_address.read().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        for (at, len, served) in pieces(&maps, address, to.len(), DmaMapFlags::READ)? {
            served.memory.read(at, &mut to[done..done + len])?;
            done += len;
        }
        Ok(())
    }

    /// Has the memory [lend](DmaMemory::lend) what is read, if it is one piece that may be read. Says whether
    /// it was sent: if not, [`read`](Self::read) does it, or tells why not.
    pub(super) fn lend(&self, address: u64, len: usize, send: impl FnOnce(&[u8])) -> bool {
        let maps = self.by_address.read().unwrap_or_else(PoisonError::into_inner);
        let Some((start, map)) = maps.range(..=address).next_back() else { return false };
        let lies_within =
            (address - start).checked_add(len as u64).is_some_and(|end| end <= map.size);
        let Some(served) = &map.memory else { return false };
        if !lies_within || !map.flags.contains(DmaMapFlags::READ) {
            return false;
        }
        let mut send = Some(send);
        served.memory.lend(address, len, &mut |bytes| {
            if bytes.len() == len {
                if let Some(send) = send.take() {
                    send(bytes);
                }
            }
        });
        send.is_none()
    }

    /// Serves a DMA_WRITE; as [`read`](Self::read).
    pub(super) fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let maps = self.by_address.read().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        for (at, len, served) in pieces(&maps, address, from.len(), DmaMapFlags::WRITE)? {
            let result = served.memory.write(at, &from[done..done + len]);
            // Also after an error, which a part may have gone before.
            served.pages.mark(at, len);
            result?;
            done += len;
        }
        Ok(())
    }

    /// Whether dirty pages are logged.
    pub(super) fn is_logging(&self) -> bool {
        self.log.page_size().is_some()
    }

    /// Logs what is written by messages from now on.
    ///
    /// # Errors
    /// `EINVAL` for a page size that is no power of two, or not the one with which it is logged; `ENOMEM`.
    pub(super) fn start_logging(&self, page_size: u64) -> Result<(), Errno> {
        let maps = self.by_address.read().unwrap_or_else(PoisonError::into_inner);
        self.log.start(page_size, maps.values().filter_map(Map::pages)).map(drop)
    }

    pub(super) fn set_server_page_size(&self, bytes: u64) {
        self.server_page_size.store(bytes, Ordering::Relaxed);
    }

    /// The page size with which the server logs, or a smaller one if `length` is less.
    pub(super) fn server_page_size(&self, length: u64) -> u64 {
        let most = 1 << length.max(1).ilog2();
        self.server_page_size.load(Ordering::Relaxed).clamp(1, most)
    }

    /// Forgets what was logged.
    pub(super) fn stop_logging(&self) {
        let maps = self.by_address.read().unwrap_or_else(PoisonError::into_inner);
        self.log.stop(maps.values().filter_map(Map::pages));
    }

    /// Adds to `picture` what was written by messages, and forgets it.
    pub(super) fn report(&self, picture: &mut Picture<'_>) {
        let maps = self.by_address.read().unwrap_or_else(PoisonError::into_inner);
        maps.values().filter_map(Map::pages).for_each(|pages| pages.report(picture));
    }

    /// The parts of the addresses `first..=last` that the server itself reaches, as first and last
    /// addresses.
    pub(super) fn shared(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let maps = self.by_address.read().unwrap_or_else(PoisonError::into_inner);
        let shared = maps.range(..=last).filter(|(_, map)| map.shared);
        let parts = shared.map(|(start, map)| {
            let end = start.saturating_add(map.size.saturating_sub(1));
            (first.max(*start), last.min(end))
        });
        parts.filter(|(first, last)| first <= last).collect()
    }
}

/// The maps that the range lies in, checked as a whole before a byte moves.
fn pieces(
    maps: &BTreeMap<u64, Map>,
    address: u64,
    len: usize,
    need: DmaMapFlags,
) -> Result<Vec<Piece<'_>>, Errno> {
    let mut pieces = Vec::new();
    let (mut at, mut left) = (address, len as u64);
    while left > 0 {
        let (start, map) = maps.range(..=at).next_back().ok_or(Errno::EFAULT)?;
        let offset = at - start;
        if offset >= map.size {
            return Err(Errno::EFAULT);
        }
        if !map.flags.contains(need) {
            return Err(Errno::EPERM);
        }
        let memory = map.memory.as_ref().ok_or(Errno::EFAULT)?;
        let here = left.min(map.size - offset);
        pieces.push((at, here as usize, memory));
        left -= here;
        if left > 0 {
            at = at.checked_add(here).ok_or(Errno::EFAULT)?;
        }
    }
    Ok(pieces)
}
