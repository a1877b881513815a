//! PCI devices as ordinary programs.

pub mod pci;
