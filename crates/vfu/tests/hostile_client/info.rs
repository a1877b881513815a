//! S6 to S9: what the server says of the device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create, open};
use vfu::IrqIndex;
use vfu::client::{Client, ClientError, Rung};
use vfu::wire::{Area, Command, RegionCapability, RegionFlags, RegionInfo};
use vfu_testkit::{Vmm, within};

use crate::alone::{alone, peak};
use crate::server::{Hostile, connect, patient, truth};

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What a client makes of a server that answers one command so.
fn told<T: Send + 'static>(
    command: Command,
    payload: Vec<u8>,
    call: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    let server = Hostile::saying(command, payload);
    let client = connect(&server);
    let told = within("a call", {
        let client = client.clone();
        move || call(&client)
    });
    // The next call is not harmed by it.
    let other = if command == Command::RegionRead { Client::reset } else { read };
    other(&client).unwrap();
    told
}

fn read(client: &Client) -> Result<(), ClientError> {
    client.region_read(0, 0, &mut [0; 4])
}

fn is_malformed<T: std::fmt::Debug>(what: &str, told: Result<T, ClientError>) {
    match told {
        Err(e @ ClientError::Malformed { .. }) => assert!(e.to_string().contains("makes no sense")),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn s06_device_info() {
    alone!(|| {
        let info = |words_: &[u32]| {
            told(Command::DeviceGetInfo, words(words_), |client| client.device_info())
        };
        is_malformed("nothing", info(&[]));
        is_malformed("cut short", info(&[16, 2, 9]));
        for argsz in [0, 15] {
            is_malformed("argsz too small", info(&[argsz, 2, 9, 5]));
        }
        // Numbers are numbers: nothing is allocated for them, or asked so often.
        let numbers = [[0, 0], [8, 1], [101, 6], [u32::MAX, u32::MAX]];
        for [regions, irqs] in numbers {
            let said = info(&[16, 2, regions, irqs]).unwrap();
            assert_eq!((said.num_regions, said.num_irqs), (regions, irqs));
            let said = info(&[u32::MAX, 0, regions, irqs, 7]).unwrap();
            assert_eq!((said.num_regions, said.flags.bits()), (regions, 0));
        }
        // A VMM that enumerates what is not there: errors, or all ones.
        for [regions, irqs] in numbers {
            let server = Hostile::saying(Command::DeviceGetInfo, words(&[16, 2, regions, irqs]));
            let client = connect(&server);
            let _found = within("enumeration", move || Vmm::over(client).enumerate().map(drop));
        }
    });
}

/// A server of a region: this payload and these files, and honest reads.
fn region(payloads: Vec<Vec<u8>>, fds: Vec<OwnedFd>) -> (Hostile, Client) {
    let mut asked = 0;
    let server =
        Hostile::session(move |peer, request| match Command::from_u16(request.header.command) {
            Some(Command::DeviceGetRegionInfo) => {
                let payload = &payloads[asked.min(payloads.len() - 1)];
                asked += 1;
                assert!(asked <= 2, "asked again and again");
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                peer.send_with(&request.reply(payload), &fds)
            }
            _ => peer.send(&request.reply(&truth(request))),
        });
    let client = connect(&server);
    (server, client)
}

fn mapped(payloads: Vec<Vec<u8>>, fds: Vec<OwnedFd>) -> Result<bool, ClientError> {
    let (_server, client) = region(payloads, fds);
    within("map_region", move || {
        let region = client.map_region(0)?;
        let mut data = [0; 4];
        region.read(0, &mut data)?;
        assert_eq!(data, [0x11; 4]);
        Ok(region.is_direct(0, 1))
    })
}

/// A file of `0x11`.
fn file(len: u64) -> OwnedFd {
    let fd = memfd_create("bar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, len).unwrap();
    rustix::io::pwrite(&fd, &vec![0x11; len as usize], 0).unwrap();
    fd
}

const SIZE: u64 = 0x4000;

fn with(capabilities: Vec<RegionCapability>) -> Vec<u8> {
    let flags = RegionFlags::READ | RegionFlags::WRITE | RegionFlags::MMAP;
    let info = RegionInfo { flags, size: SIZE, capabilities, ..RegionInfo::default() };
    let mut payload = Vec::new();
    info.emit(&mut payload);
    payload
}

fn area(offset: u64, size: u64) -> RegionCapability {
    RegionCapability::SparseMmap(vec![Area { offset, size }])
}

/// More of this row: `client_regions.rs`.
#[test]
fn s07_region_info() {
    alone!(|| {
        let truth = with(vec![area(0, 0x1000), RegionCapability::MsixMappable]);
        assert!(mapped(vec![truth.clone()], vec![file(SIZE)]).unwrap());
        let set = |at: usize, value: u32| {
            let mut payload = truth.clone();
            payload[at..at + 4].copy_from_slice(&value.to_le_bytes());
            payload
        };
        let lies = [
            ("nothing", vec![]),
            ("cut short", truth[..31].to_vec()),
            ("argsz below its own size", set(0, 31)),
            ("argsz 0", set(0, 0)),
            ("another region", set(8, 7)),
            ("a capability in the fixed part", set(12, 16)),
            ("the first capability behind the end", set(12, 0xffff_fff0)),
            ("a capability that is not whole", set(12, truth.len() as u32 - 4)),
            ("the next capability is the same", set(36, 32)),
            ("the next capability lies before", set(36, 8)),
            ("the next capability lies in this one", set(36, 36)),
            ("2^32 - 1 areas", set(40, u32::MAX)),
        ];
        for (what, lie) in lies {
            is_malformed(what, mapped(vec![lie], vec![file(SIZE)]));
        }
        let growing = |argsz: u32| {
            let mut payload = truth[..32].to_vec();
            payload[..4].copy_from_slice(&argsz.to_le_bytes());
            payload[4] &= !8;
            payload
        };
        is_malformed("it grows", mapped(vec![growing(64), growing(128), growing(256)], vec![]));
        for argsz in [1 << 20, u32::MAX] {
            is_malformed("more than can be", mapped(vec![growing(argsz)], vec![]));
        }
    });
}

#[test]
fn s07_region_areas_and_files() {
    alone!(|| {
        let before = peak();
        // What can't be mapped is reached by message.
        let lies = [
            ("outside", area(SIZE, 0x1000)),
            ("half outside", area(SIZE - 0x1000, 0x2000)),
            ("wraps", area(u64::MAX - 0xfff, 0x2000)),
            ("all there is", area(0, u64::MAX)),
            ("empty", area(0, 0)),
            ("none", RegionCapability::SparseMmap(vec![])),
        ];
        for (what, lie) in lies {
            assert!(!mapped(vec![with(vec![lie])], vec![file(SIZE)]).unwrap(), "{what}");
        }
        let whole = || vec![with(vec![])];
        assert!(!mapped(whole(), vec![]).unwrap(), "MMAP without a file");
        assert!(!mapped(whole(), vec![file(SIZE - 1)]).unwrap(), "a file that is too short");
        assert!(!mapped(whole(), vec![file(0)]).unwrap(), "an empty file");
        let mut huge = with(vec![]);
        huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(!mapped(vec![huge], vec![file(SIZE)]).unwrap(), "a region of 2^64 - 1 bytes");
        let mut without = with(vec![]);
        without[4] &= !4;
        assert!(!mapped(vec![without], vec![file(SIZE)]).unwrap(), "a file without MMAP");
        let kinds = [
            open("/", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap(),
            open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap(),
            open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap(),
            eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            rustix::pipe::pipe().unwrap().0,
            std::os::unix::net::UnixStream::pair().unwrap().0.into(),
        ];
        for kind in kinds {
            assert!(!mapped(whole(), vec![kind]).unwrap(), "no file that can be mapped");
        }
        // Many areas, as many files, and unaligned ones: harmless.
        let areas = (0..4000).map(|n| Area { offset: n % 3, size: 1 + n % 7 }).collect();
        let many = with(vec![RegionCapability::SparseMmap(areas)]);
        let _direct = mapped(vec![many[..32].to_vec(), many.clone()], vec![file(SIZE)]);
        let files = (0..253).map(|_| file(0x1000)).collect();
        let _direct = mapped(whole(), files);
        assert!(peak() < before + (32 << 20), "{} bytes more", peak() - before);
    });
}

/// A file that may be read only; one that is cut off later. What is mapped of files that can be cut
/// off, and what a SIGBUS does, has tests of its own.
#[test]
fn s07_region_files_that_change() {
    alone!(|| {
        let writable = file(SIZE);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writable));
        let read_only = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (_server, client) = region(vec![with(vec![])], vec![read_only]);
        let region_ = client.map_region(0).unwrap();
        region_.write(0, &[0x22]).unwrap();
        client.region_read(0, 0, &mut [0; 1]).unwrap();
        drop((region_, client, _server));

        let theirs = file(SIZE);
        let given = rustix::io::dup(&theirs).unwrap();
        let (_server, client) = region(vec![with(vec![])], vec![given]);
        let region_ = client.map_region(0).unwrap();
        let mut data = [0; 4];
        region_.read(SIZE - 4, &mut data).unwrap();
        assert_eq!(data, [0x11; 4]);
        ftruncate(&theirs, 0).unwrap();
        // By message now, which says the same.
        region_.read(SIZE - 4, &mut data).unwrap();
        assert_eq!(data, [0x11; 4]);
        region_.write(SIZE - 4, &[1; 4]).unwrap();
    });
}

#[test]
fn s08_irq_info() {
    alone!(|| {
        let info = |said: &[u32]| {
            told(Command::DeviceGetIrqInfo, words(said), |client| client.irq_info(IrqIndex::Msix))
        };
        is_malformed("nothing", info(&[]));
        is_malformed("cut short", info(&[16, 1, 2]));
        is_malformed("argsz too small", info(&[15, 1, 2, 1]));
        is_malformed("another type", info(&[16, 1, 1, 4]));
        for count in [0, 1, 2048, u32::MAX] {
            let said = info(&[16, 0, 2, count]).unwrap();
            assert_eq!((said.count, said.flags.bits()), (count, 0));
        }
    });
}

/// One entry of an io-fd list.
fn entry(offset: u64, size: u64, fd_index: u32, kind: u32, flags: u32, value: u64) -> Vec<u8> {
    let mut entry = [offset.to_le_bytes(), size.to_le_bytes()].concat();
    entry.extend(words(&[fd_index, kind, flags, 0]));
    entry.extend(value.to_le_bytes());
    entry
}

fn list(argsz: u32, index: u32, count: u32, entries: &[u8]) -> Vec<u8> {
    [&words(&[argsz, 0, index, count]), entries].concat()
}

fn one(entry: &[u8]) -> Vec<u8> {
    list(56, 0, 1, entry)
}

/// How a write of 4 bytes at offset 0x10 reaches a server with these doorbells.
fn rung(payload: Vec<u8>, fds: Vec<OwnedFd>) -> Result<Rung, ClientError> {
    let server = Hostile::lying_about(Command::DeviceGetRegionIoFds, move |peer, request| {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        peer.send_with(&request.reply(&payload), &fds)
    });
    let client = connect(&server);
    within("a doorbell", move || {
        let rung = client.doorbells(0)?.write(0x10, &[1, 0, 0, 0])?;
        read(&client)?;
        Ok(rung)
    })
}

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

#[test]
fn s09_io_fds() {
    alone!(|| {
        let truth = entry(0x10, 4, 0, 0, 0, 0);
        assert_eq!(rung(one(&truth), vec![bell()]).unwrap(), Rung::ByEventFd);
        let malformed = [
            ("nothing", vec![]),
            ("cut short", words(&[16, 0, 0])),
            ("argsz below its head", list(15, 0, 1, &truth)),
            ("a stride of 0", list(16, 0, 1, &truth)),
            ("a stride below an entry", list(16 + 39, 0, 1, &truth[..39])),
            ("another region", list(56, 7, 1, &truth)),
            ("less than it says", list(16 + 80, 0, 2, &truth)),
            ("2^32 - 1 of them", list(u32::MAX, 0, u32::MAX, &truth)),
            ("too long a list", list(16 + 40 * 2000, 0, 2000, &[])),
        ];
        for (what, payload) in malformed {
            is_malformed(what, rung(payload, vec![bell()]));
        }
        let ignored = [
            ("a descriptor that is not there", entry(0x10, 4, 1, 0, 0, 0)),
            ("descriptor 2^32 - 1", entry(0x10, 4, u32::MAX, 0, 0, 0)),
            ("an unknown type", entry(0x10, 4, 0, 9, 0, 0)),
            ("unknown flags", entry(0x10, 4, 0, 0, 0x100, 0)),
            ("3 bytes", entry(0x10, 3, 0, 0, 0, 0)),
            ("2^64 - 1 bytes", entry(0x10, u64::MAX, 0, 0, 0, 0)),
            ("behind the region", entry(0x1000, 4, 0, 0, 0, 0)),
            ("half behind the region", entry(0xffe, 4, 0, 0, 0, 0)),
            ("an offset that wraps", entry(u64::MAX, 4, 0, 0, 0, 0)),
            ("no width, and data to match", entry(0x10, 0, 0, 0, 1, 1)),
        ];
        for (what, entry) in ignored {
            assert_eq!(rung(one(&entry), vec![bell()]).unwrap(), Rung::ByMessage, "{what}");
        }
        assert_eq!(rung(one(&truth), vec![]).unwrap(), Rung::ByMessage, "no descriptor");
        // What is no eventfd is not written to; one that is full and blocks does not block us.
        let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert_eq!(rung(one(&truth), vec![full]).unwrap(), Rung::ByEventFd);
        let others = [
            file(0x1000),
            rustix::pipe::pipe().unwrap().1,
            std::os::unix::net::UnixStream::pair().unwrap().0.into(),
            open("/dev/full", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap(),
        ];
        for other in others {
            assert_eq!(rung(one(&truth), vec![other]).unwrap(), Rung::ByMessage);
        }
        // 253 of them.
        let bells = (0..253).map(|_| bell()).collect();
        let entries: Vec<u8> = (0..253).flat_map(|n| entry(0x10, 4, n, 0, 0, 0)).collect();
        let many = list(16 + 40 * 253, 0, 253, &entries);
        assert_eq!(rung(many, bells).unwrap(), Rung::ByEventFd);
    });
}

/// A list that grows each time it is asked for.
#[test]
fn s09_io_fds_that_grow() {
    alone!(|| {
        let mut asked = 0;
        let server = Hostile::lying_about(Command::DeviceGetRegionIoFds, move |peer, request| {
            asked += 1;
            assert!(asked <= 2, "asked again and again");
            peer.send(&request.reply(&list(16 + 40 * 10 * asked, 0, 10 * asked, &[])))
        });
        let client = patient().connect(server.path()).unwrap();
        let calling = client.clone();
        is_malformed("it grows", within("a call", move || calling.region_io_fds(0)));
    });
}
