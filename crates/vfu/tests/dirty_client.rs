//! Dirty page logging, the client's side, against a server that says every byte itself (S12).

use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use vfu::Client;
use vfu::client::{ClientError, DirtyPages, Memory, READ_WRITE};
use vfu::wire::{
    DirtyBitmap, DmaUnmapFlags, DmaUnmapReply, DmaUnmapRequest, Errno, FeatureOp, FeatureReply,
    FeatureRequest, FeatureResult, LoggingRanges, UnmapWhat,
};
use vfu_testkit::{RawListener, RawMessage, RawPeer, SharedRam};

const PAGE: u64 = 4096;
const BASE: u64 = 0x10_0000;
const SIZE: u64 = 0x10_0000;

struct Pair {
    client: Client,
    server: RawPeer,
    _ram: SharedRam,
}

fn work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn(work)
}

fn done<T>(handle: JoinHandle<T>) -> T {
    handle.join().unwrap()
}

/// A client with shared memory, which logs.
fn pair(size: u64, max_transfer: u64) -> Pair {
    pair_with(size, max_transfer, PAGE)
}

/// As [`pair`], with a page size of the log.
fn pair_with(size: u64, max_transfer: u64, page_size: u64) -> Pair {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_path_buf();
    let client = work(move || Client::builder().twin_socket(false).connect(path));
    let server = listener.accept().unwrap();
    let json = format!(r#"{{"capabilities":{{"max_data_xfer_size":{max_transfer}}}}}"#);
    server.answer_handshake(&json, &[]).unwrap();
    let client = done(client).unwrap();
    let ram = SharedRam::new(BASE, size).unwrap();
    let (mapper, file) = (client.clone(), ram.as_fd().try_clone_to_owned().unwrap());
    let mapped = work(move || {
        mapper.dma_map(BASE, size, READ_WRITE, Memory::File(file.as_fd(), 0)).unwrap();
        mapper.start_dma_logging(page_size)
    });
    let map = server.recv().unwrap();
    server.send(&map.reply(&[])).unwrap();
    let start = server.recv().unwrap();
    server.send(&start.reply(&start.payload)).unwrap();
    assert_eq!(done(mapped).unwrap(), page_size);
    Pair { client, server, _ram: ram }
}

impl Pair {
    fn report(
        &self,
        iova: u64,
        len: u64,
        page: u64,
    ) -> JoinHandle<Result<DirtyPages, ClientError>> {
        let client = self.client.clone();
        work(move || client.dma_logging_report(iova, len, page))
    }

    fn unmap(&self) -> JoinHandle<Result<DirtyPages, ClientError>> {
        let client = self.client.clone();
        work(move || client.dma_unmap_dirty(BASE, SIZE, PAGE))
    }
}

/// The range and page size that a report asks for.
fn asked(request: &RawMessage) -> (u64, u64, u64) {
    match FeatureRequest::parse(&request.payload).unwrap().op {
        FeatureOp::GetLoggingReport { iova, length, page_size } => (iova, length, page_size),
        other => panic!("{other:?}"),
    }
}

fn answer(request: &RawMessage, result: FeatureResult<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    FeatureReply::new(result).emit(&mut payload);
    request.reply(&payload)
}

fn bits(request: &RawMessage, bitmap: &[u8]) -> Vec<u8> {
    let (iova, length, page_size) = asked(request);
    answer(request, FeatureResult::GetLoggingReport { iova, length, page_size, bitmap })
}

#[test]
fn bits_beyond_the_range_are_masked() {
    let pair = pair(SIZE, 1 << 20);
    let report = pair.report(BASE + PAGE, 3 * PAGE + 1, PAGE);
    let request = pair.server.recv().unwrap();
    assert_eq!(asked(&request), (BASE + PAGE, 3 * PAGE + 1, PAGE));
    pair.server.send(&bits(&request, &[0xff; 8])).unwrap();
    let pages = done(report).unwrap();
    assert_eq!(pages.ranges().collect::<Vec<_>>(), [(BASE + PAGE, 3 * PAGE + 1)]);
    assert_eq!(pages.as_bytes(), [0xf, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((pages.dirty(), pages.pages()), (4, 4));
}

#[test]
fn reports_that_make_no_sense_are_errors() {
    let pair = pair(SIZE, 1 << 20);
    let ask = || (pair.report(BASE, SIZE, PAGE), pair.server.recv().unwrap());
    let lies = |change: &dyn Fn(&mut Vec<u8>)| {
        let (report, request) = ask();
        let mut payload = bits(&request, &[0; 32])[16..].to_vec();
        change(&mut payload);
        pair.server.send(&request.reply(&payload)).unwrap();
        let error = done(report).unwrap_err();
        assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
    };
    lies(&|payload| payload.truncate(32 + 31)); // short
    lies(&|payload| payload.truncate(32));
    lies(&|payload| payload.truncate(7));
    lies(&|payload| payload.clear());
    lies(&|payload| payload[8] = 1); // another address
    lies(&|payload| payload[17] = 0x20); // another length
    lies(&|payload| payload[16..24].fill(0xff));
    lies(&|payload| payload[25] = 0x20); // another page size
    lies(&|payload| payload[24..32].fill(0));
    lies(&|payload| payload[4] = 7); // another feature
    let (report, request) = ask();
    pair.server.send(&request.refusal(Errno::EINVAL)).unwrap();
    assert!(matches!(done(report), Err(ClientError::Refused { errno: Errno::EINVAL, .. })));
    // More than was asked for, and an argsz of any value, do no harm.
    let (report, request) = ask();
    let mut payload = bits(&request, &[1; 32])[16..].to_vec();
    payload.extend([0xff; 64]);
    payload[..4].fill(0xff);
    pair.server.send(&request.reply(&payload)).unwrap();
    assert_eq!(done(report).unwrap().dirty(), 32);
}

#[test]
fn long_reports_come_in_pieces() {
    // 64 bytes: 512 pages, 2 MiB.
    let size = 0x50_3000;
    let pair = pair(size, 64);
    let report = pair.report(0, BASE + size + PAGE, PAGE);
    let mut next = BASE;
    for (length, bitmap) in
        [(2 << 20, vec![1; 64]), (2 << 20, vec![0; 64]), (0x10_3000, vec![8; 40])]
    {
        let request = pair.server.recv().unwrap();
        assert_eq!(asked(&request), (next, length, PAGE));
        pair.server.send(&bits(&request, &bitmap)).unwrap();
        next += length;
    }
    let pages = done(report).unwrap();
    assert_eq!(pages.dirty(), 64 + 32);
    assert!(pages.is_dirty(BASE) && pages.is_dirty(BASE + (4 << 20) + 3 * PAGE));
    assert!(!pages.is_dirty(BASE + PAGE) && !pages.is_dirty(BASE + (2 << 20)));
}

/// Servers refuse pages that are larger than the range, and libvfio-user can't convert: it asks for
/// the server's own, or smaller ones.
#[test]
fn servers_are_asked_in_their_own_page_size() {
    let pair = pair_with(3 * PAGE, 1 << 20, 4 * PAGE);
    for (page_size, ranges) in [
        (1 << 20, vec![(BASE, 1 << 20)]),
        (PAGE, vec![(BASE + 2 * PAGE, PAGE)]),
        (512, vec![(BASE + 2 * PAGE, PAGE)]),
    ] {
        let report = pair.report(BASE, 1 << 30, page_size);
        let request = pair.server.recv().unwrap();
        assert_eq!(asked(&request), (BASE, 3 * PAGE, 2 * PAGE));
        pair.server.send(&bits(&request, &[2, 0, 0, 0, 0, 0, 0, 0])).unwrap();
        assert_eq!(done(report).unwrap().ranges().collect::<Vec<_>>(), ranges);
    }
}

/// The bits of an unmap come in one message: larger pages, if there are too many.
#[test]
fn an_unmap_of_much_memory_asks_for_larger_pages() {
    let pair = pair(SIZE, 16); // bytes, so 128 pages
    let unmap = pair.unmap();
    let request = pair.server.recv().unwrap();
    let what = DmaUnmapRequest::parse(&request.payload).unwrap().what;
    let (address, size, pgsize, bitmap_size) = (BASE, SIZE, 2 * PAGE, 16);
    assert_eq!(what, UnmapWhat::RangeWithDirty { address, size, pgsize, bitmap_size });
    let bitmap =
        Some(DirtyBitmap { pgsize, data: &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] });
    let flags = DmaUnmapFlags::GET_DIRTY_BITMAP;
    let mut payload = Vec::new();
    DmaUnmapReply { argsz: 56, flags, address, size, bitmap }.emit(&mut payload);
    pair.server.send(&request.reply(&payload)).unwrap();
    assert_eq!(done(unmap).unwrap().ranges().collect::<Vec<_>>(), [(BASE, 2 * PAGE)]);
}

#[test]
fn starts_that_make_no_sense_are_errors() {
    let pair = pair(SIZE, 1 << 20);
    let stop = {
        let client = pair.client.clone();
        work(move || client.stop_dma_logging())
    };
    let request = pair.server.recv().unwrap();
    pair.server.send(&request.reply(&request.payload)).unwrap();
    done(stop).unwrap();
    for page_size in [0, 3, u64::MAX] {
        let client = pair.client.clone();
        let start = work(move || client.start_dma_logging(PAGE));
        let request = pair.server.recv().unwrap();
        let ranges = LoggingRanges::default();
        let lie = FeatureResult::SetLoggingStart { page_size, ranges };
        pair.server.send(&answer(&request, lie)).unwrap();
        let error = done(start).unwrap_err();
        assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
        let off = done(pair.report(BASE, SIZE, PAGE)).unwrap_err();
        assert!(matches!(off, ClientError::Invalid(_)), "{off}");
    }
}

#[test]
fn unmaps_that_make_no_sense_are_errors() {
    let pair = pair(SIZE, 1 << 20);
    let flags = DmaUnmapFlags::GET_DIRTY_BITMAP;
    let reply = |bitmap| DmaUnmapReply { argsz: 72, flags, address: BASE, size: SIZE, bitmap };
    let send = |lie: DmaUnmapReply<'_>, cut: usize| {
        let unmap = pair.unmap();
        let request = pair.server.recv().unwrap();
        let mut payload = Vec::new();
        lie.emit(&mut payload);
        payload.truncate(payload.len() - cut);
        pair.server.send(&request.reply(&payload)).unwrap();
        done(unmap)
    };
    let whole = DirtyBitmap { pgsize: PAGE, data: &[0x80; 32] };
    let bad = [
        (DmaUnmapReply { flags: DmaUnmapFlags::empty(), ..reply(None) }, 0),
        (reply(None), 0),
        (reply(Some(DirtyBitmap { pgsize: 2 * PAGE, ..whole })), 0),
        (reply(Some(DirtyBitmap { data: &[0; 24], ..whole })), 0),
        (reply(Some(DirtyBitmap { data: &[0; 40], ..whole })), 0),
        (reply(Some(whole)), 1),
        (reply(Some(whole)), 60),
    ];
    for (lie, cut) in bad {
        let error = send(lie, cut).unwrap_err();
        assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
    }
    assert_eq!(send(reply(Some(whole)), 0).unwrap().dirty(), 32);
}
