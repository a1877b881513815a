//! What a server is, before it serves.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use tracing::warn;
use vfu_proto::session::Limits;

use super::executor::Executor;
use super::reentry::Reentry;
use super::regions::{Asked, Region, Regions, ShareError, Shareable};
use super::run::{Server, Source};
use super::stop::ServeError;
use crate::device::Device;
use crate::dma::MemoryPolicy;
use crate::doorbell::{Doorbell, IoEventFd};
use crate::handle::Handle;
use crate::irq::{Coalescing, Irqs};
use crate::link::Spin;
use crate::pci::{ConfigSpace, Pci, PciError};
use crate::reentrant::{Reentrant, SharedDevice};
use crate::shared::Shared;
use crate::transport::{ListenError, Listener, is_listening};

/// Why a server can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration space is not possible.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Memory can't be shared as asked.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The socket can't be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Settings of both ends that VERSION tells the client.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) max_transfer: u64,
    pub(crate) max_dma_maps: u32,
    pub(crate) max_dma_bytes: Option<u64>,
    pub(crate) twin_socket: bool,
    pub(crate) spin: Spin,
    pub(crate) incoming: bool,
    pub(crate) memory: MemoryPolicy,
}

/// Describes a server. See [`Server::builder`].
#[derive(Debug)]
pub struct Builder {
    pci: Pci,
    settings: Settings,
    regions: Asked,
    bus_master_gate: bool,
    coalescing: Option<Coalescing>,
}

impl Builder {
    pub(super) fn new(pci: Pci) -> Self {
        Builder {
            pci,
            settings: Settings {
                limits: Limits::default(),
                max_transfer: 1 << 20,
                max_dma_maps: 65535,
                max_dma_bytes: None,
                twin_socket: true,
                spin: Spin::Off,
                incoming: false,
                memory: MemoryPolicy::default(),
            },
            regions: Asked::default(),
            bus_master_gate: true,
            coalescing: None,
        }
    }

    /// Gives the device an expansion ROM, or another one; see [`Pci::rom`].
    pub fn rom(mut self, image: impl Into<Arc<[u8]>>) -> Self {
        self.pci = self.pci.rom(image);
        self
    }

    /// Limits and timeouts of each session.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// How many DMA mappings a client may have at once. Default: 65535, which is also the most
    /// that QEMU accepts.
    pub fn max_dma_maps(mut self, maps: u32) -> Self {
        self.settings.max_dma_maps = maps;
        self
    }

    /// How many bytes of this process's address space a client's mappings may take. A file of up to 1 TiB is
    /// mapped as a whole, if that fits, and counts once however many pieces of it are mapped. Beyond that
    /// `DMA_MAP` fails with `ENOSPC`. Default: 16 TiB, an eighth of what a process has: less is right for a
    /// process with many devices.
    pub fn max_dma_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_dma_bytes = Some(bytes);
        self
    }

    /// What is done about a client that gives memory by file descriptor and takes its pages away.
    /// Default: [`MemoryPolicy::Guarded`].
    pub fn memory_policy(mut self, policy: MemoryPolicy) -> Self {
        self.settings.memory = policy;
        self
    }

    /// Whether to use a second socket for DMA messages if the client can (specification,
    /// "twin_socket"). Default: yes.
    pub fn twin_socket(mut self, offer: bool) -> Self {
        self.settings.twin_socket = offer;
        self
    }

    /// Whether [`Server::run`], when it waits for the client, looks for its next command for a short
    /// time before it sleeps. So does a device that waits for DMA by message. Default: no.
    pub fn spin(mut self, spin: Spin) -> Self {
        self.settings.spin = spin;
        self
    }

    /// Whether the device waits for the state of another before it runs: it starts in the migration
    /// state RESUMING. Until a client has loaded a state and set it running (or has reset it, which
    /// makes it one like any other), the driver can set configuration space up, but BARs read all
    /// ones and ignore writes. A client that leaves before that leaves it waiting. Default: no.
    ///
    /// [`Bound::serve`] refuses a device that has no
    /// [`migration`](crate::Device::migration).
    pub fn incoming(mut self, wait: bool) -> Self {
        self.settings.incoming = wait;
        self
    }

    /// Whether DMA, MSI and MSI-X wait for the driver to set Bus Master Enable, and for the function to
    /// be in D0, as PCI demands. Default: yes.
    pub fn bus_master_gate(mut self, gate: bool) -> Self {
        self.bus_master_gate = gate;
        self
    }

    /// How often each vector of MSI-X and MSI signals at most. Default: whenever it is raised. A device
    /// may choose otherwise for a vector: [`Vector::coalesce`](crate::Vector::coalesce).
    pub fn coalesce(mut self, rule: Coalescing) -> Self {
        self.coalescing = Some(rule);
        self
    }

    /// Lets the client map a memory BAR, or areas of it. With [`SharedMemory`](crate::SharedMemory),
    /// the device finds it again by [`Handle::memory`].
    ///
    /// QEMU does not post writes to a device that has anything to map: it waits for each.
    pub fn mmap(mut self, bar: usize, memory: impl Into<Shareable>) -> Self {
        self.regions.shared.retain(|(other, _)| *other != bar);
        self.regions.shared.push((bar, memory.into()));
        self
    }

    /// Adds a region of the device's own, beyond those of PCI: the first is number 9, each further
    /// one the next. Reads and writes reach the device with that number.
    pub fn region(mut self, region: Region) -> Self {
        self.regions.own.push(region);
        self
    }

    /// Makes a place in a BAR a doorbell, which a client may ring by an eventfd. The device finds it
    /// by [`Handle::doorbell`]. Of several at one place the first whose width and data fit rings.
    pub fn ioeventfd(mut self, at: IoEventFd) -> Self {
        self.regions.doorbells.push((at, None));
        self
    }

    /// As [`ioeventfd`](Self::ioeventfd), with a doorbell of your own: one that several places ring.
    pub fn ioeventfd_to(mut self, at: IoEventFd, doorbell: &Doorbell) -> Self {
        self.regions.doorbells.push((at, Some(doorbell.clone())));
        self
    }

    /// Listens on a new socket at `path`. A stale socket file is replaced, one in use is not.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn listen(self, path: impl AsRef<Path>) -> Result<Bound, BuildError> {
        let config = self.pci.build()?;
        let source = Source::Listener(Listener::bind(path)?);
        self.bind(config, source)
    }

    /// Takes a UNIX stream socket over: one that listens, or one that is connected to a client.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn fd(self, socket: OwnedFd) -> Result<Bound, BuildError> {
        let config = self.pci.build()?;
        let source = if is_listening(socket.as_fd())? {
            Source::Listener(Listener::from_fd(socket)?)
        } else {
            Source::Connected(Some(socket))
        };
        self.bind(config, source)
    }

    fn bind(self, config: ConfigSpace, source: Source) -> Result<Bound, BuildError> {
        if config.rom().is_some_and(|rom| !rom.has_signature) {
            warn!("the expansion ROM does not begin with 0x55 0xaa; firmware and Linux ignore it");
        }
        let regions = Arc::new(Regions::new(&config, self.regions)?);
        let irqs = Irqs::of(&config);
        irqs.coalesce(None, self.coalescing);
        let shared = Arc::new(Shared::new(
            config,
            irqs,
            self.bus_master_gate,
            self.settings.limits.handler_timeout,
            self.settings.memory,
            regions.clone(),
        ));
        if let Some(bytes) = self.settings.max_dma_bytes {
            shared.table.files.addresses.limit(bytes);
        }
        let executor = Arc::new(Executor::new(shared.clone(), regions, &self.settings));
        executor.hold(self.settings.incoming);
        Ok(Bound { shared, executor, source, settings: self.settings })
    }
}

/// A server that has its socket and waits for its device.
#[derive(Debug)]
pub struct Bound {
    shared: Arc<Shared>,
    executor: Arc<Executor>,
    source: Source,
    settings: Settings,
}

impl Bound {
    /// Adds the device, which gets its [`Handle`].
    ///
    /// # Errors
    /// The system has no descriptor left; or the device can't be moved, and was to wait for a state.
    pub fn serve<D: Device>(
        self,
        device: impl FnOnce(Handle) -> D,
    ) -> Result<Server<D>, ServeError> {
        let mut device = device(Handle::new(self.shared.clone()));
        if self.settings.incoming && device.migration().is_none() {
            return Err(ServeError::NotMovable);
        }
        Server::new(device, self.shared, self.executor, self.source, self.settings)
    }

    /// Adds a device whose handlers may be called while one of them waits for DMA by message.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn serve_shared<D: SharedDevice + 'static>(
        self,
        device: impl FnOnce(Handle) -> D,
    ) -> Result<Server<Reentrant<D>>, ServeError> {
        let (shared, executor) = (self.shared.clone(), self.executor.clone());
        self.serve(|handle| {
            let device = Reentrant::new(device(handle));
            shared.set_reentry(Arc::new(Reentry::new(&executor, &device)));
            device
        })
    }

    /// Adds the device and serves clients, one after the other, until it is stopped.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn run<D: Device>(self, device: impl FnOnce(Handle) -> D) -> Result<(), ServeError> {
        self.serve(device)?.run()
    }
}
