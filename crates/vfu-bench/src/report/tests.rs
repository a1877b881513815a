use super::*;
use crate::stats::{Figures, Ratio};

fn figures(ns: f64) -> Figures {
    Figures { p50_ns: ns, p99_ns: ns * 2.0, p999_ns: ns * 3.0, middle_ns: ns, samples: 10 }
}

fn measured(ratio: f64) -> Measured {
    Measured {
        limit: figures(1000.0),
        ours: figures(1000.0 * ratio),
        ratio: Ratio { median: ratio, low: ratio - 0.01, high: ratio + 0.01 },
        pairs: 9,
        note: Some("x < y".into()),
    }
}

fn row(target: Option<f64>) -> Row {
    let row = Row::new(Group::Access, "read4", "a read", "a \"bare\" one", |_| Ok(measured(1.05)));
    match target {
        Some(target) => row.at_most(target),
        None => row,
    }
}

fn report() -> Report {
    Report::new(Machine {
        processor: "<cpu>".into(),
        cpus: 2,
        system: "Linux".into(),
        load: 0.5,
        vfu: "0".into(),
    })
}

#[test]
fn a_row_says_whether_its_target_is_met() {
    let mut report = report();
    assert_eq!(report.add(&row(Some(1.10)), Ok(measured(1.05))).met, Some(true));
    assert_eq!(report.add(&row(Some(1.02)), Ok(measured(1.05))).met, Some(false));
    assert_eq!(report.add(&row(None), Ok(measured(1.05))).met, None);
    let failed = report.add(&row(Some(1.0)), Err(anyhow::anyhow!("no CPU")));
    assert_eq!(failed.met, None);
    assert!(line(failed).ends_with("not measured: no CPU"), "{}", line(failed));
}

#[test]
fn a_line_has_all_columns_of_its_heading() {
    let mut report = report();
    let text = line(report.add(&row(Some(1.10)), Ok(measured(1.05))));
    for part in ["read4", "1.00 us", "1.05 us", "2.10 us", "3.15 us", "1.05", "1.10 ok"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_page_escapes_and_needs_nothing_else() {
    let mut report = report();
    report.add(&row(Some(1.10)), Ok(measured(1.05)));
    let page = page(&report);
    assert!(page.contains("&lt;cpu&gt;") && page.contains("x &lt; y"), "{page}");
    assert!(!page.contains("http") && !page.contains("<script"), "{page}");
}

#[test]
fn markdown_has_a_table_for_each_group_that_was_measured() {
    let mut report = report();
    report.add(&row(Some(1.10)), Ok(measured(1.05)));
    report.add(&row(None), Err(anyhow::anyhow!("no CPU")));
    let text = markdown(&report);
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 4, "{text}");
    let bars = |line: &&str| line.matches('|').count();
    assert!(rows.iter().all(|line| bars(line) == 7), "{text}");
    for part in ["1.00 µs | 1.05 µs | 2.10 µs | 1.05 | 1.10 |", "not measured: no CPU", "x < y"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn json_has_figures_and_reasons() {
    let mut report = report();
    report.add(&row(Some(1.10)), Ok(measured(1.05)));
    report.add(&row(None), Err(anyhow::anyhow!("no CPU")));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["rows"][0]["result"]["Ok"]["ratio"]["median"], 1.05);
    assert_eq!(json["rows"][1]["result"]["Err"], "no CPU");
}
