//! L1 to L9: sessions that do not end, end too soon, or come all at once.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use vfu::wire::Command;
use vfu_testkit::{DEADLINE, Interrupts, RawPeer, SharedRam, message};

use crate::specimen::READ;
use crate::talk::{Peer, bytes};
use crate::{both, both_with, times};

const REGION_READ: u16 = 9;
const BASE: u64 = 0x10_0000;

fn read(id: u16) -> Vec<u8> {
    message(id, REGION_READ, 0, &bytes!(0u64, 7u32, 4096u32))
}

/// Asks for as much as the server takes, and reads nothing.
fn ask_for_much(peer: &Peer) {
    let many: Vec<u8> = (0..1000).flat_map(read).collect();
    for _ in 0..1000 {
        if send(peer, &many, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_err() {
            break;
        }
    }
}

#[test]
fn l01_answers_that_nobody_reads() {
    both_with("send_ms=200 unsent_bytes=65536", |scene| {
        let peer = scene.begin();
        let before = scene.rss();
        ask_for_much(&peer);
        // The next client has its turn when the server has lost patience.
        scene.begin().in_sync();
        assert!(scene.rss() < before + (24 << 20));
        drop(peer);
    });
}

#[test]
fn l02_answers_that_are_read_byte_by_byte() {
    both_with("send_ms=200 unsent_bytes=65536", |scene| {
        let peer = scene.begin();
        ask_for_much(&peer);
        // Slow, but it reads: a byte now and then does not make it one that reads.
        let deadline = Instant::now() + DEADLINE;
        let pace = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        loop {
            let mut set = [PollFd::from_borrowed_fd(peer.as_fd(), PollFlags::RDHUP)];
            if poll(&mut set, Some(&pace)).unwrap() > 0 {
                break;
            }
            assert!(Instant::now() < deadline, "the server waits for ever");
            recv(&peer, &mut [0u8; 1][..], RecvFlags::empty()).unwrap();
        }
        drop(peer);
        scene.begin().in_sync();
    });
}

#[test]
fn l03_clients_that_wait_for_their_turn() {
    both(|scene| {
        let first = scene.begin();
        let others: Vec<RawPeer> =
            (0..3).map_while(|_| RawPeer::connect(scene.path()).ok()).collect();
        first.in_sync();
        drop(others); // they left before their turn
        let next = RawPeer::connect(scene.path()).map(Peer);
        first.in_sync();
        drop(first);
        if let Ok(next) = next {
            assert_eq!(next.handshake("{}").unwrap().errno(), None);
            next.in_sync();
        }
    });
}

#[test]
fn l04_clients_that_come_and_go() {
    both(|scene| {
        let ram = SharedRam::new(BASE, 0x1000).unwrap();
        let irqs = Interrupts::new(4).unwrap();
        for n in 0..times(300, 100_000) {
            let (main, twin) = scene.begin_twin();
            assert_eq!(main.map(BASE, 0x1000, 3, Some(&ram)), None);
            assert_eq!(main.set_irqs(0x24, 2, 0, 4, &irqs.fds()), None);
            if n % 2 == 0 {
                drop(twin);
            }
        }
    });
}

#[test]
fn l05_clients_that_leave_on_the_way() {
    both(|scene| {
        let twin = r#"{"capabilities":{"twin_socket":{"supported":true}}}"#;
        let version = RawPeer::version(0, 0, 1, Some(twin));
        for len in 0..=version.len() {
            let peer = scene.connect();
            peer.send(&version[..len]).unwrap();
        }
        for _ in 0..20 {
            let peer = scene.connect();
            peer.send(&version).unwrap();
            peer.recv_reply(0, Command::Version).unwrap();
        }
    });
}

#[test]
fn l06_second_sockets_that_are_misused() {
    both_with("send_ms=300 reply_ms=300 message_ms=300", |scene| {
        // Closed at once.
        let (main, twin) = scene.begin_twin();
        assert_eq!(main.map(BASE, 0x1000, 3, None), None);
        drop(twin);
        main.is_hung_up();
        // Garbage.
        let (main, twin) = scene.begin_twin();
        let _refused = twin.send(&[0xff; 64]);
        main.is_hung_up();
        drop((main, twin));
        // Commands where a client may send none.
        let (main, twin) = scene.begin_twin();
        twin.send(&message(5, 4, 0, &[0; 16])).unwrap();
        assert!(twin.recv().unwrap().errno().is_some());
        main.in_sync();
        // Only the main socket closes: the other can't outlive it.
        drop(main);
        twin.is_hung_up();
        // Never read, and full.
        let (main, twin) = scene.begin_twin();
        assert_eq!(main.map(BASE, 0x10_0000, 3, None), None);
        for _ in 0..3 {
            main.operate(crate::specimen::WRITE, BASE, 0x10_0000);
            if main.send(&message(9, 4, 0x10, &bytes!(16u32, 0u32, 0u32, 0u32))).is_err() {
                break;
            }
        }
        drop(main);
        // With somebody else.
        let (main, twin2) = scene.begin_twin();
        assert_eq!(main.map(BASE, 0x1000, 3, None), None);
        let elsewhere = RawPeer::over(twin2.as_fd().try_clone_to_owned().unwrap());
        drop(twin2);
        main.operate(READ, BASE, 16);
        let request = elsewhere.recv().unwrap();
        let data = [&request.payload[..16], &[7; 16]].concat();
        elsewhere.send(&request.reply(&data)).unwrap();
        assert_eq!(main.outcome(), Ok(()));
        drop((main, elsewhere, twin));
    });
}

#[test]
fn l07_what_a_lost_client_leaves_half_done() {
    both(|scene| {
        for step in 0..20 {
            let peer = scene.begin();
            assert_eq!(peer.map(BASE, 0x1000, 3, None), None);
            match step % 4 {
                0 => peer.operate(READ, BASE, 16),
                1 => {
                    let resume = bytes!(16u32, 2u32 | 1 << 17, 4u32, 0u32);
                    assert_eq!(peer.ask(16, &resume).errno(), None);
                }
                2 => {
                    peer.operate(READ, BASE, 16);
                    peer.recv().unwrap();
                    peer.send(&message(1, 13, 0, &[])).unwrap();
                }
                _ => peer.send(&message(1, 3, 0, &bytes!(24u32, 2u32, 0u64, 0u64))).unwrap(),
            }
            drop(peer);
            let next = scene.begin();
            next.in_sync();
            assert_eq!(next.errno(13, &[]), None, "a reset makes it one like any other");
            assert!(next.dma_read(BASE, 16).is_err(), "nothing is mapped any more");
            next.write32(0, 5);
            assert_eq!(next.read32(0), 5);
        }
    });
}

/// A process that is both ends: the documentation says on which threads it may wait for itself.
#[test]
fn l08_a_peer_in_the_same_process() {
    vfu_testkit::within("a server and its client in one process", || {
        let server = vfu_testkit::TestServer::start();
        let vmm = vfu_testkit::Vmm::connect(server.path()).unwrap();
        vmm.write32(0, 0x10, 7).unwrap();
        assert_eq!(vmm.read32(0, 0x10).unwrap(), 7);
        drop(vmm);
        server.stop().unwrap();
    });
}

#[test]
fn l09_paths() {
    use std::ffi::CString;
    // In Rust: see the builder. In C: libvfio-user.h, vfu_create_ctx.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let in_rust =
        |path: &std::path::Path| vfu::Listener::bind(path).map(drop).map_err(|e| e.to_string());
    let in_c = |path: &std::path::Path| {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        crate::target::listen(&name)
    };
    let not_sockets = |name: &str| {
        fs::write(at(name), "precious").unwrap();
        assert!(in_rust(&at(name)).is_err());
        assert!(!in_c(&at(name)));
        assert_eq!(fs::read_to_string(at(name)).unwrap(), "precious", "it is not removed");
    };
    not_sockets("file");
    symlink(at("file"), at("link")).unwrap();
    assert!(in_rust(&at("link")).is_err() && !in_c(&at("link")));
    symlink(at("nowhere"), at("dangling")).unwrap();
    assert!(in_rust(&at("dangling")).is_err() && !in_c(&at("dangling")));
    assert!(
        fs::symlink_metadata(at("link")).is_ok() && fs::symlink_metadata(at("dangling")).is_ok()
    );
    // From the folder that the process is in.
    let up =
        std::env::current_dir().unwrap().components().skip(1).map(|_| "../").collect::<String>();
    let relative = std::path::Path::new(&up).join(at("relative").strip_prefix("/").unwrap());
    assert_eq!(in_rust(&relative), Ok(()));
    assert!(in_c(&relative));
    let long = at(&"x".repeat(108));
    assert!(in_rust(&long).is_err() && !in_c(&long));
    assert!(in_rust(&at("no/folder")).is_err() && !in_c(&at("no/folder")));
    // Stale: the one replaces it, the other says that it is there, as the C library does.
    drop(UnixListener::bind(at("stale")).unwrap());
    assert!(!in_c(&at("stale")));
    assert_eq!(in_rust(&at("stale")), Ok(()));
    // In use, and in the folder of somebody else.
    let used = UnixListener::bind(at("used")).unwrap();
    assert!(in_rust(&at("used")).is_err() && !in_c(&at("used")));
    drop(used);
    if !rustix::process::getuid().is_root() {
        fs::create_dir(at("locked")).unwrap();
        fs::set_permissions(at("locked"), fs::Permissions::from_mode(0o500)).unwrap();
        assert!(in_rust(&at("locked/socket")).is_err() && !in_c(&at("locked/socket")));
    }
    // Removed while it listens: who is connected goes on.
    both(|scene| {
        let peer = scene.begin();
        let (path, kept) = (scene.path(), scene.folder().join("kept"));
        fs::rename(&path, &kept).unwrap();
        peer.in_sync();
        fs::rename(&kept, &path).unwrap();
    });
}
