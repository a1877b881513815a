//! The stress scenarios of crossing traffic: a flood against random DMA (s1) and a client with the
//! limits of QEMU (s2). What is left behind (s5) is counted in `crossing_leftovers.rs`, alone.

mod crossing;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crossing::*;
use rustix::net::sockopt::set_socket_send_buffer_size;
use vfu::wire::{Command, DmaReadRequest, DmaWriteRequest, Kind, RegionReadReply};
use vfu::{DmaError, Fault, Handle};
use vfu_testkit::{RawMessage, RawPeer, within};

/// Numbers that look random, the same for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A seed from the time, or from the environment to repeat a run.
fn seed() -> u64 {
    let now = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 | 1
    };
    let seed = std::env::var("VFU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(now);
    println!("VFU_SEED={seed}");
    seed
}

/// Sends in pieces of random length; one message at a time.
struct Sender<'a>(&'a RawPeer, Mutex<Random>);

impl Sender<'_> {
    fn send(&self, bytes: &[u8]) {
        let mut random = self.1.lock().unwrap();
        let mut pieces = Vec::new();
        let mut left = bytes.len();
        while left > 0 && random.below(3) > 0 {
            let len = 1 + random.below(left as u64) as usize;
            pieces.push(len);
            left -= len;
        }
        self.0.send_split(bytes, &pieces).unwrap();
    }
}

/// The memory of the client.
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    /// The reply to a DMA message, which is done.
    fn serve(&self, request: &RawMessage) -> Vec<u8> {
        let mut memory = self.0.lock().unwrap();
        if request.header.command == Command::DmaRead.as_u16() {
            let DmaReadRequest { address, count } =
                DmaReadRequest::parse(&request.payload).unwrap();
            let at = (address - BASE) as usize;
            return request.reply(&read_reply(address, &memory[at..at + count as usize]));
        }
        let write = DmaWriteRequest::parse(&request.payload).unwrap();
        let at = (write.address - BASE) as usize;
        memory[at..at + write.data.len()].copy_from_slice(write.data);
        request.reply(&words(&[write.address, write.data.len() as u64]))
    }
}

/// What each thread of the device has to itself.
const SHARE: u64 = 0x8_0000;
const OPERATIONS: u64 = 150;

/// Random transfers in one share of the memory, checked against a model of it.
fn device_thread(handle: &Handle, share: u64, mut random: Random) {
    let base = BASE + share * SHARE;
    let mut model = vec![0u8; SHARE as usize];
    let dma = handle.dma();
    for i in 0..OPERATIONS {
        let len = 1 + match random.below(4) {
            0 => random.below(8),
            1 | 2 => random.below(5000),
            _ => random.below(SHARE / 2),
        } as usize;
        let at = random.below(SHARE - len as u64) as usize;
        let face = FACES[random.below(4) as usize];
        let address = base + at as u64;
        if random.below(2) == 0 {
            let data: Vec<u8> = (0..len).map(|j| (i as usize * 7 + j) as u8).collect();
            model[at..at + len].copy_from_slice(&data);
            assert_eq!(face.write(handle, address, data).end(), Ok(()), "{face:?}");
        } else {
            let mut data = vec![0; len];
            if face == Face::Blocking {
                dma.read(address, &mut data).unwrap();
            } else {
                data = face.read(handle, address, len).end().unwrap();
            }
            assert!(data == model[at..at + len], "{face:?} {address:#x}+{len:#x}");
        }
    }
}

#[test]
fn s1_a_flood_of_commands_against_random_dma() {
    let seed = seed();
    for (world, (style, twin)) in worlds().enumerate() {
        let bench = Bench::plain(style, impatient(20_000));
        let peer = bench.peer(twin);
        for socket in [Some(&peer.main), peer.twin.as_ref()].into_iter().flatten() {
            set_socket_send_buffer_size(socket, 8192).unwrap();
        }
        let memory = Memory(Mutex::new(vec![0; SIZE as usize]));
        let (running, answered) = (AtomicBool::new(true), AtomicU64::new(0));
        // Requests of the client under way, with their room.
        let open = (Mutex::new(0u32), Condvar::new());
        let main = Sender(&peer.main, Mutex::new(Random(seed ^ 0x11 ^ world as u64)));
        // Answers DMA, and takes the replies to the flood.
        let listen = |reader: &RawPeer, sender: &Sender<'_>| {
            while let Ok(message) = reader.recv() {
                if message.header.kind() == Some(Kind::Command) {
                    sender.send(&memory.serve(&message));
                    continue;
                }
                assert_eq!(message.errno(), None);
                if message.header.command == Command::RegionRead.as_u16() {
                    let reply = RegionReadReply::parse(&message.payload).unwrap();
                    assert_eq!(reply.data, message.header.id.to_le_bytes());
                    answered.fetch_add(1, Ordering::SeqCst);
                    *open.0.lock().unwrap() -= 1;
                    open.1.notify_all();
                } else {
                    break;
                }
            }
        };
        let listen = &listen;
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut id = 0u16;
                while running.load(Ordering::SeqCst) {
                    let mut count = open.0.lock().unwrap();
                    while *count >= 64 && running.load(Ordering::SeqCst) {
                        count = open.1.wait(count).unwrap();
                    }
                    *count += 1;
                    drop(count);
                    id = id.wrapping_add(1);
                    // A posted write, and the read that has to see it.
                    let pair = [posted_write(0, 8, &id.to_le_bytes()), reg_read(id, 8, 2)];
                    main.send(&pair.concat());
                }
            });
            let (first, to_main) = (&peer.main, &main);
            let main_reader = scope.spawn(move || listen(first, to_main));
            if let Some(second) = &peer.twin {
                let sender = Sender(second, Mutex::new(Random(seed ^ 0x77)));
                scope.spawn(move || listen(second, &sender));
            }
            let devices: Vec<_> = (0..3u64)
                .map(|share| {
                    let (handle, random) =
                        (bench.handle.clone(), Random(seed.rotate_left(share as u32)));
                    scope.spawn(move || device_thread(&handle, share, random))
                })
                .collect();
            let ends: Vec<_> = devices.into_iter().map(|device| device.join()).collect();
            running.store(false, Ordering::SeqCst);
            open.1.notify_all();
            ends.into_iter().for_each(|end| end.unwrap());
            flood.join().unwrap();
            // The reply to this one is the last of its thread.
            main.send(&reset(9));
            main_reader.join().unwrap();
            peer.main.shutdown_write();
        });
        assert_eq!(*open.0.lock().unwrap(), 0, "none is lost");
        let answered = answered.load(Ordering::SeqCst);
        assert!(answered > 100, "{answered} commands while DMA went on");
    }
}

/// A client with QEMU's limits: it answers DMA only while none of its own requests is unanswered.
struct Qemu<'a> {
    peer: &'a Peer,
    memory: Memory,
    /// DMA that waits for the end of a request.
    waiting: Vec<RawMessage>,
}

impl Qemu<'_> {
    fn answer_dma(&mut self) {
        for request in self.waiting.drain(..) {
            self.peer.main.send(&self.memory.serve(&request)).unwrap();
        }
    }

    /// An access of a virtual CPU: nothing else is done before its end.
    fn access(&mut self, command: &[u8]) -> RawMessage {
        self.peer.main.send(command).unwrap();
        loop {
            let message = self.peer.main.recv().unwrap();
            if message.header.kind() == Some(Kind::Reply) {
                assert_eq!(message.errno(), None);
                self.answer_dma();
                return message;
            }
            self.waiting.push(message);
        }
    }

    fn register(&mut self, offset: u64) -> u32 {
        let reply = self.access(&reg_read(1, offset, 4));
        let data = RegionReadReply::parse(&reply.payload).unwrap().data;
        u32::from_le_bytes(data.try_into().unwrap())
    }
}

const COPIES: u32 = 200;
const DONE: u64 = 0x40;

/// Copies a page, as a register write asks it to.
fn copy(handle: &Handle, turn: u32) -> Result<(), DmaError> {
    let mut page = [0; 4096];
    handle.dma().read(BASE, &mut page)?;
    page[..4].copy_from_slice(&turn.to_le_bytes());
    handle.dma().write(BASE + 0x10000, &page)
}

fn qemu(peer: &Peer) -> Qemu<'_> {
    let memory = Memory(Mutex::new(bytes_at(BASE, SIZE as usize)));
    Qemu { peer, memory, waiting: Vec::new() }
}

/// The guest rings, and polls the register until the copy is done.
fn drive(qemu: &mut Qemu<'_>, ring: impl Fn(&mut Qemu<'_>, u32)) {
    for turn in 1..=COPIES {
        ring(qemu, turn);
        while qemu.register(HOOK + DONE) != turn {}
        let memory = qemu.memory.0.lock().unwrap();
        assert_eq!(memory[0x10000..0x10004], turn.to_le_bytes());
        assert_eq!(memory[0x10004..0x11000], bytes_at(BASE + 4, 4092));
    }
}

#[test]
fn s2a_a_worker_thread_copies_for_qemu() {
    for style in STYLES {
        let (job, jobs) = channel::<(Handle, u32)>();
        let done = Arc::new(AtomicU64::new(0));
        let finished = done.clone();
        let worker = thread::spawn(move || {
            for (handle, turn) in jobs {
                copy(&handle, turn).unwrap();
                finished.store(turn.into(), Ordering::SeqCst);
            }
        });
        let bench = Bench::of(style, impatient(5000), |gadget| {
            gadget
                .on_read(move |_, at, data, _| {
                    at.give(data, &done.load(Ordering::SeqCst).to_le_bytes());
                    Ok(())
                })
                .on_write(move |handle, at, data, _| {
                    job.send((handle.clone(), at.u32(data)?)).unwrap();
                    Ok(())
                })
        });
        let peer = bench.peer(false);
        let mut qemu = qemu(&peer);
        drive(&mut qemu, |qemu, turn| {
            qemu.access(&reg_write(2, HOOK, &turn.to_le_bytes()));
        });
        drop(peer);
        assert_eq!(bench.handle.counters().map_or(0, |c| c.timeouts), 0);
        drop(bench);
        within("the worker", move || worker.join().unwrap());
    }
}

#[test]
fn s2b_a_posted_write_copies_for_qemu_while_the_guest_goes_on() {
    for style in STYLES {
        let done = Arc::new(AtomicU64::new(0));
        let finished = done.clone();
        let bench = Bench::reentrant(style, impatient(5000), |gadget| {
            gadget
                .on_read(move |_, at, data| {
                    at.give(data, &done.load(Ordering::SeqCst).to_le_bytes());
                    Ok(())
                })
                .on_write(move |handle, at, data| {
                    let turn = at.u32(data)?;
                    copy(handle, turn).unwrap();
                    finished.store(turn.into(), Ordering::SeqCst);
                    Ok(())
                })
        });
        let peer = bench.peer(false);
        let mut qemu = qemu(&peer);
        drive(&mut qemu, |qemu, turn| {
            qemu.peer.main.send(&posted_write(2, HOOK, &turn.to_le_bytes())).unwrap();
        });
        assert_eq!(bench.handle.counters().unwrap().timeouts, 0);
    }
}

#[test]
fn s2c_a_read_that_needs_dma_ends_after_t_and_the_session_lives_on() {
    for style in STYLES {
        for reentrant in [false, true] {
            let (outcome, outcomes) = channel();
            let outcome = Mutex::new(outcome);
            let ask = move |handle: &Handle, data: &mut [u8]| {
                let read = handle.dma().read(BASE, data);
                outcome.lock().unwrap().send(read.clone()).unwrap();
                read.map_err(|_| Fault::Denied)
            };
            let bench = if reentrant {
                Bench::reentrant(style, impatient(100), |gadget| {
                    gadget.on_read(move |handle, _, data| ask(handle, data))
                })
            } else {
                Bench::of(style, impatient(100), |gadget| {
                    gadget.on_read(move |handle, _, data, _| ask(handle, data))
                })
            };
            let peer = bench.peer(false);
            let mut qemu = qemu(&peer);
            for round in 1..=3 {
                assert_eq!(qemu.register(HOOK), u32::MAX);
                assert_eq!(outcomes.recv().unwrap(), Err(DmaError::TimedOut));
                // The late reply has been sent, and is drained.
                assert_eq!(qemu.register(0), 0);
                let counters = bench.handle.counters().unwrap();
                assert_eq!((counters.timeouts, counters.late_replies), (round, round));
            }
            peer.is_quiet();
        }
    }
}
