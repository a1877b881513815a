//! Servers and clients that come and go.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;

use vfu::device::Reset;
use vfu::server::{Bound, BuildError};
use vfu::wire::{
    Command, DeviceInfoRequest, DmaMap, DmaMapFlags, RegionReadRequest, RegionWriteRequest, Request,
};
use vfu::{Access, DmaError, Fault, Handle, ListenError, Server, SharedDevice};
use vfu_testkit::{
    Call, CallLog, RawPeer, SharedRam, TestDevice, TestServer, Vmm, command, posted, within,
};

const INFO: Request<'_> = Request::DeviceGetInfo(DeviceInfoRequest { argsz: 16 });

fn device(handle: vfu::Handle) -> TestDevice {
    TestDevice::new(handle, CallLog::default())
}

fn listen(path: &Path) -> Result<Bound, BuildError> {
    Server::builder(TestDevice::pci()).listen(path)
}

fn can_be_used(path: &Path) {
    let vmm = Vmm::connect(path).unwrap();
    vmm.write32(0, 0, 0x600d).unwrap();
    assert_eq!(vmm.read32(0, 0).unwrap(), 0x600d);
}

/// What a client did before it went away, and how.
type Stage = (&'static str, Box<dyn Fn(&Path)>);

/// Everything that a client may have done when it goes away.
fn stages() -> Vec<Stage> {
    let begin = |path: &Path| RawPeer::begin(path).unwrap();
    let ram = || SharedRam::new(0x1000, 0x1000).unwrap();
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    let map = Request::DmaMap(DmaMap { flags, offset: 0, address: 0x1000, size: 0x1000 });
    vec![
        ("connected", Box::new(|path| drop(RawPeer::connect(path).unwrap()))),
        (
            "half a header",
            Box::new(|path| RawPeer::connect(path).unwrap().send(&[1, 0, 1, 0, 30]).unwrap()),
        ),
        (
            "half a VERSION",
            Box::new(|path| {
                let bytes = RawPeer::version(1, 0, 1, Some("{}"));
                RawPeer::connect(path).unwrap().send(&bytes[..18]).unwrap();
            }),
        ),
        (
            "VERSION, whose reply nobody reads",
            Box::new(|path| {
                let bytes = RawPeer::version(1, 0, 1, Some("{}"));
                RawPeer::connect(path).unwrap().send(&bytes).unwrap();
            }),
        ),
        ("agreed", Box::new(move |path| drop(begin(path)))),
        ("agreed, with a twin", Box::new(|path| drop(RawPeer::begin_twin(path).unwrap()))),
        (
            "the main socket only",
            Box::new(|path| {
                let (main, twin) = RawPeer::begin_twin(path).unwrap();
                drop(main);
                twin.expect_eof().unwrap();
            }),
        ),
        (
            "the twin only",
            Box::new(|path| {
                let (main, twin) = RawPeer::begin_twin(path).unwrap();
                drop(twin);
                main.expect_eof().unwrap();
            }),
        ),
        (
            "half a command",
            Box::new(move |path| begin(path).send(&command(1, &INFO)[..20]).unwrap()),
        ),
        (
            "a command with descriptors, half",
            Box::new(move |path| {
                let bytes = command(1, &map);
                begin(path).send_with(&bytes[..20], &[ram().as_fd()]).unwrap();
            }),
        ),
        (
            "a map, whose reply nobody reads",
            Box::new(move |path| {
                begin(path).send_with(&command(1, &map), &[ram().as_fd()]).unwrap();
            }),
        ),
        (
            "a map",
            Box::new(move |path| {
                let peer = begin(path);
                assert_eq!(peer.call_with(1, &map, &[ram().as_fd()]).unwrap().errno(), None);
            }),
        ),
        (
            "a flood of reads, none answered",
            Box::new(move |path| {
                let read = RegionReadRequest { offset: 0, region: 7, count: 4096 };
                let bytes = command(1, &Request::RegionRead(read)).repeat(100);
                begin(path).send(&bytes).unwrap();
            }),
        ),
        (
            "a DMA_READ that is not answered",
            Box::new(move |path| {
                let peer = begin(path);
                peer.enable_bus_master().unwrap();
                peer.call(1, &map).unwrap();
                let write = |offset, data: &[u8]| {
                    let write = RegionWriteRequest { offset, region: 0, data };
                    peer.send(&posted(2, &Request::RegionWrite(write))).unwrap();
                };
                write(TestDevice::SOURCE, &0x1000u64.to_le_bytes());
                write(TestDevice::DESTINATION, &0x1000u64.to_le_bytes());
                write(TestDevice::LENGTH, &16u32.to_le_bytes());
                write(TestDevice::DOORBELL, &0u32.to_le_bytes());
                let request = peer.recv().unwrap();
                assert_eq!(request.header.command, Command::DmaRead.as_u16());
            }),
        ),
    ]
}

#[test]
fn a_client_may_leave_at_any_point() {
    let server = TestServer::start();
    for (what, leave) in stages() {
        leave(server.path());
        can_be_used(server.path());
        let dma = server.handle().dma().read(0x1000, &mut [0; 4]);
        assert!(dma.is_err(), "{what}: its memory has gone");
    }
}

#[test]
fn the_next_client_waits_for_its_turn() {
    let server = TestServer::start();
    let first = RawPeer::begin(server.path()).unwrap();
    let second = RawPeer::connect(server.path()).unwrap();
    second.send(&RawPeer::version(1, 0, 1, Some("{}"))).unwrap();
    first.call(1, &INFO).unwrap();
    assert!(!second.has_input().unwrap());
    drop(first);
    assert_eq!(second.recv_reply(1, Command::Version).unwrap().errno(), None);
}

#[test]
fn the_device_keeps_its_state_and_hears_of_the_loss() {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    vmm.write32(0, 0, 77).unwrap();
    assert!(server.handle().is_connected());
    drop(vmm);
    server.log().wait_for(&Call::Reset(Reset::ConnectionLost)).unwrap();
    let none = server.handle().dma().read(0, &mut [0; 1]);
    assert!(none.is_err());
    let vmm = Vmm::connect(server.path()).unwrap();
    assert_eq!(vmm.read32(0, 0).unwrap(), 77);
    vmm.client().reset().unwrap();
    assert_eq!(vmm.read32(0, 0).unwrap(), 0);
    assert_eq!(server.log().count(|call| *call == Call::Reset(Reset::Device)), 1);
}

#[test]
fn a_reset_puts_registers_back_and_keeps_what_the_client_gave() {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    let function = vmm.enumerate().unwrap();
    let msix = vmm.enable_msix(&function, 2).unwrap();
    let ram = vmm.share_ram(0x1000, 0x1000).unwrap();
    vmm.client().reset().unwrap();
    let after = vmm.describe().unwrap();
    assert_eq!(after.command, 0);
    assert!(after.bars.iter().all(|bar| bar.address == 0));
    assert_eq!(server.handle().dma().write(0x1000, &[1]), Err(DmaError::BusMasterDisabled));
    vmm.set_bus_master(true).unwrap();
    server.handle().dma().write(0x1000, &[1]).unwrap();
    assert_eq!(ram.bytes(0x1000, 1).unwrap(), [1]);
    server.handle().vector(1).trigger().unwrap();
    assert_eq!(msix.wait(1).unwrap(), 1);
}

#[test]
fn a_function_level_reset_is_one_too() {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    let function = vmm.enumerate().unwrap();
    let express = function.capability(vfu::pci::regs::CAP_PCIE).unwrap();
    let control = usize::from(express.offset) + vfu::pci::regs::DEVICE_CONTROL;
    vmm.config_write16(control, vfu::pci::regs::DEVICE_CONTROL_FLR).unwrap();
    assert_eq!(vmm.describe().unwrap().command, 0);
    assert_eq!(server.log().count(|call| *call == Call::Reset(Reset::FunctionLevel)), 1);
}

#[test]
fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "as after a crash");
    let server = listen(&path).unwrap().serve(device).unwrap().spawn();
    can_be_used(&path);
    drop(server.stop().unwrap());
    assert!(!path.exists(), "removed with its server");
}

#[test]
fn a_socket_in_use_is_left_alone() {
    let server = TestServer::start();
    let error = listen(server.path()).unwrap_err();
    assert!(
        matches!(&error, BuildError::Listen(ListenError::InUse(path)) if path == server.path())
    );
    let text = error.to_string();
    assert!(text.contains(&server.path().display().to_string()), "{text}");
    can_be_used(server.path());
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let error = listen(&path).unwrap_err();
    assert!(matches!(error, BuildError::Listen(ListenError::NotASocket(_))), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    let error = listen(folder.path()).unwrap_err();
    assert!(matches!(error, BuildError::Listen(ListenError::NotASocket(_))), "{error}");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(listen(&link).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn paths_that_cannot_be_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let error = listen(&folder.path().join("no/such/folder")).unwrap_err();
    assert!(matches!(error, BuildError::Listen(ListenError::Io { .. })), "{error}");
    let error = listen(&folder.path().join("x".repeat(120))).unwrap_err();
    let BuildError::Listen(ListenError::TooLong { len, .. }) = error else { panic!("{error}") };
    assert!(len > 107);
}

#[test]
fn a_server_can_be_stopped_at_any_time() {
    type Client = Box<dyn FnOnce(&Path) -> Vec<RawPeer>>;
    let clients: Vec<Client> = vec![
        Box::new(|_| vec![]),
        Box::new(|path| vec![RawPeer::connect(path).unwrap()]),
        Box::new(|path| vec![RawPeer::begin(path).unwrap()]),
        Box::new(|path| <[_; 2]>::from(RawPeer::begin_twin(path).unwrap()).into()),
        Box::new(|path| vec![RawPeer::begin(path).unwrap(), RawPeer::connect(path).unwrap()]),
    ];
    for client in clients {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut server = listen(&path).unwrap().serve(device).unwrap();
        let stopper = server.stopper();
        let (ended, end) = std::sync::mpsc::channel();
        let run = thread::spawn(move || {
            let result = server.run();
            drop(server);
            ended.send(()).unwrap();
            result
        });
        let peers = client(&path);
        stopper.stop();
        end.recv_timeout(vfu_testkit::DEADLINE).expect("run() ends");
        run.join().unwrap().unwrap();
        for peer in peers {
            peer.expect_eof().unwrap();
        }
        assert!(!path.exists());
    }
}

#[test]
fn a_server_stopped_before_it_runs_does_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = listen(&folder.path().join("s")).unwrap().serve(device).unwrap();
    server.stopper().stop();
    within("run() after stop()", move || server.run().unwrap());
}

#[test]
fn dropping_a_running_server_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let running = listen(&path).unwrap().serve(device).unwrap().spawn();
    let peer = RawPeer::begin(&path).unwrap();
    within("dropping a server", move || drop(running));
    peer.expect_eof().unwrap();
    assert!(RawPeer::connect(&path).is_err(), "nobody listens any more");
}

#[test]
fn a_client_learns_that_its_server_stopped() {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    vmm.write32(0, 0, 5).unwrap();
    server.stop().unwrap();
    assert!(vmm.read32(0, 0).is_err());
    assert!(vmm.client().closed().is_some());
}

#[test]
fn a_listening_socket_can_be_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let socket = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let builder = Server::builder(TestDevice::pci());
    let server = builder.fd(socket).unwrap().serve(device).unwrap().spawn();
    can_be_used(&path);
    can_be_used(&path);
    drop(server.stop().unwrap());
    assert!(path.exists(), "not ours to remove");
}

#[test]
fn a_connected_socket_is_one_session() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let builder = Server::builder(TestDevice::pci());
    let server = builder.fd(theirs.into()).unwrap().serve(device).unwrap().spawn();
    let vmm = Vmm::connect_fd(ours.into(), true).unwrap();
    assert!(vmm.client().has_twin_socket());
    vmm.write32(0, 0, 1).unwrap();
    drop(vmm);
    within("the end of the only session", move || drop(server.join().unwrap()));
}

#[test]
fn only_unix_stream_sockets_can_be_handed_over() {
    let wrong: Vec<OwnedFd> = vec![
        UnixDatagram::unbound().unwrap().into(),
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(),
        tempfile::tempfile().unwrap().into(),
    ];
    for fd in wrong {
        let error = Server::builder(TestDevice::pci()).fd(fd).unwrap_err();
        assert!(matches!(error, BuildError::Listen(ListenError::BadFd(_))), "{error}");
    }
}

/// A device that has its handle, which has what may call the device.
struct Held(#[expect(dead_code, reason = "to have it")] Handle, #[expect(dead_code)] Arc<()>);

impl SharedDevice for Held {
    fn region_read(&self, _: Access, _: &mut [u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn region_write(&self, _: Access, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }
}

#[test]
fn a_shared_device_goes_with_its_server() {
    let (folder, alive) = (tempfile::tempdir().unwrap(), Arc::new(()));
    let device: Weak<()> = Arc::downgrade(&alive);
    let bound = listen(&folder.path().join("s")).unwrap();
    let server = bound.serve_shared(|handle| Held(handle, alive)).unwrap();
    let handle = server.handle();
    drop(server);
    assert_eq!(device.strong_count(), 0, "the device is kept");
    drop(handle);
}
