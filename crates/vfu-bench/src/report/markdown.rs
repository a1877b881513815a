//! A table for a page of documentation.

use super::{Line, Report, time};
use crate::row::Group;

/// What was measured, as Markdown: a line about the machine and a table for each group.
pub fn markdown(report: &Report) -> String {
    let machine = &report.machine;
    let mut out = format!(
        "vfu {} on {}, {} CPUs, {}, load {:.2} at the start.\n",
        machine.vfu, machine.processor, machine.cpus, machine.system, machine.load
    );
    for group in Group::ALL {
        let mut lines = report.rows.iter().filter(|line| line.group == group).peekable();
        if lines.peek().is_some() {
            out.push_str(&format!("\n| {} | limit | vfu | p99 | ratio | aim |\n", group.title()));
            out.push_str("|---|---|---|---|---|---|\n");
            lines.for_each(|line| out.push_str(&row(line)));
        }
    }
    if !report.counted.is_empty() {
        out.push_str("\n| counted | |\n|---|---|\n");
    }
    for counted in &report.counted {
        out.push_str(&format!("| {} | {} {} |\n", counted.name, counted.value, counted.unit));
    }
    out
}

fn row(line: &Line) -> String {
    let what = format!("| {} (`{}`) |", line.about, line.name);
    let measured = match &line.result {
        Err(why) => return format!("{what} not measured: {why} | | | | |\n"),
        Ok(measured) => measured,
    };
    let what = match &measured.note {
        Some(note) => format!("| {} (`{}`): {note} |", line.about, line.name),
        None => what,
    };
    let (limit, ours) = (&measured.limit, &measured.ours);
    let times = [limit.p50_ns, ours.p50_ns, ours.p99_ns].map(|ns| time(ns).replace("us", "µs"));
    let [limit, ours, p99] = times;
    let aim = line.target.map_or(String::new(), |aim| format!("{aim:.2}"));
    format!("{what} {limit} | {ours} | {p99} | {:.2} | {aim} |\n", measured.ratio.median)
}
