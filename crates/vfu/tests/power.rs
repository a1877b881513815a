//! What a device is told of its life, and what it can do in which part of it: power states, resets,
//! bus mastering.

use vfu::device::Reset;
use vfu::pci::PowerState::{self, D0, D1, D3Hot};
use vfu::pci::{Bar, Pci, Pin, Pm, regs};
use vfu::server::Server;
use vfu::{DmaError, Handle, IrqError, IrqIndex};
use vfu_testkit::{
    Call, CallLog, Interrupts, Served, SharedRam, TestDevice, Vmm, serve_in_process,
};

/// Where PMCSR is: PM is the first capability.
const PMCSR: usize = 0x40 + regs::PM_CONTROL;
const ROM: u32 = 6;
const RAM: u64 = 0x1000;

/// The test device with D1 and a ROM, which keeps its state over D3hot or loses it.
fn pci(no_soft_reset: bool) -> Pci {
    Pci::endpoint(0x1234, 1)
        .bar(0, Bar::mem32(TestDevice::BAR0_SIZE))
        .bar(2, Bar::mem64(TestDevice::BAR2_SIZE).prefetchable())
        .pm_with(Pm { d1: true, no_soft_reset, ..Pm::default() })
        .rom([0x55, 0xaa])
        .intx(Pin::A)
        .msi(4)
        .msix(4)
        .pcie_endpoint()
}

/// How the driver wants to be interrupted.
#[derive(Clone, Copy, Debug)]
enum By {
    Pin,
    Msi,
    Msix,
}

/// A device that its driver has set up, and the driver's end of it.
struct Rig {
    served: Served<TestDevice>,
    log: CallLog,
    vmm: Vmm,
    ram: SharedRam,
    by: By,
    interrupts: Interrupts,
}

impl Rig {
    fn new(no_soft_reset: bool, by: By) -> Rig {
        let log = CallLog::default();
        let of_device = log.clone();
        let device = |handle| TestDevice::new(handle, of_device);
        let served = serve_in_process(Server::builder(pci(no_soft_reset)), device).unwrap();
        let vmm = Vmm::connect(served.path()).unwrap();
        let function = vmm.enumerate().unwrap();
        let ram = vmm.share_ram(RAM, 0x1000).unwrap();
        let interrupts = match by {
            By::Pin => vmm.enable_intx(),
            By::Msi => vmm.enable_msi(&function, 4),
            By::Msix => vmm.enable_msix(&function, 4),
        };
        let interrupts = interrupts.unwrap();
        vmm.set_bus_master(true).unwrap();
        Rig { served, log, vmm, ram, by, interrupts }
    }

    fn handle(&self) -> &Handle {
        self.served.handle()
    }

    fn power(&self, state: PowerState) {
        let bits = match state {
            D0 => 0,
            D1 => 1,
            PowerState::D2 => 2,
            D3Hot => 3,
        };
        self.vmm.config_write16(PMCSR, bits).unwrap();
    }

    /// Whether memory can be read and written, and messages sent; all or nothing.
    fn can_master(&self) -> bool {
        let dma = self.handle().dma();
        let can = match (dma.read(RAM, &mut [0; 4]), dma.write(RAM, &[1])) {
            (Ok(()), Ok(())) => true,
            (Err(DmaError::BusMasterDisabled), Err(DmaError::BusMasterDisabled)) => false,
            other => panic!("{other:?}"),
        };
        if !matches!(self.by, By::Pin) {
            let raised = self.handle().vector(3).trigger();
            assert_eq!(raised, if can { Ok(()) } else { Err(IrqError::BusMasterDisabled) });
            assert_eq!(self.interrupts.count_now(3).unwrap(), u64::from(can));
        }
        can
    }

    /// How often the driver is told of the pin that has been raised, and unmasks it.
    fn pin_told(&self) -> u64 {
        let told = self.interrupts.count_now(0).unwrap();
        if told > 0 {
            self.handle().intx().lower();
            self.vmm.unmask_intx().unwrap();
        }
        told
    }
}

#[test]
fn a_device_hears_of_everything_that_happens_to_it_in_order() {
    let rig = Rig::new(false, By::Msix);
    let control = 0x40 + 8 + 16 + 12 + regs::DEVICE_CONTROL; // behind PM, MSI and MSI-X
    rig.power(D1);
    rig.power(D1);
    rig.power(PowerState::D2); // which it has not
    rig.power(D0);
    rig.power(D3Hot);
    rig.power(D0);
    rig.vmm.config_write16(control, regs::DEVICE_CONTROL_FLR).unwrap();
    rig.vmm.client().reset().unwrap();
    let Rig { served, log, vmm, .. } = rig;
    drop(vmm);
    log.wait_for(&Call::Reset(Reset::ConnectionLost)).unwrap();
    let _next = Vmm::connect(served.path()).unwrap();
    let told = |call: &Call| matches!(call, Call::Connected | Call::Power(..) | Call::Reset(_));
    log.wait_until(|calls| calls.iter().filter(|c| **c == Call::Connected).count() == 2).unwrap();
    let calls: Vec<_> = log.take().into_iter().filter(told).collect();
    let expected = [
        Call::Connected,
        Call::Power(D0, D1),
        Call::Power(D1, D0),
        Call::Power(D0, D3Hot),
        Call::Power(D3Hot, D0),
        Call::Reset(Reset::D3HotToD0),
        Call::Reset(Reset::FunctionLevel),
        Call::Reset(Reset::Device),
        Call::Reset(Reset::ConnectionLost),
        Call::Connected,
    ];
    assert_eq!(calls, expected);
}

#[test]
fn a_device_that_sleeps_answers_for_its_configuration_space_only() {
    let rig = Rig::new(true, By::Msix);
    let table = 1; // the BAR of the MSI-X table
    rig.vmm.write32(0, 0, 77).unwrap();
    let entry = rig.vmm.read32(table, 12).unwrap();
    for state in [D1, D3Hot] {
        rig.power(state);
        rig.log.take();
        rig.vmm.write32(0, 0, 78).unwrap();
        rig.vmm.write32(table, 12, !entry).unwrap();
        for (region, offset) in [(0, 0), (2, 8), (table, 12), (ROM, 0)] {
            let value = rig.vmm.read32(region, offset).unwrap();
            assert_eq!(value, u32::MAX, "{state:?}, region {region}");
        }
        assert_eq!(rig.log.take(), [], "none of it reaches the device");
        assert_eq!(rig.vmm.config_read32(0).unwrap(), 0x0001_1234);
        rig.power(D0);
        assert_eq!(rig.vmm.read32(0, 0).unwrap(), 77);
        assert_eq!(rig.vmm.read32(table, 12).unwrap(), entry);
        assert_eq!(rig.vmm.read32(ROM, 0).unwrap(), 0xffff_aa55);
    }
}

#[test]
fn a_device_that_sleeps_sends_nothing() {
    for by in [By::Pin, By::Msi, By::Msix] {
        let rig = Rig::new(true, by);
        for state in [D1, D3Hot] {
            assert!(rig.can_master());
            rig.power(state);
            assert!(!rig.can_master(), "{by:?}, {state:?}");
            if matches!(by, By::Pin) {
                rig.handle().intx().raise();
                assert_eq!(rig.pin_told(), 0, "{state:?}");
            }
            rig.power(D0);
            assert!(rig.can_master(), "awake again, and nothing has been lost");
            if matches!(by, By::Pin) {
                assert_eq!(rig.pin_told(), 1, "the pin is still up");
                assert_eq!(rig.pin_told(), 0);
            }
        }
        assert_eq!(rig.ram.bytes(RAM, 1).unwrap(), [1]);
    }
}

/// Bus Master Enable gates memory requests and messages, at both edges, and not the pin.
#[test]
fn bus_mastering_gates_what_the_device_sends() {
    for by in [By::Pin, By::Msi, By::Msix] {
        let rig = Rig::new(true, by);
        for on in [true, false, true, false] {
            rig.vmm.set_bus_master(on).unwrap();
            assert_eq!(rig.can_master(), on, "{by:?}");
            if matches!(by, By::Pin) {
                rig.handle().intx().raise();
                assert_eq!(rig.pin_told(), 1, "the pin is no message");
            }
        }
    }
}

/// A pin that is disabled does not come to life because the device wakes up, nor the other way.
#[test]
fn two_reasons_to_hold_the_pin_back() {
    let rig = Rig::new(true, By::Pin);
    rig.vmm.set_command(regs::COMMAND_INTX_DISABLE, true).unwrap();
    rig.handle().intx().raise();
    assert_eq!(rig.pin_told(), 0);
    rig.vmm.set_command(regs::COMMAND_INTX_DISABLE, false).unwrap();
    assert_eq!(rig.pin_told(), 1);
    rig.power(D3Hot);
    rig.vmm.set_command(regs::COMMAND_INTX_DISABLE, true).unwrap();
    rig.handle().intx().raise();
    rig.power(D0);
    assert_eq!(rig.pin_told(), 0);
    rig.power(D3Hot);
    rig.vmm.set_command(regs::COMMAND_INTX_DISABLE, false).unwrap();
    assert_eq!(rig.pin_told(), 0);
    rig.power(D0);
    assert_eq!(rig.pin_told(), 1);
}

#[test]
fn a_reset_wakes_the_device() {
    let control = 0x40 + 8 + 16 + 12 + regs::DEVICE_CONTROL;
    type Deed<'a> = &'a dyn Fn(&Rig);
    let flr: Deed<'_> = &|rig| rig.vmm.config_write16(control, regs::DEVICE_CONTROL_FLR).unwrap();
    for reset in [flr, &|rig| rig.vmm.client().reset().unwrap()] {
        let rig = Rig::new(true, By::Pin);
        rig.power(D3Hot);
        reset(&rig);
        rig.vmm.write32(0, 0, 5).unwrap();
        assert_eq!(rig.vmm.read32(0, 0).unwrap(), 5);
        assert!(!rig.can_master(), "the Command register is clear");
        rig.vmm.set_bus_master(true).unwrap();
        assert!(rig.handle().dma().write(RAM, &[1]).is_ok());
    }
}

/// What waits while the device sleeps is of the life that ends when it wakes up.
#[test]
fn a_device_that_wakes_up_without_its_state_tells_nobody() {
    for (by, vector) in [(By::Pin, 0), (By::Msi, 3), (By::Msix, 3)] {
        let rig = Rig::new(false, by);
        let client = rig.vmm.client();
        let index = if matches!(by, By::Msi) { IrqIndex::Msi } else { IrqIndex::Msix };
        if matches!(by, By::Pin) {
            rig.power(D3Hot);
            rig.handle().intx().raise();
        } else {
            client.mask_irqs(index, vector, 1).unwrap();
            rig.handle().vector(vector).trigger().unwrap();
            rig.power(D3Hot);
            client.unmask_irqs(index, vector, 1).unwrap();
        }
        let told = || rig.interrupts.count_now(vector as usize).unwrap();
        assert_eq!(told(), 0, "{by:?}, asleep");
        rig.power(D0);
        rig.vmm.set_bus_master(true).unwrap();
        assert_eq!(told(), 0, "{by:?}");
    }
}

#[test]
fn a_client_may_leave_a_device_that_sleeps() {
    let Rig { served, log, vmm, .. } = Rig::new(false, By::Msix);
    vmm.config_write16(PMCSR, 3).unwrap();
    drop(vmm);
    log.wait_for(&Call::Reset(Reset::ConnectionLost)).unwrap();
    let vmm = Vmm::connect(served.path()).unwrap();
    assert_eq!(vmm.config_read16(PMCSR).unwrap() & 3, 3, "the next client finds it as it was");
    assert_eq!(vmm.read32(0, 0).unwrap(), u32::MAX);
    vmm.client().reset().unwrap();
    assert_eq!(vmm.read32(0, 0).unwrap(), 0);
}
