//! A client that has mapped a region whose file the server cuts off.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfu::server::Shareable;
use vfu::{Client, MemoryPolicy};
use vfu_testkit::{TestDevice, TestServer};

use super::child::lives;

/// A region of the device's whose file the server cuts off.
fn served_file(policy: MemoryPolicy) -> (TestServer, OwnedFd, Client) {
    let file = memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, TestDevice::BAR2_SIZE).unwrap();
    let shared = rustix::io::fcntl_dupfd_cloexec(&file, 3).unwrap();
    let server = TestServer::with(|builder| builder.mmap(2, Shareable::new(shared, 0)));
    let client = Client::builder().memory_policy(policy);
    let client = client.connect(server.path()).unwrap();
    (server, file, client)
}

#[test]
fn a_client_goes_on_by_messages() {
    lives(|| {
        let (server, file, client) = served_file(MemoryPolicy::default());
        let region = client.map_region(2).unwrap();
        assert!(region.is_direct(0, 8));
        region.write(0, b"mapped").unwrap();
        let mut seen = [0; 6];
        rustix::io::pread(&file, &mut seen, 0).unwrap();
        assert_eq!(&seen, b"mapped");
        server.log().take();
        ftruncate(&file, 0).unwrap();
        region.read(0, &mut seen).unwrap();
        region.write(8, &[1; 4]).unwrap();
        region.read(0, &mut seen).unwrap();
        assert!(!region.is_direct(0, 8));
        assert_eq!(server.log().take().len(), 3, "the device was asked");
        // By then it may be the server's own trap.
        drop(region);
        assert!(!client.map_region(2).unwrap().is_direct(0, 8));
    });
}

#[test]
fn a_client_that_wants_seals_or_copies_maps_nothing() {
    for (policy, direct) in [(MemoryPolicy::Sealed, false), (MemoryPolicy::Copying, true)] {
        let (_server, file, client) = served_file(policy);
        let region = client.map_region(2).unwrap();
        assert_eq!(region.is_direct(0, 8), direct, "{policy:?}");
        ftruncate(&file, 0).unwrap();
        region.read(0, &mut [0; 8]).unwrap();
    }
}
