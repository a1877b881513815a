//! The tests in Python, `tests/py`: the library through ctypes, as test benches and models in Python use it.
#![cfg(target_os = "linux")]

mod common;

use std::process::Command;

use common::{crate_dir, files, library_dir, run, said, skip, tool};

#[test]
fn the_cases_in_python() {
    let Some(mut python) = tool("python3") else {
        return skip("the cases in Python", "python3");
    };
    let has_eventfd = python.args(["-c", "import os; os.eventfd"]).output();
    if !has_eventfd.is_ok_and(|output| output.status.success()) {
        return skip("the cases in Python", "Python 3.10");
    }
    let folder = crate_dir().join("tests/py");
    let tests: Vec<String> = files(&folder, "py")
        .iter()
        .filter_map(|file| {
            file.file_stem()?.to_str().filter(|name| name.starts_with("test_")).map(str::to_owned)
        })
        .collect();
    assert!(!tests.is_empty());
    let mut python = Command::new(python.get_program());
    python.args(["-B", "-X", "faulthandler", "-m", "unittest"]).args(&tests).current_dir(&folder);
    let output = run(python.env("VFU_SO", library_dir().join("libvfio-user.so.0")));
    let text = said(&output);
    let ran = text
        .lines()
        .find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<usize>().ok());
    let ran = ran.expect("unittest says how many");
    println!("{ran} cases");
    assert!(ran >= 150 && !text.contains("skipped"), "{text}");
}
