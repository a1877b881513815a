//! The device, served by `vfu::Server`.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use vfu::migration::{LoadError, Migration};
use vfu::wire::Errno;
use vfu::{Access, Bar, Device, Fault, Handle, Limits, Pci, Pin, Server, SharedMemory};

use super::{Settings, Target, wait_for_the_end};
use crate::specimen::{BAR0, Job, READ, Specimen, WRITE};

pub(super) struct InRust;

impl Target for InRust {
    fn serve(&self, path: &Path, settings: &Settings) {
        let pci = Pci::endpoint(0x1234, 1)
            .bar(0, Bar::mem32(BAR0))
            .bar(2, Bar::mem32(0x4000))
            .intx(Pin::A)
            .pm()
            .msix(4)
            .pcie_endpoint();
        let memory = SharedMemory::new(0x4000).expect("memory");
        let maps = settings.number("maps").map_or(65535, |maps| maps as u32);
        let mut builder = Server::builder(pci)
            .mmap(2, memory)
            .limits(limits(settings))
            .max_dma_maps(maps)
            .bus_master_gate(false);
        if let Some(bytes) = settings.number("map_bytes") {
            builder = builder.max_dma_bytes(bytes);
        }
        let mut server = builder.listen(path).expect("a socket").serve(device).expect("a server");
        let stopper = server.stopper();
        thread::spawn(move || {
            wait_for_the_end();
            stopper.stop();
        });
        server.run().expect("it serves until it is stopped");
    }
}

fn limits(settings: &Settings) -> Limits {
    let mut limits = Limits::default();
    let time = |name, default| settings.number(name).map(Duration::from_millis).or(default);
    limits.reply_timeout = time("reply_ms", limits.reply_timeout);
    limits.handshake_timeout = time("handshake_ms", limits.handshake_timeout);
    limits.message_timeout = time("message_ms", limits.message_timeout);
    limits.send_timeout = time("send_ms", limits.send_timeout);
    let count = |name, default| settings.number(name).map_or(default, |count| count as usize);
    limits.outstanding = count("outstanding", limits.outstanding);
    limits.zombies = count("zombies", limits.zombies);
    limits.queued_commands = count("queued_commands", limits.queued_commands);
    limits.queued_bytes = count("queued_bytes", limits.queued_bytes);
    limits.unsent_bytes = count("unsent_bytes", limits.unsent_bytes);
    limits
}

struct InRustDevice {
    specimen: Arc<Mutex<Specimen>>,
    jobs: Sender<Job>,
}

fn device(handle: Handle) -> InRustDevice {
    let specimen = Arc::new(Mutex::new(Specimen::new()));
    let (jobs, queue) = channel::<Job>();
    let worker = specimen.clone();
    thread::spawn(move || {
        for job in queue {
            operate(&handle, &worker, job);
        }
    });
    InRustDevice { specimen, jobs }
}

fn operate(handle: &Handle, specimen: &Mutex<Specimen>, job: Job) {
    let lock = || specimen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = lock().outgoing(job.len);
    let result = match job.what {
        READ => handle.dma().read(job.address, &mut bytes).map_err(|e| e.errno().raw()),
        WRITE => handle.dma().write(job.address, &bytes).map_err(|e| e.errno().raw()),
        _ => handle.vector(job.len).trigger().map_err(|_| Errno::ENOENT.raw()),
    };
    if job.what != READ {
        bytes.clear();
    }
    lock().end(job, result.map(|()| &bytes[..]));
}

impl InRustDevice {
    fn with<T>(&self, f: impl FnOnce(&mut Specimen) -> T) -> T {
        f(&mut self.specimen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Device for InRustDevice {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        if at.region != 0 {
            return Err(Fault::Unmodelled);
        }
        self.with(|specimen| specimen.read(at.offset, data));
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        if at.region != 0 {
            return Err(Fault::Unmodelled);
        }
        if let Some(job) = self.with(|specimen| specimen.write(at.offset, data)) {
            let _ends_after_us = self.jobs.send(job);
        }
        Ok(())
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }
}

impl Migration for InRustDevice {
    fn max_len(&self) -> usize {
        4096
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(self.with(|specimen| specimen.state()))
    }

    fn load(&mut self, _: u32, state: &[u8]) -> Result<(), LoadError> {
        self.with(|specimen| {
            specimen.begin_loading();
            let fits = specimen.load(state) && specimen.take_over();
            fits.then_some(()).ok_or_else(|| LoadError("it is too long".into()))
        })
    }
}
