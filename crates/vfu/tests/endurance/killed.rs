//! Clients that are killed, at whatever they are doing.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vfu_testkit::Vmm;

use crate::alone::alone;
use crate::{Copier, DESTINATION, DOORBELL, SOURCE, rounds, settle};

/// The socket, to a process that is to be a client.
const SOCKET: &str = "VFU_ENDURANCE_SOCKET";
const BASE: u64 = 0x10_0000;

/// Works until it is killed.
fn work(path: &Path) -> Option<()> {
    let twin = std::process::id() % 2 == 0;
    loop {
        let connect = if twin { Vmm::connect } else { Vmm::connect_single };
        let Ok(vmm) = connect(path.to_path_buf()) else { continue };
        let function = vmm.enumerate().ok()?;
        let _interrupts = vmm.enable_msix(&function, 4).ok()?;
        let _shared = vmm.share_ram(BASE, 0x10_0000).ok()?;
        let _messages = vmm.message_ram(4 * BASE, 0x1000).ok()?;
        vmm.write64(0, SOURCE, BASE).ok()?;
        vmm.write64(0, DESTINATION, 4 * BASE).ok()?;
        for round in 0..50u64 {
            vmm.write64(0, DOORBELL, round).ok()?;
            vmm.read64(0, SOURCE).ok()?;
            vmm.client().region_write_posted(2, 0, &[1; 10_000]).ok()?;
            vmm.client().region_read(2, 0, &mut [0; 10_000]).ok()?;
            let _map = vmm.share_ram(8 * BASE + 0x1000 * round, 0x1000).ok()?;
        }
    }
}

fn client(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["killed::clients_are_killed", "--exact", "--test-threads=1"])
        .env(SOCKET, path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A moment of up to 16 ms: where in its work the client is then is left to chance.
fn moment() -> Duration {
    let random = RandomState::new().build_hasher().finish();
    Duration::from_micros(random % 16_000)
}

#[test]
fn clients_are_killed() {
    if let Some(path) = std::env::var_os(SOCKET) {
        return work(Path::new(&path)).unwrap_or(());
    }
    alone!(|| {
        let server = Copier::serve();
        let mut next = client(server.path());
        for _ in 0..rounds(60, 10_000) {
            // There is always one that waits for its turn.
            let mut now = std::mem::replace(&mut next, client(server.path()));
            std::thread::sleep(moment());
            now.kill().unwrap();
            now.wait().unwrap();
        }
        next.kill().unwrap();
        next.wait().unwrap();
        settle(&server);
        server.stop().unwrap();
    });
}
