//! The registers of a device that is moved.

use super::bank::RegisterBank;
use crate::migration::{State, StateError, StateReader, StateWriter};

/// Offset and value of each register. What a later version of the map has more is as after a reset
/// when an older state is loaded.
impl State for RegisterBank {
    fn write_state(&self, to: &mut StateWriter) {
        // MAX_REGISTERS is far less than that.
        to.value(&u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        for (offset, value) in self.map.starts.iter().zip(&self.values) {
            to.value(offset);
            to.value(value);
        }
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        self.reset();
        let count: u32 = from.value()?;
        if count as usize > self.values.len() {
            let (name, all) = (&self.map.name, self.values.len());
            return Err(StateError::value(format!("{count} registers; {name} has {all}")));
        }
        for _ in 0..count {
            let (offset, value): (u64, u64) = (from.value()?, from.value()?);
            let name = &self.map.name;
            let slot = self.map.find_start(offset).ok_or_else(|| {
                StateError::value(format!("{name} has no register at {offset:#x}"))
            })?;
            if value & !self.map.rules(slot).ones != 0 {
                let register = &self.map.register(slot).name;
                let why = format!("{value:#x} does not fit into register {register} of {name}");
                return Err(StateError::Value(why));
            }
            self.values[slot] = value;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regmap::{BitAccess, Register, RegisterMap};

    fn bank(registers: &[(u64, u8, u64)]) -> RegisterBank {
        let map =
            registers.iter().fold(RegisterMap::builder("m", 64), |map, (at, width, reset)| {
                map.register(
                    Register::new(*at, *width, format!("R{at}"), BitAccess::Rw).reset(*reset),
                )
            });
        RegisterBank::new(map.build().unwrap())
    }

    #[test]
    fn registers_come_back_and_new_ones_are_as_after_reset() {
        let mut old = bank(&[(0, 4, 1), (8, 8, 0)]);
        old.set(0, 0x1234);
        old.set(8, u64::MAX);
        let mut new = bank(&[(0, 4, 1), (8, 8, 0), (16, 1, 7)]);
        new.set(16, 9);
        new.load_state(2, &old.to_state()).unwrap();
        assert_eq!((new.get(0), new.get(8), new.get(16)), (0x1234, u64::MAX, 7));
        let error = old.load_state(1, &new.to_state()).unwrap_err();
        assert_eq!(error.to_string(), "3 registers; m has 2");
    }

    #[test]
    fn other_registers_and_other_widths_are_told() {
        let saved = bank(&[(4, 4, 0x1ff)]).to_state();
        let error = bank(&[(0, 4, 0)]).load_state(1, &saved).unwrap_err();
        assert_eq!(error.to_string(), "m has no register at 0x4");
        let error = bank(&[(4, 1, 0)]).load_state(1, &saved).unwrap_err();
        assert_eq!(error.to_string(), "0x1ff does not fit into register R4 of m");
    }
}
