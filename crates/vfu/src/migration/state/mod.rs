//! The state of a device as bytes: written by the device, or derived from the names of its fields.
//!
//! ```text
//!  a struct:   fields u16 │ name u8+bytes  len u32  value │ name ... │
//!  a value:    integers little-endian, bool and Option a byte first, Vec a count first
//! ```
//!
//! Fields carry their names, so that a struct may gain fields: a later version says since when it has
//! one, and finds it as it is after power-on when an older state has none.

mod fields;
mod values;

#[doc(hidden)]
pub use fields::Known;

use super::LoadError;

/// How deep structs may lie in structs.
const MAX_DEPTH: u32 = 32;

/// What can be saved and put back: integers, `bool`, `Option`, `Vec`, arrays, a
/// [`RegisterBank`](crate::regmap::RegisterBank), and every struct that
/// [`vfu::state!`](crate::state) was said of.
///
/// ```
/// use vfu::migration::State;
///
/// #[derive(Default)]
/// struct Sampler {
///     threshold: u32,
///     samples: Vec<u16>,
///     gain: u8,
///     thread: Option<std::thread::JoinHandle<()>>, // is not saved
/// }
///
/// vfu::state! { Sampler { threshold, samples, gain: since 2 } }
///
/// let here = Sampler { threshold: 7, samples: vec![1, 2], gain: 3, thread: None };
/// let bytes = here.to_state();
/// let mut there = Sampler::default();
/// there.load_state(2, &bytes)?;
/// assert_eq!((there.threshold, there.samples, there.gain), (7, vec![1, 2], 3));
/// # Ok::<(), vfu::migration::StateError>(())
/// ```
pub trait State {
    /// Appends it.
    fn write_state(&self, to: &mut StateWriter);

    /// Takes over what [`write_state`](Self::write_state) gave, or an older version of it. The bytes may come
    /// from anywhere: whatever they are it gives an error or a value, and takes no more memory than
    /// in proportion to them.
    ///
    /// # Errors
    /// They are no such value. It may then have been changed in part.
    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError>;

    /// All of it as bytes, for [`Migration::save`](super::Migration::save).
    fn to_state(&self) -> Vec<u8> {
        let mut writer = StateWriter { bytes: Vec::new() };
        self.write_state(&mut writer);
        writer.bytes
    }

    /// Takes over what [`to_state`](Self::to_state) gave in this version of the device, for
    /// [`Migration::load`](super::Migration::load).
    ///
    /// # Errors
    /// As for [`read_state`](Self::read_state); or bytes are left over.
    fn load_state(&mut self, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader { bytes, version, depth: 0 };
        self.read_state(&mut reader)?;
        reader.end()
    }
}

/// Why bytes are not the state that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Bytes are missing.
    #[error("it is cut short")]
    CutShort,
    /// Bytes are left over.
    #[error("it has {0} bytes too many")]
    TooLong(usize),
    /// A field of a later version, or of something else.
    #[error("it has a field {0:?} that is not known here")]
    Unknown(String),
    /// A field is missing.
    #[error("it has no field {0:?}")]
    Missing(&'static str),
    /// A field occurs twice.
    #[error("it has field {0:?} twice")]
    Twice(&'static str),
    /// A value that can't be.
    #[error("{0}")]
    Value(String),
    /// In a field.
    #[error("field {field:?}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong there.
        #[source]
        source: Box<StateError>,
    },
}

impl StateError {
    /// A value that can't be, and why.
    pub fn value(why: impl Into<String>) -> StateError {
        StateError::Value(why.into())
    }
}

impl From<StateError> for LoadError {
    fn from(error: StateError) -> LoadError {
        let mut text = error.to_string();
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        LoadError(text)
    }
}

/// Takes the bytes of a state.
#[derive(Debug)]
pub struct StateWriter {
    bytes: Vec<u8>,
}

impl StateWriter {
    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a value.
    pub fn value(&mut self, value: &(impl State + ?Sized)) {
        value.write_state(self);
    }

    /// Begins a struct of so many fields.
    #[doc(hidden)]
    pub fn begin_fields(&mut self, count: usize) {
        // A struct with more fields does not compile into anything useful.
        self.value(&u16::try_from(count).unwrap_or(u16::MAX));
    }

    /// Appends a field of a struct.
    #[doc(hidden)]
    pub fn field(&mut self, name: &'static str, value: &(impl State + ?Sized)) {
        let name = name.as_bytes();
        self.value(&u8::try_from(name.len()).unwrap_or(u8::MAX));
        self.bytes(&name[..name.len().min(u8::MAX.into())]);
        let at = self.bytes.len();
        self.value(&0_u32);
        value.write_state(self);
        let len = u32::try_from(self.bytes.len() - at - 4).unwrap_or(u32::MAX);
        self.bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }
}

/// Gives the bytes of a state.
#[derive(Debug)]
pub struct StateReader<'a> {
    bytes: &'a [u8],
    version: u32,
    depth: u32,
}

impl<'a> StateReader<'a> {
    /// The version of the device that was saved: at most the one that this device has.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// The next bytes.
    ///
    /// # Errors
    /// [`StateError::CutShort`].
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        let (bytes, rest) = self.bytes.split_at_checked(len).ok_or(StateError::CutShort)?;
        self.bytes = rest;
        Ok(bytes)
    }

    /// The next value.
    ///
    /// # Errors
    /// See [`State::read_state`].
    pub fn value<T: State + Default>(&mut self) -> Result<T, StateError> {
        let mut value = T::default();
        value.read_state(self)?;
        Ok(value)
    }

    fn end(&self) -> Result<(), StateError> {
        match self.left() {
            0 => Ok(()),
            left => Err(StateError::TooLong(left)),
        }
    }
}

#[cfg(test)]
mod tests;
