//! S3: what the server asks for.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use vfu::Limits;
use vfu::client::{Client, ClientError, DmaMemory, Memory, READ_WRITE};
use vfu::wire::{Command, DmaMapFlags, DmaReadRequest, DmaWriteRequest, Errno, Request};
use vfu_testkit::{KitError, MessageRam, RawPeer, SharedRam, command, message, posted, within};

use crate::alone::{alone, peak};
use crate::server::{Hostile, hasty, patient, truth};

const BASE: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;
const MAX: u64 = 1 << 20;
const READ: u16 = Command::DmaRead as u16;
const WRITE: u16 = Command::DmaWrite as u16;

/// The server's end of a session, once the client has mapped its memory.
struct Asking {
    main: RawPeer,
    twin: Option<RawPeer>,
}

impl Asking {
    fn dma(&self) -> &RawPeer {
        self.twin.as_ref().unwrap_or(&self.main)
    }

    /// Agrees on a session, and answers the first commands of the client honestly.
    fn begin(main: RawPeer, twin: bool, commands: usize) -> Result<Asking, KitError> {
        let (ours, theirs) = RawPeer::pair()?;
        if twin {
            let json = r#"{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}"#;
            main.answer_handshake(json, &[theirs.as_fd()])?;
        } else {
            main.answer_handshake(crate::server::JSON, &[])?;
        }
        for _ in 0..commands {
            let request = main.recv()?;
            main.send(&request.reply(&truth(&request)))?;
        }
        Ok(Asking { main, twin: twin.then_some(ours) })
    }

    /// The session is alive and in sync: a command is answered, and so is one of the client.
    fn works(&self) -> Result<(), KitError> {
        let read = DmaReadRequest { address: BASE, count: 4 };
        let reply = self.dma().call(0x7777, &Request::DmaRead(read))?;
        assert_eq!(reply.errno(), None);
        Ok(())
    }
}

fn numbers(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn with_data(words: &[u64], data: &[u8]) -> Vec<u8> {
    [&numbers(words), data].concat()
}

/// What the client maps: pages that the server may read and write, read only, write only; a hole;
/// a file; an announcement without memory; and the very last page.
fn map_all(client: &Client) -> Arc<MessageRam> {
    let ram = Arc::new(MessageRam::new(BASE, 3 * PAGE as usize));
    let last = Arc::new(MessageRam::new(u64::MAX - 0xfff, PAGE as usize));
    let memory = || Memory::Messages(ram.clone());
    client.dma_map(BASE, PAGE, READ_WRITE, memory()).unwrap();
    client.dma_map(BASE + PAGE, PAGE, DmaMapFlags::READ, memory()).unwrap();
    client.dma_map(BASE + 2 * PAGE, PAGE, DmaMapFlags::WRITE, memory()).unwrap();
    let file = SharedRam::new(BASE + 4 * PAGE, PAGE).unwrap();
    client.dma_map(BASE + 4 * PAGE, PAGE, READ_WRITE, Memory::File(file.as_fd(), 0)).unwrap();
    client.dma_map(BASE + 5 * PAGE, PAGE, READ_WRITE, Memory::Nothing).unwrap();
    client.dma_map(u64::MAX - 0xfff, PAGE, READ_WRITE, Memory::Messages(last)).unwrap();
    ram
}
const MAPS: usize = 6;

/// Commands, and the errno that each must get.
fn lies() -> Vec<(&'static str, u16, Vec<u8>, Errno)> {
    use Errno as E;
    let end = BASE + 3 * PAGE;
    let mut lies = vec![
        ("read: nothing is mapped", READ, numbers(&[0x5000, 4]), E::EFAULT),
        ("read: behind the end", READ, numbers(&[end, 1]), E::EFAULT),
        ("read: before the beginning", READ, numbers(&[BASE - 1, 1]), E::EFAULT),
        ("read: into memory from before", READ, numbers(&[BASE - 1, 2]), E::EFAULT),
        ("read: out of memory", READ, numbers(&[BASE + 2 * PAGE - 1, 2]), E::EPERM),
        ("read: write only", READ, numbers(&[BASE + 2 * PAGE, 4]), E::EPERM),
        ("read: a file", READ, numbers(&[BASE + 4 * PAGE, 4]), E::EFAULT),
        ("read: nothing behind it", READ, numbers(&[BASE + 5 * PAGE, 4]), E::EFAULT),
        ("read: wraps", READ, numbers(&[u64::MAX - 7, 16]), E::EINVAL),
        ("read: all of it wraps", READ, numbers(&[u64::MAX, 2]), E::EINVAL),
        ("read: more than can be", READ, numbers(&[BASE, MAX + 1]), E::E2BIG),
        ("read: 2^32", READ, numbers(&[BASE, 1 << 32]), E::E2BIG),
        ("read: 2^63", READ, numbers(&[BASE, 1 << 63]), E::E2BIG),
        ("read: 2^64 - 1", READ, numbers(&[BASE, u64::MAX]), E::EINVAL),
        ("write: nothing is mapped", WRITE, with_data(&[0x5000, 4], b"evil"), E::EFAULT),
        ("write: read only", WRITE, with_data(&[BASE + PAGE, 4], b"evil"), E::EPERM),
        ("write: into read only", WRITE, with_data(&[BASE + PAGE - 2, 4], b"evil"), E::EPERM),
        ("write: out of memory", WRITE, with_data(&[end - 2, 4], b"evil"), E::EFAULT),
        ("write: a file", WRITE, with_data(&[BASE + 4 * PAGE, 4], b"evil"), E::EFAULT),
        ("write: wraps", WRITE, with_data(&[u64::MAX - 1, 4], b"evil"), E::EINVAL),
        ("write: less data than it says", WRITE, with_data(&[BASE, 5], b"evil"), E::EINVAL),
        ("write: more data than it says", WRITE, with_data(&[BASE, 3], b"evil"), E::EINVAL),
        ("write: 2^64 - 1 bytes", WRITE, with_data(&[BASE, u64::MAX], b"evil"), E::EINVAL),
        ("write: none of its data", WRITE, numbers(&[BASE, 4]), E::EINVAL),
    ];
    for len in 0..16 {
        lies.push(("read: cut short", READ, vec![0; len], E::EINVAL));
        lies.push(("write: cut short", WRITE, vec![0; len], E::EINVAL));
    }
    for number in (0..=18).filter(|n| ![READ, WRITE].contains(n)).chain([19, 255, 0xffff]) {
        for len in [0, 16, 40] {
            lies.push(("no command of a server", number, vec![0; len], E::ENOTSUP));
        }
    }
    lies
}

/// Runs a script against a client that has mapped its memory, and gives that memory.
fn against_client(
    twin: bool,
    script: impl FnOnce(&Asking) -> Result<(), KitError> + Send + 'static,
) -> Arc<MessageRam> {
    let (mapped, wait) = channel();
    let server = Hostile::new(move |main| {
        let server = Asking::begin(main, twin, MAPS)?;
        let done = script(&server);
        // Or the end on the twin could come before the last reply on the other socket.
        let _client_has_gone = wait.recv();
        done
    });
    let client = patient().twin_socket(twin).connect(server.path()).unwrap();
    let ram = map_all(&client);
    mapped.send(()).unwrap();
    server.finish();
    ram
}

#[test]
fn s03_dma_that_is_not_allowed() {
    alone!(|| {
        for twin in [false, true] {
            let ram = against_client(twin, |server| {
                for (what, number, payload, errno) in lies() {
                    server.dma().send(&message(7, number, 0, &payload))?;
                    let reply = server.dma().recv()?;
                    assert_eq!(reply.errno(), Some(errno), "{what}: {number}, {payload:x?}");
                    assert_eq!((reply.header.id, reply.header.command), (7, number), "{what}");
                    assert!(reply.payload.is_empty(), "{what}");
                    // And without a reply: nothing is said.
                    server.dma().send(&message(8, number, 0x10, &payload))?;
                }
                server.works()
            });
            assert_eq!(ram.writes(), 0);
            assert_eq!(ram.bytes(BASE, 3 * PAGE as usize).unwrap(), [0; 3 * PAGE as usize]);
        }
    });
}

#[test]
fn s03_dma_that_is_odd_and_allowed() {
    alone!(|| {
        for twin in [false, true] {
            let ram = against_client(twin, |server| {
                let good = [
                    (READ, numbers(&[0x5000, 0])),
                    (WRITE, numbers(&[0x5000, 0])),
                    (READ, numbers(&[u64::MAX, 1])),
                    (READ, numbers(&[BASE, 2 * PAGE])),
                    (WRITE, with_data(&[u64::MAX - 3, 4], b"last")),
                    (WRITE, with_data(&[BASE + 4, 4], b"good")),
                ];
                for (number, payload) in good {
                    server.dma().send(&message(7, number, 0, &payload))?;
                    assert_eq!(server.dma().recv()?.errno(), None, "{payload:x?}");
                }
                server.works()
            });
            assert_eq!(ram.bytes(BASE + 4, 4).unwrap(), b"good");
        }
    });
}

#[test]
fn s03_dma_after_the_unmap() {
    alone!(|| {
        for twin in [false, true] {
            let (unmapped, wait) = channel();
            let server = Hostile::new(move |main| {
                let server = Asking::begin(main, twin, MAPS + 1)?;
                wait.recv().unwrap();
                let write = DmaWriteRequest { address: BASE, data: b"late" };
                let late = server.dma().call(1, &Request::DmaWrite(write))?;
                assert_eq!(late.errno(), Some(Errno::EFAULT));
                Ok(())
            });
            let client = patient().twin_socket(twin).connect(server.path()).unwrap();
            let ram = map_all(&client);
            client.dma_unmap(BASE, PAGE).unwrap();
            unmapped.send(()).unwrap();
            server.finish();
            assert_eq!(ram.writes(), 0);
        }
    });
}

#[test]
fn s03_descriptors_with_commands() {
    alone!(|| {
        for twin in [false, true] {
            let ram = against_client(twin, |server| {
                let file = SharedRam::new(0, PAGE)?;
                let fds = vec![file.as_fd(); 253];
                let write = DmaWriteRequest { address: BASE, data: b"evil" };
                for id in 0..50 {
                    for fds in [&fds[..1], &fds] {
                        let reply = server.dma().call_with(id, &Request::DmaWrite(write), fds)?;
                        assert_eq!(reply.errno(), Some(Errno::EINVAL));
                    }
                    server.dma().send_with(&posted(id, &Request::DmaWrite(write)), &fds)?;
                    server.dma().send_with(&message(id, 0xffff, 0x10, &[]), &fds)?;
                }
                server.works()
            });
            assert_eq!(ram.writes(), 0);
        }
    });
}

/// Memory that is written to as long as the unmap has not returned, but not for ever.
#[derive(Default)]
struct Slow {
    unmapped: Mutex<bool>,
    changed: Condvar,
    stale: AtomicBool,
}

impl DmaMemory for Slow {
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        let unmapped = self.unmapped.lock().unwrap();
        let a_moment = Duration::from_millis(10);
        let (unmapped, _) =
            self.changed.wait_timeout_while(unmapped, a_moment, |unmapped| !*unmapped).unwrap();
        self.stale.fetch_or(*unmapped, Ordering::SeqCst);
        Ok(())
    }
}

/// Writes right behind the reply to the unmap: what has begun ends before `dma_unmap` does.
#[test]
fn s03_dma_while_the_unmap_returns() {
    alone!(|| {
        for round in 0..20 {
            let twin = round % 2 == 0;
            let server = Hostile::new(move |main| {
                let server = Asking::begin(main, twin, 1)?;
                let request = server.main.recv()?;
                let write = DmaWriteRequest { address: BASE, data: b"late" };
                let late = posted(1, &Request::DmaWrite(write)).repeat(3);
                server.main.send(&request.reply(&truth(&request)))?;
                server.dma().send(&late)?;
                while server.main.recv().is_ok() {}
                Ok(())
            });
            let client = patient().twin_socket(twin).connect(server.path()).unwrap();
            let slow = Arc::new(Slow::default());
            client.dma_map(BASE, PAGE, READ_WRITE, Memory::Messages(slow.clone())).unwrap();
            client.dma_unmap(BASE, PAGE).unwrap();
            *slow.unmapped.lock().unwrap() = true;
            slow.changed.notify_all();
            drop(client);
            server.finish();
            assert!(!slow.stale.load(Ordering::SeqCst), "written to after it was unmapped");
        }
    });
}

/// In VERSION's place, and before it.
#[test]
fn s03_commands_before_the_version_reply() {
    alone!(|| {
        let early = DmaReadRequest { address: BASE, count: 4 };
        let early = command(1, &Request::DmaRead(early));
        for (twin, times) in [(false, 1), (true, 1), (false, 10_000), (true, 10_000)] {
            let many = early.repeat(times);
            let server = Hostile::new(move |peer| {
                let request = peer.recv()?;
                // More than it takes: then nobody reads on.
                let _left = peer.send(&many);
                let _left = peer.send(&request.reply(b"\0\0\0\0{}\0"));
                while peer.recv().is_ok() {}
                Ok(())
            });
            let builder = if times == 1 { patient() } else { hasty() };
            let connected = builder.twin_socket(twin).connect(server.path());
            match (times, connected) {
                (1, Err(ClientError::Handshake(why))) => assert!(why.contains("before"), "{why}"),
                (10_000, Err(ClientError::TimedOut(Command::Version))) => {}
                (10_000, Err(ClientError::Ended(_) | ClientError::Handshake(_))) => {}
                (_, other) => panic!("{times} commands: {other:?}"),
            }
        }
    });
}

/// A million writes that want no reply: all are done, and never are more than a few in memory.
#[test]
fn s03_flood_of_posted_writes() {
    alone!(|| {
        for twin in [false, true] {
            let before = peak();
            let ram = against_client(twin, |server| {
                let write = DmaWriteRequest { address: BASE, data: b"wave" };
                let wave = posted(1, &Request::DmaWrite(write)).repeat(1000);
                for _ in 0..1000 {
                    server.dma().send(&wave)?;
                }
                server.works()
            });
            assert_eq!(ram.writes(), 1_000_000);
            assert!(peak() < before + (32 << 20), "{} bytes more", peak() - before);
        }
    });
}

/// Reads whose data the server leaves unread: they are not done for ever.
#[test]
fn s03_flood_of_reads_that_nobody_wants() {
    alone!(|| {
        for twin in [false, true] {
            for calling in [false, true] {
                unread(twin, calling);
            }
        }
    });
}

fn unread(twin: bool, calling: bool) {
    let before = peak();
    let server = Hostile::new(move |main| {
        let server = Asking::begin(main, twin, 1)?;
        let read = DmaReadRequest { address: BASE, count: MAX };
        let read = command(1, &Request::DmaRead(read));
        // Until the client has enough.
        while server.dma().send(&read).is_ok() {}
        Ok(())
    });
    let patience = Duration::from_millis(300);
    let limits = Limits { send_timeout: Some(patience), reply_timeout: None, ..Limits::default() };
    let client = patient().limits(limits).twin_socket(twin).connect(server.path()).unwrap();
    let ram = Arc::new(MessageRam::new(BASE, MAX as usize));
    client.dma_map(BASE, MAX, READ_WRITE, Memory::Messages(ram)).unwrap();
    let watching = client.clone();
    let ended = within("the end of the session", move || {
        if calling {
            return watching.device_info().map(drop).unwrap_err().to_string();
        }
        loop {
            match watching.closed() {
                Some(why) => return why.to_string(),
                None => std::thread::yield_now(),
            }
        }
    });
    assert!(ended.contains("unread"), "{ended}");
    assert!(peak() < before + (64 << 20), "{} bytes more", peak() - before);
}
