//! A client that many threads use, and a server that is played; then both ends of our own.

use std::sync::Arc;

use shuttle::thread;
use vfu_proto::wire::{DmaReadRequest, Errno, Kind, Request};

use super::device::{CALLBACK, Log, PLAIN, Tester, WORKER, pattern};
use super::peer::{MEMORY, Peer, pair};
use super::{check, no_timeouts, some_spin};
use crate::client::{Client, DmaMemory, Memory, READ_WRITE};
use crate::{Bar, Pci, Server};

/// Each byte is the low byte of its address.
struct Pattern;

impl DmaMemory for Pattern {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        to.iter_mut().enumerate().for_each(|(i, byte)| *byte = (address + i as u64) as u8);
        Ok(())
    }

    fn write(&self, _address: u64, _from: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
}

fn register(client: &Client, offset: u64) -> Option<u64> {
    let mut value = [0; 8];
    client.region_read(0, offset, &mut value).ok().map(|()| u64::from_le_bytes(value))
}

fn read_register(client: &Client, offset: u64) -> thread::JoinHandle<Option<u64>> {
    let client = client.clone();
    thread::spawn(move || register(&client, offset))
}

fn map(client: &Client) {
    client.dma_map(MEMORY.0, MEMORY.1, READ_WRITE, Memory::Messages(Arc::new(Pattern))).unwrap();
}

fn connect(played: impl FnOnce(Peer) + Send + 'static) -> (Client, thread::JoinHandle<()>) {
    let (ours, theirs) = pair();
    let server = thread::spawn(move || played(Peer::new(theirs)));
    let client = Client::builder().limits(no_timeouts()).spin(some_spin()).twin_socket(false);
    (client.connect_fd(ours).unwrap(), server)
}

/// Three callers and the service thread; the server asks for memory before it answers the first.
#[test]
fn callers_get_their_own_replies() {
    check(|| {
        let (client, server) = connect(|mut peer| {
            let mut asked = 0;
            while let Some(message) = peer.next() {
                if message.header().kind() == Some(Kind::Command) {
                    asked += 1;
                    if asked > 2 {
                        let request = DmaReadRequest { address: MEMORY.0, count: 8 };
                        peer.ask(&Request::DmaRead(request));
                    }
                    peer.answer(&message);
                }
            }
        });
        map(&client);
        let callers = [0x08, 0x10, 0x18].map(|at| (at, read_register(&client, at)));
        for (at, caller) in callers {
            assert_eq!(caller.join().unwrap(), Some(at));
        }
        drop(client);
        server.join().unwrap();
    });
}

/// Commands of the server are served when all the client's callers have gone.
#[test]
fn the_service_thread_serves_alone() {
    check(|| {
        let (client, server) = connect(|mut peer| {
            for _ in 0..3 {
                let command = peer.next_command().unwrap();
                peer.answer(&command);
            }
            let request = Request::DmaRead(DmaReadRequest { address: MEMORY.0, count: 8 });
            for _ in 0..2 {
                let id = peer.ask(&request);
                peer.reply_to(id, &mut Vec::new());
            }
        });
        map(&client);
        let caller = read_register(&client, 8);
        assert_eq!(caller.join().unwrap(), Some(8));
        server.join().unwrap();
        drop(client);
    });
}

/// The server goes, or we close, while three callers wait for what never comes.
#[test]
fn a_hang_up_ends_callers() {
    check(|| {
        let (client, server) = connect(|mut peer| {
            for _ in 0..2 {
                let command = peer.next_command().unwrap();
                peer.answer(&command);
            }
            let _unanswered = peer.next_command();
            peer.hang_up();
        });
        map(&client);
        let callers = [0x08, 0x10, 0x18].map(|at| read_register(&client, at));
        for caller in callers {
            assert_eq!(caller.join().unwrap(), None);
        }
        server.join().unwrap();
    });
}

#[test]
fn a_close_ends_callers() {
    check(|| {
        let (client, server) = connect(|mut peer| {
            for _ in 0..2 {
                let command = peer.next_command().unwrap();
                peer.answer(&command);
            }
            while peer.next().is_some() {}
        });
        map(&client);
        let callers = [0x08, 0x10, 0x18].map(|at| read_register(&client, at));
        client.close();
        for caller in callers {
            assert_eq!(caller.join().unwrap(), None);
        }
        server.join().unwrap();
    });
}

/// Our client and our server: registers are read while the device reads memory.
#[test]
fn both_ends_on_one_socket() {
    both_ends(false);
}

#[test]
fn both_ends_on_two_sockets() {
    both_ends(true);
}

fn both_ends(twin: bool) {
    check(move || {
        let (ours, theirs) = pair();
        let log = Arc::new(Log::default());
        let pci = Pci::endpoint(1, 2).bar(0, Bar::mem32(4096));
        let server = Server::builder(pci).limits(no_timeouts()).spin(some_spin());
        let server = server.bus_master_gate(false);
        let device_log = log.clone();
        let device = |handle| Tester { handle, log: device_log, busy: false };
        let mut server = server.fd(theirs).unwrap().serve(device).unwrap();
        let server = thread::spawn(move || server.run().unwrap());

        let client = Client::builder().limits(no_timeouts()).spin(some_spin()).twin_socket(twin);
        let client = client.connect_fd(ours).unwrap();
        assert_eq!(client.has_twin_socket(), twin);
        map(&client);
        let reader = read_register(&client, PLAIN);
        client.region_write(0, WORKER, &0x10u64.to_le_bytes()).unwrap();
        client.region_write(0, CALLBACK, &0x20u64.to_le_bytes()).unwrap();
        log.wait_for(&[0x10, 0x20]);
        assert_eq!(register(&client, PLAIN), Some(PLAIN));
        assert_eq!(reader.join().unwrap(), Some(PLAIN));
        drop(client);
        server.join().unwrap();
        log.join();
        for value in [0x10, 0x20] {
            assert_eq!(log.outcome(value), Some(Ok(pattern(value))));
        }
    });
}
