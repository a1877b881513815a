//! Whole spaces, byte for byte.
//!
//! `pci_golden/*.hex` are in the form that `lspci -xxxx` prints and `lspci -F` reads, so
//!
//!     lspci -F crates/vfu/tests/pci_golden/express.hex -n -vvv
//!
//! shows a space as an administrator sees it. `pci_golden/*.lspci` is what that said (pciutils 3.9.0)
//! when the bytes were last changed: every register of it was compared with the description below,
//! and there is no capability that lspci calls unknown or broken. (Without an operating system's help
//! it shows the upper half of a 64-bit BAR as a region of its own.) The test needs no lspci.
//!
//! After a change that is meant: `VFU_BLESS=1 cargo test -p vfu --test pci_golden`, look at the
//! difference, and run lspci again for the other file.

use std::fmt::Write as _;
use std::path::Path;

use vfu::pci::{
    Ats, Bar, ConfigSpace, Field, Msi, Pasid, Pci, Pin, Pm, RawCapability, Sriov, regs,
};

const MIB: u64 = 1 << 20;

/// Everything that a PCI Express function can have.
fn express() -> Pci {
    let mailbox = RawCapability::new([]).field(0, 4, Field::new(0x10).rw(0xff)).field(
        4,
        4,
        Field::new(0).rw1c(1 << 31).sticky(1 << 31).driven(1),
    );
    Pci::endpoint(0x1234, 0x11e8)
        .revision(0x10)
        .class(0x02_00_00)
        .subsystem(0x1af4, 0x1100)
        .bar(0, Bar::mem64(256 * MIB).prefetchable())
        .bar(2, Bar::mem32(64 << 10))
        .bar(3, Bar::io(32))
        .rom([&[0x55, 0xaa, 0x04][..], &[0; 2045]].concat())
        .intx(Pin::A)
        .pm_with(Pm { d1: true, d2: true, pme_support: 0x1b, no_soft_reset: false })
        .msi_with(Msi { vectors: 8, address64: true, per_vector_mask: true })
        .msix(20)
        .pcie_endpoint()
        .vendor_capability([0xaa, 0xbb])
        .aer()
        .serial_number(0x0011_22ff_fe33_4455)
        .ats(Ats { invalidate_queue: 16, page_aligned: true, global_invalidate: false })
        .pasid(Pasid { width: 20, execute: true, privileged: true })
        .sriov(
            Sriov::new(8, 0x11e9)
                .routing(8, 1)
                .bar(0, Bar::mem64(16 << 10).prefetchable())
                .bar(3, Bar::mem32(4096)),
        )
        .resizable_bar(0, [64 * MIB, 128 * MIB, 256 * MIB, 8192 * MIB])
        .vendor_extended(0xcafe, 2, mailbox)
}

/// A conventional function, in 256 bytes.
fn conventional() -> Pci {
    Pci::endpoint(0x494f, 0x0dc8)
        .class(0x07_80_00)
        .bar(2, Bar::io(8))
        .bar(3, Bar::mem32(4096))
        .intx(Pin::B)
        .pm()
        .msi(1)
        .capability_at(0x80, regs::CAP_VENDOR, RawCapability::new([0x08, 1, 2, 3, 4, 5]))
}

/// Programmed as by an operating system, with interrupts and a few errors.
fn program(space: &mut ConfigSpace) {
    let _ = space.write(regs::BAR0, &0x0000_0080_4000_0000_u64.to_le_bytes());
    let _ = space.write(0x18, &0xfebf_0000_u32.to_le_bytes());
    let _ = space.write(0x1c, &0x0000_c000_u32.to_le_bytes());
    let _ = space.write(0x20, &0xfebe_0000_u32.to_le_bytes());
    let _ = space.write(regs::EXPANSION_ROM, &0xfebd_0001_u32.to_le_bytes());
    let _ = space.write(regs::COMMAND, &[0x07, 0x05]);
    let _ = space.write(regs::INTERRUPT_LINE, &[11]);
    let msix = space.capabilities().find(|cap| cap.0 == regs::CAP_MSIX);
    if let Some((_, at, _)) = msix {
        let _ = space.write(at + 3, &[0x80]);
    }
    let _ = space.raise_uncorrectable(20, [0x4000_0001, 0x0100_000f, 0xfebf_0040, 0x1234_5678]);
    let _ = space.raise_correctable(13);
}

/// As `lspci -xxxx`, with one device; a 256-byte space has 16 lines, an extended one 256.
fn dump(name: &str, space: &ConfigSpace) -> String {
    let mut text = format!("00:00.0 vfu sample: {name}\n");
    for (line, bytes) in space.to_vec().chunks(16).enumerate() {
        write!(text, "{:02x}:", 16 * line).unwrap();
        for byte in bytes {
            write!(text, " {byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

fn check(name: &str, space: &ConfigSpace) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/pci_golden/{name}.hex"));
    let text = dump(name, space);
    if std::env::var_os("VFU_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (golden, text) in golden.lines().zip(text.lines()) {
        assert_eq!(text, golden, "{name}");
    }
    assert_eq!(text.len(), golden.len(), "{name}");
}

#[test]
fn after_power_on() {
    check("express", &express().build().unwrap());
    check("conventional", &conventional().build().unwrap());
}

#[test]
fn programmed() {
    let mut space = express().build().unwrap();
    program(&mut space);
    check("express-programmed", &space);
}
