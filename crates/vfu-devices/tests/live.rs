//! A machine that moves while it works: threads hammer registers, the device writes memory, and each
//! of the two places has a memory of its own. What has become dirty is copied in rounds, the rest
//! while the device is stopped; in the end not a byte is wrong.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use vfu::client::Migrate;
use vfu::server::Stopper;
use vfu::{Client, Server};
use vfu_devices::dmatest::{command, register};
use vfu_devices::{Model, Options};
use vfu_testkit::{DEADLINE, MessageRam, SharedRam, Vmm};

const RAM: u64 = 0x100_0000;
const PAGES: u64 = 64;
const PAGE: u64 = 4096;
const SIZE: u64 = PAGES * PAGE;
/// Bytes of a copy.
const LEN: u64 = 200;
const HAMMERS: usize = 3;
/// Copies that may wait in the device.
const WAITING: u32 = 40;
/// So many more that are asked for, and some have ended meanwhile.
const SOME_END: u64 = WAITING as u64 + 5;

/// The memory of a machine.
enum Ram {
    Shared(SharedRam),
    Messages(Arc<MessageRam>),
}

impl Ram {
    fn read(&self, address: u64, len: u64) -> Vec<u8> {
        match self {
            Ram::Shared(ram) => ram.bytes(address, len as usize).unwrap(),
            Ram::Messages(ram) => ram.bytes(address, len as usize).unwrap(),
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        match self {
            Ram::Shared(ram) => ram.write(address, bytes).unwrap(),
            Ram::Messages(ram) => ram.store(address, bytes).unwrap(),
        }
    }
}

/// A machine: a server, a client, and memory. The client goes first.
struct Machine {
    vmm: Vmm,
    ram: Ram,
    stopper: Stopper,
    thread: Option<thread::JoinHandle<()>>,
}

impl Machine {
    fn new(shared: bool, incoming: bool) -> Machine {
        let (near, far) = UnixStream::pair().unwrap();
        let model = Model::DmaTest;
        let bound = Server::builder(model.pci()).incoming(incoming).fd(far.into()).unwrap();
        let mut server = model.serve(bound, &Options::default()).unwrap();
        let stopper = server.stopper();
        let thread = thread::spawn(move || server.run().unwrap());
        let client = Client::builder().twin_socket(true).connect_fd(near.into()).unwrap();
        let vmm = Vmm::over(client);
        vmm.enumerate().unwrap();
        let ram = match shared {
            true => Ram::Shared(vmm.share_ram(RAM, SIZE).unwrap()),
            false => Ram::Messages(vmm.message_ram(RAM, SIZE as usize).unwrap()),
        };
        Machine { vmm, ram, stopper, thread: Some(thread) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

/// What the copies make of the memory, one after the other.
struct Expected {
    bytes: Vec<u8>,
    random: u64,
}

impl Expected {
    fn new() -> Expected {
        let bytes = (0..SIZE).map(|i| (i ^ i >> 8) as u8).collect();
        Expected { bytes, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The next copy: from where to where, across pages at times.
    fn next(&mut self) -> (u64, u64) {
        let mut place = || {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % (SIZE - LEN)
        };
        (place(), place())
    }

    fn copy(&mut self, (from, to): (u64, u64)) {
        let range = |at: u64| at as usize..(at + LEN) as usize;
        let inverted: Vec<u8> = self.bytes[range(from)].iter().map(|byte| !byte).collect();
        self.bytes[range(to)].copy_from_slice(&inverted);
    }
}

/// What all threads of the machine share.
struct Guest<'a> {
    place: RwLock<&'a Vmm>,
    end: AtomicBool,
    copies: AtomicU32,
    /// Rounds of each hammering thread, and of the one that copies.
    rounds: Mutex<[u64; HAMMERS + 1]>,
    changed: Condvar,
    accesses: AtomicU64,
}

impl Guest<'_> {
    /// One access, wherever the device is by now.
    fn access<T>(&self, access: impl FnOnce(&Vmm) -> Result<T, vfu::client::ClientError>) -> T {
        let place = self.place.read().unwrap();
        self.accesses.fetch_add(1, Ordering::SeqCst);
        access(&place).unwrap()
    }

    fn work(&self, thread: usize, mut round: impl FnMut(u64)) {
        /// Nobody waits for a thread that has panicked.
        struct End<'a, 'b>(&'a Guest<'b>);
        impl Drop for End<'_, '_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.end.store(true, Ordering::SeqCst);
                }
                self.0.changed.notify_all();
            }
        }
        let _told = End(self);
        for n in 1.. {
            if self.end.load(Ordering::SeqCst) {
                return;
            }
            round(n);
            self.rounds.lock().unwrap()[thread] = n;
            self.changed.notify_all();
        }
    }

    /// Waits until each thread has done so many more rounds.
    fn wait_for(&self, more: u64) {
        let rounds = self.rounds.lock().unwrap();
        let goals = rounds.map(|n| n + more);
        let late = |rounds: &mut [u64; HAMMERS + 1]| {
            let done = rounds.iter().zip(&goals).all(|(n, goal)| n >= goal);
            !done && !self.end.load(Ordering::SeqCst)
        };
        let timeout = self.changed.wait_timeout_while(rounds, DEADLINE, late).unwrap().1;
        assert!(!timeout.timed_out(), "the threads hang");
    }

    /// A register of its own that must read what was written.
    fn hammer(&self, thread: usize, round: u64) {
        let mine = register::SCRATCH + 8 * thread as u64;
        let value = round << 8 | thread as u64;
        self.access(|vmm| vmm.write64(0, mine, value));
        assert_eq!(self.access(|vmm| vmm.read64(0, mine)), value, "thread {thread}");
    }

    /// Has the device copy on its thread, not too much at once.
    fn copy(&self, model: &mut Expected) {
        let (from, to) = model.next();
        self.access(|vmm| vmm.write64(0, register::SOURCE, RAM + from));
        self.access(|vmm| vmm.write64(0, register::DESTINATION, RAM + to));
        self.access(|vmm| vmm.write32(0, register::COMMAND, command::ON_THREAD));
        model.copy((from, to));
        let made = self.copies.fetch_add(1, Ordering::SeqCst) + 1;
        self.until(|count| count + WAITING >= made);
    }

    fn until(&self, enough: impl Fn(u32) -> bool) {
        let began = Instant::now();
        while !enough(self.access(|vmm| vmm.read32(0, register::COUNT))) {
            assert!(began.elapsed() < DEADLINE, "copies do not end");
            thread::yield_now();
        }
    }
}

/// Copies the pages that have become dirty since the last time. Gives how many bytes.
fn copy_dirty(from: &Machine, to: &Machine) -> u64 {
    let dirty = from.vmm.client().dma_logging_report(RAM, SIZE, PAGE).unwrap();
    dirty
        .ranges()
        .map(|(at, len)| {
            to.ram.write(at, &from.ram.read(at, len));
            len
        })
        .sum()
}

fn moves(shared: bool) {
    let (from, to) = (Machine::new(shared, false), Machine::new(shared, true));
    let mut model = Expected::new();
    from.ram.write(RAM, &model.bytes);
    from.vmm.write32(0, register::LENGTH, LEN as u32).unwrap();
    let guest = Guest {
        place: RwLock::new(&from.vmm),
        end: AtomicBool::new(false),
        copies: AtomicU32::new(0),
        rounds: Mutex::new([0; HAMMERS + 1]),
        changed: Condvar::new(),
        accesses: AtomicU64::new(0),
    };
    let (mut paused, mut rest) = (None, 0);
    let moved = thread::scope(|scope| {
        for thread in 0..HAMMERS {
            let guest = &guest;
            scope.spawn(move || guest.work(thread, |round| guest.hammer(thread, round)));
        }
        let copier = scope.spawn(|| guest.work(HAMMERS, |_| guest.copy(&mut model)));
        guest.wait_for(20);
        from.vmm.client().start_dma_logging(PAGE).unwrap();
        to.ram.write(RAM, &from.ram.read(RAM, SIZE)); // whatever changes meanwhile is dirty
        let moved = Migrate::new(from.vmm.client(), to.vmm.client())
            .downtime_limit(Duration::ZERO)
            .max_rounds(6)
            .each_round(|_| {
                guest.wait_for(SOME_END); // there is something new in every round
                Ok::<_, String>(copy_dirty(&from, &to))
            })
            .before_stop(|| {
                guest.wait_for(SOME_END); // nor is it all copied when the machine stops
                paused = Some(guest.place.write().unwrap());
                Ok::<_, String>(())
            })
            .while_stopped(|| {
                rest = copy_dirty(&from, &to);
                // Nothing moves any more: both memories are the same, and nothing is dirty.
                assert_eq!(from.ram.read(RAM, SIZE), to.ram.read(RAM, SIZE));
                assert_eq!(copy_dirty(&from, &to), 0);
                Ok::<_, String>(())
            })
            .run()
            .unwrap();
        from.ram.write(RAM, &vec![0xee; SIZE as usize]); // nobody may need it any more
        *paused.take().unwrap() = &to.vmm;
        guest.wait_for(20);
        guest.end.store(true, Ordering::SeqCst);
        copier.join().unwrap();
        moved
    });
    let copies = guest.copies.load(Ordering::SeqCst);
    guest.until(|count| count >= copies);
    assert_eq!(to.vmm.read32(0, register::COUNT).unwrap(), copies, "each once");
    assert_eq!(to.vmm.read32(0, register::ERRNO).unwrap(), 0);
    assert!(moved.rounds == 6 && rest > 0);
    assert!(to.ram.read(RAM, SIZE) == model.bytes, "every byte is as the copies have made it");
    assert!(from.ram.read(RAM, SIZE).iter().all(|byte| *byte == 0xee), "the source is at rest");
    eprintln!(
        "{} accesses, {copies} copies, {rest} bytes of memory while stopped, downtime {:?}",
        guest.accesses.load(Ordering::SeqCst),
        moved.downtime
    );
}

#[test]
fn a_machine_with_shared_memory_moves_to_the_last_byte() {
    moves(true);
}

#[test]
fn a_machine_with_memory_behind_messages_moves_to_the_last_byte() {
    moves(false);
}
