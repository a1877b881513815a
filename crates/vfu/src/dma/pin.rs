//! Direct memory for a moment: nothing is counted, the mappings stay as they are meanwhile.

use std::cell::Cell;

use super::entry::{Entry, Need};
use super::index::{Found, Index};
use super::span::Span;
use super::table::find;
use super::{Direction, Dma, DmaError};
use crate::shared::Shared;
use crate::sync::Counted;

/// The peer's mappings while they are pinned: see [`Dma::pin`].
#[derive(Debug)]
pub struct Pinned<'a> {
    shared: &'a Shared,
    index: &'a Index,
    /// Where the last slice was.
    last: Cell<Option<Last<'a>>>,
}

/// A mapping, so that as little as can be is left to compare.
#[derive(Clone, Copy, Debug)]
struct Last<'a> {
    /// First address, in bytes.
    address: u64,
    /// By [`Direction`]: the length in bytes, or 0 if there are no slices.
    sizes: [u64; 2],
    entry: &'a Counted<Entry>,
}

/// A piece of the peer's memory, for as long as the mappings are pinned.
///
/// The memory is the peer's, too: it may change at any moment, so it is reached by copies only. An
/// aligned access of 1, 2, 4 or 8 bytes is one load or store.
#[derive(Debug)]
pub struct Slice<'a>(Span<&'a Counted<Entry>>);

impl Dma {
    /// Calls `f`, and leaves all mappings as they are until it returns. In `f`
    /// [`slice`](Pinned::slice) says where an address is at the cost of a search, or of a comparison
    /// if it is in the same mapping as the one before; nothing is counted, and no two threads
    /// write to the same line of a cache.
    ///
    /// It is for what a queue's thread does with a handful of descriptors. When the peer maps
    /// memory or takes some back meanwhile, the session's thread waits until `f` returns, and with it
    /// all of the session's commands. So `f` has to be short, as under a lock, and must not wait for
    /// anything: a [`Lease`](super::Lease) may be held as long as one likes, and holds up nothing but
    /// the end of its own mapping. Other sessions are not held up by either.
    ///
    /// DMA that may have to wait for the peer ends with [`DmaError::Busy`] in `f`: by messages, or to
    /// files of which there are no [slices](Pinned::slice).
    ///
    /// # Errors
    /// That of `f`; or the device may not do DMA now.
    ///
    /// # Panics
    /// If `f` has this thread execute commands of the session that change its mappings
    /// (`Server::process`, say): they would wait for `f`.
    #[inline]
    pub fn pin<T>(
        &self,
        f: impl FnOnce(&Pinned<'_>) -> Result<T, DmaError>,
    ) -> Result<T, DmaError> {
        let shared = &*self.shared;
        shared.may_dma().map_err(|e| shared.explain(e))?;
        shared.table.pin(|index| f(&Pinned { shared, index, last: Cell::new(None) }))
    }
}

impl<'a> Last<'a> {
    fn new(Found { key, entry }: Found<'a>) -> Last<'a> {
        let sizes = [Direction::Read, Direction::Write].map(|way| key.size(Need::prompt(way)));
        Last { address: key.address, sizes, entry }
    }

    #[inline]
    fn holds(&self, address: u64, len: u64, direction: Direction) -> bool {
        let (offset, size) = (address.wrapping_sub(self.address), self.sizes[direction as usize]);
        offset < size && len <= size - offset
    }
}

impl<'a> Pinned<'a> {
    /// The `len` bytes at `address`, which have to lie in one mapping that is shared by file
    /// descriptor and mapped.
    ///
    /// # Errors
    /// [`DmaError::NotDirect`] if they are reached by messages, or span mappings; or if the file lies
    /// in a filesystem that may have whoever touches it wait (any but tmpfs, which memfds are of,
    /// and hugetlbfs). [`Dma::read`] and [`Dma::write`] take those, outside of the pin.
    #[inline]
    pub fn slice(
        &self,
        address: u64,
        len: u64,
        direction: Direction,
    ) -> Result<Slice<'a>, DmaError> {
        let last = || self.last.get().filter(|last| last.holds(address, len, direction));
        let found = last().or_else(|| {
            self.search(address);
            last()
        });
        match found {
            Some(last) => Ok(Slice(Span { held: last.entry, offset: address - last.address, len })),
            None => Err(*self.why(address, direction)),
        }
    }

    #[inline(never)]
    fn search(&self, address: u64) {
        self.last.set(self.index.floor(address).map(Last::new));
    }

    /// Why there is no slice. In a box: were it written to where a slice would be, slices would have to go
    /// through memory, and whoever takes them would wait for that.
    #[cold]
    fn why(&self, address: u64, direction: Direction) -> Box<DmaError> {
        Box::new(match find(self.index, address, direction) {
            Ok(_) => DmaError::NotDirect { address },
            Err(e) => self.shared.explain(e),
        })
    }
}

impl Slice<'_> {
    /// How many bytes it covers.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether it covers none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The address of its first byte.
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// Copies from `at` bytes behind the start.
    ///
    /// # Errors
    /// Beyond the end, not readable, or past the end of the peer's file.
    #[inline]
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.0.read(at, to)
    }

    /// Copies to `at` bytes behind the start.
    ///
    /// # Errors
    /// As [`read`](Self::read), for writing.
    #[inline]
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), DmaError> {
        self.0.write(at, from)
    }
}
