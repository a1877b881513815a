//! Configuration space: any description, then any accesses, byte by byte against what the PCI
//! specification says of the header, and against rules that hold for every register.

use vfu::pci::{Bar, BarKind, ConfigSize, ConfigSpace, Effects, Field, Pci, Pin, RawCapability};

use crate::script::Script;

pub(crate) const ABOUT: &str = "configuration space: any description, any accesses";

/// Inputs are short; this only bounds what blind ones take.
const MAX_STEPS: u64 = 1000;

const COMMAND: usize = 4;
const CACHE_LINE: usize = 0x0c;
const BARS: usize = 0x10;
const BARS_END: usize = 0x28;
const ROM: usize = 0x30;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let Ok(space) = describe(&mut script).build() else { return };
    let mut function = Function { fresh: space.to_vec(), space, saved: None };
    function.check_lists();
    let mut steps = 0;
    while !script.is_empty() && steps < MAX_STEPS {
        function.step(&mut script);
        function.check_bars();
        steps += 1;
    }
    crate::steps::add(steps);
}

/// A description, that is mostly possible.
fn describe(script: &mut Script<'_>) -> Pci {
    let mut pci = Pci::endpoint(script.u16(), script.u16());
    let has = script.u16();
    let mut index = 0;
    for bar in 0..script.below(5) {
        let size = 1 << script.pick(&[4, 8, 12, 16, 20, 31, 2, 33, 63]);
        let kind = match script.below(3) {
            0 => Bar::io(size),
            1 => Bar::mem32(size),
            _ => Bar::mem64(size),
        };
        pci = pci.bar(index, if bar & 1 == 1 { kind.prefetchable() } else { kind });
        index += script.pick(&[1, 2]);
    }
    if has & 1 != 0 {
        pci = pci.pm();
    }
    if has & 2 != 0 {
        pci = pci.msi(script.pick(&[1, 4, 32, 3]));
    }
    if has & 4 != 0 {
        pci = pci.msix(script.pick(&[1, 8, 2048, 0]));
    }
    if has & 8 != 0 {
        pci = pci.pcie_endpoint();
    }
    if has & 16 != 0 {
        pci = pci.intx(script.pick(&[Pin::A, Pin::D]));
    }
    if has & 32 != 0 {
        pci = pci.rom([&[0x55, 0xaa, 1][..], &[7; 509]].concat());
    }
    if has & 64 != 0 {
        pci = pci.config_size(ConfigSize::Extended).aer().serial_number(script.u64());
    }
    if has & 128 != 0 {
        let sizes: Vec<u64> = (0..1 + script.below(4)).map(|i| 1 << (20 + i)).collect();
        pci = pci.resizable_bar(script.below(6), sizes);
    }
    if has & 256 != 0 {
        let raw =
            RawCapability::new(script.bytes(8)).field(0, 2, Field::new(0).rw(script.u16().into()));
        pci = pci.raw_capability(9, raw);
    }
    if has & 512 != 0 {
        pci = pci.vendor_capability(script.bytes(12));
    }
    pci
}

struct Function {
    space: ConfigSpace,
    /// As it was at power-on.
    fresh: Vec<u8>,
    saved: Option<Vec<u8>>,
}

impl Function {
    fn step(&mut self, script: &mut Script<'_>) {
        match script.below(12) {
            0..7 => self.write(script),
            7 => self.read(script),
            8 => self.drive(script),
            9 => self.save_and_restore(script),
            10 if script.one_in(4) => {
                self.space.reset();
                assert_eq!(self.space.to_vec(), self.fresh, "a reset leads back to power-on");
            }
            10 => {
                self.space.reset_function();
                let once = self.space.to_vec();
                self.space.reset_function();
                assert_eq!(self.space.to_vec(), once, "a second reset changes nothing");
            }
            _ => self.size_bars(),
        }
    }

    fn offset(&self, script: &mut Script<'_>) -> usize {
        match script.below(4) {
            0 => script.number() as usize,
            1 => script.u8().into(),
            2 => script.pick(&[COMMAND, BARS, BARS + 4, BARS + 12, ROM, INTERRUPT_LINE]),
            _ => {
                let (mut places, at) = (Vec::new(), script.u8());
                places.extend(self.space.capabilities().map(|(_, at, len)| (at, len)));
                places.extend(self.space.extended_capabilities().map(|(_, at, len)| (at, len)));
                let place = places.get(script.below(places.len()));
                place.map_or(0, |(start, len)| start + usize::from(at) % len.max(&1))
            }
        }
    }

    /// A write of any width is what its bytes are, one after the other.
    fn write(&mut self, script: &mut Script<'_>) {
        let offset = self.offset(script);
        let len = script.pick(&[4, 2, 1, 8, 40]);
        let data = script.bytes(len).to_vec();
        let mut bytewise = self.space.clone();
        let mut sum = Effects::default();
        for (i, byte) in data.iter().enumerate() {
            let effects = write_byte(&mut bytewise, offset.saturating_add(i), *byte);
            sum.bus_master_changed |= effects.bus_master_changed;
            sum.decode_changed |= effects.decode_changed;
            sum.bars_changed |= effects.bars_changed;
            sum.bar_sizes_changed |= effects.bar_sizes_changed;
            sum.rom_changed |= effects.rom_changed;
            sum.intx_disable_changed |= effects.intx_disable_changed;
            sum.msi_changed |= effects.msi_changed;
            sum.msix_changed |= effects.msix_changed;
            sum.soft_reset |= effects.soft_reset;
            sum.flr |= effects.flr;
            sum.power_state = effects.power_state.or(sum.power_state);
        }
        let effects = self.space.write(offset, &data);
        assert_eq!(self.space.to_vec(), bytewise.to_vec());
        assert_eq!(effects, sum);
    }

    /// A read of any width is what its bytes are, and all ones behind the end.
    fn read(&self, script: &mut Script<'_>) {
        let (offset, len) = (self.offset(script), script.below(80));
        let mut data = vec![0x5a; len];
        self.space.read(offset, &mut data);
        let all = self.space.to_vec();
        assert_eq!(all.len(), self.space.size());
        for (i, byte) in data.iter().enumerate() {
            let at = offset.checked_add(i).and_then(|at| all.get(at));
            assert_eq!(byte, at.unwrap_or(&0xff), "byte {i} from {offset:#x}");
        }
        let mut rom = [0; 8];
        self.space.read_rom(script.number(), &mut rom);
    }

    fn drive(&mut self, script: &mut Script<'_>) {
        let offset = self.offset(script);
        match script.below(5) {
            0 => self.space.raise(offset, script.u16()),
            1 => self.space.drive(offset, script.bytes(4)),
            2 => {
                let pending = script.one_in(2);
                self.space.set_interrupt_status(pending);
                assert_eq!(self.space.interrupt_status(), pending);
            }
            3 => self.space.set_transactions_pending(script.one_in(2)),
            _ => self.space.set_msi_pending(script.u8(), script.one_in(2)),
        }
    }

    /// What was saved is taken back; what is not taken changes nothing.
    fn save_and_restore(&mut self, script: &mut Script<'_>) {
        let before = self.space.to_vec();
        let mut saved = self.saved.take().unwrap_or_else(|| before.clone());
        self.saved = Some(before.clone());
        let changes = script.below(4);
        for _ in 0..changes {
            let at = self.offset(script) % saved.len();
            saved[at] ^= 1 << script.below(8);
        }
        match self.space.restore(&saved) {
            Ok(()) => assert_eq!(self.space.to_vec(), saved),
            Err(e) => {
                assert_ne!(changes, 0, "{e}");
                assert_eq!(self.space.to_vec(), before, "refused, and changed: {e}");
            }
        }
    }

    /// Sizing a BAR, as firmware does.
    fn size_bars(&mut self) {
        for index in 0..6 {
            let Some(bar) = self.space.bar(index) else { continue };
            let at = BARS + 4 * index;
            let low_bits = if bar.kind == BarKind::Io { 3 } else { 15 };
            let _ = self.space.write(at, &[0xff; 4]);
            let low = self.u32(at);
            let mut mask = u64::from(low & !low_bits);
            if bar.kind == BarKind::Mem64 {
                let _ = self.space.write(at + 4, &[0xff; 4]);
                mask |= u64::from(self.u32(at + 4)) << 32;
            } else {
                mask |= u64::from(u32::MAX) << 32;
            }
            // I/O BARs may leave the upper half out.
            if bar.kind != BarKind::Io {
                assert_eq!((!mask).wrapping_add(1), bar.size, "BAR {index} {bar:?}");
            }
        }
    }

    fn check_bars(&self) {
        for index in 0..6 {
            if let Some(bar) = self.space.bar(index) {
                assert!(bar.size.is_power_of_two() && bar.address % bar.size == 0, "{bar:?}");
            }
        }
    }

    /// The lists are what a driver finds that follows the pointers.
    fn check_lists(&self) {
        let (mut at, mut found) = (usize::from(self.fresh[CAPABILITIES]), Vec::new());
        while at != 0 {
            assert!(at >= 0x40 && at % 4 == 0 && found.len() < 48, "a list without an end");
            found.push((self.fresh[at], at));
            at = self.fresh[at + 1].into();
        }
        let listed: Vec<_> = self.space.capabilities().map(|(id, at, _)| (id, at)).collect();
        assert_eq!(found, listed);
    }

    fn u32(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        self.space.read(at, &mut word);
        u32::from_le_bytes(word)
    }
}

/// What every write of a byte has to do and to say.
fn write_byte(space: &mut ConfigSpace, at: usize, value: u8) -> Effects {
    let (before, old) = (space.to_vec(), space.clone());
    let effects = space.write(at, &[value]);
    let after = space.to_vec();
    let Some((&was, &is)) = before.get(at).zip(after.get(at)) else {
        assert!(effects.is_empty() && after == before, "there is nothing at {at:#x}");
        return effects;
    };
    assert_eq!((was ^ is) & !old.writable_bits(at), 0, "read-only bits changed at {at:#x}");
    if !effects.bar_sizes_changed {
        let others = before.iter().zip(&after).enumerate().filter(|(i, (a, b))| a != b && *i != at);
        assert_eq!(others.count(), 0, "other bytes changed with that at {at:#x}");
    }
    match at {
        // The header, as PCI 6.2 has it: what can be written reads back.
        COMMAND => {
            let allowed = old.writable_bits(at);
            assert_eq!(is, was & !allowed | value & allowed);
        }
        CACHE_LINE | INTERRUPT_LINE => assert!(is == value || old.writable_bits(at) != 0xff),
        0..4 | 8..12 | 0x2c..0x30 => assert_eq!(is, was, "it is read only"),
        _ => {}
    }
    assert_eq!(effects.bus_master_changed, old.bus_master() != space.bus_master());
    assert_eq!(effects.intx_disable_changed, old.intx_disabled() != space.intx_disabled());
    let decodes = |space: &ConfigSpace| (space.memory_enabled(), space.io_enabled());
    assert_eq!(effects.decode_changed, decodes(&old) != decodes(space));
    let bars = before[BARS..BARS_END] != after[BARS..BARS_END];
    assert!(effects.bars_changed || !bars, "BARs changed and nobody said so");
    assert_eq!(effects.rom_changed, before[ROM..ROM + 4] != after[ROM..ROM + 4]);
    let power = (old.power_state(), space.power_state());
    assert_eq!(effects.power_state, Some(power).filter(|(from, to)| from != to));
    assert_eq!(effects.msix_changed, old.msix() != space.msix());
    assert!(effects.msi_changed || old.msi() == space.msi(), "MSI changed and nobody said so");
    effects
}
