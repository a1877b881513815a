//! A map for people and for programs.

use std::fmt::Write;

use serde::{Serialize, Serializer};

use super::map::RegisterMap;
use super::register::{BitAccess, Field, Register};

impl RegisterMap {
    /// A table in Markdown, one row a register, in the order of the description. Offsets and
    /// widths are in bytes.
    pub fn to_markdown(&self) -> String {
        let mut out =
            String::from("| offset | width | access | reset | register |\n|---|---|---|---|---|\n");
        for register in &self.registers {
            row(&mut out, register);
        }
        out
    }

    /// The description as a JSON object: `name`, `size` and `registers`. Each register has `name`,
    /// `offset`, `width`, `access` and `reset`, and where there is something to say `count` and
    /// `stride`, `access_widths`, `zero_extend`, `fields` (with `name`, `low` and `high` bit,
    /// `access`, `about` and `values`), `about`, `on_read` and `on_write`. All numbers are plain integers
    /// of up to 64 bits.
    pub fn to_json(&self) -> String {
        // Only maps with keys that are no strings, and failing writers, can't be serialized.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// As [`RegisterMap::to_json`] says.
impl Serialize for RegisterMap {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let registers =
            self.registers.iter().zip(&self.rules).map(|(register, rules)| RegisterJson {
                name: &register.name,
                offset: register.offset,
                width: register.width,
                access: register.access,
                reset: register.reset,
                count: register.array.map(|(count, _)| count),
                stride: register.array.map(|(_, stride)| stride),
                access_widths: [1, 2, 4, 8].into_iter().filter(|w| rules.widths & w != 0).collect(),
                zero_extend: rules.zero_extend && rules.widths != rules.width,
                fields: register.fields.iter().map(|field| field_json(register, field)).collect(),
                about: &register.about,
                on_read: &register.on_read,
                on_write: &register.on_write,
            });
        let map = MapJson { name: &self.name, size: self.size, registers: registers.collect() };
        map.serialize(to)
    }
}

fn row(out: &mut String, register: &Register) {
    let Register { offset, width, access, reset, .. } = register;
    let mut text = register.name.to_string();
    if !register.about.is_empty() {
        text += &format!(": {}", register.about);
    }
    for field in &register.fields {
        text += "; ";
        text += &match (field.low(), field.high()) {
            (low, high) if low == high => format!("bit {low} "),
            (low, high) => format!("bits {low} to {high} "),
        };
        if let Some(own) = field.access.filter(|own| own != access) {
            text += &format!("({own}) ");
        }
        text += &field.name;
        if !field.about.is_empty() {
            text += &format!(": {}", field.about);
        }
        for (n, (value, name)) in field.values.iter().enumerate() {
            text += &format!("{} {value} {name}", if n == 0 { ", with" } else { "," });
        }
    }
    for (when, effect) in [("on read", &register.on_read), ("on write", &register.on_write)] {
        if !effect.is_empty() {
            text += &format!("; {when}: {effect}");
        }
    }
    let place = match register.array {
        Some((count, stride)) => format!("{offset:#04x} + {stride:#x} n, n < {count}"),
        None => format!("{offset:#04x}"),
    };
    let reset = match reset {
        0 => "0".to_string(),
        _ => format!("{reset:#0digits$x}", digits = 2 + 2 * usize::from(*width)),
    };
    let text = text.replace('|', "\\|").replace('\n', " ");
    // Writing to a string does not fail.
    let _ = writeln!(out, "| {place} | {width} | {access} | {reset} | {text} |");
}

fn field_json<'a>(register: &Register, field: &'a Field) -> FieldJson<'a> {
    FieldJson {
        name: &field.name,
        low: field.low(),
        high: field.high(),
        access: field.access.unwrap_or(register.access),
        about: &field.about,
        values: field
            .values
            .iter()
            .map(|(value, name)| ValueJson { value: *value, name })
            .collect(),
    }
}

#[derive(Serialize)]
struct MapJson<'a> {
    name: &'a str,
    size: u64,
    registers: Vec<RegisterJson<'a>>,
}

#[derive(Serialize)]
struct RegisterJson<'a> {
    name: &'a str,
    offset: u64,
    width: u8,
    access: BitAccess,
    reset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stride: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    access_widths: Vec<u8>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    zero_extend: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<FieldJson<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    about: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    on_read: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    on_write: &'a str,
}

#[derive(Serialize)]
struct FieldJson<'a> {
    name: &'a str,
    low: u32,
    high: u32,
    access: BitAccess,
    #[serde(skip_serializing_if = "str::is_empty")]
    about: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<ValueJson<'a>>,
}

#[derive(Serialize)]
struct ValueJson<'a> {
    value: u64,
    name: &'a str,
}
