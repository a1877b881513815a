//! D1 to D14: descriptors where none belong, too many, of the wrong kind, and in odd states.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fcntl_getfl, fcntl_setfl, open};
use rustix::io::write;
use rustix::pipe::{PipeFlags, pipe_with};
use vfu::wire::{Command, Errno};
use vfu_testkit::{Interrupts, RawPeer, SharedRam, message};

use crate::specimen::{RAISE, READ, WINDOW, WRITE};
use crate::talk::{INVALID, Talk, borrowed, bytes, eventfds};
use crate::{both, both_with, times};

const MAP: u16 = 2;
const BASE: u64 = 0x10_0000;

fn path(name: &str) -> OwnedFd {
    path_as(name, OFlags::RDWR)
}

fn path_as(name: &str, flags: OFlags) -> OwnedFd {
    open(name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).expect("it is there")
}

fn map(address: u64, size: u64) -> Vec<u8> {
    bytes!(32u32, 3u32, 0u64, address, size)
}

#[test]
fn d01_descriptors_on_every_command() {
    both(|scene| {
        let peer = scene.begin();
        let fds = eventfds(1);
        let many: Vec<BorrowedFd<'_>> = (0..253).map(|_| fds[0].as_fd()).collect();
        let before = scene.fds();
        for _ in 0..times(20, 10_000) {
            for command in (0..20u16).filter(|command| *command != 1) {
                peer.ask_with(command, &[0; 40], &many);
            }
        }
        peer.in_sync();
        assert_eq!(scene.fds(), before);
    });
}

#[test]
fn d02_descriptors_with_half_a_header() {
    both(|scene| {
        for _ in 0..50 {
            let peer = scene.begin();
            let fds = eventfds(8);
            peer.send_with(&message(1, MAP, 0, &map(0, 4096))[..9], &borrowed(&fds)).unwrap();
            // It ends here. What would be left is counted by the scene.
        }
    });
}

#[test]
fn d03_no_descriptor_left() {
    both_with("nofile=40", |scene| {
        let peer = scene.begin();
        let fds = eventfds(60);
        peer.send_with(&message(1, MAP, 0, &map(0x1000, 4096)), &borrowed(&fds)).unwrap();
        peer.is_hung_up();
        drop(peer);
        scene.begin().in_sync();
    });
}

#[test]
fn d04_descriptors_with_any_byte() {
    both(|scene| {
        let peer = scene.begin();
        let len = message(0, MAP, 0, &map(0, 0)).len();
        for at in 0..len {
            let address = 0x10_0000 + 0x1000 * at as u64;
            let ram = SharedRam::new(address, 4096).unwrap();
            peer.send_with_at(&message(1, MAP, 0, &map(address, 4096)), at, &[ram.as_fd()])
                .unwrap();
            assert_eq!(peer.recv_reply(1, Command::DmaMap).unwrap().errno(), None, "byte {at}");
            // Were it lost, we would be asked by a message.
            assert_eq!(peer.dma_write(address, 4), Ok(()), "byte {at}");
        }
        // Two for one message: one too many, and none is lost.
        let (ram, other) = (SharedRam::new(0, 4096).unwrap(), SharedRam::new(0, 4096).unwrap());
        let bytes = message(1, MAP, 0, &map(0x1000, 4096));
        peer.send_with(&bytes[..20], &[ram.as_fd()]).unwrap();
        peer.send_with(&bytes[20..], &[other.as_fd()]).unwrap();
        let answer = peer.recv_reply(1, Command::DmaMap).unwrap();
        if answer.errno().is_none() {
            assert_eq!(peer.dma_write(0x1000, 4), Ok(()), "it is not taken for memory without one");
        }
    });
}

#[test]
fn d05_descriptors_with_version() {
    both(|scene| {
        let peer = scene.connect();
        let fds = eventfds(1);
        peer.send_with(&RawPeer::version(1, 0, 1, Some("{}")), &borrowed(&fds)).unwrap();
        assert_eq!(peer.recv().unwrap().errno(), INVALID);
        peer.expect_eof().unwrap();
    });
}

#[test]
fn d06_memory_that_is_none() {
    both(|scene| {
        let peer = scene.begin();
        let listener = UnixListener::bind(scene.folder().join("other")).unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let itself = peer.as_fd().try_clone_to_owned().unwrap();
        let file = scene.folder().join("file");
        fs::write(&file, [0; 4096]).unwrap();
        let odd = [
            ("pipe to read", read),
            ("pipe to write", write),
            ("socket", RawPeer::pair().unwrap().1),
            ("listening socket", listener.into()),
            ("the connection itself", itself),
            ("eventfd", eventfds(1).remove(0)),
            ("folder", path_as("/tmp", OFlags::RDONLY | OFlags::DIRECTORY)),
            ("O_PATH", path_as(file.to_str().unwrap(), OFlags::PATH)),
            ("/dev/zero", path("/dev/zero")),
            ("/dev/full", path("/dev/full")),
            ("/dev/null", path("/dev/null")),
            ("/proc/self/mem", path("/proc/self/mem")),
        ];
        for (what, fd) in &odd {
            for flags in [3, 3 | 4, 3 | 8] {
                let errno = peer.map_fd(0x1000, 4096, flags, 0, Some(fd.as_fd()));
                if errno.is_none() {
                    // It works or it fails, but it ends.
                    let _either = (peer.dma_write(0x1000, 64), peer.dma_read(0x1000, 64));
                    assert_eq!(peer.unmap(0x1000, 4096), None, "{what}, {flags:#x}");
                }
                peer.in_sync();
            }
        }
    });
}

#[test]
fn d07_memory_that_may_only_be_read() {
    both(|scene| {
        let peer = scene.begin();
        let file = scene.folder().join("file");
        fs::write(&file, [0; 4096]).unwrap();
        let read_only = path_as(file.to_str().unwrap(), OFlags::RDONLY);
        for (flags, errno) in [(3, Some(Errno::EACCES)), (1, None)] {
            let got = peer.map_fd(0x1000, 4096, flags, 0, Some(read_only.as_fd()));
            assert_eq!(got, errno, "{flags}");
        }
        assert_eq!(peer.dma_read(0x1000, 4), Ok(()));
        assert!(peer.dma_write(0x1000, 4).is_err());
    });
}

#[test]
fn d08_a_file_that_is_too_short() {
    both(|scene| {
        let peer = scene.begin();
        for flags in [3, 3 | 8] {
            let ram = SharedRam::new(0x10_0000, 0x4000).unwrap();
            ram.truncate(0x2000).unwrap();
            assert_eq!(peer.map(0x10_0000, 0x4000, flags, Some(&ram)), None);
            assert_eq!(peer.dma_write(0x10_1ff0, 16), Ok(()));
            for at in [0x10_1ff8, 0x10_2000, 0x10_3ff0] {
                assert_eq!(peer.dma_write(at, 16), Err(Errno::EFAULT), "{at:#x}");
                assert_eq!(peer.dma_read(at, 16), Err(Errno::EFAULT), "{at:#x}");
            }
            ram.truncate(0).unwrap();
            assert_eq!(peer.dma_read(0x10_0000, 16), Err(Errno::EFAULT));
            assert_eq!(peer.unmap(0x10_0000, 0x4000), None);
        }
    });
}

#[test]
fn d08_a_file_that_is_cut_off_while_it_is_copied() {
    both(|scene| {
        let peer = scene.begin();
        let ram = SharedRam::new(BASE, 1 << 20).unwrap();
        assert_eq!(peer.map(BASE, 1 << 20, 3, Some(&ram)), None);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    ram.truncate(0x1000).unwrap();
                    ram.truncate(1 << 20).unwrap();
                }
            });
            for n in 0..times(200, 20_000) {
                peer.operate(if n % 2 == 0 { WRITE } else { READ }, BASE, 1 << 20);
                let ended = peer.outcome();
                assert!(matches!(ended, Ok(()) | Err(Errno::EFAULT)), "{ended:?}");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(peer.unmap(BASE, 1 << 20), None);
        assert_eq!(peer.map(BASE, 1 << 20, 3, Some(&ram)), None);
        assert_eq!(peer.dma_write(BASE, 16), Ok(()), "it can be mapped again");
    });
}

#[test]
fn d09_a_file_that_grows_and_has_holes() {
    both(|scene| {
        let peer = scene.begin();
        let ram = SharedRam::new(0x10_0000, 0x4000).unwrap();
        ram.truncate(0x1000).unwrap();
        assert_eq!(peer.map(0x10_0000, 0x4000, 3, Some(&ram)), None);
        assert_eq!(peer.dma_write(0x10_3000, 16), Err(Errno::EFAULT));
        ram.truncate(0x4000).unwrap();
        assert_eq!(peer.dma_write(0x10_3000, 16), Ok(()));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(ram.as_fd(), punch, 0x3000, 0x1000).unwrap();
        assert_eq!(peer.write_bytes(0, WINDOW, &[9; 16]), None);
        assert_eq!(peer.dma_read(0x10_3000, 16), Ok(()));
        assert_eq!(peer.read_bytes(0, WINDOW, 16).unwrap(), [0; 16]);
    });
}

#[test]
fn d10_offsets_that_can_not_be() {
    both(|scene| {
        let peer = scene.begin();
        let ram = SharedRam::new(0, 4096).unwrap();
        let fd = Some(ram.as_fd());
        for (offset, size) in
            [(1 << 63, 4096), (u64::MAX, 1), (u64::MAX - 4095, 4096), (i64::MAX as u64, 4096)]
        {
            assert_eq!(peer.map_fd(0x1000, size, 3, offset, fd), INVALID, "{offset:#x}");
        }
        // Beyond the end of the file is not impossible, only of no use yet.
        assert_eq!(peer.map_fd(0x1000, 4096, 3, 1 << 20, fd), None);
        assert_eq!(peer.dma_read(0x1000, 4), Err(Errno::EFAULT));
    });
}

#[test]
fn d11_descriptors_in_an_odd_state() {
    both(|scene| {
        let peer = scene.begin();
        let file = scene.folder().join("file");
        fs::write(&file, [0; 4096]).unwrap();
        let name = file.to_str().unwrap();
        let appends = path_as(name, OFlags::RDWR | OFlags::APPEND);
        let gone = path(name);
        fs::remove_file(&file).unwrap();
        let open_proc = path_as("/proc/self/status", OFlags::RDONLY);
        for (fd, flags) in [(&appends, 3), (&gone, 3), (&open_proc, 1), (&open_proc, 1 | 8)] {
            for _ in 0..3 {
                // The same once more, which compares the two.
                let _either = peer.map_fd(0x1000, 4096, flags, 0, Some(fd.as_fd()));
                let _either = (peer.dma_read(0x1000, 8), peer.dma_write(0x1000, 8));
            }
            let _either = peer.unmap(0x1000, 4096);
            peer.in_sync();
        }
        let sealed = SharedRam::new(0, 4096).unwrap();
        rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::WRITE).unwrap();
        assert!(peer.map(0x1000, 4096, 3, Some(&sealed)).is_some());
        assert_eq!(peer.map(0x1000, 4096, 1, Some(&sealed)), None);
        assert_eq!(peer.dma_read(0x1000, 8), Ok(()));
    });
}

#[test]
fn d12_vectors_that_are_no_eventfd() {
    both(|scene| {
        let peer = scene.begin();
        let (read, full) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        while write(&full, &[0; 4096]).is_ok() {}
        fcntl_setfl(&full, fcntl_getfl(&full).unwrap() - OFlags::NONBLOCK).unwrap();
        let broken = RawPeer::pair().unwrap().1;
        let file = SharedRam::new(0, 4096).unwrap();
        let (dev_full, read_only) = (path("/dev/full"), path_as("/dev/null", OFlags::RDONLY));
        for fd in [
            full.as_fd(),
            read.as_fd(),
            broken.as_fd(),
            file.as_fd(),
            dev_full.as_fd(),
            read_only.as_fd(),
        ] {
            assert_eq!(peer.set_irqs(0x24, 2, 0, 1, &[fd]), INVALID, "{fd:?}");
        }
        // One that blocks, and is full: made not to block, and full is as good as signalled.
        let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        write(&blocking, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert_eq!(peer.set_irqs(0x24, 2, 0, 1, &[blocking.as_fd()]), None);
        for _ in 0..3 {
            peer.operate(RAISE, 0, 0);
            assert_eq!(peer.outcome(), Ok(()));
        }
        assert_eq!(peer.set_irqs(0x21, 2, 0, 1, &[]), None, "nor by the client's own doing");
        peer.in_sync();
    });
}

/// The flag that keeps a write from blocking is the file's, and the file is the client's too.
#[test]
fn d12_an_eventfd_that_is_made_to_block_later() {
    both(|scene| {
        let peer = scene.begin();
        let irqs = Interrupts::new(1).unwrap();
        assert_eq!(peer.set_irqs(0x24, 2, 0, 1, &irqs.fds()), None);
        irqs.saturate(0).unwrap();
        let fd = irqs.fds()[0];
        fcntl_setfl(fd, fcntl_getfl(fd).unwrap() - OFlags::NONBLOCK).unwrap();
        peer.operate(RAISE, 0, 0);
        assert_eq!(peer.outcome(), Ok(()), "it had to be emptied");
        for _ in 0..3 {
            peer.operate(RAISE, 0, 0);
            assert!(peer.outcome().is_err(), "it could wait again");
        }
        assert_eq!(peer.set_irqs(0x21, 2, 0, 1, &[]), None, "by the client's own doing");
        peer.in_sync();
        assert_eq!(peer.set_irqs(0x21, 2, 0, 0, &[]), None, "and it can be taken away");
        fcntl_setfl(fd, fcntl_getfl(fd).unwrap() | OFlags::NONBLOCK).unwrap();
    });
}

/// Memory whose pages never come can't be told from other memory before it is touched, and to touch it in a
/// test a process must be allowed to withhold pages. The guide says so, and the policy that takes no such files.
#[test]
fn d13_memory_that_never_answers_is_documented() {
    let security = include_str!("../../../../docs/src/security.md");
    let row = security.split("\n* ").find(|row| row.contains("whose pages never come"));
    assert!(row.is_some_and(|row| row.contains("MemoryPolicy::Sealed")), "what can't be prevented");
}

#[test]
fn d14_other_control_messages() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred, sendmsg};
    both(|scene| {
        let peer = scene.begin();
        let info = message(9, 4, 0, &bytes!(16u32, 0u32, 0u32, 0u32));
        let (pid, uid, gid) =
            (rustix::process::getpid(), rustix::process::getuid(), rustix::process::getgid());
        for _ in 0..10 {
            let mut space =
                vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmCredentials(UCred { pid, uid, gid })));
            let io = [std::io::IoSlice::new(&info)];
            sendmsg(&peer, &io, &mut control, SendFlags::NOSIGNAL).unwrap();
            assert_eq!(peer.recv_reply(9, Command::DeviceGetInfo).unwrap().errno(), None);
        }
    });
}
