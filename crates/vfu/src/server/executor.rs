//! The one place that runs handlers: a command in, its effect, and its reply out.
//!
//! Commands are executed in the order in which they came. Three kinds of them may end later, while
//! those behind them go on: an access that its handler answers later, an unmap that waits for leases,
//! and (here nothing else goes on meanwhile) a change that waits for the device to come to rest.

use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use tracing::{debug, trace};
use vfu_proto::session::{Channel, Closed};
use vfu_proto::wire::{
    Command, DeviceFlags, DeviceInfo, Errno, HEADER_SIZE, Header, IoFdLayout, IoFdsReply, IrqFlags,
    IrqInfo, RegionReadReply, RegionReadRequest, RegionWriteRequest, Request, SetIrqs,
    WriteMultiReply,
};

use super::builder::Settings;
use super::held::Held;
use super::migrate::Moving;
use super::parked::{Parked, Retired};
use super::regions::{CONFIG_REGION, REGIONS, ROM_REGION, Regions};
use crate::answer::Defer;
use crate::context::{self, Inside};
use crate::device::{Access, Device, Fault, Reset};
use crate::irq::{IrqIndex, Irqs};
use crate::link::{Link, Message};
use crate::pci::{MsixState, MsixTable};
use crate::shared::{Gate, Shared};
use crate::sync::Mutex;

/// What executes commands, but for the device itself.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(super) shared: Arc<Shared>,
    regions: Regions,
    msix: Option<(MsixState, Mutex<MsixTable>)>,
    max_transfer: u32,
    pub(super) max_dma_maps: usize,
    pub(super) parked: Parked,
    pub(super) moving: Moving,
    /// Buffers for replies, their headers first.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// What a reply is made of, besides its payload.
pub(super) enum Outcome<'a> {
    /// Reply now.
    Reply,
    /// Reply now, with a descriptor.
    ReplyWith(BorrowedFd<'a>),
    /// Somebody else replies, later.
    Later,
}

/// Who is being served.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) link: &'a Arc<Link>,
    pub(super) header: Header,
}

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
            msix: msix.map(|state| (state, Mutex::new(MsixTable::new(state.vectors)))),
            max_transfer: settings.max_transfer as u32,
            max_dma_maps: settings.max_dma_maps as usize,
            parked: Parked::default(),
            moving: Moving::default(),
            spare: Mutex::default(),
        }
    }

    /// Executes one command and answers it. Gives the message back, to be used again, unless it has
    /// to wait for the device to come to rest.
    ///
    /// A session that breaks meanwhile is noticed by the next one who waits.
    pub(super) fn execute<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        command: Message,
    ) -> Option<Message> {
        let ready = self.rest_first(device, link, command)?;
        let ready = self.writes_first(link, ready)?;
        Some(self.execute_now(device, link, ready))
    }

    /// Executes a command for which the device has come to rest, if it had to.
    pub(super) fn execute_now<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        mut command: Message,
    ) -> Message {
        let call = Call { link, header: *command.header() };
        let fds = std::mem::take(&mut command.fds);
        let mut out = self.take_buffer();
        let result = Command::from_u16(call.header.command)
            .ok_or(Errno::EINVAL)
            .and_then(|name| Request::parse(name, command.payload()))
            .and_then(|request| self.handle(device, call, request, fds, &mut out));
        let _closed = match result {
            Ok(Outcome::Later) => Ok(()),
            Ok(Outcome::Reply) => call.reply(&mut out, &[]),
            Ok(Outcome::ReplyWith(fd)) => call.reply(&mut out, &[fd]),
            Err(errno) => call.refuse(errno),
        };
        self.give_buffer(out);
        command
    }

    /// Whether no command may be executed now: the device comes to rest first, or owes too many
    /// answers.
    pub(super) fn is_paused(&self, link: &Link) -> bool {
        self.parked.holds_all() || link.is_saturated()
    }

    fn take_buffer(&self) -> Vec<u8> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut out = spare.unwrap_or_default();
        out.clear();
        out.resize(HEADER_SIZE, 0);
        out
    }

    fn give_buffer(&self, out: Vec<u8>) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(out);
    }

    fn handle<D: Device + ?Sized>(
        &self,
        device: &mut D,
        call: Call<'_>,
        request: Request<'_>,
        fds: Vec<OwnedFd>,
        out: &mut Vec<u8>,
    ) -> Result<Outcome<'_>, Errno> {
        match request {
            Request::RegionRead(r) => return self.region_read(device, call, &r, out),
            Request::RegionWrite(r) => return self.region_write(device, call, &r, out),
            Request::RegionWriteMulti(writes) => {
                // The first bad one ends it; the reply says how far it came.
                let made = writes.iter().map_while(|write| {
                    let (offset, region) = (write.offset(), write.region());
                    let write = RegionWriteRequest { offset, region, data: write.data() };
                    self.write(device, call.link, &write, None).ok()
                });
                WriteMultiReply { count: made.count() as u64 }.emit(out);
            }
            Request::DmaMap(map) => self.dma_map(device, &map, fds)?,
            Request::DmaUnmap(unmap) => match self.dma_unmap(device, call, &unmap)? {
                Retired::Wholly(reply) => reply.emit(out),
                Retired::WhenUnused => return Ok(Outcome::Later),
            },
            Request::DeviceGetInfo(_) => DeviceInfo {
                flags: DeviceFlags::RESET | DeviceFlags::PCI,
                num_regions: REGIONS,
                num_irqs: IrqIndex::ALL.len() as u32,
            }
            .emit(out),
            Request::DeviceGetRegionInfo(r) => {
                let (info, fd) = self.regions.info(r.index)?;
                let whole = info.emit_for(r.argsz, out);
                if let Some(fd) = fd.filter(|_| whole) {
                    return Ok(Outcome::ReplyWith(fd));
                }
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
            Request::DeviceReset => self.reset(device, call.link, Reset::Device),
            Request::DeviceFeature(r) => self.feature(device, &r, out)?,
            Request::MigDataRead(r) => self.mig_data_read(device, r, out)?,
            Request::MigDataWrite(r) => self.mig_data_write(device, &r)?,
            Request::Version(_) | Request::DmaRead(_) | Request::DmaWrite(_) => {
                return Err(Errno::EINVAL);
            }
        }
        Ok(Outcome::Reply)
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
        &self,
        device: &mut D,
        call: Call<'_>,
        request: &RegionReadRequest,
        out: &mut Vec<u8>,
    ) -> Result<Outcome<'_>, Errno> {
        let (region, offset) = (request.region, request.offset);
        self.check_access(region, offset, u64::from(request.count))?;
        RegionReadReply::emit_head(request, out);
        let start = out.len();
        out.resize(start + request.count as usize, 0xff);
        let data = &mut out[start..];
        if data.is_empty() {
        } else if region == CONFIG_REGION {
            self.shared.config().read(offset as usize, data);
        } else if region == ROM_REGION {
            self.shared.config().read_rom(offset, data);
        } else if let Some((table, place)) = self.msix_at(region, offset, data.len()) {
            let table = table.lock().unwrap_or_else(PoisonError::into_inner);
            match place {
                Msix::Table(at) => table.read(at, data),
                Msix::Pba(at) => table.read_pba(at, data),
            }
        } else {
            let mut defer = Defer::read(call.link, call.header, *request);
            let at = Access { region, offset };
            let result = context::run(&self.shared, Inside::Handler, || {
                device.region_read_or_defer(at, data, &mut defer)
            });
            if defer.is_taken() {
                return Ok(Outcome::Later);
            }
            if let Err(fault) = result {
                debug!(region, offset, len = data.len(), %fault, "read");
                data.fill(0xff);
            }
        }
        trace!(region, offset, ?data, "read");
        // The driver must not see the register before the memory that was written ahead of it.
        if Held::behind_writes(call, out) { Ok(Outcome::Later) } else { Ok(Outcome::Reply) }
    }

    fn region_write<D: Device + ?Sized>(
        &self,
        device: &mut D,
        call: Call<'_>,
        request: &RegionWriteRequest<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Outcome<'_>, Errno> {
        let mut defer = Defer::write(call.link, call.header, request.reply());
        self.write(device, call.link, request, Some(&mut defer))?;
        if defer.is_taken() {
            return Ok(Outcome::Later);
        }
        request.reply().emit(out);
        Ok(Outcome::Reply)
    }

    fn write<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        request: &RegionWriteRequest<'_>,
        defer: Option<&mut Defer<'_>>,
    ) -> Result<(), Errno> {
        let RegionWriteRequest { region, offset, data } = *request;
        self.check_access(region, offset, data.len() as u64)?;
        trace!(region, offset, ?data, "write");
        if data.is_empty() {
        } else if region == ROM_REGION {
            debug!(offset, len = data.len(), "write to the ROM dropped");
        } else if region == CONFIG_REGION {
            self.config_write(device, link, offset as usize, data);
        } else if let Some((table, place)) = self.msix_at(region, offset, data.len()) {
            if let Msix::Table(at) = place {
                table.lock().unwrap_or_else(PoisonError::into_inner).write(at, data);
            }
        } else if self.shared.is_stopped() {
            debug!(region, offset, "write to a device that is stopped");
        } else {
            let at = Access { region, offset };
            let result = context::run(&self.shared, Inside::Handler, || match defer {
                Some(defer) => device.region_write_or_defer(at, data, defer),
                None => device.region_write(at, data),
            });
            self.log_write(at, data.len(), result);
        }
        Ok(())
    }

    fn log_write(&self, at: Access, len: usize, result: Result<(), Fault>) {
        if let Err(fault) = result {
            debug!(region = at.region, offset = at.offset, len, %fault, "write");
        }
    }

    fn config_write<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        offset: usize,
        data: &[u8],
    ) {
        let mut config = self.shared.config();
        let effects = config.write(offset, data);
        if effects.is_empty() {
            return;
        }
        self.shared.follow(&config);
        let intx_disabled = config.intx_disabled();
        drop(config);
        if effects.intx_disable_changed {
            self.shared.irqs.disable_pin(intx_disabled);
        }
        // Out of D3hot without No_Soft_Reset is the same to the function (PM 5.4.1).
        if effects.flr || effects.soft_reset {
            self.reset(device, link, Reset::FunctionLevel);
        }
    }

    /// Where in the MSI-X table or PBA an access lies, if it does.
    fn msix_at(&self, region: u32, offset: u64, len: usize) -> Option<(&Mutex<MsixTable>, Msix)> {
        let (state, table) = self.msix.as_ref()?;
        let inside = |(bar, start): (usize, u64), size: u64| {
            let at = (bar == region as usize).then(|| offset.checked_sub(start)).flatten()?;
            at.checked_add(len as u64).filter(|end| *end <= size).map(|_| at)
        };
        if let Some(at) = inside(state.table, state.table_len()) {
            return Some((table, Msix::Table(at)));
        }
        let at = inside(state.pba, state.pba_len())?;
        Some((table, Msix::Pba(at)))
    }

    /// The MSI-X table, then the pending bits; nothing if there are none.
    pub(super) fn save_msix(&self) -> Vec<u8> {
        let Some((state, table)) = &self.msix else { return Vec::new() };
        let table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let (len, pba) = (state.table_len() as usize, state.pba_len() as usize);
        let mut bytes = vec![0; len + pba];
        let (entries, pending) = bytes.split_at_mut(len);
        table.read(0, entries);
        table.read_pba(0, pending);
        bytes
    }

    /// Puts back what [`save_msix`](Self::save_msix) gave. `None`: it was another table's.
    pub(super) fn load_msix(&self, bytes: &[u8]) -> Option<()> {
        let Some((state, table)) = &self.msix else { return bytes.is_empty().then_some(()) };
        let (entries, pending) = bytes.split_at_checked(state.table_len() as usize)?;
        if pending.len() as u64 != state.pba_len() {
            return None;
        }
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        table.reset();
        table.write(0, entries);
        for vector in 0..state.vectors {
            let byte = pending.get(usize::from(vector) / 8)?;
            if byte & 1 << (vector % 8) != 0 {
                table.set_pending(vector);
            }
        }
        Some(())
    }

    fn set_irqs(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        request.check_fds(fds.len())?;
        self.shared.irqs.set(request, fds)
    }

    /// The function goes back to its state at power-on. What the client arranged stays: mappings,
    /// eventfds, capabilities. Nothing waits for the client.
    fn reset<D: Device + ?Sized>(&self, device: &mut D, link: &Arc<Link>, kind: Reset) {
        debug!(?kind, "reset");
        self.shared.set_gate(Gate::Resetting);
        self.shared.next_epoch();
        self.shared.set_bus_master(false);
        link.cancel(None);
        if kind == Reset::FunctionLevel {
            self.shared.irqs.reset();
            self.shared.config().reset_function();
        } else {
            self.shared.power_on();
        }
        self.reset_migration();
        if let Some((_, table)) = &self.msix {
            table.lock().unwrap_or_else(PoisonError::into_inner).reset();
        }
        context::run(&self.shared, Inside::Callback, || device.reset(kind));
        self.shared.set_gate(Gate::Open);
    }
}

/// A place in the memory of MSI-X, in bytes from its start.
enum Msix {
    Table(u64),
    Pba(u64),
}

impl Call<'_> {
    /// Sends the reply whose payload is in `out`, behind room for the header; nothing if none is
    /// wanted.
    pub(super) fn reply(&self, out: &mut [u8], fds: &[BorrowedFd<'_>]) -> Result<(), Closed> {
        if self.header.wants_no_reply() {
            return Ok(());
        }
        let header = self.header.reply(out.len() - HEADER_SIZE).emit();
        out[..HEADER_SIZE].copy_from_slice(&header);
        self.link.send(Channel::Main, &[IoSlice::new(out)], fds)
    }

    /// Sends an error reply, if any is wanted.
    pub(super) fn refuse(&self, errno: Errno) -> Result<(), Closed> {
        debug!(command = self.header.command, %errno, "command refused");
        if self.header.wants_no_reply() {
            return Ok(());
        }
        let bytes = self.header.error_reply(errno).emit();
        self.link.send(Channel::Main, &[IoSlice::new(&bytes)], &[])
    }
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
