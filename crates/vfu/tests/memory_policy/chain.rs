//! The guard and the handlers of SIGBUS around it.

use std::sync::atomic::Ordering;

use super::child::{dies, lives};
use super::foreign::{CALLS, Handler, Missing, install, send, send_news};
use super::{BASE, gone, guard};

#[test]
fn another_ones_fault_goes_to_the_handler_that_was_there() {
    lives(|| {
        install(Handler::Full);
        let rig = guard();
        assert_eq!(CALLS.load(Ordering::SeqCst), 0, "ours is not his");
        assert_eq!(Missing::new().touch(), 0);
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
        // And ours is ours after that.
        let ram = rig.ram();
        ram.truncate(0).unwrap();
        assert_eq!(rig.read(BASE, 8), gone(BASE));
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_handler_that_is_told_nothing_is_called_too() {
    lives(|| {
        install(Handler::Plain);
        let _rig = guard();
        assert_eq!(Missing::new().touch(), 0);
        send();
        assert_eq!(CALLS.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_handler_for_one_time_is_called_one_time() {
    dies(|| {
        install(Handler::Once);
        let _rig = guard();
        Missing::new().touch();
        unreachable!();
    });
}

#[test]
fn what_is_ignored_stays_ignored() {
    lives(|| {
        install(Handler::Ignore);
        let _rig = guard();
        send();
    });
}

#[test]
fn news_that_are_ignored_leave_the_guard_at_work() {
    lives(|| {
        install(Handler::Ignore);
        let rig = guard();
        send_news();
        let ram = rig.ram();
        ram.truncate(0).unwrap();
        assert_eq!(rig.read(BASE, 8), gone(BASE));
    });
}

#[test]
fn a_fault_can_not_be_ignored() {
    dies(|| {
        install(Handler::Ignore);
        let _rig = guard();
        Missing::new().touch();
    });
}

#[test]
fn another_ones_fault_ends_the_process_as_ever() {
    dies(|| {
        let _rig = guard();
        Missing::new().touch();
    });
}

#[test]
fn a_signal_that_is_sent_ends_the_process_as_ever() {
    dies(|| {
        let _rig = guard();
        // The runtime's handler takes it for a fault, and leaves the next one to the default action.
        for _ in 0..2 {
            send();
        }
        unreachable!();
    });
}

/// As a second copy of vfu does, in a library of C.
#[test]
fn who_comes_later_and_hands_on_leaves_the_guard_at_work() {
    lives(|| {
        let rig = guard();
        install(Handler::Full);
        assert_eq!(Missing::new().touch(), 0);
        let ram = rig.ram();
        ram.truncate(0).unwrap();
        assert_eq!(rig.read(BASE, 8), gone(BASE));
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    });
}
