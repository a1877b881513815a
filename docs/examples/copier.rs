//! Serves the device of the guide: `cargo run -p vfu-guide --example copier -- /tmp/copier.sock`.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use vfu::Server;
use vfu_guide::copier::device::{Copier, pci};

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env()) // what RUST_LOG says
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let path = std::env::args_os().nth(1).context("usage: copier SOCKET [--incoming]")?;
    let incoming = std::env::args_os().nth(2).is_some_and(|arg| arg == "--incoming");
    Server::builder(pci()).incoming(incoming).listen(path)?.run(Copier::new)?;
    Ok(())
}
