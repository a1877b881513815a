//! Allocations of each end, once it has got into its stride.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use allocation_counter::{AllocationInfo, measure};
use rustix::event::{PollFd, PollFlags, poll};
use vfu::Server;
use vfu::client::{Client, Memory, READ_WRITE};
use vfu::regmap::{RegisterBank, RegisterDevice};
use vfu::server::Running;

use crate::roles::{self, MESSAGES, MESSAGES_SIZE, RAM, Registers, Step, Zeros};
use crate::{Outcome, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a_client_allocates_nothing", a_client_allocates_nothing),
    ("run_allocates_nothing", run_allocates_nothing),
    ("process_allocates_nothing", process_allocates_nothing),
    ("a_burst_allocates_nothing", a_burst_allocates_nothing),
    ("direct_dma_allocates_nothing", direct_dma_allocates_nothing),
    ("message_dma_allocates_nothing", message_dma_allocates_nothing),
    ("an_interrupt_allocates_nothing", an_interrupt_allocates_nothing),
    ("a_register_map_allocates_nothing", a_register_map_allocates_nothing),
];

/// Repetitions before counting begins.
const WARM_UP: u32 = 8;
/// Repetitions that are counted.
const N: u32 = 50;

/// Each waits for its reply, so they come one at a time.
const STEPS: [Step; 4] = [Step::Read, Step::Write, Step::ReadPage, Step::WritePage];

fn pair() -> (OwnedFd, OwnedFd) {
    let (a, b) = UnixStream::pair().unwrap();
    (a.into(), b.into())
}

fn both(twin: bool) -> (Running<Registers>, Client) {
    let (ours, theirs) = pair();
    (roles::server(theirs).spawn(), roles::client(ours, twin))
}

/// Allocations and frees, of this thread.
fn counts(info: AllocationInfo) -> (i64, i64) {
    let allocated = info.count_total as i64;
    (allocated, allocated - info.count_current)
}

/// Allocations and frees of this thread in N repetitions after some to warm up.
///
/// A session keeps the buffers of as many messages as were out at once, each with room for the largest that was
/// in it. A thread that is late to give one back has it make another, or that one grow later, on whichever thread receives:
/// once, and not for each message. So it is enough that one of a few tries shows none.
fn steady(mut repeat: impl FnMut(u32)) -> (i64, i64) {
    repeat(WARM_UP);
    let mut counted = counts(measure(|| repeat(N)));
    for _ in 0..2 {
        if counted != (0, 0) {
            counted = counts(measure(|| repeat(N)));
        }
    }
    counted
}

fn a_client_allocates_nothing() -> Outcome {
    for twin in [false, true] {
        let (_server, client) = both(twin);
        for step in STEPS.into_iter().chain([Step::Posted]) {
            let counted = steady(|times| step.repeat(&client, times));
            assert_eq!(counted, (0, 0), "{step:?}, twin {twin}");
        }
    }
    Ok(())
}

/// Counted from the first command to the end of the session, for two lengths of it.
fn run_allocates_nothing() -> Outcome {
    for (twin, step) in [false, true].into_iter().flat_map(|twin| STEPS.map(|step| (twin, step))) {
        let session = |times| {
            let (ours, theirs) = pair();
            let server = thread::spawn(move || {
                let mut server = roles::server(theirs);
                counts(measure(|| server.run().unwrap()))
            });
            let client = roles::client(ours, twin);
            step.repeat(&client, times);
            drop(client);
            server.join().unwrap()
        };
        assert_eq!(session(WARM_UP), session(WARM_UP + N), "{step:?}, twin {twin}");
    }
    Ok(())
}

/// A server, of this thread, that has executed what sets a session up.
fn in_a_loop(twin: bool) -> (Server<Registers>, Client) {
    let (ours, theirs) = pair();
    let client = thread::spawn(move || roles::client(ours, twin));
    let mut server = roles::server(theirs);
    while !client.is_finished() {
        server.process().unwrap();
    }
    (server, client.join().unwrap())
}

/// Waits as an event loop does, and executes so many commands. Allocations and frees of that.
fn process(server: &mut Server<Registers>, commands: u32) -> (i64, i64) {
    let (mut left, mut counted) = (commands as usize, (0, 0));
    while left > 0 {
        let fd = server.poll_fd().unwrap();
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None).unwrap();
        let (allocated, freed) = counts(measure(|| left -= server.process().unwrap()));
        counted = (counted.0 + allocated, counted.1 + freed);
    }
    counted
}

fn process_allocates_nothing() -> Outcome {
    for (twin, step) in [false, true].into_iter().flat_map(|twin| STEPS.map(|step| (twin, step))) {
        let (mut server, client) = in_a_loop(twin);
        let client = thread::spawn(move || {
            step.repeat(&client, WARM_UP + N);
            client
        });
        process(&mut server, WARM_UP);
        let counted = process(&mut server, N);
        assert_eq!(counted, (0, 0), "{step:?}, twin {twin}");
        client.join().unwrap();
    }
    Ok(())
}

/// Many writes that come at once, as often as they like.
fn a_burst_allocates_nothing() -> Outcome {
    for twin in [false, true] {
        let (mut server, client) = in_a_loop(twin);
        let mut burst = || {
            Step::Posted.repeat(&client, N);
            process(&mut server, N)
        };
        burst();
        assert_eq!((burst(), burst()), ((0, 0), (0, 0)), "twin {twin}");
    }
    Ok(())
}

fn direct_dma_allocates_nothing() -> Outcome {
    let (ours, theirs) = pair();
    let server = roles::server(theirs);
    let dma = server.handle().dma();
    let _server = server.spawn();
    let _client = roles::client(ours, true);
    let mut page = [0; 4096];
    let counted = steady(|times| {
        for _ in 0..times {
            dma.read(RAM, &mut page).unwrap();
            dma.write(RAM + 4096, &page).unwrap();
        }
    });
    assert_eq!(counted, (0, 0));
    Ok(())
}

/// On the thread that asks, whatever the length.
fn message_dma_allocates_nothing() -> Outcome {
    for (twin, len) in [(false, 4096), (true, 4096), (false, 1 << 20), (true, 1 << 20)] {
        let (ours, theirs) = pair();
        let server = roles::server(theirs);
        let dma = server.handle().dma();
        let _server = server.spawn();
        let client = roles::client(ours, twin);
        let memory = Memory::Messages(Arc::new(Zeros));
        client.dma_map(MESSAGES, MESSAGES_SIZE, READ_WRITE, memory).unwrap();
        let mut data = vec![0; len];
        let counted = steady(|times| {
            for _ in 0..times {
                dma.read(MESSAGES, &mut data).unwrap();
            }
        });
        assert_eq!(counted, (0, 0), "read of {len} bytes, twin {twin}");
        let counted = steady(|times| {
            for _ in 0..times {
                dma.write(MESSAGES, &data).unwrap();
            }
        });
        assert_eq!(counted, (0, 0), "write of {len} bytes, twin {twin}");
    }
    Ok(())
}

fn an_interrupt_allocates_nothing() -> Outcome {
    let (ours, theirs) = pair();
    let server = roles::server(theirs);
    let vector = server.handle().vector(0);
    let _server = server.spawn();
    let _client = roles::client(ours, false);
    let counted = steady(|times| (0..times).for_each(|_| vector.trigger().unwrap()));
    assert_eq!(counted, (0, 0));
    Ok(())
}

vfu::registers! {
    fn map("counted", 4096);

    0x00 PLAIN: Rw<u32>;
    0x08 WIDE: Rw<u64> { 0 FLAG: W1c; 8..=15 LEVEL: Ro; };
    0x10 STATUS: Rc<u32>;
    0x20 MANY[8; 4]: W1s<u16>;
}

/// Of any width and alignment, covered or not, from the first one on.
fn a_register_map_allocates_nothing() -> Outcome {
    let mut bank = RegisterBank::new(map());
    let mut data = [0xa5; 64];
    let mut all = || {
        for width in [1, 2, 3, 4, 8, 16, 64] {
            for offset in (0..0x40).chain([0xffc, u64::MAX - 3]) {
                let _not_covered = bank.bar_read(offset, &mut data[..width]);
                let _not_covered = bank.bar_write(offset, &data[..width]);
            }
        }
    };
    assert_eq!(counts(measure(&mut all)), (0, 0));
    assert!(!bank.uncovered().is_empty());
    Ok(())
}
