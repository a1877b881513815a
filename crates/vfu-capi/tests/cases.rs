//! The cases in C, `tests/c`: each drives the library through a real socket with a client that says what it is told to.
//!
//! `VFU_CAPI_SO=/path/to/libvfio-user.so cargo test -p vfu-capi --test cases -- --nocapture` runs them against another
//! library. With the C library the cases `d01` to `d28` fail (`d12` and `d13` under valgrind; the long writes of `d11`
//! smash its stack, which AddressSanitizer sees), as do most in `arguments.c`, `attacks.c` and `threads.c`; `rs_` are
//! skipped; all others pass, for they say what both have in common.
#![cfg(target_os = "linux")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Language, WARNINGS, crate_dir, files, include_dir, library_dir, run, said, scratch, skip, tool,
};

/// Compiles the cases; C with GNU's functions, for sockets and descriptors.
fn build(name: &str, more: &[&str]) -> PathBuf {
    let (sources, library) = (crate_dir().join("tests/c"), library_dir());
    let program = scratch(name).join("cases");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    run(Command::new(compiler)
        .args(["-std=gnu11", "-g", "-pthread"])
        .args(WARNINGS)
        .args(more)
        .arg("-I")
        .arg(include_dir())
        .arg("-I")
        .arg(&sources)
        .args(files(&sources, "c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&library)
        .args(["-lvfio-user", &format!("-Wl,-rpath,{}", library.display())]));
    program
}

/// How many cases ran, from the last line; none may have been skipped.
fn count(output: &str) -> usize {
    println!("{output}");
    let is_skipped = output.lines().any(|line| line.starts_with("skipped "));
    assert!(common::is_foreign() || !is_skipped, "skipped cases:\n{output}");
    let cases = output.lines().rev().find_map(|line| line.split_once(" cases, ")?.0.parse().ok());
    cases.expect("the last line says how many")
}

#[test]
fn the_cases_in_c() {
    let program = build("cases", &[]);
    let output = Command::new(&program).output().expect("the program starts");
    let (text, cases) = (said(&output), count(&String::from_utf8_lossy(&output.stdout)));
    println!("{cases} cases");
    assert!(output.status.success(), "{text}");
    assert!(cases >= 200, "{cases} cases");
}

/// The defects of the C library that were found are numbered; none is forgotten.
#[test]
fn every_known_defect_has_a_case() {
    let mut text = String::new();
    for file in files(&crate_dir().join("tests/c"), "c") {
        text.push_str(&std::fs::read_to_string(file).expect("a file of ours"));
    }
    for number in 1..=28 {
        assert!(text.contains(&format!("CASE(d{number:02}_")), "defect {number} has no case");
    }
}

/// Every function of the interface is used by a case.
#[test]
fn every_function_has_a_case() {
    let mut text = String::new();
    for file in files(&crate_dir().join("tests/c"), "c") {
        text.push_str(&std::fs::read_to_string(file).expect("a file of ours"));
    }
    let table =
        std::fs::read_to_string(crate_dir().join("tests/abi/table.txt")).expect("the table");
    let mut functions = 0;
    for function in table.lines().filter_map(|line| line.strip_prefix("sig ")?.split(' ').next()) {
        functions += 1;
        assert!(text.contains(&format!("{function}(")), "{function} is called by no case");
    }
    assert!(functions >= 34, "{functions}");
}

/// AddressSanitizer sees what goes beyond the end of a block, also where the library allocated it, and
/// what was never freed.
#[test]
fn the_cases_under_address_sanitizer() {
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let probe = scratch("asan-probe");
    let mut compiler = Language::C11.compiler().expect("a C compiler links Rust programs, too");
    let (source, program) = (probe.join("probe.c"), probe.join("probe"));
    std::fs::write(&source, "int main(void) { return 0; }\n")
        .expect("a file in the scratch folder");
    let empty = compiler.args(flags).arg("-o").arg(program).arg(source);
    if !empty.output().expect("a compiler that starts").status.success() {
        return skip("the cases under AddressSanitizer", "its library");
    }
    let output = Command::new(build("cases-asan", &flags)).output().expect("the program starts");
    assert!(output.status.success(), "{}", said(&output));
    count(&String::from_utf8_lossy(&output.stdout));
}

/// What reads or writes beyond the end may still give the right answer: valgrind sees it.
#[test]
fn the_cases_about_memory_under_valgrind() {
    let Some(valgrind) = tool("valgrind") else {
        return skip("the cases under valgrind", "valgrind");
    };
    let program = build("cases-valgrind", &[]);
    for group in [&["d11", "d12", "d13", "d14"][..], &["d15", "d16", "d17", "d24", "d28_a"][..]] {
        under(&valgrind, &program, group);
    }
}

fn under(valgrind: &Command, program: &Path, cases: &[&str]) {
    let mut command = Command::new(valgrind.get_program());
    command
        .args(["-q", "--error-exitcode=99", "--child-silent-after-fork=no", "--leak-check=no"])
        .arg(program)
        .args(cases);
    let output = command.output().expect("valgrind starts");
    let text = said(&output);
    assert!(
        output.status.success() && !text.contains("== "),
        "{command:?}: {}\n{text}",
        output.status
    );
    count(&String::from_utf8_lossy(&output.stdout));
}
