//! A device and a client in one process: registers, DMA of every kind, interrupts.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfu::client::{Client, DmaMemory, Memory, READ_WRITE};
use vfu::server::Running;
use vfu::wire::Errno;
use vfu::{Access, Bar, Device, DmaError, Fault, Handle, IrqIndex, Pci, Server, Spin};

/// Copies 4 KiB from one address to another, on a worker thread, and interrupts.
struct Copier {
    handle: Handle,
    src: u64,
    dst: u64,
    result: Arc<Mutex<Option<DmaError>>>,
}

impl Device for Copier {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        match at.offset {
            0x00 => at.give(data, &self.src.to_le_bytes()),
            0x08 => at.give(data, &self.dst.to_le_bytes()),
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        match at.offset {
            0x00 => self.src = at.u64(data)?,
            0x08 => self.dst = at.u64(data)?,
            0x10 => {
                let (dma, irq) = (self.handle.dma(), self.handle.vector(0));
                let (src, dst, result) = (self.src, self.dst, self.result.clone());
                std::thread::spawn(move || {
                    let mut page = [0u8; 4096];
                    let copied = dma.read(src, &mut page).and_then(|()| dma.write(dst, &page));
                    *result.lock().unwrap() = copied.err();
                    irq.trigger().unwrap();
                });
            }
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }
}

struct Fixture {
    client: Client,
    server: Running<Copier>,
    result: Arc<Mutex<Option<DmaError>>>,
    interrupt: OwnedFd,
    _folder: tempfile::TempDir,
}

fn pci() -> Pci {
    Pci::endpoint(0x1234, 0x0001).bar(0, Bar::mem32(4096)).msix(1)
}

fn fixture(twin: bool) -> Fixture {
    spinning(twin, Spin::Off)
}

fn spinning(twin: bool, spin: Spin) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copier.sock");
    let result = Arc::new(Mutex::new(None));
    let server = Server::builder(pci())
        .spin(spin)
        .listen(&path)
        .unwrap()
        .serve(|handle| Copier { handle, src: 0, dst: 0, result: result.clone() })
        .unwrap()
        .spawn();
    let client = Client::builder().spin(spin).twin_socket(twin).connect(&path).unwrap();
    assert_eq!(client.has_twin_socket(), twin);
    client.region_write(7, 4, &[0x06, 0]).unwrap(); // Command: memory space, bus master
    let interrupt = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    client.assign_irqs(IrqIndex::Msix, 0, &[interrupt.as_fd()]).unwrap();
    Fixture { client, server, result, interrupt, _folder: folder }
}

impl Fixture {
    fn copy(&self, src: u64, dst: u64) -> Option<DmaError> {
        self.client.region_write(0, 0x00, &src.to_le_bytes()).unwrap();
        self.client.region_write(0, 0x08, &dst.to_le_bytes()).unwrap();
        self.client.region_write_posted(0, 0x10, &[1, 0, 0, 0]).unwrap();
        let mut set = [PollFd::from_borrowed_fd(self.interrupt.as_fd(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(poll(&mut set, Some(&timeout)).unwrap(), 1, "no interrupt");
        rustix::io::read(&self.interrupt, &mut [0u8; 8]).unwrap();
        self.result.lock().unwrap().take()
    }
}

/// Whether threads that wait look for a while before they sleep.
const SPINS: [Spin; 3] = [Spin::Off, Spin::Auto, Spin::AtMost(Spin::MOST)];

fn pattern(seed: u8) -> Vec<u8> {
    (0..4096u32).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[derive(Default)]
struct Ram(Mutex<Vec<u8>>);

impl DmaMemory for Ram {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        let at = (address - 0x10_0000) as usize;
        to.copy_from_slice(&self.0.lock().unwrap()[at..at + to.len()]);
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let at = (address - 0x10_0000) as usize;
        self.0.lock().unwrap()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }
}

#[test]
fn registers_read_back() {
    let f = fixture(true);
    f.client.region_write(0, 0, &0x1122_3344_5566_7788u64.to_le_bytes()).unwrap();
    let mut value = [0; 8];
    f.client.region_read(0, 0, &mut value).unwrap();
    assert_eq!(u64::from_le_bytes(value), 0x1122_3344_5566_7788);
    f.client.region_read(0, 0x40, &mut value).unwrap();
    assert_eq!(value, [0xff; 8], "what is not modelled reads as all ones");
    f.server.stop().unwrap();
}

#[test]
fn direct_dma_copies() {
    for twin in [false, true] {
        let f = fixture(twin);
        let memory = memfd_create("ram", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, 1 << 20).unwrap();
        rustix::io::pwrite(&memory, &pattern(7), 0x3000).unwrap();
        f.client
            .dma_map(0x8000_0000, 1 << 20, READ_WRITE, Memory::File(memory.as_fd(), 0))
            .unwrap();
        assert_eq!(f.copy(0x8000_3000, 0x8000_9000), None);
        let mut got = vec![0; 4096];
        rustix::io::pread(&memory, &mut got[..], 0x9000).unwrap();
        assert_eq!(got, pattern(7));
        f.client.dma_unmap(0x8000_0000, 1 << 20).unwrap();
        assert_eq!(
            f.copy(0x8000_3000, 0x8000_9000),
            Some(DmaError::NotMapped { address: 0x8000_3000 })
        );
    }
}

#[test]
fn message_dma_copies() {
    for (twin, spin) in [false, true].into_iter().flat_map(|twin| SPINS.map(|spin| (twin, spin))) {
        let f = spinning(twin, spin);
        let ram = Arc::new(Ram(Mutex::new(vec![0; 1 << 20])));
        ram.0.lock().unwrap()[0x3000..0x4000].copy_from_slice(&pattern(9));
        f.client.dma_map(0x10_0000, 1 << 20, READ_WRITE, Memory::Messages(ram.clone())).unwrap();
        for _ in 0..100 {
            assert_eq!(f.copy(0x10_3000, 0x10_9000), None);
            assert_eq!(ram.0.lock().unwrap()[0x9000..0xa000], pattern(9));
            ram.0.lock().unwrap()[0x9000..0xa000].fill(0);
        }
        // Nobody is kept from ending by who looks, or has looked.
        f.server.stop().unwrap();
        assert!(f.client.region_read(0, 0, &mut [0; 8]).is_err());
    }
}
