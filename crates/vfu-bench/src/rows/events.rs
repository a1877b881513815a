//! Interrupts, and an event loop that finds nothing to do.

use std::io::IoSliceMut;
use std::os::unix::net::UnixStream;

use anyhow::ensure;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

use super::halves::ServerHalf;
use super::inprocess::InProcess;
use crate::measure::{Bulk, Effort, compare};
use crate::row::{Group, Measured, Row};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new(
            Group::Events,
            "interrupt",
            "an interrupt (MSI-X) that nobody waits for",
            "a write to an eventfd that nobody waits for",
            interrupt,
        )
        .at_most(1.02),
        Row::new(
            Group::Events,
            "idle-process",
            "Server::process with nothing to do",
            "a receive, without waiting, on a socket on which nothing has come",
            idle,
        )
        .at_most(1.05),
    ]
}

fn interrupt(effort: Effort) -> anyhow::Result<Measured> {
    let ends = InProcess::start()?;
    let _interrupts = ends.interrupts()?;
    let vector = ends.handle().vector(0);
    let bare = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let mut limit = Bulk(|times| {
        for _ in 0..times {
            write(&bare, &1u64.to_ne_bytes())?;
        }
        Ok(())
    });
    let mut ours = Bulk(|times| {
        for _ in 0..times {
            vector.trigger()?;
        }
        Ok(())
    });
    compare(effort, &mut limit, &mut ours)
}

fn idle(effort: Effort) -> anyhow::Result<Measured> {
    let (bare, _peer) = UnixStream::pair()?;
    let mut server = ServerHalf::new()?;
    let mut bytes = [0; 4096];
    let mut limit = Bulk(|times| {
        for _ in 0..times {
            let mut control = RecvAncillaryBuffer::default();
            let mut into = [IoSliceMut::new(&mut bytes)];
            let got = recvmsg(&bare, &mut into, &mut control, RecvFlags::DONTWAIT);
            ensure!(got.is_err(), "nothing was sent");
        }
        Ok(())
    });
    let mut ours = Bulk(|times| (0..times).try_for_each(|_| server.idle()));
    compare(effort, &mut limit, &mut ours)
}
