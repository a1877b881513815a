//! ERR and REQ, and errors that a device reports.

mod irq_bench;

use irq_bench::{Bench, counts};
use vfu::pci::{ErrorMessage, regs};
use vfu::{DeviceError, IrqError, IrqIndex, Notice};
use vfu_testkit::{ExtendedCapability, Interrupts};

#[test]
fn notices_go_to_the_client_that_listens() {
    let bench = Bench::new();
    let handle = bench.handle();
    let cases: [(IrqIndex, Notice); 2] =
        [(IrqIndex::Err, handle.err()), (IrqIndex::Req, handle.req())];
    for (index, notice) in &cases {
        assert_eq!(notice.trigger(), Err(IrqError::NotEnabled));
        let caught = Interrupts::new(1).unwrap();
        bench.vmm.client().assign_irqs(*index, 0, &caught.fds()).unwrap();
        // Whatever the driver does.
        bench.vmm.set_bus_master(false).unwrap();
        notice.trigger().unwrap();
        std::thread::scope(|threads| {
            threads.spawn(|| notice.trigger().unwrap());
        });
        assert_eq!(counts(&caught), [2], "{index:?}");
        bench.vmm.client().disable_irqs(*index).unwrap();
        assert_eq!(notice.trigger(), Err(IrqError::NotEnabled));
    }
}

const INTERNAL: u32 = 1 << 22;

#[test]
fn an_error_is_logged_and_raises_err_unless_it_is_masked() {
    let bench = Bench::new();
    let handle = bench.handle();
    let err = Interrupts::new(1).unwrap();
    bench.vmm.client().assign_irqs(IrqIndex::Err, 0, &err.fds()).unwrap();
    let found = |e: &&ExtendedCapability| e.id == regs::EXT_AER;
    let aer = usize::from(bench.function.extended.iter().find(found).unwrap().offset);
    let read = |at| bench.vmm.config_read32(aer + at).unwrap();
    let pcie = usize::from(bench.function.capability(regs::CAP_PCIE).unwrap().offset);
    let device_status = || bench.vmm.config_read16(pcie + regs::DEVICE_STATUS).unwrap();

    // Internal errors are masked at power-on, and nothing is reported without a driver's leave.
    assert_eq!(handle.report_error(DeviceError::INTERNAL), None);
    assert_eq!(read(regs::AER_UNCORRECTABLE_STATUS), INTERNAL);
    assert_eq!(device_status() & 0xf, 0b100, "fatal error detected");
    assert_eq!(counts(&err), [0]);

    let error = DeviceError::Uncorrectable { error: 12, header: [1, 2, 3, 4] };
    assert_eq!(handle.report_error(error), None, "Device Control says no");
    bench.vmm.config_write16(pcie + regs::DEVICE_CONTROL, 0b0111).unwrap();
    assert_eq!(handle.report_error(error), Some(ErrorMessage::NonFatal));
    assert_eq!(counts(&err), [1]);
    assert_eq!(read(regs::AER_UNCORRECTABLE_STATUS), INTERNAL | 1 << 12);
    assert_eq!([0, 4, 8, 12].map(|i| read(regs::AER_HEADER_LOG + i)), [1, 2, 3, 4]);

    bench.vmm.config_write32(aer + regs::AER_UNCORRECTABLE_MASK, 0).unwrap();
    assert_eq!(handle.report_error(DeviceError::INTERNAL), Some(ErrorMessage::Fatal));
    assert_eq!(counts(&err), [1]);

    assert_eq!(handle.report_error(DeviceError::Correctable(0)), Some(ErrorMessage::Correctable));
    assert_eq!(read(regs::AER_CORRECTABLE_STATUS), 1);
    assert_eq!(counts(&err), [0], "it has been put right");
    assert_eq!(handle.report_error(DeviceError::Correctable(99)), None, "no such error");
}
