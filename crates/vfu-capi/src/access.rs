//! Accesses to regions, and to configuration space in particular.

use std::ffi::c_int;

use crate::caps::{Capability, Effect};
use crate::config::{HEADER, write_header};
use crate::ctx::{Context, MAX_TRANSFER};
use crate::errno::{EINVAL, checked};
use crate::setup::{CONFIG, FLAG_ALWAYS_CB, REGIONS};
use crate::types::AccessFn;
use vfu::wire::DeviceState;

/// A piece of an access to configuration space, all of one kind.
#[derive(Clone, Copy)]
enum Segment {
    Header,
    Capability(Capability),
    /// What the library knows nothing of.
    Rest,
}

impl Context {
    /// Checks an access; gives the region.
    pub(crate) fn check_access(
        &self,
        region: u32,
        offset: u64,
        count: u64,
    ) -> Result<usize, c_int> {
        let index = usize::try_from(region).ok().filter(|i| *i < REGIONS).ok_or(EINVAL)?;
        let setup = self.setup();
        let end = offset.checked_add(count).ok_or(EINVAL)?;
        if count > u64::from(MAX_TRANSFER) || end > setup.regions[index].size {
            return Err(EINVAL);
        }
        // Everything but configuration space is at rest while the device's state is being read.
        let copied = setup.migration.is_some_and(|m| m.state == DeviceState::StopCopy);
        if copied && index != CONFIG { Err(EINVAL) } else { Ok(index) }
    }

    /// An access of at least a byte, which was checked. `data` is what is written, or filled.
    pub(crate) fn access(
        &self,
        region: usize,
        offset: u64,
        data: &mut [u8],
        is_write: bool,
    ) -> Result<(), c_int> {
        let (access, flags) = {
            let setup = self.setup();
            (setup.regions[region].access, setup.regions[region].flags)
        };
        if let Some(result) = self.access_msix(region, offset, data, is_write) {
            return result;
        }
        if region != CONFIG || flags & FLAG_ALWAYS_CB != 0 {
            return self.call(access.ok_or(EINVAL)?, offset, data, is_write);
        }
        if is_write {
            self.write_config(offset as usize, data)
        } else {
            self.read_config(offset as usize, data)
        }
    }

    /// Has the program make an access.
    fn call(
        &self,
        access: AccessFn,
        offset: u64,
        data: &mut [u8],
        is_write: bool,
    ) -> Result<(), c_int> {
        let (len, offset) = (data.len(), offset as i64);
        let moved = self.station().handle(|| {
            checked(|| {
                // SAFETY: the program's callback, with `len` bytes that it may read and write.
                let n = unsafe {
                    access(self.as_ptr(), data.as_mut_ptr().cast(), len, offset, is_write)
                };
                n as i64
            })
        })?;
        if moved == len as i64 { Ok(()) } else { Err(EINVAL) }
    }

    fn segment(&self, offset: usize, end: usize) -> (Segment, usize) {
        if offset < HEADER {
            return (Segment::Header, end.min(HEADER));
        }
        match self.setup().capability_in(offset, end) {
            Some(cap) if cap.start <= offset => (Segment::Capability(cap), end.min(cap.end())),
            Some(cap) => (Segment::Rest, cap.start),
            None => (Segment::Rest, end),
        }
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) -> Result<(), c_int> {
        let (mut at, end) = (offset, offset + data.len());
        let access = self.setup().regions[CONFIG].access;
        while at < end {
            let (segment, until) = self.segment(at, end);
            let piece = &mut data[at - offset..until - offset];
            let asks = match segment {
                Segment::Header => false,
                Segment::Capability(cap) => cap.has_callback(),
                Segment::Rest => true,
            };
            match access.filter(|_| asks) {
                Some(access) => self.call(access, at as u64, piece, false)?,
                None => self.config.read(at, piece),
            }
            at = until;
        }
        Ok(())
    }

    /// A write takes effect as a whole or not at all, as far as it is the library's to decide.
    fn write_config(&self, offset: usize, data: &mut [u8]) -> Result<(), c_int> {
        let end = offset + data.len();
        let access = self.setup().regions[CONFIG].access;
        let pieces = || {
            let mut at = offset;
            std::iter::from_fn(move || {
                (at < end).then(|| {
                    let (segment, until) = self.segment(at, end);
                    (segment, std::mem::replace(&mut at, until), until)
                })
            })
        };
        for (segment, at, until) in pieces() {
            match segment {
                Segment::Header => {}
                Segment::Capability(cap) => {
                    let effect = cap.judge(&self.config, at, &data[at - offset..until - offset])?;
                    if effect == Effect::Callback && access.is_none() {
                        return Err(EINVAL);
                    }
                }
                Segment::Rest if access.is_none() => return Err(EINVAL),
                Segment::Rest => {}
            }
        }
        for (segment, at, until) in pieces() {
            let piece = &mut data[at - offset..until - offset];
            match segment {
                Segment::Header => write_header(&self.config, &self.setup(), at, piece),
                Segment::Capability(cap) => match cap.judge(&self.config, at, piece)? {
                    Effect::Callback => self.call(access.ok_or(EINVAL)?, at as u64, piece, true)?,
                    effect => {
                        cap.apply(&self.config, at, piece);
                        self.follow_config(&cap);
                        if effect == Effect::Reset {
                            self.function_reset()?;
                        }
                    }
                },
                Segment::Rest => self.call(access.ok_or(EINVAL)?, at as u64, piece, true)?,
            }
        }
        Ok(())
    }
}
