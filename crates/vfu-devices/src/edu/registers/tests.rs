use super::*;
use crate::edu::DEFAULT_DMA_MASK;

const RUN_TO_EDU: u64 = 0x1;
const RUN_TO_RAM: u64 = 0x3;

fn registers() -> Registers {
    Registers::new(DEFAULT_DMA_MASK)
}

impl Registers {
    fn write4(&mut self, offset: u64, value: u32) -> Option<Action> {
        self.write(offset, 4, value.into()).unwrap()
    }

    fn write8(&mut self, offset: u64, value: u64) -> Option<Action> {
        self.write(offset, 8, value).unwrap()
    }

    fn read4(&self, offset: u64) -> u64 {
        self.read(offset, 4).unwrap()
    }

    /// Sets the DMA registers and starts.
    fn dma(&mut self, source: u64, destination: u64, count: u64, command: u64) -> Option<Action> {
        self.write8(DMA_SOURCE, source);
        self.write8(DMA_DESTINATION, destination);
        self.write8(DMA_COUNT, count);
        self.write8(DMA_COMMAND, command)
    }
}

#[test]
fn it_identifies_itself_and_is_alive() {
    let mut r = registers();
    assert_eq!(r.read4(IDENTIFICATION), 0x0100_00ed);
    assert_eq!(r.write4(IDENTIFICATION, 7), None);
    assert_eq!(r.read4(IDENTIFICATION), 0x0100_00ed);
    assert_eq!(r.read4(LIVENESS), 0);
    r.write4(LIVENESS, 0xdead_beef);
    assert_eq!(r.read4(LIVENESS), u64::from(!0xdead_beef_u32));
}

#[test]
fn widths_are_those_of_the_manual() {
    let mut r = registers();
    for width in [1, 2, 3, 8, 16] {
        assert_eq!(r.read(LIVENESS, width), Err(Fault::Width));
        assert_eq!(r.write(LIVENESS, width, 1), Err(Fault::Width));
    }
    for width in [1, 2, 3, 16] {
        assert_eq!(r.read(DMA_SOURCE, width), Err(Fault::Width));
        assert_eq!(r.write(DMA_SOURCE, width, 1), Err(Fault::Width));
    }
    assert_eq!(r.read4(LIVENESS), 0);
    // No register begins in the middle of another, nor in the gaps.
    for offset in [0x02, 0x0c, 0x28, 0x60, 0x64, 0x84, 0xa0, 0xf_fffc] {
        assert_eq!(r.read(offset, 4), Err(Fault::Unmodelled), "{offset:#x}");
    }
    for offset in [0x02, 0x0c, 0x28, 0x84, 0xa0, 0xf_fffc] {
        assert_eq!(r.write(offset, 4, 1), Err(Fault::Unmodelled), "{offset:#x}");
    }
}

#[test]
fn a_narrow_write_clears_the_upper_half_of_a_wide_register() {
    let mut r = registers();
    r.write8(DMA_SOURCE, 0x1111_2222_3333_4444);
    assert_eq!(r.read(DMA_SOURCE, 8), Ok(0x1111_2222_3333_4444));
    r.write4(DMA_SOURCE, 0x5555_6666);
    assert_eq!(r.read(DMA_SOURCE, 8), Ok(0x5555_6666));
}

#[test]
fn a_factorial_is_computed_one_at_a_time() {
    let mut r = registers();
    assert_eq!(r.write4(FACTORIAL, 5), Some(Action::Compute(5)));
    assert_eq!(r.read4(STATUS), 0x01);
    assert_eq!(r.write4(FACTORIAL, 6), None, "it is busy");
    assert_eq!(r.read4(FACTORIAL), 5);
    assert!(!r.computed(120), "no interrupt was asked for");
    assert_eq!((r.read4(FACTORIAL), r.read4(STATUS)), (120, 0));
    assert_eq!(r.read4(INTERRUPT_STATUS), 0);
    assert_eq!(r.write4(FACTORIAL, 6), Some(Action::Compute(6)));
}

#[test]
fn only_the_interrupt_bit_of_the_status_can_be_written() {
    let mut r = registers();
    r.write4(STATUS, 0xffff_ffff);
    assert_eq!(r.read4(STATUS), 0x80);
    r.write4(FACTORIAL, 3);
    r.write4(STATUS, 0);
    assert_eq!(r.read4(STATUS), 0x01);
    // Also while it computes.
    r.write4(STATUS, 0x80);
    assert!(r.computed(6));
    assert_eq!(r.read4(INTERRUPT_STATUS), 0x001);
}

#[test]
fn interrupts_are_raised_and_acknowledged_bit_by_bit() {
    let mut r = registers();
    assert_eq!(r.write4(RAISE, 0), None, "nothing is raised");
    assert_eq!(r.write4(RAISE, 0x5), Some(Action::Interrupt));
    assert_eq!(r.write4(RAISE, 0x8000_0000), Some(Action::Interrupt));
    assert_eq!(r.read4(INTERRUPT_STATUS), 0x8000_0005);
    r.write4(INTERRUPT_STATUS, 0);
    assert_eq!(r.interrupt_status(), 0x8000_0005, "read-only");
    assert_eq!(r.write4(ACKNOWLEDGE, 0x8000_0001), Some(Action::Acknowledge));
    assert_eq!(r.interrupt_status(), 0x4);
    r.write4(ACKNOWLEDGE, 0xffff_ffff);
    assert_eq!(r.interrupt_status(), 0);
}

#[test]
fn dma_goes_both_ways() {
    let mut r = registers();
    let action = r.dma(0x1000, BUFFER_ADDRESS + 16, 100, RUN_TO_EDU);
    let expected = Transfer { to_ram: false, ram: 0x1000, masked: false, buffer: 16..116 };
    assert_eq!(action, Some(Action::Copy(expected)));
    assert!(!r.copied());
    let action = r.dma(BUFFER_ADDRESS, 0x2000, 4096, RUN_TO_RAM | COMMAND_INTERRUPT);
    let expected = Transfer { to_ram: true, ram: 0x2000, masked: false, buffer: 0..4096 };
    assert_eq!(action, Some(Action::Copy(expected)));
    assert!(r.copied());
    assert_eq!(r.read4(INTERRUPT_STATUS), 0x100);
    assert_eq!(r.read4(DMA_COMMAND), 0x6, "all but the run bit stays");
}

#[test]
fn dma_registers_do_not_change_while_it_runs() {
    let mut r = registers();
    assert_eq!(r.write4(DMA_COMMAND, 0x2), None, "not started");
    assert_eq!(r.read4(DMA_COMMAND), 0);
    assert!(r.dma(0x1000, BUFFER_ADDRESS, 8, RUN_TO_EDU).is_some());
    assert_eq!(r.read4(DMA_COMMAND), 1);
    assert_eq!(r.dma(1, 2, 3, RUN_TO_RAM), None);
    let now = [DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND].map(|o| r.read4(o));
    assert_eq!(now, [0x1000, BUFFER_ADDRESS, 8, 1]);
    r.copied();
    assert_eq!(r.read4(DMA_COMMAND), 0);
    assert_eq!(r.write8(DMA_SOURCE, 1), None);
    assert_eq!(r.read4(DMA_SOURCE), 1);
}

#[test]
fn addresses_in_ram_are_masked() {
    let mut r = registers();
    let Some(Action::Copy(transfer)) = r.dma(0xf_1234_5678, BUFFER_ADDRESS, 1, RUN_TO_EDU) else {
        panic!("not started");
    };
    assert_eq!((transfer.ram, transfer.masked), (0x0234_5678, true));
    let mut r = Registers::new(u64::MAX);
    let Some(Action::Copy(transfer)) = r.dma(BUFFER_ADDRESS, u64::MAX, 1, RUN_TO_RAM) else {
        panic!("not started");
    };
    assert_eq!((transfer.ram, transfer.masked), (u64::MAX, false));
}

#[test]
fn dma_outside_of_the_buffer_is_refused_and_ends() {
    for (device, count) in [
        (BUFFER_ADDRESS - 1, 1),
        (BUFFER_ADDRESS, 4097),
        (BUFFER_ADDRESS + 4095, 2),
        (BUFFER_ADDRESS + 4097, 0),
        (BUFFER_ADDRESS + 1, u64::MAX),
        (0, 16),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
    ] {
        let mut r = registers();
        let action = r.dma(0x1000, device, count, RUN_TO_EDU | COMMAND_INTERRUPT);
        assert_eq!(action, Some(Action::OutOfBounds), "{device:#x} {count:#x}");
        let action = registers().dma(device, 0x1000, count, RUN_TO_RAM);
        assert_eq!(action, Some(Action::OutOfBounds), "{device:#x} {count:#x}");
        assert!(r.copied(), "it ends as others do");
        assert_eq!(r.read4(DMA_COMMAND), 0x4);
    }
    let action = registers().dma(0, BUFFER_ADDRESS + 4096, 0, RUN_TO_EDU);
    assert!(matches!(action, Some(Action::Copy(t)) if t.buffer.is_empty()));
}
