//! A hostile server for one client after the other, and for a client that is started for it.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::act::{Plan, plan};
use super::host::{Outcome, serve};
use crate::campaign::{Ended, Shape};
use crate::channel::Channel;
use crate::finding::{Finding, Kind};
use crate::minimise::fewer;
use crate::restart::{Program, ProgramError, crashed, describe};

/// How often to look whether to stop, where nothing else wakes us.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    /// Which plans.
    pub seed: u64,
    /// How many clients; `None`: no limit.
    pub cases: Option<u64>,
    /// How long; `None`: no limit.
    pub time: Option<Duration>,
    /// How long a client may run, or hold a connection.
    pub timeout: Duration,
    /// How long to make what broke a client smaller.
    pub minimise: Duration,
    /// A shell command that starts a client; `{}` is the socket's path.
    pub command: Option<String>,
    /// What is no finding.
    pub ignore: Vec<Kind>,
}

/// What broke a client.
#[derive(Clone, Debug)]
pub struct ClientFound {
    /// What, the first time.
    pub finding: Finding,
    /// How often.
    pub times: u64,
    /// With which plan of the seed it was found first; `None`: in a replay.
    pub case: Option<u64>,
    /// What does it.
    pub plan: Plan,
    /// How that came to be.
    pub shape: Shape,
    /// What the client said at last.
    pub last_words: String,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct ClientReport {
    /// Clients that connected.
    pub clients: u64,
    /// Commands that were answered well.
    pub answered: u64,
    /// Clients that came as far as something wrong.
    pub attacked: u64,
    /// What was found.
    pub found: Vec<ClientFound>,
    /// How long it took.
    pub took: Duration,
    /// Why it ended.
    pub ended: Ended,
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum HuntError {
    /// The path can't be listened at.
    #[error("can't listen at {path}: {source}")]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The client's command does not work.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Who is told of each client: its number, the plan, and how it went.
type Show<'a> = dyn FnMut(u64, &Plan, &Outcome) + 'a;

/// A hostile server.
#[derive(Debug)]
pub struct Hunt {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Hunt {
    fn drop(&mut self) {
        let _already_gone = fs::remove_file(&self.path);
    }
}

impl Hunt {
    /// Listens at a path. A socket that nobody listens at is replaced.
    ///
    /// # Errors
    /// The system refused.
    pub fn new(path: &Path) -> Result<Hunt, HuntError> {
        let failed = |source| HuntError::Listen { path: path.to_owned(), source };
        // A file that is no socket refuses connections, too.
        let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let stale =
            UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
        if is_socket && stale {
            fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Hunt { listener, path: path.to_owned() })
    }

    /// Serves clients, each with a plan of the seed; or all with `only`, once.
    ///
    /// # Errors
    /// The client's command can't be started.
    pub fn run(
        &self,
        clients: &Clients,
        only: Option<&Plan>,
        stop: &AtomicBool,
        show: &mut Show<'_>,
    ) -> Result<ClientReport, HuntError> {
        let began = Instant::now();
        let mut report = ClientReport {
            clients: 0,
            answered: 0,
            attacked: 0,
            found: Vec::new(),
            took: Duration::ZERO,
            ended: Ended::Done,
        };
        for number in 0.. {
            let most = if only.is_some() { Some(1) } else { clients.cases };
            let over = clients.time.is_some_and(|time| began.elapsed() >= time);
            if most.is_some_and(|most| number >= most) || over {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                report.ended = Ended::Stopped;
                break;
            }
            let plan = only.cloned().unwrap_or_else(|| plan(clients.seed, number));
            let Some((outcome, found)) = self.one(clients, &plan, began, stop)? else { continue };
            report.clients += 1;
            report.answered += outcome.answered;
            report.attacked += u64::from(outcome.attacked.is_some());
            show(number, &plan, &outcome);
            let Some((finding, last_words)) = found else { continue };
            let same = |known: &&mut ClientFound| known.finding.key() == finding.key();
            if let Some(known) = report.found.iter_mut().find(same) {
                known.times += 1;
                continue;
            }
            let case = only.is_none().then_some(number);
            let (plan, shape) = self.minimise(clients, plan, &finding, stop)?;
            report.found.push(ClientFound { finding, times: 1, case, plan, shape, last_words });
        }
        report.took = began.elapsed();
        Ok(report)
    }

    /// One client, and what became of it. `None`: none came before the end.
    #[expect(clippy::type_complexity, reason = "a pair and a pair, taken apart at once")]
    fn one(
        &self,
        clients: &Clients,
        plan: &Plan,
        began: Instant,
        stop: &AtomicBool,
    ) -> Result<Option<(Outcome, Option<(Finding, String)>)>, HuntError> {
        let Some(command) = &clients.command else {
            let until = clients.time.map(|time| began + time);
            let accepted = self.accept(|| {
                stop.load(Ordering::Relaxed) || until.is_some_and(|until| Instant::now() >= until)
            });
            let until = Instant::now() + clients.timeout;
            return Ok(accepted.map(|client| (serve(client, plan, until, stop), None)));
        };
        // In quotes that the shell takes for what they are.
        let path = format!("'{}'", self.path.display().to_string().replace('\'', "'\\''"));
        let mut program = Program::new(command.replace("{}", &path));
        program.start()?;
        let (ended, give_up) = (AtomicBool::new(false), Instant::now() + clients.timeout * 2);
        let (outcome, status) = thread::scope(|scope| {
            let served = scope.spawn(|| {
                let mut first = None;
                while let Some(client) = self.accept(|| ended.load(Ordering::Relaxed)) {
                    let outcome = serve(client, plan, give_up, &ended);
                    first.get_or_insert(outcome);
                }
                first
            });
            let status = program.wait(clients.timeout);
            ended.store(true, Ordering::Relaxed);
            (served.join().ok().flatten(), status)
        });
        let outcome = outcome.unwrap_or_default();
        let finding = match status {
            Some(status) if crashed(status) => {
                let text = format!("the client ended with {}", describe(status));
                Some(Finding::new(Kind::Crashed, outcome.attacked, text))
            }
            Some(_) => None,
            None => {
                let text = format!("the client runs for {} s", clients.timeout.as_secs_f64());
                Some(Finding::new(Kind::RanOn, outcome.attacked, text))
            }
        };
        let finding = finding.filter(|finding| !clients.ignore.contains(&finding.kind));
        let last_words = program.last_words();
        Ok(Some((outcome, finding.map(|finding| (finding, last_words)))))
    }

    fn accept(&self, stop: impl Fn() -> bool) -> Option<Channel> {
        loop {
            if let Ok((socket, _)) = self.listener.accept() {
                return Some(Channel::over(OwnedFd::from(socket)));
            }
            if stop() {
                return None;
            }
            let mut listener = [PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN)];
            let _looked_at_again = poll(&mut listener, Some(&LOOK));
        }
    }

    /// Leaves out what is not needed to break the client like this.
    fn minimise(
        &self,
        clients: &Clients,
        mut plan: Plan,
        finding: &Finding,
        stop: &AtomicBool,
    ) -> Result<(Plan, Shape), HuntError> {
        if clients.minimise.is_zero() {
            return Ok((plan, Shape::Untried));
        }
        let deadline = Instant::now() + clients.minimise;
        let mut failed = None;
        let mut does = |plan: &Plan| {
            if Instant::now() >= deadline || stop.load(Ordering::Relaxed) {
                return None;
            }
            match self.one(clients, plan, deadline, stop) {
                Ok(one) => {
                    let found = one.and_then(|(_, found)| found);
                    Some(found.is_some_and(|(found, _)| found.kind == finding.kind))
                }
                Err(e) => {
                    failed = Some(e);
                    None
                }
            }
        };
        let again = does(&plan) == Some(true);
        let done = if again { smaller(&mut plan, &mut does) } else { None };
        match failed {
            Some(e) => Err(e),
            None if !again => Ok((plan, Shape::NotAgain)),
            None => Ok((plan, done.map_or(Shape::Shortened, |()| Shape::Minimised))),
        }
    }
}

fn smaller(plan: &mut Plan, does: &mut dyn FnMut(&Plan) -> Option<bool>) -> Option<()> {
    let twin = plan.twin;
    plan.acts = fewer(plan.acts.clone(), &mut |acts| does(&Plan { twin, acts: acts.to_vec() }))?;
    let single = Plan { twin: false, ..plan.clone() };
    if twin && does(&single)? {
        *plan = single;
    }
    for at in 0..plan.acts.len() {
        let args = plan.acts.get(at).map_or(0, |act| act.args.len());
        for arg in 0..args {
            for value in [0, 1, 16] {
                let mut simpler = plan.clone();
                let place = simpler.acts.get_mut(at).and_then(|act| act.args.get_mut(arg));
                let Some(place) = place.filter(|place| **place > value) else { continue };
                *place = value;
                if does(&simpler)? {
                    *plan = simpler;
                    break;
                }
            }
        }
    }
    Some(())
}
