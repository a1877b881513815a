//! Nobody sees a value that is being changed: loom's cell panics where a reader and a change meet.

use std::sync::Arc;

use loom::thread;

use super::*;
use crate::sync::Condvar;

/// A thread that reads so often; what it sees never goes back.
fn reader(value: &Arc<LeftRight<u32>>, times: usize) -> thread::JoinHandle<()> {
    let value = value.clone();
    thread::spawn(move || {
        let mut before = 0;
        for _ in 0..times {
            let seen = value.read(|value| *value);
            assert!(seen >= before);
            before = seen;
        }
    })
}

/// The second change is in the side that the first one's readers were sent to.
#[test]
fn a_reader_meets_no_change() {
    loom::model(|| {
        let value = Arc::new(LeftRight::new(0, 0));
        let reader = reader(&value, 2);
        value.change().make(|value| *value += 1);
        value.change().make(|value| *value += 1);
        assert_eq!(value.read(|value| *value), 2);
        reader.join().unwrap();
    });
}

/// Who finds that somebody else has said that there are readers is one nevertheless.
#[test]
fn two_readers_meet_no_change() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let value = Arc::new(LeftRight::new(0, 0));
        let readers = [reader(&value, 1), reader(&value, 1)];
        value.change().make(|value| *value += 1);
        value.change().make(|value| *value += 1);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// A value that is changed is seen by whoever hears of it.
#[test]
fn what_was_taken_out_is_not_seen() {
    loom::model(|| {
        let value = Arc::new(LeftRight::new(0, 0));
        let told = Arc::new(AtomicBool::new(false));
        let (theirs, hears) = (value.clone(), told.clone());
        let reader = thread::spawn(move || {
            theirs.read(|_| ());
            if hears.load(Ordering::Acquire) {
                assert_eq!(theirs.read(|value| *value), 1);
            }
        });
        value.change().make(|value| *value = 1);
        told.store(true, Ordering::Release);
        reader.join().unwrap();
    });
}

/// Nor does one who reads two of them, in turn or at once.
#[test]
fn who_reads_two_meets_no_change() {
    for at_once in [false, true] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let [one, other] = [0, 0].map(|_| Arc::new(LeftRight::new(0, 0)));
            let (first, second) = (one.clone(), other.clone());
            let reader = thread::spawn(move || {
                first.read(|_| {
                    if at_once {
                        second.read(|_| ());
                    }
                });
                second.read(|_| ());
            });
            other.change().make(|value| *value += 1);
            one.change().make(|value| *value += 1);
            reader.join().unwrap();
        });
    }
}

/// A change waits for who reads what is changed, and for nobody else.
#[test]
fn who_reads_something_else_is_not_waited_for() {
    loom::model(|| {
        let [one, other] = [0, 0].map(|_| Arc::new(LeftRight::new(0, 0)));
        let go_on = Arc::new((Mutex::new(false), Condvar::new()));
        let (theirs, wait) = (one.clone(), go_on.clone());
        let reader = thread::spawn(move || {
            theirs.read(|_| {
                let mut may = wait.0.lock().unwrap();
                while !*may {
                    may = wait.1.wait(may).unwrap();
                }
            });
        });
        other.read(|_| ());
        other.change().make(|value| *value += 1);
        *go_on.0.lock().unwrap() = true;
        go_on.1.notify_all();
        reader.join().unwrap();
    });
}
