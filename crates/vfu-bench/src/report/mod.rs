//! What was measured, for people, for programs and for pages.

mod html;
mod markdown;
mod text;

use serde::Serialize;

use crate::machine::Machine;
use crate::row::{Counted, Group, Measured, Row};

pub use html::page;
pub use markdown::markdown;
pub use text::{heading, line};

/// Everything that a run gave.
///
/// As JSON: fields may be added; a change of what one means, or its loss, comes with a higher
/// `format`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of this form.
    pub format: u32,
    /// What it was measured on.
    pub machine: Machine,
    /// The rows, in the order of the table.
    pub rows: Vec<Line>,
    /// What was counted.
    pub counted: Vec<Counted>,
}

/// A row and what came out.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The row's name.
    pub name: String,
    /// Where it stands.
    pub group: Group,
    /// What vfu did.
    pub about: String,
    /// What the limit is.
    pub limit: String,
    /// The ratio that we aim at.
    pub target: Option<f64>,
    /// Whether it was reached; `None` without a target, or without figures.
    pub met: Option<bool>,
    /// The figures, or why there are none.
    pub result: Result<Measured, String>,
}

impl Report {
    /// A report without rows yet.
    pub fn new(machine: Machine) -> Report {
        Report { format: 1, machine, rows: Vec::new(), counted: Vec::new() }
    }

    /// Adds a row.
    pub fn add(&mut self, row: &Row, result: anyhow::Result<Measured>) -> &Line {
        let result = result.map_err(|e| format!("{e:#}"));
        let ratio = result.as_ref().ok().map(|measured| measured.ratio.median);
        let met = row.target.zip(ratio).map(|(target, ratio)| ratio <= target);
        let at = self.rows.len();
        self.rows.push(Line {
            name: row.name.clone(),
            group: row.group,
            about: row.about.clone(),
            limit: row.limit.clone(),
            target: row.target,
            met,
            result,
        });
        &self.rows[at]
    }
}

/// A time in the unit that reads best.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.1} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

#[cfg(test)]
mod tests;
