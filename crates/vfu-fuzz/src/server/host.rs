//! Serves one client as the plan has it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vfu_proto::wire::{
    Capabilities, Command, Errno, HEADER_SIZE, Header, Kind, TwinSocket, Version,
};

use super::act::{Act, Plan, TEXTS, What};
use super::device::{Answer, Device};
use crate::channel::{self, Channel, Incoming, Next};
use crate::descriptors::Descriptor;

/// How often to look whether to stop.
const LOOK: Duration = Duration::from_millis(20);

/// How it went with one client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Commands that were answered well.
    pub answered: u64,
    /// The first command that was not, by its number.
    pub attacked: Option<u16>,
    /// The client closed the connection; else we did, or time was up.
    pub left: bool,
}

/// What one command leads to.
#[derive(Debug, Default)]
struct Reply {
    before: Vec<Vec<u8>>,
    header: Option<Header>,
    payload: Vec<u8>,
    fds: Vec<OwnedFd>,
    size: Option<u32>,
    single: bool,
    twice: bool,
    later: bool,
    /// Send so many bytes, and then close, or be silent.
    end: Option<(usize, End)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Silence,
}

struct Host<'a> {
    plan: &'a Plan,
    device: Device,
    main: Channel,
    twin: Option<Channel>,
    later: Option<Vec<u8>>,
    count: u32,
    outcome: Outcome,
    end: Option<End>,
}

/// Serves a client until it leaves, the plan ends the connection, or time is up.
pub(super) fn serve(main: Channel, plan: &Plan, until: Instant, stop: &AtomicBool) -> Outcome {
    let mut host = Host {
        plan,
        device: Device::new(),
        main,
        twin: None,
        later: None,
        count: 0,
        outcome: Outcome::default(),
        end: None,
    };
    while !stop.load(Ordering::Relaxed) && Instant::now() < until {
        host.main.flush();
        host.main.fill();
        if let Some(twin) = &mut host.twin {
            twin.flush();
            twin.fill();
            // Replies of the client: what they say does not matter here.
            while let Next::Message(_) = twin.next() {}
        }
        let mut nonsense = false;
        while host.end.is_none() {
            match host.main.next() {
                Next::Message(message) => host.on_message(message),
                Next::Nonsense(_) => nonsense = true,
                Next::Nothing => break,
            }
            if nonsense {
                break;
            }
        }
        host.outcome.left = host.main.is_closed();
        let said_all = host.end == Some(End::Close) && !host.main.has_unsent();
        if nonsense || said_all || host.main.is_closed() {
            break;
        }
        let channels: Vec<_> = std::iter::once(&host.main).chain(&host.twin).collect();
        channel::wait(&channels, until.min(Instant::now() + LOOK));
    }
    host.outcome
}

impl Host<'_> {
    fn on_message(&mut self, message: Incoming) {
        if message.header.kind() != Some(Kind::Command) {
            return;
        }
        let at = self.count;
        self.count = self.count.saturating_add(1);
        let mut reply = self.good(&message);
        let acts: Vec<_> = self.plan.acts.iter().filter(|act| act.at == at).collect();
        match acts.is_empty() {
            true => self.outcome.answered += 1,
            false => self.outcome.attacked = self.outcome.attacked.or(Some(message.header.command)),
        }
        acts.iter().for_each(|act| spoil(&mut reply, act, &message));
        self.say(reply);
    }

    fn good(&mut self, message: &Incoming) -> Reply {
        let answer = match message.header.command == Command::Version.as_u16() {
            true => self.version(message),
            false => self.device.answer(message),
        };
        if message.header.wants_no_reply() {
            return Reply::default();
        }
        match answer {
            Ok((payload, fds)) => {
                let header = Some(message.header.reply(payload.len()));
                Reply { header, payload, fds, ..Reply::default() }
            }
            Err(e) => Reply { header: Some(message.header.error_reply(e)), ..Reply::default() },
        }
    }

    fn version(&mut self, message: &Incoming) -> Result<Answer, Errno> {
        let proposed = Version::parse(&message.payload)?;
        let ours = Capabilities {
            max_msg_fds: Some(16),
            max_data_xfer_size: Some(1 << 20),
            ..Capabilities::default()
        };
        let mut caps = ours;
        let mut fds = Vec::new();
        let wanted = proposed.caps.twin_socket.as_ref().is_some_and(|twin| twin.supported);
        if self.plan.twin && wanted {
            let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
            if let Ok((mine, theirs)) = socketpair(family, kind, SocketFlags::CLOEXEC, None) {
                caps.twin_socket = Some(TwinSocket { supported: true, fd_index: Some(0) });
                fds.push(theirs);
                self.twin = Some(Channel::over(mine));
            }
        }
        let mut payload = Vec::new();
        Version::new(0, proposed.minor.min(1), caps).emit(&mut payload);
        Ok((payload, fds))
    }

    fn say(&mut self, mut reply: Reply) {
        let commands = self.twin.as_mut().unwrap_or(&mut self.main);
        reply.before.drain(..).for_each(|bytes| commands.push(bytes, Vec::new()));
        let mut bytes = Vec::new();
        if let Some(header) = reply.header {
            let size = (HEADER_SIZE + reply.payload.len()) as u32;
            let header = Header { size: reply.size.unwrap_or(size), ..header };
            bytes = [&header.emit()[..], &reply.payload].concat();
        }
        if let Some((len, end)) = reply.end {
            bytes.truncate(len);
            self.end = Some(end);
        }
        if reply.later {
            self.later = Some(bytes);
            return;
        }
        if reply.twice {
            self.main.push(bytes.clone(), Vec::new());
        }
        if reply.single {
            let rest = bytes.split_off(bytes.len().min(64));
            for byte in bytes {
                self.main.push(vec![byte], std::mem::take(&mut reply.fds));
            }
            bytes = rest;
        }
        self.main.push(bytes, reply.fds);
        if let Some(later) = self.later.take() {
            self.main.push(later, Vec::new());
        }
    }
}

/// Does one thing wrong.
fn spoil(reply: &mut Reply, act: &Act, message: &Incoming) {
    let (a, size) = (act.arg(0), act.size(0));
    match act.what {
        What::WrongId => change(reply, |header| header.id = !header.id),
        What::WrongCommand => change(reply, |header| header.command = a as u16),
        What::Type => change(reply, |header| header.flags = a as u32 & 0xf),
        What::Size => reply.size = Some(a as u32),
        What::Cut => reply.payload.truncate(size),
        What::Longer => reply.payload.resize(reply.payload.len() + size, 0),
        What::Word => {
            let word = (act.arg(1) as u32).to_le_bytes();
            reply.payload.iter_mut().skip(size).zip(word).for_each(|(to, from)| *to = from);
        }
        What::Error | What::ErrorWithData => {
            let error = message.header.error_reply(Errno::EINVAL);
            reply.header = Some(Header { error: a as u32, ..error });
            if act.what == What::Error {
                reply.payload.clear();
            }
        }
        What::Single => reply.single = true,
        What::Twice => reply.twice = true,
        What::Stray => {
            let header = Header { id: a as u16, ..message.header }.reply(act.size(1));
            reply.before.push([&header.emit()[..], &vec![0; act.size(1)]].concat());
        }
        What::Fds => {
            let made = (0..size.min(253)).map_while(|_| Descriptor::Eventfd.open(&mut vec![]).ok());
            reply.fds.extend(made);
        }
        What::NoFds => reply.fds.clear(),
        What::Silent => reply.header = None,
        What::Later => reply.later = true,
        What::Close => reply.end = Some((0, End::Close)),
        What::Half => reply.end = Some((size, End::Close)),
        What::Stall => reply.end = Some((size, End::Silence)),
        What::Json => {
            if message.header.command == Command::Version.as_u16() {
                let text = TEXTS.get(size % TEXTS.len()).unwrap_or(&"");
                reply.payload.truncate(4);
                reply.payload.extend(text.as_bytes());
                reply.payload.push(0);
            }
        }
        What::DmaRead => reply.before.push(dma(Command::DmaRead, a, act.arg(1), 0)),
        What::DmaWrite => {
            reply.before.push(dma(Command::DmaWrite, a, act.arg(1), act.size(2)));
        }
        What::Command => {
            let header =
                Header { command: a as u16, ..Header::command(1, Command::DmaRead, act.size(1)) };
            reply.before.push([&header.emit()[..], &vec![0; act.size(1)]].concat());
        }
        What::Flood => {
            let many = (0..size.min(10_000)).map(|_| dma(Command::DmaRead, 0, 16, 0));
            reply.before.extend(many);
        }
    }
}

fn change(reply: &mut Reply, change: impl FnOnce(&mut Header)) {
    if let Some(header) = &mut reply.header {
        change(header);
    }
}

fn dma(command: Command, address: u64, count: u64, given: usize) -> Vec<u8> {
    let mut payload = [address.to_le_bytes(), count.to_le_bytes()].concat();
    payload.resize(16 + given, 0);
    let header = Header::command(1, command, payload.len());
    [&header.emit()[..], &payload].concat()
}
