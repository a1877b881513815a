//! The log of dirty pages: what it adds to a write of the device, and what a report of it takes.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use vfu::Dma;
use vfu::wire::{
    DmaMap, DmaMapFlags, FeatureOp, FeatureRequest, LoggingRanges, Request, bitmap_len,
};
use vfu_testkit::{SharedRam, command};

use super::halves::ServerHalf;
use super::inprocess::{InProcess, PAGE, RAM};
use super::raw::{Alone, HEADER};
use crate::measure::{Bulk, Bursts, Effort, compare};
use crate::row::{Group, Measured, Row};

/// The memory of a report, in bytes.
const LARGE: u64 = 1 << 30;
/// The pages that one word of the log stands for.
const WORD: u64 = 64;
/// The memory that is written while it is logged, in bytes.
const SMALL: u64 = 2 << 20;

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new(
            Group::Dirty,
            "dirty-mark",
            "a write of 64 bytes of shared memory whose pages are logged",
            "the same where they are not, and a 64-bit atomic or",
            mark,
        ),
        Row::new(
            Group::Dirty,
            "dirty-report",
            "a report on 1 GiB in pages of 4 KiB, the server on one thread without waiting",
            "messages of the same sizes, and as many 64-bit atomic loads and stores",
            report,
        ),
    ]
}

fn mark(effort: Effort) -> anyhow::Result<Measured> {
    let (plain, logged) = (InProcess::start()?, InProcess::start()?);
    let _rams = (plain.share(SMALL)?, logged.share(SMALL)?);
    logged.client().start_dma_logging(PAGE)?;
    let words: Vec<_> = (0..SMALL / PAGE / WORD).map(|_| AtomicU64::new(0)).collect();
    let write = |dma: &Dma, page: u64| dma.write(RAM + page * PAGE, black_box(&[1; 64]));
    let (without, with) = (plain.dma(), logged.dma());
    let pages = |times: usize| (0..times as u64).map(|at| at % (SMALL / PAGE));
    let mut limit = Bulk(|times| {
        for page in pages(times) {
            write(&without, page)?;
            let word = &words[(page / WORD) as usize];
            word.fetch_or(1 << (page % WORD), Ordering::Relaxed);
        }
        Ok(())
    });
    let mut ours = Bulk(|times| {
        for page in pages(times) {
            write(&with, page)?;
        }
        Ok(())
    });
    compare(effort, &mut limit, &mut ours)
}

fn report(effort: Effort) -> anyhow::Result<Measured> {
    let mut server = ServerHalf::new()?;
    let ram = SharedRam::new(RAM, LARGE)?;
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    let map = Request::DmaMap(DmaMap { flags, offset: 0, address: RAM, size: LARGE });
    server.ask(&command(1, &map), Some(ram.as_fd()))?;
    let start = FeatureOp::SetLoggingStart { page_size: PAGE, ranges: LoggingRanges::new(&[]) };
    server.ask(&command(1, &Request::DeviceFeature(FeatureRequest::new(start))), None)?;
    let what = FeatureOp::GetLoggingReport { iova: RAM, length: LARGE, page_size: PAGE };
    let request = command(1, &Request::DeviceFeature(FeatureRequest::new(what)));

    // A page for each word is dirty.
    let dma = server.dma();
    let dirty = || {
        let mut pages = (0..LARGE / PAGE).step_by(WORD as usize);
        pages.try_for_each(|page| Ok(dma.write(RAM + page * PAGE, &[1])?))
    };
    dirty()?;
    let reply = server.ask(&request, None)?;
    let bits = bitmap_len(LARGE, PAGE)? as usize;
    anyhow::ensure!(reply.len() > HEADER + bits, "a report of {} bytes", reply.len());

    let mut bare = Alone::new(request.len(), reply.len())?;
    let words: Vec<_> = (0..bits / 8).map(|_| AtomicU64::new(1)).collect();
    let mut out = Vec::new();
    let copy = || {
        out.clear();
        out.extend(black_box(&words).iter().map(|word| word.load(Ordering::Relaxed)));
        black_box(&out);
        bare.round_trip()
    };
    let mut limit = Bursts { count: 1, step: copy, undo: || Ok(()) };
    let mut ours = Bursts { count: 1, step: || server.ask(&request, None).map(drop), undo: dirty };
    compare(effort, &mut limit, &mut ours)
}
