//! `vfu-guest`: see the README beside it.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use vfu_guest::{cases, check, demo, lab, say, suite};

/// Boots a real Linux guest under QEMU with vfu devices attached, and checks what it sees.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says whether guests can run here, and if not, why
    Check,
    /// Fetches QEMU and the guest into the cache, if they are not there
    Setup,
    /// Lists the tests
    List,
    /// Runs the named tests, or all but the long ones
    Test {
        /// Names of tests; NAME* means all that begin with NAME
        names: Vec<String>,
    },
    /// Boots one guest with two devices and shows what it sees
    Demo,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Check => {
            if let Some(why) = check::why_not() {
                println!("{why}");
                return Ok(ExitCode::FAILURE);
            }
            println!("guests can run here");
        }
        Command::Setup => {
            let (qemu, _) = lab::setup()?;
            say(format!("ready, with {}", qemu.version));
        }
        Command::List => {
            for test in cases::all() {
                println!("{:32} {}", test.name, test.what);
            }
        }
        Command::Test { names } => {
            if suite::run(names)? > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Demo => demo::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
