//! DMA_MAP and DMA_UNMAP: what the client gives, how the device reaches it, how it is taken back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::pipe;
use vfu::DmaError;
use vfu::dma::Direction;
use vfu::wire::{
    Command, DeviceInfoRequest, DmaMap, DmaMapFlags, DmaUnmapRequest, Errno, Request, UnmapWhat,
};
use vfu_testkit::{Call, RawMessage, RawPeer, SharedRam, TestServer, command, message};

const READ_WRITE: DmaMapFlags = DmaMapFlags::READ.union(DmaMapFlags::WRITE);
const BASE: u64 = 0x10_0000;

fn begin(server: &TestServer) -> RawPeer {
    let peer = RawPeer::begin(server.path()).unwrap();
    peer.enable_bus_master().unwrap();
    peer
}

fn map_request<'a>(flags: DmaMapFlags, offset: u64, address: u64, size: u64) -> Request<'a> {
    Request::DmaMap(DmaMap { flags, offset, address, size })
}

fn unmap_request<'a>(address: u64, size: u64) -> Request<'a> {
    Request::DmaUnmap(DmaUnmapRequest::new(UnmapWhat::Range { address, size }))
}

fn map(peer: &RawPeer, request: &Request<'_>, fd: Option<BorrowedFd<'_>>) -> Option<Errno> {
    let reply = peer.call_with(1, request, fd.as_slice()).unwrap();
    assert!(reply.payload.is_empty());
    reply.errno()
}

/// The size that DMA_UNMAP's reply says.
fn unmap(peer: &RawPeer, address: u64, size: u64) -> Result<u64, Errno> {
    let reply = peer.call(1, &unmap_request(address, size)).unwrap();
    reply.errno().map_or_else(|| Ok(unmapped_size(&reply)), Err)
}

fn unmapped_size(reply: &RawMessage) -> u64 {
    assert_eq!(reply.payload.len(), 24, "there are clients that wait for all of it");
    u64::from_le_bytes(reply.payload[16..24].try_into().unwrap())
}

/// A DMA_MAP payload that need not make sense.
fn raw_map(argsz: u32, flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    let mut payload = [argsz.to_le_bytes(), flags.to_le_bytes()].concat();
    payload.extend([offset, address, size].iter().flat_map(|value| value.to_le_bytes()));
    payload
}

#[test]
fn maps_that_cannot_be_are_refused() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 4096).unwrap();
    let bad = [
        ("argsz", raw_map(31, 3, 0, BASE, 4096), true),
        ("short", raw_map(32, 3, 0, BASE, 4096)[..31].to_vec(), true),
        ("unknown flag", raw_map(32, 3 | 1 << 4, 0, BASE, 4096), true),
        ("no permission", raw_map(32, 0, 0, BASE, 4096), true),
        ("mmap without fd", raw_map(32, 3 | 4, 0, BASE, 4096), false),
        ("file I/O without fd", raw_map(32, 3 | 8, 0, BASE, 4096), false),
        ("both modes", raw_map(32, 3 | 4 | 8, 0, BASE, 4096), true),
        ("empty", raw_map(32, 3, 0, BASE, 0), true),
        ("empty without fd", raw_map(32, 3, 0, BASE, 0), false),
        ("wraps", raw_map(32, 3, 0, u64::MAX - 4095, 4097), false),
        ("offset over 2^63", raw_map(32, 3, 1 << 63, BASE, 4096), true),
        ("offset + size wraps", raw_map(32, 3, i64::MAX as u64, BASE, (1 << 63) + 1), true),
    ];
    server.log().take();
    for (what, payload, with_fd) in bad {
        let fd = [ram.as_fd()];
        let bytes = message(1, Command::DmaMap.as_u16(), 0, &payload);
        peer.send_with(&bytes, if with_fd { &fd } else { &[] }).unwrap();
        let reply = peer.recv_reply(1, Command::DmaMap).unwrap();
        assert_eq!(reply.errno(), Some(Errno::EINVAL), "{what}");
    }
    assert_eq!(server.log().take(), []);
    let end = map_request(READ_WRITE, 0, u64::MAX - 4095, 4096);
    assert_eq!(map(&peer, &end, None), None, "ending at 2^64 is fine");
    assert_eq!(unmap(&peer, u64::MAX - 4095, 4096), Ok(4096));
}

#[test]
fn maps_may_not_overlap() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 0x4000).unwrap();
    let other = SharedRam::new(BASE, 0x4000).unwrap();
    let fd = Some(ram.as_fd());
    let middle = map_request(READ_WRITE, 0, BASE + 0x1000, 0x2000);
    assert_eq!(map(&peer, &middle, fd), None);
    let overlapping = [
        (0x0000, 0x1001),
        (0x0000, 0x4000),
        (0x1000, 0x1000),
        (0x1000, 0x2001),
        (0x1800, 0x0001),
        (0x2fff, 0x1000),
    ];
    for (at, size) in overlapping {
        for fd in [fd, None] {
            let request = map_request(READ_WRITE, 0, BASE + at, size);
            assert_eq!(map(&peer, &request, fd), Some(Errno::EEXIST), "{at:#x} {size:#x}");
        }
    }
    // The same range, but not the same memory.
    let same = |flags, offset| map_request(flags, offset, BASE + 0x1000, 0x2000);
    assert_eq!(map(&peer, &same(READ_WRITE, 0x1000), fd), Some(Errno::EEXIST));
    assert_eq!(map(&peer, &same(DmaMapFlags::READ, 0), fd), Some(Errno::EEXIST));
    assert_eq!(map(&peer, &middle, Some(other.as_fd())), Some(Errno::EEXIST));
    assert_eq!(map(&peer, &middle, None), Some(Errno::EEXIST));
    // The very same: fine, however often. Right beside: fine.
    for _ in 0..100 {
        assert_eq!(map(&peer, &middle, fd), None);
    }
    assert_eq!(map(&peer, &map_request(READ_WRITE, 0, BASE, 0x1000), fd), None);
    assert_eq!(map(&peer, &map_request(READ_WRITE, 0, BASE + 0x3000, 1), None), None);
    assert_eq!(unmap(&peer, BASE + 0x1000, 0x2000), Ok(0x2000));
    assert_eq!(unmap(&peer, BASE + 0x1000, 0x2000), Ok(0), "once is all");
}

#[test]
fn only_whole_maps_are_unmapped() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 0x2000).unwrap();
    for at in [0, 0x1000] {
        let request = map_request(READ_WRITE, at, BASE + at, 0x1000);
        assert_eq!(map(&peer, &request, Some(ram.as_fd())), None);
    }
    let partial = [(0, 0xfff), (1, 0xfff), (0, 0x1001), (0, 0x2000), (0x800, 0x1000), (0xfff, 1)];
    for (at, size) in partial {
        assert_eq!(unmap(&peer, BASE + at, size), Err(Errno::ENOENT), "{at:#x} {size:#x}");
    }
    assert_eq!(unmap(&peer, BASE - 1, 0x1002), Err(Errno::ENOENT));
    for (address, size) in [(BASE - 0x1000, 0x1000), (BASE + 0x2000, 1), (0, 1)] {
        assert_eq!(unmap(&peer, address, size), Ok(0), "nothing is there");
    }
    server.log().take();
    assert_eq!(unmap(&peer, BASE, 0x1000), Ok(0x1000));
    assert!(matches!(server.log().take()[..], [Call::Unmapped(range)] if range.address == BASE));
}

#[test]
fn unmaps_that_cannot_be_are_refused() {
    let server = TestServer::start();
    let peer = begin(&server);
    assert_eq!(map(&peer, &map_request(READ_WRITE, 0, BASE, 0x1000), None), None);
    let unmap = |argsz: u32, flags: u32, values: &[u64]| {
        let mut payload = [argsz.to_le_bytes(), flags.to_le_bytes()].concat();
        payload.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        peer.send(&message(1, Command::DmaUnmap.as_u16(), 0, &payload)).unwrap();
        peer.recv_reply(1, Command::DmaUnmap).unwrap().errno()
    };
    let refused = Some(Errno::EINVAL);
    assert_eq!(unmap(23, 0, &[BASE, 0x1000]), refused);
    assert_eq!(unmap(0, 0, &[BASE, 0x1000]), refused);
    assert_eq!(unmap(24, 0, &[BASE]), refused);
    assert_eq!(unmap(24, 0, &[BASE, 0]), refused);
    assert_eq!(unmap(24, 0, &[u64::MAX, 2]), refused);
    assert_eq!(unmap(24, 2, &[BASE, 0x1000]), refused, "ALL with a range");
    assert_eq!(unmap(24, 3, &[0, 0]), refused);
    assert_eq!(unmap(24, 4, &[BASE, 0x1000]), refused);
    assert_eq!(unmap(24, 1, &[BASE, 0x1000]), refused, "bitmap without its head");
    assert_eq!(unmap(48, 1, &[BASE, 0x1000, 4096, u64::MAX]), refused);
    assert_eq!(unmap(48, 1, &[BASE, 0x1000, 0, 8]), refused);
    assert_eq!(unmap(48, 1, &[BASE, 0x1000, 4096, 8]), refused, "nothing is logged");
    assert_eq!(unmap(u32::MAX, 0, &[BASE, 0x1000]), None);
    assert_eq!(unmap(24, 2, &[0, 0]), None, "ALL of nothing");
}

#[test]
fn all_is_unmapped_at_once() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 0x1000).unwrap();
    for i in 0..20 {
        let fd = (i % 2 == 0).then(|| ram.as_fd());
        let request = map_request(READ_WRITE, 0, BASE + i * 0x1000, 0x1000);
        assert_eq!(map(&peer, &request, fd), None);
    }
    server.log().take();
    let all = Request::DmaUnmap(DmaUnmapRequest::new(UnmapWhat::All));
    let reply = peer.call(1, &all).unwrap();
    assert_eq!((reply.errno(), reply.payload.len()), (None, 24));
    let calls = server.log().take();
    assert_eq!(calls.len(), 20);
    assert!(calls.iter().all(|call| matches!(call, Call::Unmapped(_))));
    let read = server.handle().dma().read(BASE, &mut [0; 4]);
    assert_eq!(read, Err(DmaError::NotMapped { address: BASE }));
}

#[test]
fn bursts_may_be_pipelined() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 0x10_0000).unwrap();
    for i in 0..12 {
        let request = map_request(READ_WRITE, i * 0x1000, BASE + i * 0x1000, 0x1000);
        assert_eq!(map(&peer, &request, Some(ram.as_fd())), None);
    }
    // As QEMU does when the guest moves its memory: only the last reply is waited for.
    for i in 0..12 {
        peer.send(&command(i as u16, &unmap_request(BASE + i * 0x1000, 0x1000))).unwrap();
    }
    for i in 0..18 {
        let request = map_request(READ_WRITE, i * 0x2000, BASE + i * 0x2000, 0x2000);
        let fd = [ram.as_fd()];
        let fd = if i % 3 == 2 { &fd[..0] } else { &fd[..] };
        peer.send_with(&command(100 + i as u16, &request), fd).unwrap();
    }
    for id in 0..12 {
        let reply = peer.recv_reply(id, Command::DmaUnmap).unwrap();
        assert_eq!((reply.errno(), unmapped_size(&reply)), (None, 0x1000));
    }
    for id in 100..118 {
        assert_eq!(peer.recv_reply(id, Command::DmaMap).unwrap().errno(), None);
    }
    server.handle().dma().write(BASE + 0x7ffe, b"over").unwrap();
    assert_eq!(ram.bytes(BASE + 0x7ffe, 4).unwrap(), b"over", "across the border of two maps");
}

#[test]
fn addresses_and_offsets_need_not_be_whole_pages() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(0, 0x4000).unwrap();
    for mode in [DmaMapFlags::MMAP, DmaMapFlags::FILE_IO] {
        ram.write(0, &[0x11; 0x4000]).unwrap();
        let request = map_request(READ_WRITE | mode, 0x1abc, BASE + 0x123, 0x321);
        assert_eq!(map(&peer, &request, Some(ram.as_fd())), None);
        let dma = server.handle().dma();
        dma.write(BASE + 0x123, &[0x22; 0x321]).unwrap();
        let file = ram.bytes(0, 0x4000).unwrap();
        let (start, end) = (0x1abc, 0x1abc + 0x321);
        assert!(file[start..end].iter().all(|byte| *byte == 0x22));
        assert!(file[..start].iter().chain(&file[end..]).all(|byte| *byte == 0x11));
        let (before, after) = (BASE + 0x122, BASE + 0x123 + 0x321);
        assert_eq!(dma.write(before, &[0; 2]), Err(DmaError::NotMapped { address: before }));
        assert_eq!(dma.write(after - 1, &[0; 2]), Err(DmaError::NotMapped { address: after }));
        assert_eq!(dma.read(after, &mut []), Ok(()), "nothing is always there");
        assert_eq!(unmap(&peer, BASE + 0x123, 0x321), Ok(0x321));
    }
}

#[test]
fn permissions_hold() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 0x2000).unwrap();
    let fd = Some(ram.as_fd());
    assert_eq!(map(&peer, &map_request(DmaMapFlags::READ, 0, BASE, 0x1000), fd), None);
    let write_only = map_request(DmaMapFlags::WRITE, 0x1000, BASE + 0x1000, 0x1000);
    assert_eq!(map(&peer, &write_only, fd), None);
    let dma = server.handle().dma();
    dma.read(BASE, &mut [0; 16]).unwrap();
    dma.write(BASE + 0x1000, &[1; 16]).unwrap();
    let (address, direction) = (BASE, Direction::Write);
    assert_eq!(dma.write(BASE, &[0]), Err(DmaError::Permission { address, direction }));
    let (address, direction) = (BASE + 0x1000, Direction::Read);
    let denied = Err(DmaError::Permission { address, direction });
    assert_eq!(dma.read(BASE + 0x1000, &mut [0]), denied);
    ram.write(BASE, &[7; 0x1000]).unwrap();
    let mut both = [0; 0x2000];
    assert_eq!(dma.read(BASE, &mut both), denied, "checked before a byte moves");
}

fn open_file(path: &std::path::Path, flags: OFlags) -> OwnedFd {
    open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).unwrap()
}

#[test]
fn files_that_cannot_be_mapped_are_refused() {
    let server = TestServer::start();
    let peer = begin(&server);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, [0; 4096]).unwrap();
    let request = |flags| map_request(flags, 0, BASE, 4096);
    let (read, _write) = pipe().unwrap();
    let refused = [
        (read, READ_WRITE),
        (eventfd(0, EventfdFlags::CLOEXEC).unwrap(), READ_WRITE),
        (open_file(folder.path(), OFlags::RDONLY | OFlags::DIRECTORY), READ_WRITE),
        (open_file(&path, OFlags::PATH), DmaMapFlags::READ),
        (RawPeer::pair().unwrap().1, READ_WRITE),
    ];
    for (fd, flags) in refused {
        assert!(map(&peer, &request(flags), Some(fd.as_fd())).is_some(), "{fd:?}");
        assert_eq!(unmap(&peer, BASE, 4096), Ok(0), "{fd:?}: nothing was mapped");
    }
    let read_only = open_file(&path, OFlags::RDONLY);
    assert_eq!(map(&peer, &request(READ_WRITE), Some(read_only.as_fd())), Some(Errno::EACCES));
    assert_eq!(map(&peer, &request(DmaMapFlags::READ), Some(read_only.as_fd())), None);
}

#[test]
fn past_the_end_of_a_file_is_an_error_and_no_signal() {
    let server = TestServer::start();
    let peer = begin(&server);
    let dma = server.handle().dma();
    for mode in [DmaMapFlags::MMAP, DmaMapFlags::FILE_IO] {
        let ram = SharedRam::new(BASE, 0x2000).unwrap();
        let request = map_request(READ_WRITE | mode, 0, BASE, 0x10000);
        assert_eq!(map(&peer, &request, Some(ram.as_fd())), None, "a short file can be mapped");
        let beyond = |address| Err(DmaError::File { address, errno: Errno::EFAULT });
        dma.write(BASE + 0x1ffc, &[1; 4]).unwrap();
        assert_eq!(dma.read(BASE + 0x2000, &mut [0]), beyond(BASE + 0x2000), "{mode:?}");
        assert_eq!(dma.write(BASE + 0x8000, &[0; 64]), beyond(BASE + 0x8000), "{mode:?}");
        assert_eq!(dma.write(BASE + 0x1ffc, &[0; 5]), beyond(BASE + 0x1ffc), "{mode:?}");
        ram.truncate(0x10000).unwrap();
        dma.write(BASE + 0x8000, &[2; 64]).unwrap();
        ram.truncate(0).unwrap();
        assert_eq!(dma.read(BASE, &mut [0]), beyond(BASE), "truncated later: {mode:?}");
        assert_eq!(dma.write(BASE, &[0; 256]), beyond(BASE), "truncated later: {mode:?}");
        assert_eq!(unmap(&peer, BASE, 0x10000), Ok(0x10000));
    }
}

#[test]
fn surplus_descriptors_do_no_harm() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 0x1000).unwrap();
    let other = SharedRam::new(BASE, 0x1000).unwrap();
    let fds = [ram.as_fd(), other.as_fd(), other.as_fd()];
    let request = map_request(READ_WRITE, 0, BASE, 0x1000);
    assert_eq!(peer.call_with(1, &request, &fds).unwrap().errno(), None);
    server.handle().dma().write(BASE, b"first").unwrap();
    assert_eq!(ram.bytes(BASE, 5).unwrap(), b"first");
    let reply = peer.call_with(2, &unmap_request(BASE, 0x1000), &fds[..1]).unwrap();
    assert_eq!((reply.errno(), unmapped_size(&reply)), (None, 0x1000));
    let info = Request::DeviceGetInfo(DeviceInfoRequest::new());
    assert_eq!(peer.call_with(3, &info, &fds).unwrap().errno(), None);
}

#[test]
fn a_table_can_be_full() {
    let server = TestServer::with(|builder| builder.max_dma_maps(3));
    let peer = begin(&server);
    let request = |i: u64| map_request(READ_WRITE, 0, BASE + i * 0x1000, 0x1000);
    for i in 0..3 {
        assert_eq!(map(&peer, &request(i), None), None);
    }
    let refused = map(&peer, &request(3), None);
    assert!(matches!(refused, Some(Errno::EINVAL | Errno::ENOSPC)), "{refused:?}");
    assert_eq!(map(&peer, &request(2), None), None, "the same again needs no room");
    assert_eq!(unmap(&peer, BASE, 0x1000), Ok(0x1000));
    assert_eq!(map(&peer, &request(3), None), None);
}

/// More than a process may have mappings or descriptors.
#[test]
fn a_file_may_be_mapped_in_ever_so_many_pieces() {
    const COUNT: u64 = 66_000;
    let server = TestServer::with(|builder| builder.max_dma_maps(COUNT as u32));
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 4096).unwrap();
    for i in 0..COUNT {
        let request = map_request(READ_WRITE, i % 64 * 64, BASE + i * 0x1000, 64);
        assert_eq!(map(&peer, &request, Some(ram.as_fd())), None);
    }
    let (dma, last) = (server.handle().dma(), COUNT - 1);
    dma.write(BASE + last * 0x1000, b"here").unwrap();
    let mut seen = [0; 4];
    ram.read(BASE + last % 64 * 64, &mut seen).unwrap();
    assert_eq!(&seen, b"here");
    assert!(dma.read(BASE + last * 0x1000 + 61, &mut [0; 4]).is_err());
    assert_eq!(unmap(&peer, BASE + last * 0x1000, 64), Ok(64));
    dma.read(BASE, &mut [0; 4]).unwrap();
}

#[test]
fn the_device_hears_of_what_is_mapped() {
    let server = TestServer::start();
    let peer = begin(&server);
    let ram = SharedRam::new(BASE, 0x1000).unwrap();
    server.log().take();
    let read_only = map_request(DmaMapFlags::READ, 0, BASE, 0x1000);
    assert_eq!(map(&peer, &read_only, Some(ram.as_fd())), None);
    assert_eq!(map(&peer, &map_request(READ_WRITE, 0, BASE + 0x1000, 0x800), None), None);
    drop(peer);
    let gone = Call::Reset(vfu::device::Reset::ConnectionLost);
    server.log().wait_for(&gone).unwrap();
    let direct = vfu::device::DmaRange {
        address: BASE,
        size: 0x1000,
        readable: true,
        writable: false,
        direct: true,
    };
    let by_message = vfu::device::DmaRange {
        address: BASE + 0x1000,
        size: 0x800,
        readable: true,
        writable: true,
        direct: false,
    };
    let expected = [
        Call::Mapped(direct),
        Call::Mapped(by_message),
        Call::Unmapped(direct),
        Call::Unmapped(by_message),
        gone,
    ];
    assert_eq!(server.log().take(), expected);
}
