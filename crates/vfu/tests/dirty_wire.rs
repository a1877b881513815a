//! Dirty page logging, byte by byte: what a server answers to odd and bad requests (rows G7 to G9 and
//! M8 of the hostile peers).

mod dirty_server;

use std::os::fd::AsFd;
use std::path::PathBuf;

use proptest::prelude::*;
use vfu::Dma;
use vfu::wire::{
    Command, DmaMap, DmaMapFlags, DmaUnmapFlags, DmaUnmapReply, Errno, FeatureOp, FeatureReply,
    FeatureRequest, FeatureResult, LoggingRange, LoggingRanges, Request, bitmap_len,
};
use vfu_testkit::{RawMessage, RawPeer, SharedRam, message};

use dirty_server::{Served, serve};

const PAGE: u64 = 4096;
const BASE: u64 = 0x10_0000;
const SIZE: u64 = 0x10_0000;
const NONE: [usize; 0] = [];

struct Place {
    peer: RawPeer,
    dma: Dma,
    path: PathBuf,
    _served: Served,
}

/// A server whose device can't be migrated, and its first client.
fn place() -> Place {
    let served = serve(false);
    let peer = RawPeer::begin(&served.path).unwrap();
    peer.enable_bus_master().unwrap();
    let (dma, path) = (served.dma.clone(), served.path.clone());
    Place { peer, dma, path, _served: served }
}

impl Place {
    fn ram(&self, address: u64, size: u64) -> SharedRam {
        self.ram_by(address, size, DmaMapFlags::empty())
    }

    fn ram_by(&self, address: u64, size: u64, mode: DmaMapFlags) -> SharedRam {
        let ram = SharedRam::new(address, size).unwrap();
        let flags = DmaMapFlags::READ | DmaMapFlags::WRITE | mode;
        let map = Request::DmaMap(DmaMap { flags, offset: 0, address, size });
        let reply = self.peer.call_with(1, &map, &[ram.as_fd()]).unwrap();
        assert_eq!(reply.errno(), None);
        ram
    }

    fn by_message(&self, address: u64, size: u64) {
        let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
        let map = Request::DmaMap(DmaMap { flags, offset: 0, address, size });
        assert_eq!(self.peer.call(1, &map).unwrap().errno(), None);
    }

    fn unmap(&self, address: u64, size: u64) {
        let what = vfu::wire::UnmapWhat::Range { address, size };
        let request = Request::DmaUnmap(vfu::wire::DmaUnmapRequest::new(what));
        assert_eq!(self.peer.call(1, &request).unwrap().errno(), None);
    }

    fn send(&self, command: Command, payload: &[u8]) -> RawMessage {
        self.peer.send(&message(7, command.as_u16(), 0, payload)).unwrap();
        self.peer.recv_reply(7, command).unwrap()
    }

    fn feature(&self, op: FeatureOp<'_>) -> RawMessage {
        self.peer.call(9, &Request::DeviceFeature(FeatureRequest::new(op))).unwrap()
    }

    /// The page size of the answer.
    fn start_in(&self, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64, Errno> {
        let entries: Vec<_> = ranges.iter().map(|&(at, len)| LoggingRange::new(at, len)).collect();
        let ranges = LoggingRanges::new(&entries);
        let reply = self.feature(FeatureOp::SetLoggingStart { page_size, ranges });
        if let Some(errno) = reply.errno() {
            return Err(errno);
        }
        match FeatureReply::parse(&reply.payload).unwrap().result {
            FeatureResult::SetLoggingStart { page_size, ranges } => {
                assert_eq!(ranges.entries(), entries, "the ranges are repeated");
                Ok(page_size)
            }
            other => panic!("{other:?}"),
        }
    }

    fn start(&self, page_size: u64) -> Result<u64, Errno> {
        self.start_in(page_size, &[])
    }

    fn stop(&self) {
        let reply = self.feature(FeatureOp::SetLoggingStop);
        assert_eq!(reply.errno(), None);
        assert_eq!(reply.payload, [8, 0, 0, 0, 7, 0, 2, 0], "the request, repeated");
    }

    fn report(&self, iova: u64, length: u64, page_size: u64) -> Result<Vec<u8>, Errno> {
        let reply = self.feature(FeatureOp::GetLoggingReport { iova, length, page_size });
        if let Some(errno) = reply.errno() {
            return Err(errno);
        }
        let parsed = FeatureReply::parse(&reply.payload).unwrap();
        assert_eq!(parsed.argsz as usize, reply.payload.len());
        match parsed.result {
            FeatureResult::GetLoggingReport { iova: i, length: l, page_size: p, bitmap } => {
                assert_eq!((i, l, p), (iova, length, page_size), "the request, repeated");
                assert_eq!(reply.payload.len(), 32 + bitmap.len(), "nothing behind it");
                Ok(bitmap.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    /// The numbers of the bits that are set.
    fn bits(&self, iova: u64, length: u64, page_size: u64) -> Vec<usize> {
        set_bits(&self.report(iova, length, page_size).unwrap())
    }
}

fn set_bits(bitmap: &[u8]) -> Vec<usize> {
    (0..bitmap.len() * 8).filter(|bit| bitmap[bit / 8] >> (bit % 8) & 1 == 1).collect()
}

fn start_payload(page_size: u64, num_ranges: u32, data: &[u8]) -> Vec<u8> {
    let mut payload = 64u32.to_le_bytes().to_vec();
    payload.extend((6u32 | 1 << 17).to_le_bytes());
    payload.extend(page_size.to_le_bytes());
    payload.extend(num_ranges.to_le_bytes());
    payload.extend([0; 4]);
    payload.extend(data);
    payload
}

fn report_payload(argsz: u32, iova: u64, length: u64, page_size: u64) -> Vec<u8> {
    let mut payload = argsz.to_le_bytes().to_vec();
    payload.extend((8u32 | 1 << 16).to_le_bytes());
    [iova, length, page_size].iter().for_each(|field| payload.extend(field.to_le_bytes()));
    payload
}

fn unmap_payload(argsz: u32, flags: u32, address: u64, size: u64, more: &[u64]) -> Vec<u8> {
    let mut payload = argsz.to_le_bytes().to_vec();
    payload.extend(flags.to_le_bytes());
    [address, size].iter().chain(more).for_each(|field| payload.extend(field.to_le_bytes()));
    payload
}

#[test]
fn every_device_can_log() {
    let place = place();
    for (index, method) in [(6, 1 << 17), (7, 1 << 17), (8, 1 << 16), (6, 0), (7, 0), (8, 0)] {
        let flags: u32 = index | method | 1 << 18;
        let payload = [8u32.to_le_bytes(), flags.to_le_bytes()].concat();
        let reply = place.send(Command::DeviceFeature, &payload);
        assert_eq!(reply.errno(), None, "{index}");
        assert_eq!(reply.payload, payload);
    }
    // A report can't be set, a start can't be read, and there is nothing to migrate.
    for flags in [8u32 | 3 << 17, 6 | 1 << 16 | 1 << 18, 1 | 1 << 16, 1 | 1 << 18] {
        let payload = [64u32.to_le_bytes(), flags.to_le_bytes()].concat();
        let reply = place.send(Command::DeviceFeature, &payload);
        assert_eq!(reply.errno(), Some(Errno::EINVAL), "{flags:#x}");
    }
}

#[test]
fn g7_page_sizes_of_a_start() {
    let place = place();
    let _ram = place.ram(BASE, SIZE);
    for page_size in [0, 3, 4097, (1 << 63) + 1, u64::MAX] {
        assert_eq!(place.start(page_size), Err(Errno::EINVAL), "{page_size}");
    }
    // Anything below 4 KiB is 4 KiB: who asks for less gets it said.
    for page_size in [1, 2, 2048, PAGE, 1 << 16, 1 << 21, 1 << 40, 1 << 63] {
        assert_eq!(place.start(page_size), Ok(page_size.max(PAGE)));
        place.dma.write(BASE + 0x5000, &[1]).unwrap();
        let bits = place.bits(BASE, SIZE, PAGE);
        let expected: Vec<_> = match page_size {
            0..=0x1000 => vec![5],
            0x1_0000 => (0..16).collect(),
            _ => (0..256).collect(),
        };
        assert_eq!(bits, expected, "{page_size:#x}");
        place.stop();
        place.stop();
    }
}

#[test]
fn g7_ranges_of_a_start() {
    let place = place();
    let _ram = place.ram(BASE, SIZE);
    let refused = [
        start_payload(PAGE, 5, &[]),
        start_payload(PAGE, 1, &[0; 15]),
        start_payload(PAGE, 1, &[1; 17]),
        start_payload(PAGE, 0, &[1; 16]),
        start_payload(PAGE, u32::MAX, &[1; 16]),
        start_payload(PAGE, 1, &[0; 16]),
        start_payload(PAGE, 1, &[0xff; 16]),
        start_payload(PAGE, 0, &[])[..23].to_vec(),
        start_payload(PAGE, 0, &[])[..8].to_vec(),
    ];
    for payload in refused {
        let reply = place.send(Command::DeviceFeature, &payload);
        assert_eq!(reply.errno(), Some(Errno::EINVAL), "{payload:x?}");
        assert_eq!(place.report(BASE, SIZE, PAGE), Err(Errno::EINVAL), "it did not start");
    }
    let whole = (0, u64::MAX);
    for ranges in [
        vec![whole, (0, 1)],
        vec![(BASE, PAGE), (BASE, PAGE)],
        vec![(BASE, PAGE + 1), (BASE + PAGE, PAGE)],
        vec![(5, 10), (0, 6), (u64::MAX, 1)],
        vec![(u64::MAX, 2)],
        vec![(BASE, 0)],
    ] {
        assert_eq!(place.start_in(PAGE, &ranges), Err(Errno::EINVAL), "{ranges:x?}");
    }
    for ranges in [
        vec![whole],
        vec![(BASE + PAGE, PAGE), (BASE, PAGE)],
        vec![(0x7000_0000, 1 << 40)],
        vec![(3, 7)],
        vec![(u64::MAX, 1)],
    ] {
        assert_eq!(place.start_in(PAGE, &ranges), Ok(PAGE), "{ranges:x?}");
        place.stop();
    }
}

#[test]
fn g7_tiny_pages_on_a_terabyte_take_no_memory() {
    let place = place();
    for n in 0..64 {
        // No byte of it exists; writes below give it some.
        let _ram = place.ram(n << 40, 1 << 40);
    }
    assert_eq!(place.start(1), Ok(PAGE));
    place.dma.write((5 << 40) + 0x3000, &[1]).unwrap();
    place.dma.write((63 << 40) + (1 << 39), &[1]).unwrap();
    assert_eq!(place.bits(5 << 40, 1 << 20, PAGE), [3]);
    let far = place.bits((63 << 40) + (1 << 39) - PAGE, 2 * PAGE, PAGE);
    assert!(far.contains(&1), "{far:?}");
    // So much memory is logged in larger pages, of which only a part was asked for.
    assert_eq!(place.bits(0, u64::MAX, 1 << 50), [0]);
    assert_eq!(place.bits(0, u64::MAX, 1 << 50), NONE);
}

#[test]
fn g8_reports_that_are_refused() {
    let place = place();
    let _ram = place.ram(BASE, SIZE);
    assert_eq!(place.report(BASE, SIZE, PAGE), Err(Errno::EINVAL), "before the start");
    place.start(PAGE).unwrap();
    place.dma.write(BASE, &[1]).unwrap();
    let refused = [
        report_payload(1 << 20, BASE, 0, PAGE),
        report_payload(1 << 20, u64::MAX, 2, 1),
        report_payload(1 << 20, BASE, u64::MAX, PAGE),
        report_payload(1 << 20, BASE, SIZE, 0),
        report_payload(1 << 20, BASE, SIZE, 3),
        report_payload(1 << 20, BASE, SIZE, 4097),
        report_payload(1 << 20, BASE, PAGE, 2 * PAGE),
        report_payload(0, BASE, SIZE, PAGE),
        report_payload(32, BASE, SIZE, PAGE),
        report_payload(32 + 31, BASE, SIZE, PAGE),
        report_payload(1 << 20, BASE, SIZE, PAGE)[..31].to_vec(),
        report_payload(1 << 20, BASE, SIZE, PAGE)[..8].to_vec(),
        // The bitmaps would be longer than a message may be.
        report_payload(u32::MAX, 0, 1 << 40, PAGE),
        report_payload(u32::MAX, 0, (8 << 20) + 1, 1),
        report_payload(u32::MAX, 0, u64::MAX, 1),
    ];
    for payload in refused {
        let reply = place.send(Command::DeviceFeature, &payload);
        assert_eq!(reply.errno(), Some(Errno::EINVAL), "{payload:x?}");
    }
    let longest = place.report(0, 8 << 20, 1).unwrap();
    assert_eq!(longest.len(), 1 << 20);
    assert_eq!(set_bits(&longest).len(), PAGE as usize, "nothing was forgotten until now");
    let exact = report_payload(32 + 32, BASE, SIZE, PAGE);
    assert_eq!(place.send(Command::DeviceFeature, &exact).errno(), None);
}

#[test]
fn g8_ranges_of_a_report() {
    let place = place();
    let end = BASE + SIZE;
    let _low = place.ram(BASE, SIZE);
    let _high = place.ram(end, SIZE);
    place.by_message(0x4000_0000, SIZE);
    place.start(PAGE).unwrap();
    let dirty = |pages: &[u64]| {
        pages.iter().for_each(|page| place.dma.write(page * PAGE, &[1]).unwrap());
    };
    let (base, border) = (BASE / PAGE, end / PAGE);
    dirty(&[base, base + 70, border - 1, border]);
    assert_eq!(place.bits(BASE + 64 * PAGE, 64 * PAGE, PAGE), [6], "from inside");
    assert_eq!(place.bits(end - PAGE, 2 * PAGE, PAGE), [0, 1], "across");
    assert_eq!(place.bits(0, 4 * SIZE, PAGE), [256], "beyond, and what is left");
    dirty(&[base, border]);
    assert_eq!(place.bits(BASE - PAGE, 2 * SIZE, PAGE), [1, 257], "one bit later");
    dirty(&[base + 3]);
    assert_eq!(place.bits(BASE, SIZE, 2 * PAGE), [1], "combined");
    dirty(&[base + 3]);
    assert_eq!(place.bits(BASE, SIZE, 1024), [12, 13, 14, 15], "replicated");
    dirty(&[base + 3]);
    assert_eq!(place.bits(BASE + 0x3800, 0x1001, 0x1000), [0], "a length of no page's multiple");
    assert_eq!(place.bits(BASE, SIZE, PAGE), [3], "half of it was not asked for");
    assert_eq!(place.bits(0x4000_0000, SIZE, PAGE), NONE, "by message: the client knows");
    assert_eq!(place.bits(0x8000_0000, SIZE, PAGE), NONE, "nothing is there");
    assert_eq!(place.bits(u64::MAX, 1, 1), NONE);
}

#[test]
fn g9_mappings_that_come_and_go() {
    let place = place();
    place.start(1 << 16).unwrap();
    // Smaller than a page of the log, and not at its border.
    let odd = BASE + 0x123;
    for mode in [DmaMapFlags::empty(), DmaMapFlags::FILE_IO] {
        let _ram = place.ram_by(odd, 0x100, mode);
        assert_eq!(place.bits(BASE, SIZE, PAGE), NONE, "a new mapping is clean");
        place.dma.write(odd + 0xff, &[1]).unwrap();
        assert_eq!(place.bits(BASE, SIZE, PAGE), [0]);
        place.dma.write(odd, &[1]).unwrap();
        let expected: Vec<_> = (0x123..0x223).collect();
        assert_eq!(place.bits(BASE, PAGE, 1), expected, "the mapping, and no byte more");
        place.dma.write(odd, &[1]).unwrap();
        place.unmap(odd, 0x100);
    }
    assert_eq!(place.bits(BASE, SIZE, PAGE), NONE, "what is unmapped has no dirty pages");
    assert_eq!(place.start(1 << 16), Ok(1 << 16));
    assert_eq!(place.start(PAGE), Err(Errno::EINVAL));
}

#[test]
fn g9_logging_ends_with_the_session() {
    let place = place();
    place.start(PAGE).unwrap();
    let Place { peer, path, dma, _served } = place;
    drop(peer);
    let peer = RawPeer::begin(&path).unwrap();
    peer.enable_bus_master().unwrap();
    let place = Place { peer, path, dma, _served };
    let _ram = place.ram(BASE, SIZE);
    place.dma.write(BASE, &[1]).unwrap();
    assert_eq!(place.report(BASE, SIZE, PAGE), Err(Errno::EINVAL));
    assert_eq!(place.start(2 * PAGE), Ok(2 * PAGE));
    assert_eq!(place.bits(BASE, SIZE, PAGE), NONE);
}

#[test]
fn m8_unmaps_with_a_bitmap() {
    let place = place();
    let _ram = place.ram(BASE, SIZE);
    let dirty = DmaUnmapFlags::GET_DIRTY_BITMAP.bits();
    let whole = |argsz, more: &[u64]| unmap_payload(argsz, dirty, BASE, SIZE, more);
    let refuse = |payload: Vec<u8>, errno| {
        let reply = place.send(Command::DmaUnmap, &payload);
        assert_eq!(reply.errno(), Some(errno), "{payload:x?}");
        place.dma.write(BASE + 0x3000, &[1]).unwrap(); // it is still there
    };
    refuse(whole(72, &[PAGE, 32]), Errno::EINVAL); // logging is off
    place.start(PAGE).unwrap();
    refuse(whole(72, &[]), Errno::EINVAL);
    refuse(whole(72, &[PAGE]), Errno::EINVAL);
    refuse(whole(71, &[PAGE, 32]), Errno::EINVAL);
    for (pgsize, size) in [(0, 32), (3, 32), (PAGE, 0), (PAGE, 31), (PAGE, 40), (PAGE, u64::MAX)] {
        refuse(whole(u32::MAX, &[pgsize, size]), Errno::EINVAL);
    }
    refuse(unmap_payload(72, dirty | 2, 0, 0, &[PAGE, 32]), Errno::EINVAL);
    refuse(unmap_payload(72, dirty | 4, BASE, SIZE, &[PAGE, 32]), Errno::EINVAL);
    let half = bitmap_len(SIZE / 2, PAGE).unwrap();
    refuse(unmap_payload(72, dirty, BASE, SIZE / 2, &[PAGE, half]), Errno::ENOENT);
    refuse(unmap_payload(72, dirty, BASE, 2 * SIZE, &[PAGE, 64]), Errno::EINVAL); // argsz
    refuse(unmap_payload(104, dirty, BASE, 2 * SIZE, &[PAGE, 64]), Errno::ENOENT);
    let too_long = bitmap_len(1 << 40, PAGE).unwrap();
    refuse(unmap_payload(u32::MAX, dirty, 0, 1 << 40, &[PAGE, too_long]), Errno::EINVAL);

    let reply = place.send(Command::DmaUnmap, &whole(100, &[PAGE, 32]));
    assert_eq!(reply.errno(), None);
    let parsed = DmaUnmapReply::parse(&reply.payload).unwrap();
    assert_eq!((parsed.argsz, parsed.address, parsed.size), (100, BASE, SIZE));
    let bitmap = parsed.bitmap.unwrap();
    assert_eq!((bitmap.pgsize, set_bits(bitmap.data)), (PAGE, vec![3]));
    assert_eq!(reply.payload.len(), 40 + 32);
    assert!(place.dma.write(BASE, &[1]).is_err());

    // Once more there is nothing, and a page may be larger than the range.
    let reply = place.send(Command::DmaUnmap, &unmap_payload(48, dirty, BASE, 1, &[1 << 63, 8]));
    let parsed = DmaUnmapReply::parse(&reply.payload).unwrap();
    assert_eq!((parsed.size, parsed.bitmap.unwrap().data), (0, &[0; 8][..]));
    place.by_message(BASE, SIZE);
    let reply = place.send(Command::DmaUnmap, &whole(72, &[PAGE, 32]));
    let parsed = DmaUnmapReply::parse(&reply.payload).unwrap();
    assert_eq!((parsed.size, parsed.bitmap.unwrap().data), (SIZE, &[0; 32][..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes in a feature request of the log, there is an answer, and the session goes on.
    #[test]
    fn any_bytes_have_an_answer(
        requests in proptest::collection::vec(
            (6..9u32, 0..8u32, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..72)), 1..8),
    ) {
        thread_local! {
            static PLACE: Place = place();
        }
        PLACE.with(|place| {
            for (index, method, argsz, data) in requests {
                let mut payload = argsz.to_le_bytes().to_vec();
                payload.extend((index | method << 16).to_le_bytes());
                payload.extend(data);
                place.send(Command::DeviceFeature, &payload);
            }
        });
    }
}
