//! What a VMM does to a device before and while its guest uses it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use vfu::IrqIndex;
use vfu::client::{Client, ClientError, Memory, READ_WRITE};
use vfu::pci::regs;

use crate::{Detail, Function, Interrupts, KitError, MessageRam, SharedRam, enumerate};

/// Where the interrupt messages of x86 go. The device never looks at it.
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const MSI_ENABLE: u16 = 1 << 0;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;
const MSIX_ENTRY: u64 = 16;

/// A VMM without a VM, over [`Client`].
#[derive(Clone, Debug)]
pub struct Vmm {
    client: Client,
}

impl Vmm {
    /// VFIO's number of the configuration space region.
    pub const CONFIG: u32 = 7;

    /// Connects to the device at `path`, with a twin socket if the device has one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Vmm, KitError> {
        Ok(Vmm::over(Client::builder().twin_socket(true).connect(path)?))
    }

    /// Connects to the device at `path`, on a single socket.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect_single(path: impl AsRef<Path>) -> Result<Vmm, KitError> {
        Ok(Vmm::over(Client::builder().twin_socket(false).connect(path)?))
    }

    /// Begins a session on a socket that is connected to the device.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect_fd(socket: OwnedFd, twin: bool) -> Result<Vmm, KitError> {
        Ok(Vmm::over(Client::builder().twin_socket(twin).connect_fd(socket)?))
    }

    /// Uses a connection that has been made already.
    pub fn over(client: Client) -> Vmm {
        Vmm { client }
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads what the function is, and leaves it as it was (its BARs are sized in between).
    ///
    /// # Errors
    /// The session failed, or configuration space breaks a rule of PCI.
    pub fn describe(&self) -> Result<Function, KitError> {
        enumerate::read(self)
    }

    /// Reads what the function is, gives its BARs addresses, and enables memory, I/O and bus
    /// mastering, as firmware and a driver do. Interrupts are still off.
    ///
    /// # Errors
    /// As [`describe`](Self::describe); or there are not enough addresses.
    pub fn enumerate(&self) -> Result<Function, KitError> {
        let mut function = self.describe()?;
        enumerate::assign(self, &mut function.bars)?;
        let on = regs::COMMAND_IO | regs::COMMAND_MEMORY | regs::COMMAND_BUS_MASTER;
        self.config_write16(regs::COMMAND, function.command | on)?;
        function.command = self.config_read16(regs::COMMAND)?;
        self.client.region_read(Self::CONFIG, 0, &mut function.config)?;
        Ok(function)
    }

    /// Sets or clears Bus Master Enable.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_bus_master(&self, on: bool) -> Result<(), ClientError> {
        self.set_command(regs::COMMAND_BUS_MASTER, on)
    }

    /// Sets or clears bits of the Command register.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_command(&self, bits: u16, on: bool) -> Result<(), ClientError> {
        let command = self.config_read16(regs::COMMAND)?;
        let command = if on { command | bits } else { command & !bits };
        self.config_write16(regs::COMMAND, command)
    }

    /// Enables the first `vectors` vectors of MSI-X: table entries, eventfds, function enable.
    ///
    /// # Errors
    /// The device has not so many vectors, or the session failed.
    pub fn enable_msix(&self, function: &Function, vectors: u16) -> Result<Interrupts, KitError> {
        let capability = function.capability(regs::CAP_MSIX).ok_or(KitError::Missing("MSI-X"))?;
        let Detail::Msix { vectors: most, table: (bar, offset), .. } = capability.detail else {
            return Err(KitError::Missing("MSI-X"));
        };
        if vectors > most {
            return Err(KitError::Missing("MSI-X vector of that number"));
        }
        let control = usize::from(capability.offset) + regs::MESSAGE_CONTROL;
        let flags = self.config_read16(control)?;
        self.config_write16(control, flags | MSIX_ENABLE | MSIX_FUNCTION_MASK)?;
        self.set_command(regs::COMMAND_INTX_DISABLE, true)?;
        for vector in 0..vectors {
            let mut entry = [0; MSIX_ENTRY as usize];
            entry[..8].copy_from_slice(&MESSAGE_ADDRESS.to_le_bytes());
            entry[8..12].copy_from_slice(&u32::from(vector).to_le_bytes());
            let at = u64::from(offset) + u64::from(vector) * MSIX_ENTRY;
            for (i, dword) in entry.chunks(4).enumerate() {
                self.client.region_write(bar.into(), at + 4 * i as u64, dword)?;
            }
        }
        let interrupts = Interrupts::new(usize::from(vectors))?;
        self.client.assign_irqs(IrqIndex::Msix, 0, &interrupts.fds())?;
        self.config_write16(control, flags & !MSIX_FUNCTION_MASK | MSIX_ENABLE)?;
        Ok(interrupts)
    }

    /// Enables `vectors` vectors of MSI, a power of two.
    ///
    /// # Errors
    /// The device has not so many vectors, or the session failed.
    pub fn enable_msi(&self, function: &Function, vectors: u8) -> Result<Interrupts, KitError> {
        let capability = function.capability(regs::CAP_MSI).ok_or(KitError::Missing("MSI"))?;
        let Detail::Msi { vectors: most, address64, .. } = capability.detail else {
            return Err(KitError::Missing("MSI"));
        };
        if !vectors.is_power_of_two() || vectors > most {
            return Err(KitError::Missing("such number of MSI vectors"));
        }
        let at = usize::from(capability.offset);
        self.config_write32(at + 4, MESSAGE_ADDRESS as u32)?;
        if address64 {
            self.config_write32(at + 8, (MESSAGE_ADDRESS >> 32) as u32)?;
        }
        self.config_write16(at + if address64 { 12 } else { 8 }, 0x4000)?;
        let interrupts = Interrupts::new(usize::from(vectors))?;
        self.client.assign_irqs(IrqIndex::Msi, 0, &interrupts.fds())?;
        self.set_command(regs::COMMAND_INTX_DISABLE, true)?;
        let control = self.config_read16(at + regs::MESSAGE_CONTROL)? & !(7 << 4);
        let log2 = vectors.trailing_zeros() as u16;
        self.config_write16(at + regs::MESSAGE_CONTROL, control | log2 << 4 | MSI_ENABLE)?;
        Ok(interrupts)
    }

    /// Has the interrupt pin signalled, and not MSI or MSI-X, beside which the pin is silent. It masks
    /// itself each time it fires; see [`unmask_intx`](Self::unmask_intx).
    ///
    /// # Errors
    /// The device has no pin, or the session failed.
    pub fn enable_intx(&self) -> Result<Interrupts, KitError> {
        let function = self.describe()?;
        for (id, enable) in [(regs::CAP_MSI, MSI_ENABLE), (regs::CAP_MSIX, MSIX_ENABLE)] {
            let Some(capability) = function.capability(id) else { continue };
            let control = usize::from(capability.offset) + regs::MESSAGE_CONTROL;
            let flags = self.config_read16(control)?;
            if flags & enable != 0 {
                self.config_write16(control, flags & !enable)?;
            }
        }
        let interrupts = Interrupts::new(1)?;
        self.set_command(regs::COMMAND_INTX_DISABLE, false)?;
        self.client.assign_irqs(IrqIndex::Intx, 0, &interrupts.fds())?;
        Ok(interrupts)
    }

    /// The end of an interrupt by pin: it fires again if the pin is still up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn unmask_intx(&self) -> Result<(), ClientError> {
        self.client.unmask_irqs(IrqIndex::Intx, 0, 1)
    }

    /// Gives the device `size` bytes of new shared memory at `address`.
    ///
    /// # Errors
    /// The system or the device refused.
    pub fn share_ram(&self, address: u64, size: u64) -> Result<SharedRam, KitError> {
        let ram = SharedRam::new(address, size)?;
        self.client.dma_map(address, size, READ_WRITE, Memory::File(ram.as_fd(), 0))?;
        Ok(ram)
    }

    /// Gives the device `size` bytes of new memory at `address`, by messages.
    ///
    /// # Errors
    /// The device refused.
    pub fn message_ram(&self, address: u64, size: usize) -> Result<Arc<MessageRam>, KitError> {
        let ram = Arc::new(MessageRam::new(address, size));
        let memory = Memory::Messages(ram.clone());
        self.client.dma_map(address, size as u64, READ_WRITE, memory)?;
        Ok(ram)
    }
}

/// Accessors of one width: of a BAR, and of configuration space.
macro_rules! access {
    ($($int:ident $read:ident $write:ident $config_read:ident $config_write:ident;)*) => {
        impl Vmm {
            $(
                #[doc = concat!("Reads a `", stringify!($int), "` of a BAR, in one access.")]
                ///
                /// # Errors
                /// See [`ClientError`].
                pub fn $read(&self, bar: u32, offset: u64) -> Result<$int, ClientError> {
                    let mut bytes = [0; size_of::<$int>()];
                    self.client.region_read(bar, offset, &mut bytes)?;
                    Ok($int::from_le_bytes(bytes))
                }

                #[doc = concat!("Writes a `", stringify!($int), "` to a BAR, in one access.")]
                ///
                /// # Errors
                /// See [`ClientError`].
                pub fn $write(&self, bar: u32, offset: u64, value: $int) -> Result<(), ClientError> {
                    self.client.region_write(bar, offset, &value.to_le_bytes())
                }

                #[doc = concat!("Reads a `", stringify!($int), "` of configuration space.")]
                ///
                /// # Errors
                /// See [`ClientError`].
                pub fn $config_read(&self, offset: usize) -> Result<$int, ClientError> {
                    self.$read(Self::CONFIG, offset as u64)
                }

                #[doc = concat!("Writes a `", stringify!($int), "` to configuration space.")]
                ///
                /// # Errors
                /// See [`ClientError`].
                pub fn $config_write(&self, offset: usize, value: $int) -> Result<(), ClientError> {
                    self.$write(Self::CONFIG, offset as u64, value)
                }
            )*
        }
    };
}

access! {
    u8 read8 write8 config_read8 config_write8;
    u16 read16 write16 config_read16 config_write16;
    u32 read32 write32 config_read32 config_write32;
    u64 read64 write64 config_read64 config_write64;
}
