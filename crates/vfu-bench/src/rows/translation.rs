//! Which mapping an address lies in, and the right to use it: a lease, taken and given back.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use vfu::Dma;
use vfu::dma::Direction;

use super::inprocess::{PAGE, Shared};
use crate::measure::{Bulk, Effort, Side, compare};
use crate::row::{Group, Measured, Row};

/// Looks one up before the next, so that the figure is one of latency.
const LEN: u64 = 64;

pub(super) fn rows() -> Vec<Row> {
    let group = Group::Translation;
    let mut rows = vec![
        Row::new(
            group,
            "translate-same",
            "a lease of 64 bytes, always of the same mapping",
            "a comparison with the bounds of one mapping",
            same,
        )
        .at_most(2.0),
    ];
    for count in [1_000, 60_000, 1_000_000] {
        rows.push(
            Row::new(
                group,
                format!("translate-random-{count}"),
                format!("a lease of 64 bytes of a random one of {count} mappings"),
                "a binary search over as many bounds",
                move |effort| random(effort, count),
            )
            .at_most(2.0)
            .slow(count > 100_000),
        );
    }
    rows.push(
        Row::new(
            group,
            "translate-2-threads",
            "leases of random mappings on two threads at once, time for each",
            "the same on one thread",
            two_threads,
        )
        .at_most(1.0 / 1.9),
    );
    rows
}

/// The next of numbers that look random: xorshift, which costs next to nothing.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn pick(addresses: &[u64], state: &mut u64) -> u64 {
    let index = next(state) as usize % addresses.len();
    addresses[index]
}

fn lease(dma: &Dma, address: u64) -> anyhow::Result<()> {
    black_box(dma.lease(black_box(address), LEN, Direction::Read)?);
    Ok(())
}

fn same(effort: Effort) -> anyhow::Result<Measured> {
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
    let mut ours = Bulk(|times| (0..times).try_for_each(|_| lease(&dma, address)));
    compare(effort, &mut limit, &mut ours)
}

fn random(effort: Effort, count: u64) -> anyhow::Result<Measured> {
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
    let mut ours =
        Bulk(|times| (0..times).try_for_each(|_| lease(&dma, pick(addresses, &mut other))));
    compare(effort, &mut limit, &mut ours)
}

/// So many leases on each of so many threads.
struct Threads<'a> {
    count: usize,
    dma: &'a Dma,
    addresses: &'a [u64],
}

impl Side for Threads<'_> {
    fn batch(&mut self, times: usize, samples: &mut Vec<f64>) -> anyhow::Result<()> {
        let each = times.max(10_000); // against the cost of starting a thread
        let began = Instant::now();
        let work = |seed: u64| {
            let mut state = seed;
            (0..each).try_for_each(|_| lease(self.dma, pick(self.addresses, &mut state)))
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
