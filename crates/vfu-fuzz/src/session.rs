//! Plays one connection of a script, and judges what comes back.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vfu_proto::wire::{Command, Header, Kind as MessageKind};

use crate::channel::{self, Channel, Incoming, Next, NoConnection};
use crate::dma_answer;
use crate::finding::{Finding, Kind};
use crate::layout;
use crate::ledger::Ledger;
use crate::script::{Connection, Data, DmaAnswer, Message, Pieces, Step};
use crate::stats::Stats;
use crate::survey::Survey;

/// The most bytes that are added to end a message whose header claims more than was sent.
const PADDING: usize = 2 << 20;

/// The kernel sends no more descriptors with a message.
const MOST_FDS: usize = 253;

/// After so many findings on a connection, what else comes on it says nothing more.
const ENOUGH: usize = 16;

/// How long to listen for a command of the server.
const LISTEN: Duration = Duration::from_millis(10);

/// How long nothing must come before late answers are given.
const LATE: Duration = Duration::from_millis(5);

/// Where connections go, and for how long they wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) path: &'a Path,
    pub(crate) timeout: Duration,
    /// How long they wait for an answer once the session has begun.
    pub(crate) patience: Duration,
    /// What it answered when nothing was wrong.
    pub(crate) survey: &'a Survey,
}

/// One connection while it lasts.
struct Session<'a> {
    peer: Peer<'a>,
    stats: &'a mut Stats,
    plan: &'a Connection,
    main: Channel,
    twin: Option<Channel>,
    ledger: Ledger,
    findings: Vec<Finding>,
    /// What has to stay open as long as the connection.
    keep: Vec<OwnedFd>,
    last_reply: Option<Incoming>,
    /// DMA commands so far.
    dma: u32,
    /// One came since the last time that somebody listened.
    heard: bool,
    /// DMA commands that are answered late, and the socket that they came on.
    held: Vec<(Socket, Incoming)>,
    /// An answer was cut, and so is the connection.
    cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Main,
    Twin,
}

/// The connection has come to its end, for a reason or for none.
struct Ended;

/// Plays a connection to its end. Every rule that the server breaks is a finding.
pub(crate) fn play(peer: Peer<'_>, plan: &Connection, stats: &mut Stats) -> Vec<Finding> {
    stats.connections += 1;
    let main = match Channel::connect(peer.path, Instant::now() + peer.timeout) {
        Ok(main) => main,
        Err(NoConnection::Refused(e)) => {
            return vec![Finding::new(Kind::Dead, None, format!("connecting fails: {}", text(e)))];
        }
        Err(NoConnection::Full) => {
            return vec![Finding::new(Kind::Hung, None, "connections are not accepted")];
        }
    };
    let mut session = Session {
        peer,
        stats,
        plan,
        main,
        twin: None,
        ledger: Ledger::default(),
        findings: Vec::new(),
        keep: Vec::new(),
        last_reply: None,
        dma: 0,
        heard: false,
        held: Vec::new(),
        cut: false,
    };
    let _ended = session.run();
    session.findings
}

fn text(e: Errno) -> String {
    std::io::Error::from(e).to_string()
}

impl Session<'_> {
    fn run(&mut self) -> Result<(), Ended> {
        for step in &self.plan.steps {
            match step {
                Step::Send(message) => self.send(message)?,
                Step::Wait => self.wait_for_replies()?,
                Step::Listen => self.listen()?,
            }
        }
        let missing = self.ledger.missing();
        if missing > 0 && missing <= PADDING && !self.ledger.is_void() {
            self.put(vec![0; missing], Vec::new());
            self.pump_out()?;
        }
        if self.ledger.is_void() {
            return Err(Ended);
        }
        self.wait_for_replies()?;
        if self.ledger.is_accepted() { self.check() } else { Err(Ended) }
    }

    fn send(&mut self, message: &Message) -> Result<(), Ended> {
        let bytes = message.bytes();
        let mut fds = Vec::new();
        for kind in message.fds.iter().take(MOST_FDS) {
            // What this machine or user can't have is left out, e.g. when too many are open.
            fds.extend(kind.open(&mut self.keep));
        }
        let limit = 16.min(self.peer.survey.max_msg_fds as usize);
        let is_version = message.command == Command::Version.as_u16();
        if fds.len() > limit || (is_version && !fds.is_empty()) || message.half.is_some() {
            self.ledger.give_reason();
        }
        self.stats.messages += 1;
        if message.twin {
            if let Some(twin) = &mut self.twin {
                self.ledger.give_reason();
                twin.push(bytes, fds);
            }
            return self.pump_out();
        }
        let mut cuts = match message.pieces {
            Pieces::Whole => Vec::new(),
            Pieces::Single => (1..bytes.len().min(64)).collect(),
            Pieces::Two(at) => vec![at as usize],
        };
        let fds_at = (message.fds_at as usize).min(bytes.len().saturating_sub(1));
        if !fds.is_empty() {
            cuts.push(fds_at);
            cuts.sort_unstable();
        }
        cuts.retain(|cut| (1..bytes.len()).contains(cut));
        cuts.dedup();
        let mut from = 0;
        for to in cuts.into_iter().chain([bytes.len()]) {
            let piece = bytes.get(from..to).unwrap_or_default().to_vec();
            let here = if from >= fds_at { std::mem::take(&mut fds) } else { Vec::new() };
            self.put(piece, here);
            from = to;
        }
        self.pump_out()?;
        if message.half.is_some() { Err(Ended) } else { Ok(()) }
    }

    /// Hands bytes to the main socket, and to the ledger.
    fn put(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        self.ledger.sent(&bytes);
        self.main.push(bytes, fds);
    }

    /// Sends what there is to send, and takes what comes meanwhile.
    fn pump_out(&mut self) -> Result<(), Ended> {
        let deadline = Instant::now() + self.peer.timeout;
        loop {
            self.flush();
            let stuck = self.main.has_unsent();
            if stuck || !self.plan.late {
                self.take()?;
            }
            if !stuck {
                return Ok(());
            }
            if !self.wait(deadline) {
                return self.overdue();
            }
        }
    }

    fn flush(&mut self) {
        self.main.flush();
        if let Some(twin) = &mut self.twin {
            twin.flush();
        }
    }

    /// Waits until a socket can do something. If none does for a while, late answers are due.
    /// False: not by `deadline`.
    fn wait(&mut self, deadline: Instant) -> bool {
        if self.held.is_empty() {
            return channel::wait(&self.channels(), deadline);
        }
        if !channel::wait(&self.channels(), deadline.min(Instant::now() + LATE)) {
            for (socket, command) in std::mem::take(&mut self.held).into_iter().rev() {
                self.answer_by(DmaAnswer::Late, &command, socket);
            }
        }
        true
    }

    /// Waits for a command of the server, for a moment.
    fn listen(&mut self) -> Result<(), Ended> {
        let until = Instant::now() + LISTEN;
        loop {
            self.flush();
            self.take()?;
            if std::mem::take(&mut self.heard) || !channel::wait(&self.channels(), until) {
                return Ok(());
            }
        }
    }

    fn channels(&self) -> Vec<&Channel> {
        std::iter::once(&self.main).chain(&self.twin).collect()
    }

    /// Waits until nothing is owed any more.
    fn wait_for_replies(&mut self) -> Result<(), Ended> {
        let mut deadline = Instant::now() + self.patience();
        let mut first = self.ledger.unanswered();
        loop {
            self.flush();
            self.take()?;
            let unanswered = self.ledger.unanswered();
            if self.ledger.is_void() || unanswered.is_none() {
                return Ok(());
            }
            // Commands of the server, and replies that nobody asked for, may come without end.
            if first != unanswered {
                first = unanswered;
                deadline = Instant::now() + self.patience();
            }
            if Instant::now() >= deadline || !self.wait(deadline) {
                return self.overdue();
            }
        }
    }

    fn patience(&self) -> Duration {
        if self.ledger.is_accepted() { self.peer.patience } else { self.peer.timeout }
    }

    fn overdue(&mut self) -> Result<(), Ended> {
        if self.ledger.is_void() {
            return Err(Ended);
        }
        let seconds = self.patience().as_secs_f64();
        let finding = match self.ledger.unanswered() {
            // Its first command: it does not serve this connection at all.
            Some(first) if is_version(first) && !self.ledger.is_accepted() => Finding::new(
                Kind::Hung,
                None,
                format!("VERSION of a new connection is not answered in {seconds} s"),
            ),
            Some(header) => {
                let name = layout::name(header.command);
                let text = format!("{name} is not answered in {seconds} s");
                Finding::new(Kind::Unanswered, Some(header.command), text)
            }
            None => {
                Finding::new(Kind::Unanswered, None, format!("nothing is read for {seconds} s"))
            }
        };
        self.findings.push(finding);
        Err(Ended)
    }

    /// Takes what has come on both sockets.
    fn take(&mut self) -> Result<(), Ended> {
        self.main.fill();
        loop {
            if self.findings.len() > ENOUGH {
                return Err(Ended);
            }
            match self.main.next() {
                Next::Message(message) => self.on_main(message),
                Next::Nonsense(_) if self.ledger.is_void() => return Err(Ended),
                Next::Nonsense(header) => {
                    let text = format!("a message of {} bytes", header.size);
                    self.findings.push(Finding::new(Kind::Malformed, Some(header.command), text));
                    return Err(Ended);
                }
                Next::Nothing => break,
            }
        }
        self.take_twin();
        if self.cut {
            return Err(Ended);
        }
        if self.main.is_closed() { self.closed() } else { Ok(()) }
    }

    fn closed(&mut self) -> Result<(), Ended> {
        self.stats.closes += 1;
        if self.main.is_mid_message() && !self.ledger.is_void() && !self.ledger.has_reason() {
            self.findings.push(Finding::new(
                Kind::Malformed,
                None,
                "half a message before the end",
            ));
        } else if !self.ledger.has_reason() {
            let text = "the connection is closed though nothing that was sent was wrong";
            let last = self.ledger.unanswered().map(|header| header.command);
            self.findings.push(Finding::new(Kind::Closed, last, text));
        }
        Err(Ended)
    }

    fn on_main(&mut self, mut message: Incoming) {
        self.stats.count(&message.header);
        let judged = self.ledger.received(&message);
        self.findings.extend(judged.err());
        if message.header.kind() == Some(MessageKind::Command) {
            return self.answer(message, Socket::Main);
        }
        let is_version = message.header.command == Command::Version.as_u16();
        if is_version && self.ledger.is_accepted() && self.twin.is_none() {
            self.twin = message.fds.pop().map(Channel::over);
        }
        self.last_reply = Some(message);
    }

    /// Takes what has come on the second socket: commands are answered, all else is ignored.
    fn take_twin(&mut self) {
        if let Some(twin) = &mut self.twin {
            twin.fill();
        }
        while let Some(Next::Message(message)) = self.twin.as_mut().map(Channel::next) {
            self.stats.count(&message.header);
            if message.header.kind() == Some(MessageKind::Command) {
                self.findings.extend(self.ledger.command(&message).err());
                self.answer(message, Socket::Twin);
            }
        }
    }

    /// Answers a command of the server, now or later.
    fn answer(&mut self, command: Incoming, socket: Socket) {
        self.stats.dma += 1;
        self.heard = true;
        let how = if self.dma < self.plan.dma_after { DmaAnswer::Serve } else { self.plan.dma };
        self.dma = self.dma.saturating_add(1);
        self.stats.dma_hostile += u64::from(how != DmaAnswer::Serve);
        if !how.is_fair() {
            self.ledger.give_reason();
        }
        match how {
            DmaAnswer::Late => self.held.push((socket, command)),
            _ => self.answer_by(how, &command, socket),
        }
    }

    fn answer_by(&mut self, how: DmaAnswer, command: &Incoming, socket: Socket) {
        let on_twin = (socket == Socket::Twin) != (how == DmaAnswer::WrongSocket);
        for (bytes, kind) in dma_answer::answer(how, command) {
            let fds = kind.into_iter().filter_map(|kind| kind.open(&mut self.keep).ok()).collect();
            match &mut self.twin {
                Some(twin) if on_twin => twin.push(bytes, fds),
                _ => self.put(bytes, fds),
            }
        }
        self.flush();
        self.cut |= how == DmaAnswer::Half;
    }

    /// Whether the server still answers well-formed commands, and with what is true.
    fn check(&mut self) -> Result<(), Ended> {
        let info = self.ask(Command::DeviceGetInfo, &[16, 0, 0, 0], &[])?;
        let info = match info.header.is_error() {
            false => info,
            true => {
                // The device may be stopped: a running one answers.
                self.ask(Command::DeviceFeature, &[16, 2 | 1 << 17], &[2, 0, 0, 0, 0, 0, 0, 0])?;
                self.ask(Command::DeviceReset, &[], &[])?;
                self.ask(Command::DeviceGetInfo, &[16, 0, 0, 0], &[])?
            }
        };
        let (command, known) = (Some(Command::DeviceGetInfo.as_u16()), self.peer.survey);
        if info.header.is_error() {
            let errno = info.header.errno();
            let text = format!("DEVICE_GET_INFO is refused with {errno}, also after RESET");
            self.findings.push(Finding::new(Kind::WrongAnswer, command, text));
        } else if info.payload.get(4..16) != known.info.get(4..16) {
            let text = "DEVICE_GET_INFO is answered with something else than at first";
            self.findings.push(Finding::new(Kind::WrongAnswer, command, text));
        }
        let ids = self.ask(Command::RegionRead, &[0, 7, 4], &[])?;
        if !ids.header.is_error() && ids.payload.get(16..20) != known.ids.as_deref() {
            let text = "configuration space has other ids than at first";
            let command = Some(Command::RegionRead.as_u16());
            self.findings.push(Finding::new(Kind::WrongAnswer, command, text));
        }
        Ok(())
    }

    fn ask(&mut self, command: Command, fields: &[u64], data: &[u8]) -> Result<Incoming, Ended> {
        let id = self.ledger.free_id();
        let mut message = Message::new(command, id, fields);
        message.data = Data::bytes(data);
        self.put(message.bytes(), Vec::new());
        self.last_reply = None;
        self.wait_for_replies()?;
        let is_it =
            |reply: &Incoming| (reply.header.id, reply.header.command) == (id, command.as_u16());
        self.last_reply.take().filter(is_it).ok_or(Ended)
    }
}

fn is_version(header: Header) -> bool {
    header.command == Command::Version.as_u16()
}
