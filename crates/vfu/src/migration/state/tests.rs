use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, Default, PartialEq)]
struct Inner {
    on: bool,
    words: VecDeque<u16>,
}

crate::state! { Inner { on, words } }

#[derive(Clone, Debug, Default, PartialEq)]
struct Outer {
    number: u64,
    inner: Inner,
    maybe: Option<Vec<i8>>,
    text: String,
    range: std::ops::Range<usize>,
    array: [u8; 3],
    later: u32,
    not_saved: u8,
}

crate::state! { Outer { number, inner, maybe, text, range, array, later: since 3 } }

/// As it was before it had `later`.
#[derive(Default)]
struct Older(Outer);

impl State for Older {
    fn write_state(&self, to: &mut StateWriter) {
        let Outer { number, inner, maybe, text, range, array, .. } = &self.0;
        to.begin_fields(6);
        to.field("array", array);
        to.field("number", number);
        to.field("inner", inner);
        to.field("maybe", maybe);
        to.field("text", text);
        to.field("range", range);
    }

    fn read_state(&mut self, _: &mut StateReader<'_>) -> Result<(), StateError> {
        Ok(())
    }
}

fn outer() -> Outer {
    Outer {
        number: 0x1122_3344_5566_7788,
        inner: Inner { on: true, words: [1, 2, 0xffff].into() },
        maybe: Some(vec![-1, 5]),
        text: "grüße".into(),
        range: 3..9,
        array: [7, 8, 9],
        later: 42,
        not_saved: 0,
    }
}

#[test]
fn what_was_saved_comes_back_and_the_rest_stays() {
    let mut there = Outer { not_saved: 5, ..Outer::default() };
    there.load_state(3, &outer().to_state()).unwrap();
    assert_eq!(there, Outer { not_saved: 5, ..outer() });
}

#[test]
fn older_states_are_loaded_and_newer_fields_refused() {
    let old = Older(outer()).to_state();
    let mut there = Outer { later: 7, ..Outer::default() };
    there.load_state(2, &old).unwrap();
    assert_eq!(there, Outer { later: 7, ..outer() }, "the order does not matter");
    assert_eq!(there.load_state(3, &old), Err(StateError::Missing("later")));
    let mut inner = Inner::default();
    let unknown = inner.load_state(1, &outer().to_state());
    assert_eq!(unknown, Err(StateError::Unknown("number".into())));
}

#[test]
fn errors_say_where() {
    let mut bytes = outer().to_state();
    let at = bytes.windows(2).position(|w| w == b"on").unwrap() + 2 + 4;
    bytes[at] = 9;
    let error: LoadError = Outer::default().load_state(3, &bytes).unwrap_err().into();
    let text = "the saved state does not fit the device: field \"inner\": field \"on\": 9 is \
                neither true nor false";
    assert_eq!(error.to_string(), text);
    let mut long = outer().to_state();
    long.push(0);
    assert_eq!(Outer::default().load_state(3, &long), Err(StateError::TooLong(1)));
    let twice = [&[2, 0][..], b"\x02on\x01\0\0\0\x01", b"\x02on\x01\0\0\0\x01"].concat();
    assert_eq!(Inner::default().load_state(1, &twice), Err(StateError::Twice("on")));
}

#[test]
fn a_count_is_no_promise_of_memory() {
    let mut words: Vec<u64> = Vec::new();
    assert_eq!(words.load_state(1, &[0xff; 8]), Err(StateError::CutShort));
    assert_eq!(words.capacity(), 0);
}

/// Recursion that garbage drives ends.
#[derive(Default)]
struct Nested {
    next: Option<Box<Nested>>,
}

crate::state! { Nested { next } }

#[test]
fn structs_in_structs_have_an_end() {
    let mut nested = Nested::default();
    for _ in 0..40 {
        nested = Nested { next: Some(Box::new(nested)) };
    }
    let mut error = &Nested::default().load_state(1, &nested.to_state()).unwrap_err();
    while let StateError::Field { source, .. } = error {
        error = source;
    }
    assert!(matches!(error, StateError::Value(why) if why.contains("32 structs")), "{error:?}");
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, version: u32) {
        let _whatever = Outer::default().load_state(version, &bytes);
        let _whatever = Inner::default().load_state(version, &bytes);
    }

    #[test]
    fn damage_never_panics(at in 0_usize..150, byte: u8, cut in 0_usize..200) {
        let mut bytes = outer().to_state();
        let len = bytes.len();
        bytes[at % len] = byte;
        bytes.truncate(cut);
        let _whatever = Outer::default().load_state(3, &bytes);
    }
}
