//! What was done, for people.

use std::fmt::Write as _;

use super::worker::Report;

/// The command that replays an input.
fn replay(report: &Report) -> Option<String> {
    let input = report.finding.as_ref()?;
    Some(format!("cargo run -p vfu-fuzz-targets -- {} {}", report.target, input.display()))
}

fn rate(report: &Report) -> u64 {
    (report.executions as f64 / report.time.as_secs_f64().max(0.001)) as u64
}

fn or_dash(count: Option<u64>) -> String {
    count.map_or_else(|| "-".into(), |count| count.to_string())
}

/// One line, on the way.
pub(super) fn progress(report: &Report) -> String {
    let (seconds, edges) = (report.time.as_secs(), or_dash(report.edges));
    let mut line = format!(
        "{:12} {seconds:5} s {:12} executions {:8}/s  edges {edges}",
        report.target,
        report.executions,
        rate(report),
    );
    if let Some(replay) = replay(report) {
        let _ = write!(line, "\n{:12} FOUND SOMETHING: {replay}", report.target);
    }
    line
}

/// All of it, at the end.
pub(super) fn table(reports: &[Report]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\n{:12} {:>7} {:>13} {:>9} {:>13} {:>7} {:>6} {:>9}",
        "target", "time", "executions", "per s", "steps", "edges", "new", "findings"
    );
    for report in reports {
        let _ = writeln!(
            out,
            "{:12} {:>5} s {:>13} {:>9} {:>13} {:>7} {:>6} {:>9}",
            report.target,
            report.time.as_secs(),
            report.executions,
            rate(report),
            report.steps,
            or_dash(report.edges),
            or_dash(report.new),
            usize::from(report.finding.is_some()),
        );
    }
    let (executions, steps): (u64, u64) =
        reports.iter().fold((0, 0), |(a, b), report| (a + report.executions, b + report.steps));
    let _ = writeln!(out, "\n{executions} executions, {steps} steps (counted in lumps of 65536)");
    for line in reports.iter().filter_map(replay) {
        let _ = writeln!(out, "replay with: {line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_comes_with_the_command_to_replay_it() {
        let found = Report { finding: Some("/tmp/crash".into()), ..Report::default() };
        let found = Report { target: "wire".into(), executions: 7, ..found };
        let text = table(std::slice::from_ref(&found));
        assert!(text.contains("cargo run -p vfu-fuzz-targets -- wire /tmp/crash"), "{text}");
        assert!(progress(&found).contains("FOUND SOMETHING"));
        let nothing = Report { finding: None, ..found };
        assert!(!table(&[nothing]).contains("replay"));
    }
}
