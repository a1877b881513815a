//! The client's memory: mappings come and go, and the program is told.

use std::ffi::{c_int, c_void};
use std::os::fd::OwnedFd;

use vfu::raw::{Region, View};
use vfu::wire::{DmaMap, DmaUnmapRequest, Errno, UnmapWhat};

use crate::ctx::{Context, MAX_TRANSFER};
use crate::errno::{EINVAL, ENOENT, ENOMEM, ENOSPC};
use crate::log::DEBUG;
use crate::setup::Dma;
use crate::types::{DmaFn, DmaInfo, IoVec};

pub(crate) const PROT_READ: c_int = 1;
pub(crate) const PROT_WRITE: c_int = 2;

/// The largest mapping.
const MAX_SIZE: u64 = 8 << 40;
/// What is said of the pages of memory that is not in this process.
const PAGE: usize = 4096;

impl DmaInfo {
    fn of(region: View<'_>) -> DmaInfo {
        let memory = region.memory();
        let mut prot = 0;
        if region.is_readable() {
            prot |= PROT_READ;
        }
        if region.is_writable() {
            prot |= PROT_WRITE;
        }
        let iovec = |base: *mut c_void, len| IoVec { base, len };
        DmaInfo {
            iova: iovec(region.address() as *mut c_void, region.size() as usize),
            vaddr: memory.map_or(std::ptr::null_mut(), |m| m.start.as_ptr().cast()),
            mapping: memory.map_or(iovec(std::ptr::null_mut(), 0), |m| {
                iovec(m.pages.0.as_ptr().cast(), m.pages.1)
            }),
            page_size: memory.map_or(PAGE, |m| m.page_size),
            prot: prot as u32,
        }
    }
}

/// What stands before the bitmap in a reply to DMA_UNMAP.
const HEAD: usize = 40;

impl Context {
    pub(crate) fn dma(&self) -> Option<Dma> {
        self.setup().dma
    }

    pub(crate) fn dma_map(&self, payload: &[u8], fds: Vec<OwnedFd>) -> Result<(), c_int> {
        // Without an interest in memory there is nothing to know of it.
        let Some(dma) = self.dma() else { return Ok(()) };
        let map = DmaMap::parse(payload).map_err(Errno::raw)?;
        if map.size > MAX_SIZE {
            return Err(ENOSPC);
        }
        let fd = fds.into_iter().next();
        let new = self.station().map(&map, fd, dma.max_regions).map_err(Errno::raw)?;
        self.log(DEBUG, format_args!("DMA map {:#x}+{:#x}", map.address, map.size));
        if new {
            let info = self.station().look(map.address, DmaInfo::of);
            info.into_iter().for_each(|info| self.tell(dma.register, info));
        }
        Ok(())
    }

    fn tell(&self, callback: Option<DmaFn>, mut info: DmaInfo) {
        if let Some(callback) = callback {
            self.station().notify(|| {
                // SAFETY: the program's callback, called as the header says; it may not keep `info`.
                unsafe { callback(self.as_ptr(), &mut info) };
            });
        }
    }

    /// The program lets go of a mapping, which then goes.
    fn unmap(&self, dma: &Dma, region: &Region) {
        self.forget(dma, region);
        self.station().unmap(region);
    }

    /// The program lets go of a mapping.
    fn forget(&self, dma: &Dma, region: &Region) {
        self.log(
            DEBUG,
            format_args!("DMA unmap {:#x}+{:#x}", region.view().address(), region.view().size()),
        );
        self.tell(dma.unregister, DmaInfo::of(region.view()));
    }

    pub(crate) fn unmap_all(&self) {
        if let Some(dma) = self.dma() {
            for region in self.station().mappings() {
                self.unmap(&dma, &region);
            }
        }
    }

    pub(crate) fn dma_unmap(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), c_int> {
        let Some(dma) = self.dma() else { return Ok(()) };
        let request = DmaUnmapRequest::parse(payload).map_err(Errno::raw)?;
        if request.argsz > MAX_TRANSFER {
            return Err(EINVAL);
        }
        match request.what {
            UnmapWhat::All => {
                self.unmap_all();
                request.reply(0).emit(out);
            }
            UnmapWhat::Range { address, size } => {
                let region = self.find(address, size)?;
                self.unmap(&dma, &region);
                request.reply(size).emit(out);
            }
            UnmapWhat::RangeWithDirty { address, size, pgsize, .. } => {
                let region = self.find(address, size)?;
                let mut bitmap = self.report(address, size, pgsize)?;
                out.try_reserve(HEAD + bitmap.len()).map_err(|_| ENOMEM)?;
                self.forget(&dma, &region);
                // The program may have given back what it had written to.
                match self.report(address, size, pgsize) {
                    Ok(more) => bitmap.iter_mut().zip(more).for_each(|(bits, more)| *bits |= more),
                    Err(ENOMEM) => bitmap.fill(0xff), // which says more than is true
                    Err(_) => {}
                }
                self.station().unmap(&region);
                let bitmap = vfu::wire::DirtyBitmap { pgsize, data: &bitmap };
                let reply = request.reply(size);
                vfu::wire::DmaUnmapReply { bitmap: Some(bitmap), ..reply }.emit(out);
            }
        }
        Ok(())
    }

    /// The mapping of just these bytes.
    pub(crate) fn find(&self, address: u64, size: u64) -> Result<Region, c_int> {
        let is = |r: &Region| (r.view().address(), r.view().size()) == (address, size);
        self.station().mapping(address).filter(is).ok_or(ENOENT)
    }
}
