//! Servers that live longer than a guest, or shorter.

use anyhow::Result;

use crate::guest::{Device, Machine};
use crate::lab::Bench;
use crate::server::Server;
use crate::suite::Test;

/// Two guests of one server, then a third after the server was killed.
pub(super) const RESTART: Test = Test {
    name: "server-restart",
    what: "two guests on one server one after another, then one on a server started anew",
    run: |bench| {
        let mut server = bench.serve("edu")?;
        guest(bench, &server)?;
        server.is_alive()?;
        guest(bench, &server)?;
        server.kill()?;
        // The socket of the dead is still there.
        let mut server = bench.serve("edu")?;
        guest(bench, &server)?;
        server.is_alive()
    },
};

fn guest(bench: &Bench<'_>, server: &Server) -> Result<()> {
    let device = Device::vfio_user("edu0", server.socket());
    let script = include_str!("../../inside/edu-fresh.sh");
    bench.boot(&Machine::new(script, vec![device]))?.finish()
}
