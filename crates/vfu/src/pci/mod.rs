//! A pure model of PCI configuration space.
