//! Register maps: mistakes in descriptions, descriptions for readers, and what is logged.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use tracing::field::{Field as TracingField, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use vfu::regmap::{Field, Register, RegisterBank, RegisterDevice, RegisterMap, mask};

fn refused(registers: &[Register]) -> String {
    let builder = RegisterMap::builder("test", 0x100);
    let builder = registers.iter().fold(builder, |builder, one| builder.register(one.clone()));
    builder.build().expect_err("it has a mistake").to_string()
}

#[test]
fn mistakes_are_named_with_what_to_change() {
    let a = || Register::rw(0x10, 4, "a");
    let field = |name: &'static str, mask| Field::new(mask, name);
    for (registers, expected) in [
        (vec![Register::rw(0, 3, "a")], "register a is 3 bytes wide; registers have 1, 2, 4 or 8"),
        (
            vec![Register::rw(6, 4, "a")],
            "register a of 4 bytes is at offset 0x6; move it to a multiple of 4, such as 0x8",
        ),
        (
            vec![Register::rw(0x100, 4, "a")],
            "register a of 4 bytes at offset 0x100 does not fit the BAR of 0x100 bytes; move it down \
             or enlarge the BAR",
        ),
        (
            vec![a().array(61, 4)],
            "register a[60] of 4 bytes at offset 0x100 does not fit the BAR of 0x100 bytes; move it \
             down or enlarge the BAR",
        ),
        (
            vec![a().array(4, 8), Register::rw(0x20, 8, "b")],
            "registers a[2] (at 0x20, 4 bytes) and b (at 0x20) overlap; move one of them",
        ),
        (
            vec![Register::rw(0x12, 2, "b"), a()],
            "registers a (at 0x10, 4 bytes) and b (at 0x12) overlap; move one of them",
        ),
        (
            vec![a(), Register::rw(0x20, 8, "a")],
            "two registers are called a; names tell them apart, rename one",
        ),
        (vec![a().array(0, 4)], "the array a has no elements; give it one or more, or drop it"),
        (
            vec![a().array(2, 6)],
            "the array a has a stride of 6; its registers are 4 bytes wide, so make it a multiple of \
             4",
        ),
        (
            vec![a().reset(1 << 32)],
            "register a of 4 bytes can't be reset to 0x100000000, which is wider",
        ),
        (
            vec![a().widths(&[4, 3])],
            "register a allows accesses of 3 bytes; possible are 1, 2, 4 and 8",
        ),
        (
            vec![a().widths(&[8])],
            "register a of 4 bytes allows no width of access that it can have; add 4 to its widths, \
             or to those of the map",
        ),
        (
            vec![a().field(field("f", 0))],
            "field f of register a has no bits; set the bits it has in its mask",
        ),
        (
            vec![a().field(field("f", 0b101))],
            "field f of register a has the mask 0x5, whose bits are not neighbours; split it",
        ),
        (
            vec![a().field(field("f", 0x3_0000_0000 >> 1))],
            "field f ends at bit 32 and register a at bit 31; shrink the field or widen the register",
        ),
        (
            vec![a().field(field("f", 0x0f)).field(field("g", 0x18))],
            "fields f and g of register a share the bits 0x8",
        ),
        (
            vec![a().field(field("f", 0x0f)).field(field("f", 0x10))],
            "register a has two fields called f; rename one",
        ),
        (
            vec![a().field(field("f", 0x30).value(4, "x"))],
            "the value 0x4 of field f in register a is wider than its 2 bits",
        ),
    ] {
        assert_eq!(refused(&registers), expected);
    }
    let builder = RegisterMap::builder("large", 1 << 20);
    let error = builder.register(Register::rw(0, 1, "a").array(65537, 1)).build().unwrap_err();
    assert!(error.to_string().starts_with("the map has more than 65536 registers"), "{error}");
}

#[test]
fn masks_are_ones_from_bit_to_bit() {
    assert_eq!([mask(&[0]), mask(&[63]), mask(&[0, 63]), mask(&[4, 5])], [1, 1 << 63, !0, 0x30]);
}

vfu::registers! {
    fn map("lamp", 0x40).spin_limit(100);

    0x00 CONTROL: Rw<u32> = 0x10, "what it does | when" {
        0 ON: W1s, "shines";
        4..=5 COLOUR { 0 = "red", 1 = "green" };
    };
    0x08 LEVEL[2; 4]: Ro<u16> .on_read("measures");
}

#[test]
fn a_map_describes_itself() {
    assert_eq!(
        map().to_markdown(),
        "| offset | width | access | reset | register |\n\
         |---|---|---|---|---|\n\
         | 0x00 | 4 | RW | 0x00000010 | CONTROL: what it does \\| when; bit 0 (W1S) ON: shines; \
         bits 4 to 5 COLOUR, with 0 red, 1 green |\n\
         | 0x08 + 0x4 n, n < 2 | 2 | RO | 0 | LEVEL; on read: measures |\n"
    );
    let json: serde_json::Value = serde_json::from_str(&map().to_json()).unwrap();
    let expected = serde_json::json!({
        "name": "lamp",
        "size": 64,
        "registers": [
            {
                "name": "CONTROL", "offset": 0, "width": 4, "access": "RW", "reset": 16,
                "about": "what it does | when",
                "fields": [
                    { "name": "ON", "low": 0, "high": 0, "access": "W1S", "about": "shines" },
                    {
                        "name": "COLOUR", "low": 4, "high": 5, "access": "RW",
                        "values": [{ "value": 0, "name": "red" }, { "value": 1, "name": "green" }],
                    },
                ],
            },
            {
                "name": "LEVEL", "offset": 8, "width": 2, "access": "RO", "reset": 0,
                "count": 2, "stride": 4, "on_read": "measures",
            },
        ],
    });
    assert_eq!(json, expected);
}

/// Keeps the text of events down to a level.
#[derive(Clone)]
struct Log(Level, Arc<Mutex<Vec<String>>>);

struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &TracingField, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "vfu::regmap" && *metadata.level() <= self.0
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = format!("{} ", event.metadata().level());
        event.record(&mut Message(&mut text));
        self.1.lock().unwrap().push(text);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn logged(level: Level, run: impl FnOnce(&mut RegisterBank)) -> Vec<String> {
    let log = Log(level, Arc::default());
    let lines = log.1.clone();
    tracing::subscriber::with_default(log, || run(&mut RegisterBank::new(map())));
    Arc::try_unwrap(lines).unwrap().into_inner().unwrap()
}

#[test]
fn traces_speak_names() {
    let lines = logged(Level::TRACE, |lamp| {
        lamp.bar_write(CONTROL, &[0x11]).unwrap();
        lamp.bar_write(CONTROL, &[0x20]).unwrap();
        lamp.bar_read(CONTROL, &mut [0; 4]).unwrap();
        lamp.bar_read(LEVEL + 4, &mut [0; 2]).unwrap();
        for _ in 0..2 {
            let _ = lamp.bar_read(0x30, &mut [0; 4]);
        }
    });
    assert_eq!(
        lines,
        [
            "TRACE lamp: write CONTROL = 0x11, now 0x11 (ON=0x1, COLOUR=green)",
            "TRACE lamp: write CONTROL = 0x20, now 0x21 (ON=0x1, COLOUR=0x2)",
            "TRACE lamp: read CONTROL = 0x21 (ON=0x1, COLOUR=0x2)",
            "TRACE lamp: read LEVEL[1] = 0x0",
            "DEBUG lamp: read of 4 bytes at 0x30: no register is there",
        ]
    );
}

#[test]
fn a_driver_that_spins_is_warned_about_once_a_register() {
    let read = |lamp: &mut RegisterBank, offset, times| {
        for _ in 0..times {
            lamp.bar_read(offset, &mut [0; 2]).unwrap();
        }
    };
    let lines = logged(Level::WARN, |lamp| {
        read(lamp, LEVEL, 99);
        lamp.set(LEVEL, 1); // a change
        read(lamp, LEVEL, 99);
        lamp.bar_write(CONTROL, &[1]).unwrap(); // another access
        read(lamp, LEVEL, 99);
        read(lamp, CONTROL, 1);
        read(lamp, LEVEL, 99);
    });
    assert_eq!(lines, [""; 0]);
    let lines = logged(Level::WARN, |lamp| {
        read(lamp, CONTROL, 1000);
        read(lamp, LEVEL, 100);
        read(lamp, CONTROL, 1000);
    });
    assert_eq!(
        lines,
        [
            "WARN lamp: the driver has read CONTROL 100 times in a row and got 0x10 (ON=0x0, \
             COLOUR=green) each time; it may be waiting for a change that never comes",
            "WARN lamp: the driver has read LEVEL[0] 100 times in a row and got 0x0 each time; it \
             may be waiting for a change that never comes",
        ]
    );
}

#[test]
fn what_a_driver_wanted_and_the_map_has_not_is_reported() {
    let lines = logged(Level::INFO, |lamp| {
        lamp.report_uncovered(); // there is nothing to tell
        for _ in 0..3 {
            let _ = lamp.bar_read(0x30, &mut [0; 4]);
        }
        let _ = lamp.bar_write(0x33, &[1]);
        lamp.report_uncovered();
        lamp.report_uncovered(); // it has been told
        for offset in 0..70 {
            let _ = lamp.bar_read(0x30 + offset, &mut [0; 4]);
        }
        lamp.report_uncovered();
        assert_eq!((lamp.uncovered().len(), lamp.uncovered_others()), (0, 0));
    });
    assert_eq!(
        lines[..2],
        [
            "INFO lamp: not covered: read of 4 bytes at 0x30, 3 times: no register is there",
            "INFO lamp: not covered: write of 1 byte at 0x33, 1 time: no register is there",
        ]
    );
    assert_eq!(lines.len(), 2 + 64 + 1);
    assert_eq!(lines[66], "INFO lamp: not covered: 6 more accesses");
}
