//! `vfu bench` as a user or a script sees it. What comes out of it is never judged here: times are
//! no tests.

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use vfu_testkit::TestServer;

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").stdin(Stdio::null()).arg("bench").args(args);
    command.output().unwrap()
}

#[track_caller]
fn ends(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The names of the rows in the JSON, each of which has to have figures.
#[track_caller]
fn measured(json: &str) -> Vec<String> {
    let report: Value = serde_json::from_str(json).unwrap();
    assert_eq!(report["format"], 1);
    let rows = report["rows"].as_array().unwrap();
    let name = |row: &Value| {
        let median = &row["result"]["Ok"]["ratio"]["median"];
        assert!(median.as_f64().is_some_and(|ratio| ratio > 0.0), "{row}");
        row["name"].as_str().unwrap().to_owned()
    };
    rows.iter().map(name).collect()
}

#[test]
fn the_list_has_every_row_with_its_limit() {
    let list = ends(&bench(&["--list"]), 0);
    for part in ["read4-one-cpu", "map-fd", "idle-process", "against two sends and two receives"] {
        assert!(list.contains(part), "no {part} in:\n{list}");
    }
}

#[test]
fn chosen_rows_as_json() {
    let out = bench(&["--quick", "--json", "idle", "read4-server"]);
    assert_eq!(measured(&ends(&out, 0)), ["read4-server-cpu", "idle-process"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("Interrupts"), "the table goes there");
}

#[test]
fn a_page_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    ends(&bench(&["-q", "direct-read-4B", "--html", page.to_str().unwrap()]), 0);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg"), "{page}");
}

#[test]
fn chosen_rows_as_markdown() {
    let out = bench(&["-q", "--markdown", "direct-read-4B"]);
    let text = ends(&out, 0);
    assert!(text.contains("| DMA through shared memory | limit |"), "{text}");
    assert!(text.contains("(`direct-read-4B`) |"), "{text}");
    ends(&bench(&["--markdown", "--json", "direct-read-4B"]), 2);
}

#[test]
fn a_first_look_leaves_out_what_takes_long_and_says_so() {
    let text = ends(&bench(&["-q", "translate-same", "1000000"]), 0);
    assert!(text.contains("left out") && text.contains("translate-random-1000000"), "{text}");
    assert!(text.contains("translate-same"), "{text}");
}

#[test]
fn any_server_can_be_measured() {
    let server = TestServer::start();
    let out = bench(&["-q", "--json", "--socket", server.path().to_str().unwrap()]);
    let rows = ["config-read4", "config-read256", "config-read4-server-cpu", "map-fd", "unmap-fd"];
    assert_eq!(measured(&ends(&out, 0)), rows);
    server.stop().unwrap();
}

#[test]
fn a_row_that_is_not_there() {
    let out = bench(&["nonesuch"]);
    ends(&out, 2);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(stderr.contains("nonesuch") && stderr.contains("vfu bench --list"), "{stderr}");
}

#[test]
fn a_server_that_is_not_there() {
    let out = bench(&["-q", "--socket", "/nonexistent/vfu.sock"]);
    let stdout = ends(&out, 1);
    assert!(stdout.contains("/nonexistent/vfu.sock"), "{stdout}");
}

#[test]
fn a_page_that_can_not_be_written_is_noticed_first() {
    let out = bench(&["-q", "--html", "/nonexistent/report.html"]);
    assert!(ends(&out, 1).is_empty(), "nothing was measured");
}
