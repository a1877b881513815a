//! Clients that come and go, at every stage of the handshake and of the session (L4, L5).

use std::os::fd::AsFd;
use std::path::Path;

use vfu::wire::{
    Command, DeviceInfoRequest, DmaMap, RegionReadRequest, RegionWriteRequest, Request,
};
use vfu_testkit::{RawPeer, SharedRam, Vmm, command, posted};

use crate::alone::alone;
use crate::{Copier, DESTINATION, DOORBELL, SOURCE, rounds, settle};

const BASE: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;
const INFO: Request<'_> = Request::DeviceGetInfo(DeviceInfoRequest { argsz: 16 });

fn map(address: u64) -> Request<'static> {
    Request::DmaMap(DmaMap { flags: vfu::client::READ_WRITE, offset: 0, address, size: PAGE })
}

fn write(offset: u64, data: &[u8]) -> Vec<u8> {
    posted(1, &Request::RegionWrite(RegionWriteRequest { offset, region: 0, data }))
}

/// Uses all there is, and leaves.
fn use_it(path: &Path, twin: bool) {
    let connect = if twin { Vmm::connect } else { Vmm::connect_single };
    let vmm = connect(path.to_path_buf()).unwrap();
    let function = vmm.enumerate().unwrap();
    let interrupts = vmm.enable_msix(&function, 4).unwrap();
    let _shared = vmm.share_ram(BASE, 16 * PAGE).unwrap();
    let _file = vmm.share_ram(2 * BASE, PAGE).unwrap();
    let _messages = vmm.message_ram(4 * BASE, PAGE as usize).unwrap();
    vmm.write64(0, SOURCE, BASE).unwrap();
    vmm.write64(0, DESTINATION, 4 * BASE).unwrap();
    vmm.write64(0, DOORBELL, 1).unwrap();
    interrupts.wait(0).unwrap();
    // One more that is not waited for.
    vmm.write64(0, DOORBELL, 1).unwrap();
}

/// Leaves while the device's DMA is under way: nobody answers it.
fn leave_in_dma(path: &Path, twin: bool) {
    let (main, other) = if twin {
        let (main, twin) = RawPeer::begin_twin(path).unwrap();
        (main, Some(twin))
    } else {
        (RawPeer::begin(path).unwrap(), None)
    };
    main.enable_bus_master().unwrap();
    main.call(2, &map(BASE)).unwrap();
    main.send(&write(SOURCE, &BASE.to_le_bytes())).unwrap();
    main.send(&write(DOORBELL, &[1; 8])).unwrap();
    let asked = other.as_ref().unwrap_or(&main).recv().unwrap();
    assert_eq!(asked.header.command, Command::DmaRead.as_u16());
}

/// One client, and the stage at which it leaves.
fn stage(round: u32, path: &Path, ram: &SharedRam) {
    // That an idle twin was closed is noticed after a while: not waited for each time.
    let waits = round % 64 == 0;
    let connect = || RawPeer::connect(path).unwrap();
    let begin = || RawPeer::begin(path).unwrap();
    let version = RawPeer::version(1, 0, 1, Some("{}"));
    match round % STAGES {
        0 => drop(connect()),
        1 => connect().send(&version[..7]).unwrap(),
        2 => connect().send(&version[..17]).unwrap(),
        3 => connect().send(&version).unwrap(),
        4 => connect().send_with(&version, &[ram.as_fd()]).unwrap(),
        5 => drop(connect().handshake("{").unwrap()),
        6 => drop(begin()),
        7 => drop(RawPeer::begin_twin(path).unwrap()),
        8 => {
            let (main, twin) = RawPeer::begin_twin(path).unwrap();
            drop(twin);
            if waits {
                main.expect_eof().unwrap();
            }
        }
        9 => {
            let (main, twin) = RawPeer::begin_twin(path).unwrap();
            drop(main);
            twin.expect_eof().unwrap();
        }
        10 => begin().send(&command(1, &INFO)).unwrap(),
        11 => begin().send(&command(1, &INFO)[..20]).unwrap(),
        12 => drop(begin().call(1, &INFO).unwrap()),
        13 => begin().send_with(&command(1, &map(BASE)), &[ram.as_fd()]).unwrap(),
        14 => begin().send_with(&command(1, &map(BASE))[..20], &[ram.as_fd()]).unwrap(),
        15 => {
            let reads = RegionReadRequest { offset: 0, region: 2, count: 1 << 20 };
            // Their replies find no room.
            begin().send(&command(1, &Request::RegionRead(reads)).repeat(4)).unwrap();
        }
        16 => begin().shutdown_write(),
        17 => use_it(path, false),
        18 => use_it(path, true),
        19 => leave_in_dma(path, false),
        _ => leave_in_dma(path, true),
    }
}
const STAGES: u32 = 21;

#[test]
fn clients_come_and_go_at_every_stage() {
    alone!(|| {
        let server = Copier::serve();
        let ram = SharedRam::new(BASE, PAGE).unwrap();
        for round in 0..rounds(20 * STAGES, 100_000) {
            stage(round, server.path(), &ram);
        }
        settle(&server);
        server.stop().unwrap();
    });
}
