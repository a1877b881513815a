//! Boots a real Linux guest under a real QEMU, with devices of vfu attached, and checks what the
//! guest sees. `README.md` beside this crate tells how it works and how to add a test.
//!
//! | module | its idea |
//! |---|---|
//! | [`check`] | why guests cannot run on this machine |
//! | [`cache`] | one folder that holds what was fetched, made once and whole |
//! | [`apt`], [`sources`] | a private apt, and the mirror that it asks |
//! | [`qemu`] | a QEMU that has `vfio-user-pci` |
//! | [`kernel`], [`modules`], [`cpio`], [`initramfs`] | the guest, from Debian's packages |
//! | [`binaries`] | the `vfu` command and the program for the guest, from this tree |
//! | [`server`], [`guest`], [`console`], [`qmp`], [`process`] | what runs during a test |
//! | [`lab`], [`suite`], [`cases`], [`demo`] | the tests |

pub mod apt;
pub mod binaries;
pub mod cache;
pub mod cases;
pub mod check;
pub mod console;
pub mod cpio;
pub mod demo;
pub mod guest;
pub mod initramfs;
pub mod kernel;
pub mod lab;
pub mod modules;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod server;
pub mod sources;
pub mod suite;

/// Says one line of progress.
pub fn say(line: impl std::fmt::Display) {
    eprintln!("vfu-guest: {line}");
}
