//! A run while it lasts: plays, judges, minimises, and keeps the server alive.

mod growth;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vfu_proto::wire::Command;

use crate::campaign::{Ended, Event, Found, FuzzError, Options, Report, Shape, Target};
use crate::finding::{Finding, Kind};
use crate::generate::{Area, case};
use crate::minimise::{Outcome, fewer, minimise};
use crate::restart::{Program, crashed, describe};
use crate::script::{Connection, Script, Step};
use crate::search;
use crate::session::{Peer, play};
use crate::stats::Stats;
use crate::survey::{JSON, Survey, survey, version};
use crate::watch::{Usage, Watch};

/// After so many cases the server's process is looked at.
const LOOK_EVERY: u64 = 64;

/// How many cases are kept, for what one of them alone does not do again.
const KEPT: usize = LOOK_EVERY as usize;

/// How often something that can't be repeated is tried to be.
const REPEATS: u64 = 8;

/// So many cases at first look for what makes the device reach memory, an eighth at most of all.
const SEARCHES: u64 = 400;

/// So many ways to reach memory are enough.
const DOORBELLS: usize = 8;

/// How long to wait for answers in a server that is known to leave some out.
const IMPATIENT: Duration = Duration::from_millis(200);

/// How long a process may take from closing its first socket to its end.
const DYING: Duration = Duration::from_secs(1);

/// A run while it lasts.
pub(crate) struct Run<'a> {
    target: Target,
    options: &'a Options,
    stop: &'a AtomicBool,
    show: &'a mut dyn FnMut(Event<'_>),
    survey: Survey,
    stats: Stats,
    found: Vec<Found>,
    recent: VecDeque<Script>,
    process: Result<Watch, String>,
    baseline: Option<Usage>,
    first: Option<Usage>,
    last: Option<Usage>,
    /// How long commands may take. What is known to be left unanswered is not waited for so long.
    patience: Duration,
    began: Instant,
}

impl<'a> Run<'a> {
    /// Looks at the server while nothing is wrong yet.
    pub(crate) fn begin(
        mut target: Target,
        options: &'a Options,
        stop: &'a AtomicBool,
        show: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Run<'a>, FuzzError> {
        if let Some(program) = &mut target.program {
            program.start_server(&target.path, options.timeout)?;
        }
        let survey = survey(&target.path, options.timeout)?;
        if let (Some(program), true) = (&mut target.program, options.may_exit) {
            program.start_server(&target.path, options.timeout)?;
        }
        let process = Watch::find(&target.path, options.timeout);
        let mut run = Run {
            target,
            options,
            stop,
            show,
            survey,
            stats: Stats::default(),
            found: Vec::new(),
            recent: VecDeque::new(),
            process,
            baseline: None,
            first: None,
            last: None,
            patience: options.timeout,
            began: Instant::now(),
        };
        run.take_baseline();
        run.first = run.baseline;
        Ok(run)
    }

    fn take_baseline(&mut self) {
        self.baseline = self.look();
    }

    /// Plays one script, once, and then as often as it takes to see whether it leaks.
    pub(crate) fn one(&mut self, script: &Script) -> Ended {
        self.recent.push_back(script.clone());
        let found = self.once(script);
        self.stats.cases = 1;
        let mut ended = self.handle(found, None);
        for look in [Run::leaks, Run::hoards] {
            if ended.is_none() && self.baseline.is_some() {
                let found = look(self, script);
                ended = self.handle(found, None);
            }
        }
        ended.unwrap_or(Ended::Done)
    }

    /// Plays the cases of the seed.
    pub(crate) fn all(&mut self) -> Ended {
        for number in 0.. {
            if self.options.cases.is_some_and(|most| number >= most) || self.is_over() {
                break;
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ended::Stopped;
            }
            let searches = self.searches(number);
            let script = match searches {
                true => search::search(self.options.seed, number, &self.survey),
                false => case(self.options.seed, number, &self.options.areas, &self.survey),
            };
            if self.recent.len() == KEPT {
                self.recent.pop_front();
            }
            self.recent.push_back(script.clone());
            let dma = self.stats.dma;
            let found = self.once(&script);
            self.stats.cases += 1;
            if searches && self.stats.dma > dma && found.is_empty() {
                self.learn(&script);
            }
            if let Some(ended) = self.handle(found, Some(number)) {
                return ended;
            }
            if (number + 1) % LOOK_EVERY == 0 {
                let grown = self.grown();
                if let Some(ended) = self.handle(grown, Some(number)) {
                    return ended;
                }
            }
            (self.show)(Event::Progress(&self.stats));
        }
        Ended::Done
    }

    /// Whether this case is a search.
    fn searches(&self, number: u64) -> bool {
        let eighth = self.options.cases.map_or(SEARCHES, |cases| cases / 8);
        // A device may be slow.
        let in_time = self.options.time.is_none_or(|time| self.began.elapsed() < time / 8);
        let wanted = self.options.areas.contains(&Area::Dma) && in_time;
        wanted && number < SEARCHES.min(eighth) && self.survey.doorbells.len() < DOORBELLS
    }

    /// Which accesses of a search made the device reach memory.
    fn learn(&mut self, search: &Script) {
        let mut stats = Stats::default();
        let accesses = fewer(search::accesses(search), &mut |accesses| {
            let dma = stats.dma;
            let found = self.quiet(&search::with(accesses), &mut stats);
            // One that has died of it will be found so by the next case.
            found.is_empty().then_some(stats.dma > dma)
        });
        let Some(accesses) = accesses else { return };
        let doorbells = &mut self.survey.doorbells;
        if !doorbells.iter().any(|known| search::alike(known, &accesses)) {
            doorbells.push(accesses);
            self.stats.doorbells += 1;
        }
    }

    fn is_over(&self) -> bool {
        self.options.time.is_some_and(|time| self.began.elapsed() >= time)
    }

    /// Plays a script, and looks whether the server is still there.
    fn once(&mut self, script: &Script) -> Vec<Finding> {
        let mut stats = std::mem::take(&mut self.stats);
        let mut found = self.quiet(script, &mut stats);
        self.stats = stats;
        if let Some(fatal) = found.iter().find(|finding| finding.is_fatal()).cloned() {
            // All else came of it.
            found = vec![fatal];
        }
        found.retain(|finding| !self.options.ignore.contains(&finding.kind));
        found
    }

    fn quiet(&mut self, script: &Script, stats: &mut Stats) -> Vec<Finding> {
        if !self.wake() {
            return vec![Finding::new(Kind::Dead, None, "the server does not start any more")];
        }
        let (path, timeout) = (self.target.path.as_path(), self.options.timeout);
        let peer = Peer { path, timeout, patience: self.patience, survey: &self.survey };
        let mut found = Vec::new();
        for connection in &script.connections {
            found.extend(play(peer, connection, stats));
            if found.iter().any(Finding::is_fatal) {
                break;
            }
        }
        let is_closed = |finding: &Finding| finding.kind == Kind::Closed;
        let mut turned_away = false;
        if !found.iter().any(Finding::is_fatal) {
            let mut probed = Vec::new();
            // One that is just ending may take a connection with it.
            for _ in 0..5 {
                probed = probe(peer);
                turned_away = probed.iter().any(is_closed);
                if !turned_away {
                    break;
                }
                // The end of a listener has no event.
                std::thread::sleep(Duration::from_millis(5));
            }
            found.extend(probed);
        }
        // The sockets of one that dies are closed one after the other.
        if found.iter().any(is_closed) && self.has_ended(self.dying()) {
            found.push(Finding::new(Kind::Dead, None, "the server's process is no more"));
        } else if turned_away {
            let text = "new connections are closed, whatever they say";
            found.push(Finding::new(Kind::Hung, None, text));
        }
        let dead = found.iter().position(|finding| finding.kind == Kind::Dead);
        if let (Some(at), Some(program)) = (dead, &mut self.target.program) {
            if let Some(status) = program.wait(Duration::from_secs(2)) {
                if self.options.may_exit && !crashed(status) {
                    found.retain(|finding| !matches!(finding.kind, Kind::Dead | Kind::Closed));
                    return found;
                }
                if let Some(finding) = found.get_mut(at) {
                    finding.text = format!("{}; it ended with {}", finding.text, describe(status));
                }
            }
        }
        found
    }

    /// How long the server may take to die after it has closed a connection. One that is known to
    /// close them for no reason is not waited for so long.
    fn dying(&self) -> Duration {
        let closes = self.found.iter().any(|found| found.finding.kind == Kind::Closed);
        if closes { DYING / 10 } else { DYING }
    }

    /// Whether the server's process ends within this time. One that can't be watched does not.
    fn has_ended(&mut self, within: Duration) -> bool {
        if let Some(program) = &mut self.target.program {
            let allowed = |status| self.options.may_exit && !crashed(status);
            return program.wait(within).is_some_and(|status| !allowed(status));
        }
        let Ok(watch) = &self.process else { return false };
        let deadline = Instant::now() + within;
        loop {
            match watch.usage() {
                None => return true,
                Some(_) if Instant::now() >= deadline => return false,
                // The end of a process that is not our child has no event.
                Some(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Counts what is known, minimises what is new. Gives the end of the run, if this is it.
    fn handle(&mut self, found: Vec<Finding>, case: Option<u64>) -> Option<Ended> {
        let mut ended = None;
        for finding in found {
            let fatal = finding.is_fatal();
            let known = self.found.iter().position(|known| known.finding.key() == finding.key());
            match known {
                None => {
                    (self.show)(Event::New(&finding));
                    let new = self.examine(finding, case);
                    (self.show)(Event::Found(&new));
                    if new.finding.kind == Kind::Unanswered {
                        self.patience = self.patience.min(IMPATIENT);
                    }
                    self.found.push(new);
                }
                Some(at) => self.again(at, finding, case),
            }
            if fatal && !self.revive() {
                ended = Some(Ended::ServerLost);
            }
        }
        ended
    }

    /// What is known was seen again. If it could not be repeated so far, this one may.
    fn again(&mut self, at: usize, finding: Finding, case: Option<u64>) {
        let Some(known) = self.found.get_mut(at) else { return };
        known.times += 1;
        if known.shape != Shape::NotAgain || known.times > REPEATS {
            return;
        }
        let times = known.times;
        let new = self.examine(finding, case);
        if new.shape != Shape::NotAgain {
            (self.show)(Event::Found(&new));
            if let Some(known) = self.found.get_mut(at) {
                *known = Found { times, ..new };
            }
        }
    }

    /// Starts a server again that has ended by itself, which it may. Gives whether it starts.
    fn wake(&mut self) -> bool {
        let Some(program) = self.target.program.as_mut().filter(|_| self.options.may_exit) else {
            return true;
        };
        if program.ended().is_none() {
            return true;
        }
        let woken = program.start_server(&self.target.path, self.options.timeout).is_ok();
        // One that ends with each client can't be watched, and would end with this one.
        if self.baseline.is_some() {
            self.watch_anew();
        }
        woken
    }

    /// Watches the process that serves now.
    fn watch_anew(&mut self) {
        self.process = Watch::find(&self.target.path, self.options.timeout);
        self.take_baseline();
    }

    /// Sees to it that the server serves again.
    fn revive(&mut self) -> bool {
        if let Some(program) = &mut self.target.program {
            let restarted = program.start_server(&self.target.path, self.options.timeout).is_ok();
            self.watch_anew();
            return restarted;
        }
        let (path, timeout) = (self.target.path.as_path(), self.options.timeout);
        let peer = Peer { path, timeout, patience: self.patience, survey: &self.survey };
        probe(peer).is_empty()
    }

    /// Makes what was found as small as can be.
    fn examine(&mut self, finding: Finding, case: Option<u64>) -> Found {
        let last_words = self.target.program.as_ref().map(Program::last_words).unwrap_or_default();
        let mut found = Found {
            times: 1,
            case,
            script: joined(&self.recent),
            shape: Shape::Untried,
            last_words,
            finding,
        };
        let last = self.recent.back().cloned().unwrap_or_default();
        let grows = found.finding.is_growth();
        if self.options.minimise.is_zero() {
            if !grows {
                found.script = last;
            }
            return found;
        }
        if found.finding.is_fatal() && !self.revive() {
            return found;
        }
        let deadline = Instant::now() + self.options.minimise;
        let key = found.finding.key();
        found.shape = Shape::NotAgain;
        let mut candidates = match grows {
            // Any of them can have done it.
            true => self.recent.iter().rev().cloned().collect(),
            false => vec![last.clone(), last.clone(), last],
        };
        candidates.push(found.script.clone());
        for mut candidate in candidates {
            match self.does(&candidate, key, deadline) {
                Some(true) => {}
                Some(false) => continue,
                None => {
                    found.shape = Shape::Untried;
                    break;
                }
            }
            let outcome = minimise(&mut candidate, &mut |script| self.does(script, key, deadline));
            let unsure = self.does(&candidate, key, Instant::now() + self.options.minimise);
            if unsure == Some(false) {
                break;
            }
            found.shape = match outcome {
                Outcome::Done => Shape::Minimised,
                Outcome::Unfinished => Shape::Shortened,
            };
            found.script = candidate;
            break;
        }
        if grows {
            self.take_baseline();
        }
        found
    }

    /// Whether a script does it again. `None`: time is up, or the server can't be had back.
    fn does(
        &mut self,
        script: &Script,
        key: (Kind, Option<u16>),
        deadline: Instant,
    ) -> Option<bool> {
        if Instant::now() >= deadline || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let mut stats = Stats::default();
        let mut found = match key.0 {
            Kind::DescriptorLeak | Kind::MappingLeak => self.leaks(script),
            Kind::Memory => self.hoards(script),
            _ => self.quiet(script, &mut stats),
        };
        // One that is slow to die must not be taken for the work of the next script.
        if key.0 == Kind::Dead && found.is_empty() && stats.closes > 0 && self.has_ended(DYING) {
            found.push(Finding::new(Kind::Dead, None, "the server's process is no more"));
        }
        let lost = found.iter().any(Finding::is_fatal);
        let does = found.iter().any(|finding| finding.key() == key);
        if lost && !self.revive() {
            return if does { Some(true) } else { None };
        }
        Some(does)
    }

    /// Ends the run.
    pub(crate) fn report(mut self, ended: Ended) -> Report {
        let took = self.began.elapsed();
        if ended != Ended::ServerLost {
            self.last = self.look().or(self.last);
        }
        if let Some(program) = &mut self.target.program {
            program.stop();
        }
        Report {
            stats: self.stats,
            found: self.found,
            process: self.process,
            usage: self.first.zip(self.last),
            took,
            ended,
        }
    }
}

/// A connection in which nothing is wrong.
fn probe(peer: Peer<'_>) -> Vec<Finding> {
    let steps = vec![Step::Send(Box::new(version(JSON))), Step::Wait];
    let mut stats = Stats::default();
    let mut found = play(peer, &Connection { steps, ..Connection::default() }, &mut stats);
    if found.is_empty() && stats.answers == 0 {
        // Others may be closed before the answer to VERSION, for what it says.
        let text = "a connection is closed though its VERSION is well-formed";
        found.push(Finding::new(Kind::Closed, Some(Command::Version.as_u16()), text));
    }
    found
}

fn joined(scripts: &VecDeque<Script>) -> Script {
    Script { connections: scripts.iter().flat_map(|script| script.connections.clone()).collect() }
}
