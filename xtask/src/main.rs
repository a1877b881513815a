//! Tasks of the project that are more than one command of cargo.

mod build;
mod endurance;
mod install;
mod layout;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the project: `cargo xtask TASK`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the C library and install it with its headers, as distributions lay it out
    ///
    /// PREFIX/LIBDIR gets libvfio-user.so.0.0.1 and the two links to it, libvfio-user.a, and
    /// pkgconfig/libvfio-user.pc; PREFIX/include/vfio-user the headers. What was there by these names is replaced.
    Install(install::Install),
    /// Let a server live through all that it is to live through: clients that come and go 100,000 times, that are
    /// killed 10,000 times, that take all descriptors and all memory
    ///
    /// The tests of `crates/vfu/tests/endurance` with all their rounds, one after the other. A few
    /// rounds are part of `cargo test`.
    Endurance(endurance::Endurance),
    /// Remove what `install` with the same folders has put there
    Uninstall(install::Uninstall),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Install(install) => install.run(),
        Task::Endurance(endurance) => endurance.run(),
        Task::Uninstall(uninstall) => uninstall.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
