//! What the shared library exports: the functions of the headers, and nothing else.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{crate_dir, library, run, said, skip, tool};

/// The functions of the table; the C library's alone, or ours too.
fn functions(with_ours: bool) -> BTreeSet<String> {
    let text = fs::read_to_string(crate_dir().join("tests/abi/table.txt")).expect("the table");
    let names = text.lines().filter_map(|line| line.strip_prefix("sig ")?.split(' ').next());
    names.filter(|name| with_ours || !name.starts_with("vfu_rs_")).map(str::to_owned).collect()
}

#[test]
fn the_c_interface_has_34_functions() {
    assert_eq!(functions(false).len(), 34);
}

#[test]
fn exported_are_the_functions_of_the_headers_and_nothing_else() {
    let Some(mut nm) = tool("nm") else {
        return skip("the exported symbols", "nm (binutils)");
    };
    let output = run(nm.args(["-D", "--defined-only", "-f", "posix"]).arg(library()));
    let exported: BTreeSet<String> = said(&output)
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(exported, functions(!common::is_foreign()));
}

#[test]
fn it_is_found_by_the_name_that_programs_ask_for() {
    let Some(mut readelf) = tool("readelf") else {
        return skip("the name of the library", "readelf (binutils)");
    };
    let output = run(readelf.arg("-d").arg("-W").arg(library()));
    let text = said(&output);
    assert!(
        text.lines().any(|line| line.contains("(SONAME)") && line.contains("[libvfio-user.so.0]")),
        "{text}"
    );
}
