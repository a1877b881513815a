//! A hostile server: what it does wrong, to whom, and when.

mod act;
mod device;
mod host;
mod hunt;

pub use act::{Act, Plan, What, plan};
pub use host::Outcome;
pub use hunt::{ClientFound, ClientReport, Clients, Hunt, HuntError};
