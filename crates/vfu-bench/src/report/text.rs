//! A table for a terminal, a line at a time: a run takes long enough to want to watch it.

use super::{Line, time};
use crate::row::Group;

/// The heading of a group.
pub fn heading(group: Group) -> String {
    let columns = ["limit", "ours", "p99", "p99.9"].map(|name| format!("{name:>10}")).concat();
    format!("{:34}{columns}{:>9}{:>16}{:>8}", group.title(), "ratio", "(quartiles)", "target")
}

/// A row.
pub fn line(line: &Line) -> String {
    let name = format!("  {:32}", line.name);
    let measured = match &line.result {
        Err(why) => return format!("{name}not measured: {why}"),
        Ok(measured) => measured,
    };
    let (limit, ours) = (&measured.limit, &measured.ours);
    let times = [limit.p50_ns, ours.p50_ns, ours.p99_ns, ours.p999_ns]
        .map(|ns| format!("{:>10}", time(ns)))
        .concat();
    let ratio = &measured.ratio;
    let spread = format!("({:.2}..{:.2})", ratio.low, ratio.high);
    let target = match (line.target, line.met) {
        (Some(target), Some(true)) => format!("{target:>8.2} ok"),
        (Some(target), _) => format!("{target:>8.2} above"),
        (None, _) => format!("{:>8}", "-"),
    };
    format!("{name}{times}{:>9.2}{spread:>16}{target}", ratio.median)
}
