//! DMA through shared memory: a copy, and what has to be known before it.

use std::hint::black_box;

use super::inprocess::{InProcess, RAM};
use super::raw::touched;
use crate::measure::{Bulk, Effort, compare};
use crate::row::{Group, Measured, Row};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for size in [4, 4096, 1 << 20] {
        for write in [false, true] {
            let (verb, what) = (if write { "write" } else { "read" }, super::size_name(size));
            rows.push(Row::new(
                Group::DirectDma,
                format!("direct-{verb}-{what}").replace(' ', ""),
                format!("{verb} {what} of shared memory"),
                "a copy of as many bytes (memcpy)",
                move |effort| measure(effort, size, write),
            ));
        }
    }
    rows
}

fn measure(effort: Effort, size: usize, write: bool) -> anyhow::Result<Measured> {
    let ends = InProcess::start()?;
    let _ram = ends.share(2 << 20)?;
    let dma = ends.dma();
    let mut data = touched(size);
    // One way only, and downwards: there are libraries that copy upwards between such places from behind,
    // and take four times as long for it.
    let mut both = touched(2 * size);
    let (to, from) = both.split_at_mut(size);
    let mut limit = Bulk(|times| {
        for _ in 0..times {
            black_box(&mut *to).copy_from_slice(black_box(from));
        }
        Ok(())
    });
    let mut ours = Bulk(|times| {
        for _ in 0..times {
            if write { dma.write(RAM, &data)? } else { dma.read(RAM, &mut data)? }
        }
        Ok(())
    });
    compare(effort, &mut limit, &mut ours)
}
