//! A length that a peer only claims costs nothing: counted at the allocator.

#![allow(unsafe_code)] // an allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use vfu_proto::wire::*;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|count| count.set(count.get() + layout.size()));
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the rules of `dealloc`, and `alloc` took it from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that this thread allocates while `work` runs.
fn allocated<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATED.get();
    let result = work();
    (result, ALLOCATED.get() - before)
}

/// A payload of little-endian 32-bit words.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

const MAX: u32 = u32::MAX;

#[test]
fn claimed_lengths_of_requests_cost_nothing() {
    let cases: [(Command, Vec<u8>); 12] = [
        (Command::RegionWrite, words(&[0, 0, 0, MAX])),
        (Command::RegionWriteMulti, words(&[0, 1 << 29, 0, 0, 0, 0])), // 2^61 entries
        (Command::RegionWriteMulti, words(&[MAX, MAX, 0, 0, 0, 0])),
        (Command::RegionWriteMulti, words(&[0, 1, 0, 0, 0, 0])),
        // 24 * 0xaaaaaaaaaaaaaab is 8 modulo 2^64.
        (Command::RegionWriteMulti, words(&[0xaaaa_aaab, 0x0aaa_aaaa, 0, 0])),
        (Command::DmaWrite, words(&[0, 0, 0, 1 << 31])), // 2^63 bytes
        (Command::DmaWrite, words(&[0, 0, MAX, MAX])),
        (Command::DeviceFeature, words(&[MAX, 6 | 1 << 17, 4096, 0, MAX, 0])),
        (Command::DeviceSetIrqs, words(&[MAX, 1 << 1 | 1 << 5, 2, 0, MAX])),
        (Command::MigDataWrite, words(&[MAX, MAX - 8])),
        (Command::MigDataWrite, words(&[MAX, MAX])),
        (Command::DmaUnmap, words(&[MAX, 1, 0, 0, 0, MAX, 1, 0, 0, MAX])),
    ];
    for (command, payload) in &cases {
        let (result, bytes) = allocated(|| Request::parse(*command, payload));
        assert_eq!(result, Err(Errno::EINVAL), "{command} {payload:?}");
        assert_eq!(bytes, 0, "{command} {payload:?}");
    }
}

#[test]
fn claimed_lengths_of_replies_cost_nothing() {
    let region = |cap: [u32; 6]| {
        let mut payload = words(&[MAX, 1 << 3, 0, 32, 0, 0, 0, 0]);
        payload.extend(words(&cap));
        payload
    };
    let cases: [(Command, Vec<u8>); 9] = [
        (Command::DeviceGetRegionInfo, region([1 | 1 << 16, 0, MAX, 0, 0, 0])),
        (Command::DeviceGetRegionInfo, region([0x8001 | 1 << 16, 0, MAX, 0, 0, 0])),
        (Command::DeviceGetRegionIoFds, words(&[MAX, 0, 0, 100_000_000, 0, 0])),
        (Command::DeviceGetRegionIoFds, words(&[MAX, 0, 0, MAX, 0, 0])),
        (Command::RegionRead, words(&[0, 0, 0, MAX])),
        (Command::DmaRead, words(&[0, 0, 0, 1 << 31])),
        (Command::DmaUnmap, words(&[MAX, 1, 0, 0, 0, 0, 4096, 0, MAX, MAX])),
        (Command::DeviceFeature, words(&[MAX, 8 | 1 << 16, 0, 0, MAX, MAX, 1, 0])),
        (Command::MigDataRead, words(&[MAX, MAX - 8])),
    ];
    for (command, payload) in &cases {
        let (result, bytes) = allocated(|| Reply::parse(*command, payload));
        assert_eq!(result, Err(Errno::EINVAL), "{command} {payload:?}");
        assert_eq!(bytes, 0, "{command} {payload:?}");
    }
}

/// Capabilities that lie in each other would multiply one payload into many lists.
#[test]
fn a_chain_of_lists_costs_no_more_than_its_payload() {
    let mut payload = words(&[0, 1 << 3, 0, 32, 0, 0, 0, 0]);
    let links = 4000;
    for link in 1..=links {
        // Each claims all that follows as its list.
        payload.extend(words(&[1 | 1 << 16, 32 + link * 16, links - link, 0]));
    }
    let size = payload.len() as u32;
    payload[..4].copy_from_slice(&size.to_le_bytes());
    let (result, bytes) = allocated(|| RegionInfo::parse(&payload));
    assert_eq!(result, Err(Errno::EINVAL));
    assert_eq!(bytes, 0);

    // Empty lists side by side are legal, and bounded.
    for link in 0..links as usize {
        let at = 32 + link * 16 + 8;
        payload[at..at + 4].fill(0);
    }
    payload[32 + (links as usize - 1) * 16 + 4..][..4].fill(0);
    let (result, bytes) = allocated(|| RegionInfo::parse(&payload));
    assert_eq!(result.unwrap().capabilities.len(), links as usize);
    assert!(bytes < 16 * payload.len(), "{bytes} bytes for a payload of {}", payload.len());
}

#[test]
fn an_access_allocates_nothing() {
    let mut payload = Vec::with_capacity(64);
    let mut out = Vec::with_capacity(64);
    let entries = [WriteEntry::new(0, 0, &[1, 2, 3, 4]).unwrap(); 2];
    let requests = [
        Request::RegionRead(RegionReadRequest { offset: 8, region: 0, count: 4 }),
        Request::RegionWrite(RegionWriteRequest { offset: 8, region: 0, data: &[1, 2, 3, 4] }),
        Request::RegionWriteMulti(WriteMulti::new(&entries)),
        Request::DmaRead(DmaReadRequest { address: 4096, count: 32 }),
        Request::DmaWrite(DmaWriteRequest { address: 4096, data: &[0; 32] }),
    ];
    for request in requests {
        payload.clear();
        request.emit(&mut payload);
        let ((), bytes) = allocated(|| {
            let parsed = Request::parse(request.command(), &payload).unwrap();
            out.clear();
            parsed.emit(&mut out);
        });
        assert_eq!(bytes, 0, "{request:?}");
        assert_eq!(out, payload);
    }
}
