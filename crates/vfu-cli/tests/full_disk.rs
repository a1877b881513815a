//! A disk that is full: what can't be logged is lost, and nothing else.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use vfu::Client;
use vfu_testkit::{DEADLINE, RawPeer, Vmm};

/// A file that takes nothing.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn vfu() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stderr(full());
    command
}

/// It can't say that it listens.
fn reached(path: &Path, server: &mut Child) -> Client {
    let until = std::time::Instant::now() + DEADLINE;
    loop {
        match Client::connect(path) {
            Ok(client) => return client,
            Err(e) => assert!(std::time::Instant::now() < until, "{e}"),
        }
        assert!(server.try_wait().unwrap().is_none(), "it has ended");
        std::thread::yield_now();
    }
}

#[test]
fn a_server_goes_on_when_nothing_can_be_logged() {
    for verbose in ["-q", "-v", "-vv", "-vvv"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut command = vfu();
        if verbose == "-q" {
            // A warning before anything else.
            command.env("RUST_LOG", "no such=filter,,=");
        } else {
            command.arg(verbose);
        }
        command.args(["serve", "edu", "--socket-path"]).arg(&path);
        let mut server = command.spawn().unwrap();
        for _ in 0..3 {
            let vmm = Vmm::over(reached(&path, &mut server));
            vmm.enumerate().unwrap();
            // Registers that it has, and that it has not.
            vmm.write32(0, 4, 0x1234_5678).unwrap();
            assert_eq!(vmm.read32(0, 4).unwrap(), !0x1234_5678);
            let _refused = vmm.write32(0, 0x5000, 1);
            let _refused = vmm.client().dma_unmap(1, 1);
            drop(vmm);
            // And one that makes it warn.
            let peer = RawPeer::connect(&path).unwrap();
            peer.send(&[0xff; 64]).unwrap();
            while peer.recv().is_ok() {}
        }
        assert!(server.try_wait().unwrap().is_none(), "it serves");
        kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
        assert_eq!(server.wait().unwrap().code(), Some(0), "{verbose}");
        assert!(!path.exists());
    }
}

#[test]
fn a_program_that_can_not_say_what_failed_still_ends_with_its_code() {
    let ended = vfu().args(["probe", "/no/such/socket", "--wait", "0"]).status().unwrap();
    assert_eq!(ended.code(), Some(4));
    let ended = vfu().args(["serve", "edu", "-s", "/no/such/folder/s"]).status().unwrap();
    assert_eq!(ended.code(), Some(3));
    // Standard output is full: that is a failure, and no panic.
    for args in [&["serve", "--list"][..], &["describe", "edu"], &["completions", "bash"]] {
        let said = vfu().args(args).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked") && stderr.contains("space"), "{args:?}: {stderr}");
    }
}
