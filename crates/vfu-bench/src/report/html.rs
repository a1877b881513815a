//! A page that needs nothing beside itself: tables, and a bar for each ratio.

use std::fmt::Write;

use super::{Line, Report, time};
use crate::row::Group;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #ddd; white-space: nowrap; vertical-align: top }
th:first-child, td:first-child { text-align: left; white-space: normal }
td small { color: #666 } .above { color: #a40 } .ok { color: #060 }
svg { display: block } @media (prefers-color-scheme: dark) {
body { color: #ddd; background: #1b1b1b } th, td { border-color: #444 } td small { color: #999 }
.above { color: #fa6 } .ok { color: #7c7 } }
";

/// The pixels of a ratio of 1, and the most that a bar has.
const ONE: f64 = 90.0;
const WIDEST: f64 = 270.0;

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut out = String::new();
    let machine = &report.machine;
    let facts = format!(
        "vfu {}, {}, {} CPUs, {}, load {:.2} at the start",
        machine.vfu, machine.processor, machine.cpus, machine.system, machine.load
    );
    out.push_str("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width\">\n");
    put(&mut out, format_args!("<title>vfu bench</title>\n<style>{STYLE}</style>\n"));
    put(&mut out, format_args!("<h1>What vfu costs</h1>\n<p>{}</p>\n", escape(&facts)));
    out.push_str(
        "<p>Each row is an operation of vfu beside its limit: the least that this machine takes for \
         the same, measured in turns in the same run. The bar is the ratio; the dark line is the \
         limit itself, the dotted one our target, the thin one reaches from quartile to \
         quartile.</p>\n",
    );
    for group in Group::ALL {
        let lines: Vec<&Line> = report.rows.iter().filter(|line| line.group == group).collect();
        if !lines.is_empty() {
            table(&mut out, group, &lines);
        }
    }
    if !report.counted.is_empty() {
        out.push_str("<h2>Counted</h2>\n<table>\n");
        for counted in &report.counted {
            let (name, unit) = (escape(&counted.name), escape(&counted.unit));
            put(&mut out, format_args!("<tr><td>{name}<td>{} {unit}\n", counted.value));
        }
        out.push_str("</table>\n");
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _infallible = out.write_fmt(text);
}

fn table(out: &mut String, group: Group, lines: &[&Line]) {
    put(out, format_args!("<h2>{}</h2>\n<table>\n", escape(group.title())));
    out.push_str("<tr><th>row<th>limit<th>ours<th>p99<th>p99.9<th>ratio<th>target<th>\n");
    for line in lines {
        let (about, limit) = (escape(&line.about), escape(&line.limit));
        put(out, format_args!("<tr><td>{about}<br><small>against {limit}"));
        let measured = match &line.result {
            Err(why) => {
                put(out, format_args!("</small><td colspan=7>not measured: {}\n", escape(why)));
                continue;
            }
            Ok(measured) => measured,
        };
        if let Some(note) = &measured.note {
            put(out, format_args!("; {}", escape(note)));
        }
        out.push_str("</small>");
        let (bare, ours) = (&measured.limit, &measured.ours);
        for ns in [bare.p50_ns, ours.p50_ns, ours.p99_ns, ours.p999_ns] {
            put(out, format_args!("<td>{}", time(ns)));
        }
        let class = match line.met {
            Some(true) => " class=ok",
            Some(false) => " class=above",
            None => "",
        };
        let target = line.target.map_or("-".into(), |target| format!("{target:.2}"));
        put(out, format_args!("<td{class}>{:.2}<td>{target}", measured.ratio.median));
        let ratio = [measured.ratio.low, measured.ratio.median, measured.ratio.high];
        put(out, format_args!("<td>{}\n", bar(ratio, line.target)));
    }
    out.push_str("</table>\n");
}

/// The ratio as a bar, with its quartiles, the limit and the target.
fn bar([low, median, high]: [f64; 3], target: Option<f64>) -> String {
    let at = |ratio: f64| (ratio * ONE).clamp(0.0, WIDEST);
    let mut svg = format!(
        "<svg width=\"{WIDEST}\" height=\"18\" role=\"img\" aria-label=\"{median:.2} times\">\
         <rect y=\"3\" height=\"12\" width=\"{:.1}\" fill=\"#69c\"/>\
         <path d=\"M{:.1} 9H{:.1}\" stroke=\"currentColor\"/>\
         <path d=\"M{ONE} 0V18\" stroke=\"currentColor\" stroke-width=\"2\"/>",
        at(median),
        at(low),
        at(high),
    );
    if let Some(target) = target {
        let x = at(target);
        put(
            &mut svg,
            format_args!("<path d=\"M{x:.1} 0V18\" stroke=\"#c40\" stroke-dasharray=\"2\"/>"),
        );
    }
    svg.push_str("</svg>");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
