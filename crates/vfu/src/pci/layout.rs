//! Where the capabilities lie, and how they are linked.

use super::caps::Placed;
use super::registers::Registers;
use super::{ConfigSize, PciError, header, regs};

/// The registers of a capability and the offset that the author chose for it, if any.
pub(crate) type Body = (Registers, Option<usize>);

/// A piece of the space that a capability lies in: its id, start and end.
type Taken = (u16, usize, usize);

/// Finds a place between `start` and `end` for each of `asked` (id, length in bytes, chosen offset).
/// Those without an offset of their own go, in order, to the lowest place that is large enough.
///
/// What has no place is given back with its id and length and the longest place left.
fn place(
    asked: &[(u16, usize, Option<usize>)],
    start: usize,
    end: usize,
) -> Result<Vec<usize>, NoPlace> {
    let mut taken: Vec<Taken> = Vec::with_capacity(asked.len());
    for &(id, len, chosen) in asked {
        let Some(offset) = chosen else { continue };
        if offset % 4 != 0 || offset < start || offset >= end {
            return Err(NoPlace::Wrong(PciError::CapabilityOffset { id, offset, start, end }));
        }
        if len > end - offset {
            return Err(NoPlace::Room { id, len, left: end - offset });
        }
        let until = (offset + len).next_multiple_of(4);
        if let Some(&(other, other_offset, _)) =
            taken.iter().find(|other| other.1 < until && offset < other.2)
        {
            let error = PciError::CapabilityOverlap { id, offset, len, other, other_offset };
            return Err(NoPlace::Wrong(error));
        }
        taken.push((id, offset, until));
    }
    let mut places = Vec::with_capacity(asked.len());
    for &(id, len, chosen) in asked {
        let offset = match chosen {
            Some(offset) => offset,
            None => {
                taken.sort_unstable_by_key(|taken| taken.1);
                let offset = free(&taken, len, start, end);
                let offset = offset.map_err(|left| NoPlace::Room { id, len, left })?;
                taken.push((id, offset, (offset + len).next_multiple_of(4)));
                offset
            }
        };
        places.push(offset);
    }
    Ok(places)
}

enum NoPlace {
    Room { id: u16, len: usize, left: usize },
    Wrong(PciError),
}

/// The lowest place of `len` bytes between what is `taken`, in ascending order; or how long the
/// longest one is.
fn free(taken: &[Taken], len: usize, start: usize, end: usize) -> Result<usize, usize> {
    let (mut at, mut longest) = (start, 0);
    for &(_, from, until) in taken.iter().chain(&[(0, end, end)]) {
        let left = from.saturating_sub(at);
        if len <= left {
            return Ok(at);
        }
        longest = longest.max(left);
        at = until;
    }
    Err(longest)
}

/// Places the capabilities and links them from the Capabilities Pointer (PCI 6.7).
pub(crate) fn link(registers: &mut Registers, bodies: &[Body]) -> Result<Vec<Placed>, PciError> {
    let asked = asked(bodies, |body| body.u8(0).into());
    let places = place(&asked, regs::DEVICE_DEPENDENT, ConfigSize::Conventional.bytes());
    let places = places.map_err(|error| match error {
        NoPlace::Room { id, len, left } => PciError::CapabilityRoom { id: id as u8, len, left },
        NoPlace::Wrong(error) => error,
    })?;
    let mut list = Vec::with_capacity(bodies.len());
    let mut pointer = regs::CAPABILITIES_POINTER;
    for ((body, _), at) in bodies.iter().zip(places) {
        registers.paste(at, body);
        registers.set_u8(pointer, at as u8, 0);
        list.push(Placed { id: body.u8(0).into(), offset: at as u16, len: body.len() as u16 });
        pointer = at + 1;
    }
    if !list.is_empty() {
        header::status(registers, regs::STATUS_CAPABILITIES);
    }
    Ok(list)
}

/// Places the extended capabilities in a space of `size` bytes.
pub(crate) fn place_extended(bodies: &[Body], size: usize) -> Result<Vec<usize>, PciError> {
    let asked = asked(bodies, |body| body.u16(0));
    if let Some(&(id, ..)) = asked.first().filter(|_| size <= regs::EXTENDED) {
        return Err(PciError::ExtendedNoSpace { id });
    }
    let places = place(&asked, regs::EXTENDED, size).map_err(|error| match error {
        NoPlace::Room { id, len, left } => PciError::ExtendedRoom { id, len, left },
        NoPlace::Wrong(error) => error,
    })?;
    match places.iter().min() {
        Some(&first) if first != regs::EXTENDED => Err(PciError::ExtendedStart { first }),
        _ => Ok(places),
    }
}

/// Links the extended capabilities: no pointer leads to them, the first is at 0x100, and bits 31:20
/// of a header hold the offset of the next (PCIe 7.6.3).
pub(crate) fn link_extended(
    registers: &mut Registers,
    bodies: &[Body],
    places: &[usize],
) -> Vec<Placed> {
    let mut list: Vec<Placed> = Vec::with_capacity(bodies.len());
    for ((body, _), &at) in bodies.iter().zip(places) {
        registers.paste(at, body);
        list.push(Placed { id: body.u16(0), offset: at as u16, len: body.len() as u16 });
    }
    // In the order of the calls, but for the one that software finds first.
    list.sort_by_key(|cap| usize::from(cap.offset) != regs::EXTENDED);
    for (last, next) in list.iter().zip(list.iter().skip(1)) {
        let upper = usize::from(last.offset) + 2;
        registers.set_u16(upper, registers.u16(upper) | next.offset << 4, 0);
    }
    list
}

fn asked(bodies: &[Body], id: impl Fn(&Registers) -> u16) -> Vec<(u16, usize, Option<usize>)> {
    bodies.iter().map(|(body, chosen)| (id(body), body.len(), *chosen)).collect()
}
