//! S13 to S15: storms, memory that was given away, and a server that does not read.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use vfu::client::{ClientError, Memory, READ_WRITE};
use vfu::wire::{Command, DmaWriteRequest, Errno, Request};
use vfu::{IrqIndex, Limits};
use vfu_testkit::{Interrupts, MessageRam, RawPeer, SharedRam, command, within};

use crate::alone::{alone, peak};
use crate::server::{Hostile, JSON, connect, patient, truth};

const BASE: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;

/// The server signals a vector a million times, and fills its counter: the client sees that it was
/// signalled, and nothing is kept for each.
#[test]
fn s13_eventfd_storms() {
    alone!(|| {
        let before = peak();
        let server = Hostile::new(|peer| {
            peer.answer_handshake(JSON, &[])?;
            let request = peer.recv()?;
            let fd = request.fds.first().expect("an eventfd");
            for _ in 0..1_000_000 {
                rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
            }
            peer.send(&request.reply(&truth(&request)))?;
            let again = peer.recv()?;
            rustix::io::write(fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
            peer.send(&again.reply(&truth(&again)))
        });
        let client = connect(&server);
        let interrupts = Interrupts::new(1).unwrap();
        client.assign_irqs(IrqIndex::Msix, 0, &interrupts.fds()).unwrap();
        assert_eq!(interrupts.wait(0).unwrap(), 1_000_000);
        client.device_info().unwrap();
        assert_eq!(interrupts.wait(0).unwrap(), u64::MAX - 1);
        assert!(peak() < before + (16 << 20));
    });
}

/// A server that has a file keeps it: `docs/src/security.md` says so. Memory that is served by messages
/// is out of its reach after the unmap.
#[test]
fn s14_memory_after_the_unmap() {
    alone!(|| {
        let server = Hostile::new(|peer| {
            peer.answer_handshake(JSON, &[])?;
            let mut files = Vec::new();
            for _ in 0..4 {
                let mut request = peer.recv()?;
                files.append(&mut request.fds);
                peer.send(&request.reply(&truth(&request)))?;
            }
            // Both are unmapped, and the client waits for us.
            let read = peer.recv()?;
            rustix::io::pwrite(&files[0], b"kept", 0).unwrap();
            let write = DmaWriteRequest { address: BASE, data: b"evil" };
            peer.send(&command(1, &Request::DmaWrite(write)))?;
            assert_eq!(peer.recv_reply(1, Command::DmaWrite)?.errno(), Some(Errno::EFAULT));
            peer.send(&read.reply(&truth(&read)))
        });
        let client = connect(&server);
        let file = SharedRam::new(BASE + PAGE, PAGE).unwrap();
        let messages = Arc::new(MessageRam::new(BASE, PAGE as usize));
        let given = [
            (BASE, Memory::Messages(messages.clone())),
            (BASE + PAGE, Memory::File(file.as_fd(), 0)),
        ];
        for (address, memory) in given {
            client.dma_map(address, PAGE, READ_WRITE, memory).unwrap();
        }
        client.dma_unmap(BASE, PAGE).unwrap();
        client.dma_unmap(BASE + PAGE, PAGE).unwrap();
        client.device_info().unwrap();
        assert_eq!(file.bytes(BASE + PAGE, 4).unwrap(), b"kept", "shared for good");
        assert_eq!(messages.bytes(BASE, 4).unwrap(), [0; 4]);
        let said = include_str!("../../../../docs/src/security.md");
        assert!(said.contains("Shared memory is shared for good"));
    });
}

/// A client of a server that has agreed on a session, and does not read any more. The buffer of its socket has the
/// size that the system gives it, or so many bytes.
fn unread(limits: Limits, buffer: Option<usize>) -> (Hostile, vfu::Client) {
    let server = Hostile::new(|peer: RawPeer| {
        peer.answer_handshake(JSON, &[])?;
        // Until the client has gone.
        let gone = rustix::event::PollFlags::HUP;
        let mut set = [rustix::event::PollFd::from_borrowed_fd(peer.as_fd(), gone)];
        rustix::event::poll(&mut set, None).unwrap();
        Ok(())
    });
    let client = patient().limits(limits).connect(server.path()).unwrap();
    if let Some(bytes) = buffer {
        client.sockets().for_each(|s| set_socket_send_buffer_size(s, bytes).unwrap());
    }
    (server, client)
}

/// Limits of one who waits for answers for ever, but not for a server that does not read.
fn unless_unread(millis: u64) -> Limits {
    let send_timeout = Some(Duration::from_millis(millis));
    Limits { send_timeout, reply_timeout: None, ..Limits::default() }
}

/// Every way to send ends with the session, and says why.
#[test]
fn s15_a_server_that_does_not_read() {
    alone!(|| {
        type Send = fn(&vfu::Client) -> Result<(), ClientError>;
        let ways: [(&str, Send); 4] = [
            ("posted writes", |client| client.region_write_posted(0, 0, &[1; 100_000])),
            ("posted writes that share messages", |client| {
                let posted = client.posted();
                posted.write(0, 0, &[1; 8])?;
                posted.write(0, 0, &[1; 8])?;
                posted.flush()
            }),
            ("writes", |client| client.region_write(0, 0, &vec![1; 1 << 20])),
            ("a state", |client| client.write_state(&vec![1; 4 << 20])),
        ];
        // Into a small buffer not even one message fits. The system's may take a whole one, and then its answer is
        // waited for, which here may take for ever: so only those that want none fill it.
        let small = ways.into_iter().map(|way| (way, Some(4096)));
        let usual = ways[..2].iter().map(|way| (*way, None));
        for ((what, send), buffer) in small.chain(usual) {
            let before = peak();
            let (_server, client) = unread(unless_unread(60), buffer);
            let sending = client.clone();
            let ended = within(what, move || {
                loop {
                    if let Err(e) = send(&sending) {
                        return e.to_string();
                    }
                }
            });
            assert!(ended.contains("unread"), "{what}: {ended}");
            assert!(client.closed().is_some());
            assert!(matches!(client.reset(), Err(ClientError::Closed(_))));
            assert!(peak() < before + (32 << 20), "{what}: {} bytes more", peak() - before);
        }
    });
}

/// 64 threads at once: what waits to be sent is bounded for all of them together.
#[test]
fn s15_many_that_send_to_a_server_that_does_not_read() {
    alone!(|| {
        let before = peak();
        let (_server, client) = unread(unless_unread(200), Some(4096));
        let threads: Vec<_> =
            (0..64)
                .map(|_| {
                    let client = client.clone();
                    std::thread::spawn(move || {
                        while client.region_write_posted(0, 0, &[1; 500_000]).is_ok() {}
                    })
                })
                .collect();
        within("all of them", move || threads.into_iter().for_each(|t| t.join().unwrap()));
        // 8 MiB and a message of each thread, and as much again for the threads themselves.
        assert!(peak() < before + (96 << 20), "{} bytes more", peak() - before);
    });
}

/// Who waits for answers for a time waits no longer for room to ask; even if the server may leave unread
/// what it likes.
#[test]
fn s15_no_room_in_time() {
    alone!(|| {
        let reply_timeout = Some(Duration::from_millis(200));
        let limits =
            Limits { reply_timeout, send_timeout: None, unsent_bytes: 4096, ..Limits::default() };
        let (_server, client) = unread(limits, Some(4096));
        let ended = within("every call", move || {
            let calls = [
                client.region_write(0, 0, &vec![1; 1 << 20]),
                client.region_read(0, 0, &mut [0; 4]),
                client.region_write_posted(0, 0, &[1; 4]),
                client.reset(),
            ];
            assert!(client.closed().is_none());
            calls.map(|call| call.unwrap_err().to_string())
        });
        for error in ended {
            assert!(error.contains("in time"), "{error}");
        }
    });
}
