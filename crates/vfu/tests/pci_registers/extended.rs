//! The extended capabilities.

use vfu::pci::{Ats, Bar, Field, Pasid, Pci, RawCapability, Sriov, regs};

use crate::express;
use crate::register::{Row, check};

fn extended(pci: &Pci, id: u16, name: &str, rows: &[Row]) {
    let space = pci.build().unwrap();
    let (_, at, len) = space.extended_capabilities().find(|cap| cap.0 == id).expect("there");
    check(&space, name, at, len, rows);
}

/// PCIe 7.8.4, the errors that an endpoint has.
#[test]
fn advanced_error_reporting() {
    const LOG: &str = "31:0 devs 0";
    let rows = [
        (0x00, 4, "header", "31:20 ro 0; 19:16 ro 2; 15:0 ro 1"),
        (
            0x04,
            4,
            "Uncorrectable Error Status",
            "31:23 ro 0; 22 rw1cs 0; 21 ro 0; 20 rw1cs 0; 19 ro 0; 18 rw1cs 0; 17 rw1cs 0; \
             16 rw1cs 0; 15 rw1cs 0; 14 rw1cs 0; 13 rw1cs 0; 12 rw1cs 0; 11:6 ro 0; 5 ro 0; \
             4 rw1cs 0; 3:0 ro 0",
        ),
        (
            0x08,
            4,
            "Uncorrectable Error Mask",
            "31:23 ro 0; 22 rws 1; 21 ro 0; 20 rws 0; 19 ro 0; 18 rws 0; 17 rws 0; 16 rws 0; \
             15 rws 0; 14 rws 0; 13 rws 0; 12 rws 0; 11:6 ro 0; 5 ro 0; 4 rws 0; 3:0 ro 0",
        ),
        (
            0x0c,
            4,
            "Uncorrectable Error Severity",
            "31:23 ro 0; 22 rws 1; 21 ro 0; 20 rws 0; 19 ro 0; 18 rws 1; 17 rws 1; 16 rws 0; \
             15 rws 0; 14 rws 0; 13 rws 1; 12 rws 0; 11:6 ro 0; 5 ro 0; 4 rws 1; 3:0 ro 0",
        ),
        (
            0x10,
            4,
            "Correctable Error Status",
            "31:16 ro 0; 15 ro 0; 14 rw1cs 0; 13 rw1cs 0; 12 rw1cs 0; 11:9 ro 0; 8 rw1cs 0; \
             7 rw1cs 0; 6 rw1cs 0; 5:1 ro 0; 0 rw1cs 0",
        ),
        (
            0x14,
            4,
            "Correctable Error Mask",
            "31:16 ro 0; 15 ro 0; 14 rws 1; 13 rws 1; 12 rws 0; 11:9 ro 0; 8 rws 0; 7 rws 0; \
             6 rws 0; 5:1 ro 0; 0 rws 0",
        ),
        (
            0x18,
            4,
            "Advanced Error Capabilities and Control",
            "31:13 ro 0; 12 ro 0; 11 ro 0; 10 ro 0; 9 ro 0; 8 ro 0; 7 ro 0; 6 ro 0; 5 ro 0; \
             4:0 devs 0",
        ),
        (0x1c, 4, "Header Log, 1st", LOG),
        (0x20, 4, "Header Log, 2nd", LOG),
        (0x24, 4, "Header Log, 3rd", LOG),
        (0x28, 4, "Header Log, 4th", LOG),
    ];
    extended(&express().aer(), regs::EXT_AER, "AER", &rows);
}

/// PCIe 7.9.3.
#[test]
fn device_serial_number() {
    let rows = [
        (0x00, 4, "header", "31:20 ro 0; 19:16 ro 1; 15:0 ro 3"),
        (0x04, 4, "Serial Number, lower", "31:0 ro 0x89abcdef"),
        (0x08, 4, "Serial Number, upper", "31:0 ro 0x01234567"),
    ];
    let pci = express().serial_number(0x0123_4567_89ab_cdef);
    extended(&pci, regs::EXT_SERIAL, "DSN", &rows);
}

/// ATS 1.1, 5.1.
#[test]
fn address_translation_services() {
    let mut rows = [
        (0x00, 4, "header", "31:20 ro 0; 19:16 ro 1; 15:0 ro 0xf"),
        (0x04, 2, "ATS Capability", "15:7 ro 0; 6 ro 1; 5 ro 1; 4:0 ro 0"),
        (0x06, 2, "ATS Control", "15 rw 0; 14:5 ro 0; 4:0 rw 0"),
    ];
    let ats = |invalidate_queue, page_aligned, global_invalidate| {
        express().ats(Ats { invalidate_queue, page_aligned, global_invalidate })
    };
    extended(&ats(32, true, true), regs::EXT_ATS, "ATS, a queue of 32", &rows);
    rows[1].3 = "15:7 ro 0; 6 ro 0; 5 ro 0; 4:0 ro 31";
    extended(&ats(31, false, false), regs::EXT_ATS, "ATS, a queue of 31", &rows);
}

/// PCIe 7.8.8.
#[test]
fn process_address_space_id() {
    let mut rows = [
        (0x00, 4, "header", "31:20 ro 0; 19:16 ro 1; 15:0 ro 0x1b"),
        (0x04, 2, "PASID Capability", "15:13 ro 0; 12:8 ro 20; 7:3 ro 0; 2 ro 1; 1 ro 1; 0 ro 0"),
        (0x06, 2, "PASID Control", "15:3 ro 0; 2 rw 0; 1 rw 0; 0 rw 0"),
    ];
    let pasid = |width, execute, privileged| express().pasid(Pasid { width, execute, privileged });
    extended(&pasid(20, true, true), regs::EXT_PASID, "PASID", &rows);
    rows[1].3 = "15:13 ro 0; 12:8 ro 8; 7:3 ro 0; 2 ro 0; 1 ro 0; 0 ro 0";
    rows[2].3 = "15:3 ro 0; 2 ro 0; 1 ro 0; 0 rw 0";
    extended(&pasid(8, false, false), regs::EXT_PASID, "PASID, plain", &rows);
}

/// SR-IOV 1.1, 3.3.
#[test]
fn single_root_io_virtualization() {
    let sriov = Sriov::new(64, 0x10ed)
        .routing(0x80, 2)
        .bar(0, Bar::mem64(1 << 14).prefetchable())
        .bar(3, Bar::mem32(4096));
    let rows = [
        (0x00, 4, "header", "31:20 ro 0; 19:16 ro 1; 15:0 ro 0x10"),
        (0x04, 4, "SR-IOV Capabilities", "31:21 ro 0; 20:2 ro 0; 1 ro 0; 0 ro 0"),
        (0x08, 2, "SR-IOV Control", "15:5 ro 0; 4 rw 0; 3 rw 0; 2 ro 0; 1 ro 0; 0 rw 0"),
        (0x0a, 2, "SR-IOV Status", "15:1 ro 0; 0 ro 0"),
        (0x0c, 2, "InitialVFs", "15:0 ro 64"),
        (0x0e, 2, "TotalVFs", "15:0 ro 64"),
        (0x10, 2, "NumVFs", "15:0 rw 0"),
        (0x12, 1, "Function Dependency Link", "7:0 ro 0"),
        (0x13, 1, "reserved", "7:0 ro 0"),
        (0x14, 2, "First VF Offset", "15:0 ro 0x80"),
        (0x16, 2, "VF Stride", "15:0 ro 2"),
        (0x18, 2, "reserved", "15:0 ro 0"),
        (0x1a, 2, "VF Device ID", "15:0 ro 0x10ed"),
        (0x1c, 4, "Supported Page Sizes", "31:0 ro 0x553"),
        (
            0x20,
            4,
            "System Page Size",
            "31:11 ro 0; 10 rw 0; 9 ro 0; 8 rw 0; 7 ro 0; 6 rw 0; 5 ro 0; 4 rw 0; 3:2 ro 0; \
             1 rw 0; 0 rw 1",
        ),
        (0x24, 4, "VF BAR 0", "31:14 rw 0; 13:4 ro 0; 3 ro 1; 2:1 ro 2; 0 ro 0"),
        (0x28, 4, "VF BAR 1, upper half", "31:0 rw 0"),
        (0x2c, 4, "VF BAR 2", "31:0 ro 0"),
        (0x30, 4, "VF BAR 3", "31:12 rw 0; 11:0 ro 0"),
        (0x34, 4, "VF BAR 4", "31:0 ro 0"),
        (0x38, 4, "VF BAR 5", "31:0 ro 0"),
        (0x3c, 4, "VF Migration State Array Offset", "31:0 ro 0"),
    ];
    extended(&express().sriov(sriov), regs::EXT_SRIOV, "SR-IOV", &rows);
}

/// PCIe 7.8.6. BAR Size takes supported values only; it has tests of its own.
#[test]
fn resizable_bar() {
    const MIB: u64 = 1 << 20;
    let pci = Pci::endpoint(1, 2)
        .pcie_endpoint()
        .bar(1, Bar::mem32(16 * MIB))
        .bar(2, Bar::mem64(MIB << 8))
        .resizable_bar(2, [MIB, MIB << 8, MIB << 27, MIB << 28, MIB << 43])
        .resizable_bar(1, [MIB << 4, MIB << 11]);
    let rows = [
        (0x00, 4, "header", "31:20 ro 0; 19:16 ro 1; 15:0 ro 0x15"),
        (0x04, 4, "Resizable BAR Capability, 1st", "31:4 ro 0x810; 3:0 ro 0"),
        (
            0x08,
            4,
            "Resizable BAR Control, 1st",
            "31:16 ro 0; 15:14 ro 0; 13:8 any 4; 7:5 ro 2; 4:3 ro 0; 2:0 ro 1",
        ),
        (0x0c, 4, "Resizable BAR Capability, 2nd", "31:4 ro 0x8000101; 3:0 ro 0"),
        (
            0x10,
            4,
            "Resizable BAR Control, 2nd",
            "31:16 ro 0x8001; 15:14 ro 0; 13:8 any 8; 7:5 ro 0; 4:3 ro 0; 2:0 ro 2",
        ),
    ];
    extended(&pci, regs::EXT_REBAR, "Resizable BAR", &rows);
}

/// PCIe 7.9.5, with registers of each rule behind its headers.
#[test]
fn vendor_specific() {
    let body = RawCapability::new([])
        .field(0, 4, Field::new(0x11).rw(0xff).sticky(0x0f))
        .field(4, 2, Field::new(0x8000).rw1c(0xc001).sticky(0x4001))
        .field(6, 1, Field::new(0x01).driven(0x07).sticky(0x02));
    let rows = [
        (0x00, 4, "header", "31:20 ro 0; 19:16 ro 1; 15:0 ro 0xb"),
        (0x04, 4, "Vendor-Specific Header", "31:20 ro 15; 19:16 ro 3; 15:0 ro 0xcafe"),
        (0x08, 4, "control", "31:8 ro 0; 7:4 rw 1; 3:0 rws 1"),
        (0x0c, 2, "status", "15 rw1c 1; 14 rw1cs 0; 13:1 ro 0; 0 rw1cs 0"),
        (0x0e, 1, "level", "7:3 ro 0; 2 dev 0; 1 devs 0; 0 dev 1"),
    ];
    extended(&express().vendor_extended(0xcafe, 3, body), regs::EXT_VENDOR, "VSEC", &rows);
}
