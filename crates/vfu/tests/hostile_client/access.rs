//! S10 to S12: accesses, unmaps, features and migration.

use std::os::fd::AsFd;
use std::sync::Arc;

use vfu::Client;
use vfu::client::{ClientError, Memory, Migrate, READ_WRITE};
use vfu::wire::{Command, DeviceState, DmaReadRequest, Errno, Request, WriteEntry, bitmap_len};
use vfu_testkit::{KitError, MessageRam, SharedRam, command, within};

use crate::alone::alone;
use crate::server::{Hostile, connect, hasty_client, truth};

const BASE: u64 = 0x10_0000;
const SIZE: u64 = 0x10_0000;

/// What makes a lie of a payload.
type Change = Box<dyn Fn(&mut Vec<u8>) + Send>;

fn is_malformed<T: std::fmt::Debug>(what: &str, said: Result<T, ClientError>) {
    assert!(matches!(said, Err(ClientError::Malformed { .. })), "{what}: {said:?}");
}

/// A server that answers one command with the truth, changed.
fn changing(command: Command, change: impl Fn(&mut Vec<u8>) + Send + 'static) -> Hostile {
    Hostile::lying_about(command, move |peer, request| {
        let mut payload = truth(request);
        change(&mut payload);
        peer.send(&request.reply(&payload))
    })
}

/// Makes a call of a client of such a server, and another one that works.
fn told<T: Send + 'static>(
    command: Command,
    change: impl Fn(&mut Vec<u8>) + Send + 'static,
    call: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    let server = changing(command, change);
    let client = connect(&server);
    let calling = client.clone();
    let said = within("a call", move || call(&calling));
    client.device_info().unwrap();
    said
}

fn set(at: usize, bytes: &[u8]) -> impl Fn(&mut Vec<u8>) + Send + 'static {
    let bytes = bytes.to_vec();
    move |payload| payload[at..at + bytes.len()].copy_from_slice(&bytes)
}

#[test]
fn s10_region_read_replies() {
    alone!(|| {
        let read = |change: Change| {
            told(Command::RegionRead, change, |client| {
                let mut data = [0xee; 8];
                let said = client.region_read(2, 0x10, &mut data);
                assert!(said.is_ok() || data == [0xee; 8], "nothing was touched");
                said
            })
        };
        read(Box::new(|_| {})).unwrap();
        is_malformed("another offset", read(Box::new(set(0, &[0x18]))));
        is_malformed("an offset that wraps", read(Box::new(set(0, &[0xff; 8]))));
        is_malformed("another region", read(Box::new(set(8, &[7]))));
        for count in [0, 1, 7, 9, 1 << 31, u32::MAX] {
            let change = set(12, &count.to_le_bytes());
            is_malformed("another count", read(Box::new(change)));
        }
        for len in [0u32, 1, 7, 9, 4096] {
            let change = move |payload: &mut Vec<u8>| {
                payload.resize(16 + len as usize, 0x11);
                payload[12..16].copy_from_slice(&len.to_le_bytes());
            };
            is_malformed("another length, and the data for it", read(Box::new(change)));
        }
    });
}

/// The data of long ones goes straight to where it is wanted; what is wrong with it is seen at the end.
#[test]
fn s10_long_region_read_replies() {
    alone!(|| {
        const LEN: usize = 300_000;
        let read = |change: Change| {
            told(Command::RegionRead, change, |client| {
                let mut data = vec![0; LEN];
                client.region_read(2, 0x10, &mut data).map(|()| data)
            })
        };
        let bytes: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
        let good = bytes.clone();
        let right = read(Box::new(move |payload| payload[16..].copy_from_slice(&good)));
        assert!(right.unwrap() == bytes);
        let malformed = |what, change: Change| is_malformed(what, read(change).map(drop));
        malformed("another offset", Box::new(set(0, &[0x18])));
        malformed("another region", Box::new(set(8, &[7])));
        for count in [0, 1, LEN as u32 - 1, LEN as u32 + 1, u32::MAX] {
            malformed("another count", Box::new(set(12, &count.to_le_bytes())));
        }
        for len in [5000, LEN - 1, LEN + 1] {
            let change = move |payload: &mut Vec<u8>| {
                payload.resize(16 + len, 0x11);
                payload[12..16].copy_from_slice(&(len as u32).to_le_bytes());
            };
            malformed("another length, and the data for it", Box::new(change));
        }
    });
}

#[test]
fn s10_region_write_replies() {
    alone!(|| {
        let write = |change: Change| {
            told(Command::RegionWrite, change, |client| client.region_write(2, 0x10, &[1; 8]))
        };
        write(Box::new(|_| {})).unwrap();
        is_malformed("nothing", write(Box::new(Vec::clear)));
        is_malformed("another offset", write(Box::new(set(0, &[0x18]))));
        is_malformed("another region", write(Box::new(set(8, &[7]))));
        for count in [0u32, 7, 9, u32::MAX] {
            is_malformed("another count", write(Box::new(set(12, &count.to_le_bytes()))));
        }
        let multi = |change: Change| {
            told(Command::RegionWriteMulti, change, |client| {
                let entry = WriteEntry::new(0, 0, &[1; 4]).unwrap();
                client.region_write_multi(&[entry, entry])
            })
        };
        assert_eq!(multi(Box::new(set(0, &[1]))).unwrap(), 1);
        is_malformed("nothing", multi(Box::new(Vec::clear)));
        for count in [3u64, 1 << 32, u64::MAX] {
            is_malformed("more than asked", multi(Box::new(set(0, &count.to_le_bytes()))));
        }
    });
}

/// What becomes of the memory when the reply to an unmap is none: the server may still reach it.
fn unmapped(
    change: impl Fn(&mut Vec<u8>) + Send + 'static,
    call: fn(&Client) -> Result<u64, ClientError>,
) -> (Result<u64, ClientError>, bool) {
    let server = Hostile::session(move |peer, request| {
        let mut payload = truth(request);
        if request.header.command == Command::DmaUnmap.as_u16() {
            change(&mut payload);
        }
        if request.header.command == Command::RegionRead.as_u16() {
            // Then it reaches for the memory, and says how that went.
            let read = DmaReadRequest { address: BASE, count: 4 };
            peer.send(&command(9, &Request::DmaRead(read)))?;
            let reply = peer.recv()?;
            let is_there = u8::from(reply.errno().is_none());
            payload[16..].fill(is_there);
        }
        peer.send(&request.reply(&payload))
    });
    let client = connect(&server);
    let ram = Arc::new(MessageRam::new(BASE, SIZE as usize));
    client.dma_map(BASE, SIZE, READ_WRITE, Memory::Messages(ram)).unwrap();
    within("an unmap", move || {
        let said = call(&client);
        let mut is_there = [0];
        client.region_read(0, 0, &mut is_there).unwrap();
        (said, is_there == [1])
    })
}

#[test]
fn s11_dma_unmap_replies() {
    alone!(|| {
        let one = |client: &Client| client.dma_unmap(BASE, SIZE);
        let (said, is_there) = unmapped(|_| {}, one);
        assert!(said.unwrap() == SIZE && !is_there);
        let (said, is_there) = unmapped(set(16, &[0; 8]), one);
        assert!(said.unwrap() == 0 && !is_there, "it says that there was nothing");
        let lies: [(&str, Change); 5] = [
            ("nothing", Box::new(Vec::clear)),
            ("cut short", Box::new(|payload| payload.truncate(23))),
            ("another address", Box::new(set(8, &[1]))),
            ("more than there is", Box::new(set(16, &[0xff; 8]))),
            ("a bitmap that is not there", Box::new(set(4, &[1]))),
        ];
        for (what, lie) in lies {
            let (said, is_there) = unmapped(lie, one);
            is_malformed(what, said);
            assert!(is_there, "{what}: the server may still use it");
        }
        let all = |client: &Client| client.dma_unmap_all().map(|()| 0);
        let (said, is_there) = unmapped(Vec::clear, all);
        is_malformed("nothing", said);
        assert!(is_there);
        assert!(!unmapped(|_| {}, all).1);
    });
}

/// An error, or silence: as if it had not been asked.
#[test]
fn s11_dma_unmap_that_fails() {
    alone!(|| {
        for silent in [false, true] {
            let make = || {
                Hostile::lying_about(Command::DmaUnmap, move |peer, request| {
                    if silent { Ok(()) } else { peer.send(&request.refusal(Errno::EBUSY)) }
                })
            };
            let (server, client) = if silent {
                hasty_client(make)
            } else {
                let server = make();
                let client = connect(&server);
                (server, client)
            };
            let ram = Arc::new(MessageRam::new(BASE, SIZE as usize));
            while let Err(e) = client.dma_map(BASE, SIZE, READ_WRITE, Memory::Messages(ram.clone()))
            {
                assert!(matches!(e, ClientError::TimedOut(_)), "{e}");
            }
            match client.dma_unmap(BASE, SIZE) {
                Err(ClientError::Refused { errno: Errno::EBUSY, .. }) if !silent => {}
                Err(ClientError::TimedOut(Command::DmaUnmap)) if silent => {}
                other => panic!("{other:?}"),
            }
            assert!(Arc::strong_count(&ram) > 1, "it is still served");
            drop((client, server));
        }
    });
}

/// A feature's reply, cut off at every byte of it.
#[test]
fn s12_feature_replies_that_are_cut_short() {
    alone!(|| {
        type Call = fn(&Client) -> Result<(), ClientError>;
        let calls: [(usize, Call); 5] = [
            (16, |client| client.migration().map(drop)),
            (16, |client| client.device_state().map(drop)),
            (16, |client| client.set_device_state(DeviceState::Stop)),
            (24, |client| client.start_dma_logging(4096).map(drop)),
            (8, |client| client.stop_dma_logging()),
        ];
        for (len, call) in calls {
            for part in 0..len {
                let cut = move |payload: &mut Vec<u8>| payload.truncate(part);
                is_malformed("cut short", told(Command::DeviceFeature, cut, call));
            }
            // argsz says what it likes.
            for argsz in [0u32, 7, u32::MAX] {
                let lie = set(0, &argsz.to_le_bytes());
                told(Command::DeviceFeature, lie, call).unwrap();
            }
            // Another feature, another method.
            for flags in [0u32, 0xffff, 0x0001_0000, 0x0002_0001, 0x0003_0002, u32::MAX] {
                let lie = set(4, &flags.to_le_bytes());
                is_malformed("something else", told(Command::DeviceFeature, lie, call));
            }
        }
    });
}

#[test]
fn s12_feature_values_that_can_not_be() {
    alone!(|| {
        for state in [8, 9, 1 << 31, u32::MAX] {
            let lie = set(8, &state.to_le_bytes());
            is_malformed("a state", told(Command::DeviceFeature, lie, |c| c.device_state()));
        }
        for state in [0u32, 2, 7, 8] {
            let lie = set(8, &state.to_le_bytes());
            let said = told(Command::DeviceFeature, lie, |c| c.set_device_state(DeviceState::Stop));
            is_malformed("another state than was asked for", said);
        }
        for page_size in [0u64, 3, u64::MAX] {
            let lie = set(8, &page_size.to_le_bytes());
            let said = told(Command::DeviceFeature, lie, |c| c.start_dma_logging(4096));
            is_malformed("a page size", said);
        }
        for page_size in [1u64, 1 << 63] {
            let lie = set(8, &page_size.to_le_bytes());
            let said = told(Command::DeviceFeature, lie, |c| c.start_dma_logging(4096));
            assert_eq!(said.unwrap(), page_size);
        }
    });
}

/// Reports of a mapping of 257 pages, with logging on.
fn report(change: impl Fn(&mut Vec<u8>) + Send + 'static) -> Result<(u64, u64), ClientError> {
    const PAGES: u64 = 257;
    let server = Hostile::lying_about(Command::DeviceFeature, move |peer, request| {
        let mut payload = truth(request);
        let is_report = payload[4] == 8;
        if is_report {
            change(&mut payload);
        }
        peer.send(&request.reply(&payload))
    });
    let client = connect(&server);
    within("a report", move || {
        let ram = SharedRam::new(BASE, PAGES * 4096).unwrap();
        client.start_dma_logging(4096)?;
        client.dma_map(BASE, PAGES * 4096, READ_WRITE, Memory::File(ram.as_fd(), 0))?;
        let pages = client.dma_logging_report(BASE, PAGES * 4096, 4096)?;
        Ok((pages.dirty(), pages.pages()))
    })
}

#[test]
fn s12_bitmaps() {
    alone!(|| {
        let bits = bitmap_len(257 * 4096, 4096).unwrap() as usize;
        assert_eq!(bits, 40);
        assert_eq!(report(|_| {}).unwrap(), (129, 257), "every other page");
        let (dirty, pages) = report(|payload| payload[32..].fill(0xff)).unwrap();
        assert_eq!((dirty, pages), (257, 257), "bits behind the end mean nothing");
        for short in 32..32 + bits {
            is_malformed("a short bitmap", report(move |payload| payload.truncate(short)));
        }
        report(|payload| payload.resize(1 << 20, 0xff)).unwrap();
        let fields = [(8, BASE + 4096), (16, 4096), (16, 0), (16, u64::MAX), (24, 8192), (24, 0)];
        for (at, value) in fields {
            is_malformed("another range", report(set(at, &value.to_le_bytes())));
        }
    });
}

#[test]
fn s12_dirty_unmap_bitmaps() {
    alone!(|| {
        let unmap = |change: Change| {
            let server = changing(Command::DmaUnmap, change);
            let client = connect(&server);
            within("an unmap", move || {
                let ram = SharedRam::new(BASE, SIZE).unwrap();
                client.start_dma_logging(4096)?;
                client.dma_map(BASE, SIZE, READ_WRITE, Memory::File(ram.as_fd(), 0))?;
                client.dma_unmap_dirty(BASE, SIZE, 4096).map(|pages| pages.dirty())
            })
        };
        assert_eq!(unmap(Box::new(|_| {})).unwrap(), 128);
        let lies: [(&str, Change); 8] = [
            ("nothing", Box::new(Vec::clear)),
            ("no bitmap", Box::new(|payload| payload.truncate(24))),
            ("no flag", Box::new(set(4, &[0]))),
            ("half a bitmap", Box::new(|payload| payload.truncate(40 + 16))),
            ("another page size", Box::new(set(24, &[0, 0x20]))),
            ("a short bitmap", Box::new(set(32, &[31]))),
            ("a bitmap of 2^64 - 1 bytes", Box::new(set(32, &[0xff; 8]))),
            ("another address", Box::new(set(8, &[1]))),
        ];
        for (what, lie) in lies {
            is_malformed(what, unmap(lie));
        }
    });
}

#[test]
fn s12_migration_data() {
    alone!(|| {
        let read = |change: Change| {
            told(Command::MigDataRead, change, |client| {
                let mut state = vec![7; 3];
                let said = client.read_state(&mut state);
                let more = *said.as_ref().unwrap_or(&0);
                assert_eq!(state.len(), 3 + more);
                said
            })
        };
        assert_eq!(read(Box::new(|_| {})).unwrap(), 4096);
        assert_eq!(
            read(Box::new(|payload| {
                payload.truncate(8);
                payload[4..8].fill(0);
            }))
            .unwrap(),
            0
        );
        let lies: [(&str, Change); 5] = [
            ("nothing", Box::new(Vec::clear)),
            ("cut short", Box::new(|payload| payload.truncate(7))),
            ("more than is there", Box::new(set(4, &4097u32.to_le_bytes()))),
            ("2^32 - 1", Box::new(set(4, &u32::MAX.to_le_bytes()))),
            (
                "more than was asked for",
                Box::new(|payload| {
                    payload.resize(8 + (1 << 20) + 1, 0);
                    payload[4..8].copy_from_slice(&((1 << 20) + 1u32).to_le_bytes());
                }),
            ),
        ];
        for (what, lie) in lies {
            is_malformed(what, read(lie));
        }
    });
}

/// A source whose state never ends, and one that ends in the middle of it: the move ends, and says
/// why.
#[test]
fn s12_moves_from_a_hostile_source() {
    alone!(|| {
        for dies in [false, true] {
            let mut left = 10;
            let from = Hostile::lying_about(Command::MigDataRead, move |peer, request| {
                left -= i32::from(dies);
                if left == 0 {
                    Err(KitError::Closed)
                } else {
                    peer.send(&request.reply(&truth(request)))
                }
            });
            let to = Hostile::session(|peer, request| peer.send(&request.reply(&truth(request))));
            let (source, destination) = (connect(&from), connect(&to));
            let failed = within("a move", move || {
                Migrate::new(&source, &destination).max_state(1 << 20).run().unwrap_err()
            });
            let why = std::error::Error::source(&failed).unwrap().to_string();
            let expected = if dies { "disconnected" } else { "longer than 1048576 bytes" };
            assert!(why.contains(expected), "{failed}: {why}");
        }
    });
}
