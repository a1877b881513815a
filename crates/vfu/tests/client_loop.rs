//! A client inside somebody else's event loop: `poll_fd` and `process`.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_send_buffer_size;
use vfu::wire::{Command, DmaReadRequest, Errno, Request};
use vfu::{Client, Limits};
use vfu_testkit::{DEADLINE, RawPeer, command, within};

const READ: Request<'_> = Request::DmaRead(DmaReadRequest { address: 0, count: 4 });

struct Loop {
    client: Client,
    poll_fd: OwnedFd,
    server: RawPeer,
}

impl Loop {
    fn new(limits: Limits) -> Loop {
        let (server, socket) = RawPeer::pair().unwrap();
        set_socket_send_buffer_size(&socket, 4096).unwrap(); // soon full
        let builder = Client::builder().limits(limits).twin_socket(false);
        let connecting = std::thread::spawn(move || builder.connect_fd(socket).unwrap());
        server.answer_handshake("{}", &[]).unwrap();
        let client = connecting.join().unwrap();
        let poll_fd = client.poll_fd().unwrap();
        Loop { client, poll_fd, server }
    }

    fn is_ready(&self, seconds: u64) -> bool {
        let timeout = Timespec { tv_sec: seconds as i64, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.poll_fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
    }

    /// Works until nothing is left to do; gives the number of commands executed.
    fn settle(&self) -> usize {
        let mut executed = 0;
        for _ in 0..10_000 {
            if !self.is_ready(0) {
                return executed;
            }
            executed += self.client.process();
        }
        panic!("always readable: the loop would spin");
    }

    /// Whether the end of the session is announced.
    fn says_the_end(&self) -> bool {
        let closed = || self.client.closed().is_some();
        while !closed() && self.is_ready(DEADLINE.as_secs()) {
            self.client.process();
        }
        closed() && self.is_ready(0)
    }
}

#[test]
fn commands_are_announced_and_served() {
    let looping = Loop::new(Limits::default());
    assert_eq!(looping.settle(), 0);
    for id in 0..3 {
        looping.server.send(&command(id, &READ)).unwrap();
        assert!(looping.is_ready(DEADLINE.as_secs()));
        assert_eq!(looping.settle(), 1);
        let reply = looping.server.recv_reply(id, Command::DmaRead).unwrap();
        assert!(reply.errno().is_some(), "nothing is mapped");
    }
    looping.server.shutdown_write();
    assert!(looping.says_the_end());
}

/// What it asks for meanwhile waits in its socket, and what it is to be told waits with us, until it reads.
#[test]
fn a_server_that_reads_nothing_does_not_keep_the_loop_busy() {
    let (queued_commands, unsent_bytes) = (16, 1024);
    let limits = Limits { queued_commands, unsent_bytes, send_timeout: None, ..Limits::default() };
    let looping = Loop::new(limits);
    let flood: Vec<u8> = (0..2000).flat_map(|id| command(id, &READ)).collect();
    looping.server.send(&flood).unwrap();
    let mut served = looping.settle();
    assert!(served < 2000, "it does not hold so many answers: {served}");
    let Loop { client, poll_fd, server } = looping;
    let reading = std::thread::spawn(move || {
        for id in 0..2000 {
            let reply = server.recv_reply(id, Command::DmaRead).unwrap();
            assert_eq!(reply.errno(), Some(Errno::EFAULT));
        }
        server
    });
    served += within("the rest", move || {
        let mut served = 0;
        while !reading.is_finished() {
            let timeout = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            if poll(&mut [PollFd::new(&poll_fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0 {
                served += client.process();
            }
        }
        reading.join().unwrap();
        served
    });
    assert_eq!(served, 2000);
}
