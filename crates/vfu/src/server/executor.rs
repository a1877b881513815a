//! The one place that runs handlers: a command in, its effect, and its reply out.
//!
//! Commands are executed in the order in which they came. Three kinds of them may end later, while
//! those behind them go on: an access that its handler answers later, an unmap that waits for leases,
//! and (here nothing else goes on meanwhile) a change that waits for the device to come to rest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tracing::{debug, info};
use vfu_proto::session::{Channel, Closed};
use vfu_proto::wire::{
    Command, DeviceFlags, DeviceInfo, Errno, HEADER_SIZE, Header, IrqFlags, IrqInfo,
    RegionReadRequest, RegionWriteRequest, Request, SetIrqs, WriteMultiReply,
};

use super::builder::Settings;
use super::migrate::Moving;
use super::parked::{Parked, Retired};
use super::regions::{IoFdsAnswer, Regions};
use crate::context::{self, Inside};
use crate::device::{Device, Reset};
use crate::irq::{IrqIndex, Irqs};
use crate::link::{Draft, Link, Message};
use crate::shared::{Gate, Shared};

/// What executes commands, but for the device itself.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(super) shared: Arc<Shared>,
    pub(super) regions: Arc<Regions>,
    pub(super) max_transfer: u32,
    pub(super) max_dma_maps: usize,
    pub(super) parked: Parked,
    pub(super) moving: Moving,
}

/// What a reply is made of, besides its payload.
pub(super) enum Outcome<'a> {
    /// Reply now.
    Reply,
    /// Reply now, with a descriptor.
    ReplyWith(BorrowedFd<'a>),
    /// Reply now, with descriptors.
    ReplyWithAll(Vec<Arc<OwnedFd>>),
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
    pub(super) fn new(shared: Arc<Shared>, regions: Arc<Regions>, settings: &Settings) -> Self {
        Executor {
            shared,
            regions,
            max_transfer: settings.max_transfer as u32,
            max_dma_maps: settings.max_dma_maps as usize,
            parked: Parked::default(),
            moving: if settings.incoming { Moving::incoming() } else { Moving::default() },
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
        let ready = match Command::from_u16(command.header().command) {
            Some(Command::DmaMap | Command::DmaUnmap | Command::DeviceReset) => {
                self.execute_at_rest(device, link, command);
                return None;
            }
            Some(Command::DeviceFeature) => self.writes_first(device, link, command)?,
            _ => command,
        };
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
        let out = &mut Draft::lend();
        // Accesses are most of what comes: they go straight to their handler.
        let result = match Command::from_u16(call.header.command) {
            Some(Command::RegionRead) => RegionReadRequest::parse(command.payload())
                .and_then(|read| self.region_read(device, call, &read, out)),
            Some(Command::RegionWrite) => RegionWriteRequest::parse(command.payload())
                .and_then(|write| self.region_write(device, call, &write, out)),
            Some(other) => {
                let fds = command.take_fds();
                Request::parse(other, command.payload())
                    .and_then(|request| self.handle(device, call, request, fds, out))
            }
            None => Err(Errno::EINVAL),
        };
        if !command.fds().is_empty() {
            drop(command.take_fds()); // nobody wants them
        }
        let _closed = match result {
            Ok(Outcome::Reply) => call.reply(out, &[]),
            Ok(Outcome::Later) => Ok(()),
            Ok(Outcome::ReplyWith(fd)) => call.reply(out, &[fd]),
            Ok(Outcome::ReplyWithAll(fds)) => {
                let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
                call.reply(out, &fds)
            }
            Err(errno) => call.refuse(errno),
        };
        command
    }

    /// Whether no command may be executed now: the device comes to rest first, or owes too many
    /// answers.
    #[inline]
    pub(super) fn is_paused(&self, link: &Link) -> bool {
        self.parked.holds_all() || link.is_saturated()
    }

    #[inline(never)]
    fn handle<D: Device + ?Sized>(
        &self,
        device: &mut D,
        call: Call<'_>,
        request: Request<'_>,
        fds: Vec<OwnedFd>,
        out: &mut Vec<u8>,
    ) -> Result<Outcome<'_>, Errno> {
        match request {
            Request::RegionWriteMulti(writes) => {
                if !self.shared.live().is_some_and(|live| live.write_multiple) {
                    return Err(Errno::EINVAL);
                }
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
                Retired::Wholly(mut reply) => reply.emit(out),
                Retired::WhenUnused => return Ok(Outcome::Later),
            },
            Request::DeviceGetInfo(_) => DeviceInfo {
                flags: DeviceFlags::RESET | DeviceFlags::PCI,
                num_regions: self.regions.count(),
                num_irqs: IrqIndex::ALL.len() as u32,
            }
            .emit(out),
            Request::DeviceGetRegionInfo(r) => {
                let (info, fd) = self.regions.info(r.index, self.max_fds())?;
                let whole = info.emit_for(r.argsz, out);
                if let Some(fd) = fd.filter(|_| whole) {
                    return Ok(Outcome::ReplyWith(fd));
                }
            }
            Request::DeviceGetRegionIoFds(r) => {
                let IoFdsAnswer { reply, fds } =
                    self.regions.io_fds(r.index, self.max_fds(), &self.shared.seldom)?;
                if reply.emit_for(r.argsz, out) && !fds.is_empty() {
                    return Ok(Outcome::ReplyWithAll(fds));
                }
            }
            Request::DeviceGetIrqInfo(r) => irq_info(&self.shared.irqs, r.index)?.emit(out),
            Request::DeviceSetIrqs(r) => self.set_irqs(&r, fds)?,
            Request::DeviceReset => self.reset(device, call.link, Reset::Device),
            Request::DeviceFeature(r) if Self::is_logging(r.op.feature()) => {
                self.logging(&r, out)?;
            }
            Request::DeviceFeature(r) => self.feature(device, &r, out)?,
            Request::MigDataRead(r) => self.mig_data_read(device, r, out)?,
            Request::MigDataWrite(r) => self.mig_data_write(device, &r)?,
            Request::Version(_) | Request::DmaRead(_) | Request::DmaWrite(_) => {
                return Err(Errno::EINVAL);
            }
            // They have a way of their own.
            Request::RegionRead(_) | Request::RegionWrite(_) => return Err(Errno::EINVAL),
        }
        Ok(Outcome::Reply)
    }

    /// How many descriptors the client takes with a message.
    fn max_fds(&self) -> usize {
        self.shared.live().map_or(0, |live| live.max_fds)
    }

    fn set_irqs(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        request.check_fds(fds.len())?;
        self.shared.irqs.set(request, fds)
    }

    /// The function goes back to its state at power-on. What the client arranged stays: mappings,
    /// eventfds, capabilities. Nothing waits for the client.
    pub(super) fn reset<D: Device + ?Sized>(&self, device: &mut D, link: &Arc<Link>, kind: Reset) {
        info!(?kind, "reset");
        self.shared.set_gate(Gate::Resetting);
        self.shared.next_epoch();
        self.shared.stop_mastering();
        link.cancel(None);
        if matches!(kind, Reset::FunctionLevel | Reset::D3HotToD0) {
            self.shared.irqs.reset();
            self.shared.config().reset_function();
        } else {
            self.shared.power_on();
        }
        self.shared.follow();
        self.reset_migration();
        context::run(&self.shared, Inside::Callback, || device.reset(kind));
        self.shared.set_gate(Gate::Open);
    }
}

impl Call<'_> {
    /// Sends the reply whose payload is in `out`, behind room for the header; nothing if none is
    /// wanted.
    #[inline]
    pub(super) fn reply(&self, out: &mut Vec<u8>, fds: &[BorrowedFd<'_>]) -> Result<(), Closed> {
        if self.header.wants_no_reply() {
            return Ok(());
        }
        self.header.reply(out.len() - HEADER_SIZE).emit_into(out);
        self.link.send(Channel::Main, out, fds)
    }

    /// As [`reply`](Self::reply), with `data` behind what is in `out`.
    pub(super) fn reply_with_data(&self, out: &mut Vec<u8>, data: &[u8]) -> Result<(), Closed> {
        if self.header.wants_no_reply() {
            return Ok(());
        }
        self.header.reply(out.len() - HEADER_SIZE + data.len()).emit_into(out);
        self.link.send_with_data(Channel::Main, out, data)
    }

    /// Sends an error reply, if any is wanted.
    pub(super) fn refuse(&self, errno: Errno) -> Result<(), Closed> {
        debug!(command = self.header.command, %errno, "command refused");
        if self.header.wants_no_reply() {
            return Ok(());
        }
        self.link.send_header(Channel::Main, &self.header.error_reply(errno))
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
