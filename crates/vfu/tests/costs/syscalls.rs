//! System calls of each end.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use nix::libc::{SYS_ppoll, SYS_recvmsg, SYS_sendmsg, SYS_sendto, SYS_write};
use vfu::client::{Client, Memory, READ_WRITE};

use crate::roles::{self, GOODBYE, PLAIN, Step};
use crate::trace::{Calls, Skip, count, difference};
use crate::{Outcome, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a_server_that_waits_makes_two_calls", a_server_that_waits_makes_two_calls),
    ("a_server_in_a_loop_makes_two_calls", a_server_in_a_loop_makes_two_calls),
    ("a_client_makes_two_calls", a_client_makes_two_calls),
    ("a_posted_write_is_one_call", a_posted_write_is_one_call),
    ("direct_dma_makes_no_call", direct_dma_makes_no_call),
    ("message_dma_makes_two_calls", message_dma_makes_two_calls),
    ("an_interrupt_is_one_call", an_interrupt_is_one_call),
];

/// Accesses that are counted. Few enough to wait in a socket, should their reader be slow.
const N: u32 = 50;

/// The calls of a child in a role, while `peer` has the other end of its session.
fn calls(role: &str, peer: impl FnOnce(OwnedFd) + Send + 'static) -> Result<Calls, Skip> {
    let (session, theirs) = UnixStream::pair().unwrap();
    let (mut control, its) = UnixStream::pair().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(roles::VARIABLE, role)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(OwnedFd::from(its)))
        .spawn()
        .unwrap();
    control.read_exact(&mut [0]).unwrap();
    let mut at_work = None;
    let mut calls = count(child.id(), || {
        at_work = Some(thread::spawn(|| peer(session.into())));
        control.write_all(b"g").unwrap();
    });
    match at_work {
        Some(peer) => peer.join().unwrap(),
        None => {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    // Two names for one thing.
    if let Ok(calls) = &mut calls {
        if let Some(sends) = calls.remove(&SYS_sendto) {
            *calls.entry(SYS_sendmsg).or_default() += sends;
        }
    }
    calls
}

/// What a server's calls are when a client does something so many times.
fn of_server(
    role: &'static str,
    twin: bool,
    act: impl Fn(&Client, u32) + Copy + Send + 'static,
) -> impl Fn(u32) -> Result<Calls, Skip> {
    move |times| {
        calls(role, move |socket| {
            let client = roles::client(socket, twin);
            act(&client, times);
            client.region_write(0, PLAIN, &GOODBYE.to_le_bytes()).unwrap();
        })
    }
}

/// What a client's calls are when it does something so many times.
fn of_client(socket: &str, step: Step) -> impl Fn(u32) -> Result<Calls, Skip> {
    move |times| {
        let role = format!("client {socket} {step:?} {times}");
        calls(&role, |socket| roles::server(socket).run().unwrap())
    }
}

/// Checks that each of N repetitions adds just these calls.
///
/// Chance can add one to either run: how much of the set-up comes at once, and, with a twin socket, a pause as on a
/// busy machine, which costs a look at it. So it is enough that one try shows these calls: others never could.
#[track_caller]
fn assert_each(
    what: &str,
    measure: impl Fn(u32) -> Result<Calls, Skip>,
    expected: &[i64],
) -> Outcome {
    let expected: Calls = expected.iter().map(|number| (*number, i64::from(N))).collect();
    let mut added = difference(&measure(N)?, &measure(2 * N)?);
    let mut tries = 1;
    while added != expected && tries < TRIES {
        added = difference(&measure(N)?, &measure(2 * N)?);
        tries += 1;
    }
    assert_eq!(added, expected, "{what}: calls by number that {N} repetitions add");
    Ok(())
}

const ACCESSES: [Step; 4] = [Step::Read, Step::Write, Step::ReadPage, Step::WritePage];

const TRIES: u32 = 20;

const TWIN: &str = "twin";

fn a_server_that_waits_makes_two_calls() -> Outcome {
    for twin in [false, true] {
        for step in ACCESSES {
            let what = format!("{step:?}, {}", if twin { TWIN } else { "single" });
            let server = of_server("run", twin, move |client, times| step.repeat(client, times));
            assert_each(&what, server, &[SYS_recvmsg, SYS_sendmsg])?;
        }
    }
    Ok(())
}

/// And the loop's own poll.
fn a_server_in_a_loop_makes_two_calls() -> Outcome {
    for twin in [false, true] {
        for step in ACCESSES {
            let what = format!("{step:?}, {}", if twin { TWIN } else { "single" });
            let server = of_server("loop", twin, move |client, times| step.repeat(client, times));
            let expected = [SYS_ppoll, SYS_recvmsg, SYS_sendmsg];
            assert_each(&what, server, &expected)?;
        }
    }
    Ok(())
}

/// The server may ask on the twin socket before it answers on the main one. A thread waits for that
/// when a client goes on asking.
fn a_client_makes_two_calls() -> Outcome {
    for (step, socket) in ACCESSES.iter().flat_map(|step| [(*step, "single"), (*step, TWIN)]) {
        let client = of_client(socket, step);
        assert_each(&format!("{step:?}, {socket}"), client, &[SYS_recvmsg, SYS_sendmsg])?;
    }
    Ok(())
}

/// One send for the client. For the server at most one receive: it takes what has come.
fn a_posted_write_is_one_call() -> Outcome {
    for twin in [false, true] {
        let socket = if twin { TWIN } else { "single" };
        assert_each(socket, of_client(socket, Step::Posted), &[SYS_sendmsg])?;
        let post = |client: &Client, times| Step::Posted.repeat(client, times);
        let server = of_server("run", twin, post);
        let mut added = difference(&server(0)?, &server(N)?);
        let receives = added.remove(&SYS_recvmsg).unwrap_or(0);
        assert!((0..=i64::from(N)).contains(&receives), "{receives} receives for {N} writes");
        assert_eq!(added, Calls::new(), "server: other calls");
    }
    Ok(())
}

fn direct_dma_makes_no_call() -> Outcome {
    let dma = |client: &Client, times| roles::work(client, roles::DMA, times);
    assert_each("DMA", of_server("run", false, dma), &[])
}

/// One send and one receive, in a handler: nobody can take back what it waits for but by that receive.
fn message_dma_makes_two_calls() -> Outcome {
    let dma = |client: &Client, times| {
        let memory = Memory::Messages(Arc::new(roles::Zeros));
        client.dma_unmap_all().unwrap();
        client.dma_map(roles::RAM, roles::RAM_SIZE, READ_WRITE, memory).unwrap();
        roles::work(client, roles::DMA, times);
    };
    let server = of_server("run", false, dma);
    let added = difference(&server(N)?, &server(2 * N)?);
    let each = 2 * i64::from(N); // a read and a write
    let expected = Calls::from([(SYS_recvmsg, each), (SYS_sendmsg, each)]);
    assert_eq!(added, expected, "calls by number that {N} reads and {N} writes add");
    Ok(())
}

fn an_interrupt_is_one_call() -> Outcome {
    let interrupt = |client: &Client, times| roles::work(client, roles::INTERRUPT, times);
    assert_each("interrupt", of_server("run", false, interrupt), &[SYS_write])
}
