//! `libvfio-user.so.0` from vfu's engine: C programs that serve vfio-user devices run unchanged.
//!
//! The interface is `libvfio-user.h`; here are the functions behind it. Framing, ids, crossing
//! traffic, DMA and eventfds are the engine's ([`vfu::raw`]); what is here is the C library's view of
//! a device: memory that the program writes at any time, callbacks, errno.
//!
//! | file | idea |
//! |---|---|
//! | `ctx`, `create`, `setup`, `realize` | a context, and what the program says of its device |
//! | `attach`, `run`, `execute` | clients, their commands, and the end of a connection |
//! | `access`, `config`, `caps`, `info` | regions, configuration space among them |
//! | `memory`, `sgl`, `moving`, `dirty` | the client's memory |
//! | `irq`, `msix` | interrupts |
//! | `feature` | migration |
//! | `extend` | what the C library does not have |
//! | `old` | programs that were built for an older interface of the same name |
//! | `errno`, `log`, `types` | the border |
#![allow(unsafe_code)] // the C face: every block says which promise of the header it relies on
#![allow(unreachable_pub)] // C programs reach what Rust can't name
#![allow(clippy::too_many_arguments)] // the interface is what it is

mod access;
mod attach;
mod caps;
mod config;
mod create;
mod ctx;
mod dirty;
mod errno;
mod execute;
mod extend;
mod feature;
mod info;
mod irq;
mod listen;
mod log;
mod memory;
mod moving;
mod msix;
mod old;
mod realize;
mod run;
mod setup;
mod sgl;
pub mod types;

/// Functions of the header, for Rust that calls them as a C program would.
pub mod c {
    pub use crate::attach::{vfu_attach_ctx, vfu_get_poll_fd};
    pub use crate::caps::vfu_pci_add_capability;
    pub use crate::config::vfu_pci_init;
    pub use crate::create::{vfu_create_ctx, vfu_destroy_ctx};
    pub use crate::extend::{
        Limits, vfu_rs_get_dma_poll_fd, vfu_rs_get_limits, vfu_rs_get_timeout, vfu_rs_set_limits,
    };
    pub use crate::irq::vfu_irq_trigger;
    pub use crate::realize::vfu_realize_ctx;
    pub use crate::run::vfu_run_ctx;
    pub use crate::setup::{
        vfu_setup_device_dma, vfu_setup_device_migration_callbacks, vfu_setup_device_nr_irqs,
        vfu_setup_region,
    };
    pub use crate::sgl::{vfu_addr_to_sgl, vfu_sgl_get, vfu_sgl_put, vfu_sgl_read, vfu_sgl_write};
}
