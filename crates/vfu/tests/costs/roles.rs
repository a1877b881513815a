//! The two ends: each can be the child that is traced, or a thread of this process.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vfu::client::{Client, DmaMemory, Memory, READ_WRITE};
use vfu::wire::Errno;
use vfu::{Access, Bar, Device, Fault, Handle, IrqIndex, Pci, Server};

/// The environment variable that makes this program a child, and says which.
pub(crate) const VARIABLE: &str = "VFU_COSTS_ROLE";

/// Where the client's memory lies, as the device sees it.
pub(crate) const RAM: u64 = 0x8000_0000;
/// Its size in bytes.
pub(crate) const RAM_SIZE: u64 = 1 << 20;

/// Where memory lies that only messages reach.
pub(crate) const MESSAGES: u64 = 0x9000_0000;
/// Its size in bytes.
pub(crate) const MESSAGES_SIZE: u64 = 1 << 20;

/// Registers of the device: plain memory, and two that make it work inside the handler.
pub(crate) const PLAIN: u64 = 0x00;
/// Written: so many direct reads of the client's memory, and as many writes.
pub(crate) const DMA: u64 = 0x20;
/// Written: so many interrupts.
pub(crate) const INTERRUPT: u64 = 0x24;

/// The device.
pub(crate) struct Registers {
    handle: Handle,
    value: u32,
}

impl Registers {
    pub(crate) fn new(handle: Handle) -> Self {
        Registers { handle, value: 0 }
    }
}

impl Device for Registers {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        at.give(data, &self.value.to_le_bytes());
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        if data.len() == 4096 {
            return Ok(());
        }
        let value = at.u32(data)?;
        match at.offset {
            DMA => {
                let (dma, mut page) = (self.handle.dma(), [0; 4096]);
                for _ in 0..value {
                    dma.read(RAM, &mut page).map_err(|_| Fault::Denied)?;
                    dma.write(RAM + 4096, &page).map_err(|_| Fault::Denied)?;
                }
            }
            INTERRUPT => {
                let vector = self.handle.vector(0);
                for _ in 0..value {
                    vector.trigger().map_err(|_| Fault::Denied)?;
                }
            }
            _ => {}
        }
        // A read gives it back: how the client sees that the work was done.
        self.value = value;
        Ok(())
    }
}

/// Memory that only messages reach.
pub(crate) struct Zeros;

impl DmaMemory for Zeros {
    fn read(&self, _address: u64, to: &mut [u8]) -> Result<(), Errno> {
        to.fill(0);
        Ok(())
    }

    fn write(&self, _address: u64, _from: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
}

/// A server of that device on one end of a connection.
pub(crate) fn server(socket: OwnedFd) -> Server<Registers> {
    let pci = Pci::endpoint(0x1234, 0x0001).bar(0, Bar::mem32(1 << 16)).msix(1);
    Server::builder(pci).fd(socket).unwrap().serve(Registers::new).unwrap()
}

/// A client on the other end. Memory is mapped and an interrupt arranged.
pub(crate) fn client(socket: OwnedFd, twin: bool) -> Client {
    let client = Client::builder().twin_socket(twin).connect_fd(socket).unwrap();
    assert_eq!(client.has_twin_socket(), twin);
    client.region_write(7, 4, &[0x06, 0]).unwrap(); // Command: memory space, bus master
    let interrupt = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    client.assign_irqs(IrqIndex::Msix, 0, &[interrupt.as_fd()]).unwrap();
    let memory = memfd_create("ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memory, RAM_SIZE).unwrap();
    // As QEMU does. The server need not ask for the file's length again and again.
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    client.dma_map(RAM, RAM_SIZE, READ_WRITE, Memory::File(memory.as_fd(), 0)).unwrap();
    client
}

/// What a client does so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Read,
    Write,
    Posted,
    ReadPage,
    WritePage,
}

impl Step {
    const ALL: [Step; 5] = [Step::Read, Step::Write, Step::Posted, Step::ReadPage, Step::WritePage];

    pub(crate) fn repeat(self, client: &Client, times: u32) {
        let mut page = [0; 4096];
        for _ in 0..times {
            match self {
                Step::Read => client.region_read(0, PLAIN, &mut [0; 4]),
                Step::Write => client.region_write(0, PLAIN, &[1, 2, 3, 4]),
                Step::Posted => client.region_write_posted(0, PLAIN, &[1, 2, 3, 4]),
                Step::ReadPage => client.region_read(0, 4096, &mut page),
                Step::WritePage => client.region_write(0, 4096, &page),
            }
            .unwrap();
        }
    }
}

/// Has the device work inside its handler, and sees that it did.
pub(crate) fn work(client: &Client, register: u64, times: u32) {
    client.region_write(0, register, &times.to_le_bytes()).unwrap();
    let mut done = [0; 4];
    client.region_read(0, PLAIN, &mut done).unwrap();
    assert_eq!(u32::from_le_bytes(done), times);
}

/// Serves as somebody's event loop does, until the client has gone.
fn event_loop(session: OwnedFd) {
    // The first step finds VERSION, however slow the client is.
    poll(&mut [PollFd::new(&session, PollFlags::IN)], None).unwrap();
    let mut server = server(session);
    loop {
        let fd = server.poll_fd().unwrap();
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None).unwrap();
        server.process().unwrap();
        if !server.handle().is_connected() && server.device().value == GOODBYE {
            return;
        }
    }
}

/// The last value that is written to an event loop.
pub(crate) const GOODBYE: u32 = 0xdead;

/// What a child does: its standard input is the session, its standard output the way to its
/// parent, which it tells that it is ready, and waits.
pub(crate) fn child(role: &str) -> ExitCode {
    let session = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut parent = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap());
    parent.write_all(b"r").unwrap();
    parent.read_exact(&mut [0]).unwrap();
    let mut words = role.split(' ');
    match words.next() {
        Some("run") => server(session).run().unwrap(),
        Some("loop") => event_loop(session),
        Some("client") => {
            let socket = words.next();
            let client = client(session, socket == Some("twin"));
            let step = words
                .next()
                .and_then(|name| Step::ALL.into_iter().find(|step| format!("{step:?}") == name));
            let times = words.next().unwrap().parse().unwrap();
            step.unwrap().repeat(&client, times);
        }
        _ => panic!("no role {role:?}"),
    }
    ExitCode::SUCCESS
}
