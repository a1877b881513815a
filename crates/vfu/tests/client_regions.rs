//! What servers say of regions, true or not, and what our client maps of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, open};
use vfu::client::{Client, ClientError, MappedRegion};
use vfu::wire::{
    Area, Command, RegionCapability, RegionFlags, RegionInfo, RegionReadReply, RegionReadRequest,
};
use vfu_testkit::{DEADLINE, RawListener};

const SIZE: u64 = 0x10_0000;
/// What a read by message gives.
const BY_MESSAGE: u8 = 0xee;

/// A server that answers each GET_REGION_INFO with the next of these payloads (the last one again
/// and again) and the descriptors, and each read with [`BY_MESSAGE`].
fn liar(payloads: Vec<Vec<u8>>, fds: Vec<OwnedFd>) -> (Client, thread::JoinHandle<usize>) {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_path_buf();
    let server = thread::spawn(move || {
        let peer = listener.accept().unwrap();
        peer.answer_handshake(r#"{"capabilities":{"max_msg_fds":16}}"#, &[]).unwrap();
        let mut asked = 0;
        while let Ok(request) = peer.recv() {
            let mut with: Vec<BorrowedFd<'_>> = Vec::new();
            let reply = match Command::from_u16(request.header.command) {
                Some(Command::DeviceGetRegionInfo) => {
                    let reply = payloads[asked.min(payloads.len() - 1)].clone();
                    asked += 1;
                    with = fds.iter().map(|fd| fd.as_fd()).collect();
                    reply
                }
                Some(Command::RegionRead) => {
                    let read = RegionReadRequest::parse(&request.payload).unwrap();
                    let data = &vec![BY_MESSAGE; read.count as usize];
                    let mut reply = Vec::new();
                    RegionReadReply { offset: read.offset, region: read.region, data }
                        .emit(&mut reply);
                    reply
                }
                _ => continue,
            };
            peer.send_with(&request.reply(&reply), &with).unwrap();
        }
        asked
    });
    let client = Client::builder().timeout(Some(DEADLINE)).connect(path).unwrap();
    (client, server)
}

fn info() -> RegionInfo {
    RegionInfo {
        flags: RegionFlags::READ | RegionFlags::WRITE | RegionFlags::MMAP,
        index: 0,
        size: SIZE,
        offset: 0,
        capabilities: Vec::new(),
        needed_argsz: None,
    }
}

fn emitted(info: &RegionInfo) -> Vec<u8> {
    let mut payload = Vec::new();
    info.emit(&mut payload);
    payload
}

fn sparse(areas: &[(u64, u64)]) -> RegionInfo {
    let areas = areas.iter().map(|&(offset, size)| Area { offset, size }).collect();
    RegionInfo { capabilities: vec![RegionCapability::SparseMmap(areas)], ..info() }
}

/// A file of `len` bytes, full of `0x11`, that can't become shorter if `sealed`.
fn file(len: u64, sealed: bool) -> OwnedFd {
    let file = memfd_create("bar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    rustix::io::pwrite(&file, &vec![0x11; len as usize], 0).unwrap();
    if sealed {
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    }
    file
}

fn byte(region: &MappedRegion, at: u64) -> u8 {
    let mut byte = [0];
    region.read(at, &mut byte).unwrap();
    byte[0]
}

/// Maps region 0 as the server describes it.
fn mapped(info: &RegionInfo, fds: Vec<OwnedFd>, check: impl FnOnce(&MappedRegion)) {
    let (client, server) = liar(vec![emitted(info)], fds);
    check(&client.map_region(0).unwrap());
    drop(client);
    server.join().unwrap();
}

#[test]
fn the_truth_is_mapped() {
    let areas = [(0, 0x1000), (0x8000, 0x1000)];
    for sealed in [true, false] {
        mapped(&sparse(&areas), vec![file(SIZE, sealed)], |region| {
            assert!(region.is_direct(0x8000, 0x1000) && !region.is_direct(0x8000, 0x1001));
            assert_eq!(byte(region, 0x8fff), 0x11);
            assert_eq!(byte(region, 0x1000), BY_MESSAGE);
            region.write(0x8000, &[0x22]).unwrap();
            assert_eq!(byte(region, 0x8000), 0x22);
        });
        mapped(&info(), vec![file(SIZE, sealed)], |region| {
            assert_eq!(byte(region, SIZE - 1), 0x11, "the whole");
        });
        let at_end = RegionInfo { offset: 0x3000, ..info() };
        mapped(&at_end, vec![file(SIZE + 0x3000, sealed)], |region| {
            assert_eq!(byte(region, SIZE - 1), 0x11);
        });
    }
}

#[test]
fn lies_are_reached_by_message() {
    let by_message = |info: &RegionInfo, fds: Vec<OwnedFd>| {
        mapped(info, fds, |region| {
            for at in [0, 0x1000, SIZE - 1] {
                assert!(!region.is_direct(at, 1), "{info:?}");
                assert_eq!(byte(region, at), BY_MESSAGE, "{info:?}");
            }
        });
    };
    for sealed in [true, false] {
        by_message(&info(), vec![]);
        by_message(&RegionInfo { flags: RegionFlags::READ, ..info() }, vec![file(SIZE, sealed)]);
        by_message(&info(), vec![file(SIZE - 1, sealed)]);
        by_message(&RegionInfo { offset: 1, ..info() }, vec![file(SIZE, sealed)]);
        by_message(&RegionInfo { offset: u64::MAX, ..info() }, vec![file(SIZE, sealed)]);
        by_message(&RegionInfo { size: u64::MAX, ..info() }, vec![file(SIZE, sealed)]);
        for area in [(SIZE, 0x1000), (0, 0), (SIZE - 0x1000, 0x2000), (u64::MAX, 2), (1, u64::MAX)]
        {
            by_message(&sparse(&[area]), vec![file(SIZE, sealed)]);
        }
        by_message(&sparse(&[]), vec![file(SIZE, sealed)]);
    }
    // Nothing that can be mapped, or not for writing.
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    by_message(&info(), vec![ours.into()]);
    let folder = open("/", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    by_message(&info(), vec![folder]);
    // A true area beside a lie.
    mapped(&sparse(&[(SIZE, 0x1000), (0, 0x1000)]), vec![file(SIZE, true)], |region| {
        assert_eq!((byte(region, 0), byte(region, 0x1000)), (0x11, BY_MESSAGE));
    });
    // Areas that overlap, or that do not begin at a page: harmless.
    mapped(&sparse(&[(5, 0x2000), (8, 0x1000)]), vec![file(SIZE, true)], |region| {
        assert_eq!((byte(region, 5), byte(region, 4)), (0x11, BY_MESSAGE));
    });
}

/// Its pages are mapped for reading only: a write there would be a SIGSEGV.
#[test]
fn a_region_that_can_not_be_written_is_written_by_message() {
    let read_only = RegionInfo { flags: RegionFlags::READ | RegionFlags::MMAP, ..info() };
    for sealed in [true, false] {
        let theirs = file(SIZE, sealed);
        mapped(&read_only, vec![rustix::io::dup(&theirs).unwrap()], |region| {
            assert!(region.is_direct(0, 4));
            region.write(0, &[0x22; 4]).unwrap();
        });
        let mut first = [0; 4];
        rustix::io::pread(&theirs, &mut first, 0).unwrap();
        assert_eq!(first, [0x11; 4]);
    }
}

/// What is left of the region is reached by messages. (`memory_policy` has more of that.)
#[test]
fn a_file_that_is_cut_off_later_kills_nobody() {
    let theirs = file(SIZE, false);
    let (client, server) = liar(vec![emitted(&info())], vec![rustix::io::dup(&theirs).unwrap()]);
    let region = client.map_region(0).unwrap();
    assert_eq!(byte(&region, SIZE - 1), 0x11);
    ftruncate(&theirs, 0).unwrap();
    assert_eq!(byte(&region, SIZE - 1), BY_MESSAGE);
    region.write(SIZE - 1, &[1]).unwrap();
    assert_eq!(rustix::fs::fstat(&theirs).unwrap().st_size, 0);
    drop((region, client));
    server.join().unwrap();
}

#[test]
fn descriptions_that_make_no_sense_are_errors() {
    let truth = emitted(&sparse(&[(0, 0x1000), (0x8000, 0x1000)]));
    let with = |at: usize, value: u32| {
        let mut payload = truth.clone();
        payload[at..at + 4].copy_from_slice(&value.to_le_bytes());
        payload
    };
    let lies = [
        truth[..31].to_vec(),
        with(0, 31),        // argsz
        with(8, 1),         // another region
        with(12, 8),        // the first capability is in the structure
        with(12, 31),       //
        with(12, 0x1000),   // it is beyond the end
        with(12, u32::MAX), //
        with(36, 32),       // the next one is itself
        with(36, 4),        // it lies behind
        with(36, 0x1000),   // it is beyond the end
        with(40, u32::MAX), // areas
        with(40, 3),        //
    ];
    for lie in lies {
        let (client, server) = liar(vec![lie.clone()], vec![file(SIZE, true)]);
        match client.map_region(0) {
            Err(ClientError::Malformed { .. }) => {}
            // What lies behind it can't be told from a capability that is not known.
            Ok(region) => assert!(!region.is_direct(0, 1), "{lie:x?}"),
            Err(e) => panic!("{lie:x?}: {e}"),
        }
        drop(client);
        assert!(server.join().unwrap() <= 2, "asked for ever");
    }
    // It needs more room than it may take; and each time more.
    let growing = |needed| emitted(&RegionInfo { needed_argsz: Some(needed), ..info() });
    for needed in [0x10_0000, u32::MAX] {
        let (client, server) = liar(vec![growing(needed)], vec![]);
        assert!(matches!(client.map_region(0), Err(ClientError::Malformed { .. })));
        drop(client);
        assert_eq!(server.join().unwrap(), 1);
    }
    let (client, server) = liar(vec![growing(100), growing(200), growing(300)], vec![]);
    assert!(matches!(client.map_region(0), Err(ClientError::Malformed { .. })));
    drop(client);
    assert_eq!(server.join().unwrap(), 2);
}
