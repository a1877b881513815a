//! What is allowed in which state of a device that is moved: every command in every state, every way
//! between two states, and what may be said of the stream (G3 to G5 and G11 of the hostile peers).

mod mover;

use mover::{drain, place, place_with};
use vfu::client::{Client, ClientError, Memory, READ_WRITE};
use vfu::wire::{
    Command, DeviceState, Errno, FeatureOp, FeatureRequest, MigDataReadRequest,
    MigDataWriteRequest, Request, WriteEntry,
};
use vfu::{DmaError, Handle, IrqIndex, Limits};
use vfu_testkit::{Interrupts, RawPeer, Vmm};

use DeviceState::*;

const STATES: [DeviceState; 6] = [Running, PreCopy, Stop, StopCopy, Resuming, Error];

/// Brings a device to a state, ERROR included.
fn bring(client: &Client, state: DeviceState) {
    if state == Error {
        client.set_device_state(Resuming).unwrap();
        client.write_state(b"garbage").unwrap();
        client.set_device_state(Stop).unwrap_err();
    } else {
        client.set_device_state(state).unwrap();
    }
    assert_eq!(client.device_state().unwrap(), state);
}

/// The state of a device after power-on.
fn saved() -> Vec<u8> {
    let place = place();
    let client = Client::connect(&place.path).unwrap();
    client.set_device_state(StopCopy).unwrap();
    drain(&client)
}

fn refusal(result: Result<(), ClientError>) -> Option<Errno> {
    match result {
        Ok(()) => None,
        Err(ClientError::Refused { errno, .. }) => Some(errno),
        Err(other) => panic!("{other}"),
    }
}

/// A command, and the states in which it is refused.
type Row = (&'static str, fn(&Client) -> Result<(), ClientError>, &'static [DeviceState]);

const COMMANDS: &[Row] = &[
    ("DEVICE_GET_INFO", |c| c.device_info().map(drop), &[]),
    ("DEVICE_GET_REGION_INFO", |c| c.region_info(0).map(drop), &[]),
    ("DEVICE_GET_REGION_IO_FDS", |c| c.region_io_fds(0).map(drop), &[]),
    ("DEVICE_GET_IRQ_INFO", |c| c.irq_info(IrqIndex::Msix).map(drop), &[]),
    ("DEVICE_SET_IRQS", |c| c.mask_irqs(IrqIndex::Intx, 0, 1), &[]),
    ("DMA_MAP", |c| c.dma_map(0x1000, 0x1000, READ_WRITE, Memory::Nothing), &[]),
    ("DMA_UNMAP", |c| c.dma_unmap(0x1000, 0x1000).map(drop), &[]),
    ("REGION_READ of config", |c| c.region_read(7, 0, &mut [0; 4]), &[]),
    ("REGION_WRITE to config", |c| c.region_write(7, 4, &[6, 0]), &[]),
    ("REGION_READ of a BAR", |c| c.region_read(0, 0, &mut [0; 4]), &[]),
    ("REGION_WRITE to a BAR", |c| c.region_write(0, 8, &[1; 4]), &[]),
    (
        "REGION_WRITE_MULTI",
        |c| {
            let write = WriteEntry::new(8, 0, &[1; 4]).unwrap();
            assert_eq!(c.region_write_multi(&[write])?, 1);
            Ok(())
        },
        &[],
    ),
    ("DEVICE_FEATURE get MIGRATION", |c| c.migration().map(|flags| assert!(flags.is_some())), &[]),
    ("DEVICE_FEATURE get state", |c| c.device_state().map(drop), &[]),
    (
        "MIG_DATA_READ",
        |c| c.read_state(&mut Vec::new()).map(drop),
        &[Running, Stop, Resuming, Error],
    ),
    ("MIG_DATA_WRITE", |c| c.write_state(b"x"), &[Running, PreCopy, Stop, StopCopy, Error]),
];

#[test]
fn every_command_in_every_state() {
    for state in STATES {
        let place = place();
        let client = Client::connect(&place.path).unwrap();
        bring(&client, state);
        for (name, command, refused) in COMMANDS {
            let expected = refused.contains(&state).then_some(Errno::EINVAL);
            assert_eq!(refusal(command(&client)), expected, "{name} in {state:?}");
            assert_eq!(client.device_state().unwrap(), state, "after {name}");
        }
        client.reset().unwrap();
        assert_eq!(client.device_state().unwrap(), Running, "DEVICE_RESET in {state:?}");
        for (name, command, _) in &COMMANDS[..COMMANDS.len() - 2] {
            assert_eq!(refusal(command(&client)), None, "{name} after a reset in {state:?}");
        }
    }
}

/// Whether the device's own doings get out: DMA and interrupts.
fn acts(handle: &Handle, interrupts: &Interrupts) -> bool {
    handle.vector(0).trigger().unwrap();
    let raised = interrupts.count_now(0).unwrap() == 1;
    let dma = handle.dma().read(0x10_0000, &mut [0; 4]);
    assert_eq!(dma, if raised { Ok(()) } else { Err(DmaError::Busy) });
    raised
}

#[test]
fn what_reaches_the_device_and_what_it_may_do() {
    for state in STATES {
        let place = place();
        let vmm = Vmm::connect(&place.path).unwrap();
        let function = vmm.enumerate().unwrap();
        let interrupts = vmm.enable_msix(&function, 1).unwrap();
        let _ram = vmm.share_ram(0x10_0000, 0x1000).unwrap();
        vmm.write32(0, 0, 1).unwrap();
        bring(vmm.client(), state);
        let (runs, frozen) = ([Running, PreCopy].contains(&state), [StopCopy, Resuming, Error]);
        let read = vmm.read32(0, 0).unwrap();
        let seen = if frozen.contains(&state) { u32::MAX } else { 1 };
        assert_eq!(read, seen, "a read in {state:?}");
        assert_eq!(acts(&place.handle, &interrupts), runs, "{state:?}");
        vmm.write32(0, 0, 2).unwrap();
        if [Error, Resuming].contains(&state) {
            vmm.client().reset().unwrap();
        } else {
            vmm.client().set_device_state(Running).unwrap();
        }
        let written = vmm.read32(0, 0).unwrap() == 2;
        assert_eq!(written, runs, "a write in {state:?}");
    }
}

#[test]
fn all_ways_between_states() {
    for pre_copy in [true, false] {
        for from in STATES {
            for number in (0..10).chain([1 << 31, u32::MAX]) {
                let place = place_with(7, |builder| builder);
                place.pre_copy.store(pre_copy, std::sync::atomic::Ordering::SeqCst);
                if from == PreCopy && !pre_copy {
                    continue;
                }
                let peer = RawPeer::begin(&place.path).unwrap();
                let state = |peer: &RawPeer| {
                    let get = FeatureRequest::new(FeatureOp::GetDeviceState);
                    let reply = peer.call(3, &Request::DeviceFeature(get)).unwrap();
                    u32::from_le_bytes(reply.payload[8..12].try_into().unwrap())
                };
                let start = if from == Error { Resuming } else { from };
                set_state(&peer, start.as_u32());
                if from == Error {
                    set_state(&peer, Stop.as_u32());
                }
                assert_eq!(state(&peer), from.as_u32());
                let to = DeviceState::from_u32(number).filter(|to| to.is_requestable());
                let possible = to.filter(|to| {
                    let loads_nothing = from == Resuming && *to != Resuming;
                    let refused = (from, *to) == (StopCopy, PreCopy);
                    from != Error && !loads_nothing && !refused && (*to != PreCopy || pre_copy)
                });
                let expected = possible.map_or(Some(Errno::EINVAL), |_| None);
                assert_eq!(set_state(&peer, number), expected, "{from:?} to {number}");
                // Nothing was loaded: leaving RESUMING has failed, and there is no way back.
                let failed = to.is_some_and(|to| to != from && (to != PreCopy || pre_copy));
                let stays = if from == Resuming && failed { Error } else { from };
                assert_eq!(
                    state(&peer),
                    possible.unwrap_or(stays).as_u32(),
                    "{from:?} to {number}"
                );
            }
        }
    }
}

/// Asks for a state by its number, be there one or not.
fn set_state(peer: &RawPeer, number: u32) -> Option<Errno> {
    let mut payload = Vec::new();
    for word in [16, 2 | 1 << 17, number, 0] {
        payload.extend_from_slice(&u32::to_le_bytes(word));
    }
    let message = vfu_testkit::message(2, Command::DeviceFeature.as_u16(), 0, &payload);
    peer.send(&message).unwrap();
    peer.recv_reply(2, Command::DeviceFeature).unwrap().errno()
}

#[test]
fn g1_and_g2_features_of_every_kind_and_length() {
    let place = place();
    let peer = RawPeer::begin(&place.path).unwrap();
    let (get, set, probe) = (1_u32 << 16, 1 << 17, 1 << 18);
    let known = |feature: u32, methods: u32| match feature {
        1 | 8 => methods & set == 0,
        2 => true,
        6 | 7 => methods & get == 0,
        _ => false,
    };
    let ask = |flags: u32, argsz: u32, len: usize| {
        // What is not asked for in the test is 2: RUNNING, as a state.
        let mut payload = [argsz.to_le_bytes(), flags.to_le_bytes(), 2_u32.to_le_bytes()].concat();
        payload.resize(64, 0);
        payload.truncate(len);
        let bytes = vfu_testkit::message(6, Command::DeviceFeature.as_u16(), 0, &payload);
        peer.send(&bytes).unwrap();
        peer.recv_reply(6, Command::DeviceFeature).unwrap()
    };
    for feature in (0..18).chain([0xffff]) {
        for methods in [0, get, set, get | set].into_iter().flat_map(|m| [m, m | probe]) {
            let possible = known(feature, methods);
            for len in [0, 4, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 64] {
                for argsz in [0, 7, 8, 12, 15, 16, 24, 32, 64, u32::MAX] {
                    let reply = ask(feature | methods, argsz, len);
                    let case = || format!("feature {feature}, {methods:#x}, {len} bytes, {argsz}");
                    match reply.errno() {
                        // Never more than was asked for room for, nor what was not sent.
                        None => {
                            assert!(possible && len >= 8 && argsz >= 8, "{}", case());
                            assert!(reply.payload.len() <= argsz as usize, "{}", case());
                            let alone = [get, set].contains(&methods) || methods & probe != 0;
                            assert!(alone, "{}", case());
                        }
                        Some(errno) => assert_eq!(errno, Errno::EINVAL, "{}", case()),
                    }
                }
            }
        }
        for unknown in 19..32 {
            let reply = ask(feature | get | 1 << unknown, 64, 64);
            assert_eq!(reply.errno(), Some(Errno::EINVAL), "feature {feature}, bit {unknown}");
        }
    }
    let state = ask(2 | get, 16, 8);
    assert_eq!(state.payload[8..12], 2_u32.to_le_bytes(), "and all is as before");
}

fn read(peer: &RawPeer, argsz: u32, size: u32) -> Result<Vec<u8>, Errno> {
    let payload = [argsz.to_le_bytes(), size.to_le_bytes()].concat();
    peer.send(&vfu_testkit::message(4, Command::MigDataRead.as_u16(), 0, &payload)).unwrap();
    let reply = peer.recv_reply(4, Command::MigDataRead).unwrap();
    reply.errno().map_or_else(|| Ok(reply.payload[8..].to_vec()), Err)
}

fn write(peer: &RawPeer, argsz: u32, size: u32, data: &[u8]) -> Option<Errno> {
    let payload = [&argsz.to_le_bytes(), &size.to_le_bytes(), data].concat();
    peer.send(&vfu_testkit::message(5, Command::MigDataWrite.as_u16(), 0, &payload)).unwrap();
    peer.recv_reply(5, Command::MigDataWrite).unwrap().errno()
}

#[test]
fn g4_reading_the_stream() {
    let place = place();
    let peer = RawPeer::begin(&place.path).unwrap(); // max_data_xfer_size is 1 MiB
    assert_eq!(read(&peer, 16, 8), Err(Errno::EINVAL), "the device runs");
    assert_eq!(set_state(&peer, StopCopy.as_u32()), None);
    assert_eq!(read(&peer, 8, 0), Ok(vec![]));
    assert_eq!(read(&peer, 9, 1).map(|bytes| bytes.len()), Ok(1));
    assert_eq!(read(&peer, 8 + (1 << 20) + 1, (1 << 20) + 1), Err(Errno::EINVAL));
    assert_eq!(read(&peer, u32::MAX, u32::MAX - 8), Err(Errno::EINVAL));
    assert_eq!(read(&peer, 15, 8), Err(Errno::EINVAL), "no room for what was asked for");
    assert!(read(&peer, 8 + (1 << 20), 1 << 20).unwrap().len() > 64);
    assert_eq!(read(&peer, 8 + (1 << 20), 1 << 20), Ok(vec![]), "behind its end");
    assert_eq!(set_state(&peer, Stop.as_u32()), None);
    assert_eq!(read(&peer, 16, 8), Err(Errno::EINVAL), "the session is over");
}

#[test]
fn g5_writing_the_stream() {
    let (state, place) = (saved(), place());
    let peer = RawPeer::begin(&place.path).unwrap();
    assert_eq!(write(&peer, 16, 8, &[0; 8]), Some(Errno::EINVAL), "the device runs");
    assert_eq!(set_state(&peer, Resuming.as_u32()), None);
    assert_eq!(write(&peer, 16, 8, &[0; 7]), Some(Errno::EINVAL), "more than there is");
    assert_eq!(write(&peer, 15, 8, &[0; 8]), Some(Errno::EINVAL), "argsz is too small");
    assert_eq!(write(&peer, 8, 0, &[]), None, "nothing");
    let large = vec![0; (1 << 20) + 1];
    assert_eq!(
        write(&peer, 8 + large.len() as u32, large.len() as u32, &large),
        Some(Errno::EINVAL)
    );
    for byte in &state {
        assert_eq!(write(&peer, 9, 1, &[*byte, 0xee]), None, "a byte, and one too many");
    }
    assert_eq!(set_state(&peer, Running.as_u32()), None, "none of the refused did any harm");
}

#[test]
fn what_the_device_refuses_is_an_error_that_a_reset_ends() {
    // Whole, of this kind of device, but longer than it takes.
    let place = place();
    let client = Client::connect(&place.path).unwrap();
    let image = |version: u32, own: &[u8]| {
        client.set_device_state(StopCopy).unwrap();
        let state = drain(&client);
        client.set_device_state(Running).unwrap();
        // The device's record is the last but one: 12 + 64 bytes, then 16 of the end.
        let mut bytes = state[..state.len() - 16 - 64 - 12].to_vec();
        for word in [5, version, own.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(own);
        let crc = crc32fast::hash(&bytes);
        for word in [u32::MAX, 0, 4, crc] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    };
    let load = |bytes: &[u8]| {
        client.set_device_state(Resuming).unwrap();
        client.write_state(bytes).unwrap();
        refusal(client.set_device_state(Running))
    };
    for (what, bytes) in [
        ("a later version", image(2, &[0; 64])),
        ("too long", image(1, &[0; 4097])),
        ("another length", image(1, &[0; 63])),
    ] {
        assert_eq!(load(&bytes), Some(Errno::EINVAL), "{what}");
        assert_eq!(client.device_state().unwrap(), Error);
        client.reset().unwrap();
    }
    assert_eq!(load(&image(1, &[3; 64])), None);
}

#[test]
fn a_device_that_waits_for_a_state_does_nothing_before() {
    let waiting = || place_with(7, |builder| builder.incoming(true).limits(Limits::default()));
    let there = waiting();
    let vmm = Vmm::connect(&there.path).unwrap();
    assert_eq!(vmm.client().device_state().unwrap(), Resuming);
    vmm.enumerate().unwrap();
    vmm.write32(0, 0, 1).unwrap();
    assert_eq!(vmm.read32(0, 0).unwrap(), u32::MAX);
    assert_eq!(there.handle.dma().read(0, &mut [0; 4]), Err(DmaError::Busy));
    // A client that only looks, or breaks off, leaves it waiting.
    vmm.client().write_state(b"half a sta").unwrap();
    drop(vmm);
    let vmm = Vmm::connect(&there.path).unwrap();
    assert_eq!(vmm.client().device_state().unwrap(), Resuming);
    vmm.client().write_state(&saved()).unwrap();
    vmm.client().set_device_state(Running).unwrap();
    assert_eq!(vmm.read32(0, 0).unwrap(), 0);
    drop(vmm);
    let next = Client::connect(&there.path).unwrap();
    assert_eq!(next.device_state().unwrap(), Running);
    // A reset makes it one like any other.
    let there = waiting();
    let client = Client::connect(&there.path).unwrap();
    client.reset().unwrap();
    assert_eq!(client.device_state().unwrap(), Running);
}

#[test]
fn a_device_that_can_not_move_waits_for_no_state() {
    let folder = tempfile::tempdir().unwrap();
    let bound = vfu::Server::builder(mover::pci(1)).incoming(true);
    let bound = bound.listen(folder.path().join("socket")).unwrap();
    let error = bound.serve(|_| Fixed).unwrap_err();
    assert!(error.to_string().contains("can't be moved"), "{error}");
}

#[derive(Debug)]
struct Fixed;

impl vfu::Device for Fixed {
    fn region_read(&mut self, _: vfu::Access, _: &mut [u8]) -> Result<(), vfu::Fault> {
        Ok(())
    }

    fn region_write(&mut self, _: vfu::Access, _: &[u8]) -> Result<(), vfu::Fault> {
        Ok(())
    }
}

#[test]
fn requests_of_the_stream_are_as_the_types_emit_them() {
    // The raw forms above are those that a client sends.
    let mut payload = Vec::new();
    MigDataReadRequest { size: 8 }.emit(&mut payload);
    assert_eq!(payload, [16, 0, 0, 0, 8, 0, 0, 0]);
    let mut payload = Vec::new();
    MigDataWriteRequest { data: &[7] }.emit(&mut payload);
    assert_eq!(payload, [9, 0, 0, 0, 1, 0, 0, 0, 7]);
}
