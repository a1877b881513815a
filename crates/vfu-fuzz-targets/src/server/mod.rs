//! The whole server with a device, and a client that sends anything.
//!
//! Both are on one thread: the server does what it can without waiting, after each thing the client
//! does. Only a device that waits for DMA inside a handler waits, for a millisecond.

mod gadget;
mod world;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::pipe::descriptors;
use crate::script::Script;
use world::World;

pub(crate) const ABOUT: &str = "a whole server with a device, against a client that sends anything";

/// Inputs are short; this only bounds what blind ones take.
const MAX_STEPS: u64 = 300;

pub(crate) fn run(bytes: &[u8]) {
    let (_, _) = (socket(), descriptors()); // they stay
    let before = vfu_testkit::fd_count();
    let mut world = World::new(Script::new(bytes), listener());
    let mut steps = 0;
    while world.goes_on() && steps < MAX_STEPS {
        world.step();
        steps += 1;
    }
    world.settle();
    world.leave();
    world.serves_the_next(&connect());
    drop(world);
    assert_eq!(vfu_testkit::fd_count(), before, "descriptors are left over");
    crate::steps::add(steps);
}

/// One socket for all inputs: a folder for each would take longer than the rest.
fn socket() -> &'static (UnixListener, TempDir) {
    static SOCKET: OnceLock<(UnixListener, TempDir)> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(path(&folder)).expect("a socket");
        (listener, folder)
    })
}

fn path(folder: &TempDir) -> impl AsRef<Path> {
    folder.path().join("s")
}

fn listener() -> OwnedFd {
    socket().0.try_clone().expect("a descriptor").into()
}

fn connect() -> UnixStream {
    UnixStream::connect(path(&socket().1)).expect("it listens")
}
