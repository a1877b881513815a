//! Ready PCI devices, served by [`vfu`].
//!
//! | device | ids | what it is |
//! |---|---|---|
//! | [`edu`] | 1234:11e8 | the teaching device of QEMU: registers, a factorial, DMA, INTx and MSI |
//! | [`idio16`] | 494f:0dc8 | ACCES PCI-IDIO-16, 16 outputs wired to 16 inputs, which Linux drives by itself |
//!
//! [`Model`] lists them all and makes any of them:
//!
//! ```no_run
//! use vfu::Server;
//! use vfu_devices::{Model, Options};
//!
//! let model: Model = "edu".parse()?;
//! Server::builder(model.pci())
//!     .listen("/run/edu.sock")?
//!     .run(|handle| model.device(handle, &Options::default()))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod catalog;
pub mod edu;
pub mod idio16;

pub use catalog::{Model, Options, UnknownModel};
pub use edu::Edu;
pub use idio16::Idio16;
