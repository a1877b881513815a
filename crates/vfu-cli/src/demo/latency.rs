//! What a register read costs: two rows of `vfu bench`, told in words.

use anyhow::Context;
use vfu_bench::{Effort, Measured, place, rows};

use super::stage::Seen;

/// Measures reads of a register with both processes on one CPU, and, if there is another, on two.
pub(super) fn measure() -> anyhow::Result<Seen> {
    let places =
        [("one_cpu", "on one CPU", "read4-one-cpu"), ("two_cpus", "on two CPUs", "read4-two-cpus")];
    let mut seen = Seen::default();
    for (key, place, name) in places.into_iter().take(place::cpus()?.len()) {
        let all = rows::all();
        let row = all.iter().find(|row| row.name == name).context(name)?;
        seen = tell(&row.measure(Effort::Quick)?, seen, key, place);
    }
    Ok(seen)
}

/// Adds text and figures to what was seen at other places.
fn tell(measured: &Measured, mut seen: Seen, key: &str, place: &str) -> Seen {
    let Measured { ours, limit, ratio, .. } = measured;
    if !seen.text.is_empty() {
        seen.text.push('\n');
    }
    seen.text.push_str(&format!(
        "{place}: p50 {:.1} us, p99 {:.1} us; bare messages p50 {:.1} us, p99 {:.1} us; {:.2} times",
        ours.p50_ns / 1e3,
        ours.p99_ns / 1e3,
        limit.p50_ns / 1e3,
        limit.p99_ns / 1e3,
        ratio.median
    ));
    seen.figure(&format!("{key}_samples"), ours.samples)
        .figure(&format!("{key}_read_p50_ns"), ours.p50_ns)
        .figure(&format!("{key}_read_p99_ns"), ours.p99_ns)
        .figure(&format!("{key}_raw_p50_ns"), limit.p50_ns)
        .figure(&format!("{key}_raw_p99_ns"), limit.p99_ns)
        .figure(&format!("{key}_ratio"), ratio.median)
}
