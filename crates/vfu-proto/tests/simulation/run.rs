//! Runs, and what becomes of one that fails: it is shrunk and told.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use vfu_proto::session::Closed;

use super::config::{Config, Op};
use super::seen::Seen;
use super::world::{CLIENT, SERVER, World};

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Delays and timeouts, on one socket.
    OneSocket,
    /// The same with the twin socket.
    TwoSockets,
    /// Sockets are lost at any byte, sides stop.
    LostSocket,
    /// Peers send what they should not.
    BrokenPeer,
}

impl Flavour {
    pub(crate) const ALL: [Flavour; 4] =
        [Flavour::OneSocket, Flavour::TwoSockets, Flavour::LostSocket, Flavour::BrokenPeer];

    /// A seed tells its flavour, too.
    pub(crate) fn of(seed: u64) -> Flavour {
        Flavour::ALL[(seed % 4) as usize]
    }
}

/// Runs seeds of one flavour from `first` on, until so many steps are done. Returns their number,
/// and what was seen.
pub(crate) fn campaign(flavour: Flavour, first: u64, steps: u64) -> (u64, Seen) {
    let at = Flavour::ALL.iter().position(|f| *f == flavour).unwrap_or(0) as u64;
    let mut seed = first - first % 4 + at;
    let (mut done, mut seen) = (0, Seen::default());
    while done < steps {
        let (steps, also) = replay(seed);
        done += steps;
        seen.merge(&also);
        seed += 4;
    }
    (done, seen)
}

/// Runs one seed. Returns the number of steps, and what was seen.
///
/// # Panics
/// The run fails: with the seed, the shortest program found that fails, and what it does.
pub(crate) fn replay(seed: u64) -> (u64, Seen) {
    let (config, program) = Config::draw(Flavour::of(seed), seed);
    match attempt(&config, &program) {
        Ok(done) => done,
        Err(Failure { what, place }) => {
            let short = shrink(&config, program, &place);
            let mut trace = Vec::new();
            let end = quietly(|| run(&config, &short, Some(&mut trace)));
            let end = end.err().map(|failure| failure.what).unwrap_or_default();
            panic!(
                "VFU_SIM_SEED={seed} fails at {place}: {what}\n\n{config:#?}\n\nshrunk to {} steps:\n  {}\n{end}",
                short.len(),
                trace.join("\n  "),
            );
        }
    }
}

fn attempt(config: &Config, program: &[Op]) -> Result<(u64, Seen), Failure> {
    quietly(|| run(config, program, None))
}

/// The whole life of a world.
fn run(config: &Config, program: &[Op], trace: Option<&mut Vec<String>>) -> (u64, Seen) {
    let mut world = World::new(config.clone(), trace.is_some());
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut world, program)));
    if let (Some(trace), Some(told)) = (trace, world.trace.take()) {
        *trace = told;
    }
    match result {
        Ok(steps) => {
            world.sides.iter().for_each(|side| world.seen.add_side(side));
            (steps, world.seen)
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn live(world: &mut World, program: &[Op]) -> u64 {
    let steps = program.iter().filter(|op| world.step(**op)).count() as u64;
    let drained = world.quiesce();
    if world.intact {
        check_rest(world);
    }
    world.sides[CLIENT].close(Closed::Stopped);
    let ended = world.quiesce();
    check_end(world);
    steps + drained + ended
}

/// All has been said and done, and nothing is left.
fn check_rest(world: &World) {
    assert!(world.streams.iter().flatten().all(|s| s.is_idle() && s.log.is_empty()));
    assert_eq!(world.device.executed, world.client.commands, "commands executed, of those sent");
    assert_eq!(world.client.served, world.device.dmas, "DMA served, of that asked for");
    assert!(world.device.is_idle());
    for who in [CLIENT, SERVER] {
        let side = &world.sides[who];
        assert!(side.framers.iter().all(|framer| !framer.is_mid_message()));
        assert!(side.book.fences.is_empty() && side.book.queue.is_empty());
        for request in &side.book.requests {
            let unanswered = who == SERVER && world.client.unanswered.contains(&request.serial);
            assert!(unanswered, "left over: {request:?}");
        }
        let sent = [world.device.dmas, world.client.commands];
        assert_eq!(side.engine.counters().commands, sent[who]);
        assert_eq!(side.engine.counters().stray_replies, 0);
    }
    world.check_memory();
}

/// The session has ended, and everybody knows.
fn check_end(world: &World) {
    assert!(world.device.is_idle());
    for side in &world.sides {
        assert!(side.book.closed.is_some(), "one side does not notice the end");
        assert!(side.book.fences.is_empty() && side.book.queue.is_empty());
        let left = side.book.requests.iter().find(|r| !r.is_owed());
        assert!(left.is_none(), "never ended: {left:?}");
    }
}

/// Leaves out what the failure at `place` does not need: large parts first, then smaller ones.
fn shrink(config: &Config, mut program: Vec<Op>, place: &str) -> Vec<Op> {
    // In steps, so that a failure is told soon enough.
    let mut budget = 2_000_000_usize;
    let mut part = program.len().div_ceil(2);
    loop {
        let mut at = 0;
        let mut any = false;
        while at < program.len() && budget > 0 {
            let end = program.len().min(at + part);
            let shorter = [&program[..at], &program[end..]].concat();
            budget = budget.saturating_sub(shorter.len());
            if attempt(config, &shorter).is_err_and(|failure| failure.place == place) {
                (program, any) = (shorter, true);
            } else {
                at = end;
            }
        }
        if budget == 0 || (part <= 1 && !any) {
            return program;
        }
        part = part.div_ceil(2);
    }
}

/// What a run failed with, and where in the code.
#[derive(Debug)]
struct Failure {
    what: String,
    place: String,
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs what may panic, and keeps what the panic says for the caller.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if QUIET.get() {
                let place = info.location().map(ToString::to_string);
                PLACE.set(place.unwrap_or_default());
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Failure { what: text.unwrap_or_default(), place: PLACE.take() }
    })
}
