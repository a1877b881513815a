//! A VMM enumerates a device, uses its memory and catches its interrupts.

use vfu::pci::{BarKind, regs};
use vfu_testkit::{Detail, TestDevice, TestServer, Vmm};

#[test]
fn a_device_is_enumerated() {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    let before = vmm.describe().unwrap();
    assert_eq!((before.vendor, before.device, before.revision), (0x1234, 1, 2));
    assert_eq!(before.class, 0x05_80_00);
    assert_eq!(before.command, 0);
    assert!(before.bars.iter().all(|bar| bar.address == 0));
    assert_eq!(vmm.describe().unwrap(), before, "describing changes nothing");

    let function = vmm.enumerate().unwrap();
    let bars: Vec<_> = function.bars.iter().map(|bar| (bar.index, bar.kind, bar.size)).collect();
    let expected = [
        (0, BarKind::Mem32, TestDevice::BAR0_SIZE),
        (1, BarKind::Mem32, 8192),
        (2, BarKind::Mem64, TestDevice::BAR2_SIZE),
        (4, BarKind::Io, 32),
    ];
    assert_eq!(bars, expected);
    assert!(function.bars.iter().all(|bar| bar.address != 0 && bar.address % bar.size == 0));
    assert!(function.bar(2).unwrap().prefetchable);
    let on = regs::COMMAND_IO | regs::COMMAND_MEMORY | regs::COMMAND_BUS_MASTER;
    assert_eq!(function.command & on, on);
    assert_eq!((function.msi_vectors(), function.msix_vectors()), (4, 4));
    assert_eq!(function.config.len(), 4096);
    let again = vmm.describe().unwrap();
    assert_eq!(again.bars, function.bars, "addresses survive sizing");
}

#[test]
fn a_function_prints_as_a_tree() {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    let function = vmm.enumerate().unwrap();
    let text = function.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "1234:0001 Memory controller [class 058000] (rev 02)");
    assert_eq!(lines[1], "|- subsystem 1af4:1100");
    assert_eq!(lines[2], "|- BAR0: 32-bit memory, 4 KiB, at 0xc0000000");
    assert_eq!(lines[5], "|- BAR4: I/O, 32 bytes, at 0x1000");
    assert!(lines.contains(&"|- interrupt pin A"), "{text}");
    assert!(text.contains("MSI-X: 4 vectors, table BAR1+0x0, PBA BAR1+0x1000, disabled"), "{text}");
    assert!(lines.last().unwrap().starts_with("`- "), "{text}");
}

#[test]
fn a_copy_is_announced_by_each_kind_of_message() {
    for twin in [false, true] {
        let server = TestServer::start();
        let connect = if twin { Vmm::connect } else { Vmm::connect_single };
        let vmm = connect(server.path().to_path_buf()).unwrap();
        let function = vmm.enumerate().unwrap();
        let msix = vmm.enable_msix(&function, 4).unwrap();
        let enabled = vmm.describe().unwrap();
        let detail = enabled.capability(regs::CAP_MSIX).unwrap().detail;
        assert!(matches!(detail, Detail::Msix { enabled: true, function_mask: false, .. }));
        let shared = vmm.share_ram(0x10_0000, 0x10000).unwrap();
        let messages = vmm.message_ram(0x8000_0000, 0x10000).unwrap();
        let data: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        shared.write(0x10_0123, &data).unwrap();
        copy(&vmm, 0x10_0123, 0x8000_0001, 5000, 3);
        msix.wait(3).unwrap();
        assert_eq!(vmm.read32(0, TestDevice::DONE).unwrap(), 0);
        assert_eq!(messages.bytes(0x8000_0001, 5000).unwrap(), data);
        assert_eq!((messages.reads(), messages.writes(), messages.largest()), (0, 1, 5000));
        copy(&vmm, 0x8000_0001, 0x10_8000, 5000, 0);
        msix.wait(0).unwrap();
        assert_eq!(shared.bytes(0x10_8000, 5000).unwrap(), data);
        assert_eq!(msix.count_now(3).unwrap(), 0);
    }
}

fn copy(vmm: &Vmm, source: u64, destination: u64, len: u32, vector: u32) {
    vmm.write64(0, TestDevice::SOURCE, source).unwrap();
    vmm.write64(0, TestDevice::DESTINATION, destination).unwrap();
    vmm.write32(0, TestDevice::LENGTH, len).unwrap();
    vmm.write32(0, TestDevice::DOORBELL, vector).unwrap();
}

#[test]
fn msi_and_the_pin_are_caught() {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    let function = vmm.enumerate().unwrap();
    let msi = vmm.enable_msi(&function, 2).unwrap();
    vmm.write32(0, TestDevice::TRIGGER, 1).unwrap();
    assert_eq!(msi.wait(1).unwrap(), 1);
    let pin = vmm.enable_intx().unwrap();
    vmm.write32(0, TestDevice::PIN, 1).unwrap();
    assert_eq!(pin.wait(0).unwrap(), 1);
    vmm.write32(0, TestDevice::PIN, 0).unwrap();
    vmm.unmask_intx().unwrap();
    assert_eq!(pin.count_now(0).unwrap(), 0);
}
