//! `edu` as a driver sees it, through a session.

mod common;

use common::{Bench, RAM, Ram};
use vfu::pci::BarKind;
use vfu_devices::edu::{BUFFER_ADDRESS, BUFFER_SIZE, IRQ_DMA, IRQ_FACTORIAL};
use vfu_devices::{Model, Options};
use vfu_testkit::Detail;

const IDENTIFICATION: u64 = 0x00;
const LIVENESS: u64 = 0x04;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT_STATUS: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;

const RUN: u32 = 1;
const TO_RAM: u32 = 2;
const INTERRUPT: u32 = 4;

fn edu() -> Bench {
    Bench::new(Model::Edu, 0)
}

impl Bench {
    fn start_dma(&self, source: u64, destination: u64, count: usize, command: u32) {
        self.write64(SOURCE, source);
        self.write64(DESTINATION, destination);
        self.write64(COUNT, count as u64);
        self.write32(COMMAND, command | RUN);
    }

    fn dma(&self, source: u64, destination: u64, count: usize, command: u32) {
        self.start_dma(source, destination, count, command);
        self.wait_until("the DMA", |b| b.read32(COMMAND) & RUN == 0);
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8).collect()
}

#[test]
fn it_looks_like_the_one_of_qemu() {
    let edu = edu();
    let function = edu.vmm.enumerate().unwrap();
    assert_eq!((function.vendor, function.device), (0x1234, 0x11e8));
    assert_eq!((function.subsystem_vendor, function.subsystem), (0x1af4, 0x1100));
    assert_eq!((function.revision, function.class), (0x10, 0x00_ff00));
    assert_eq!(function.interrupt_pin, 1, "INTA#");
    assert_eq!(function.bars.len(), 1);
    let bar = function.bars[0];
    assert_eq!((bar.index, bar.kind, bar.size), (0, BarKind::Mem32, 1 << 20));
    let msi = &function.capability(0x05).unwrap().detail;
    assert!(matches!(msi, Detail::Msi { vectors: 1, address64: true, .. }), "{msi:?}");
    assert_eq!(edu.read32(IDENTIFICATION), 0x0100_00ed);
    edu.write32(LIVENESS, 0x1234_5678);
    assert_eq!(edu.read32(LIVENESS), !0x1234_5678);
}

#[test]
fn wrong_widths_and_empty_places_read_ones_and_are_no_error() {
    let edu = edu();
    edu.write(LIVENESS, &[1, 2]);
    edu.write(LIVENESS, &[1; 8]);
    edu.write32(0x10, 7);
    assert_eq!(edu.read(LIVENESS), [0xff; 2]);
    assert_eq!(edu.read(LIVENESS), [0xff; 8]);
    assert_eq!(edu.read(0x10), [0xff; 4]);
    assert_eq!(edu.read(0xf_fffc), [0xff; 4]);
    assert_eq!(edu.read32(LIVENESS), 0);
}

#[test]
fn a_factorial_interrupts_by_the_pin_until_it_is_acknowledged() {
    let edu = edu();
    let irq = edu.intx();
    edu.write32(STATUS, 0x80);
    edu.write32(FACTORIAL, 10);
    assert_eq!(irq.wait(), 1);
    assert_eq!(edu.read32(FACTORIAL), 3_628_800);
    assert_eq!((edu.read32(STATUS), edu.read32(INTERRUPT_STATUS)), (0x80, IRQ_FACTORIAL));
    assert!(edu.pin());
    // A level: unmasking it while it is up interrupts again.
    edu.vmm.unmask_intx().unwrap();
    assert_eq!(irq.wait(), 1);
    edu.write32(ACKNOWLEDGE, IRQ_FACTORIAL);
    edu.vmm.unmask_intx().unwrap();
    assert_eq!((irq.count(), edu.pin(), edu.read32(INTERRUPT_STATUS)), (0, false, 0));
    edu.write32(RAISE, 0x30);
    assert_eq!((irq.wait(), edu.pin()), (1, true));
}

#[test]
fn with_msi_the_pin_stays_down() {
    let edu = edu();
    edu.enable_bus_master();
    let irq = edu.msi();
    edu.write32(RAISE, 0x1);
    assert_eq!(irq.wait(), 1);
    edu.write32(RAISE, 0x2);
    assert_eq!(irq.wait(), 1, "each is a message");
    assert!(!edu.pin());
    assert_eq!(edu.read32(INTERRUPT_STATUS), 0x3);
    edu.write32(ACKNOWLEDGE, 0x3);
    assert_eq!((edu.read32(INTERRUPT_STATUS), irq.count()), (0, 0));
}

/// From RAM to the buffer and back to another place, at odd places and lengths.
fn round_trips(edu: &Bench, ram: &Ram) {
    edu.enable_bus_master();
    let irq = edu.msi();
    for (round, (offset, len, inside)) in
        [(0, 4096, 0), (1, 1, 4095), (4095, 2, 7), (123, 1000, 3000), (8, 0, 4096)]
            .into_iter()
            .enumerate()
    {
        let data = pattern(len, round as u8);
        ram.put(offset, &data);
        let mut expected = ram.all();
        let back = 0x8000 + offset;
        expected[back..back + len].copy_from_slice(&data);
        let device = BUFFER_ADDRESS + inside;
        edu.start_dma(RAM + offset as u64, device, len, INTERRUPT);
        assert_eq!(irq.wait(), 1);
        assert_eq!(edu.read32(INTERRUPT_STATUS), IRQ_DMA);
        edu.write32(ACKNOWLEDGE, IRQ_DMA);
        edu.start_dma(device, RAM + back as u64, len, TO_RAM | INTERRUPT);
        assert_eq!(irq.wait(), 1, "the interrupt comes behind the data");
        assert!(ram.all() == expected, "round {round}");
        edu.write32(ACKNOWLEDGE, IRQ_DMA);
    }
}

#[test]
fn dma_to_shared_memory() {
    let edu = edu();
    let ram = Ram::shared(&edu);
    round_trips(&edu, &ram);
}

#[test]
fn dma_by_messages() {
    for twin in [true, false] {
        let edu = Bench::with(Model::Edu, 0, &Options::default(), twin);
        let ram = Ram::messages(&edu);
        round_trips(&edu, &ram);
    }
}

#[test]
fn dma_that_fails_moves_nothing_and_ends() {
    let edu = edu();
    let ram = Ram::shared(&edu);
    let mut expected = ram.all();
    let data = pattern(BUFFER_SIZE, 5);
    ram.put(0, &data);
    expected[..BUFFER_SIZE].copy_from_slice(&data);
    let irq = edu.intx();
    // Before bus mastering is on, nothing moves; the interrupt comes.
    edu.start_dma(RAM, BUFFER_ADDRESS, BUFFER_SIZE, INTERRUPT);
    assert_eq!((irq.wait(), edu.read32(COMMAND)), (1, INTERRUPT));
    edu.write32(ACKNOWLEDGE, IRQ_DMA);
    edu.enable_bus_master();
    // No memory there, partly none, and out of the buffer.
    edu.dma(0x10_0000, BUFFER_ADDRESS, 16, 0);
    edu.dma(RAM + 0x1_0000 - 8, BUFFER_ADDRESS, 16, 0);
    edu.dma(RAM, BUFFER_ADDRESS + 4000, 97, 0);
    edu.dma(RAM, BUFFER_ADDRESS - 1, 2, 0);
    edu.dma(RAM, 0, 4096, 0);
    edu.dma(BUFFER_ADDRESS + 1, RAM, 4096, TO_RAM);
    assert!(ram.all() == expected);
    // The buffer is as it was: empty.
    edu.dma(BUFFER_ADDRESS, RAM, BUFFER_SIZE, TO_RAM);
    expected[..BUFFER_SIZE].fill(0);
    assert!(ram.all() == expected);
}

#[test]
fn addresses_in_ram_go_through_the_mask() {
    let edu = edu();
    let ram = Ram::shared(&edu);
    edu.enable_bus_master();
    ram.put(0, b"masked");
    edu.dma(0xabcd_0000_0000 | 0xf000_0000 | RAM, BUFFER_ADDRESS, 6, 0);
    edu.dma(BUFFER_ADDRESS, RAM + 0x100, 6, TO_RAM);
    assert_eq!(&ram.all()[0x100..0x106], b"masked");

    let options = Options { dma_mask: RAM | 0xff };
    let narrow = Bench::with(Model::Edu, 0, &options, true);
    let ram = Ram::shared(&narrow);
    narrow.enable_bus_master();
    ram.put(0, b"masked");
    narrow.dma(RAM | 0x8000_0000, BUFFER_ADDRESS, 6, 0);
    narrow.dma(BUFFER_ADDRESS, RAM | 0x10, 6, TO_RAM);
    assert_eq!(&ram.all()[0x10..0x16], b"masked");
}

#[test]
fn a_reset_in_the_midst_of_work_leaves_nothing() {
    for twin in [true, false] {
        let edu = Bench::with(Model::Edu, 0, &Options::default(), twin);
        let _ram = Ram::messages(&edu);
        for _ in 0..50 {
            edu.enable_bus_master();
            edu.write32(LIVENESS, 1);
            edu.write32(STATUS, 0x80);
            edu.write32(FACTORIAL, 12);
            edu.start_dma(RAM, BUFFER_ADDRESS, 4096, INTERRUPT);
            edu.vmm.client().reset().unwrap();
            for register in
                [LIVENESS, FACTORIAL, STATUS, INTERRUPT_STATUS, SOURCE, DESTINATION, COUNT, COMMAND]
            {
                assert_eq!(edu.read32(register), 0, "{register:#x}");
            }
            assert!(!edu.pin());
        }
        // It works on; and what was under way before, has ended before this.
        edu.write32(FACTORIAL, 4);
        edu.wait_until("the factorial", |b| b.read32(STATUS) == 0);
        assert_eq!((edu.read32(FACTORIAL), edu.read32(INTERRUPT_STATUS)), (24, 0));
    }
}

#[test]
fn the_next_client_finds_it_as_it_was_left() {
    let edu = edu();
    for register in [LIVENESS, RAISE, SOURCE] {
        edu.write32(register, 0x0707_0707);
    }
    let edu = edu.next_client();
    assert_eq!(edu.read32(LIVENESS), !0x0707_0707);
    assert_eq!((edu.read32(INTERRUPT_STATUS), edu.read32(SOURCE)), (0x0707_0707, 0x0707_0707));
    assert_eq!((edu.pin(), edu.intx().wait()), (true, 1), "the pin is up");
    edu.vmm.client().reset().unwrap();
    assert_eq!((edu.read32(LIVENESS), edu.pin()), (0, false));
}

#[test]
fn status_and_pin_agree_whatever_runs_at_once() {
    let edu = edu();
    edu.write32(STATUS, 0x80);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..200 {
                edu.write32(FACTORIAL, n);
                edu.wait_until("the factorial", |b| b.read32(STATUS) & 1 == 0);
            }
        });
        scope.spawn(|| {
            for _ in 0..200 {
                edu.write32(RAISE, 0x10);
                edu.write32(ACKNOWLEDGE, 0xffff_ffff);
            }
        });
    });
    edu.write32(ACKNOWLEDGE, 0xffff_ffff);
    assert_eq!((edu.read32(INTERRUPT_STATUS), edu.pin()), (0, false));
    edu.write32(RAISE, 1);
    assert!(edu.pin());
}
