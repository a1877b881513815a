//! What is logged, in names.

use std::fmt;

use tracing::{debug, info, trace, warn};

use super::coverage::{Coverage, Direction, Uncovered};
use super::map::{RegisterMap, element};
use super::register::Register;

/// The target of all events of register maps.
const TARGET: &str = "vfu::regmap";

/// Whether accesses are traced.
#[inline]
pub(super) fn is_on() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::TRACE)
}

/// `value` is what the driver read, or what the register has become.
#[cold]
pub(super) fn access(
    map: &RegisterMap,
    slot: usize,
    direction: Direction,
    mask: u64,
    written: u64,
    value: u64,
) {
    let (map_name, register) = (map.name(), map.register(slot));
    let name = element(register, map.slots[slot].index);
    let fields = Fields(register, value);
    match direction {
        Direction::Read => {
            let value = value & mask;
            trace!(target: TARGET, "{map_name}: read {name} = {value:#x}{fields}");
        }
        Direction::Write => {
            trace!(target: TARGET, "{map_name}: write {name} = {written:#x}, now {value:#x}{fields}");
        }
    }
}

/// The first of its kind.
#[cold]
pub(super) fn uncovered(map: &RegisterMap, access: &Uncovered) {
    let Uncovered { offset, width, direction, fault, .. } = access;
    let name = map.name();
    debug!(target: TARGET, "{name}: {direction} of {width} bytes at {offset:#x}: {fault}");
}

/// All of them.
#[cold]
pub(super) fn coverage(map: &RegisterMap, coverage: &Coverage) {
    let name = map.name();
    for access in coverage.all() {
        info!(target: TARGET, "{name}: not covered: {access}");
    }
    if coverage.others() > 0 {
        info!(target: TARGET, "{name}: not covered: {} more accesses", coverage.others());
    }
}

#[cold]
pub(super) fn spinning(map: &RegisterMap, slot: usize, value: u64) {
    let register = map.register(slot);
    let name = element(register, map.slots[slot].index);
    let (map_name, count) = (map.name(), map.spin_limit);
    let fields = Fields(register, value);
    warn!(
        target: TARGET,
        "{map_name}: the driver has read {name} {count} times in a row and got {value:#x}{fields} \
         each time; it may be waiting for a change that never comes"
    );
}

/// The fields of a register's value, in parentheses.
struct Fields<'a>(&'a Register, u64);

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = " (";
        for field in &self.0.fields {
            let value = field.of(self.1);
            write!(f, "{before}{}=", field.name)?;
            match field.values.iter().find(|(known, _)| *known == value) {
                Some((_, name)) => f.write_str(name)?,
                None => write!(f, "{value:#x}")?,
            }
            before = ", ";
        }
        if self.0.fields.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}
