//! Which mapping an address lies in: while memory is pinned, and as a lease, taken and given back.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use vfu::Dma;
use vfu::dma::Direction;

use super::bursts::STRIDE;
use super::inprocess::{PAGE, Shared};
use crate::measure::{Bulk, Effort, Side, compare};
use crate::row::{Group, Measured, Row};

/// The bytes that are looked up.
const LEN: u64 = 64;
/// Look-ups in one pin: a queue's thread has some descriptors at a time.
const BATCH: usize = 32;

pub(super) fn rows() -> Vec<Row> {
    let group = Group::Translation;
    let (one, search) =
        ("a comparison with the bounds of one mapping", "a binary search over as many bounds");
    let mut rows = vec![
        Row::new(
            group,
            "translate-same",
            format!("64 bytes in pinned memory, always of the same mapping, {BATCH} in a pin"),
            one,
            |effort| same(effort, How::Pinned(BATCH)),
        )
        .at_most(2.0),
    ];
    for count in [1_000, 60_000, 1_000_000] {
        rows.push(
            Row::new(
                group,
                format!("translate-random-{count}"),
                format!("the same, of a random one of {count} mappings"),
                search,
                move |effort| random(effort, count, How::Pinned(BATCH)),
            )
            .at_most(2.0)
            .slow(count > 100_000),
        );
    }
    rows.push(
        Row::new(
            group,
            "translate-2-threads",
            "the same of 1000 on two threads at once, time for each",
            "the same on one thread",
            two_threads,
        )
        .at_most(1.0 / 1.9),
    );
    rows.extend([
        Row::new(group, "translate-pin", "a pin for 64 bytes of the same mapping", one, |effort| {
            same(effort, How::Pinned(1))
        }),
        Row::new(
            group,
            "lease-same",
            "a lease of 64 bytes, always of the same mapping",
            one,
            |effort| same(effort, How::Leased),
        ),
        Row::new(
            group,
            "lease-random-1000",
            "the same, of a random one of 1000",
            search,
            |effort| random(effort, 1_000, How::Leased),
        ),
    ]);
    rows
}

/// The next of numbers that look random: xorshift, which costs next to nothing.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// One of these addresses. A device has it from its queue: were it read from the list, the line in which a
/// search of that list ends would be there already.
fn pick(addresses: &[u64], state: &mut u64) -> u64 {
    let number = next(state) % addresses.len() as u64;
    addresses[0] + number * STRIDE
}

/// In which way an address is looked up.
#[derive(Clone, Copy)]
enum How {
    /// While memory is pinned, for so many addresses.
    Pinned(usize),
    /// As a lease.
    Leased,
}

/// Looks so many up, and what `next` gives. What is found is shown to the black box where it lies, as
/// a device reads and writes through it: to hand it over would be a copy that waits for its own stores.
fn look_up(how: How, dma: &Dma, times: usize, mut next: impl FnMut() -> u64) -> anyhow::Result<()> {
    match how {
        How::Leased => {
            for _ in 0..times {
                let lease = dma.lease(black_box(next()), LEN, Direction::Read)?;
                black_box(&lease);
            }
        }
        How::Pinned(batch) => {
            let mut left = times;
            while left > 0 {
                let now = left.min(batch);
                dma.pin(|memory| {
                    for _ in 0..now {
                        let slice = memory.slice(black_box(next()), LEN, Direction::Read)?;
                        black_box(&slice);
                    }
                    Ok(())
                })?;
                left -= now;
            }
        }
    }
    Ok(())
}

fn same(effort: Effort, how: How) -> anyhow::Result<Measured> {
    let shared = Shared::pages(1)?;
    let (address, dma) = (shared.addresses[0], shared.dma());
    let bounds = (address, address + PAGE);
    let mut limit = Bulk(|times| {
        for _ in 0..times {
            let (first, end) = black_box(bounds);
            let at = black_box(address);
            black_box((at >= first && at + LEN <= end).then(|| at - first));
        }
        Ok(())
    });
    let mut ours = Bulk(|times| look_up(how, &dma, times, || address));
    compare(effort, &mut limit, &mut ours)
}

fn random(effort: Effort, count: u64, how: How) -> anyhow::Result<Measured> {
    let shared = Shared::pages(count)?;
    let (addresses, dma) = (&shared.addresses[..], shared.dma());
    let (mut seed, mut other) = (0x9e37_79b9_7f4a_7c15, 0x9e37_79b9_7f4a_7c15);
    let mut limit = Bulk(|times| {
        for _ in 0..times {
            let at = black_box(pick(addresses, &mut seed));
            let behind = addresses.partition_point(|first| *first <= at);
            let first = behind.checked_sub(1).map(|index| addresses[index]);
            black_box(first.filter(|first| at + LEN <= first + PAGE).map(|first| at - first));
        }
        Ok(())
    });
    let mut ours = Bulk(|times| look_up(how, &dma, times, || pick(addresses, &mut other)));
    compare(effort, &mut limit, &mut ours)
}

/// So many look-ups on each of so many threads.
struct Threads<'a> {
    count: usize,
    dma: &'a Dma,
    addresses: &'a [u64],
}

impl Side for Threads<'_> {
    fn batch(&mut self, times: usize, samples: &mut Vec<f64>) -> anyhow::Result<()> {
        let each = times.max(100_000); // against the cost of starting a thread
        let began = Instant::now();
        let work = |seed: u64| {
            let mut state = seed;
            let next = || pick(self.addresses, &mut state);
            look_up(How::Pinned(BATCH), self.dma, each, next)
        };
        thread::scope(|scope| {
            let seeds = (0..self.count).map(|n| 0x9e37_79b9_7f4a_7c15 + n as u64);
            let threads: Vec<_> = seeds.map(|seed| scope.spawn(move || work(seed))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
            })
        })?;
        samples.push(began.elapsed().as_nanos() as f64 / (each * self.count) as f64);
        Ok(())
    }
}

fn two_threads(effort: Effort) -> anyhow::Result<Measured> {
    let shared = Shared::pages(1_000)?;
    let (addresses, dma) = (&shared.addresses[..], &shared.dma());
    compare(
        effort,
        &mut Threads { count: 1, dma, addresses },
        &mut Threads { count: 2, dma, addresses },
    )
}
