//! Pages that go away: cut off, punched, never backed.

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, fallocate, fstat, ftruncate, memfd_create, open,
};
use vfu::dma::Direction;
use vfu::wire::{DmaMap, Errno, Request};
use vfu::{DmaError, MemoryPolicy};
use vfu_testkit::SharedRam;

use super::child::{lives, lives_by};
use super::{BASE, PAGE, READ_WRITE, Rig, SIZE, gone};

#[test]
fn a_file_that_is_cut_off_is_an_error_and_nothing_else() {
    lives(|| {
        let rig = Rig::new(MemoryPolicy::default());
        let other = SharedRam::new(BASE + SIZE, SIZE).unwrap();
        rig.map(BASE + SIZE, &other);
        for len in [1, 2, 4, 8, 3, 64, 127, 128, PAGE, 3 * PAGE] {
            for write in [false, true] {
                let ram = rig.ram();
                rig.write(BASE, &[7; PAGE]).unwrap();
                ram.truncate(PAGE as u64).unwrap();
                let at = BASE + 2 * PAGE as u64;
                let result =
                    if write { rig.write(at, &vec![9; len]) } else { rig.read(at, len).map(drop) };
                assert_eq!(result, gone(at), "{len} bytes, write: {write}");
                // What the file still has is there, and what it has again.
                assert_eq!(rig.read(BASE, 4), Ok(vec![7; 4]));
                rig.write(BASE + 4, &[8; 4]).unwrap();
                assert_eq!(ram.bytes(BASE, 8).unwrap(), [7, 7, 7, 7, 8, 8, 8, 8]);
                ram.truncate(SIZE).unwrap();
                rig.write(at, &vec![6; len]).unwrap();
                assert_eq!(ram.bytes(at, len).unwrap(), vec![6; len]);
                assert_eq!(fstat(&ram).unwrap().st_size as u64, SIZE, "no write made it longer");
                rig.unmap(BASE);
            }
        }
        rig.write(BASE + SIZE, b"other").unwrap();
        assert_eq!(other.bytes(BASE + SIZE, 5).unwrap(), b"other", "another file is as it was");
    });
}

#[test]
fn pinned_memory_that_is_cut_off_is_an_error_too() {
    lives(|| {
        let rig = Rig::new(MemoryPolicy::Guarded);
        let ram = rig.ram();
        ram.truncate(PAGE as u64).unwrap();
        let (dma, at) = (rig.server.handle().dma(), BASE + 2 * PAGE as u64);
        let read = dma.pin(|memory| memory.slice(at, 8, Direction::Read)?.read(0, &mut [0; 8]));
        assert_eq!(read, gone(at));
        let write = dma.pin(|memory| memory.slice(at, 8, Direction::Write)?.write(0, &[1; 8]));
        assert_eq!(write, gone(at));
        dma.pin(|memory| memory.slice(BASE, 4, Direction::Write)?.write(0, b"here")).unwrap();
        assert_eq!(ram.bytes(BASE, 4).unwrap(), b"here");
    });
}

#[test]
fn a_copy_over_the_border_of_what_is_gone_is_an_error() {
    lives(|| {
        let rig = Rig::new(MemoryPolicy::Guarded);
        for len in [8, 100, 4 * PAGE] {
            let ram = rig.ram();
            rig.write(BASE, &[7; PAGE]).unwrap();
            ram.truncate(PAGE as u64).unwrap();
            let at = BASE + PAGE as u64 - 4;
            assert_eq!(rig.write(at, &vec![9; len]), gone(at));
            assert_eq!(rig.read(at, len), gone(at));
            assert_eq!(rig.read(BASE, 4), Ok(vec![7; 4]));
            rig.unmap(BASE);
        }
    });
}

#[test]
fn a_file_that_is_cut_off_while_threads_copy() {
    lives(|| {
        let rig = Rig::new(MemoryPolicy::Guarded);
        for round in 0..40 {
            let ram = rig.ram();
            rig.write(BASE, &vec![1; SIZE as usize]).unwrap();
            let (copies, dma) = (AtomicUsize::new(0), rig.server.handle().dma());
            let copy = |write: bool| {
                let mut data = vec![1; 0x8000];
                for at in (0..SIZE).step_by(0x8000).cycle() {
                    let result = if write {
                        dma.write(BASE + at, &data)
                    } else {
                        dma.read(BASE + at, &mut data)
                    };
                    match result {
                        // Never a page of zeros that the file does not have.
                        Ok(()) => assert!(data.iter().all(|byte| *byte == 1)),
                        Err(e) => return e,
                    }
                    copies.fetch_add(1, Ordering::SeqCst);
                }
                unreachable!()
            };
            thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..4).map(|i| scope.spawn(move || copy(i % 2 == 1))).collect();
                while copies.load(Ordering::SeqCst) < 40 {
                    thread::yield_now();
                }
                // Not to zero: that some pages are left is the harder case.
                ram.truncate(SIZE / 4 * (round % 4)).unwrap();
                for thread in threads {
                    let error = thread.join().unwrap();
                    assert!(
                        matches!(error, DmaError::File { errno: Errno::EFAULT, .. }),
                        "{error}"
                    );
                }
            });
            rig.unmap(BASE);
        }
    });
}

#[test]
fn mappings_come_and_go_beside_faults() {
    lives(|| {
        let rigs = [Rig::new(MemoryPolicy::Guarded), Rig::new(MemoryPolicy::Guarded)];
        thread::scope(|scope| {
            for rig in &rigs {
                scope.spawn(move || {
                    for _ in 0..300 {
                        let ram = rig.ram();
                        rig.write(BASE, &[1; 64]).unwrap();
                        ram.truncate(0).unwrap();
                        assert_eq!(rig.read(BASE + 64, 256), gone(BASE + 64));
                        rig.unmap(BASE);
                    }
                });
            }
        });
    });
}

#[test]
fn a_lease_of_what_is_gone_is_an_error_and_ends() {
    lives(|| {
        let rig = Rig::new(MemoryPolicy::Guarded);
        let (ram, dma) = (rig.ram(), rig.server.handle().dma());
        let read = dma.lease(BASE, SIZE, Direction::Read).unwrap();
        let write = dma.lease(BASE, SIZE, Direction::Write).unwrap();
        write.write(0x100, &5u64.to_ne_bytes()).unwrap();
        ram.truncate(0).unwrap();
        for len in [1, 2, 4, 8, 100, PAGE] {
            assert_eq!(read.read(0x100, &mut vec![0; len]), gone(BASE + 0x100));
            assert_eq!(write.write(0x100, &vec![1; len]), gone(BASE + 0x100));
        }
        // It is taken back as any other: the reply comes when the leases have gone.
        drop((read, write));
        rig.unmap(BASE);
    });
}

/// One mapping serves all pieces of a file; that one is given up is not the end of what comes after.
#[test]
fn a_file_that_is_mapped_again_is_mapped_afresh() {
    lives(|| {
        let rig = Rig::new(MemoryPolicy::Guarded);
        let (ram, dma) = (rig.ram(), rig.server.handle().dma());
        ram.truncate(0).unwrap();
        assert_eq!(rig.read(BASE, 8), gone(BASE));
        ram.truncate(SIZE).unwrap();
        rig.map(BASE + SIZE, &ram);
        let lease = dma.lease(BASE + SIZE, SIZE, Direction::Write).unwrap();
        lease.write(0, b"new").unwrap();
        assert_eq!(ram.bytes(BASE, 3).unwrap(), b"new");
        // The second mapping works as one: cut off again, it is guarded again.
        ram.truncate(0).unwrap();
        assert_eq!(lease.write(0, b"new"), gone(BASE + SIZE));
    });
}

#[test]
fn holes_are_zeros() {
    lives(|| {
        let rig = Rig::new(MemoryPolicy::Guarded);
        let ram = rig.ram();
        rig.write(BASE, &[1; 4 * PAGE]).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&ram, flags, PAGE as u64, PAGE as u64).unwrap();
        let at = BASE + PAGE as u64;
        assert_eq!(rig.read(at - 1, PAGE + 2).unwrap()[..2], [1, 0]);
        rig.write(at, &[2; 8]).unwrap();
        assert_eq!(ram.bytes(at, 8).unwrap(), [2; 8]);
        rig.server.handle().dma().lease(BASE, SIZE, Direction::Read).unwrap();
    });
}

/// A page of a hole that there is no room for is a SIGBUS, too.
#[test]
fn a_sparse_file_on_a_full_filesystem_is_an_error() {
    let name = "a_sparse_file_on_a_full_filesystem_is_an_error";
    let private = ["--user", "--map-root-user", "--mount"];
    let mut probe = Command::new("unshare");
    if !probe.args(private).arg("true").output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: {name}: no user namespaces here, or no `unshare`");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(private).arg(std::env::current_exe().unwrap());
    lives_by(command, || {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "none"])
            .arg(folder.path())
            .status();
        assert!(mount.unwrap().success());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = open(folder.path().join("ram"), flags, Mode::RWXU).unwrap();
        ftruncate(&file, SIZE).unwrap();
        let rig = Rig::new(MemoryPolicy::Guarded);
        rig.map(BASE, &file);
        let mut written = 0;
        let error = loop {
            match rig.write(BASE + written, &[1; PAGE]) {
                Ok(()) => written += PAGE as u64,
                Err(e) => break e,
            }
        };
        assert!((1..=256 << 10).contains(&written), "{written}");
        let errno = Errno::ENOSPC;
        assert_eq!(error, DmaError::File { address: BASE + written, errno });
        assert_eq!(rig.read(BASE, 8), Ok(vec![1; 8]));
        assert_eq!(rig.read(BASE + SIZE - 8, 8), Ok(vec![0; 8]), "a hole reads as zeros");
        rig.unmap(BASE);
    });
}

/// As the last test, for pages that are huge. That takes a machine that has some to spare.
#[test]
fn huge_pages_that_are_taken_back_are_an_error() {
    const HUGE: u64 = 2 << 20;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let memory = memfd_create("huge", flags | MemfdFlags::HUGE_2MB);
    let reserved = memory.and_then(|fd| {
        ftruncate(&fd, 2 * HUGE)?;
        fallocate(&fd, FallocateFlags::empty(), 0, 2 * HUGE)?;
        Ok(fd)
    });
    let Ok(fd) = reserved else {
        eprintln!("skipped: huge_pages_that_are_taken_back_are_an_error: no huge pages here");
        return;
    };
    lives(|| {
        let rig = Rig::new(MemoryPolicy::Guarded);
        let map = DmaMap { flags: READ_WRITE, offset: 0, address: BASE, size: 2 * HUGE };
        let call = rig.peer.call_with(1, &Request::DmaMap(map), &[fd.as_fd()]);
        assert_eq!(call.unwrap().errno(), None);
        rig.write(BASE, &[1; 8]).unwrap();
        rig.write(BASE + HUGE + 5, &[2; 8]).unwrap();
        ftruncate(&fd, HUGE).unwrap();
        assert_eq!(rig.read(BASE + HUGE + 5, 8), gone(BASE + HUGE + 5));
        assert_eq!(rig.read(BASE, 8), Ok(vec![1; 8]));
    });
}
