//! Accesses to regions: configuration space, ROM and MSI-X are the library's, the rest the device's.

use std::sync::Arc;

use tracing::{debug, info, trace};
use vfu_proto::wire::{Errno, RegionReadReply, RegionReadRequest, RegionWriteRequest};

use super::executor::{Call, Executor, Outcome};
use super::held::Held;
use super::regions::{CONFIG_REGION, ROM_REGION};
use crate::answer::Defer;
use crate::context::{self, Inside};
use crate::device::{Access, Device, Reset};
use crate::link::{FROM_PLACE, Link};
use crate::memory::SharedMemory;

/// Reads of at least so many bytes may be [lent](Device::region_bytes).
const LENT: usize = 4096;

/// Most accesses are of so many bytes at most: they are filled with a single store.
const REGISTER: usize = 8;

/// Who answers a read.
enum Answers<'a> {
    Config,
    Rom,
    Msix,
    Memory(&'a SharedMemory),
    Device,
    /// It reads ones; says why.
    Nobody(&'static str),
}

impl Executor {
    /// Whether reads do not reach the device; writes do not reach any device that is stopped.
    #[inline]
    fn is_frozen(&self) -> bool {
        self.shared.is_stopped() && self.moving.is_frozen()
    }

    /// Checks that an access lies in its region and is not too large.
    #[inline]
    fn check_access(&self, region: u32, offset: u64, count: u64) -> Result<(), Errno> {
        let size = self.regions.size(region)?;
        let end = offset.checked_add(count).ok_or(Errno::EINVAL)?;
        if end > size || size == 0 || count > u64::from(self.max_transfer) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    pub(super) fn region_read<D: Device + ?Sized>(
        &self,
        device: &mut D,
        call: Call<'_>,
        request: &RegionReadRequest,
        out: &mut Vec<u8>,
    ) -> Result<Outcome<'_>, Errno> {
        let (region, offset) = (request.region, request.offset);
        self.check_access(region, offset, u64::from(request.count))?;
        let (len, at) = (request.count as usize, Access { region, offset });
        let answers = self.who_answers(region, offset, len);
        out.try_reserve(RegionReadReply::HEAD + len.max(REGISTER)).map_err(|_| Errno::ENOMEM)?;
        RegionReadReply::emit_head(request, out);
        let start = out.len();
        if let Some(lent) = self.lent(device, &answers, at, len) {
            if len >= FROM_PLACE && self.shared.has_written() != Some(true) {
                trace!(region, offset, data = ?lent, "read");
                let _closed = call.reply_with_data(out, lent);
                return Ok(Outcome::Later);
            }
            out.extend_from_slice(lent);
        } else {
            if len <= REGISTER {
                out.extend_from_slice(&[0xff; REGISTER]);
                out.truncate(start + len);
            } else {
                out.resize(start + len, 0xff);
            }
            let data = &mut out[start..];
            if let Answers::Device = answers {
                let mut defer = Defer::read(call.link, call.header, *request);
                let result = context::run(&self.shared, Inside::Handler, || {
                    device.region_read_or_defer(at, data, &mut defer)
                });
                if defer.is_taken() {
                    return Ok(Outcome::Later);
                }
                if let Err(fault) = result {
                    debug!(region, offset, len, %fault, "read");
                    data.fill(0xff);
                }
            } else {
                self.library_read(&answers, at, data);
            }
        }
        trace!(region, offset, data = ?&out[start..], "read");
        // The driver must not see the register before the memory that was written ahead of it.
        let waits = self.shared.has_written() == Some(true) && Held::behind_writes(call, out);
        Ok(if waits { Outcome::Later } else { Outcome::Reply })
    }

    /// Reads what is not the device's into `data`, which is filled with ones.
    #[inline(never)]
    fn library_read(&self, answers: &Answers<'_>, at: Access, data: &mut [u8]) {
        let Access { region, offset } = at;
        match answers {
            Answers::Config => self.shared.config_now().read(offset as usize, data),
            Answers::Rom => self.shared.config().read_rom(offset, data),
            Answers::Msix => {
                let _it_is = self.shared.irqs.msix_read(region, offset, data);
            }
            Answers::Memory(memory) => {
                if let Err(e) = memory.read(offset, data) {
                    debug!(region, error = %e, "read of shared memory");
                }
            }
            Answers::Nobody(why) => debug!(region, offset, why, "read of nothing"),
            Answers::Device => {}
        }
    }

    /// Who answers a read. The access lies in its region.
    #[inline]
    fn who_answers(&self, region: u32, offset: u64, len: usize) -> Answers<'_> {
        if len == 0 {
            Answers::Nobody("it is empty")
        } else if region == CONFIG_REGION {
            Answers::Config
        } else if self.shared.is_asleep() {
            Answers::Nobody("the device is not in D0")
        } else if let Some(library) = self.library_answers(region, offset, len) {
            library
        } else if self.is_frozen() {
            Answers::Nobody("the device is being moved")
        } else {
            Answers::Device
        }
    }

    /// Who answers a read of what is the library's.
    #[inline]
    fn library_answers(&self, region: u32, offset: u64, len: usize) -> Option<Answers<'_>> {
        if self.regions.is_plain(region) { None } else { self.answers_in(region, offset, len) }
    }

    /// As [`library_answers`](Self::library_answers), for a region of which some is the library's.
    #[inline(never)]
    fn answers_in(&self, region: u32, offset: u64, len: usize) -> Option<Answers<'_>> {
        if region == ROM_REGION {
            Some(Answers::Rom)
        } else if self.shared.irqs.is_msix(region, offset, len) {
            Some(Answers::Msix)
        } else if let Some(memory) = self.regions.memory_at(region, offset, len) {
            Some(Answers::Memory(memory))
        } else if self.regions.is_of_msix(region) {
            Some(Answers::Nobody("it is beside the MSI-X table and PBA"))
        } else {
            None
        }
    }

    /// What the device lends for a long read, if it lends anything.
    #[inline]
    fn lent<'d, D: Device + ?Sized>(
        &self,
        device: &'d mut D,
        answers: &Answers<'_>,
        at: Access,
        len: usize,
    ) -> Option<&'d [u8]> {
        if len < LENT || !matches!(answers, Answers::Device) {
            return None;
        }
        let lent = context::run(&self.shared, Inside::Handler, || device.region_bytes(at, len));
        lent.filter(|lent| lent.len() == len)
    }

    #[inline(never)]
    pub(super) fn region_write<D: Device + ?Sized>(
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

    pub(super) fn write<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        request: &RegionWriteRequest<'_>,
        defer: Option<&mut Defer<'_>>,
    ) -> Result<(), Errno> {
        let RegionWriteRequest { region, offset, data } = *request;
        self.check_access(region, offset, data.len() as u64)?;
        trace!(region, offset, ?data, "write");
        let is_plain = self.regions.is_plain(region);
        if data.is_empty() {
        } else if region == CONFIG_REGION {
            self.config_write(device, link, offset as usize, data);
        } else if self.shared.is_asleep() {
            debug!(region, offset, "write to a device that is not in D0");
        } else if !is_plain && self.regions.is_read_only(region) {
            debug!(region, offset, len = data.len(), "write to what is read-only dropped");
        } else if !is_plain && self.shared.irqs.msix_write(region, offset, data) {
        } else if self.shared.is_stopped() {
            debug!(region, offset, "write to a device that is stopped");
        } else if let Some(memory) = self.regions.memory_at(region, offset, data.len()) {
            if let Err(e) = memory.write_by_message(offset, data) {
                debug!(region, error = %e, "write to shared memory");
            }
        } else if let Some(doorbell) = self.regions.rung(region, offset, data) {
            doorbell.ring();
        } else if self.regions.is_of_msix(region) {
            debug!(region, offset, "write beside the MSI-X table and PBA");
        } else {
            let at = Access { region, offset };
            let result = context::run(&self.shared, Inside::Handler, || match defer {
                Some(defer) => device.region_write_or_defer(at, data, defer),
                None => device.region_write(at, data),
            });
            if let Err(fault) = result {
                debug!(region, offset, len = data.len(), %fault, "write");
            }
        }
        Ok(())
    }

    fn config_write<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        offset: usize,
        data: &[u8],
    ) {
        let effects = self.shared.config().write(offset, data);
        if effects.is_empty() {
            return;
        }
        // A reset ends what waits to get out; after it configuration space is followed, too.
        if !effects.flr && !effects.soft_reset {
            self.shared.follow();
        }
        if let Some((from, to)) = effects.power_state {
            info!(?from, ?to, "power state");
            context::run(&self.shared, Inside::Callback, || device.power_changed(from, to));
        }
        if effects.flr {
            self.reset(device, link, Reset::FunctionLevel);
        } else if effects.soft_reset {
            self.reset(device, link, Reset::D3HotToD0);
        }
    }
}
