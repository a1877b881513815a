//! A write that a client has made wait ends, and is the last; one that does not wait costs nothing.

use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::*;

/// A counter that whoever writes waits for.
struct Model {
    count: Mutex<u64>,
    room: Condvar,
}

/// When it is full.
const FULL: u64 = 3;

impl Model {
    fn write(&self) -> Result<usize, Errno> {
        let mut count = self.count.lock().unwrap();
        while *count == FULL {
            count = self.room.wait(count).unwrap();
        }
        *count += 1;
        Ok(8)
    }
}

impl Counter for Model {
    fn is_full(&self) -> bool {
        *self.count.lock().unwrap() == FULL
    }

    fn empty(&self) {
        *self.count.lock().unwrap() = 0;
        self.room.notify_all();
    }
}

fn file(count: u64) -> Arc<Counted<Model>> {
    let model = Model { count: Mutex::new(count), room: Condvar::new() };
    Arc::new(Counted::of(model, &Distrust::default()))
}

/// A thread that writes twice; what came of that.
fn writer(
    file: &Arc<Counted<Model>>,
    done: &Arc<AtomicBool>,
) -> thread::JoinHandle<[Result<(), Errno>; 2]> {
    let (file, done) = (file.clone(), done.clone());
    thread::spawn(move || {
        let results = [(); 2].map(|()| file.write_alone(Model::write));
        done.store(true, Ordering::Release);
        results
    })
}

/// What `watch` does, of one file: two looks in which nothing has moved. The time between them does not
/// exist here, so a writer may just not have run.
fn watch(file: &Counted<Model>, done: &AtomicBool) {
    let mut seen = None;
    while !done.load(Ordering::Acquire) {
        let now = file.awaited();
        if let Some(ended) = now.filter(|_| now == seen) {
            file.rescue(ended);
        }
        seen = now;
        thread::yield_now();
    }
}

#[test]
fn a_write_that_waits_ends_and_is_the_last() {
    loom::model(|| {
        let (file, done) = (file(FULL), Arc::new(AtomicBool::new(false)));
        let writer = writer(&file, &done);
        watch(&file, &done);
        assert_eq!(writer.join().unwrap(), [Ok(()), Err(Errno::DEADLK)]);
        assert_eq!(*file.fd.count.lock().unwrap(), 1);
    });
}

#[test]
fn writes_that_do_not_wait_are_not_taken() {
    loom::model(|| {
        let (file, done) = (file(0), Arc::new(AtomicBool::new(false)));
        let writer = writer(&file, &done);
        watch(&file, &done);
        assert_eq!(writer.join().unwrap(), [Ok(()), Ok(())]);
        assert_eq!(*file.fd.count.lock().unwrap(), 2);
        assert!(!file.distrust.0.load(Ordering::Relaxed));
    });
}
