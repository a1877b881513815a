//! Structs, field by field.

use super::{MAX_DEPTH, StateError, StateReader};

/// A field that a struct has, as [`vfu::state!`](crate::state) knows it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// The first version that had it.
    pub since: u32,
}

impl StateReader<'_> {
    /// Reads a struct: `load` is given each field that is there, by its name, and its bytes.
    #[doc(hidden)]
    pub fn fields(
        &mut self,
        known: &[Known],
        mut load: impl FnMut(&'static str, &mut StateReader<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        if self.depth >= MAX_DEPTH {
            return Err(StateError::value(format!("more than {MAX_DEPTH} structs in each other")));
        }
        let mut seen = vec![false; known.len()];
        for _ in 0..self.value::<u16>()? {
            let len = self.value::<u8>()?;
            let name = self.bytes(len.into())?;
            let len = usize::try_from(self.value::<u32>()?).map_err(|_| StateError::CutShort)?;
            let bytes = self.bytes(len)?;
            let found = known.iter().zip(&mut seen).find(|(k, _)| k.name.as_bytes() == name);
            let unknown = || StateError::Unknown(String::from_utf8_lossy(name).into_owned());
            let (field, seen) = found.ok_or_else(unknown)?;
            if std::mem::replace(seen, true) {
                return Err(StateError::Twice(field.name));
            }
            let (version, depth) = (self.version, self.depth + 1);
            let mut inner = StateReader { bytes, version, depth };
            load(field.name, &mut inner)
                .and_then(|()| inner.end())
                .map_err(|e| StateError::Field { field: field.name, source: Box::new(e) })?;
        }
        match known.iter().zip(seen).find(|(k, seen)| !seen && k.since <= self.version) {
            Some((field, _)) => Err(StateError::Missing(field.name)),
            None => Ok(()),
        }
    }
}

/// Says which fields of a struct are its [`State`](crate::migration::State). The others stay as they
/// are when a state is loaded.
///
/// A field that was added later says since which version of the device
/// ([`Migration::version`](crate::migration::Migration::version)) there is one: `gain: since 2`. In
/// an older state it may be missing, and then keeps its value. To take a field away, keep reading it
/// into one that is not used.
///
/// ```
/// struct Timer { count: u64, running: bool, prescaler: u8 }
///
/// vfu::state! { Timer { count, running, prescaler: since 2 } }
/// ```
#[macro_export]
macro_rules! state {
    ($type:ty { $($field:tt $(: since $since:literal)?),* $(,)? }) => {
        impl $crate::migration::State for $type {
            fn write_state(&self, to: &mut $crate::migration::StateWriter) {
                to.begin_fields([$(::core::stringify!($field)),*].len());
                $(to.field(::core::stringify!($field), &self.$field);)*
            }

            fn read_state(
                &mut self,
                from: &mut $crate::migration::StateReader<'_>,
            ) -> ::core::result::Result<(), $crate::migration::StateError> {
                const KNOWN: &[$crate::migration::Known] = &[$(
                    $crate::migration::Known {
                        name: ::core::stringify!($field),
                        since: 0 $(+ $since)?,
                    },
                )*];
                from.fields(KNOWN, |name, from| {
                    $(if name == ::core::stringify!($field) {
                        return $crate::migration::State::read_state(&mut self.$field, from);
                    })*
                    let _ = (name, from);
                    Ok(())
                })
            }
        }
    };
}
