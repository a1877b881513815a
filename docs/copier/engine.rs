//! The thread that copies, so that no handler ever waits.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::ensure;
use vfu::{Dma, Handle};

use super::registers::{Job, Registers};

/// The longest copy, in bytes.
pub const MAX_LENGTH: u64 = 1 << 20;

/// Copies what is started, one after the other, on a thread that ends with it.
#[derive(Debug)]
pub struct Engine {
    registers: Arc<Mutex<Registers>>,
    jobs: Sender<Job>,
    /// Held while a job is done.
    working: Arc<Mutex<()>>,
}

impl Engine {
    /// The engine of a device with these registers.
    pub fn new(handle: Handle, registers: Arc<Mutex<Registers>>) -> Engine {
        let (jobs, queue) = channel();
        let working = Arc::new(Mutex::new(()));
        let engine = Engine { registers: registers.clone(), jobs, working: working.clone() };
        thread::spawn(move || work(&handle, &registers, &queue, &working));
        engine
    }

    /// Has the job done, some time soon.
    pub fn start(&self, job: Job) {
        let _it_waits_for_them = self.jobs.send(job);
    }

    /// Begins a new life: when this returns, no job of the old one touches memory, or ever will.
    pub fn renew(&self) {
        self.registers.lock().unwrap().life += 1;
        drop(self.working.lock().unwrap());
    }
}

fn work(handle: &Handle, registers: &Mutex<Registers>, queue: &Receiver<Job>, working: &Mutex<()>) {
    for job in queue {
        let _working = working.lock().unwrap();
        if job.life != registers.lock().unwrap().life {
            continue;
        }
        let copied = copy(&handle.dma(), &job);
        if let Err(error) = &copied {
            tracing::warn!(?job, %error, "copy failed");
        }
        let interrupt = registers.lock().unwrap().end(&job, copied.is_ok());
        if interrupt {
            if let Err(error) = handle.vector(0).trigger() {
                tracing::debug!(%error, "no interrupt");
            }
        }
    }
}

/// Copies by way of a buffer. To do it twice is the same as once, since the pieces may not overlap.
fn copy(dma: &Dma, job: &Job) -> anyhow::Result<()> {
    let &Job { source, target, length, .. } = job;
    ensure!(length <= MAX_LENGTH, "{length} bytes are too many; at most {MAX_LENGTH}");
    ensure!(source.abs_diff(target) >= length, "source and target overlap");
    let mut buffer = vec![0; length as usize];
    dma.read(source, &mut buffer)?;
    dma.write(target, &buffer)?;
    Ok(())
}
