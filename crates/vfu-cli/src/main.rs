//! The vfu command.

mod bench;
mod completions;
mod connect;
mod demo;
mod describe;
mod exit;
mod fd;
mod fuzz;
mod janitor;
mod log;
mod migrate;
mod probe;
mod sandbox;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const ABOUT: &str = "PCI devices as ordinary programs, over the vfio-user protocol";

const LONG_ABOUT: &str = "\
PCI devices as ordinary programs, over the vfio-user protocol.

`vfu serve` is a device at a UNIX socket. A virtual machine monitor such as QEMU, or any other \
vfio-user client, connects to it and has a PCI device. `vfu probe` shows what is behind such a \
socket, `vfu describe` what a device of ours is made of. `vfu migrate` moves a device with its \
state from one server to another. `vfu demo` serves devices itself, drives them, and says what \
works; `vfu demo crossing` has both ends speak at once. `vfu bench` measures what things cost. \
`vfu fuzz` is a hostile client for any server, or a hostile server for any client.";

const AFTER_LONG_HELP: &str = "\
Exit codes:
  0  ended as asked
  1  failed
  2  wrong usage: an argument is unknown, missing or not possible
  3  the socket can't be had: in use, not a socket, not allowed, ...
  4  the peer at the socket is missing, or does not speak vfio-user as it should
  5  `vfu fuzz` found something

Environment:
  RUST_LOG  what is logged to standard error, such as `debug` or `vfu=trace,warn`; goes before -v";

#[derive(Debug, Parser)]
#[command(name = "vfu", version, about = ABOUT, long_about = LONG_ABOUT)]
#[command(after_long_help = AFTER_LONG_HELP, propagate_version = true)]
struct Cli {
    /// Log more to standard error: -v what happens, -vv details, -vvv every access
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

/// One module each, with its arguments and what it does.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Probe(probe::Args),
    Migrate(migrate::Args),
    Describe(describe::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    Completions(completions::Args),
    #[command(name = janitor::COMMAND, hide = true)]
    Janitor(janitor::Args),
}

fn main() -> ExitCode {
    if let Some(code) = vfu_bench::roles::enter() {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let cli = Cli::parse();
    log::start(cli.verbose);
    let result = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Describe(args) => describe::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Completions(args) => completions::run(args),
        Command::Janitor(args) => janitor::run(&args),
    };
    result.unwrap_or_else(|error| {
        let _closed = writeln!(std::io::stderr(), "vfu: {}", exit::describe(&error));
        exit::code_of(&error)
    })
}
