//! Logs, to standard error. What can't be written there, since the disk is full for example, is lost:
//! that is no reason to end.

use std::io::{IsTerminal, Write, stderr};

use tracing_subscriber::EnvFilter;

/// Logs warnings; more with -v, and whatever `RUST_LOG` says if it is set.
pub(crate) fn start(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(&directives).unwrap_or_else(|error| {
                let _lost = writeln!(stderr(), "vfu: RUST_LOG={directives} is ignored: {error}");
                EnvFilter::new(default)
            })
        }
        _ => EnvFilter::new(default),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        // It would say so with `eprintln!`, which panics if that can't be written, either.
        .log_internal_errors(false)
        .init();
}
