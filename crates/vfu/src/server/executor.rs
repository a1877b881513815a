//! The one place that runs handlers: a command in, its effect, and its reply out.

use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use tracing::{debug, trace};
use vfu_proto::session::{Channel, Closed};
use vfu_proto::wire::{
    Command, DeviceFlags, DeviceInfo, DmaMap, DmaUnmapReply, DmaUnmapRequest, Errno, HEADER_SIZE,
    Header, IoFdLayout, IoFdsReply, IrqFlags, IrqInfo, RegionReadReply, RegionReadRequest,
    RegionWriteRequest, Request, SetIrqs, UnmapWhat, WriteMultiReply,
};

use super::builder::Settings;
use super::regions::{CONFIG_REGION, REGIONS, Regions};
use crate::device::{Access, Device, DmaRange, Reset};
use crate::dma::{Backing, Inserted, Region};
use crate::irq::{IrqIndex, Irqs};
use crate::link::{Link, Message};
use crate::pci::{MsixState, MsixTable, PowerState};
use crate::shared::Shared;

/// What executes commands, but for the device itself.
#[derive(Debug)]
pub(crate) struct Executor {
    shared: Arc<Shared>,
    regions: Regions,
    msix: Option<(MsixState, MsixTable)>,
    max_transfer: u32,
    max_dma_maps: usize,
    /// The reply that is being made, its header first.
    out: Vec<u8>,
}

/// The descriptor that goes with a reply.
type ReplyFd<'a> = Option<BorrowedFd<'a>>;

impl Executor {
    pub(super) fn new(
        shared: Arc<Shared>,
        regions: Regions,
        msix: Option<MsixState>,
        settings: &Settings,
    ) -> Self {
        Executor {
            shared,
            regions,
            msix: msix.map(|state| (state, MsixTable::new(state.vectors))),
            max_transfer: settings.max_transfer as u32,
            max_dma_maps: settings.max_dma_maps as usize,
            out: Vec::new(),
        }
    }

    /// Executes one command and answers it. A session that breaks meanwhile is noticed by the next
    /// one who waits.
    pub(super) fn execute<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        link: &Link,
        command: &mut Message,
    ) {
        let header = *command.header();
        let fds = std::mem::take(&mut command.fds);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        out.resize(HEADER_SIZE, 0);
        let result = Command::from_u16(header.command)
            .ok_or(Errno::EINVAL)
            .and_then(|command_| Request::parse(command_, command.payload()))
            .and_then(|request| self.handle(device, link, request, fds, &mut out));
        if let Err(errno) = result {
            debug!(command = header.command, %errno, "command refused");
        }
        if !header.wants_no_reply() {
            let _closed = match result {
                Ok(fd) => reply(link, &header, &mut out, fd),
                Err(errno) => {
                    let bytes = header.error_reply(errno).emit();
                    link.send(Channel::Main, &[IoSlice::new(&bytes)], &[])
                }
            };
        }
        self.out = out;
    }

    fn handle<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        link: &Link,
        request: Request<'_>,
        fds: Vec<OwnedFd>,
        out: &mut Vec<u8>,
    ) -> Result<ReplyFd<'_>, Errno> {
        match request {
            Request::RegionRead(r) => self.region_read(device, &r, out)?,
            Request::RegionWrite(r) => {
                self.region_write(device, link, &r)?;
                r.reply().emit(out);
            }
            Request::RegionWriteMulti(writes) => {
                // The first bad one ends it; the reply says how far it came.
                let made = writes.iter().map_while(|write| {
                    let (offset, region) = (write.offset(), write.region());
                    let write = RegionWriteRequest { offset, region, data: write.data() };
                    self.region_write(device, link, &write).ok()
                });
                WriteMultiReply { count: made.count() as u64 }.emit(out);
            }
            Request::DmaMap(map) => self.dma_map(device, &map, fds)?,
            Request::DmaUnmap(unmap) => self.dma_unmap(device, link, &unmap)?.emit(out),
            Request::DeviceGetInfo(_) => DeviceInfo {
                flags: DeviceFlags::RESET | DeviceFlags::PCI,
                num_regions: REGIONS,
                num_irqs: IrqIndex::ALL.len() as u32,
            }
            .emit(out),
            Request::DeviceGetRegionInfo(r) => {
                let (info, fd) = self.regions.info(r.index)?;
                let whole = info.emit_for(r.argsz, out);
                return Ok(fd.filter(|_| whole));
            }
            Request::DeviceGetRegionIoFds(r) => {
                if self.regions.size(r.index)? == 0 {
                    return Err(Errno::EINVAL);
                }
                let none = IoFdsReply {
                    index: r.index,
                    layout: IoFdLayout::default(),
                    entries: Vec::new(),
                    truncated: None,
                };
                none.emit_for(r.argsz, out);
            }
            Request::DeviceGetIrqInfo(r) => irq_info(&self.shared.irqs, r.index)?.emit(out),
            Request::DeviceSetIrqs(r) => self.set_irqs(&r, fds)?,
            Request::DeviceReset => self.reset(device, link, Reset::Device),
            // A device that can't be saved has no migration features.
            Request::DeviceFeature(_) | Request::MigDataRead(_) | Request::MigDataWrite(_) => {
                return Err(Errno::EINVAL);
            }
            Request::Version(_) | Request::DmaRead(_) | Request::DmaWrite(_) => {
                return Err(Errno::EINVAL);
            }
        }
        Ok(None)
    }

    /// Checks that an access lies in its region and is not too large.
    fn check_access(&self, region: u32, offset: u64, count: u64) -> Result<(), Errno> {
        let size = self.regions.size(region)?;
        let end = offset.checked_add(count).ok_or(Errno::EINVAL)?;
        if end > size || size == 0 || count > u64::from(self.max_transfer) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    fn region_read<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        request: &RegionReadRequest,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let (region, offset) = (request.region, request.offset);
        self.check_access(region, offset, u64::from(request.count))?;
        RegionReadReply::emit_head(request, out);
        let start = out.len();
        out.resize(start + request.count as usize, 0xff);
        let data = &mut out[start..];
        if data.is_empty() {
        } else if region == CONFIG_REGION {
            self.shared.config().read(offset as usize, data);
        } else if let Some((table, place)) = self.msix_at(region, offset, data.len()) {
            match place {
                Msix::Table(at) => table.read(at, data),
                Msix::Pba(at) => table.read_pba(at, data),
            }
        } else if let Err(fault) = device.region_read(Access { region, offset }, data) {
            debug!(region, offset, len = data.len(), %fault, "read");
            data.fill(0xff);
        }
        trace!(region, offset, ?data, "read");
        Ok(())
    }

    fn region_write<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        link: &Link,
        request: &RegionWriteRequest<'_>,
    ) -> Result<(), Errno> {
        let RegionWriteRequest { region, offset, data } = *request;
        self.check_access(region, offset, data.len() as u64)?;
        trace!(region, offset, ?data, "write");
        if data.is_empty() {
        } else if region == CONFIG_REGION {
            self.config_write(device, link, offset as usize, data);
        } else if let Some((table, place)) = self.msix_at(region, offset, data.len()) {
            if let Msix::Table(at) = place {
                table.write(at, data);
            }
        } else if let Err(fault) = device.region_write(Access { region, offset }, data) {
            debug!(region, offset, len = data.len(), %fault, "write");
        }
        Ok(())
    }

    fn config_write<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        link: &Link,
        offset: usize,
        data: &[u8],
    ) {
        let mut config = self.shared.config();
        let effects = config.write(offset, data);
        if effects.is_empty() {
            return;
        }
        self.shared.set_bus_master(config.bus_master() && config.power_state() == PowerState::D0);
        let intx_disabled = config.intx_disabled();
        drop(config);
        if effects.intx_disable_changed {
            self.shared.irqs.disable_pin(intx_disabled);
        }
        if effects.flr {
            self.reset(device, link, Reset::FunctionLevel);
        }
    }

    /// Where in the MSI-X table or PBA an access lies, if it does.
    fn msix_at(&mut self, region: u32, offset: u64, len: usize) -> Option<(&mut MsixTable, Msix)> {
        let (state, table) = self.msix.as_mut()?;
        let inside = |(bar, start): (usize, u64), size: u64| {
            let at = (bar == region as usize).then(|| offset.checked_sub(start)).flatten()?;
            at.checked_add(len as u64).filter(|end| *end <= size).map(|_| at)
        };
        if let Some(at) = inside(state.table, table.table_len()) {
            return Some((table, Msix::Table(at)));
        }
        let at = inside(state.pba, table.pba_len())?;
        Some((table, Msix::Pba(at)))
    }

    fn dma_map<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        map: &DmaMap,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Errno> {
        let region = Region::new(map, fds.into_iter().next())?;
        let range = range_of(&region);
        if self.shared.table.insert(region, self.max_dma_maps)? == Inserted::New {
            device.dma_mapped(range);
        }
        Ok(())
    }

    fn dma_unmap<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        link: &Link,
        request: &DmaUnmapRequest,
    ) -> Result<DmaUnmapReply<'static>, Errno> {
        match request.what {
            UnmapWhat::Range { address, size } => {
                let Some(region) = self.shared.table.remove(address, size)? else {
                    // Touches no mapping: nothing to do, as the kernel's VFIO sees it.
                    return Ok(request.reply(0));
                };
                self.retire(device, link, &region);
                Ok(request.reply(size))
            }
            UnmapWhat::All => {
                for region in self.shared.table.remove_all() {
                    self.retire(device, link, &region);
                }
                Ok(request.reply(0))
            }
            // Dirty pages are not logged.
            UnmapWhat::RangeWithDirty { .. } => Err(Errno::EINVAL),
        }
    }

    /// A mapping has left the table. Ends what still uses it; never waits for the client.
    pub(super) fn retire<D: Device + ?Sized>(&self, device: &mut D, link: &Link, region: &Region) {
        if matches!(region.backing, Backing::Message) {
            link.cancel(Some((region.address, region.size)));
        } else {
            self.shared.table.wait_unused(region);
        }
        device.dma_unmapped(range_of(region));
    }

    fn set_irqs(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        request.check_fds(fds.len())?;
        self.shared.irqs.set(request, fds)
    }

    /// The function goes back to its state at power-on. What the client arranged stays: mappings,
    /// eventfds, capabilities.
    fn reset<D: Device + ?Sized>(&mut self, device: &mut D, link: &Link, kind: Reset) {
        debug!(?kind, "reset");
        self.shared.set_bus_master(false);
        link.cancel(None);
        self.shared.config().reset();
        self.shared.irqs.reset();
        if let Some((_, table)) = &mut self.msix {
            table.reset();
        }
        device.reset(kind);
    }
}

/// A place in the memory of MSI-X, in bytes from its start.
enum Msix {
    Table(u64),
    Pba(u64),
}

fn reply(link: &Link, to: &Header, out: &mut [u8], fd: ReplyFd<'_>) -> Result<(), Closed> {
    let header = to.reply(out.len() - HEADER_SIZE).emit();
    out[..HEADER_SIZE].copy_from_slice(&header);
    link.send(Channel::Main, &[IoSlice::new(out)], fd.as_slice())
}

fn irq_info(irqs: &Irqs, index: u32) -> Result<IrqInfo, Errno> {
    let known = IrqIndex::from_u32(index).ok_or(Errno::EINVAL)?;
    let flags = match known {
        IrqIndex::Intx => IrqFlags::EVENTFD | IrqFlags::MASKABLE | IrqFlags::AUTOMASKED,
        // Vectors can be added while others are in use.
        IrqIndex::Msix => IrqFlags::EVENTFD,
        IrqIndex::Msi | IrqIndex::Err | IrqIndex::Req => IrqFlags::EVENTFD | IrqFlags::NORESIZE,
    };
    Ok(IrqInfo { flags, index, count: irqs.count(known) })
}

fn range_of(region: &Region) -> DmaRange {
    DmaRange {
        address: region.address,
        size: region.size,
        readable: region.readable,
        writable: region.writable,
        direct: !matches!(region.backing, Backing::Message),
    }
}
