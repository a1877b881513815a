//! Programs that were built for the older interface under the same soname are never run with shifted arguments.
#![cfg(target_os = "linux")]

mod common;

use std::process::Command;

use common::{WARNINGS, crate_dir, library_dir, run, said, scratch};

fn served(name: &str, more: &[&str]) {
    let (library, folder) = (library_dir(), scratch(name));
    let program = folder.join("program");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    run(Command::new(compiler)
        .args(["-std=gnu11", "-g", "-pthread"])
        .args(WARNINGS)
        .args(more)
        .arg(crate_dir().join("tests/old/program.c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&library)
        .args(["-lvfio-user", &format!("-Wl,-rpath,{}", library.display())]));
    let output = run(Command::new(program).arg(folder.join("socket")));
    assert!(said(&output).contains("served"), "{}", said(&output));
}

#[test]
fn a_program_of_the_old_interface_is_served() {
    served("old", &[]);
}

/// Its code lies at low addresses, as counts do.
#[test]
fn so_is_one_at_a_fixed_address() {
    served("old-fixed", &["-no-pie", "-fno-pie"]);
}
