//! The thread that copies, so that no handler ever waits.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use vfu::{Dma, DmaError, Handle};

use super::registers::{Job, Registers};

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
        let (shared, working) = (registers.clone(), Arc::default());
        let engine = Engine { registers, jobs, working };
        let working = engine.working.clone();
        thread::spawn(move || {
            for job in queue {
                let _working = working.lock().unwrap();
                work(&handle, &shared, job);
            }
        });
        engine
    }

    /// Has the job done, some time soon.
    pub fn start(&self, job: Job) {
        let _it_waits_for_them = self.jobs.send(job);
    }

    /// Begins a new life: when this returns, no job of the old one touches
    /// memory, or ever will.
    pub fn renew(&self) {
        self.registers.lock().unwrap().life += 1;
        drop(self.working.lock().unwrap());
    }
}

fn work(handle: &Handle, registers: &Mutex<Registers>, job: Job) {
    if job.life != registers.lock().unwrap().life {
        return;
    }
    let well = job.is_possible() && copy(&handle.dma(), &job).is_ok();
    let mut registers = registers.lock().unwrap();
    if !well && handle.is_stopped() {
        registers.job = Some(job); // to be done when the device goes on
    } else if registers.end(&job, well) {
        if let Err(error) = handle.vector(0).trigger() {
            tracing::debug!(%error, "no interrupt");
        }
    }
}

fn copy(dma: &Dma, job: &Job) -> Result<(), DmaError> {
    let mut buffer = vec![0; job.length as usize];
    dma.read(job.source, &mut buffer)?;
    dma.write(job.target, &buffer)
}
