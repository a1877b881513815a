//! DEVICE_FEATURE and the migration stream, as the server serves them (specification,
//! "VFIO_USER_DEVICE_FEATURE", "VFIO_USER_MIG_DATA_READ", "VFIO_USER_MIG_DATA_WRITE").

use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};

use tracing::{debug, warn};
use vfu_proto::wire::{
    DeviceState, Errno, Feature, FeatureOp, FeatureReply, FeatureRequest, FeatureResult,
    MigDataReadReply, MigDataReadRequest, MigDataWriteRequest, MigrationFlags,
};

use super::executor::{Call, Executor};
use crate::context::{self, Inside};
use crate::device::Device;
use crate::link::{Link, Message};
use crate::migration::{
    Hop, Image, Library, LoadError, Machine, Migration, OVERHEAD, RECORD, Writer,
};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

const REFUSED: &str = "a saved state was refused";

/// The migration side of the device that is served.
#[derive(Debug, Default)]
pub(super) struct Moving {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    machine: Machine,
    /// The image that is being saved.
    writer: Option<Writer>,
    /// Bytes of it that the device has given while it runs. More than the limit: it is asked no more.
    early: usize,
}

/// A command that stops the device, and waits for the acknowledgement of what it has written.
#[derive(Debug)]
pub(super) struct Stopping {
    command: Message,
    written: Arc<Written>,
    /// Timeouts of the session before it.
    timeouts: u64,
}

/// Whether the writes have ended.
#[derive(Debug)]
struct Written {
    ended: AtomicBool,
    link: std::sync::Weak<Link>,
}

impl Wake for Written {
    fn wake(self: Arc<Self>) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(link) = self.link.upgrade() {
            link.kick();
        }
    }
}

impl Moving {
    /// A device that waits for the state of another before it runs.
    pub(super) fn incoming() -> Moving {
        let state = State { machine: Machine::incoming(), ..State::default() };
        Moving { state: Mutex::new(state) }
    }

    /// Whether the device answers for its registers neither reads nor writes: its state has been
    /// saved, or it has none.
    pub(super) fn is_frozen(&self) -> bool {
        self.lock().machine.is_frozen()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds what the device has to give while it runs, up to a limit.
    fn save_early(&mut self, device: &mut dyn Migration) {
        let most = device.max_len();
        let Some(writer) = self.writer.as_mut().filter(|_| self.early <= most) else { return };
        let more = device.save_early();
        if more.is_empty() {
            return;
        }
        self.early = self.early.saturating_add(more.len()).saturating_add(RECORD);
        if self.early <= most {
            self.machine.save(&writer.early(device.version(), &more));
        } else {
            // It is not sent, and what the device saves at the end must not rely on it.
            device.begin_saving();
        }
    }
}

impl Executor {
    /// Before a command that stops the device is executed no new DMA starts, and the client has
    /// acknowledged what the device wrote: its memory is whole. `None`: the command waits for that,
    /// as long as the writes may take.
    pub(super) fn writes_first<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        command: Message,
    ) -> Option<Message> {
        if !self.would_stop(device, &command) {
            return Some(command);
        }
        self.hold(true);
        link.cancel_reads();
        let timeouts = link.counters().timeouts;
        let ended = AtomicBool::new(false);
        let written = Arc::new(Written { ended, link: Arc::downgrade(link) });
        let waker = Waker::from(written.clone());
        if !link.wake_after_writes(|| waker) {
            return Some(command);
        }
        link.attended();
        self.parked.hold_for_writes(Stopping { command, written, timeouts });
        None
    }

    /// The device may do nothing on its own, or all again: no DMA, and interrupts wait.
    pub(super) fn hold(&self, stopped: bool) {
        self.shared.set_stopped(stopped);
        self.shared.irqs.set_stopped(stopped);
    }

    fn would_stop<D: Device + ?Sized>(&self, device: &mut D, command: &Message) -> bool {
        match FeatureRequest::parse(command.payload()) {
            Ok(FeatureRequest { op: FeatureOp::SetDeviceState { state, .. }, .. }) => {
                let can_pre_copy = device.migration().map(|migration| migration.can_pre_copy());
                can_pre_copy.is_some_and(|can| self.moving.lock().machine.stops(state, can))
            }
            _ => false,
        }
    }

    /// Executes the command that waited for writes, if they have ended.
    pub(super) fn settle_stopping<D: Device + ?Sized>(&self, device: &mut D, link: &Arc<Link>) {
        let ended = |s: &Stopping| s.written.ended.load(Ordering::SeqCst);
        let Some(stopping) = self.parked.take_stopping(ended) else { return };
        let Stopping { command, timeouts, .. } = stopping;
        let done = if link.counters().timeouts > timeouts {
            self.hold(false);
            // It may have been refused DMA meanwhile.
            context::run(&self.shared, Inside::Callback, || device.resume());
            let _closed = Call { link, header: *command.header() }.refuse(Errno::ETIMEDOUT);
            command
        } else {
            self.execute_now(device, link, command)
        };
        link.recycle(Some(done));
    }

    pub(super) fn feature<D: Device + ?Sized>(
        &self,
        device: &mut D,
        request: &FeatureRequest<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let Some(migration) = device.migration() else { return Err(Errno::EINVAL) };
        let can_pre_copy = migration.can_pre_copy();
        let result = match request.op {
            FeatureOp::Probe { feature, get, set } => match feature {
                Feature::Migration | Feature::DeviceState => {
                    FeatureResult::Probe { feature, get, set }
                }
                _ => return Err(Errno::EINVAL),
            },
            FeatureOp::GetMigration => {
                let pre_copy =
                    if can_pre_copy { MigrationFlags::PRE_COPY } else { MigrationFlags::empty() };
                FeatureResult::GetMigration { flags: MigrationFlags::STOP_COPY | pre_copy }
            }
            FeatureOp::GetDeviceState => FeatureResult::GetDeviceState {
                state: self.moving.lock().machine.state(),
                data_fd: 0,
            },
            FeatureOp::SetDeviceState { state, data_fd } => {
                context::run(&self.shared, Inside::Callback, || self.go(migration, state))?;
                FeatureResult::SetDeviceState { state, data_fd }
            }
            // Served elsewhere, whether the device can be moved or not.
            FeatureOp::SetLoggingStart { .. }
            | FeatureOp::SetLoggingStop
            | FeatureOp::GetLoggingReport { .. } => return Err(Errno::EINVAL),
        };
        match result {
            // A get says how long it is; what is repeated is repeated.
            FeatureResult::GetMigration { .. } | FeatureResult::GetDeviceState { .. } => {
                FeatureReply::new(result).emit(out);
            }
            result => FeatureReply { argsz: request.argsz, result }.emit(out),
        }
        Ok(())
    }

    /// Takes the device to a state, hop by hop. If one fails it stays where it has come to.
    fn go(&self, device: &mut dyn Migration, target: DeviceState) -> Result<(), Errno> {
        let mut moving = self.moving.lock();
        let result = loop {
            match moving.machine.next(target, device.can_pre_copy()) {
                Ok(None) => break Ok(()),
                Ok(Some((hop, to))) => match self.hop(device, &mut moving, hop) {
                    Ok(()) => moving.machine.arrive(to),
                    Err(errno) => break Err(errno),
                },
                Err(errno) => break Err(errno),
            }
        };
        self.hold(moving.machine.is_stopped());
        debug!(?target, state = ?moving.machine.state(), ?result, "migration");
        result
    }

    fn hop(&self, device: &mut dyn Migration, moving: &mut State, hop: Hop) -> Result<(), Errno> {
        match hop {
            Hop::Stop => self.stop(device),
            Hop::Start => self.start(device),
            Hop::BeginEarly => {
                let (writer, header) = self.begin_image();
                moving.machine.save(&header);
                (moving.writer, moving.early) = (Some(writer), 0);
                device.begin_saving();
                moving.save_early(device);
                Ok(())
            }
            Hop::Save { stop_first } => {
                if stop_first {
                    self.stop(device)?;
                }
                let most = device.max_len();
                if moving.writer.is_none() {
                    device.begin_saving();
                }
                // More could not be loaded.
                let saved = match device.save() {
                    Ok(own) if own.len() > most => Err(Errno::ENOSPC),
                    saved => saved,
                };
                let own = match saved {
                    Ok(own) => own,
                    Err(errno) => {
                        if stop_first {
                            self.start(device).inspect_err(|_| moving.machine.fail())?;
                        }
                        return Err(errno);
                    }
                };
                let writer = moving.writer.take().unwrap_or_else(|| {
                    let (writer, header) = self.begin_image();
                    moving.machine.save(&header);
                    writer
                });
                moving.machine.save(&writer.finish(&self.library(), device.version(), &own));
                Ok(())
            }
            Hop::EndSaving => {
                moving.writer = None;
                moving.machine.end_stream();
                Ok(())
            }
            Hop::BeginLoading => {
                moving.machine.begin_loading();
                Ok(())
            }
            Hop::Load => {
                let bytes = moving.machine.take_loaded();
                self.load(device, &bytes).map_err(|e| {
                    if let Some(kept) = self.shared.seldom.ask(REFUSED) {
                        warn!(%e, "{REFUSED}{kept}");
                    }
                    moving.machine.fail();
                    Errno::EINVAL
                })
            }
        }
    }

    fn stop(&self, device: &mut dyn Migration) -> Result<(), Errno> {
        self.hold(true);
        device.stop().inspect_err(|_| self.hold(false))
    }

    /// The device may find DMA possible at once.
    fn start(&self, device: &mut dyn Migration) -> Result<(), Errno> {
        self.hold(false);
        device.start().inspect_err(|_| self.hold(true))
    }

    fn ids(&self) -> (u16, u16) {
        let mut ids = [0; 4];
        self.shared.config().read(0, &mut ids);
        (u16::from_le_bytes([ids[0], ids[1]]), u16::from_le_bytes([ids[2], ids[3]]))
    }

    fn begin_image(&self) -> (Writer, Vec<u8>) {
        let (vendor, device) = self.ids();
        Writer::begin(vendor, device)
    }

    /// What the library owns of the device's state.
    fn library(&self) -> Library {
        // A statement of its own: the lock of configuration space must not be held for what follows.
        let config = self.shared.config_now().to_vec();
        let irqs = &self.shared.irqs;
        Library { config, msix: irqs.save_msix(), irqs: irqs.save() }
    }

    fn load(&self, device: &mut dyn Migration, bytes: &[u8]) -> Result<(), LoadError> {
        let refuse = |e: &dyn std::fmt::Display| LoadError(e.to_string());
        let (vendor, id) = self.ids();
        let image = Image::parse(bytes, vendor, id).map_err(|e| refuse(&e))?;
        image.check_own(device.version(), device.max_len()).map_err(|e| refuse(&e))?;
        self.shared.config().restore(&image.library.config).map_err(|e| refuse(&e))?;
        self.shared.follow();
        let irqs = &self.shared.irqs;
        irqs.load_msix(&image.library.msix).ok_or_else(|| refuse(&"another MSI-X table"))?;
        irqs.load(&image.library.irqs).ok_or_else(|| refuse(&"other interrupts"))?;
        self.shared.follow(); // the pin, whose state is another now
        for (version, early) in &image.early {
            device.load_early(*version, early)?;
        }
        device.load(image.device.0, &image.device.1)
    }

    pub(super) fn mig_data_read<D: Device + ?Sized>(
        &self,
        device: &mut D,
        request: MigDataReadRequest,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        self.check_moving(device, request.size as usize)?;
        let mut moving = self.moving.lock();
        if moving.machine.wants_more() {
            if let Some(migration) = device.migration() {
                context::run(&self.shared, Inside::Callback, || moving.save_early(migration));
            }
        }
        let data = moving.machine.read(request.size as usize)?;
        MigDataReadReply { data }.emit(out);
        Ok(())
    }

    pub(super) fn mig_data_write<D: Device + ?Sized>(
        &self,
        device: &mut D,
        request: &MigDataWriteRequest<'_>,
    ) -> Result<(), Errno> {
        let most = self.check_moving(device, request.data.len())?;
        self.moving.lock().machine.write(request.data, most)
    }

    /// Checks the size of a piece of the stream; gives the most that the whole may have.
    fn check_moving<D: Device + ?Sized>(&self, device: &mut D, len: usize) -> Result<usize, Errno> {
        let migration = device.migration().ok_or(Errno::EINVAL)?;
        let most = self.shared.live().map_or(0, |live| live.max_transfer);
        if len > most {
            return Err(Errno::EINVAL);
        }
        Ok(migration.max_len().saturating_mul(2).saturating_add(OVERHEAD))
    }

    /// A reset leads out of every state.
    pub(super) fn reset_migration(&self) {
        let mut moving = self.moving.lock();
        moving.writer = None;
        moving.machine.reset();
        self.hold(false);
    }

    /// The client has gone, and its session that saved or loaded with it.
    pub(super) fn disconnect_migration(&self) {
        let mut moving = self.moving.lock();
        moving.writer = None;
        moving.machine.disconnect();
        self.hold(moving.machine.is_stopped());
    }
}
