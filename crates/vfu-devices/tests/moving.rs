//! The devices, moved while they work.

mod common;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{RAM, RAM_SIZE};
use vfu::client::{Memory, Migrate, READ_WRITE};
use vfu::server::Stopper;
use vfu::{Client, Server};
use vfu_devices::dmatest::{command, register};
use vfu_devices::{Model, Options, edu};
use vfu_testkit::{DEADLINE, Interrupts, MessageRam, Vmm};

/// A device at one of two places. The client goes first.
struct Place {
    vmm: Vmm,
    stopper: Stopper,
    thread: Option<thread::JoinHandle<()>>,
}

impl Place {
    fn new(model: Model, incoming: bool) -> Place {
        let (near, far) = UnixStream::pair().unwrap();
        let bound = Server::builder(model.pci()).incoming(incoming).fd(far.into()).unwrap();
        let mut server = model.serve(bound, &Options::default()).unwrap();
        let stopper = server.stopper();
        let thread = thread::spawn(move || server.run().unwrap());
        let client = Client::builder().twin_socket(true).connect_fd(near.into()).unwrap();
        Place { vmm: Vmm::over(client), stopper, thread: Some(thread) }
    }

    fn pair(model: Model) -> [Place; 2] {
        [false, true].map(|incoming| Place::new(model, incoming))
    }

    fn map(&self, ram: &Arc<MessageRam>) {
        let memory = Memory::Messages(ram.clone());
        self.vmm.client().dma_map(RAM, RAM_SIZE as u64, READ_WRITE, memory).unwrap();
    }

    fn wait_for(&self, what: &str, done: impl Fn(&Vmm) -> bool) {
        let began = Instant::now();
        while !done(&self.vmm) {
            assert!(began.elapsed() < DEADLINE, "still waiting for {what}");
            thread::yield_now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

fn migrate([from, to]: &[Place; 2]) {
    Migrate::new(from.vmm.client(), to.vmm.client()).run().unwrap();
}

fn bytes(seed: u8) -> Vec<u8> {
    (0..4096_u32).map(|i| (i % 251) as u8 ^ seed).collect()
}

/// Runs `meanwhile` while the DMA message that `start` leads to is not answered.
fn held(ram: &MessageRam, start: &(dyn Fn() + Sync), meanwhile: impl FnOnce()) {
    struct Release<'a>(&'a MessageRam);
    impl Drop for Release<'_> {
        fn drop(&mut self) {
            self.0.release();
        }
    }
    thread::scope(|scope| {
        let _whatever_happens = Release(ram);
        ram.hold();
        scope.spawn(start);
        ram.wait_held().unwrap();
        meanwhile();
    });
}

#[test]
fn registers_come_along() {
    /// BAR, width, what is written, and where to read.
    type Row = (Model, u32, usize, &'static [(u64, u64)], &'static [u64]);
    let table: [Row; 3] = [
        (
            Model::Edu,
            0,
            4,
            &[(0x04, 77), (0x20, 0x80), (0x60, 5), (0x80, 9)],
            &[0, 4, 0x20, 0x24, 0x80],
        ),
        (Model::Idio16, 2, 1, &[(0, 0x5a), (7, 3), (4, 0xff)], &[0, 1, 4, 5, 6, 7]),
        (Model::DmaTest, 0, 8, &[(0x08, 77), (0x10, 88), (0x40, 99)], &[0, 8, 0x10, 0x28, 0x40]),
    ];
    for (model, bar, width, writes, reads) in table {
        let places = Place::pair(model);
        let (from, to) = (&places[0].vmm, &places[1].vmm);
        from.enumerate().unwrap();
        if model == Model::Idio16 {
            from.read8(bar, 2).unwrap(); // enables interrupts
        }
        for (offset, value) in writes {
            from.client().region_write(bar, *offset, &value.to_le_bytes()[..width]).unwrap();
        }
        let read = |vmm: &Vmm| {
            let mut values = Vec::new();
            for offset in reads {
                let mut data = [0; 8];
                vmm.client().region_read(bar, *offset, &mut data[..width]).unwrap();
                values.push(u64::from_le_bytes(data));
            }
            values
        };
        let before = read(from);
        migrate(&places);
        assert_eq!(read(to), before, "{model}");
        assert!(writes.iter().any(|(_, value)| before.contains(value)), "{model}: {before:x?}");
        let pin = |vmm: &Vmm| vmm.config_read16(6).unwrap() & 1 << 3 != 0;
        assert_eq!(pin(to), model != Model::DmaTest, "{model}: the pin");
        let intx = to.enable_intx().unwrap();
        assert_eq!(intx.count_now(0).unwrap(), u64::from(model != Model::DmaTest), "{model}");
    }
}

fn edu_with_msi(place: &Place, ram: &Arc<MessageRam>) -> Interrupts {
    let function = place.vmm.enumerate().unwrap();
    place.map(ram);
    place.vmm.enable_msi(&function, 1).unwrap()
}

fn edu_dma(vmm: &Vmm, source: u64, destination: u64, command: u32) {
    vmm.write64(0, 0x80, source).unwrap();
    vmm.write64(0, 0x88, destination).unwrap();
    vmm.write64(0, 0x90, 4096).unwrap();
    vmm.write32(0, 0x98, command).unwrap();
}

#[test]
fn dma_of_edu_that_was_under_way_ends_at_the_destination_once() {
    let places = Place::pair(Model::Edu);
    let ram = Arc::new(MessageRam::new(RAM, RAM_SIZE));
    let [here, there] = [0, 1].map(|i| edu_with_msi(&places[i], &ram));
    ram.store(RAM, &bytes(1)).unwrap();
    held(&ram, &|| edu_dma(&places[0].vmm, RAM, edu::BUFFER_ADDRESS, 0x5), || migrate(&places));
    assert_eq!(there.wait(0).unwrap(), 1);
    let to = &places[1].vmm;
    assert_eq!(to.read32(0, 0x98).unwrap(), 0x4, "it has ended");
    assert_eq!(to.read32(0, 0x24).unwrap(), edu::IRQ_DMA);
    edu_dma(to, edu::BUFFER_ADDRESS, RAM + 0x2000, 0x7);
    assert_eq!(there.wait(0).unwrap(), 1);
    assert_eq!(ram.bytes(RAM + 0x2000, 4096).unwrap(), bytes(1));
    assert_eq!(here.count_now(0).unwrap(), 0, "nothing at the source");
    assert_eq!(places[0].vmm.read32(0, 0x98).unwrap() & 1, 1, "which still shows that it runs");
}

#[test]
fn the_buffer_of_edu_goes_ahead_and_again_if_it_has_changed() {
    let places = Place::pair(Model::Edu);
    let ram = Arc::new(MessageRam::new(RAM, RAM_SIZE));
    let [here, there] = [0, 1].map(|i| edu_with_msi(&places[i], &ram));
    let (from, to) = (places[0].vmm.client(), places[1].vmm.client());
    let put = |seed| {
        ram.store(RAM, &bytes(seed)).unwrap();
        edu_dma(&places[0].vmm, RAM, edu::BUFFER_ADDRESS, 0x5);
        assert_eq!(here.wait(0).unwrap(), 1);
    };
    // What a move that was given up had sent ahead counts for nothing.
    put(1);
    let given_up = Migrate::new(from, to).while_stopped(|| Err("no")).run().unwrap_err();
    assert!(given_up.source_goes_on.is_ok());
    let migrate = || Migrate::new(from, to).downtime_limit(Duration::ZERO);
    let changes = migrate().each_round(|round| {
        if round < 3 {
            put(10 + round as u8);
        }
        Ok::<_, String>(0)
    });
    let moved = changes.run().unwrap();
    assert_eq!(moved.rounds, 4, "nothing came in the last");
    assert!(moved.early_bytes > 3 * 4096 && moved.early_bytes < 4 * 4096, "{moved:?}");
    assert!(moved.bytes < moved.early_bytes + 4096, "it is not sent once more: {moved:?}");
    edu_dma(&places[1].vmm, edu::BUFFER_ADDRESS, RAM + 0x2000, 0x7);
    assert_eq!(there.wait(0).unwrap(), 1);
    assert_eq!(ram.bytes(RAM + 0x2000, 4096).unwrap(), bytes(12));
    // And without going ahead, back again.
    let back = Migrate::new(to, from).max_rounds(0).run().unwrap();
    assert!(back.early_bytes == 0 && back.bytes > 4096, "{back:?}");
    edu_dma(&places[0].vmm, edu::BUFFER_ADDRESS, RAM + 0x4000, 0x7);
    assert_eq!(here.wait(0).unwrap(), 1);
    assert_eq!(ram.bytes(RAM + 0x4000, 4096).unwrap(), bytes(12));
}

#[test]
fn a_move_that_is_given_up_lets_the_dma_go_on() {
    let places = Place::pair(Model::Edu);
    let ram = Arc::new(MessageRam::new(RAM, RAM_SIZE));
    let here = edu_with_msi(&places[0], &ram);
    ram.store(RAM, &bytes(2)).unwrap();
    held(&ram, &|| edu_dma(&places[0].vmm, RAM, edu::BUFFER_ADDRESS, 0x5), || {
        let (from, to) = (places[0].vmm.client(), places[1].vmm.client());
        let error = Migrate::new(from, to).while_stopped(|| Err("no")).run().unwrap_err();
        assert!(error.source_goes_on.is_ok());
    });
    assert_eq!(here.wait(0).unwrap(), 1);
    edu_dma(&places[0].vmm, edu::BUFFER_ADDRESS, RAM + 0x2000, 0x7);
    assert_eq!(here.wait(0).unwrap(), 1);
    assert_eq!(ram.bytes(RAM + 0x2000, 4096).unwrap(), bytes(2));
}

#[test]
fn copies_of_dmatest_that_wait_or_run_go_along() {
    for (first, posted) in [(command::ON_THREAD, false), (command::IN_HANDLER, true)] {
        let places = Place::pair(Model::DmaTest);
        let ram = Arc::new(MessageRam::new(RAM, RAM_SIZE));
        for place in &places {
            place.vmm.enumerate().unwrap();
            place.map(&ram);
        }
        let (from, to) = (&places[0].vmm, &places[1].vmm);
        ram.store(RAM, &bytes(3)).unwrap();
        let aim = |to: u64| {
            from.write64(0, register::SOURCE, RAM).unwrap();
            from.write64(0, register::DESTINATION, to).unwrap();
            from.write32(0, register::LENGTH, 4096).unwrap();
        };
        aim(RAM + 0x1000);
        let start = || {
            let value = first.to_le_bytes();
            match posted {
                true => from.client().region_write_posted(0, register::COMMAND, &value).unwrap(),
                false => from.client().region_write(0, register::COMMAND, &value).unwrap(),
            }
            // What a reader of the twin socket is needed for.
            while from.client().process() > 0 {}
        };
        held(&ram, &start, || {
            // Two more wait behind it.
            for n in 2..4 {
                aim(RAM + n * 0x1000);
                from.write32(0, register::COMMAND, command::ON_THREAD).unwrap();
            }
            migrate(&places);
        });
        places[1].wait_for("the copies", |vmm| vmm.read32(0, register::COUNT).unwrap() == 3);
        assert_eq!(to.read32(0, register::ERRNO).unwrap(), 0);
        let expected: Vec<u8> = bytes(3).iter().map(|byte| !byte).collect();
        for n in 1..4 {
            assert_eq!(ram.bytes(RAM + n * 0x1000, 4096).unwrap(), expected, "copy {n}");
        }
        assert_eq!(ram.writes(), 3, "each was written once");
    }
}

#[test]
fn what_was_written_has_arrived_when_the_source_has_stopped() {
    let places = Place::pair(Model::Edu);
    let ram = Arc::new(MessageRam::new(RAM, RAM_SIZE));
    let [here, there] = [0, 1].map(|i| edu_with_msi(&places[i], &ram));
    ram.store(RAM, &bytes(4)).unwrap();
    edu_dma(&places[0].vmm, RAM, edu::BUFFER_ADDRESS, 0x5);
    assert_eq!(here.wait(0).unwrap(), 1);
    thread::scope(|scope| {
        let mut moved = None;
        held(
            &ram,
            &|| edu_dma(&places[0].vmm, edu::BUFFER_ADDRESS, RAM + 0x2000, 0x7),
            || moved = Some(scope.spawn(|| migrate(&places))), // waits for the write
        );
        moved.unwrap().join().unwrap();
    });
    assert_eq!(ram.bytes(RAM + 0x2000, 4096).unwrap(), bytes(4));
    let raised = here.count_now(0).unwrap() + there.count_now(0).unwrap();
    assert_eq!(raised, 1, "at one of both");
    assert_eq!(places[1].vmm.read32(0, 0x98).unwrap() & 1, 0, "it has ended");
}
