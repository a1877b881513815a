//! Many commands before the first answer is waited for: pipelined, or such that want none.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, ensure};
use vfu::Spin;
use vfu::wire::{DmaMap, DmaMapFlags, DmaUnmapRequest, RegionWriteRequest, Request, UnmapWhat};
use vfu_testkit::{RawPeer, SharedRam, command, posted};

use super::device::REGISTER_BAR;
use super::inprocess::{PAGE, RAM};
use super::mappings::{MAP, UNMAP};
use super::raw::{HEAD, HEADER, send};
use crate::measure::{Bursts, Effort, compare};
use crate::place::{Place, between};
use crate::roles::Process;
use crate::row::{Group, Measured, Row};

/// Commands in a burst, each of which is answered.
const IN_FLIGHT: usize = 32;
/// Commands in a burst of which only the last is answered.
const FLOOD: usize = 256;

pub(super) fn rows() -> Vec<Row> {
    let row = |group, name: String, about: String, limit: &str, plan: Plan| {
        Row::new(group, name, about, limit, move |effort| measure(effort, plan))
    };
    let (maps, with_fd) = (Group::Mappings, "the same messages, with descriptors, to a process");
    vec![
        row(
            Group::Access,
            "write4-no-reply".into(),
            format!("register writes that want no reply, {FLOOD} at a time, for each"),
            "the same messages to a process that reads and answers the last",
            Plan { step: What::Writes(FLOOD), undo: None },
        ),
        row(
            maps,
            format!("map-fd-{IN_FLIGHT}-in-flight"),
            format!("DMA_MAP of pages of one file, {IN_FLIGHT} under way, for each"),
            &format!("{with_fd} that answers each"),
            Plan { step: What::Maps(IN_FLIGHT), undo: Some(What::Unmaps(IN_FLIGHT)) },
        ),
        row(
            maps,
            format!("unmap-fd-{IN_FLIGHT}-in-flight"),
            format!("DMA_UNMAP of pages of one file, {IN_FLIGHT} under way, for each"),
            "the same messages to a process that answers each",
            Plan { step: What::Unmaps(IN_FLIGHT), undo: Some(What::Maps(IN_FLIGHT)) },
        ),
        row(
            maps,
            "map-fd-no-reply".into(),
            format!("DMA_MAP that wants no reply, {FLOOD} at a time, for each"),
            &format!("{with_fd} that answers the last"),
            Plan { step: What::PostedMaps(FLOOD), undo: Some(What::Unmaps(FLOOD)) },
        ),
    ]
}

/// What is measured, and what takes it back.
#[derive(Clone, Copy)]
struct Plan {
    step: What,
    undo: Option<What>,
}

/// So many commands, of which all are answered, or the last.
#[derive(Clone, Copy)]
enum What {
    Maps(usize),
    PostedMaps(usize),
    Unmaps(usize),
    Writes(usize),
}

/// The messages of a burst, and the room for its answers.
struct Burst {
    messages: Vec<Vec<u8>>,
    with_fd: bool,
    replies: Vec<u8>,
    reply: usize,
}

/// From one page to the next, in bytes: every second address is left out.
pub(super) const STRIDE: u64 = 2 * PAGE;

/// The page with this number.
fn map(number: usize) -> Request<'static> {
    let (offset, address) = (number as u64 * PAGE, RAM + number as u64 * STRIDE);
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    Request::DmaMap(DmaMap { flags, offset, address, size: PAGE })
}

fn unmap(number: usize) -> Request<'static> {
    let what = UnmapWhat::Range { address: RAM + number as u64 * STRIDE, size: PAGE };
    Request::DmaUnmap(DmaUnmapRequest::new(what))
}

fn write(_number: usize) -> Request<'static> {
    Request::RegionWrite(RegionWriteRequest { offset: 0, region: REGISTER_BAR, data: &[1; 4] })
}

/// The numbers of the pages, all of whose commands but the last want no answer.
fn flood(request: fn(usize) -> Request<'static>, pages: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let last = pages.end - 1;
    let message =
        |at: usize| if at == last { command(0, &request(at)) } else { posted(0, &request(at)) };
    pages.map(message).collect()
}

impl What {
    fn burst(self) -> Burst {
        // Page 0 is mapped all the time: the file is known.
        let all = |request: fn(usize) -> Request<'static>, count| {
            (1..=count).map(|at| command(at as u16, &request(at))).collect()
        };
        let (messages, with_fd, answers, reply) = match self {
            What::Maps(count) => (all(map, count), true, count, HEADER),
            What::PostedMaps(count) => (flood(map, 1..count + 1), true, 1, HEADER),
            What::Unmaps(count) => (all(unmap, count), false, count, UNMAP),
            What::Writes(count) => (flood(write, 0..count), false, 1, HEAD),
        };
        Burst { messages, with_fd, replies: vec![0; answers * reply], reply }
    }

    fn count(self) -> usize {
        match self {
            What::Maps(n) | What::PostedMaps(n) | What::Unmaps(n) | What::Writes(n) => n,
        }
    }

    /// A process that answers messages of the same sizes as often.
    fn bare(self) -> anyhow::Result<(Process, UnixStream)> {
        match self {
            What::Maps(_) => Process::raw_fd(MAP, HEADER, 1),
            What::PostedMaps(count) => Process::raw_fd(MAP, HEADER, count),
            What::Unmaps(_) => Process::raw(UNMAP, UNMAP, 1),
            What::Writes(count) => Process::raw(HEAD + 4, HEAD, count),
        }
    }
}

impl Burst {
    fn go(&mut self, mut socket: &UnixStream, ram: &SharedRam) -> anyhow::Result<()> {
        for message in &self.messages {
            send(socket, message, self.with_fd.then(|| ram.as_fd()))?;
        }
        socket.read_exact(&mut self.replies).context("the answers")?;
        let refused = |reply: &[u8]| reply.get(8).is_some_and(|flags| flags & 0x20 != 0);
        ensure!(!self.replies.chunks(self.reply).any(refused), "the server refused a command");
        Ok(())
    }
}

/// A session without a client of ours.
struct Session(UnixStream);

impl Session {
    fn begin(peer: RawPeer) -> anyhow::Result<Session> {
        let reply = peer.handshake(r#"{"capabilities":{"max_msg_fds":16}}"#)?;
        ensure!(reply.errno().is_none(), "the server refused VERSION");
        Ok(Session(UnixStream::from(peer.into_socket())))
    }
}

fn measure(effort: Effort, plan: Plan) -> anyhow::Result<Measured> {
    let far = || {
        let (server, socket): (_, OwnedFd) = Process::server(Spin::Off)?;
        Ok((server, Session::begin(RawPeer::over(socket))?, plan.step.bare()?))
    };
    between(Place::OneCpu, far, |(_server, Session(session), (_echo, echo))| {
        let ram = SharedRam::new(RAM, (FLOOD as u64 + 1) * PAGE)?;
        let mut first = Burst { messages: vec![command(0, &map(0))], ..What::Maps(1).burst() };
        first.go(&session, &ram)?;
        let (mut bare, mut step) = (plan.step.burst(), plan.step.burst());
        let mut undo = plan.undo.map(What::burst);
        if let (What::Unmaps(_), Some(undo)) = (plan.step, &mut undo) {
            undo.go(&session, &ram)?;
        }
        let count = plan.step.count();
        let mut limit = Bursts { count, step: || bare.go(&echo, &ram), undo: || Ok(()) };
        let mut ours = Bursts {
            count,
            step: || step.go(&session, &ram),
            undo: || undo.as_mut().map_or(Ok(()), |undo| undo.go(&session, &ram)),
        };
        compare(effort, &mut limit, &mut ours)
    })
}

/// Has the server at this other end map `count` pages of a file. Gives their addresses, and what the
/// mappings last as long as.
pub(super) fn map_pages(
    peer: RawPeer,
    ram: &SharedRam,
    count: usize,
) -> anyhow::Result<(UnixStream, Vec<u64>)> {
    let Session(session) = Session::begin(peer)?;
    let mut at = 0;
    while at < count {
        let end = count.min(at + FLOOD);
        let messages = flood(map, at..end);
        Burst { messages, ..What::PostedMaps(1).burst() }.go(&session, ram)?;
        at = end;
    }
    Ok((session, (0..count as u64).map(|page| RAM + page * STRIDE).collect()))
}
