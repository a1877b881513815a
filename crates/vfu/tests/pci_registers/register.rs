//! A row of a table, and what it says of a register.

use vfu::pci::ConfigSpace;

pub(crate) type Row = (usize, usize, &'static str, &'static str);

/// A register with a mask for each rule.
#[derive(Default)]
struct Register {
    name: String,
    at: usize,
    width: usize,
    value: u32,
    rw: u32,
    rw1c: u32,
    dev: u32,
    sticky: u32,
    any: u32,
}

impl Register {
    fn parse(capability: &str, start: usize, row: &Row) -> Self {
        let (offset, width, name, bits) = *row;
        let name = format!("{capability}, {name}");
        let mut register = Register { name, at: start + offset, width, ..Self::default() };
        let mut next = 8 * width;
        for part in bits.split(';') {
            let [range, rule, value] = part.split_whitespace().collect::<Vec<_>>()[..] else {
                panic!("{}: {part:?}", register.name);
            };
            let (high, low) = range.split_once(':').unwrap_or((range, range));
            let (high, low) = (high.parse::<usize>().unwrap(), low.parse::<usize>().unwrap());
            assert_eq!(high + 1, next, "{}: {part:?} leaves a gap", register.name);
            next = low;
            let mask = ((1u64 << (high + 1)) - (1 << low)) as u32;
            let value = match value.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
                None => value.parse().unwrap(),
            };
            assert_eq!(value << low & !mask, 0, "{}: {part:?} is too wide", register.name);
            register.value |= value << low;
            let (plain, sticky) = match rule {
                "rws" | "rw1cs" | "devs" => (rule.trim_end_matches('s'), mask),
                _ => (rule, 0),
            };
            register.sticky |= sticky;
            match plain {
                "ro" => {}
                "rw" => register.rw |= mask,
                "rw1c" => register.rw1c |= mask,
                "dev" => register.dev |= mask,
                "any" => register.any |= mask,
                other => panic!("{}: rule {other:?}", register.name),
            }
        }
        assert_eq!(next, 0, "{}: the lowest bits are missing", register.name);
        register
    }

    fn read(&self, space: &ConfigSpace) -> u32 {
        let mut bytes = [0; 4];
        space.read(self.at, &mut bytes[..self.width]);
        u32::from_le_bytes(bytes)
    }

    /// Writes, and leaves the fields with rules of their own as they are.
    fn write(&self, space: &mut ConfigSpace, value: u32) {
        let value = value & !self.any | self.value & self.any;
        let _ = space.write(self.at, &value.to_le_bytes()[..self.width]);
    }

    fn raise(&self, space: &mut ConfigSpace) {
        for byte in 0..self.width {
            space.raise(self.at + byte, 0x00ff);
        }
    }

    /// All that can be 1 is.
    fn fill(&self, space: &mut ConfigSpace) {
        self.write(space, !0);
        self.raise(space);
        space.drive(self.at, &[0xff; 4][..self.width]);
    }

    fn check(&self, fresh: &ConfigSpace) {
        let name = &self.name;
        let fixed = self.value & !(self.rw | self.rw1c | self.dev);
        let all = fixed | self.rw | self.rw1c | self.dev;
        assert_eq!(self.read(fresh), self.value, "{name}: after power-on");

        let mut space = fresh.clone();
        self.write(&mut space, !0);
        let driven = self.value & self.dev;
        assert_eq!(self.read(&space), fixed | self.rw | driven, "{name}: ones written");
        self.write(&mut space, 0);
        assert_eq!(self.read(&space), fixed | driven, "{name}: zeros written");

        for bit in (0..8 * self.width).map(|bit| 1 << bit) {
            let mut space = fresh.clone();
            self.write(&mut space, bit);
            let expected = fixed | driven | bit & self.rw | self.value & self.rw1c & !bit;
            assert_eq!(self.read(&space), expected, "{name}: {bit:#x} written");
            self.fill(&mut space);
            assert_eq!(self.read(&space), all, "{name}: filled");
            self.write(&mut space, !bit & self.rw);
            assert_eq!(self.read(&space), all & !(bit & self.rw), "{name}: all but {bit:#x}");
            self.fill(&mut space);
            self.write(&mut space, bit & self.rw1c | self.rw);
            assert_eq!(self.read(&space), all & !(bit & self.rw1c), "{name}: {bit:#x} cleared");
        }

        let mut space = fresh.clone();
        self.raise(&mut space);
        assert_eq!(self.read(&space), self.value | self.rw1c, "{name}: raised");
        let mut space = fresh.clone();
        space.drive(self.at, &[0xff; 4][..self.width]);
        assert_eq!(self.read(&space), self.value | self.dev, "{name}: driven");

        self.fill(&mut space);
        let filled = space.to_vec();
        space.reset_function();
        let expected = all & self.sticky | self.value & !self.sticky;
        assert_eq!(self.read(&space), expected, "{name}: after a reset of the function");
        space.reset();
        assert_eq!(self.read(&space), self.value, "{name}: after power-on");
        space.restore(&filled).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(self.read(&space), all, "{name}: restored");
    }
}

/// Checks the registers from `start` on, which cover `len` bytes without a gap.
pub(crate) fn check(space: &ConfigSpace, name: &str, start: usize, len: usize, rows: &[Row]) {
    let mut next = 0;
    for row in rows {
        assert_eq!(row.0, next, "{name}, {}: the offset", row.2);
        next = row.0 + row.1;
        Register::parse(name, start, row).check(space);
    }
    assert_eq!(next, len, "{name}: the length");
}
