//! Logs, to standard error.

use std::io::IsTerminal;

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
                eprintln!("vfu: RUST_LOG={directives} is ignored: {error}");
                EnvFilter::new(default)
            })
        }
        _ => EnvFilter::new(default),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say on standard error that that can't be written to, and panic.
        .log_internal_errors(false)
        .init();
}
