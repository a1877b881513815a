//! Ready PCI devices, served by [`vfu`].
//!
//! | device | ids | what it is |
//! |---|---|---|
//! | [`bartest`] | 1234:ba48 | a BAR of 8 GiB with memory and every kind of doorbell, for testing clients |
//! | [`dmatest`] | 1234:d3a0 | DMA on a thread and inside handlers, for testing clients |
//! | [`edu`] | 1234:11e8 | the teaching device of QEMU: registers, a factorial, DMA, INTx and MSI |
//! | [`idio16`] | 494f:0dc8 | ACCES PCI-IDIO-16, 16 outputs wired to 16 inputs, which Linux drives by itself |
//! | [`irqtest`] | 1234:d3a1 | MSI-X, MSI, INTx, ERR and REQ, for testing clients and kernels |
//!
//! [`Model`] lists them all and makes any of them:
//!
//! ```no_run
//! use vfu_devices::{Model, Options};
//!
//! let model: Model = "edu".parse()?;
//! let bound = model.builder()?.listen("/run/edu.sock")?;
//! model.serve(bound, &Options::default())?.run()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod bartest;
mod catalog;
pub mod dmatest;
pub mod edu;
pub mod idio16;
pub mod irqtest;
mod pause;

pub use bartest::BarTest;
pub use catalog::{Model, ModelServer, Options, UnknownModel};
pub use dmatest::DmaTest;
pub use edu::Edu;
pub use idio16::Idio16;
pub use irqtest::IrqTest;
