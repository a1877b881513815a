//! All devices by name.

use std::fmt;
use std::str::FromStr;

use vfu::{Device, Handle, Pci};

use crate::{Edu, Idio16, edu, idio16};

/// A device that this crate can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// The teaching device of QEMU; see [`edu`](crate::edu).
    Edu,
    /// The ACCES PCI-IDIO-16; see [`idio16`](crate::idio16).
    Idio16,
}

/// What can be chosen when a device is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The addresses in RAM that `edu` reaches: each is ANDed with this mask. Default:
    /// [`edu::DEFAULT_DMA_MASK`]. The other devices have no such mask.
    pub dma_mask: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { dma_mask: edu::DEFAULT_DMA_MASK }
    }
}

impl Model {
    /// All of them, in alphabetical order.
    pub const ALL: [Model; 2] = [Model::Edu, Model::Idio16];

    /// The name, as a user types it.
    pub fn name(self) -> &'static str {
        match self {
            Model::Edu => "edu",
            Model::Idio16 => "idio16",
        }
    }

    /// What it is, in one line.
    pub fn description(self) -> &'static str {
        match self {
            Model::Edu => "QEMU's teaching device: registers, factorial, DMA, INTx and MSI",
            Model::Idio16 => "ACCES PCI-IDIO-16: 16 outputs wired to 16 inputs, change interrupts",
        }
    }

    /// Vendor and device id.
    pub fn ids(self) -> (u16, u16) {
        match self {
            Model::Edu => (edu::VENDOR, edu::DEVICE),
            Model::Idio16 => (idio16::VENDOR, idio16::DEVICE),
        }
    }

    /// Its configuration space.
    pub fn pci(self) -> Pci {
        match self {
            Model::Edu => edu::pci(),
            Model::Idio16 => idio16::pci(),
        }
    }

    /// Makes one, in its state after power-on.
    pub fn device(self, handle: Handle, options: &Options) -> Box<dyn Device + Send> {
        match self {
            Model::Edu => Box::new(Edu::new(handle).dma_mask(options.dma_mask)),
            Model::Idio16 => Box::new(Idio16::new(handle)),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No device has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownModel {
    name: String,
}

impl fmt::Display for UnknownModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no device '{}'; there are:", self.name)?;
        Model::ALL.iter().try_for_each(|model| write!(f, " {model}"))
    }
}

impl std::error::Error for UnknownModel {}

impl FromStr for Model {
    type Err = UnknownModel;

    fn from_str(name: &str) -> Result<Self, UnknownModel> {
        let found = Model::ALL.into_iter().find(|model| model.name() == name);
        found.ok_or_else(|| UnknownModel { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for model in Model::ALL {
            assert_eq!(model.name().parse(), Ok(model));
            assert_eq!(model.to_string(), model.name());
            assert!(!model.description().contains('\n'));
        }
        let error = "edo".parse::<Model>().unwrap_err();
        assert_eq!(error.to_string(), "there is no device 'edo'; there are: edu idio16");
    }

    #[test]
    fn descriptions_of_pci_are_possible_and_carry_the_ids() {
        for model in Model::ALL {
            let space = model.pci().build().unwrap();
            let mut ids = [0; 4];
            space.read(0, &mut ids);
            let (vendor, device) = model.ids();
            assert_eq!(ids[..2], vendor.to_le_bytes());
            assert_eq!(ids[2..], device.to_le_bytes());
            assert!(space.interrupt_pin().is_some());
        }
    }
}
