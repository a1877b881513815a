//! The registers, without threads and without memory: accesses in, jobs out.

use vfu::Fault;
use vfu::regmap::{RegisterBank, RegisterDevice, RegisterWrite};

vfu::registers! {
    /// What BAR 0 holds.
    pub fn map("copier", 4096);

    0x00 ID: Ro<u32> = 0x7970_6f63, "the letters 'copy'";
    0x08 SOURCE: Rw<u64>, "an address in the guest's memory";
    0x10 TARGET: Rw<u64>, "another one";
    0x18 LENGTH: Rw<u32>, "in bytes";
    0x1c CONTROL: Rw<u32> {
        0 START: Wo, "copies";
        1 INTERRUPT, "vector 0 when a copy has ended" { 0 = "off", 1 = "on" };
    };
    0x20 STATUS: Ro<u32> {
        0 BUSY, "a copy is under way; other registers ignore writes";
        1 DONE: W1c, "a copy has ended well";
        2 FAILED: W1c, "a copy has ended badly";
    };
}

/// The longest copy, in bytes.
pub const MAX_LENGTH: u64 = 1 << 20;

/// A copy that the driver has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Where the bytes are.
    pub source: u64,
    /// Where they go.
    pub target: u64,
    /// How many.
    pub length: u64,
    /// In which life of the device it was asked for.
    pub life: u64,
}

impl Job {
    /// Whether it can be done. To do it twice is the same as once, since the pieces may not overlap.
    pub fn is_possible(&self) -> bool {
        self.length <= MAX_LENGTH && self.source.abs_diff(self.target) >= self.length
    }
}

/// The registers and what they ask for.
#[derive(Debug)]
pub struct Registers {
    /// Their values.
    pub values: RegisterBank,
    /// A copy that waits to be done.
    pub job: Option<Job>,
    /// Counts resets: a job of an earlier life has no say any more.
    pub life: u64,
}

impl RegisterDevice for Registers {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.values
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        match write.register {
            SOURCE | TARGET | LENGTH | CONTROL if self.is_busy() => Ok(write.old),
            CONTROL if write.value & START != 0 => {
                self.values.set_bits(STATUS, BUSY);
                self.job = Some(self.asked());
                Ok(write.value & !START)
            }
            _ => Ok(write.value),
        }
    }
}

impl Registers {
    /// The registers as they are after power-on.
    pub fn after_power_on() -> Registers {
        Registers { values: RegisterBank::new(map()), job: None, life: 0 }
    }

    /// Whether a copy is under way.
    pub fn is_busy(&self) -> bool {
        self.values.has(STATUS, BUSY)
    }

    /// The copy that the registers describe.
    pub fn asked(&self) -> Job {
        let [source, target, length] = [SOURCE, TARGET, LENGTH].map(|at| self.values.get(at));
        Job { source, target, length, life: self.life }
    }

    /// The copy has ended. Whether the driver wants an interrupt.
    pub fn end(&mut self, job: &Job, well: bool) -> bool {
        if job.life != self.life {
            return false;
        }
        self.values.clear_bits(STATUS, BUSY);
        self.values.set_bits(STATUS, if well { DONE } else { FAILED });
        self.values.has(CONTROL, INTERRUPT)
    }
}
