//! The state of plain values.

use std::collections::VecDeque;
use std::ops::Range;

use super::{State, StateError, StateReader, StateWriter};

macro_rules! integers {
    ($($int:ty)*) => {
        $(impl State for $int {
            fn write_state(&self, to: &mut StateWriter) {
                to.bytes(&self.to_le_bytes());
            }

            fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
                let bytes = from.bytes(size_of::<$int>())?;
                *self = bytes.try_into().map(<$int>::from_le_bytes).unwrap_or_default();
                Ok(())
            }
        })*
    };
}

integers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128);

/// As a `u64`.
impl State for usize {
    fn write_state(&self, to: &mut StateWriter) {
        to.value(&(*self as u64));
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        let value: u64 = from.value()?;
        let too_large = |_| StateError::value(format!("{value} is too large here"));
        *self = usize::try_from(value).map_err(too_large)?;
        Ok(())
    }
}

impl State for bool {
    fn write_state(&self, to: &mut StateWriter) {
        to.value(&u8::from(*self));
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        *self = match from.value::<u8>()? {
            0 => false,
            1 => true,
            other => return Err(StateError::value(format!("{other} is neither true nor false"))),
        };
        Ok(())
    }
}

impl<T: State + Default> State for Option<T> {
    fn write_state(&self, to: &mut StateWriter) {
        to.value(&self.is_some());
        if let Some(value) = self {
            value.write_state(to);
        }
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        *self = if from.value()? { Some(from.value()?) } else { None };
        Ok(())
    }
}

impl<T: State + ?Sized> State for Box<T> {
    fn write_state(&self, to: &mut StateWriter) {
        (**self).write_state(to);
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        (**self).read_state(from)
    }
}

impl<T: State, const N: usize> State for [T; N] {
    fn write_state(&self, to: &mut StateWriter) {
        self.iter().for_each(|value| value.write_state(to));
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        self.iter_mut().try_for_each(|value| value.read_state(from))
    }
}

impl<T: State> State for Range<T> {
    fn write_state(&self, to: &mut StateWriter) {
        self.start.write_state(to);
        self.end.write_state(to);
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        self.start.read_state(from)?;
        self.end.read_state(from)
    }
}

/// A count and the elements. There can't be more of them than bytes.
fn read_all<T: State + Default>(
    from: &mut StateReader<'_>,
    mut push: impl FnMut(T),
) -> Result<(), StateError> {
    let count: u32 = from.value()?;
    if usize::try_from(count).is_ok_and(|count| count > from.left()) {
        return Err(StateError::CutShort);
    }
    (0..count).try_for_each(|_| from.value().map(&mut push))
}

fn write_all<'a, T: State + 'a>(
    to: &mut StateWriter,
    values: impl ExactSizeIterator<Item = &'a T>,
) {
    // More do not fit into any state that could be loaded.
    to.value(&u32::try_from(values.len()).unwrap_or(u32::MAX));
    values.for_each(|value| value.write_state(to));
}

impl<T: State + Default> State for Vec<T> {
    fn write_state(&self, to: &mut StateWriter) {
        write_all(to, self.iter());
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        self.clear();
        read_all(from, |value| self.push(value))
    }
}

impl<T: State + Default> State for VecDeque<T> {
    fn write_state(&self, to: &mut StateWriter) {
        write_all(to, self.iter());
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        self.clear();
        read_all(from, |value| self.push_back(value))
    }
}

impl State for String {
    fn write_state(&self, to: &mut StateWriter) {
        write_all(to, self.as_bytes().iter());
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        let mut bytes = Vec::new();
        bytes.read_state(from)?;
        *self = String::from_utf8(bytes).map_err(|_| StateError::value("text that is no UTF-8"))?;
        Ok(())
    }
}
