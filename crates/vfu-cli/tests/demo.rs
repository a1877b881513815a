//! `vfu demo` passes, and tells it in both forms.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn demo(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").stdin(Stdio::null()).arg("demo").args(args);
    command.output().unwrap()
}

#[test]
fn json_has_every_check_and_the_story_goes_elsewhere() {
    let output = demo(&["--json"]);
    let story = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{story}");
    assert!(story.contains("Summary") && story.contains("all 13 passed"), "{story}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["format"], 1);
    assert_eq!(results["passed"], true);
    let checks = results["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 13);
    assert!(checks.iter().all(|check| check["passed"] == true));
    let figure = |about: &str, name: &str, figure: &str| {
        let mut found = checks.iter().filter(|check| check["about"] == about);
        let check = found.find(|check| check["name"] == name).expect(name);
        check["figures"][figure].as_f64().expect(figure)
    };
    assert_eq!(figure("edu", "INTx counted", "seen"), 100.0);
    assert_eq!(figure("edu", "MSI counted", "seen"), 100.0);
    assert_eq!(figure("edu", "DMA round trip, shared memory", "dma_messages"), 0.0);
    assert_eq!(figure("edu", "DMA round trip, messages", "dma_messages"), 2.0);
    assert_eq!(figure("idio16", "change interrupts counted", "interrupts"), 32.0);
    let p50 = figure("speed", "latency of a register read", "one_cpu_read_p50_ns");
    assert!(p50 <= figure("speed", "latency of a register read", "one_cpu_read_p99_ns"));
}

#[test]
fn text_shows_the_trees_and_the_table() {
    let output = demo(&[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for needle in ["1234:11e8", "494f:0dc8", "10! = 3628800", "Summary", "all 13 passed"] {
        assert!(text.contains(needle), "no '{needle}' in:\n{text}");
    }
    assert!(output.stderr.is_empty(), "no progress bar where there is no terminal");
    assert!(!text.contains('\u{1b}'), "no colours either");
}

#[test]
fn crossing_traffic_loses_nothing_on_one_socket_and_on_two() {
    let output = demo(&["crossing", "--seconds", "1", "--json"]);
    let story = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{story}");
    assert!(story.contains("all 10 passed"), "{story}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["format"], 1);
    let checks = results["checks"].as_array().unwrap();
    for about in ["1 socket", "2 sockets"] {
        let figure = |name: &str, figure: &str| {
            let mut found = checks.iter().filter(|check| check["about"] == about);
            let check = found.find(|check| check["name"] == name).expect(name);
            check["figures"][figure].as_f64().expect(figure)
        };
        let name = "reads while DMA crosses";
        assert_eq!(figure(name, "dma_messages_sent"), figure(name, "dma_messages_arrived"));
        assert!(figure(name, "copies") > 0.0 && figure(name, "reads_per_s") > 0.0);
        let name = "resets and unmaps in between";
        assert!(figure(name, "resets") > 0.0 && figure(name, "transfers") > 0.0);
        assert!(figure("4 KiB reads, 32 at a time", "ratio") > 0.0);
    }
}

#[test]
fn crossing_takes_a_sensible_time_only() {
    for seconds in ["0", "-1", "soon", "1e30"] {
        let output = demo(&["crossing", &format!("--seconds={seconds}")]);
        assert_eq!(output.status.code(), Some(2), "{seconds}");
    }
}
