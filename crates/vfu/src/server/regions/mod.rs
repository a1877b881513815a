//! The regions of a device: its BARs, its configuration space and its own, as the client asks for
//! them.

mod io_fds;
mod share;

use std::os::fd::BorrowedFd;

use vfu_proto::wire::{Area, Errno, RegionCapability, RegionFlags, RegionInfo};

use crate::doorbell::{Doorbell, IoEventFd};
use crate::memory::SharedMemory;
use crate::pci::{BARS, BarKind, ConfigSpace};
use crate::seldom::Seldom;

use io_fds::IoFds;
pub(super) use io_fds::IoFdsAnswer;
use share::MAX_REGIONS;
pub use share::{MmapArea, ShareError, Shareable};

/// VFIO's number of the expansion ROM region.
pub(crate) const ROM_REGION: u32 = 6;
/// VFIO's number of the configuration space region.
pub(crate) const CONFIG_REGION: u32 = 7;
/// VFIO's count of regions of a PCI device: six BARs, ROM, configuration space, VGA.
const PCI_REGIONS: usize = 9;

/// A region beyond those of PCI; for [`Builder::region`](super::Builder::region).
#[derive(Debug)]
pub struct Region {
    size: u64,
    type_: Option<(u32, u32)>,
    read_only: bool,
    memory: Option<Shareable>,
}

impl Region {
    /// A region of `size` bytes, any number from 1.
    pub fn new(size: u64) -> Self {
        Region { size, type_: None, read_only: false, memory: None }
    }

    /// What the region is, as VFIO's type capability says it. The type of a PCI vendor is its id
    /// with bit 31 set; the subtype is the vendor's.
    pub fn type_(mut self, type_: u32, subtype: u32) -> Self {
        self.type_ = Some((type_, subtype));
        self
    }

    /// Writes of the client are dropped.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Lets the client map it, or areas of it. What it has mapped it can write, even if the region is
    /// [`read_only`](Self::read_only).
    pub fn mmap(mut self, memory: impl Into<Shareable>) -> Self {
        self.memory = Some(memory.into());
        self
    }
}

/// What the author asks for, besides what the configuration space says.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) shared: Vec<(usize, Shareable)>,
    pub(crate) own: Vec<Region>,
    pub(crate) doorbells: Vec<(IoEventFd, Option<Doorbell>)>,
}

/// All regions.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    list: Vec<Entry>,
    io_fds: IoFds,
}

/// One region; of size 0 if the device does not have it.
#[derive(Debug, Default)]
struct Entry {
    size: u64,
    read_only: bool,
    type_: Option<(u32, u32)>,
    shared: Option<Shareable>,
    /// The BAR that was added for MSI-X: what lies beside table and PBA is not the device's.
    of_msix: bool,
}

impl Regions {
    pub(crate) fn new(config: &ConfigSpace, asked: Asked) -> Result<Self, ShareError> {
        let mut list: Vec<Entry> = Vec::new();
        for index in 0..PCI_REGIONS {
            let size = match index as u32 {
                ROM_REGION => config.rom().map_or(0, |rom| rom.size),
                CONFIG_REGION => config.size() as u64,
                _ => config.bar(index).map_or(0, |bar| bar.size),
            };
            let read_only = index as u32 == ROM_REGION;
            let of_msix = config.msix_bar() == Some(index);
            list.push(Entry { size, read_only, of_msix, ..Entry::default() });
        }
        for (bar, share) in asked.shared {
            let is_memory = config.bar(bar).is_some_and(|bar| bar.kind != BarKind::Io);
            let entry = list.get_mut(bar).filter(|_| bar < BARS && is_memory);
            entry.ok_or(ShareError::NoBar { bar })?.shared = Some(share);
        }
        if asked.own.len() > MAX_REGIONS {
            return Err(ShareError::TooManyRegions { count: asked.own.len() });
        }
        for region in asked.own {
            if region.size == 0 {
                return Err(ShareError::EmptyRegion { region: list.len() as u32 });
            }
            let Region { size, type_, read_only, memory: shared } = region;
            list.push(Entry { size, read_only, type_, shared, of_msix: false });
        }
        for (index, entry) in list.iter_mut().enumerate() {
            let kept: Vec<_> = msix_places(config, index).collect();
            if let Some(share) = &mut entry.shared {
                share.settle(index as u32, entry.size, &kept)?;
            }
        }
        let mut regions = Regions { list, io_fds: IoFds::default() };
        regions.io_fds = IoFds::new(&regions, asked.doorbells)?;
        Ok(regions)
    }

    /// How many numbers there are, also of regions that the device does not have.
    pub(crate) fn count(&self) -> u32 {
        self.list.len() as u32
    }

    /// A region's length in bytes; 0 if the device does not have it.
    ///
    /// # Errors
    /// `EINVAL`: there is no region of that number at all.
    pub(crate) fn size(&self, index: u32) -> Result<u64, Errno> {
        self.entry(index).map(|entry| entry.size)
    }

    fn entry(&self, index: u32) -> Result<&Entry, Errno> {
        self.list.get(index as usize).ok_or(Errno::EINVAL)
    }

    /// Whether writes are dropped.
    pub(crate) fn is_read_only(&self, index: u32) -> bool {
        self.entry(index).is_ok_and(|entry| entry.read_only)
    }

    /// Whether it is the BAR that was added for MSI-X.
    pub(crate) fn is_of_msix(&self, index: u32) -> bool {
        self.entry(index).is_ok_and(|entry| entry.of_msix)
    }

    /// The memory that the client may map, and that the library reads and writes for it.
    pub(crate) fn memory(&self, index: u32) -> Option<&SharedMemory> {
        self.entry(index).ok()?.shared.as_ref()?.memory()
    }

    /// The memory that an access lies in, if it lies in one. The place in it is that in the region.
    pub(crate) fn memory_at(&self, index: u32, offset: u64, len: usize) -> Option<&SharedMemory> {
        let share = self.entry(index).ok()?.shared.as_ref()?;
        share.memory().filter(|_| share.covers(offset, len as u64))
    }

    /// What DEVICE_GET_REGION_INFO answers to a client that takes `max_fds` with a message, and the
    /// descriptor to send with the whole of it.
    pub(crate) fn info(
        &self,
        index: u32,
        max_fds: usize,
    ) -> Result<(RegionInfo, Option<BorrowedFd<'_>>), Errno> {
        let entry = self.entry(index)?;
        let mut info = RegionInfo {
            flags: RegionFlags::default(),
            index,
            size: entry.size,
            offset: 0,
            capabilities: Vec::new(),
            needed_argsz: None,
        };
        if entry.size == 0 {
            return Ok((info, None));
        }
        info.flags = RegionFlags::READ;
        if !entry.read_only {
            info.flags = info.flags | RegionFlags::WRITE;
        }
        if let Some((type_, subtype)) = entry.type_ {
            info.capabilities.push(RegionCapability::Type { type_, subtype });
        }
        let Some(share) = entry.shared.as_ref().filter(|_| max_fds > 0) else {
            return Ok((info, None));
        };
        info.flags = info.flags | RegionFlags::MMAP;
        info.offset = share.offset();
        // Said also of a region that can be mapped as a whole: so each client goes one way.
        let areas = share.areas().iter().map(|a| Area { offset: a.offset, size: a.size });
        info.capabilities.push(RegionCapability::SparseMmap(areas.collect()));
        Ok((info, Some(share.fd())))
    }

    /// The doorbell at a place, by which the author asked for it.
    pub(crate) fn doorbell(&self, index: u32, offset: u64) -> Option<&Doorbell> {
        self.io_fds.at(index, offset)
    }

    /// The doorbell that a write rings, if it rings one.
    pub(crate) fn rung(&self, index: u32, offset: u64, data: &[u8]) -> Option<&Doorbell> {
        self.io_fds.rung(index, offset, data)
    }

    /// What DEVICE_GET_REGION_IO_FDS answers to a client that takes `max_fds` with a message.
    ///
    /// # Errors
    /// `EINVAL`: the device has no such region.
    pub(crate) fn io_fds(
        &self,
        index: u32,
        max_fds: usize,
        seldom: &Seldom,
    ) -> Result<IoFdsAnswer, Errno> {
        if self.size(index)? == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(self.io_fds.answer(index, max_fds, seldom))
    }

    /// The client has gone.
    pub(crate) fn disconnect(&self) {
        self.io_fds.disconnect();
    }
}

/// Where in a region the MSI-X table and PBA are: offset and length in bytes.
fn msix_places(config: &ConfigSpace, index: usize) -> impl Iterator<Item = (u64, u64)> + use<> {
    let places = config
        .msix()
        .map(|msix| [(msix.table, msix.table_len()), (msix.pba, msix.pba_len())])
        .into_iter()
        .flatten();
    places.filter(move |((bar, _), _)| *bar == index).map(|((_, at), len)| (at, len))
}
