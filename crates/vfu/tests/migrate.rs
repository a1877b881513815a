//! Moving a device with `Migrate`: what it does at both ends, in which order, and what is left when it
//! fails.

mod mover;

use std::cell::RefCell;
use std::error::Error;
use std::time::Duration;

use mover::{Place, place, place_of, place_with};
use vfu::Limits;
use vfu::client::{Client, Migrate, MigrateError, MigrateStep, Side};
use vfu::wire::DeviceState;
use vfu_testkit::Vmm;

use DeviceState::{Resuming, Running, Stop};

fn waiting() -> Place {
    place_with(7, |builder| builder.incoming(true))
}

/// A source with something in it, and a destination that waits.
struct Pair {
    source: Place,
    destination: Place,
    from: Vmm,
    to: Vmm,
}

impl Pair {
    fn of(source: Place, destination: Place) -> Pair {
        let (from, to) = (&source.path, &destination.path);
        let (from, to) = (Vmm::connect(from).unwrap(), Vmm::connect(to).unwrap());
        from.enumerate().unwrap();
        from.write32(0, 8, 0xcafe_f00d).unwrap();
        Pair { source, destination, from, to }
    }

    fn new() -> Pair {
        Pair::of(place(), waiting())
    }

    fn migrate(&self) -> Migrate<'_> {
        Migrate::new(self.from.client(), self.to.client())
    }

    fn states(&self) -> (DeviceState, DeviceState) {
        (self.from.client().device_state().unwrap(), self.to.client().device_state().unwrap())
    }

    /// The move fails, the source goes on with its state, and the destination has none.
    #[track_caller]
    fn fails(&self, migrate: Migrate<'_>, step: MigrateStep, side: Option<Side>) -> String {
        let error = migrate.run().unwrap_err();
        assert_eq!((error.step, error.side), (step, side), "{}", text(&error));
        assert!(error.source_goes_on.is_ok(), "{}", text(&error));
        assert_eq!(self.states().0, Running);
        assert_eq!(self.from.read32(0, 8).unwrap(), 0xcafe_f00d);
        self.from.write32(0, 12, 1).unwrap();
        assert_eq!(self.from.read32(0, 12).unwrap(), 1, "it takes writes again");
        text(&error)
    }
}

/// An error with its causes.
fn text(error: &MigrateError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn a_device_moves_and_the_hooks_are_called_in_order() {
    for pre_copy in [false, true] {
        let pair = Pair::new();
        pair.source.pre_copy.store(pre_copy, std::sync::atomic::Ordering::SeqCst);
        let seen = RefCell::new(Vec::new());
        let note = |what: &str| {
            let states = pair.states();
            seen.borrow_mut().push(format!("{what}: {:?}, {:?}", states.0, states.1));
        };
        let mut steps = Vec::new();
        let moved = pair
            .migrate()
            .downtime_limit(Duration::ZERO)
            .each_round(|round| {
                note(&format!("round {round}"));
                pair.from.write32(0, 12, round).unwrap(); // it runs on
                Ok::<_, String>(u64::from(3_u32.saturating_sub(round)))
            })
            .before_stop(|| {
                note("before");
                Ok::<_, String>(())
            })
            .while_stopped(|| {
                note("stopped");
                Ok::<_, String>(())
            })
            .on_progress(|progress| {
                if steps.last() != Some(&progress.step) {
                    steps.push(progress.step);
                }
            })
            .run()
            .unwrap();
        assert_eq!(pair.states(), (Stop, Running));
        assert_eq!(pair.to.read32(0, 8).unwrap(), 0xcafe_f00d);
        assert_eq!(pair.to.read32(0, 12).unwrap(), 3);
        let runs = if pre_copy { "PreCopy" } else { "Running" };
        let rounds = (1..4).map(|round| format!("round {round}: {runs}, Resuming"));
        let rest = [format!("before: {runs}, Resuming"), "stopped: StopCopy, Stop".into()];
        assert_eq!(seen.into_inner(), rounds.chain(rest).collect::<Vec<_>>());
        assert_eq!((moved.rounds, moved.early_bytes > 0), (3, pre_copy));
        assert!(moved.bytes > 64 + moved.early_bytes && moved.total >= moved.downtime);
        use MigrateStep as Is;
        let all = [Is::Prepare, Is::PreCopy, Is::Stop, Is::StopCopy, Is::Load, Is::Start, Is::Done];
        assert_eq!(steps, all);
    }
}

#[test]
fn rounds_end_with_the_limit() {
    let pair = Pair::new();
    let endless =
        || pair.migrate().downtime_limit(Duration::ZERO).each_round(|_| Ok::<_, String>(1));
    assert_eq!(endless().max_rounds(5).run().unwrap().rounds, 5);
    let pair = Pair::new();
    let generous = pair.migrate().downtime_limit(Duration::MAX).each_round(|_| Ok::<_, String>(1));
    assert_eq!(generous.run().unwrap().rounds, 1, "the first was short enough");
    let pair = Pair::new();
    let at_once = pair.migrate().max_rounds(0).each_round(|_| Err::<u64, _>("never called"));
    let moved = at_once.run().unwrap();
    assert_eq!((moved.rounds, moved.early_bytes), (0, 0));
}

#[test]
fn messages_respect_the_limits_of_both_ends() {
    let (source, destination) = (place(), waiting());
    for (from, to) in [(64, 1 << 20), (1 << 20, 64), (100, 33)] {
        let connect =
            |place: &Place, most| Client::builder().max_transfer(most).connect(&place.path);
        let from = connect(&source, from).unwrap();
        let to = connect(&destination, to).unwrap();
        from.reset().unwrap();
        from.region_write(0, 8, &[1; 8]).unwrap();
        Migrate::new(&from, &to).run().unwrap();
        let mut bytes = [0; 8];
        to.region_read(0, 8, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 8]);
    }
}

#[test]
fn whatever_fails_the_source_goes_on_and_the_destination_is_reset() {
    let (source, destination) = (Some(Side::Source), Some(Side::Destination));
    let table = [
        ("stop", source, MigrateStep::Stop),
        ("save", source, MigrateStep::Stop),
        ("load", destination, MigrateStep::Load),
        ("start", destination, MigrateStep::Start),
    ];
    for pre_copy in [false, true] {
        for (call, side, step) in table {
            let pair = Pair::new();
            pair.source.pre_copy.store(pre_copy, std::sync::atomic::Ordering::SeqCst);
            let place = if side == source { &pair.source } else { &pair.destination };
            *place.fails.lock().unwrap() = call;
            let text = pair.fails(pair.migrate(), step, side);
            let needle =
                format!("failed at the {}; the device goes on at the source", side.unwrap());
            assert!(text.contains(&needle), "{text}");
            assert_eq!(pair.states().1, Running, "as after power-on");
            assert_eq!(pair.to.read32(0, 8).unwrap(), 0, "{call}");
            // And now it works.
            *place.fails.lock().unwrap() = "";
            pair.migrate().run().unwrap();
            assert_eq!(pair.to.read32(0, 8).unwrap(), 0xcafe_f00d);
        }
    }
}

#[test]
fn hooks_that_fail_end_the_move() {
    let pair = Pair::new();
    let round = pair.migrate().each_round(|_| Err::<u64, _>("no room"));
    let text = pair.fails(round, MigrateStep::PreCopy, None);
    let expected = "copying while the device runs failed at neither end; the device goes on at the \
                    source: no room";
    assert_eq!(text, expected);
    let before = pair.migrate().before_stop(|| Err("no pause"));
    assert!(pair.fails(before, MigrateStep::Stop, None).ends_with("no pause"));
    let stopped = pair.migrate().while_stopped(|| Err("no memory"));
    assert!(pair.fails(stopped, MigrateStep::Load, None).ends_with("no memory"));
}

#[test]
fn a_move_can_be_canceled_at_any_step_before_the_start() {
    let all = {
        let asked = RefCell::new(0);
        Pair::new()
            .migrate()
            .cancel_if(|| asked.replace_with(|n| *n + 1) == u32::MAX)
            .run()
            .unwrap();
        asked.into_inner()
    };
    assert!(all >= 8, "with each of {all} steps and pieces");
    for after in 0..all {
        let pair = Pair::new();
        let mut asked = 0;
        let canceled = pair.migrate().cancel_if(|| {
            asked += 1;
            asked > after
        });
        let error = canceled.run().unwrap_err();
        assert!(error.side.is_none() && error.source_goes_on.is_ok(), "{}", text(&error));
        assert!(text(&error).ends_with("the source: canceled") || after == 0, "{}", text(&error));
        assert_eq!(pair.states().0, Running, "after {after}");
        pair.migrate().run().unwrap();
        assert_eq!(pair.to.read32(0, 8).unwrap(), 0xcafe_f00d);
    }
}

#[test]
fn what_can_not_work_is_told_before_anything_is_changed() {
    let pair = Pair::of(place(), place_of(8, Limits::default()));
    pair.to.write32(0, 8, 5).unwrap();
    let text = pair.fails(pair.migrate(), MigrateStep::Check, Some(Side::Destination));
    assert!(
        text.ends_with("it is another device: 1234:0008, and the source is 1234:0007"),
        "{text}"
    );
    assert_eq!(pair.to.read32(0, 8).unwrap(), 5, "that one was left alone");

    let pair = Pair::of(place(), waiting());
    let back = Migrate::new(pair.to.client(), pair.from.client()).run().unwrap_err();
    assert!(text_of(&back, Side::Source).ends_with("it waits for one"));
    pair.from.client().set_device_state(Stop).unwrap();
    let stopped = pair.migrate().run().unwrap_err();
    assert!(text_of(&stopped, Side::Source).contains("nothing was changed: it is stopped"));
    assert_eq!(pair.states(), (Stop, Resuming), "nothing has changed");
}

#[track_caller]
fn text_of(error: &MigrateError, side: Side) -> String {
    assert_eq!((error.step, error.side), (MigrateStep::Check, Some(side)), "{}", text(error));
    text(error)
}

#[test]
fn a_destination_in_error_is_reset_first() {
    let pair = Pair::new();
    let to = pair.to.client();
    to.write_state(b"garbage").unwrap();
    to.set_device_state(Stop).unwrap_err();
    assert_eq!(pair.states().1, DeviceState::Error);
    pair.migrate().run().unwrap();
    assert_eq!(pair.to.read32(0, 8).unwrap(), 0xcafe_f00d);
}

#[test]
fn an_end_that_dies_is_told() {
    let Pair { source, destination, from, to } = Pair::new();
    let mut server = Some(source.server);
    let error = Migrate::new(from.client(), to.client())
        .before_stop(|| {
            drop(server.take()); // waits until it has ended
            Ok::<_, String>(())
        })
        .run()
        .unwrap_err();
    assert_eq!((error.step, error.side), (MigrateStep::Stop, Some(Side::Source)));
    let text = text(&error);
    assert!(error.source_goes_on.is_err() && text.contains("does not go on"), "{text}");
    assert_eq!(to.client().device_state().unwrap(), Running, "as after power-on");
    drop((from, to, destination));

    let Pair { source: _source, destination, from, to } = Pair::new();
    let mut server = Some(destination.server);
    let error = Migrate::new(from.client(), to.client())
        .before_stop(|| {
            drop(server.take());
            Ok::<_, String>(())
        })
        .run()
        .unwrap_err();
    assert_eq!((error.step, error.side), (MigrateStep::StopCopy, Some(Side::Destination)));
    assert!(error.source_goes_on.is_ok());
    assert_eq!(from.client().device_state().unwrap(), Running);
    assert_eq!(from.read32(0, 8).unwrap(), 0xcafe_f00d);
}

#[test]
fn a_source_that_never_ends_is_given_up() {
    let pair = Pair::new();
    let text = pair.fails(pair.migrate().max_state(100), MigrateStep::StopCopy, Some(Side::Source));
    assert!(text.ends_with("its state is longer than 100 bytes"), "{text}");
}
