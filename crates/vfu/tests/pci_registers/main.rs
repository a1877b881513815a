//! Every bit of every register of every capability, against the tables of the specification.
//!
//! A row is a register: offset in its capability, width in bytes, name, and all of its bits from the
//! highest down, as `bits rule value`. The value is the one after power-on. The rules are those of
//! PCIe 7.4:
//!
//! | rule | software | the device | a reset of the function |
//! |---|---|---|---|
//! | `ro` | reads | - | - |
//! | `rw` | reads and writes | - | puts the value back |
//! | `rw1c` | clears by writing 1 | raises | puts the value back |
//! | `dev` | reads | drives | puts the value back |
//! | `rws`, `rw1cs`, `devs` | the same | the same | leaves it; power-on puts it back |
//! | `any` | a rule of its own, tested elsewhere | | |

mod extended;
mod register;

use vfu::pci::{Bar, Msi, MsixAt, Pci, Pin, Pm, RawCapability, regs};

use register::{Row, check};

fn capability(pci: &Pci, id: u8, name: &str, rows: &[Row]) {
    let space = pci.build().unwrap();
    let (_, at, len) = space.capabilities().find(|cap| cap.0 == id).expect("there");
    check(&space, name, at, len, rows);
}

fn device() -> Pci {
    Pci::endpoint(0x1234, 1).bar(0, Bar::mem32(1 << 16))
}

fn express() -> Pci {
    device().pcie_endpoint()
}

/// PCI 6.1 and 6.2, with a BAR of each sort. On PCI Express some of it differs (PCIe 7.5.1).
#[test]
fn header() {
    let pci = Pci::endpoint(0x1234, 0xabcd)
        .revision(7)
        .class(0x05_80_01)
        .subsystem(0x1af4, 0x1100)
        .bar(0, Bar::mem32(1 << 12).prefetchable())
        .bar(1, Bar::io(32))
        .bar(2, Bar::mem64(1 << 40).prefetchable())
        .bar(4, Bar::mem64(1 << 14))
        .rom([0x55; 4096])
        .intx(Pin::C);
    let mut rows = [
        (0x00, 2, "Vendor ID", "15:0 ro 0x1234"),
        (0x02, 2, "Device ID", "15:0 ro 0xabcd"),
        (
            0x04,
            2,
            "Command",
            "15:11 ro 0; 10 rw 0; 9 ro 0; 8 rw 0; 7 ro 0; 6 rw 0; 5 ro 0; 4 ro 0; 3 ro 0; 2 rw 0; \
             1 rw 0; 0 rw 0",
        ),
        (
            0x06,
            2,
            "Status",
            "15 rw1c 0; 14 rw1c 0; 13 rw1c 0; 12 rw1c 0; 11 rw1c 0; 10:9 ro 0; 8 rw1c 0; 7 ro 0; \
             6 ro 0; 5 ro 0; 4 ro 0; 3 dev 0; 2:0 ro 0",
        ),
        (0x08, 1, "Revision ID", "7:0 ro 7"),
        (0x09, 1, "Class Code, programming interface", "7:0 ro 1"),
        (0x0a, 2, "Class Code", "15:8 ro 5; 7:0 ro 0x80"),
        (0x0c, 1, "Cache Line Size", "7:0 rw 0"),
        (0x0d, 1, "Latency Timer", "7:0 rw 0"),
        (0x0e, 1, "Header Type", "7 ro 0; 6:0 ro 0"),
        (0x0f, 1, "BIST", "7:0 ro 0"),
        (0x10, 4, "BAR 0, 32-bit, prefetchable", "31:12 rw 0; 11:4 ro 0; 3 ro 1; 2:1 ro 0; 0 ro 0"),
        (0x14, 4, "BAR 1, I/O", "31:5 rw 0; 4:2 ro 0; 1 ro 0; 0 ro 1"),
        (0x18, 4, "BAR 2, 64-bit, prefetchable", "31:4 ro 0; 3 ro 1; 2:1 ro 2; 0 ro 0"),
        (0x1c, 4, "BAR 2, upper half", "31:8 rw 0; 7:0 ro 0"),
        (0x20, 4, "BAR 4, 64-bit", "31:14 rw 0; 13:4 ro 0; 3 ro 0; 2:1 ro 2; 0 ro 0"),
        (0x24, 4, "BAR 4, upper half", "31:0 rw 0"),
        (0x28, 4, "CardBus CIS Pointer", "31:0 ro 0"),
        (0x2c, 2, "Subsystem Vendor ID", "15:0 ro 0x1af4"),
        (0x2e, 2, "Subsystem ID", "15:0 ro 0x1100"),
        (0x30, 4, "Expansion ROM Base Address", "31:12 rw 0; 11 ro 0; 10:1 ro 0; 0 rw 0"),
        (0x34, 1, "Capabilities Pointer", "7:0 ro 0"),
        (0x35, 1, "reserved", "7:0 ro 0"),
        (0x36, 2, "reserved", "15:0 ro 0"),
        (0x38, 4, "reserved", "31:0 ro 0"),
        (0x3c, 1, "Interrupt Line", "7:0 rw 0"),
        (0x3d, 1, "Interrupt Pin", "7:0 ro 3"),
        (0x3e, 1, "Min_Gnt", "7:0 ro 0"),
        (0x3f, 1, "Max_Lat", "7:0 ro 0"),
    ];
    check(&pci.build().unwrap(), "header", 0, 0x40, &rows);
    rows[3].3 = "15 rw1c 0; 14 rw1c 0; 13 rw1c 0; 12 rw1c 0; 11 rw1c 0; 10:9 ro 0; 8 rw1c 0; 7 ro 0; \
        6 ro 0; 5 ro 0; 4 ro 1; 3 dev 0; 2:0 ro 0";
    rows[8].3 = "7:0 ro 0";
    rows[21].3 = "7:0 ro 0x40";
    check(&pci.pcie_endpoint().build().unwrap(), "header, express", 0, 0x40, &rows);
}

/// Without a BAR of its sort a space can't be enabled, and without a pin there is none.
#[test]
fn header_of_a_function_without_anything() {
    let space = Pci::endpoint(1, 2).build().unwrap();
    let rows = [(
        0,
        2,
        "Command",
        "15:11 ro 0; 10 rw 0; 9 ro 0; 8 rw 0; 7 ro 0; 6 rw 0; 5:3 ro 0; 2 rw 0; 1 ro 0; 0 ro 0",
    )];
    check(&space, "header", regs::COMMAND, 2, &rows);
    for bar in 0..6 {
        check(&space, "header", regs::BAR0 + 4 * bar, 4, &[(0, 4, "no BAR", "31:0 ro 0")]);
    }
    let rows = [(0, 1, "Interrupt Line", "7:0 rw 0"), (1, 1, "Interrupt Pin", "7:0 ro 0")];
    check(&space, "header", regs::INTERRUPT_LINE, 2, &rows);
    check(&space, "header", regs::EXPANSION_ROM, 4, &[(0, 4, "no ROM", "31:0 ro 0")]);
}

/// PCI 6.2.5.2, in a header whose other registers have their own test.
#[test]
fn expansion_rom() {
    let space = device().rom(vec![0x55; 65535]).build().unwrap();
    let row = [(0, 4, "Base Address", "31:16 rw 0; 15:11 ro 0; 10:1 ro 0; 0 rw 0")];
    check(&space, "Expansion ROM", regs::EXPANSION_ROM, 4, &row);
    let space = device().rom([1]).build().unwrap();
    let row = [(0, 4, "Base Address", "31:11 rw 0; 10:1 ro 0; 0 rw 0")];
    check(&space, "Expansion ROM", regs::EXPANSION_ROM, 4, &row);
}

/// PM 3.2.
#[test]
fn power_management() {
    let all = Pm { d1: true, d2: true, pme_support: 0x1f, no_soft_reset: false };
    let rows = [
        (0x00, 1, "Capability ID", "7:0 ro 1"),
        (0x01, 1, "Next Capability", "7:0 ro 0"),
        (
            0x02,
            2,
            "PMC",
            "15:11 ro 0x1f; 10 ro 1; 9 ro 1; 8:6 ro 0; 5 ro 0; 4 ro 0; 3 ro 0; 2:0 ro 3",
        ),
        (
            0x04,
            2,
            "PMCSR",
            "15 rw1cs 0; 14:13 ro 0; 12:9 ro 0; 8 rws 0; 7:4 ro 0; 3 ro 0; 2 ro 0; 1:0 rw 0",
        ),
        (0x06, 1, "PMCSR_BSE", "7:0 ro 0"),
        (0x07, 1, "Data", "7:0 ro 0"),
    ];
    capability(&device().pm_with(all), regs::CAP_PM, "PM with all", &rows);
    let mut rows = rows;
    rows[2].3 = "15:11 ro 0; 10 ro 0; 9 ro 0; 8:6 ro 0; 5 ro 0; 4 ro 0; 3 ro 0; 2:0 ro 3";
    rows[3].3 = "15 ro 0; 14:13 ro 0; 12:9 ro 0; 8 ro 0; 7:4 ro 0; 3 ro 1; 2 ro 0; 1:0 any 0";
    capability(&device().pm(), regs::CAP_PM, "PM", &rows);
}

/// PCI 6.8.1.
#[test]
fn msi() {
    let msi = |vectors, address64, per_vector_mask| {
        device().msi_with(Msi { vectors, address64, per_vector_mask })
    };
    let id = (0x00, 1, "Capability ID", "7:0 ro 5");
    let next = (0x01, 1, "Next Capability", "7:0 ro 0");
    let address = (0x04, 4, "Message Address", "31:2 rw 0; 1:0 ro 0");
    let rows = [
        id,
        next,
        (0x02, 2, "Message Control", "15:9 ro 0; 8 ro 1; 7 ro 1; 6:4 any 0; 3:1 ro 5; 0 rw 0"),
        address,
        (0x08, 4, "Message Upper Address", "31:0 rw 0"),
        (0x0c, 2, "Message Data", "15:0 rw 0"),
        (0x0e, 2, "reserved", "15:0 ro 0"),
        (0x10, 4, "Mask Bits", "31:0 rw 0"),
        (0x14, 4, "Pending Bits", "31:0 dev 0"),
    ];
    capability(&msi(32, true, true), regs::CAP_MSI, "MSI, 64-bit, masks", &rows);
    let rows = [
        id,
        next,
        (0x02, 2, "Message Control", "15:9 ro 0; 8 ro 1; 7 ro 0; 6:4 any 0; 3:1 ro 2; 0 rw 0"),
        address,
        (0x08, 2, "Message Data", "15:0 rw 0"),
        (0x0a, 2, "reserved", "15:0 ro 0"),
        (0x0c, 4, "Mask Bits", "31:4 ro 0; 3:0 rw 0"),
        (0x10, 4, "Pending Bits", "31:4 ro 0; 3:0 dev 0"),
    ];
    capability(&msi(4, false, true), regs::CAP_MSI, "MSI, 32-bit, masks", &rows);
    let rows = [
        id,
        next,
        (0x02, 2, "Message Control", "15:9 ro 0; 8 ro 0; 7 ro 1; 6:4 any 0; 3:1 ro 4; 0 rw 0"),
        address,
        (0x08, 4, "Message Upper Address", "31:0 rw 0"),
        (0x0c, 2, "Message Data", "15:0 rw 0"),
    ];
    capability(&msi(16, true, false), regs::CAP_MSI, "MSI, 64-bit", &rows);
    let rows = [
        id,
        next,
        (0x02, 2, "Message Control", "15:9 ro 0; 8 ro 0; 7 ro 0; 6:4 ro 0; 3:1 ro 0; 0 rw 0"),
        address,
        (0x08, 2, "Message Data", "15:0 rw 0"),
    ];
    capability(&msi(1, false, false), regs::CAP_MSI, "MSI, 32-bit", &rows);
}

/// PCI 6.8.2.
#[test]
fn msix() {
    let pci = device().msix_at(20, MsixAt { table: (0, 0x2000), pba: (0, 0x3008) });
    let rows = [
        (0x00, 1, "Capability ID", "7:0 ro 0x11"),
        (0x01, 1, "Next Capability", "7:0 ro 0"),
        (0x02, 2, "Message Control", "15 rw 0; 14 rw 0; 13:11 ro 0; 10:0 ro 19"),
        (0x04, 4, "Table Offset, BIR", "31:3 ro 0x400; 2:0 ro 0"),
        (0x08, 4, "PBA Offset, BIR", "31:3 ro 0x601; 2:0 ro 0"),
    ];
    capability(&pci, regs::CAP_MSIX, "MSI-X", &rows);
}

/// PCIe 7.5.3. What is sticky here survives FLR by 6.6.2.
#[test]
fn pci_express() {
    let rows = [
        (0x00, 1, "Capability ID", "7:0 ro 0x10"),
        (0x01, 1, "Next Capability", "7:0 ro 0"),
        (0x02, 2, "PCI Express Capabilities", "15:14 ro 0; 13:9 ro 0; 8 ro 0; 7:4 ro 0; 3:0 ro 2"),
        (
            0x04,
            4,
            "Device Capabilities",
            "31:29 ro 0; 28 ro 1; 27:26 ro 0; 25:18 ro 0; 17:16 ro 0; 15 ro 1; 14:12 ro 0; \
             11:9 ro 0; 8:6 ro 0; 5 ro 1; 4:3 ro 0; 2:0 ro 0",
        ),
        (
            0x08,
            2,
            "Device Control",
            "15 ro 0; 14:12 rw 2; 11 rw 1; 10 ro 0; 9 ro 0; 8 rw 0; 7:5 ro 0; 4 rw 1; 3:0 rw 0",
        ),
        (0x0a, 2, "Device Status", "15:6 ro 0; 5 dev 0; 4 ro 0; 3:0 rw1c 0"),
        (
            0x0c,
            4,
            "Link Capabilities",
            "31:24 ro 0; 23 ro 0; 22 ro 1; 21:18 ro 0; 17:15 ro 0; 14:12 ro 0; 11:10 ro 0; \
             9:4 ro 1; 3:0 ro 1",
        ),
        (
            0x10,
            2,
            "Link Control",
            "15:8 ro 0; 7 rws 0; 6 rws 0; 5:4 ro 0; 3 rws 0; 2 ro 0; 1:0 rws 0",
        ),
        (0x12, 2, "Link Status", "15:10 ro 0; 9:4 ro 1; 3:0 ro 1"),
        (0x14, 4, "Slot Capabilities", "31:0 ro 0"),
        (0x18, 4, "Slot Control, Status", "31:0 ro 0"),
        (0x1c, 4, "Root Control, Capabilities", "31:0 ro 0"),
        (0x20, 4, "Root Status", "31:0 ro 0"),
        (0x24, 4, "Device Capabilities 2", "31:5 ro 0; 4 ro 1; 3:0 ro 0"),
        (0x28, 2, "Device Control 2", "15:5 ro 0; 4 rw 0; 3:0 ro 0"),
        (0x2a, 2, "Device Status 2", "15:0 ro 0"),
        (0x2c, 4, "Link Capabilities 2", "31:8 ro 0; 7:1 ro 1; 0 ro 0"),
        (0x30, 4, "Link Control 2, Status 2", "31:0 ro 0"),
        (0x34, 4, "Slot Capabilities 2", "31:0 ro 0"),
        (0x38, 4, "Slot Control 2, Status 2", "31:0 ro 0"),
    ];
    capability(&express(), regs::CAP_PCIE, "PCI Express", &rows);
}

/// A capability by its bytes is the capability: the same rules, wherever it is put.
#[test]
fn raw_capabilities() {
    let raw = RawCapability::new([0xa0, 0x0c, 0x0f])
        .writable([0xf0, 0x00, 0x01])
        .write_one_to_clear([0x00, 0x0c])
        .sticky([0xc0, 0x08, 0x03])
        .driven([0x00, 0x00, 0x02]);
    let rows = [
        (0x00, 1, "Capability ID", "7:0 ro 0x13"),
        (0x01, 1, "Next Capability", "7:0 ro 0"),
        (0x02, 1, "first", "7:6 rws 2; 5:4 rw 2; 3:0 ro 0"),
        (0x03, 1, "second", "7:4 ro 0; 3 rw1cs 1; 2 rw1c 1; 1:0 ro 0"),
        (0x04, 1, "third", "7:4 ro 0; 3:2 ro 3; 1 devs 1; 0 rws 1"),
    ];
    capability(&device().raw_capability(0x13, raw.clone()), 0x13, "raw", &rows);
    capability(&device().capability_at(0xf8, 0x13, raw), 0x13, "raw, at 0xf8", &rows);
}
