//! What a server makes of configuration space: the ROM's region, and resets by power states.

use vfu::Reset;
use vfu::pci::{Field, Pci, Pm, RawCapability, regs};
use vfu::server::Server;
use vfu::wire::{
    Command, Errno, RegionFlags, RegionInfo, RegionInfoRequest, RegionReadReply, RegionReadRequest,
    RegionWriteRequest, Reply, Request,
};
use vfu_testkit::{Call, CallLog, RawMessage, RawPeer, Served, TestDevice, Vmm, serve_in_process};

const ROM: u32 = 6;

fn serve(pci: Pci) -> (Served<TestDevice>, CallLog) {
    let log = CallLog::default();
    let of_device = log.clone();
    let device = |handle| TestDevice::new(handle, of_device);
    (serve_in_process(Server::builder(pci), device).unwrap(), log)
}

fn info(peer: &RawPeer, index: u32) -> RegionInfo {
    let request = Request::DeviceGetRegionInfo(RegionInfoRequest { argsz: 32, index });
    let reply = peer.call(1, &request).unwrap();
    match Reply::parse(Command::DeviceGetRegionInfo, &reply.payload).unwrap() {
        Reply::DeviceGetRegionInfo(info) => info,
        other => panic!("{other:?}"),
    }
}

fn read(peer: &RawPeer, offset: u64, count: u32) -> RawMessage {
    peer.call(2, &Request::RegionRead(RegionReadRequest { offset, region: ROM, count })).unwrap()
}

fn bytes(reply: &RawMessage) -> Vec<u8> {
    assert_eq!(reply.errno(), None);
    RegionReadReply::parse(&reply.payload).unwrap().data.to_vec()
}

#[test]
fn the_rom_is_a_region_that_is_only_read() {
    let mut image = vec![0x90; 3000];
    image[..3].copy_from_slice(&[0x55, 0xaa, 5]);
    let (served, log) = serve(TestDevice::pci().rom(image.clone()));
    let peer = RawPeer::begin(served.path()).unwrap();
    let rom = info(&peer, ROM);
    assert_eq!((rom.size, rom.flags), (4096, RegionFlags::READ));
    assert_eq!(info(&peer, 7).flags, RegionFlags::READ | RegionFlags::WRITE);

    log.take();
    image.resize(4096, 0xff);
    assert_eq!(bytes(&read(&peer, 0, 4096)), image, "enabled or not");
    assert_eq!(bytes(&read(&peer, 2998, 4)), [0x90, 0x90, 0xff, 0xff]);
    assert_eq!(read(&peer, 4095, 2).errno(), Some(Errno::EINVAL));
    let write = RegionWriteRequest { offset: 0, region: ROM, data: &[1, 2, 3, 4] };
    assert_eq!(peer.call(3, &Request::RegionWrite(write)).unwrap().errno(), None, "dropped");
    assert_eq!(bytes(&read(&peer, 0, 4)), image[..4]);
    assert_eq!(log.take(), [], "none of it is the device's business");
}

#[test]
fn without_a_rom_there_is_no_region() {
    let (served, _) = serve(TestDevice::pci());
    let peer = RawPeer::begin(served.path()).unwrap();
    let rom = info(&peer, ROM);
    assert_eq!((rom.size, rom.flags), (0, RegionFlags::empty()));
    assert_eq!(read(&peer, 0, 4).errno(), Some(Errno::EINVAL));
}

/// A function with PM at 0x40, without No_Soft_Reset or with it, PCI Express, and one register of
/// which the low half is sticky, at 0x108.
fn sleeper(no_soft_reset: bool) -> Pci {
    let register = RawCapability::new([]).field(0, 4, Field::new(0).rw(!0).sticky(0xffff));
    Pci::endpoint(0x1234, 1)
        .bar(0, vfu::Bar::mem32(TestDevice::BAR0_SIZE))
        .pm_with(Pm { no_soft_reset, ..Pm::default() })
        .pcie_endpoint()
        .vendor_extended(1, 1, register)
}

fn config32(vmm: &Vmm, at: u64) -> u32 {
    vmm.read32(7, at).unwrap()
}

fn resets(log: &CallLog) -> Vec<Reset> {
    let calls = log.take().into_iter();
    let resets = calls.filter_map(|call| match call {
        Call::Reset(kind) => Some(kind),
        _ => None,
    });
    resets.collect()
}

#[test]
fn from_d3hot_to_d0_is_a_reset_unless_the_function_says_otherwise() {
    for no_soft_reset in [false, true] {
        let (served, log) = serve(sleeper(no_soft_reset));
        let vmm = Vmm::connect(served.path()).unwrap();
        vmm.write32(7, 0x108, 0xabcd_1234).unwrap();
        vmm.write32(0, 0, 77).unwrap();
        vmm.set_bus_master(true).unwrap();
        vmm.write32(7, 0x44, 3).unwrap();
        assert_eq!(resets(&log), [], "going to sleep is none");
        vmm.write32(7, 0x44, 0).unwrap();
        let awake = (config32(&vmm, 0x108), vmm.read32(0, 0).unwrap());
        let command = config32(&vmm, 4) & 0xffff;
        if no_soft_reset {
            assert_eq!(resets(&log), []);
            assert_eq!((awake, command & 4), ((0xabcd_1234, 77), 4));
        } else {
            assert_eq!(resets(&log), [Reset::D3HotToD0]);
            assert_eq!((awake, command), ((0x1234, 0), 0), "sticky bits are kept");
        }
    }
}

#[test]
fn sticky_bits_survive_a_function_level_reset_and_no_device_reset() {
    let (served, log) = serve(sleeper(true));
    let vmm = Vmm::connect(served.path()).unwrap();
    vmm.write32(7, 0x108, 0xabcd_1234).unwrap();
    let control = 0x48 + regs::DEVICE_CONTROL;
    vmm.config_write16(control, regs::DEVICE_CONTROL_FLR).unwrap();
    assert_eq!(config32(&vmm, 0x108), 0x1234);
    vmm.client().reset().unwrap();
    assert_eq!(config32(&vmm, 0x108), 0);
    assert_eq!(resets(&log), [Reset::FunctionLevel, Reset::Device]);
}
