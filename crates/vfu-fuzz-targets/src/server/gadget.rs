//! A device that does everything a device can do, on one thread, as its driver says.

use vfu::dma::{Direction, Lease};
use vfu::migration::{LoadError, Migration};
use vfu::pci::PowerState;
use vfu::server::{Builder, Region};
use vfu::wire::Errno;
use vfu::{
    Access, Bar, Defer, Device, DmaRange, Fault, Handle, IoEventFd, Later, Pci, Pin, Quiesce,
    Quiescing, Reset, Server, SharedMemory,
};

/// The most of anything that it keeps.
const KEPT: usize = 8;

/// What it does at its next quiesce.
#[derive(Clone, Copy)]
enum Rest {
    Nothing,
    Now,
    Later,
    Never,
}

pub(crate) struct Gadget {
    handle: Handle,
    scratch: [u8; 0x100],
    rest: Rest,
    mapped: Vec<DmaRange>,
    pub(crate) later: Vec<Later>,
    pub(crate) quiescing: Vec<Quiescing>,
    pub(crate) leases: Vec<Lease>,
}

/// Its server: every kind of region, interrupt and capability.
pub(crate) fn builder(memory: &SharedMemory) -> Builder {
    let pci = Pci::endpoint(0x1234, 0x0003)
        .bar(0, Bar::mem32(4096))
        .bar(2, Bar::mem64(64 << 10).prefetchable())
        .bar(4, Bar::io(32))
        .rom([&[0x55, 0xaa, 1][..], &[0; 509]].concat())
        .intx(Pin::A)
        .pm()
        .msi(4)
        .msix(4)
        .pcie_endpoint();
    Server::builder(pci)
        .mmap(2, memory.clone())
        .region(Region::new(100).type_(1, 2))
        .ioeventfd(IoEventFd::at(0, 0x200).width(4))
}

impl Gadget {
    pub(crate) fn new(handle: Handle) -> Gadget {
        Gadget {
            handle,
            scratch: [0; 0x100],
            rest: Rest::Nothing,
            mapped: Vec::new(),
            later: Vec::new(),
            quiescing: Vec::new(),
            leases: Vec::new(),
        }
    }

    /// Lets go of everything that somebody may wait for. Says whether there was anything.
    pub(crate) fn let_go(&mut self) -> bool {
        let any = !(self.later.is_empty() && self.quiescing.is_empty() && self.leases.is_empty());
        self.later.clear();
        self.quiescing.clear();
        self.leases.clear();
        any
    }

    fn command(&mut self, register: u64, value: u32) -> Result<(), Fault> {
        let address = u64::from(value) << 12;
        match register {
            0x100 => drop(self.handle.vector(value).trigger()),
            0x104 => self.handle.intx().set(value & 1 != 0),
            0x108 if self.leases.len() < KEPT => {
                let way = if value & 1 == 0 { Direction::Read } else { Direction::Write };
                self.leases.extend(self.handle.dma().lease(address, 16, way));
            }
            0x10c => drop(self.leases.pop()),
            0x114 => drop(self.later.pop()),
            0x118 => drop(self.handle.dma().read(address, &mut self.scratch[..16])),
            0x11c => drop(self.handle.dma().write(address, &self.scratch[..16])),
            0x120 => {
                self.rest =
                    [Rest::Nothing, Rest::Now, Rest::Later, Rest::Never][value as usize % 4];
            }
            0x124 => drop(self.handle.err().trigger()),
            0x128 => drop(self.handle.req().trigger()),
            0x12c => self.leases.iter().for_each(|lease| {
                let _may_not = lease.write(u64::from(value % 16), &[1; 4]);
                let _may_not = lease.read(u64::from(value % 16), &mut [0; 4]);
            }),
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }
}

impl Device for Gadget {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        let start = usize::try_from(at.offset).map_err(|_| Fault::Unmodelled)?;
        let end = start.checked_add(data.len()).ok_or(Fault::Unmodelled)?;
        data.copy_from_slice(self.scratch.get(start..end).ok_or(Fault::Unmodelled)?);
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        if at.region == 0 && at.offset >= 0x100 {
            return self.command(at.offset, at.u32(data)?);
        }
        let start = usize::try_from(at.offset).map_err(|_| Fault::Unmodelled)?;
        let end = start.checked_add(data.len()).ok_or(Fault::Unmodelled)?;
        self.scratch.get_mut(start..end).ok_or(Fault::Unmodelled)?.copy_from_slice(data);
        Ok(())
    }

    fn region_read_or_defer(
        &mut self,
        at: Access,
        data: &mut [u8],
        defer: &mut Defer<'_>,
    ) -> Result<(), Fault> {
        if (at.region, at.offset) == (0, 0x110) && self.later.len() < KEPT {
            self.later.extend(defer.later());
            return Ok(());
        }
        self.region_read(at, data)
    }

    fn region_write_or_defer(
        &mut self,
        at: Access,
        data: &[u8],
        defer: &mut Defer<'_>,
    ) -> Result<(), Fault> {
        if (at.region, at.offset) == (0, 0x110) && self.later.len() < KEPT {
            self.later.extend(defer.later());
            return Ok(());
        }
        self.region_write(at, data)
    }

    fn quiesce(&mut self, quiesce: &mut Quiesce<'_>) -> Result<(), Errno> {
        match self.rest {
            Rest::Nothing => {}
            Rest::Now => quiesce.now(),
            Rest::Later if self.quiescing.len() < KEPT => self.quiescing.push(quiesce.later()),
            Rest::Later => {}
            Rest::Never => return Err(Errno::EBUSY),
        }
        Ok(())
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }

    fn reset(&mut self, kind: Reset) {
        if kind == Reset::ConnectionLost {
            assert!(self.mapped.is_empty(), "a mapping outlives its client: {:?}", self.mapped);
            assert!(!self.handle.is_connected());
        }
    }

    fn power_changed(&mut self, from: PowerState, to: PowerState) {
        assert_ne!(from, to);
    }

    fn dma_mapped(&mut self, range: DmaRange) {
        let last = range.address.checked_add(range.size - 1).expect("no mapping wraps");
        for other in &self.mapped {
            let apart = last < other.address || range.address > other.address + (other.size - 1);
            assert!(apart, "{range:?} overlaps {other:?}");
        }
        self.mapped.push(range);
    }

    fn dma_unmapped(&mut self, range: DmaRange) {
        let at = self.mapped.iter().position(|mapped| *mapped == range);
        self.mapped.swap_remove(at.expect("what is unmapped was mapped"));
    }
}

impl Migration for Gadget {
    fn max_len(&self) -> usize {
        0x100
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(self.scratch.to_vec())
    }

    fn load(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError> {
        assert!(version <= 1 && state.len() <= 0x100, "the library bounds it");
        self.scratch = state.try_into().map_err(|_| LoadError("of another length".into()))?;
        Ok(())
    }

    fn can_pre_copy(&self) -> bool {
        true
    }
}
