//! Configuration space as software sees it.

use super::bar::Bars;
use super::caps::{Known, Placed, msi, msix, pm};
use super::registers::{Cell, Registers};
use super::rom::Rom;
use super::{BARS, BarInfo, Effects, MsiState, MsixState, Pin, PowerState, RomInfo, regs};

/// The configuration space of one function. Made by [`Pci::build`](super::Pci::build).
///
/// No method allocates after that, except [`to_vec`](Self::to_vec), and none panics, whatever the
/// offset and the length.
#[derive(Clone)]
pub struct ConfigSpace {
    size: usize,
    pub(super) registers: Registers,
    pub(super) bars: Bars,
    rom: Option<Rom>,
    msix_bar: Option<usize>,
    pub(super) known: Known,
    capabilities: Vec<Placed>,
    extended: Vec<Placed>,
}

/// What a space is made of, besides its lists.
pub(super) struct Parts {
    pub(super) size: usize,
    pub(super) registers: Registers,
    pub(super) bars: Bars,
    pub(super) rom: Option<Rom>,
    pub(super) msix_bar: Option<usize>,
    pub(super) known: Known,
}

impl ConfigSpace {
    pub(super) fn new(parts: Parts, capabilities: Vec<Placed>, extended: Vec<Placed>) -> Self {
        let Parts { size, registers, bars, rom, msix_bar, known } = parts;
        Self { size, registers, bars, rom, msix_bar, known, capabilities, extended }
    }

    /// A header of zeros and nothing else: for those who keep configuration space themselves.
    pub(crate) fn bare() -> Self {
        let size = regs::DEVICE_DEPENDENT;
        let (registers, bars, known) =
            (Registers::reserved(size), Bars::default(), Known::default());
        let parts = Parts { size, registers, bars, rom: None, msix_bar: None, known };
        Self::new(parts, Vec::new(), Vec::new())
    }

    /// The size in bytes: 256 or 4096.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Reads from `offset` on, as many bytes as `data` has. Reserved bytes read 0, bytes past the
    /// end 0xff, as from a function that does not answer.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let inside = self.size.saturating_sub(offset).min(data.len());
        let (inside, outside) = data.split_at_mut(inside);
        outside.fill(0xff);
        let stored = self.registers.cells().get(offset..).unwrap_or_default();
        let (stored_part, empty) = inside.split_at_mut(inside.len().min(stored.len()));
        for (byte, cell) in stored_part.iter_mut().zip(stored) {
            *byte = cell.now;
        }
        empty.fill(0);
    }

    /// Writes `data` from `offset` on, byte by byte in ascending order. Read-only bits and bytes
    /// past the end are ignored, so no write is an error. A register written in parts takes each
    /// part as it comes; nothing waits for the last byte.
    ///
    /// The size of a resizable BAR changes only while Memory Space Enable is clear, as PCIe 7.8.6.3
    /// asks of software; a write to it is ignored otherwise. The BAR loses the address bits below its
    /// new size.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Effects {
        let mut effects = Effects::default();
        let stored = self.registers.len().saturating_sub(offset);
        for (i, &value) in data.iter().take(stored).enumerate() {
            self.write_byte(offset + i, value, &mut effects);
        }
        effects
    }

    fn write_byte(&mut self, at: usize, value: u8, effects: &mut Effects) {
        let Some(cell) = self.registers.cells().get(at) else { return };
        let old = cell.now;
        let mut new = self.settle(at, old, cell.written(value));
        let resized = self.bars.size_controls().find(|(_, control)| *control == at);
        if resized.is_some() && self.memory_enabled() {
            new = old;
        }
        if self.starts_flr(at, value) {
            effects.flr = true;
        }
        if new != old {
            if let Some(cell) = self.registers.cells_mut().get_mut(at) {
                cell.now = new;
            }
            self.note(at, old, new, effects);
            if let Some((index, _)) = resized {
                self.bars.apply_size(&mut self.registers, index);
                effects.bar_sizes_changed = true;
                effects.bars_changed = true;
            }
        }
    }

    /// The few rules that masks cannot say: fields in which some values are not allowed.
    pub(super) fn settle(&self, at: usize, old: u8, new: u8) -> u8 {
        if let Some(cap) = self.known.pm {
            if at == cap + regs::PM_CONTROL {
                return pm::settle(self.registers.u16(cap + regs::PM_CAPABILITIES), old, new);
            }
        }
        if self.known.msi.is_some_and(|msi| at == msi.at + regs::MESSAGE_CONTROL) {
            return msi::settle(new);
        }
        self.bars.settle_size(at, old, new).unwrap_or(new)
    }

    /// Whether writing `value` at `at` sets Initiate FLR of a function that has it (PCIe 6.6.2).
    fn starts_flr(&self, at: usize, value: u8) -> bool {
        let [_, bit] = regs::DEVICE_CONTROL_FLR.to_le_bytes();
        value & bit != 0
            && self.known.pcie.is_some_and(|cap| {
                at == cap + regs::DEVICE_CONTROL + 1
                    && self.registers.u32(cap + regs::DEVICE_CAPABILITIES)
                        & regs::DEVICE_CAPABILITIES_FLR
                        != 0
            })
    }

    /// Adds to `effects` what it means that the byte at `at` changed.
    fn note(&self, at: usize, old: u8, new: u8, effects: &mut Effects) {
        const DECODE: u16 = regs::COMMAND_IO | regs::COMMAND_MEMORY;
        const COMMAND_HIGH: usize = regs::COMMAND + 1;
        const BARS_END: usize = regs::BAR0 + 4 * BARS;
        const ROM_END: usize = regs::EXPANSION_ROM + 4;
        let changed = u16::from(old ^ new);
        match at {
            regs::COMMAND => {
                effects.bus_master_changed |= changed & regs::COMMAND_BUS_MASTER != 0;
                effects.decode_changed |= changed & DECODE != 0;
            }
            COMMAND_HIGH => {
                effects.intx_disable_changed |= changed << 8 & regs::COMMAND_INTX_DISABLE != 0;
            }
            regs::BAR0..BARS_END => effects.bars_changed = true,
            regs::EXPANSION_ROM..ROM_END => effects.rom_changed = true,
            _ => {}
        }
        if self.known.msi.is_some_and(|msi| (msi.at..msi.at + msi.len).contains(&at)) {
            effects.msi_changed = true;
        }
        if self.known.msix.is_some_and(|cap| at == cap + regs::MESSAGE_CONTROL + 1) {
            effects.msix_changed = true;
        }
        if self.known.pm.is_some_and(|cap| at == cap + regs::PM_CONTROL) {
            let (from, to) = (PowerState::from_bits(old), PowerState::from_bits(new));
            if from != to {
                effects.power_state = Some((from, to));
                effects.soft_reset |= pm::is_soft_reset(from, to, new);
            }
        }
    }

    /// Back to the state at power-on, for DEVICE_RESET: Command, Status, BARs and their sizes, Interrupt
    /// Line, power state, MSI, MSI-X and all other registers, sticky ones included.
    pub fn reset(&mut self) {
        self.registers.reset();
        self.apply_sizes();
    }

    /// Resets the function, for FLR and the step from D3hot to D0 without No_Soft_Reset: as
    /// [`reset`](Self::reset), but sticky bits keep their values (PCIe 7.4): AER, PME_En and
    /// PME_Status, the control of the link that PCIe 6.6.2 names, and what the author declared
    /// ([`Field::sticky`](super::Field::sticky)).
    pub fn reset_function(&mut self) {
        self.registers.reset_function();
        self.apply_sizes();
    }

    fn apply_sizes(&mut self) {
        for (index, _) in self.bars.size_controls() {
            self.bars.apply_size(&mut self.registers, index);
        }
    }

    /// BAR `index` as it is now. None for one that is not there and for the upper half of a 64-bit
    /// one.
    pub fn bar(&self, index: usize) -> Option<BarInfo> {
        self.bars.info(&self.registers, index)
    }

    /// The expansion ROM as it is now, if there is one.
    pub fn rom(&self) -> Option<RomInfo> {
        self.rom.as_ref().map(|rom| rom.info(&self.registers))
    }

    /// Reads from the ROM at `offset` of its BAR, enabled or not: its image, and 0xff behind that and
    /// without a ROM.
    pub fn read_rom(&self, offset: u64, data: &mut [u8]) {
        match &self.rom {
            Some(rom) => rom.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The BAR that [`Pci::msix`](super::Pci::msix) added for table and PBA.
    pub fn msix_bar(&self) -> Option<usize> {
        self.msix_bar
    }

    fn command(&self, bits: u16) -> bool {
        self.registers.u16(regs::COMMAND) & bits != 0
    }

    /// Command, Bus Master Enable: whether the function may issue DMA, MSI and MSI-X. In a power
    /// state other than D0 it may not either; see [`power_state`](Self::power_state).
    pub fn bus_master(&self) -> bool {
        self.command(regs::COMMAND_BUS_MASTER)
    }

    /// Command, Memory Space Enable.
    pub fn memory_enabled(&self) -> bool {
        self.command(regs::COMMAND_MEMORY)
    }

    /// Command, I/O Space Enable.
    pub fn io_enabled(&self) -> bool {
        self.command(regs::COMMAND_IO)
    }

    /// Command, Interrupt Disable: the function must not assert INTx.
    pub fn intx_disabled(&self) -> bool {
        self.command(regs::COMMAND_INTX_DISABLE)
    }

    /// Drives Interrupt Status: whether the function has an INTx interrupt outstanding, asserted or
    /// held back by Interrupt Disable (PCI 6.2.3).
    pub fn set_interrupt_status(&mut self, pending: bool) {
        self.registers.drive(regs::STATUS, regs::STATUS_INTERRUPT as u8, pending);
    }

    /// Status, Interrupt Status.
    pub fn interrupt_status(&self) -> bool {
        self.registers.u16(regs::STATUS) & regs::STATUS_INTERRUPT != 0
    }

    /// Sets those of `bits` at `offset` that software clears by writing 1, as in Status
    /// ([`regs::STATUS_ERRORS`]) or Device Status. All other bits are left alone.
    pub fn raise(&mut self, offset: usize, bits: u16) {
        let [low, high] = bits.to_le_bytes();
        self.registers.raise(offset, low);
        self.registers.raise(offset.saturating_add(1), high);
    }

    /// Sets the bits that the device drives ([`Field::driven`](super::Field::driven)) from `offset` on to
    /// those of `data`. All other bits are left alone.
    pub fn drive(&mut self, offset: usize, data: &[u8]) {
        let cells = self.registers.cells_mut().get_mut(offset..).unwrap_or_default();
        for (cell, &value) in cells.iter_mut().zip(data) {
            cell.now = cell.now & !cell.driven() | value & cell.driven();
        }
    }

    /// Drives Transactions Pending in the Device Status of PCI Express: whether requests of the
    /// function are still unanswered. Software waits for 0 before FLR.
    pub fn set_transactions_pending(&mut self, pending: bool) {
        if let Some(cap) = self.known.pcie {
            let bit = regs::DEVICE_STATUS_PENDING as u8;
            self.registers.drive(cap + regs::DEVICE_STATUS, bit, pending);
        }
    }

    /// The interrupt pin, if the function has one.
    pub fn interrupt_pin(&self) -> Option<Pin> {
        match self.registers.u8(regs::INTERRUPT_PIN) {
            1 => Some(Pin::A),
            2 => Some(Pin::B),
            3 => Some(Pin::C),
            4 => Some(Pin::D),
            _ => None,
        }
    }

    /// The power state; D0 without Power Management.
    pub fn power_state(&self) -> PowerState {
        let pmcsr = self.known.pm.map_or(0, |cap| self.registers.u8(cap + regs::PM_CONTROL));
        PowerState::from_bits(pmcsr)
    }

    /// The MSI capability as it is now, if there is one.
    pub fn msi(&self) -> Option<MsiState> {
        self.known.msi.map(|layout| layout.state(&self.registers))
    }

    /// Drives the Pending Bit of an MSI vector. Nothing happens without per-vector masking, or if
    /// there is no such vector.
    pub fn set_msi_pending(&mut self, vector: u8, pending: bool) {
        let Some(layout) = self.known.msi else { return };
        if vector >= layout.state(&self.registers).vectors_supported {
            return;
        }
        if let Some((at, bit)) = layout.pending_bit(vector) {
            self.registers.drive(at, bit, pending);
        }
    }

    /// The MSI-X capability as it is now, if there is one.
    pub fn msix(&self) -> Option<MsixState> {
        self.known.msix.map(|cap| msix::state(&self.registers, cap))
    }

    /// The capability list, in order: id, offset and length in bytes (without padding).
    pub fn capabilities(&self) -> impl Iterator<Item = (u8, usize, usize)> + '_ {
        let tuple = |cap: &Placed| (cap.id as u8, cap.offset.into(), cap.len.into());
        self.capabilities.iter().map(tuple)
    }

    /// The extended capability list, in order: id, offset and length in bytes (without padding).
    pub fn extended_capabilities(&self) -> impl Iterator<Item = (u16, usize, usize)> + '_ {
        self.extended.iter().map(|cap| (cap.id, cap.offset.into(), cap.len.into()))
    }

    /// All bytes of the space, as [`read`](Self::read) gives them.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size];
        self.read(0, &mut bytes);
        bytes
    }

    /// The bits at `offset` that a write of software can change. 0 for reserved bytes and past the
    /// end.
    pub fn writable_bits(&self, offset: usize) -> u8 {
        self.registers.cells().get(offset).map_or(0, |cell| Cell::writable(*cell))
    }
}

impl std::fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = (self.registers.u16(regs::VENDOR_ID), self.registers.u16(regs::DEVICE_ID));
        f.debug_struct("ConfigSpace")
            .field("id", &format_args!("{:04x}:{:04x}", id.0, id.1))
            .field("size", &self.size)
            .field("capabilities", &self.capabilities.len())
            .finish_non_exhaustive()
    }
}
