//! What a device takes that does nothing, and how soon it is ready.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vfu::Server;

use super::device::{Plain, pci};
use crate::measure::{Bursts, Each, Effort, compare};
use crate::roles::Process;
use crate::row::{Counted, Group, Measured, Row};

/// Devices in one process.
const DEVICES: usize = 1000;

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new(
            Group::Footprint,
            "create",
            "a device made, and dropped again",
            "a pair of sockets made, a byte sent over it, and closed",
            create,
        ),
        Row::new(
            Group::Footprint,
            format!("create-{DEVICES}"),
            format!("{DEVICES} devices in one process, each at its socket, from nothing to ready"),
            "as many sockets that listen",
            create_many,
        ),
    ]
}

/// Many devices that clients can connect to, and as many bare sockets. Dropping them is not measured.
fn create_many(effort: Effort) -> anyhow::Result<Measured> {
    raise_limit()?;
    // In memory, if there is such a folder: no disk is to be measured.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let paths: Vec<_> = (0..DEVICES).map(|number| folder.path().join(number.to_string())).collect();
    let sockets = Cell::new(Vec::new());
    let bare = || {
        let listening = paths.iter().map(UnixListener::bind).collect::<Result<Vec<_>, _>>();
        sockets.set(listening?);
        Ok(())
    };
    let close = || {
        drop(sockets.take());
        Ok(paths.iter().try_for_each(std::fs::remove_file)?)
    };
    let servers = Cell::new(Vec::new());
    let make = |path| -> anyhow::Result<Server<Plain>> {
        Ok(Server::builder(pci()).listen(path)?.serve(|_| Plain::small())?)
    };
    let many = || {
        servers.set(paths.iter().map(make).collect::<Result<Vec<_>, _>>()?);
        Ok(())
    };
    let end = || {
        drop(servers.take());
        Ok(())
    };
    compare(
        effort,
        &mut Bursts { count: DEVICES, step: bare, undo: close },
        &mut Bursts { count: DEVICES, step: many, undo: end },
    )
}

fn raise_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, most).context("raising the limit of open files")
}

fn make() -> anyhow::Result<(Server<Plain>, UnixStream)> {
    let (near, far) = UnixStream::pair().context("a socket pair")?;
    let server = Server::builder(pci()).fd(OwnedFd::from(far))?.serve(|_| Plain::small())?;
    Ok((server, near))
}

fn create(effort: Effort) -> anyhow::Result<Measured> {
    let bare = || {
        let (mut near, mut far) = UnixStream::pair()?;
        near.write_all(&[1])?;
        far.read_exact(&mut [0])?;
        Ok(())
    };
    compare(effort, &mut Each(bare), &mut Each(|| make().map(drop)))
}

/// The memory of an idle device in bytes, from that of many. To be asked in a new process: memory that was
/// used before and is free would be used again, and not be seen.
pub(super) fn idle_memory() -> anyhow::Result<u64> {
    raise_limit()?;
    let warm = make()?;
    let before = resident()?;
    let devices = (0..DEVICES).map(|_| make()).collect::<Result<Vec<_>, _>>()?;
    let grown = resident()?.saturating_sub(before);
    drop((warm, devices));
    Ok(grown / DEVICES as u64)
}

pub(super) fn memory() -> anyhow::Result<Counted> {
    Ok(Counted {
        name: format!("memory of an idle device, one of {DEVICES}"),
        value: Process::footprint()?,
        unit: "bytes".into(),
    })
}

/// The memory of this process that is resident, in bytes.
fn resident() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).context("no field in it")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}
