//! Tasks of the project that are more than one command of cargo.

mod build;
mod coverage;
mod endurance;
mod fuzz;
mod install;
mod layout;
mod llvm;
mod sanitize;
mod toolchain;

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
    /// Remove what `install` with the same folders has put there
    Uninstall(install::Uninstall),
    /// Let a server live through all that it is to live through: clients that come and go 100,000 times, that are
    /// killed 10,000 times, that take all descriptors and all memory
    ///
    /// The tests of `crates/vfu/tests/endurance` with all their rounds, one after the other. A few
    /// rounds are part of `cargo test`.
    Endurance(endurance::Endurance),
    /// Look for input that breaks us: wire, engine, whole server, whole client and more
    ///
    /// Runs the targets of crates/vfu-fuzz-targets with libFuzzer, from the corpus in fuzz/corpus on. What
    /// reaches new code is kept in target/fuzz, and taken up by the next run. Exit code 1 if anything was
    /// found: the input is in fuzz/artifacts, and the command that replays it below the table.
    ///
    /// Needs a C++ compiler and no nightly. Without one it says so and tries blind input.
    Fuzz(fuzz::Fuzz),
    /// Measure how many lines of wire, session, pci and dma the tests run
    ///
    /// Runs the tests of vfu-proto and vfu. Exit code 1 if a part has less than 90 % of its lines run. Needs
    /// llvm-profdata and llvm-cov that are as new as the compiler, and says where to get them.
    Coverage(coverage::Coverage),
    /// Run tests under Miri, ThreadSanitizer and AddressSanitizer
    ///
    /// All three need the nightly toolchain. What is missing is said, and skipped; with CI=true that is a
    /// failure. Exit code 1 if anything was found.
    Sanitize(sanitize::Sanitize),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Install(install) => install.run().map(|()| ExitCode::SUCCESS),
        Task::Uninstall(uninstall) => uninstall.run().map(|()| ExitCode::SUCCESS),
        Task::Endurance(endurance) => endurance.run().map(|()| ExitCode::SUCCESS),
        Task::Fuzz(fuzz) => fuzz.run(),
        Task::Coverage(coverage) => coverage.run(),
        Task::Sanitize(sanitize) => sanitize.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
