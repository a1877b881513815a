//! A mapping of the client, and where it is in this process.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::dma::{self, Backing};

/// A mapping of the client. As long as this lives its memory stays mapped.
#[derive(Clone, Debug)]
pub struct Region(pub(super) Arc<dma::Region>);

impl Region {
    /// What there is to see of it.
    pub fn view(&self) -> View<'_> {
        View(&self.0)
    }
}

/// What there is to see of a mapping.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(pub(super) &'a dma::Region);

/// Where a mapping is in this process. The client may change it at any moment. Where it takes a page
/// away, who touches that finds zeros, and the mapping [is lost](View::is_lost): see
/// [`MemoryPolicy`](crate::MemoryPolicy).
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The mapping's first byte.
    pub start: NonNull<u8>,
    /// All that was mapped for it, in whole pages.
    pub pages: (NonNull<u8>, usize),
    /// The size of those pages in bytes.
    pub page_size: usize,
}

impl View<'_> {
    /// Which mapping, from 1 up; none gets the number of another one.
    pub fn serial(&self) -> u64 {
        self.0.serial
    }

    /// Its first address.
    pub fn address(&self) -> u64 {
        self.0.address
    }

    /// How many bytes; never 0.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The device may read it.
    pub fn is_readable(&self) -> bool {
        self.0.readable
    }

    /// The device may write it.
    pub fn is_writable(&self) -> bool {
        self.0.writable
    }

    /// Whether it is reached by messages only.
    pub fn is_remote(&self) -> bool {
        matches!(self.0.backing, Backing::Message)
    }

    /// The device has written `len` bytes from `offset` of the mapping, past this library.
    pub fn mark(&self, offset: u64, len: u64) {
        if let Some(pages) = self.0.logged() {
            pages.mark(
                self.0.address.wrapping_add(offset),
                usize::try_from(len).unwrap_or(usize::MAX),
            );
        }
    }

    /// Whether it was mapped, and has lost pages of its file since. Reads and writes still get what
    /// the file has.
    pub fn is_lost(&self) -> bool {
        matches!(&self.0.backing, Backing::Mapped(mapping, _) if mapping.is_lost())
    }

    /// Where it is in this process, if it was mapped.
    pub fn memory(&self) -> Option<Memory> {
        let Backing::Mapped(mapping, _) = &self.0.backing else { return None };
        Some(Memory {
            start: mapping.start(),
            pages: mapping.pages(),
            page_size: mapping.page_size(),
        })
    }
}
