//! Register maps: what accesses do.

use allocation_counter::measure;
use proptest::prelude::*;
use vfu::Fault;
use vfu::regmap::BitAccess::{self, *};
use vfu::regmap::{
    Direction, Field, Register, RegisterBank, RegisterDevice, RegisterMap, RegisterMapBuilder,
    RegisterRead, RegisterWrite, Uncovered,
};

fn bank(registers: impl IntoIterator<Item = Register>) -> RegisterBank {
    let builder = RegisterMap::builder("test", 0x100);
    let builder = registers.into_iter().fold(builder, RegisterMapBuilder::register);
    RegisterBank::new(builder.build().unwrap())
}

fn read(device: &mut impl RegisterDevice, offset: u64, width: usize) -> Result<u64, Fault> {
    let mut data = [0; 8];
    device.bar_read(offset, &mut data[..width])?;
    Ok(u64::from_le_bytes(data))
}

fn write(device: &mut impl RegisterDevice, offset: u64, width: usize, value: u64) {
    device.bar_write(offset, &value.to_le_bytes()[..width]).unwrap();
}

const WIDTHS: [usize; 4] = [1, 2, 4, 8];

#[test]
fn bits_do_what_their_access_says() {
    struct Row(BitAccess, u8, u8);
    // Held 0b0011, written 0b0101: what is held then, and what it reads then.
    for Row(access, held, reads) in [
        Row(Ro, 0b0011, 0b0011),
        Row(Rw, 0b0101, 0b0101),
        Row(Wo, 0b0101, 0),
        Row(W1c, 0b0010, 0b0010),
        Row(W1s, 0b0111, 0b0111),
        Row(W1t, 0b0110, 0b0110),
        Row(W0c, 0b0001, 0b0001),
        Row(Rc, 0b0011, 0b0011),
        Row(Raz, 0b0011, 0),
    ] {
        for width in WIDTHS {
            let spread = |byte: u8| u64::from_le_bytes([byte; 8]) >> (64 - 8 * width);
            for (at, len) in (0..width).flat_map(|at| (1..=width - at).map(move |len| (at, len))) {
                let what = format!("{access}, {len} bytes at {at} of {width}");
                let register = Register::new(0x10, width as u8, "r", access);
                let mut bank = bank([register.reset(spread(0b0011))]);
                let touched = (spread(0xff) >> (8 * (width - len))) << (8 * at);
                write(&mut bank, 0x10 + at as u64, len, spread(0b0101));
                let expected = spread(0b0011) & !touched | spread(held) & touched;
                assert_eq!(bank.get(0x10), expected, "{what}");
                let got = read(&mut bank, 0x10 + at as u64, len);
                match access {
                    Wo => assert_eq!(got, Err(Fault::Unmodelled), "{what}"),
                    _ => assert_eq!(got, Ok(spread(reads) & touched >> (8 * at)), "{what}"),
                }
                let left = if access == Rc { expected & !touched } else { expected };
                assert_eq!(bank.get(0x10), left, "after the read, {what}");
                bank.reset();
                assert_eq!(bank.get(0x10), spread(0b0011), "{what}");
            }
        }
    }
}

#[test]
fn fields_have_their_own_access() {
    let mut bank = bank([Register::ro(0, 4, "mixed")
        .reset(0x0f0f_0f0f)
        .field(Field::new(0xff, "a").access(Rw))
        .field(Field::new(0xff00, "b").access(W1c))
        .field(Field::new(0xff_0000, "c").access(Wo))]);
    write(&mut bank, 0, 4, 0x3333_3333);
    assert_eq!(bank.get(0), 0x0f33_0c33);
    assert_eq!(read(&mut bank, 0, 4), Ok(0x0f00_0c33), "what can only be written reads 0");
}

#[test]
fn spanning_accesses_are_split_and_gaps_read_ones() {
    let registers =
        || [Register::rw(0, 2, "a"), Register::rw(4, 4, "b"), Register::w1c(8, 1, "c").reset(0xff)];
    let mut bank = bank(registers());
    write(&mut bank, 0, 8, 0x8877_6655_4433_2211);
    bank.bar_write(7, &[0x99, 0x0f]).unwrap();
    assert_eq!([0, 4, 8].map(|offset| bank.get(offset)), [0x2211, 0x9977_6655, 0xf0]);
    let mut data = [0; 12];
    bank.bar_read(1, &mut data).unwrap();
    assert_eq!(data, [0x22, 255, 255, 0x55, 0x66, 0x77, 0x99, 0xf0, 255, 255, 255, 255]);
    assert_eq!(bank.bar_read(0x20, &mut data), Err(Fault::Unmodelled));
    assert_eq!(bank.bar_write(u64::MAX, &data), Err(Fault::Unmodelled));

    let builder = RegisterMap::builder("zeros", 0x100).gaps_read_zero();
    let builder = registers().into_iter().fold(builder, RegisterMapBuilder::register);
    let mut bank = RegisterBank::new(builder.build().unwrap());
    assert_eq!(read(&mut bank, 0x20, 4), Ok(0));
    write(&mut bank, 0x20, 4, 1);
    assert_eq!(bank.uncovered().len(), 2, "they are reported still");
}

#[test]
fn a_register_may_demand_widths() {
    let mut bank = bank([
        Register::rw(0, 4, "a").widths(&[4]).reset(1),
        Register::rw(4, 4, "b").widths(&[2, 4]).reset(0x1111_1111),
        Register::rw(8, 8, "c").widths(&[4, 8]).zero_extend().reset(u64::MAX),
    ]);
    for (offset, width, fault) in [
        (0, 1, Fault::Width),
        (0, 2, Fault::Width),
        (0, 3, Fault::Width),
        (0, 8, Fault::Width),
        (2, 4, Fault::Unmodelled),
        (6, 2, Fault::Unmodelled),
        (8, 2, Fault::Width),
        (12, 4, Fault::Unmodelled),
    ] {
        assert_eq!(read(&mut bank, offset, width), Err(fault), "{width} at {offset}");
        assert_eq!(bank.bar_write(offset, &[0xff; 8][..width]), Err(fault), "{width} at {offset}");
        assert_eq!(bank.peek(offset, width), Err(fault), "{width} at {offset}");
    }
    assert_eq!([0, 4, 8].map(|offset| bank.get(offset)), [1, 0x1111_1111, u64::MAX]);
    write(&mut bank, 4, 2, 0x2222);
    write(&mut bank, 8, 4, 0x3333_3333);
    assert_eq!([4, 8].map(|offset| bank.get(offset)), [0x1111_2222, 0x3333_3333]);
}

/// Notes what its hooks are told.
struct Notes(RegisterBank, Vec<RegisterRead>, Vec<RegisterWrite>, Result<u64, Fault>);

impl RegisterDevice for Notes {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.0
    }

    fn on_read(&mut self, read: RegisterRead) -> Result<u64, Fault> {
        self.1.push(read);
        self.3
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        self.2.push(write);
        self.3
    }
}

#[test]
fn hooks_are_told_and_have_the_last_word() {
    let bank = bank([
        Register::rw(0x10, 4, "array").array(4, 8).reset(0x1234_5678),
        Register::rc(0x14, 4, "between").array(4, 8).reset(0xff),
    ]);
    let mut notes = Notes(bank, vec![], vec![], Ok(0xff_8765_4321));
    write(&mut notes, 0x21, 2, 0xabcd);
    let expected = RegisterWrite {
        register: 0x10,
        index: 2,
        value: 0x12ab_cd78,
        old: 0x1234_5678,
        written: 0x00ab_cd00,
        mask: 0x00ff_ff00,
    };
    assert_eq!(notes.2, [expected]);
    let element = notes.0.element(0x10, 2);
    assert_eq!((element, notes.0.get(element)), (0x20, 0x8765_4321), "without what does not fit");
    assert_eq!(read(&mut notes, 0x25, 1), Ok(0x43), "the byte of what the hook says");
    assert_eq!(notes.1, [RegisterRead { register: 0x14, index: 2, value: 0xff }]);
    assert_eq!(notes.0.get(0x24), 0xff, "another byte was read");
    notes.3 = Err(Fault::Denied);
    assert_eq!(read(&mut notes, 0x1c, 4), Err(Fault::Denied));
    assert_eq!(notes.0.get(0x1c), 0xff, "a read that is refused clears nothing");
    assert_eq!(notes.bar_write(0x10, &[1]), Err(Fault::Denied));
    assert_eq!(notes.0.get(0x10), 0x1234_5678);
    assert_eq!(notes.0.uncovered(), [], "the model has decided so");
}

#[test]
fn what_is_not_covered_is_counted_within_bounds() {
    let mut bank = bank([Register::wo(0, 4, "command")]);
    for _ in 0..3 {
        let _ = read(&mut bank, 0x40, 4);
        let _ = read(&mut bank, 0, 4);
    }
    assert_eq!(bank.bar_write(0x40, &[0; 4]), Err(Fault::Unmodelled));
    write(&mut bank, 0, 8, 0);
    let fault = Fault::Unmodelled;
    let row =
        |offset, width, direction, count| Uncovered { offset, width, direction, fault, count };
    assert_eq!(
        bank.uncovered(),
        [
            row(0x40, 4, Direction::Read, 3),
            row(0, 4, Direction::Read, 3),
            row(0x40, 4, Direction::Write, 1),
            row(0, 8, Direction::Write, 1),
        ]
    );
    assert_eq!(
        bank.uncovered()[0].to_string(),
        "read of 4 bytes at 0x40, 3 times: no register is there"
    );
    for offset in 0x40..0x100 {
        let _ = read(&mut bank, offset, 1);
    }
    assert_eq!((bank.uncovered().len(), bank.uncovered_others()), (64, 192 - 60));
}

#[test]
fn an_access_allocates_nothing() {
    let mut bank = bank((0..8).map(|n| Register::rw(8 * n, 4, format!("r{n}"))));
    let info = measure(|| {
        let mut data = [0; 64];
        for offset in 0..0x100 {
            for width in [1, 3, 4, 8, 64] {
                let _ = bank.bar_write(offset, &data[..width]);
                let _ = bank.bar_read(offset, &mut data[..width]);
            }
        }
    });
    assert_eq!(info.count_total, 0);
}

fn random_map() -> impl Strategy<Value = RegisterBank> {
    let access = prop::sample::select(vec![Ro, Rw, Wo, W1c, W1s, W1t, W0c, Rc, Raz]);
    let slot = (0..4_usize, access, any::<bool>(), any::<bool>(), any::<bool>());
    (prop::collection::vec(slot, 16), any::<bool>()).prop_map(|(slots, zeros)| {
        let mut builder = RegisterMap::builder("random", 0x100);
        if zeros {
            builder = builder.gaps_read_zero();
        }
        for (n, (width, access, there, exact, extend)) in slots.into_iter().enumerate() {
            let (offset, width) = (16 * n as u64, WIDTHS[width] as u8);
            if !there {
                continue;
            }
            let mut register = Register::new(offset, width, format!("r{n}"), access);
            if exact {
                register = register.widths(&[width]);
            }
            if extend {
                register = register.zero_extend();
            }
            builder = builder.register(register.array(2, width.into()));
        }
        RegisterBank::new(builder.build().unwrap())
    })
}

proptest! {
    #[test]
    fn nothing_panics(
        mut bank in random_map(),
        accesses in prop::collection::vec(
            (prop_oneof![0..0x110_u64, any::<u64>()], 0..80_usize, any::<u8>(), any::<bool>()),
            0..40,
        ),
    ) {
        for (offset, width, byte, write) in accesses {
            let mut data = [byte; 80];
            let _ = match write {
                true => bank.bar_write(offset, &data[..width]),
                false => bank.bar_read(offset, &mut data[..width]),
            };
            let _ = bank.peek(offset, width);
        }
    }

    #[test]
    fn bytes_and_words_write_the_same(
        writes in prop::collection::vec((0..24_u64, prop::sample::select(vec![1, 2, 4, 8]), any::<u64>()), 0..20),
    ) {
        let registers = || [
            Register::rw(0, 8, "a"), Register::rw(8, 4, "b"), Register::rw(12, 2, "c"),
            Register::rw(14, 1, "d"), Register::rw(15, 1, "e"), Register::rw(16, 4, "f").array(4, 4),
        ];
        let (mut words, mut bytes) = (bank(registers()), bank(registers()));
        for (offset, width, value) in writes {
            write(&mut words, offset, width, value);
            for (n, byte) in value.to_le_bytes()[..width].iter().enumerate() {
                bytes.bar_write(offset + n as u64, &[*byte]).unwrap();
            }
        }
        let (mut a, mut b) = ([0; 32], [1; 32]);
        words.bar_read(0, &mut a).unwrap();
        for (n, byte) in b.iter_mut().enumerate() {
            bytes.bar_read(n as u64, std::slice::from_mut(byte)).unwrap();
        }
        prop_assert_eq!(a, b);
    }
}

#[test]
fn a_map_too_wide_for_an_index_works_the_same() {
    let far = 1 << 40;
    let builder = RegisterMap::builder("wide", far + 8);
    let builder =
        builder.register(Register::rw(8, 1, "near")).register(Register::rw(far, 8, "far"));
    let mut bank = RegisterBank::new(builder.build().unwrap());
    write(&mut bank, 8, 1, 0x11);
    write(&mut bank, far + 4, 4, 0x2222_3333);
    assert_eq!((read(&mut bank, 8, 1), bank.get(far)), (Ok(0x11), 0x2222_3333_0000_0000));
    for offset in [0, 7, 9, far - 1, far + 8, u64::MAX] {
        assert_eq!(read(&mut bank, offset, 1), Err(Fault::Unmodelled), "{offset:#x}");
    }
}

/// A device that counts how often an access of its is over.
struct Settled(RegisterBank, u32);

impl RegisterDevice for Settled {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.0
    }

    fn settle(&mut self) {
        self.1 += 1;
    }
}

#[test]
fn an_access_settles_once_whatever_its_parts() {
    let map = RegisterMap::builder("s", 16)
        .register(Register::rw(0, 4, "A"))
        .register(Register::rw(4, 4, "B"))
        .build()
        .unwrap();
    let mut device = Settled(RegisterBank::new(map), 0);
    device.bar_write(0, &[1; 8]).unwrap();
    assert_eq!(device.1, 1, "two registers");
    device.bar_read(2, &mut [0; 4]).unwrap();
    assert_eq!(device.1, 2, "parts of two");
    assert!(device.bar_read(8, &mut [0; 4]).is_err());
    assert_eq!(device.1, 3, "none");
}
