//! Moving a device: its states, its bytes, and what DMA, interrupts, resets and lost clients have to
//! do with them (C5 and C6c of the rules of concurrent DMA).

mod dma_peer;
mod mover;

use std::time::Duration;

use dma_peer::{BASE, Pending, read_reply, start};
use mover::{Place, drain, pci, place, place_of};
use vfu::client::{Client, ClientError};
use vfu::migration::{LoadError, Migration};
use vfu::wire::{
    Command, DeviceState, DmaMap, DmaReadRequest, DmaWriteReply, Errno, FeatureOp, FeatureReply,
    FeatureRequest, FeatureResult, MigrationFlags, Request,
};
use vfu::{Access, Device, DmaError, Fault, Handle, Limits, Server};
use vfu_testkit::{Interrupts, RawPeer, Vmm, serve_in_process, within};

#[test]
fn a_device_moves_from_one_server_to_another() {
    for pre_copy in [false, true] {
        let (from, to) = (place(), place());
        let vmm = Vmm::connect(&from.path).unwrap();
        let function = vmm.enumerate().unwrap();
        vmm.write32(0, 8, 0xcafe_f00d).unwrap();
        let client = vmm.client();
        let flags = client.migration().unwrap().unwrap();
        assert_eq!(flags, MigrationFlags::STOP_COPY | MigrationFlags::PRE_COPY);
        let mut state = Vec::new();
        if pre_copy {
            client.set_device_state(DeviceState::PreCopy).unwrap();
            state.extend(drain(client));
            assert!(state.len() > 32, "something is worth sending early, in two rounds");
            vmm.write32(0, 12, 0x1234_5678).unwrap(); // it runs on
        }
        client.set_device_state(DeviceState::StopCopy).unwrap();
        state.extend(drain(client));
        client.set_device_state(DeviceState::Stop).unwrap();

        let there = Vmm::connect(&to.path).unwrap();
        there.client().set_device_state(DeviceState::Resuming).unwrap();
        for piece in state.chunks(7) {
            there.client().write_state(piece).unwrap();
        }
        there.client().set_device_state(DeviceState::Running).unwrap();
        assert_eq!(there.read32(0, 8).unwrap(), 0xcafe_f00d);
        assert_eq!(there.read32(0, 12).unwrap() == 0x1234_5678, pre_copy);
        let bar = there.config_read32(0x10).unwrap();
        assert_eq!(u64::from(bar & !0xf), function.bars[0].address, "the library's part came, too");
        let early: &[&[u8]] = if pre_copy { &[b"early", b"more"] } else { &[] };
        assert_eq!(*to.early.lock().unwrap(), early);
        let calls = to.log.lock().unwrap().clone();
        assert_eq!(calls, ["stop", "load", "start"]);
    }
}

#[test]
fn what_is_no_state_of_this_device_is_refused() {
    let from = place();
    let client = Client::connect(&from.path).unwrap();
    client.set_device_state(DeviceState::StopCopy).unwrap();
    let state = drain(&client);
    let mut damaged = state.clone();
    damaged[40] ^= 1;
    let cases: [(&str, u16, &[u8]); 4] = [
        ("nothing", 7, &[]),
        ("cut short", 7, &state[..state.len() - 1]),
        ("damaged", 7, &damaged),
        ("of another device", 8, &state),
    ];
    for (what, device, bytes) in cases {
        let to = place_of(device, Limits::default());
        let client = Client::connect(&to.path).unwrap();
        client.set_device_state(DeviceState::Resuming).unwrap();
        client.write_state(bytes).unwrap();
        let refused = client.set_device_state(DeviceState::Running);
        let einval = matches!(refused, Err(ClientError::Refused { errno: Errno::EINVAL, .. }));
        assert!(einval, "{what}: {refused:?}");
        assert_eq!(client.device_state().unwrap(), DeviceState::Error, "{what}");
        assert!(!to.log.lock().unwrap().contains(&"load"), "{what}");
        client.reset().unwrap();
        assert_eq!(client.device_state().unwrap(), DeviceState::Running, "{what}");
    }
    // Endless data.
    let to = place();
    let client = Client::connect(&to.path).unwrap();
    client.set_device_state(DeviceState::Resuming).unwrap();
    let piece = vec![0; 64 << 10];
    let refused = (0..100).find_map(|_| client.write_state(&piece).err());
    assert!(matches!(refused, Some(ClientError::Refused { errno: Errno::ENOSPC, .. })));
}

/// A client that answers when it is told to.
struct Slow(RawPeer);

impl Slow {
    fn begin(place: &Place) -> Slow {
        let peer = RawPeer::begin(&place.path).unwrap();
        peer.enable_bus_master().unwrap();
        let flags = vfu::client::READ_WRITE;
        let map = DmaMap { flags, offset: 0, address: BASE, size: 1 << 20 };
        assert_eq!(peer.call(1, &Request::DmaMap(map)).unwrap().errno(), None);
        Slow(peer)
    }

    fn ask_for(&self, state: DeviceState) {
        let op = FeatureOp::SetDeviceState { state, data_fd: 0 };
        let request = Request::DeviceFeature(FeatureRequest::new(op));
        self.0.send(&vfu_testkit::command(9, &request)).unwrap();
    }

    fn state(&self) -> DeviceState {
        let request = Request::DeviceFeature(FeatureRequest::new(FeatureOp::GetDeviceState));
        let reply = self.0.call(10, &request).unwrap();
        match FeatureReply::parse(&reply.payload).unwrap().result {
            FeatureResult::GetDeviceState { state, .. } => state,
            other => panic!("{other:?}"),
        }
    }
}

fn dma<T: Send + 'static>(
    handle: &Handle,
    work: impl FnOnce(vfu::Dma) -> Result<T, DmaError> + Send + 'static,
) -> Pending<T> {
    let dma = handle.dma();
    start(move || work(dma))
}

#[test]
fn c5a_a_stop_ends_reads_and_waits_for_writes() {
    let place = place();
    let slow = Slow::begin(&place);
    let write = dma(&place.handle, |dma| dma.write(BASE, b"data"));
    let written = slow.0.recv().unwrap();
    assert_eq!(written.header.command, Command::DmaWrite.as_u16());
    let read = dma(&place.handle, |dma| dma.read(BASE, &mut [0; 8]));
    let asked = slow.0.recv().unwrap();
    slow.ask_for(DeviceState::Stop);
    assert_eq!(read.end(), Err(DmaError::Canceled), "the read can be asked for again");
    assert_eq!(place.handle.dma().read(BASE, &mut [0; 8]), Err(DmaError::Busy));
    assert!(!slow.0.has_input().unwrap(), "the memory is not whole yet");
    assert!(place.log.lock().unwrap().is_empty(), "the device is told after that");
    let mut payload = Vec::new();
    DmaWriteReply::new(BASE, 4).emit(&mut payload);
    slow.0.send(&written.reply(&payload)).unwrap();
    assert_eq!(write.end(), Ok(()));
    assert_eq!(slow.0.recv_reply(9, Command::DeviceFeature).unwrap().errno(), None);
    assert_eq!(slow.state(), DeviceState::Stop);
    // The late reply to the read changes nothing.
    let count = DmaReadRequest::parse(&asked.payload).unwrap().count as usize;
    slow.0.send(&asked.reply(&read_reply(BASE, &vec![1; count]))).unwrap();
    assert_eq!(slow.state(), DeviceState::Stop);
}

#[test]
fn c5b_a_write_that_is_not_acknowledged_keeps_the_device_running() {
    let limits = Limits { reply_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let place = place_of(7, limits);
    let slow = Slow::begin(&place);
    let write = dma(&place.handle, |dma| dma.write(BASE, b"data"));
    let _never_answered = slow.0.recv().unwrap();
    slow.ask_for(DeviceState::Stop);
    // It may end by its time before the stop comes: then there is nothing to wait for.
    let reply = slow.0.recv_reply(9, Command::DeviceFeature).unwrap();
    assert_eq!(write.end(), Err(DmaError::TimedOut));
    match reply.errno() {
        Some(errno) => {
            assert_eq!(errno, Errno::ETIMEDOUT);
            assert_eq!(slow.state(), DeviceState::Running);
            assert!(place.log.lock().unwrap().is_empty());
            let again = dma(&place.handle, |dma| dma.write(BASE, b"data"));
            assert_eq!(slow.0.recv().unwrap().header.command, Command::DmaWrite.as_u16());
            assert_eq!(again.end(), Err(DmaError::TimedOut), "the gate is open again");
        }
        None => assert_eq!(slow.state(), DeviceState::Stop),
    }
}

#[test]
fn c5d_a_device_that_is_stopped_sends_nothing() {
    let place = place();
    let slow = Slow::begin(&place);
    for state in [DeviceState::Stop, DeviceState::StopCopy, DeviceState::Resuming] {
        slow.ask_for(state);
        assert_eq!(slow.0.recv_reply(9, Command::DeviceFeature).unwrap().errno(), None);
        assert_eq!(place.handle.dma().read(BASE, &mut [0; 8]), Err(DmaError::Busy));
        assert_eq!(place.handle.dma().write(BASE, &[0; 8]), Err(DmaError::Busy));
        assert_eq!(slow.state(), state, "and no command of the device came in between");
    }
}

#[test]
fn c5e_interrupts_wait_for_the_start() {
    let place = place();
    let vmm = Vmm::connect(&place.path).unwrap();
    let function = vmm.enumerate().unwrap();
    let msix = vmm.enable_msix(&function, 2).unwrap();
    vmm.client().set_device_state(DeviceState::Stop).unwrap();
    place.handle.vector(1).trigger().unwrap();
    place.handle.vector(1).trigger().unwrap();
    assert_eq!((msix.count_now(0).unwrap(), msix.count_now(1).unwrap()), (0, 0));
    vmm.client().set_device_state(DeviceState::Running).unwrap();
    assert_eq!((msix.count_now(0).unwrap(), msix.count_now(1).unwrap()), (0, 1));
}

#[test]
fn c5e_interrupts_that_wait_go_where_the_device_goes() {
    let (from, to) = (place(), place());
    let [source, destination] = [&from, &to].map(|place| {
        let vmm = Vmm::connect(&place.path).unwrap();
        let function = vmm.enumerate().unwrap();
        let msix = vmm.enable_msix(&function, 2).unwrap();
        (vmm, msix)
    });
    let client = source.0.client();
    client.set_device_state(DeviceState::Stop).unwrap();
    from.handle.vector(1).trigger().unwrap();
    client.set_device_state(DeviceState::StopCopy).unwrap();
    destination.0.client().set_device_state(DeviceState::Resuming).unwrap();
    destination.0.client().write_state(&drain(client)).unwrap();
    destination.0.client().set_device_state(DeviceState::Stop).unwrap();
    assert_eq!(destination.1.count_now(1).unwrap(), 0);
    destination.0.client().set_device_state(DeviceState::Running).unwrap();
    let counts = |msix: &Interrupts| [0, 1].map(|vector| msix.count_now(vector).unwrap());
    assert_eq!((counts(&source.1), counts(&destination.1)), ([0, 0], [0, 1]));
    source.0.client().reset().unwrap();
    assert_eq!(counts(&source.1), [0, 0], "a reset forgets it");
}

#[test]
fn writes_to_a_stopped_device_do_nothing() {
    let place = place();
    let vmm = Vmm::connect(&place.path).unwrap();
    vmm.enumerate().unwrap();
    vmm.write32(0, 0, 1).unwrap();
    vmm.client().set_device_state(DeviceState::Stop).unwrap();
    vmm.write32(0, 0, 2).unwrap();
    assert_eq!(vmm.read32(0, 0).unwrap(), 1);
    vmm.client().set_device_state(DeviceState::Running).unwrap();
    vmm.write32(0, 0, 3).unwrap();
    assert_eq!(vmm.read32(0, 0).unwrap(), 3);
}

#[test]
fn c6c_what_a_lost_client_leaves() {
    use DeviceState::*;
    let table =
        [(Running, Running), (PreCopy, Running), (StopCopy, Stop), (Stop, Stop), (Resuming, Error)];
    for (left, found) in table {
        let place = place();
        let client = Client::connect(&place.path).unwrap();
        client.set_device_state(left).unwrap();
        drop(client);
        let next = Client::connect(&place.path).unwrap();
        assert_eq!(next.device_state().unwrap(), found, "after {left:?}");
        next.device_info().unwrap();
        next.reset().unwrap();
        assert_eq!(next.device_state().unwrap(), Running);
    }
}

#[test]
fn a_reset_leads_out_of_every_state() {
    use DeviceState::*;
    for state in [Stop, StopCopy, Resuming, PreCopy] {
        let place = place();
        let client = Client::connect(&place.path).unwrap();
        client.set_device_state(state).unwrap();
        client.reset().unwrap();
        assert_eq!(client.device_state().unwrap(), Running, "{state:?}");
        assert!(client.read_state(&mut Vec::new()).is_err(), "the session is over");
    }
}

#[test]
fn a_device_that_can_not_move_says_so() {
    struct Fixed;
    impl Device for Fixed {
        fn region_read(&mut self, _: Access, _: &mut [u8]) -> Result<(), Fault> {
            Ok(())
        }
        fn region_write(&mut self, _: Access, _: &[u8]) -> Result<(), Fault> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fixed.sock");
    let server = Server::builder(pci(1)).listen(&path).unwrap().serve(|_| Fixed).unwrap();
    let handle = server.handle();
    let server = server.spawn();
    let client = Client::connect(&path).unwrap();
    assert_eq!(client.migration().unwrap(), None);
    assert!(client.device_state().is_err() && client.set_device_state(DeviceState::Stop).is_err());
    // Asking for it has stopped nothing: the device's DMA goes as before.
    assert_eq!(handle.dma().read(BASE, &mut [0; 4]), Err(DmaError::BusMasterDisabled));
    within("the server's end", move || drop(server.stop().unwrap()));
}

/// A device that sends what has changed, and at the end nothing that it has sent.
#[derive(Default)]
struct Ahead {
    value: u8,
    sent: Option<u8>,
}

impl Device for Ahead {
    fn region_read(&mut self, _: Access, data: &mut [u8]) -> Result<(), Fault> {
        data.fill(self.value);
        Ok(())
    }

    fn region_write(&mut self, _: Access, data: &[u8]) -> Result<(), Fault> {
        self.value = data[0];
        Ok(())
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }
}

impl Ahead {
    fn take(&mut self) -> Vec<u8> {
        let changed = self.sent.replace(self.value) != Some(self.value);
        vec![self.value; if changed { 40 } else { 0 }]
    }
}

impl Migration for Ahead {
    fn max_len(&self) -> usize {
        100
    }

    fn begin_saving(&mut self) {
        self.sent = None;
    }

    fn can_pre_copy(&self) -> bool {
        true
    }

    fn save_early(&mut self) -> Vec<u8> {
        self.take()
    }

    fn load_early(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError> {
        self.load(version, state)
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(self.take())
    }

    fn load(&mut self, _: u32, state: &[u8]) -> Result<(), LoadError> {
        self.value = state.first().copied().unwrap_or(self.value);
        Ok(())
    }
}

/// There is room for two pieces of what it has to say while it runs.
#[test]
fn what_does_not_go_early_any_more_goes_at_the_end() {
    let [from, to] = [(); 2].map(|()| {
        let served = serve_in_process(Server::builder(pci(7)), |_| Ahead::default()).unwrap();
        let client = Client::connect(served.path()).unwrap();
        (client, served)
    });
    let (client, mut state) = (&from.0, Vec::new());
    client.set_device_state(DeviceState::PreCopy).unwrap();
    for value in 1..=5 {
        client.region_write(0, 0, &[value]).unwrap();
        state.extend(drain(client));
    }
    client.set_device_state(DeviceState::StopCopy).unwrap();
    state.extend(drain(client));
    to.0.set_device_state(DeviceState::Resuming).unwrap();
    to.0.write_state(&state).unwrap();
    to.0.set_device_state(DeviceState::Running).unwrap();
    let mut value = [0];
    to.0.region_read(0, 0, &mut value).unwrap();
    assert_eq!(value, [5]);
}
