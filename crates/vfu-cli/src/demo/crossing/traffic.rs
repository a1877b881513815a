//! A client that reads registers while the device's threads move memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};
use vfu::DmaError;
use vfu::client::{Memory, READ_WRITE};
use vfu_devices::dmatest::{self, command, register};
use vfu_testkit::MessageRam;

use super::super::stage::Seen;
use super::rig::{BAR, PAGE, RAM, RAM_SIZE, Rig, pattern, rate};

/// Memory that is unmapped now and then.
const GUEST: u64 = 0x800_0000;
const GUEST_SIZE: usize = 16 * PAGE;
/// Where the copies on command begin and end.
const COPY_FROM: u64 = RAM + 8 * PAGE as u64;
const COPY_TO: u64 = RAM + 9 * PAGE as u64;
/// A copy takes far less; this is for when it never ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// The rate of reads by themselves.
pub(super) fn alone(rig: &Rig, time: Duration) -> anyhow::Result<Seen> {
    let rate = read_until(rig, time, &Stop::expecting(0))?;
    Ok(Seen::from(format!("{rate:.0} reads/s")).figure("reads_per_s", rate))
}

/// Reads while two threads of the device write and read back, and the client has it copy.
pub(super) fn crossing(rig: &Rig, time: Duration) -> anyhow::Result<Seen> {
    let (messages, end) = (messages(&rig.ram), Stop::expecting(3));
    let began = Instant::now();
    let (moved, copies, reads) = thread::scope(|scope| {
        let engines = [0, 1].map(|n| {
            let end = &end;
            scope.spawn(move || {
                let _others_end_too = end.guard();
                engine(rig, RAM + n * PAGE as u64, end, |_| false)
            })
        });
        let copier = scope.spawn(|| {
            let _others_end_too = end.guard();
            copy_on_command(rig, &end)
        });
        let reads = read_until(rig, time, &end);
        let moved = engines.map(|engine| joined(engine.join()));
        let copies = joined(copier.join())?;
        let [a, b] = moved;
        Ok::<_, anyhow::Error>((a?.moved + b?.moved, copies, reads?))
    })?;
    let sent = moved + 2 * copies;
    let writes = rate(sent, began.elapsed());
    let arrived = self::messages(&rig.ram) - messages;
    ensure!(arrived == sent, "the device sent {sent} messages, {arrived} arrived");
    rig.is_sound()?;
    let text = format!(
        "{reads:.0} reads/s and {writes:.0} DMA messages/s ({sent} sent, {arrived} arrived, \
         {copies} copies on command), all bytes right"
    );
    Ok(Seen::from(text)
        .figure("reads_per_s", reads)
        .figure("dma_messages_per_s", writes)
        .figure("dma_messages_sent", sent)
        .figure("dma_messages_arrived", arrived)
        .figure("copies", copies))
}

/// The same while the device is reset and loses memory, again and again.
pub(super) fn disturbed(rig: &Rig, time: Duration) -> anyhow::Result<Seen> {
    let end = Stop::expecting(3);
    let guest = Arc::new(MessageRam::new(GUEST, GUEST_SIZE));
    map(rig, &guest)?;
    let (engines, disturber, reads) = thread::scope(|scope| {
        let engines = [RAM, GUEST].map(|at| {
            let end = &end;
            scope.spawn(move || {
                let _others_end_too = end.guard();
                engine(rig, at, end, |error| match error {
                    DmaError::Canceled | DmaError::BusMasterDisabled => true,
                    DmaError::NotMapped { .. } => at == GUEST,
                    _ => false,
                })
            })
        });
        let disturber = scope.spawn(|| {
            let _others_end_too = end.guard();
            disturb(rig, &guest, &end)
        });
        let reads = read_until(rig, time, &end);
        let engines = engines.map(|engine| joined(engine.join()));
        let disturber = joined(disturber.join())?;
        let [a, b] = engines;
        Ok::<_, anyhow::Error>((a?.plus(&b?), disturber, reads?))
    })?;
    rig.vmm.client().dma_unmap(GUEST, GUEST_SIZE as u64)?;
    rig.is_sound()?;
    let Engine { moved, canceled, .. } = engines;
    let Disturbed { resets, unmaps, longest } = disturber;
    let longest = longest.as_secs_f64() * 1e3;
    let text = format!(
        "{reads:.0} reads/s, {resets} resets and {unmaps} unmaps, the longest {longest:.1} ms; \
         {moved} transfers, all bytes right, {canceled} canceled"
    );
    Ok(Seen::from(text)
        .figure("reads_per_s", reads)
        .figure("resets", resets)
        .figure("unmaps", unmaps)
        .figure("longest_ms", longest)
        .figure("transfers", moved)
        .figure("canceled", canceled))
}

/// Ends all threads when one of them ends, well or not.
struct Stop {
    set: AtomicBool,
    /// Threads that have not yet done what they do even once.
    beginning: AtomicUsize,
}

impl Stop {
    fn expecting(threads: usize) -> Stop {
        Stop { set: AtomicBool::new(false), beginning: AtomicUsize::new(threads) }
    }

    fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    /// One thread more has got something done.
    fn begun(&self) {
        self.beginning.fetch_sub(1, Ordering::Relaxed);
    }

    fn have_all_begun(&self) -> bool {
        self.beginning.load(Ordering::Relaxed) == 0
    }

    fn guard(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a Stop);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.set.store(true, Ordering::Relaxed);
            }
        }
        Guard(self)
    }
}

fn joined<T>(result: thread::Result<anyhow::Result<T>>) -> anyhow::Result<T> {
    result.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}

fn messages(ram: &MessageRam) -> u64 {
    ram.reads() + ram.writes()
}

/// Reads for `time`, and until all others have got something done; or until one of them ends. Then has
/// all of them end. Gives the reads per second.
fn read_until(rig: &Rig, time: Duration, end: &Stop) -> anyhow::Result<f64> {
    let _all_end = end.guard();
    let (began, mut reads) = (Instant::now(), 0);
    while reads == 0 || (began.elapsed() < time || !end.have_all_begun()) && !end.is_set() {
        let id = rig.vmm.read32(BAR, register::IDENTIFICATION)?;
        ensure!(id == dmatest::IDENTIFICATION, "read {id:#010x}");
        reads += 1;
    }
    Ok(rate(reads, began.elapsed()))
}

/// What a thread of the device has done.
#[derive(Default)]
struct Engine {
    /// Transfers that ended well.
    moved: u64,
    /// Those that the client ended.
    canceled: u64,
}

impl Engine {
    fn plus(self, other: &Engine) -> Engine {
        Engine { moved: self.moved + other.moved, canceled: self.canceled + other.canceled }
    }

    /// Whether it ended well; an error that is no surprise is counted.
    fn count(
        &mut self,
        result: Result<(), DmaError>,
        expected: impl Fn(&DmaError) -> bool,
    ) -> anyhow::Result<bool> {
        match result {
            Ok(()) => self.moved += 1,
            Err(error) if expected(&error) => {
                self.canceled += 1;
                thread::yield_now();
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }
}

/// A thread of the device: writes a page, reads it back, compares.
fn engine(
    rig: &Rig,
    at: u64,
    end: &Stop,
    expected: impl Fn(&DmaError) -> bool,
) -> anyhow::Result<Engine> {
    let (dma, mut done, mut back) = (rig.handle.dma(), Engine::default(), [0; PAGE]);
    let mut begun = false;
    for round in 0.. {
        if end.is_set() {
            break;
        }
        let page = pattern(round ^ at);
        if done.count(dma.write(at, &page), &expected)?
            && done.count(dma.read(at, &mut back), &expected)?
            && back != page
        {
            bail!("the page at {at:#x} is not what was written there");
        }
        if !begun && done.moved > 0 {
            begun = true;
            end.begun();
        }
    }
    Ok(done)
}

/// The client's side of copies: by turns on the device's thread and in the handler of a posted
/// write. Gives how many.
fn copy_on_command(rig: &Rig, end: &Stop) -> anyhow::Result<u64> {
    let vmm = &rig.vmm;
    let post = |offset, value: u64, len: usize| {
        vmm.client().region_write_posted(BAR, offset, &value.to_le_bytes()[..len])
    };
    post(register::SOURCE, COPY_FROM, 8)?;
    post(register::DESTINATION, COPY_TO, 8)?;
    post(register::LENGTH, PAGE as u64, 4)?;
    let mut copies = 0;
    while !end.is_set() {
        let page = pattern(copies);
        rig.ram.store(COPY_FROM, &page).ok_or_else(|| anyhow!("no such memory"))?;
        let before = vmm.read32(BAR, register::COUNT)?;
        let place = [command::ON_THREAD, command::IN_HANDLER][copies as usize % 2];
        post(register::COMMAND, place.into(), 4)?;
        let began = Instant::now();
        while vmm.read32(BAR, register::COUNT)? == before {
            ensure!(began.elapsed() < PATIENCE, "a copy does not end");
        }
        let errno = vmm.read32(BAR, register::ERRNO)?;
        ensure!(errno == 0, "a copy ended with errno {errno}");
        let copied = rig.ram.bytes(COPY_TO, PAGE).unwrap_or_default();
        let right = copied.iter().zip(&page).all(|(to, from)| *to == !from);
        ensure!(right && copied.len() == PAGE, "copy {copies} is not what was to be copied");
        copies += 1;
        if copies == 1 {
            end.begun();
        }
    }
    Ok(copies)
}

/// What the client did to the device.
struct Disturbed {
    resets: u64,
    unmaps: u64,
    /// The longest that one of them took.
    longest: Duration,
}

fn disturb(rig: &Rig, guest: &Arc<MessageRam>, end: &Stop) -> anyhow::Result<Disturbed> {
    let mut done = Disturbed { resets: 0, unmaps: 0, longest: Duration::ZERO };
    while !end.is_set() {
        let began = Instant::now();
        if done.resets > done.unmaps {
            let size = rig.vmm.client().dma_unmap(GUEST, GUEST_SIZE as u64)?;
            ensure!(size == GUEST_SIZE as u64, "{size} bytes were unmapped");
            done.unmaps += 1;
            if done.unmaps == 1 {
                end.begun();
            }
        } else {
            rig.vmm.client().reset()?;
            done.resets += 1;
        }
        done.longest = done.longest.max(began.elapsed());
        thread::sleep(Duration::from_micros(500)); // what comes meanwhile is refused
        if done.resets > done.unmaps {
            rig.vmm.set_bus_master(true)?;
        } else {
            map(rig, guest)?;
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(done)
}

fn map(rig: &Rig, guest: &Arc<MessageRam>) -> anyhow::Result<()> {
    let memory = Memory::Messages(guest.clone());
    rig.vmm.client().dma_map(GUEST, GUEST_SIZE as u64, READ_WRITE, memory)?;
    Ok(())
}

const _: () = assert!(10 * PAGE <= RAM_SIZE);
