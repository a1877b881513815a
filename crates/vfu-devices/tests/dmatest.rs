//! The DMA test device behind a socket: a copy in each place where a device can do one.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vfu::server::Running;
use vfu::wire::Errno;
use vfu::{Limits, Reentrant, Server};
use vfu_devices::DmaTest;
use vfu_devices::dmatest::{self, MAX_LENGTH, command, register};
use vfu_testkit::{DEADLINE, MessageRam, Vmm};

const BAR: u32 = 0;
const RAM: u64 = 0x40_0000;
const TO: u64 = RAM + 0x4000;
const LEN: usize = 3000;

/// The device being driven. The client goes first.
struct Rig {
    vmm: Vmm,
    ram: Arc<MessageRam>,
    _server: Running<Reentrant<DmaTest>>,
}

impl Rig {
    fn new(twin: bool, limits: Limits) -> Rig {
        let (near, far) = UnixStream::pair().unwrap();
        let builder = Server::builder(dmatest::pci()).limits(limits);
        let bound = builder.fd(far.into()).unwrap();
        let server = bound.serve_shared(DmaTest::new).unwrap().spawn();
        let vmm = Vmm::connect_fd(near.into(), twin).unwrap();
        vmm.enumerate().unwrap();
        let ram = vmm.message_ram(RAM, 0x1_0000).unwrap();
        Rig { vmm, ram, _server: server }
    }

    /// Tells the device what to copy. Gives what must arrive.
    fn prepare(&self, seed: u8) -> Vec<u8> {
        let bytes: Vec<u8> = (0..LEN).map(|i| (i as u8).wrapping_mul(29) ^ seed).collect();
        self.ram.store(RAM, &bytes).unwrap();
        self.ram.store(TO, &vec![0; LEN]).unwrap();
        self.aim(RAM, TO, LEN as u32);
        bytes.iter().map(|byte| !byte).collect()
    }

    fn aim(&self, source: u64, destination: u64, length: u32) {
        self.vmm.write64(BAR, register::SOURCE, source).unwrap();
        self.vmm.write64(BAR, register::DESTINATION, destination).unwrap();
        self.vmm.write32(BAR, register::LENGTH, length).unwrap();
    }

    fn command(&self, value: u32) {
        self.vmm.write32(BAR, register::COMMAND, value).unwrap();
    }

    fn post(&self, value: u32) {
        let data = value.to_le_bytes();
        self.vmm.client().region_write_posted(BAR, register::COMMAND, &data).unwrap();
    }

    fn read(&self, offset: u64) -> u32 {
        self.vmm.read32(BAR, offset).unwrap()
    }

    /// Waits for the end of the `count`th copy; gives its errno.
    fn ended(&self, count: u32) -> u32 {
        let began = std::time::Instant::now();
        while self.read(register::COUNT) != count {
            assert!(began.elapsed() < DEADLINE, "no copy ended");
        }
        self.read(register::ERRNO)
    }

    /// Runs `meanwhile` while the DMA message that `start` leads to is not answered. Whoever waits
    /// for a reply may be the one who serves that message, so `start` has a thread.
    fn held(&self, start: &(dyn Fn() + Sync), meanwhile: impl FnOnce()) {
        struct Release<'a>(&'a MessageRam);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.release();
            }
        }
        thread::scope(|scope| {
            let _whatever_happens = Release(&self.ram);
            self.ram.hold();
            scope.spawn(start);
            self.ram.wait_held().unwrap();
            meanwhile();
        });
    }

    fn arrived(&self) -> Vec<u8> {
        self.ram.bytes(TO, LEN).unwrap()
    }
}

fn timeout(millis: u64) -> Limits {
    Limits { reply_timeout: Some(Duration::from_millis(millis)), ..Limits::default() }
}

#[test]
fn copies_everywhere() {
    for twin in [false, true] {
        let rig = Rig::new(twin, Limits::default());
        assert_eq!(rig.read(register::IDENTIFICATION), dmatest::IDENTIFICATION);
        let expected = rig.prepare(1);
        rig.command(command::ON_THREAD);
        assert_eq!(rig.ended(1), 0);
        assert_eq!(rig.arrived(), expected);

        // Our client answers while it waits, so even here.
        let expected = rig.prepare(2);
        rig.command(command::IN_HANDLER);
        assert_eq!(rig.read(register::COUNT), 2, "it has ended before it is answered");
        assert_eq!(rig.arrived(), expected);

        let expected = rig.prepare(3);
        assert_eq!(rig.read(register::COPY), 0);
        assert_eq!(rig.read(register::COUNT), 3);
        assert_eq!(rig.arrived(), expected);

        let expected = rig.prepare(4);
        rig.post(command::IN_HANDLER);
        assert_eq!(rig.ended(4), 0);
        assert_eq!(rig.arrived(), expected);
    }
}

#[test]
fn registers_answer_while_a_handler_waits() {
    let rig = Rig::new(true, Limits::default());
    let expected = rig.prepare(5);
    rig.held(&|| rig.post(command::IN_HANDLER), || {
        for value in 0..100 {
            rig.vmm.write32(BAR, register::SCRATCH, value).unwrap();
            assert_eq!(rig.read(register::SCRATCH), value);
        }
        assert_eq!(rig.read(register::COUNT), 0, "it still waits");
    });
    assert_eq!(rig.ended(1), 0);
    assert_eq!(rig.arrived(), expected);
}

#[test]
fn a_client_that_does_not_answer_is_given_up_and_the_next_copy_works() {
    let rig = Rig::new(true, timeout(50));
    rig.prepare(6);
    let timed_out = Errno::ETIMEDOUT.raw().unsigned_abs();
    rig.held(&|| assert_eq!(rig.read(register::COPY), timed_out), || {
        assert_eq!(rig.ended(1), timed_out);
    });
    let expected = rig.prepare(7);
    for count in 2.. {
        // The late answer may hold the first ones up: the machine may be slow.
        rig.command(command::ON_THREAD);
        if rig.ended(count) == 0 {
            break;
        }
    }
    assert_eq!(rig.arrived(), expected);
    assert!(rig.vmm.client().closed().is_none());
}

#[test]
fn the_pin_announces_a_copy_and_the_count_takes_it_down() {
    let rig = Rig::new(false, Limits::default());
    let pin = rig.vmm.enable_intx().unwrap();
    for count in 1..=3 {
        let expected = rig.prepare(count as u8);
        rig.command(command::ON_THREAD | command::INTERRUPT);
        pin.wait(0).unwrap();
        assert_eq!(rig.arrived(), expected, "the interrupt comes behind the data");
        assert_eq!(rig.vmm.config_read16(6).unwrap() & 8, 8);
        assert_eq!(rig.read(register::COUNT), count);
        assert_eq!(rig.vmm.config_read16(6).unwrap() & 8, 0);
        rig.vmm.unmask_intx().unwrap();
    }
    rig.command(command::ON_THREAD);
    rig.ended(4);
    assert_eq!(pin.count_now(0).unwrap(), 0, "not asked for");
}

#[test]
fn errors_are_told() {
    let rig = Rig::new(true, Limits::default());
    rig.aim(0x10, TO, 16);
    rig.command(command::ON_THREAD);
    assert_eq!(rig.ended(1), Errno::EFAULT.raw().unsigned_abs());
    rig.aim(RAM, TO, MAX_LENGTH + 1);
    rig.command(command::IN_HANDLER);
    assert_eq!(rig.ended(2), Errno::EINVAL.raw().unsigned_abs());
    rig.aim(RAM, TO, 0);
    rig.command(command::IN_HANDLER);
    assert_eq!(rig.ended(3), 0, "nothing to do is done");
    rig.vmm.set_bus_master(false).unwrap();
    rig.aim(RAM, TO, 16);
    rig.command(command::ON_THREAD);
    assert_eq!(rig.ended(4), Errno::EACCES.raw().unsigned_abs());
    assert_eq!(rig.vmm.read32(BAR, 0x200).unwrap(), u32::MAX, "nothing is there");
}

#[test]
fn a_reset_forgets_copies() {
    let rig = Rig::new(true, Limits::default());
    rig.prepare(8);
    rig.held(&|| rig.command(command::ON_THREAD), || {
        for _ in 0..=dmatest::MAX_WAITING {
            rig.command(command::ON_THREAD);
        }
        assert_eq!(rig.ended(1), Errno::EAGAIN.raw().unsigned_abs(), "one too many");
        rig.vmm.client().reset().unwrap();
    });
    rig.vmm.set_bus_master(true).unwrap();
    assert_eq!(rig.read(register::COUNT), 0);
    assert_eq!(rig.read(register::LENGTH), 0);
    let expected = rig.prepare(9);
    rig.command(command::ON_THREAD);
    assert_eq!(rig.ended(1), 0);
    assert_eq!(rig.arrived(), expected);
}
