//! `libvfio-user.so.0` from vfu's engine: C programs that serve vfio-user devices run unchanged.
//!
//! The interface is `libvfio-user.h`; here are the functions behind it.
#![allow(unsafe_code)] // the C face: every block says which promise of the header it relies on
#![allow(unreachable_pub)] // C programs reach what Rust can't name

mod log;
mod stubs;
pub mod types;
