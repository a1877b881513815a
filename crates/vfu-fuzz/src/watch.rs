//! The server's process: what it holds, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use vfu_proto::wire::Command;

use crate::channel::{self, Channel, Next};
use crate::survey::{JSON, version};

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Open descriptors.
    pub descriptors: u64,
    /// Mappings of memory.
    pub mappings: u64,
    /// Resident memory in KiB.
    pub memory_kib: u64,
}

/// A process that can be watched.
#[derive(Clone, Debug)]
pub struct Watch {
    pid: i32,
    name: String,
    path: std::path::PathBuf,
    timeout: Duration,
}

impl Watch {
    /// Finds the process that listens at `path`. The error says why it can't be watched.
    pub(crate) fn find(path: &Path, timeout: Duration) -> Result<Watch, String> {
        let credentials = with_client(path, timeout, |channel| {
            rustix::net::sockopt::socket_peercred(channel.socket())
        });
        let credentials = credentials.ok_or("it can't be connected to")?;
        let pid = credentials.map_err(|e| e.to_string())?.pid.as_raw_nonzero().get();
        if u32::try_from(pid) == Ok(std::process::id()) {
            return Err("it is this process".into());
        }
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        let name = name.map_err(|e| format!("/proc/{pid}: {e}"))?.trim().to_owned();
        let watch = Watch { pid, name, path: path.to_owned(), timeout };
        match watch.usage() {
            Some(_) => Ok(watch),
            None => Err(format!("/proc/{pid}/fd can't be read: it belongs to another user")),
        }
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it holds now. `None`: it has ended, or must not be looked at.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let proc = |file: &str| format!("/proc/{}/{file}", self.pid);
        let descriptors = fs::read_dir(proc("fd")).ok()?.count() as u64;
        let mappings = fs::read_to_string(proc("maps")).ok()?.lines().count() as u64;
        let status = fs::read_to_string(proc("status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Some(Usage { descriptors, mappings, memory_kib: resident.unwrap_or(0) })
    }

    /// What it holds while one client has just begun a session: the state in which it can be
    /// compared with itself.
    pub(crate) fn usage_with_client(&self) -> Option<Usage> {
        with_client(&self.path, self.timeout, |_| self.usage()).flatten()
    }
}

/// Does something while one client has just begun a session.
fn with_client<T>(path: &Path, timeout: Duration, what: impl FnOnce(&Channel) -> T) -> Option<T> {
    let deadline = Instant::now() + timeout;
    let mut channel = Channel::connect(path, deadline).ok()?;
    channel.push(version(JSON).bytes(), Vec::new());
    loop {
        channel.flush();
        channel.fill();
        match channel.next() {
            Next::Message(reply) if reply.header.command == Command::Version.as_u16() => {
                return Some(what(&channel));
            }
            Next::Nothing if !channel.is_closed() => {}
            _ => return None,
        }
        if !channel::wait(&[&channel], deadline) {
            return None;
        }
    }
}
