//! Accesses, split into registers.

use super::bank::RegisterBank;
use super::coverage::{Direction, Uncovered};
use super::map::RegisterMap;
use super::rules::{Rules, ones};
use super::{RegisterDevice, RegisterRead, RegisterWrite, trace};
use crate::device::Fault;

/// The part of an access that lies in one register.
#[derive(Clone, Copy)]
struct Piece {
    slot: usize,
    /// The first byte, from the register's start.
    at: usize,
    len: usize,
    /// All of the access, not only this piece.
    access: Span,
}

#[derive(Clone, Copy)]
struct Span {
    offset: u64,
    len: usize,
}

/// What lies at the start of a span.
enum Found {
    Register(Piece),
    /// So many bytes without a register.
    Gap(usize),
}

impl Piece {
    /// The bits of the register that it touches.
    fn mask(&self) -> u64 {
        ones(self.len) << (8 * self.at)
    }

    /// Whether the register can be accessed in this way.
    #[inline]
    fn check(&self, rules: &Rules) -> Result<(), Fault> {
        let whole = self.len == self.access.len;
        match rules.widths {
            0 => Ok(()),
            _ if self.at != 0 => Err(Fault::Unmodelled),
            // Widths are powers of two; what is longer than a register is not whole.
            widths
                if whole && self.len.is_power_of_two() && usize::from(widths) & self.len != 0 =>
            {
                Ok(())
            }
            _ => Err(Fault::Width),
        }
    }
}

impl RegisterMap {
    /// What lies at `done` bytes from the start of an access.
    #[inline]
    fn next(&self, access: Span, done: usize) -> Found {
        // The last byte of an access may be that of the address space, so ends are not computed.
        let (offset, left) = (access.offset.wrapping_add(done as u64), access.len - done);
        match self.find(offset) {
            Some((slot, at)) => {
                let len = left.min(usize::from(self.rules(slot).width) - at);
                Found::Register(Piece { slot, at, len, access })
            }
            None => {
                let next = self.starts.partition_point(|start| *start <= offset);
                let len = match self.starts.get(next).map(|start| start - offset) {
                    Some(gap) if gap < left as u64 => gap as usize,
                    _ => left,
                };
                Found::Gap(len)
            }
        }
    }
}

/// Joins what became of the pieces: the access has failed if all of them have.
struct Outcome {
    any: bool,
    fault: Option<Fault>,
}

impl Outcome {
    const NONE: Outcome = Outcome { any: false, fault: None };

    fn add(&mut self, result: Result<(), Fault>) {
        match result {
            Ok(()) => self.any = true,
            Err(fault) => self.fault = self.fault.or(Some(fault)),
        }
    }

    fn end(self, bank: &mut RegisterBank, access: Span, direction: Direction) -> Result<(), Fault> {
        match self.fault {
            None => Ok(()),
            Some(fault) => {
                bank.uncovered_access(access, direction, fault);
                if self.any { Ok(()) } else { Err(fault) }
            }
        }
    }
}

impl RegisterBank {
    #[cold]
    fn uncovered_access(&mut self, access: Span, direction: Direction, fault: Fault) {
        self.spin.interrupt();
        // The device has denied it: that is a part of the model.
        if fault == Fault::Denied {
            return;
        }
        let Span { offset, len: width } = access;
        let access = Uncovered { offset, width, direction, fault, count: 1 };
        if self.coverage.count(access) {
            trace::uncovered(&self.map, &access);
        }
    }

    /// What reading a gap is.
    fn gap(&self) -> Result<(), Fault> {
        if self.map.gaps_read_zero { Ok(()) } else { Err(Fault::Unmodelled) }
    }

    /// Reads as the driver would, but calls no hook, clears nothing and counts nothing: for
    /// debuggers and tests. `width` is at most 8 bytes; only one register is read.
    ///
    /// # Errors
    /// [`Fault::Unmodelled`] if no register is there, [`Fault::Width`] if it can't be read in this
    /// width.
    pub fn peek(&self, offset: u64, width: usize) -> Result<u64, Fault> {
        let Found::Register(piece) = self.map.next(Span { offset, len: width }, 0) else {
            return Err(Fault::Unmodelled);
        };
        let rules = self.map.rules(piece.slot);
        piece.check(rules)?;
        match (rules.write_only, piece.len == width) {
            (true, _) => Err(Fault::Unmodelled),
            (_, false) => Err(Fault::Width),
            _ => Ok((rules.read(self.values[piece.slot]) & piece.mask()) >> (8 * piece.at)),
        }
    }
}

pub(super) fn read<D: RegisterDevice + ?Sized>(
    device: &mut D,
    offset: u64,
    data: &mut [u8],
) -> Result<(), Fault> {
    let access = Span { offset, len: data.len() };
    let mut outcome = Outcome::NONE;
    let mut done = 0;
    while done < access.len {
        let bank = device.bank();
        match bank.map.next(access, done) {
            Found::Register(piece) => {
                let out = &mut data[done..done + piece.len];
                let result = read_piece(device, piece, out);
                if result.is_err() {
                    out.fill(0xff);
                }
                outcome.add(result);
                done += piece.len;
            }
            Found::Gap(len) => {
                let gap = Span { offset: offset.wrapping_add(done as u64), len };
                let result = cross(bank, gap, Direction::Read);
                data[done..done + len].fill(if result.is_ok() { 0 } else { 0xff });
                outcome.add(result);
                done += len;
            }
        }
    }
    outcome.end(device.bank(), access, Direction::Read)
}

/// What an access does where no register is. Where that is no fault, it is counted here.
fn cross(bank: &mut RegisterBank, gap: Span, direction: Direction) -> Result<(), Fault> {
    bank.gap()?;
    bank.uncovered_access(gap, direction, Fault::Unmodelled);
    Ok(())
}

#[inline]
fn read_piece<D: RegisterDevice + ?Sized>(
    device: &mut D,
    piece: Piece,
    out: &mut [u8],
) -> Result<(), Fault> {
    let (slot, mask) = (piece.slot, piece.mask());
    let bank = device.bank();
    let rules = bank.map.rules(slot);
    piece.check(rules)?;
    if rules.write_only {
        return Err(Fault::Unmodelled);
    }
    let (all, before) = (rules.ones, bank.values[slot]);
    let value = rules.read(before);
    let after = rules.after_read(before, mask);
    bank.values[slot] = after;
    let event = RegisterRead { register: rules.offset, index: bank.map.slots[slot].index, value };
    let result = device.on_read(event);
    let bank = device.bank();
    let value = match result {
        Ok(value) => value & all,
        Err(fault) => {
            bank.values[slot] |= before & !after;
            return Err(fault);
        }
    };
    if bank.spin.read(slot, value) {
        trace::spinning(&bank.map, slot, value);
    }
    if trace::is_on() {
        trace::access(&bank.map, slot, Direction::Read, mask, 0, value);
    }
    put(out, value >> (8 * piece.at));
    Ok(())
}

pub(super) fn write<D: RegisterDevice + ?Sized>(
    device: &mut D,
    offset: u64,
    data: &[u8],
) -> Result<(), Fault> {
    let access = Span { offset, len: data.len() };
    let mut outcome = Outcome::NONE;
    let mut done = 0;
    while done < access.len {
        let bank = device.bank();
        match bank.map.next(access, done) {
            Found::Register(piece) => {
                outcome.add(write_piece(device, piece, get(&data[done..done + piece.len])));
                done += piece.len;
            }
            Found::Gap(len) => {
                let gap = Span { offset: offset.wrapping_add(done as u64), len };
                outcome.add(cross(bank, gap, Direction::Write));
                done += len;
            }
        }
    }
    outcome.end(device.bank(), access, Direction::Write)
}

#[inline]
fn write_piece<D: RegisterDevice + ?Sized>(
    device: &mut D,
    piece: Piece,
    data: u64,
) -> Result<(), Fault> {
    let slot = piece.slot;
    let bank = device.bank();
    bank.spin.interrupt();
    let rules = bank.map.rules(slot);
    piece.check(rules)?;
    let (all, old) = (rules.ones, bank.values[slot]);
    let written = data << (8 * piece.at);
    let mask = if rules.zero_extend { all } else { piece.mask() };
    let event = RegisterWrite {
        register: rules.offset,
        index: bank.map.slots[slot].index,
        value: rules.write(old, written, mask),
        old,
        written,
        mask,
    };
    let value = device.on_write(event)? & all;
    let bank = device.bank();
    bank.values[slot] = value;
    if trace::is_on() {
        trace::access(&bank.map, slot, Direction::Write, mask, written, value);
    }
    Ok(())
}

/// Bytes of up to a register's width, as a number.
#[inline]
fn get(data: &[u8]) -> u64 {
    match *data {
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => data.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    }
}

/// The low bytes of a number, as many as are wanted: at most 8.
#[inline]
fn put(out: &mut [u8], value: u64) {
    match out.len() {
        4 => out.copy_from_slice(&(value as u32).to_le_bytes()),
        8 => out.copy_from_slice(&value.to_le_bytes()),
        _ => out.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from),
    }
}
