//! A small server that does all right but one thing.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::PathBuf;
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::AsFd;

pub(crate) use vfu_testkit::RawMessage;
use vfu_testkit::{KitError, RawListener, RawPeer, message};

/// What a command of a client leads to.
pub(crate) enum Doing {
    /// The right answer, if one is wanted.
    Right,
    /// These bytes.
    Bytes(Vec<u8>),
    /// The right answer, with a descriptor.
    WithFd,
    /// Nothing.
    Nothing,
    /// The end of the connection.
    Close,
    /// The end of the server.
    Die,
    /// Nothing for this client, and for no other.
    Hang,
    /// The end of the connection, and of all that come.
    CloseAll,
}

/// Looks at a command, after the VERSION, and says what to do.
pub(crate) type Fault = fn(&RawMessage) -> Doing;

/// Starts it on a thread that ends with the test. Gives the socket.
pub(crate) fn start(fault: Fault) -> PathBuf {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_owned();
    thread::spawn(move || serve(&listener, fault));
    path
}

/// Serves clients until the fault ends it.
pub(crate) fn serve(listener: &RawListener, fault: Fault) {
    loop {
        let client = match listener.accept() {
            Err(KitError::TimedOut(_)) => continue, // nobody came
            other => other.unwrap(),
        };
        match one(&client, fault) {
            Doing::Die => return,
            Doing::Hang => loop {
                thread::park();
            },
            Doing::CloseAll => {
                drop(client);
                loop {
                    drop(listener.accept());
                }
            }
            _ => {}
        }
    }
}

fn one(client: &RawPeer, fault: Fault) -> Doing {
    let mut begun = false;
    while let Ok(got) = client.recv() {
        let (header, is_version) = (got.header, got.header.command == 1);
        let wrong = is_version == begun || header.flags & 0xf > 1;
        let odd = !got.fds.is_empty() || got.payload.len() < 4 || !is_plain(&got);
        if wrong || (is_version && odd) {
            return Doing::Close;
        }
        begun = true;
        let doing = if is_version { Doing::Right } else { fault(&got) };
        let answer = right(&got);
        let silent = header.flags & 0xf == 1 || header.flags & 0x10 != 0;
        let sent = match doing {
            Doing::Right | Doing::WithFd if silent => Ok(()),
            Doing::Right => client.send(&answer),
            Doing::Bytes(bytes) => client.send(&bytes),
            Doing::WithFd => {
                let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
                client.send_with(&answer, &[fd.as_fd()])
            }
            Doing::Nothing => Ok(()),
            end => return end,
        };
        if sent.is_err() {
            break;
        }
    }
    Doing::Close
}

/// The right answer of a device with a BAR of 4 KiB and four interrupts.
pub(crate) fn right(got: &RawMessage) -> Vec<u8> {
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let index = u32_at(got, 8);
    let count = u32_at(got, 12);
    let refused = || message(got.header.id, got.header.command, 0x21, &[]).to_vec();
    let payload = match (got.header.command, got.payload.len()) {
        (1, _) => b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":16}}\0".to_vec(),
        (2, 32..) | (8, 20..) | (13, _) => Vec::new(),
        (3, 24..) => got.payload[..24].to_vec(),
        (4, 16..) => words(&[16, 3, 9, 5]),
        (5, 32..) => {
            let size = if index == 0 { 4096 } else { 0 };
            words(&[32, 3, index, 0, size, 0, 0, 0])
        }
        (7, 16..) => words(&[16, 1, index, 4]),
        (9, 16..) if count <= 4096 => {
            let mut payload = got.payload[..16].to_vec();
            payload.resize(16 + count as usize, 0);
            payload
        }
        (10, 16..) => got.payload[..16].to_vec(),
        _ => {
            let mut bytes = refused();
            bytes[12] = 22;
            return bytes;
        }
    };
    message(got.header.id, got.header.command, 1, &payload)
}

/// Whether it is a command that wants a reply.
pub(crate) fn is_plain(got: &RawMessage) -> bool {
    got.header.flags & 0x1f == 0
}

/// A number in the payload; 0 if it is not there.
pub(crate) fn u32_at(got: &RawMessage, at: usize) -> u32 {
    let bytes = got.payload.get(at..at + 4);
    bytes.map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
}
