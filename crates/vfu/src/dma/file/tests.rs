//! One descriptor and one mapping for each file.

use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create, open};
use rustix::io::fcntl_dupfd_cloexec;

use super::*;

const PAGE: u64 = 4096;

fn memory(pages: u64) -> OwnedFd {
    let fd = memfd_create("files", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, pages * PAGE).unwrap();
    fd
}

fn again(fd: &OwnedFd) -> OwnedFd {
    fcntl_dupfd_cloexec(fd, 3).unwrap()
}

#[test]
fn pieces_of_a_file_share_a_descriptor_and_a_mapping() {
    let (files, fd) = (Files::default(), memory(4));
    let first = files.open(again(&fd), true, true).unwrap();
    let second = files.open(again(&fd), true, true).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let (low, high) = (first.map(0, PAGE).unwrap(), second.map(3 * PAGE + 8, 8).unwrap());
    assert_eq!(high.start().as_ptr() as usize - low.start().as_ptr() as usize, 3 * 4096 + 8);
    assert_eq!((low.pages().1, high.pages().1), (4096, 4096));
    assert_eq!(high.start().as_ptr() as usize - high.pages().0.as_ptr() as usize, 8);
    // Nothing behind a piece can be reached through it.
    assert!(low.write(0, &[1; 4096]).is_ok() && low.write(1, &[1; 4096]).is_err());
    assert!(high.read(0, &mut [0; 8]).is_ok() && high.read(8, &mut [0; 1]).is_err());
}

#[test]
fn what_may_do_less_is_another_file() {
    let (files, fd) = (Files::default(), memory(1));
    let whole = files.open(again(&fd), true, true).unwrap();
    let read_only = files.open(again(&fd), true, false).unwrap();
    assert!(!Arc::ptr_eq(&whole, &read_only));
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let weaker = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let weaker = files.open(weaker, true, true).unwrap();
    assert_eq!(weaker.map(0, PAGE).err(), Some(SysErrno::ACCESS));
}

#[test]
fn a_file_that_has_grown_is_mapped_again() {
    let (files, fd) = (Files::default(), memory(1));
    let open = files.open(again(&fd), true, true).unwrap();
    let old = open.map(0, PAGE).unwrap();
    ftruncate(&fd, 8 * PAGE).unwrap();
    let open = files.open(again(&fd), true, true).unwrap();
    let pieces: Vec<_> = (1..8).map(|page| open.map(page * PAGE, PAGE).unwrap()).collect();
    let span = pieces[6].start().as_ptr() as usize - pieces[0].start().as_ptr() as usize;
    assert_eq!(span, 6 * 4096);
    let new = open.map(0, PAGE).unwrap();
    assert_eq!(pieces[0].start().as_ptr() as usize - new.start().as_ptr() as usize, 4096);
    new.write(0, b"both").unwrap();
    let mut seen = [0; 4];
    old.read(0, &mut seen).unwrap();
    assert_eq!(&seen, b"both");
}

#[test]
fn a_piece_behind_the_end_is_mapped_alone() {
    let (files, fd) = (Files::default(), memory(1));
    let open = files.open(fd, true, true).unwrap();
    let behind = open.map(16 * PAGE, PAGE).unwrap();
    let inside = open.map(0, PAGE).unwrap();
    assert_eq!((behind.pages().1, inside.pages().1), (4096, 4096));
}

#[test]
fn files_that_are_gone_are_forgotten() {
    let files = Files::default();
    let kept = files.open(memory(1), true, true).unwrap();
    for _ in 0..1000 {
        files.open(memory(1), true, true).unwrap();
    }
    assert!(files.known.lock().unwrap().files.len() <= FEW);
    drop(kept);
}
