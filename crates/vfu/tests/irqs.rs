//! DEVICE_SET_IRQS, and what it makes of the interrupts that a device raises.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::pipe;
use vfu::client::ClientError;
use vfu::pci::regs;
use vfu::wire::{Command, Errno, IrqAction, IrqData, SetIrqs};
use vfu::{Bar, IrqError, IrqIndex, Pci};
use vfu_testkit::{Interrupts, RawPeer, TestServer, Vmm, message, within};

const NONE: u32 = 1 << 0;
const BOOL: u32 = 1 << 1;
const EVENTFD: u32 = 1 << 2;
const MASK: u32 = 1 << 3;
const UNMASK: u32 = 1 << 4;
const TRIGGER: u32 = 1 << 5;

fn begin() -> (TestServer, Vmm) {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    vmm.enumerate().unwrap();
    (server, vmm)
}

fn assigned(vmm: &Vmm, index: IrqIndex, vectors: usize) -> Interrupts {
    let interrupts = Interrupts::new(vectors).unwrap();
    vmm.client().assign_irqs(index, 0, &interrupts.fds()).unwrap();
    interrupts
}

fn set(
    vmm: &Vmm,
    index: IrqIndex,
    range: (u32, u32),
    action: IrqAction,
    data: IrqData<'_>,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let (start, count) = range;
    let request = SetIrqs { index: index as u32, start, count, action, data };
    vmm.client().set_irqs(request, fds).map_err(|e| match e {
        ClientError::Refused { errno, .. } => errno,
        e => panic!("{e}"),
    })
}

fn counts(interrupts: &Interrupts) -> Vec<u64> {
    (0..interrupts.len()).map(|vector| interrupts.count_now(vector).unwrap()).collect()
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    let interrupts = Interrupts::new(8).unwrap();
    let fds = interrupts.fds();
    let set = |words: [u32; 5], data: &[u8], fds: &[BorrowedFd<'_>]| {
        let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        payload.extend(data);
        let bytes = message(1, Command::DeviceSetIrqs.as_u16(), 0, &payload);
        peer.send_with(&bytes, fds).unwrap();
        let reply = peer.recv_reply(1, Command::DeviceSetIrqs).unwrap();
        assert!(reply.payload.is_empty());
        reply.errno()
    };
    let max = u32::MAX;
    let bad: &[(&str, [u32; 5], &[u8], usize)] = &[
        ("argsz", [19, EVENTFD | TRIGGER, 2, 0, 1], &[], 1),
        ("no data", [20, TRIGGER, 2, 0, 1], &[], 0),
        ("two kinds of data", [20, NONE | BOOL | TRIGGER, 2, 0, 1], &[1], 0),
        ("no action", [20, NONE, 2, 0, 1], &[], 0),
        ("two actions", [20, NONE | MASK | UNMASK, 2, 0, 1], &[], 0),
        ("unknown flag", [20, NONE | TRIGGER | 1 << 6, 2, 0, 1], &[], 0),
        ("index", [20, NONE | TRIGGER, 5, 0, 1], &[], 0),
        ("index", [20, NONE | TRIGGER, max, 0, 0], &[], 0),
        ("start", [20, NONE | TRIGGER, 2, 4, 1], &[], 0),
        ("start", [20, NONE | TRIGGER, 2, max, 1], &[], 0),
        ("end", [20, NONE | TRIGGER, 2, 3, 2], &[], 0),
        ("end", [20, NONE | TRIGGER, 2, 1, max], &[], 0),
        ("end", [20, NONE | TRIGGER, 2, max, 2], &[], 0),
        ("bytes missing", [20, BOOL | TRIGGER, 2, 0, 2], &[1], 0),
        ("too many bytes", [20, BOOL | TRIGGER, 2, 0, 2], &[1, 1, 1], 0),
        ("bytes of 4 GiB", [20, BOOL | TRIGGER, 2, 0, max], &[1], 0),
        ("ERR can't be masked", [20, NONE | MASK, 3, 0, 1], &[], 0),
        ("REQ can't be masked", [20, NONE | UNMASK, 4, 0, 1], &[], 0),
        ("ERR has one vector", [20, NONE | TRIGGER, 3, 0, 2], &[], 0),
        ("disable with start", [20, NONE | TRIGGER, 2, 1, 0], &[], 0),
        ("nothing to mask", [20, NONE | MASK, 2, 0, 0], &[], 0),
        ("no bytes", [20, BOOL | TRIGGER, 2, 0, 0], &[], 0),
        ("no eventfds", [20, EVENTFD | TRIGGER, 2, 0, 0], &[], 0),
        ("fds with NONE", [20, NONE | TRIGGER, 2, 0, 1], &[], 1),
        ("fds with disable", [20, NONE | TRIGGER, 2, 0, 0], &[], 1),
        ("fds with BOOL", [20, BOOL | TRIGGER, 2, 0, 1], &[1], 1),
        ("too few fds", [20, EVENTFD | TRIGGER, 2, 0, 4], &[], 3),
        ("too many fds", [20, EVENTFD | TRIGGER, 2, 0, 4], &[], 5),
    ];
    for (what, words, data, n) in bad {
        assert_eq!(set(*words, data, &fds[..*n]), Some(Errno::EINVAL), "{what}: {words:?}");
    }
    let short = message(2, Command::DeviceSetIrqs.as_u16(), 0, &[20; 19]);
    peer.send(&short).unwrap();
    let reply = peer.recv_reply(2, Command::DeviceSetIrqs).unwrap();
    assert_eq!(reply.errno(), Some(Errno::EINVAL));
    assert_eq!(set([64, EVENTFD | TRIGGER, 2, 0, 4], &[], &fds[..4]), None, "a larger argsz");
    assert_eq!(counts(&interrupts), [0; 8]);
}

#[test]
fn vectors_signal_their_own_eventfd() {
    let (server, vmm) = begin();
    for index in [IrqIndex::Msi, IrqIndex::Msix] {
        let interrupts = assigned(&vmm, index, 4);
        server.handle().vector(2).trigger().unwrap();
        server.handle().vector(2).trigger().unwrap();
        server.handle().vector(0).trigger().unwrap();
        assert_eq!(counts(&interrupts), [1, 0, 2, 0]);
        let missing = server.handle().vector(4).trigger();
        assert_eq!(missing, Err(IrqError::NoSuchVector { vector: 4, count: 4 }));
        vmm.client().disable_irqs(index).unwrap();
        assert_eq!(server.handle().vector(0).trigger(), Err(IrqError::NotEnabled));
        assert_eq!(counts(&interrupts), [0; 4]);
    }
}

#[test]
fn an_eventfd_can_be_replaced_and_taken_away() {
    let (server, vmm) = begin();
    let first = assigned(&vmm, IrqIndex::Msix, 4);
    let second = assigned(&vmm, IrqIndex::Msix, 2);
    let raise_all = || (0..4).for_each(|v| server.handle().vector(v).trigger().unwrap());
    raise_all();
    assert_eq!((counts(&first), counts(&second)), (vec![0, 0, 1, 1], vec![1, 1]));
    // A range in the middle, by a message without descriptors.
    set(&vmm, IrqIndex::Msix, (1, 2), IrqAction::Trigger, IrqData::EventFd, &[]).unwrap();
    raise_all();
    assert_eq!((counts(&first), counts(&second)), (vec![0, 0, 0, 1], vec![1, 0]));
    let third = Interrupts::new(1).unwrap();
    vmm.client().assign_irqs(IrqIndex::Msix, 2, &third.fds()).unwrap();
    assert_eq!(counts(&third), [1], "the vector without an eventfd has waited for one");
    assert_eq!((counts(&first), counts(&second)), (vec![0; 4], vec![0; 2]));
}

#[test]
fn the_types_are_independent() {
    let (server, vmm) = begin();
    let pin = assigned(&vmm, IrqIndex::Intx, 1);
    let msi = assigned(&vmm, IrqIndex::Msi, 4);
    let msix = assigned(&vmm, IrqIndex::Msix, 4);
    let loop_back = |index| set(&vmm, index, (0, 1), IrqAction::Trigger, IrqData::None, &[]);
    vmm.client().disable_irqs(IrqIndex::Msix).unwrap();
    for index in [IrqIndex::Intx, IrqIndex::Msi, IrqIndex::Msix] {
        loop_back(index).unwrap();
    }
    assert_eq!((counts(&pin), counts(&msi)), (vec![1], vec![1, 0, 0, 0]));
    assert_eq!(counts(&msix), [0; 4]);
    vmm.client().disable_irqs(IrqIndex::Msi).unwrap();
    server.handle().intx().raise();
    assert_eq!(pin.wait(0).unwrap(), 1);
}

#[test]
fn the_pin_masks_itself_and_fires_again_if_it_is_still_up() {
    let (server, vmm) = begin();
    let pin = assigned(&vmm, IrqIndex::Intx, 1);
    let intx = server.handle().intx();
    let status = || vmm.config_read16(regs::STATUS).unwrap() & regs::STATUS_INTERRUPT != 0;
    intx.raise();
    intx.raise();
    assert_eq!((counts(&pin), status()), (vec![1], true));
    vmm.unmask_intx().unwrap();
    assert_eq!(counts(&pin), [1], "still up");
    intx.lower();
    assert!(!status());
    vmm.unmask_intx().unwrap();
    assert_eq!(counts(&pin), [0], "down");
    intx.raise();
    assert_eq!(counts(&pin), [1], "up again");
    intx.lower();
    intx.raise();
    assert_eq!(counts(&pin), [0], "masked since");
    vmm.unmask_intx().unwrap();
    assert_eq!(counts(&pin), [1]);

    intx.lower();
    vmm.unmask_intx().unwrap();
    vmm.client().mask_irqs(IrqIndex::Intx, 0, 1).unwrap();
    intx.raise();
    assert_eq!(counts(&pin), [0], "masked by the client");
    vmm.unmask_intx().unwrap();
    assert_eq!(counts(&pin), [1]);
}

#[test]
fn interrupt_disable_holds_the_pin_back() {
    let (server, vmm) = begin();
    let pin = assigned(&vmm, IrqIndex::Intx, 1);
    vmm.set_command(regs::COMMAND_INTX_DISABLE, true).unwrap();
    server.handle().intx().raise();
    assert_eq!(counts(&pin), [0]);
    let status = vmm.config_read16(regs::STATUS).unwrap();
    assert_ne!(status & regs::STATUS_INTERRUPT, 0, "the state shows nevertheless");
    vmm.set_command(regs::COMMAND_INTX_DISABLE, false).unwrap();
    assert_eq!(counts(&pin), [1]);
}

#[test]
fn a_pin_that_is_up_signals_a_client_that_comes_later() {
    let (server, vmm) = begin();
    server.handle().intx().raise();
    let pin = assigned(&vmm, IrqIndex::Intx, 1);
    assert_eq!(counts(&pin), [1]);
}

#[test]
fn a_masked_vector_waits() {
    let (server, vmm) = begin();
    let msix = assigned(&vmm, IrqIndex::Msix, 4);
    vmm.client().mask_irqs(IrqIndex::Msix, 1, 2).unwrap();
    for vector in [0, 1, 1, 2, 3] {
        server.handle().vector(vector).trigger().unwrap();
    }
    assert_eq!(counts(&msix), [1, 0, 0, 1]);
    let data = IrqData::Bool(&[0, 1, 0, 0]);
    set(&vmm, IrqIndex::Msix, (0, 4), IrqAction::Unmask, data, &[]).unwrap();
    assert_eq!(counts(&msix), [0, 1, 0, 0], "once, however often it was raised");
    vmm.client().unmask_irqs(IrqIndex::Msix, 0, 4).unwrap();
    assert_eq!(counts(&msix), [0, 0, 1, 0]);
}

#[test]
fn the_client_can_trigger_vectors_itself() {
    let (_server, vmm) = begin();
    let msix = assigned(&vmm, IrqIndex::Msix, 4);
    let trigger =
        |range, data| set(&vmm, IrqIndex::Msix, range, IrqAction::Trigger, data, &[]).unwrap();
    trigger((1, 3), IrqData::None);
    assert_eq!(counts(&msix), [0, 1, 1, 1]);
    trigger((0, 4), IrqData::Bool(&[1, 0, 0xff, 0]));
    assert_eq!(counts(&msix), [1, 0, 1, 0]);
    for index in [IrqIndex::Err, IrqIndex::Req] {
        let one = assigned(&vmm, index, 1);
        set(&vmm, index, (0, 1), IrqAction::Trigger, IrqData::None, &[]).unwrap();
        assert_eq!(counts(&one), [1]);
    }
}

#[test]
fn a_full_eventfd_blocks_nobody() {
    let (server, vmm) = begin();
    // One of them in blocking mode: the client need not have thought of it.
    let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let interrupts = assigned(&vmm, IrqIndex::Msix, 1);
    vmm.client().assign_irqs(IrqIndex::Msix, 1, &[blocking.as_fd()]).unwrap();
    interrupts.saturate(0).unwrap();
    rustix::io::write(&blocking, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let handle = server.handle().clone();
    let results = within("a trigger", move || [0, 1].map(|v| handle.vector(v).trigger()));
    assert_eq!(results, [Ok(()), Ok(())]);
    let client = vmm.client().clone();
    within("a trigger by the client", move || {
        let (action, data) = (IrqAction::Trigger, IrqData::None);
        client.set_irqs(SetIrqs { index: 2, start: 0, count: 2, action, data }, &[]).unwrap();
    });
    assert_eq!(interrupts.count_now(0).unwrap(), u64::MAX - 1);
}

/// Whether writes to an eventfd block is the client's to say, and so is how full it is: it could make every
/// one of them wait.
#[test]
fn a_client_that_made_one_interrupt_wait_gets_no_more() {
    let (server, vmm) = begin();
    let msix = assigned(&vmm, IrqIndex::Msix, 2);
    msix.saturate(0).unwrap();
    let flags = fcntl_getfl(msix.fds()[0]).unwrap();
    fcntl_setfl(msix.fds()[0], flags - OFlags::NONBLOCK).unwrap();
    let handle = server.handle().clone();
    within("a trigger that has to wait", move || handle.vector(0).trigger().unwrap());
    fcntl_setfl(msix.fds()[0], flags).unwrap();
    assert_eq!(counts(&msix), [1, 0], "emptied, and then written");
    let failed = Err(IrqError::Eventfd);
    assert_eq!([0, 1].map(|v| server.handle().vector(v).trigger()), [failed, failed]);
    assert_eq!(counts(&msix), [0, 0]);
    let others = assigned(&vmm, IrqIndex::Msix, 2);
    assert_eq!(server.handle().vector(0).trigger(), failed, "others could wait as well");
    assert_eq!(counts(&others), [0, 0]);
    drop(vmm);
    let next = Vmm::connect(server.path()).unwrap();
    next.enumerate().unwrap();
    let msix = assigned(&next, IrqIndex::Msix, 1);
    server.handle().vector(0).trigger().unwrap();
    assert_eq!(counts(&msix), [1], "another client");
}

#[test]
fn only_eventfds_are_taken() {
    let (server, vmm) = begin();
    let before = assigned(&vmm, IrqIndex::Msix, 4);
    let (read, write) = pipe().unwrap();
    let file = OwnedFd::from(tempfile::tempfile().unwrap());
    let null = OwnedFd::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let (_peer, socket) = RawPeer::pair().unwrap();
    for fd in [&read, &write, &file, &null, &socket] {
        let (range, data) = ((0, 1), IrqData::EventFd);
        let refused = set(&vmm, IrqIndex::Msix, range, IrqAction::Trigger, data, &[fd.as_fd()]);
        assert_eq!(refused, Err(Errno::EINVAL), "{fd:?}");
    }
    let good = Interrupts::new(1).unwrap();
    let mixed = [good.fds()[0], write.as_fd()];
    let refused = set(&vmm, IrqIndex::Msix, (0, 2), IrqAction::Trigger, IrqData::EventFd, &mixed);
    assert_eq!(refused, Err(Errno::EINVAL));
    server.handle().vector(0).trigger().unwrap();
    assert_eq!(counts(&before), [1, 0, 0, 0], "all is as before");
}

#[test]
fn messages_need_bus_master_enable() {
    let (server, vmm) = begin();
    let msix = assigned(&vmm, IrqIndex::Msix, 4);
    vmm.set_bus_master(false).unwrap();
    assert_eq!(server.handle().vector(0).trigger(), Err(IrqError::BusMasterDisabled));
    assert_eq!(counts(&msix), [0; 4]);
    vmm.set_bus_master(true).unwrap();
    server.handle().vector(0).trigger().unwrap();
    assert_eq!(counts(&msix), [1, 0, 0, 0]);
}

#[test]
fn a_type_without_vectors_can_be_disabled() {
    let pci = Pci::endpoint(1, 2).bar(0, Bar::mem32(4096));
    let served = vfu_testkit::serve_in_process(vfu::Server::builder(pci), |handle| {
        vfu_testkit::TestDevice::new(handle, vfu_testkit::CallLog::default())
    });
    let served = served.unwrap();
    let vmm = Vmm::connect(served.path()).unwrap();
    for index in IrqIndex::ALL {
        vmm.client().disable_irqs(index).unwrap();
    }
    let pin = Interrupts::new(1).unwrap();
    let assign = vmm.client().assign_irqs(IrqIndex::Intx, 0, &pin.fds());
    assert!(matches!(assign, Err(ClientError::Refused { errno: Errno::EINVAL, .. })));
}

#[test]
fn a_client_that_leaves_takes_its_eventfds_with_it() {
    let (server, vmm) = begin();
    let msix = assigned(&vmm, IrqIndex::Msix, 4);
    drop(vmm);
    let next = Vmm::connect(server.path()).unwrap();
    assert!(server.handle().vector(0).trigger().is_err());
    assert_eq!(counts(&msix), [0; 4]);
    next.enumerate().unwrap();
    let msix = assigned(&next, IrqIndex::Msix, 4);
    server.handle().vector(0).trigger().unwrap();
    assert_eq!(counts(&msix), [1, 0, 0, 0]);
}
