//! A device, and a VMM that drives it, in one process.
#![allow(dead_code)] // each test file uses a part

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use vfu::{Client, Device, Server};
use vfu_devices::{Model, Options};
use vfu_testkit::{DEADLINE, Interrupts, MessageRam, Served, SharedRam, Vmm, serve_in_process};

const COMMAND: usize = 0x04;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const STATUS: usize = 0x06;
const STATUS_INTERRUPT: u16 = 1 << 3;

/// Where the memory is, as the device sees it.
pub(crate) const RAM: u64 = 0x0123_4000;
/// How long it is, in bytes.
pub(crate) const RAM_SIZE: usize = 0x1_0000;

/// A device being driven. The client goes first.
pub(crate) struct Bench {
    pub(crate) vmm: Vmm,
    server: Served<Box<dyn Device + Send>>,
    bar: u32,
}

impl Bench {
    pub(crate) fn new(model: Model, bar: u32) -> Bench {
        Bench::with(model, bar, &Options::default(), true)
    }

    pub(crate) fn with(model: Model, bar: u32, options: &Options, twin: bool) -> Bench {
        let builder = Server::builder(model.pci());
        let server = serve_in_process(builder, |handle| model.device(handle, options)).unwrap();
        let client = Client::builder().twin_socket(twin).connect(server.path()).unwrap();
        Bench { vmm: Vmm::over(client), server, bar }
    }

    /// Another client, once this one has gone.
    pub(crate) fn next_client(self) -> Bench {
        let Bench { vmm, server, bar } = self;
        drop(vmm);
        let vmm = Vmm::connect(server.path()).unwrap();
        Bench { vmm, server, bar }
    }

    pub(crate) fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.vmm.client().region_read(self.bar, offset, &mut data).unwrap();
        data
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        self.vmm.client().region_write(self.bar, offset, data).unwrap();
    }

    pub(crate) fn read32(&self, offset: u64) -> u32 {
        u32::from_le_bytes(self.read(offset))
    }

    pub(crate) fn write32(&self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn write64(&self, offset: u64, value: u64) {
        self.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn enable_bus_master(&self) {
        self.vmm.set_bus_master(true).unwrap();
        assert_ne!(self.vmm.config_read16(COMMAND).unwrap() & COMMAND_BUS_MASTER, 0);
    }

    /// Interrupt Status of configuration space: the level of the pin.
    pub(crate) fn pin(&self) -> bool {
        self.vmm.config_read16(STATUS).unwrap() & STATUS_INTERRUPT != 0
    }

    /// Catches the pin.
    pub(crate) fn intx(&self) -> Irq {
        Irq(self.vmm.enable_intx().unwrap())
    }

    /// Enumerates the device and enables one vector of MSI, as a driver does.
    pub(crate) fn msi(&self) -> Irq {
        let function = self.vmm.enumerate().unwrap();
        Irq(self.vmm.enable_msi(&function, 1).unwrap())
    }

    pub(crate) fn wait_until(&self, what: &str, done: impl Fn(&Bench) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < DEADLINE, "still waiting for {what}");
            thread::yield_now();
        }
    }
}

/// An interrupt as the client hears of it.
pub(crate) struct Irq(Interrupts);

impl Irq {
    /// Waits until it was raised, and gives how often.
    #[track_caller]
    pub(crate) fn wait(&self) -> u64 {
        self.0.wait(0).unwrap()
    }

    /// How often it was raised since the last look.
    pub(crate) fn count(&self) -> u64 {
        self.0.count_now(0).unwrap()
    }
}

/// The client's memory, mapped at [`RAM`].
pub(crate) enum Ram {
    Shared(SharedRam),
    Messages(Arc<MessageRam>),
}

impl Ram {
    /// Memory that the device maps.
    pub(crate) fn shared(bench: &Bench) -> Ram {
        Ram::Shared(bench.vmm.share_ram(RAM, RAM_SIZE as u64).unwrap())
    }

    /// Memory that the device asks the client for.
    pub(crate) fn messages(bench: &Bench) -> Ram {
        Ram::Messages(bench.vmm.message_ram(RAM, RAM_SIZE).unwrap())
    }

    pub(crate) fn put(&self, offset: usize, data: &[u8]) {
        let address = RAM + offset as u64;
        match self {
            Ram::Shared(ram) => ram.write(address, data).unwrap(),
            Ram::Messages(ram) => ram.store(address, data).unwrap(),
        }
    }

    /// All of it.
    pub(crate) fn all(&self) -> Vec<u8> {
        match self {
            Ram::Shared(ram) => ram.bytes(RAM, RAM_SIZE).unwrap(),
            Ram::Messages(ram) => ram.bytes(RAM, RAM_SIZE).unwrap(),
        }
    }
}
