//! What a space costs: memory while it exists, and nothing when it is used.

use std::hint::black_box;

use allocation_counter::measure;
use vfu::pci::{Bar, ConfigSpace, Pci, Pm, RawCapability, regs};

const MIB: u64 = 1 << 20;

fn rich() -> Pci {
    Pci::endpoint(0x1234, 1)
        .bar(0, Bar::mem64(16 * MIB))
        .rom(vec![0x55; 4096])
        .pm_with(Pm { no_soft_reset: false, ..Pm::default() })
        .msi(8)
        .msix(20)
        .pcie_endpoint()
        .resizable_bar(0, [MIB, 16 * MIB])
        .aer()
        .serial_number(1)
}

#[test]
fn use_allocates_nothing() {
    let mut space = rich().build().unwrap();
    let used = measure(|| {
        let mut bytes = [0; 64];
        for at in (0..space.size() + 64).step_by(64) {
            space.read(at, &mut bytes);
            let _ = black_box(space.write(at, &[0xff; 64]));
            let _ = black_box(space.write(at, &bytes));
            space.drive(at, &bytes);
        }
        space.read_rom(0, &mut bytes);
        let _ = black_box(space.raise_uncorrectable(20, [0; 4]));
        let _ = black_box(space.raise_correctable(0));
        space.raise(regs::STATUS, 0xffff);
        black_box((space.msi(), space.msix(), space.bar(0), space.rom(), space.power_state()));
        black_box((space.capabilities().count(), space.extended_capabilities().count()));
        space.reset_function();
        space.reset();
    });
    assert_eq!(used.count_total, 0);
}

#[test]
fn memory_of_an_idle_space() {
    let cost = |pci: Pci| {
        let mut space = None;
        let heap = measure(|| space = pci.build().ok()).bytes_current;
        assert!(space.is_some());
        usize::try_from(heap).unwrap() + size_of::<ConfigSpace>()
    };
    let plain = cost(Pci::endpoint(1, 2).bar(0, Bar::mem32(4096)).pm().msix(4).pcie_endpoint());
    assert!(plain <= 2200, "{plain} bytes");
    let rich = cost(rich());
    assert!(rich <= 2800, "{rich} bytes, and the image of the ROM is the description's");
    let last = RawCapability::new([0; 4]);
    let pci = Pci::endpoint(1, 2).pcie_endpoint().aer().extended_capability_at(0xff8, 0xb, 1, last);
    let full = cost(pci);
    assert!(full <= 26 << 10, "{full} bytes");
    println!("bytes: plain {plain}, rich {rich}, full {full}");
}
