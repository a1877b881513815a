//! What a context costs: allocations of an access, and the memory of one that does nothing.
#![allow(unsafe_code)] // it calls the interface as a C program would

use std::ffi::{CString, c_char};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::ptr::null_mut;

use allocation_counter::measure;
use vfu::wire::{Capabilities, Command, HEADER_SIZE, Header, Version};
use vfu_capi::c::*;
use vfu_capi::types::{AccessFn, Ctx, IoVec, Sg};

unsafe extern "C" fn bar(
    _: *mut Ctx,
    data: *mut c_char,
    len: usize,
    _: i64,
    is_write: bool,
) -> isize {
    if !is_write {
        // SAFETY: the library gives `len` bytes.
        unsafe { data.write_bytes(0x5a, len) };
    }
    len as isize
}

/// A device at a socket of its own, and its client, all in one thread.
struct Pair {
    ctx: *mut Ctx,
    client: UnixStream,
    _folder: tempfile::TempDir,
}

impl Pair {
    fn new() -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: as the header says.
        let ctx = unsafe {
            let ctx = vfu_create_ctx(0, name.as_ptr(), 1, null_mut(), 0);
            assert!(!ctx.is_null());
            assert_eq!(vfu_pci_init(ctx, 3, 0, 0), 0);
            let access: Option<AccessFn> = Some(bar);
            assert_eq!(vfu_setup_region(ctx, 0, 4096, access, 7, null_mut(), 0, -1, 0), 0);
            assert_eq!(vfu_setup_device_dma(ctx, 64, None, None), 0);
            assert_eq!(vfu_setup_device_nr_irqs(ctx, 2, 16), 0);
            assert_eq!(vfu_realize_ctx(ctx), 0);
            ctx
        };
        let client = UnixStream::connect(&path).unwrap();
        Pair { ctx, client, _folder: folder }
    }

    fn attach(&mut self) {
        let mut payload = Vec::new();
        Version::new(0, 1, Capabilities::default()).emit(&mut payload);
        self.send(Command::Version, &payload);
        // SAFETY: as the header says.
        assert_eq!(unsafe { vfu_attach_ctx(self.ctx) }, 0);
        let mut reply = [0; 512];
        assert!(self.client.read(&mut reply).unwrap() > HEADER_SIZE);
    }

    fn send(&mut self, command: Command, payload: &[u8]) {
        let mut bytes = [0; 256];
        bytes[..HEADER_SIZE].copy_from_slice(&Header::command(1, command, payload.len()).emit());
        bytes[HEADER_SIZE..HEADER_SIZE + payload.len()].copy_from_slice(payload);
        self.client.write_all(&bytes[..HEADER_SIZE + payload.len()]).unwrap();
    }

    fn ask(&mut self, command: Command, payload: &[u8]) -> usize {
        self.send(command, payload);
        // SAFETY: as the header says.
        assert_eq!(unsafe { vfu_run_ctx(self.ctx) }, 1);
        let mut reply = [0; 256];
        let len = self.client.read(&mut reply).unwrap();
        assert_eq!(reply[8] & 0x20, 0, "no error");
        len
    }

    fn read(&mut self) {
        // Offset 16 of region 0, 4 bytes.
        let payload = [16u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
        assert_eq!(self.ask(Command::RegionRead, &payload), 36);
    }

    fn write(&mut self) {
        let payload = [16u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(self.ask(Command::RegionWrite, &payload), 32);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: as the header says.
        unsafe { vfu_destroy_ctx(self.ctx) };
    }
}

#[test]
fn an_access_allocates_nothing() {
    let mut pair = Pair::new();
    pair.attach();
    for _ in 0..200 {
        pair.read();
        pair.write();
    }
    let info = measure(|| {
        for _ in 0..100 {
            pair.read();
            pair.write();
        }
    });
    assert_eq!(info.count_total, 0, "{info:?}");
}

#[test]
fn reaching_memory_allocates_nothing() {
    let mut pair = Pair::new();
    pair.attach();
    let mut map = Vec::new();
    let flags = vfu::wire::DmaMapFlags::READ | vfu::wire::DmaMapFlags::WRITE;
    vfu::wire::DmaMap { flags, offset: 0, address: 0x1000, size: 0x1000 }.emit(&mut map);
    pair.ask(Command::DmaMap, &map);
    let mut sg = std::mem::MaybeUninit::<Sg>::uninit();
    let mut iov = IoVec { base: null_mut(), len: 0 };
    let info = measure(|| {
        for _ in 0..100 {
            // SAFETY: as the header says; there is room for one entry.
            unsafe {
                let address = std::ptr::without_provenance_mut(0x1800);
                assert_eq!(vfu_addr_to_sgl(pair.ctx, address, 64, sg.as_mut_ptr(), 1, 3), 1);
                // It is not shared, so it can't be had.
                assert_eq!(vfu_sgl_get(pair.ctx, sg.as_mut_ptr(), &mut iov, 1, 0), -1);
                vfu_sgl_put(pair.ctx, sg.as_mut_ptr(), &mut iov, 1);
            }
        }
    });
    assert_eq!(info.count_total, 0, "{info:?}");
}

/// Configuration space of PCI Express is a half of it. A client that is there takes a receive buffer and the
/// session's tables.
#[test]
fn an_idle_context_takes_8_kib_at_most() {
    // What the process takes once is no context's.
    let mut first = Pair::new();
    first.attach();
    first.read();
    drop(first);
    let mut pair = None;
    let info = measure(|| pair = Some(Pair::new()));
    println!("without a client: {} bytes", info.bytes_current);
    assert!(info.bytes_current <= 8 << 10, "{info:?}");
    let more = measure(|| {
        if let Some(pair) = &mut pair {
            pair.attach();
            pair.read();
            pair.write();
        }
    });
    println!("with one that does nothing: {} bytes more", more.bytes_current);
    // Half a KiB of it keeps threads that look up mappings at once out of each other's way.
    assert!(more.bytes_current <= 9 << 10, "{more:?}");
}
