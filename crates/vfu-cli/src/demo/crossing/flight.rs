//! Reads of 4 KiB by messages: one after the other, and 32 at a time.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use vfu::{Dma, DmaError};

use super::super::stage::Seen;
use super::rig::{PAGE, RAM, Rig, pattern, rate};

/// How many at a time.
const FLIGHTS: usize = 32;

/// Measures both, each for `time`, in turns, so that both see the same weather.
pub(super) fn measure(rig: &Rig, time: Duration) -> anyhow::Result<Seen> {
    const TURNS: u32 = 4;
    let page = pattern(1);
    for n in 0..FLIGHTS {
        rig.ram.store(address(n), &page).ok_or_else(|| anyhow!("no such memory"))?;
    }
    let (mut single, mut many) = (0, 0);
    let (mut single_time, mut many_time) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TURNS {
        let began = Instant::now();
        single += one_by_one(&rig.handle.dma(), &page, time / TURNS)?;
        single_time += began.elapsed();
        let began = Instant::now();
        many += in_flight(&rig.handle.dma(), &page, time / TURNS)?;
        many_time += began.elapsed();
    }
    rig.is_sound()?;
    let (single, many) = (rate(single, single_time), rate(many, many_time));
    let ratio = many / single.max(f64::EPSILON);
    let text = format!("{many:.0} reads/s, one by one {single:.0} reads/s: {ratio:.1} times");
    Ok(Seen::from(text)
        .figure("one_by_one_per_s", single)
        .figure("in_flight_per_s", many)
        .figure("ratio", ratio))
}

fn address(n: usize) -> u64 {
    RAM + (n * PAGE) as u64
}

fn one_by_one(dma: &Dma, page: &[u8; PAGE], time: Duration) -> anyhow::Result<u64> {
    let (began, mut count, mut bytes) = (Instant::now(), 0, [0; PAGE]);
    loop {
        dma.read(RAM, &mut bytes)?;
        ensure!(bytes == *page, "other bytes than were stored");
        count += 1;
        if began.elapsed() >= time {
            return Ok(count);
        }
    }
}

fn in_flight(dma: &Dma, page: &[u8; PAGE], time: Duration) -> anyhow::Result<u64> {
    let (began, count) = (Instant::now(), Cell::new(0));
    let flight = |n: usize| {
        let count = &count;
        async move {
            let mut bytes = [0; PAGE];
            loop {
                dma.read_async(address(n), &mut bytes).await?;
                if bytes != *page {
                    return Err(DmaError::Malformed("other bytes than were stored"));
                }
                count.set(count.get() + 1);
                if began.elapsed() >= time {
                    return Ok(());
                }
            }
        }
    };
    all((0..FLIGHTS).map(flight))?;
    Ok(count.get())
}

/// Runs futures on this thread until all have ended, or one has failed. Only those that were woken
/// are polled.
fn all<F: Future<Output = Result<(), DmaError>>>(
    futures: impl Iterator<Item = F>,
) -> Result<(), DmaError> {
    let ready = Arc::new(Ready { thread: thread::current(), woken: Mutex::default() });
    let mut tasks: Vec<(Pin<Box<F>>, Waker)> = futures
        .enumerate()
        .map(|(index, future)| {
            let task = Task { index, ready: ready.clone() };
            (Box::pin(future), Waker::from(Arc::new(task)))
        })
        .collect();
    let (mut left, mut woken) = (tasks.len(), (0..tasks.len()).collect::<Vec<_>>());
    while left > 0 {
        for index in woken.drain(..) {
            let Some((future, waker)) = tasks.get_mut(index) else { continue };
            if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                result?;
                left -= 1;
            }
        }
        if left > 0 {
            ready.wait(&mut woken);
        }
    }
    Ok(())
}

/// Which tasks have been woken.
struct Ready {
    thread: Thread,
    woken: Mutex<Vec<usize>>,
}

impl Ready {
    fn wait(&self, woken: &mut Vec<usize>) {
        loop {
            std::mem::swap(woken, &mut self.woken.lock().unwrap_or_else(PoisonError::into_inner));
            if !woken.is_empty() {
                return;
            }
            thread::park();
        }
    }
}

struct Task {
    index: usize,
    ready: Arc<Ready>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut woken = self.ready.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let first = woken.is_empty();
        woken.push(self.index);
        drop(woken);
        if first {
            self.ready.thread.unpark();
        }
    }
}
