//! All devices by name.

use std::fmt;
use std::str::FromStr;

use vfu::regmap::RegisterMap;
use vfu::server::{Bound, Builder, ServeError, Stopper};
use vfu::{Device, Handle, Pci, Reentrant, Server};

use crate::{BarTest, DmaTest, Edu, Idio16, IrqTest, bartest, dmatest, edu, idio16, irqtest};

/// A device that this crate can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// Every way in which a driver reaches a BAR; see [`bartest`](crate::bartest).
    BarTest,
    /// A device that does nothing but DMA; see [`dmatest`](crate::dmatest).
    DmaTest,
    /// The teaching device of QEMU; see [`edu`](crate::edu).
    Edu,
    /// The ACCES PCI-IDIO-16; see [`idio16`](crate::idio16).
    Idio16,
    /// A device that does nothing but interrupt; see [`irqtest`](crate::irqtest).
    IrqTest,
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
    pub const ALL: [Model; 5] =
        [Model::BarTest, Model::DmaTest, Model::Edu, Model::Idio16, Model::IrqTest];

    /// The name, as a user types it.
    pub fn name(self) -> &'static str {
        match self {
            Model::BarTest => "bartest",
            Model::DmaTest => "dmatest",
            Model::Edu => "edu",
            Model::Idio16 => "idio16",
            Model::IrqTest => "irqtest",
        }
    }

    /// What it is, in one line.
    pub fn description(self) -> &'static str {
        match self {
            Model::BarTest => {
                "a BAR of 8 GiB with memory and every kind of doorbell: for testing clients"
            }
            Model::DmaTest => "DMA on a thread, or inside a handler: for testing clients",
            Model::Edu => "QEMU's teaching device: registers, factorial, DMA, INTx and MSI",
            Model::Idio16 => "ACCES PCI-IDIO-16: 16 outputs wired to 16 inputs, change interrupts",
            Model::IrqTest => "every kind of interrupt, on demand: for testing clients and kernels",
        }
    }

    /// Vendor and device id.
    pub fn ids(self) -> (u16, u16) {
        match self {
            Model::BarTest => (bartest::VENDOR, bartest::DEVICE),
            Model::DmaTest => (dmatest::VENDOR, dmatest::DEVICE),
            Model::Edu => (edu::VENDOR, edu::DEVICE),
            Model::Idio16 => (idio16::VENDOR, idio16::DEVICE),
            Model::IrqTest => (irqtest::VENDOR, irqtest::DEVICE),
        }
    }

    /// Its configuration space.
    pub fn pci(self) -> Pci {
        match self {
            Model::BarTest => bartest::pci(),
            Model::DmaTest => dmatest::pci(),
            Model::Edu => edu::pci(),
            Model::Idio16 => idio16::pci(),
            Model::IrqTest => irqtest::pci(),
        }
    }

    /// The server that it wants: its configuration space, and what a client may map of it.
    ///
    /// # Errors
    /// The system has no memory or no descriptor left.
    pub fn builder(self) -> std::io::Result<Builder> {
        match self {
            Model::BarTest => bartest::builder(),
            other => Ok(Server::builder(other.pci())),
        }
    }

    /// What a BAR of it holds, if that is declared as a map of registers.
    pub fn register_map(self, bar: usize) -> Option<RegisterMap> {
        match (self, bar) {
            (Model::DmaTest, 0) => Some(dmatest::register::map()),
            (Model::Edu, 0) => Some(edu::register_map()),
            (Model::Idio16, idio16::BAR) => Some(idio16::register_map()),
            (Model::IrqTest, 0) => Some(irqtest::register_map()),
            _ => None,
        }
    }

    /// Makes one, in its state after power-on, whose handlers are called one at a time.
    /// [`serve`](Self::serve) can do better for some.
    pub fn device(self, handle: Handle, options: &Options) -> Box<dyn Device + Send> {
        match self {
            Model::BarTest => Box::new(BarTest::new(handle)),
            Model::DmaTest => Box::new(DmaTest::new(handle)),
            Model::Edu => Box::new(Edu::new(handle).dma_mask(options.dma_mask)),
            Model::Idio16 => Box::new(Idio16::new(handle)),
            Model::IrqTest => Box::new(IrqTest::new(handle)),
        }
    }

    /// Makes one and puts it at a socket. The handlers of a model that is a
    /// [`SharedDevice`](vfu::SharedDevice), such as [`dmatest`], are called while one of them
    /// waits for DMA; those of the others, one at a time.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn serve(self, bound: Bound, options: &Options) -> Result<ModelServer, ServeError> {
        Ok(ModelServer(match self {
            Model::DmaTest => Kind::DmaTest(bound.serve_shared(DmaTest::new)?),
            Model::BarTest | Model::Edu | Model::Idio16 | Model::IrqTest => {
                Kind::OneAtATime(bound.serve(|handle| self.device(handle, options))?)
            }
        }))
    }
}

/// A [`Server`] of any model; made by [`Model::serve`].
pub struct ModelServer(Kind);

enum Kind {
    OneAtATime(Server<Box<dyn Device + Send>>),
    DmaTest(Server<Reentrant<DmaTest>>),
}

impl fmt::Debug for ModelServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelServer")
    }
}

impl ModelServer {
    /// See [`Server::run`].
    ///
    /// # Errors
    /// As there.
    pub fn run(&mut self) -> Result<(), ServeError> {
        match &mut self.0 {
            Kind::OneAtATime(server) => server.run(),
            Kind::DmaTest(server) => server.run(),
        }
    }

    /// What stops it from elsewhere.
    pub fn stopper(&self) -> Stopper {
        match &self.0 {
            Kind::OneAtATime(server) => server.stopper(),
            Kind::DmaTest(server) => server.stopper(),
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
        assert_eq!(
            error.to_string(),
            "there is no device 'edo'; there are: bartest dmatest edu idio16 irqtest"
        );
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
            assert_eq!(space.interrupt_pin().is_some(), model != Model::BarTest);
        }
    }
}
