//! A device through the guest's own VFIO: memory by IOVA, MSI by eventfd. Needs an IOMMU.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::Result;
use crate::edu::DEADLINE;
use crate::sys::{self, Mmio, PAGE, Page};

const TYPE1: usize = 1;
const SET_IOMMU: u32 = 2;
const GROUP_SET_CONTAINER: u32 = 4;
const GET_REGION_INFO: u32 = 8;
const SET_IRQS: u32 = 10;
const MAP_DMA: u32 = 13;
const UNMAP_DMA: u32 = 14;

const REGION_CONFIG: u32 = 7;
const IRQ_MSI: u32 = 1;
const IRQ_MSIX: u32 = 2;
/// The most vectors of MSI-X that are arranged at once.
const MOST: usize = 20;

/// A device bound to `vfio-pci`, and its container.
pub(crate) struct Device {
    device: File,
    container: File,
    _group: File,
}

impl Device {
    /// Opens the PCI device in the sysfs folder `dir`, and lets it master the bus.
    pub(crate) fn open(dir: &Path) -> Result<Device> {
        use std::os::fd::AsRawFd;

        let group = fs::canonicalize(dir.join("iommu_group"))?;
        let group = Path::new("/dev/vfio").join(group.file_name().ok_or("no group")?);
        let address = fs::canonicalize(dir)?;
        let address = CString::new(address.file_name().ok_or("no address")?.as_bytes())?;

        let open = |path: &Path| File::options().read(true).write(true).open(path);
        let container = open(Path::new("/dev/vfio/vfio"))?;
        let group = open(&group)?;
        sys::vfio_words(&group, GROUP_SET_CONTAINER, &mut [container.as_raw_fd() as u32])?;
        sys::vfio_number(&container, SET_IOMMU, TYPE1)?;
        let device = File::from(sys::vfio_device(&group, &address)?);
        let device = Device { device, container, _group: group };
        device.enable()?;
        Ok(device)
    }

    /// Memory and bus mastering on, in the command register.
    fn enable(&self) -> Result<()> {
        let (config, _) = self.region(REGION_CONFIG)?;
        Ok(self.device.write_all_at(&[6, 0], config + 4)?)
    }

    /// The registers of BAR 0.
    pub(crate) fn registers(&self) -> Result<Mmio> {
        let (offset, size) = self.region(0)?;
        Ok(Mmio::map(&self.device, offset, size as usize)?)
    }

    /// Offset and size, in bytes, of a region in the file of the device.
    fn region(&self, index: u32) -> Result<(u64, u64)> {
        let mut words = [32, 0, index, 0, 0, 0, 0, 0];
        sys::vfio_words(&self.device, GET_REGION_INFO, &mut words)?;
        let word64 = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        Ok((word64(6), word64(4)))
    }

    /// Lets the device reach `page` at `iova`.
    pub(crate) fn map(&self, page: &Page, iova: u64) -> Result<()> {
        const READ_AND_WRITE: u32 = 3;
        let address = page.address() as u64;
        let [a, b] = halves(address);
        let [c, d] = halves(iova);
        let mut words = [32, READ_AND_WRITE, a, b, c, d, PAGE as u32, 0];
        sys::vfio_words(&self.container, MAP_DMA, &mut words)?;
        Ok(())
    }

    /// Takes the page at `iova` away from the device.
    pub(crate) fn unmap(&self, iova: u64) -> Result<()> {
        let [c, d] = halves(iova);
        let mut words = [24, 0, c, d, PAGE as u32, 0];
        sys::vfio_words(&self.container, UNMAP_DMA, &mut words)?;
        Ok(())
    }

    /// Gives vectors of MSI-X their eventfds, or takes them away; the first time it enables MSI-X.
    pub(crate) fn msix(&self, start: u32, events: &[Option<&OwnedFd>]) -> Result<()> {
        use std::os::fd::AsRawFd;

        const DATA_EVENTFD_ACTION_TRIGGER: u32 = 1 << 2 | 1 << 5;
        let mut words = [0; 5 + MOST];
        let count = events.len();
        let size = 4 * (5 + count) as u32;
        let head = [size, DATA_EVENTFD_ACTION_TRIGGER, IRQ_MSIX, start, count as u32];
        words[..5].copy_from_slice(&head);
        for (word, event) in words[5..].iter_mut().zip(events) {
            *word = event.map_or(u32::MAX, |event| event.as_raw_fd() as u32);
        }
        sys::vfio_words(&self.device, SET_IRQS, &mut words)?;
        Ok(())
    }

    /// Reads from a region.
    pub(crate) fn read(&self, region: u32, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let (start, _) = self.region(region)?;
        Ok(self.device.read_exact_at(bytes, start + offset)?)
    }

    /// Enables MSI with one vector.
    pub(crate) fn msi(&self) -> Result<Msi> {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        let device = self.device.try_clone()?.into();
        sys::vfio_eventfd(&device, IRQ_MSI, &event)?;
        Ok(Msi { event })
    }
}

fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// The first MSI vector of a device.
pub(crate) struct Msi {
    event: OwnedFd,
}

impl Msi {
    /// Waits for one interrupt, and checks that it was one.
    pub(crate) fn wait(&self) -> Result<()> {
        let timeout = Timespec::try_from(DEADLINE)?;
        let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout))? == 0 {
            return Err(format!("no MSI within {DEADLINE:?}").into());
        }
        let mut count = [0; 8];
        rustix::io::read(&self.event, &mut count)?;
        match u64::from_le_bytes(count) {
            1 => Ok(()),
            n => Err(format!("{n} interrupts instead of one").into()),
        }
    }
}
