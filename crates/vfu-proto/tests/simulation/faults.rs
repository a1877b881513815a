//! What goes wrong: sockets that are lost, sides that stop, peers that lie.

use vfu_proto::session::{Channel, Closed};
use vfu_proto::wire::{Command, Header};

use super::net::Sent;
use super::rng::Rng;
use super::world::{CLIENT, World};

impl World {
    /// Loses a socket; some of what was on its way still arrives, to any byte.
    pub(super) fn lose(&mut self, rng: &mut Rng) -> bool {
        let channel = if self.config.twin { rng.below(2) as usize } else { 0 };
        for who in 0..2 {
            let stream = &mut self.streams[who][channel];
            let keep = rng.below(stream.arrived() as u32 + 1) as usize;
            stream.cut(if rng.one_in(4) { usize::MAX } else { keep });
        }
        self.intact = false;
        true
    }

    pub(super) fn stop(&mut self, rng: &mut Rng) -> bool {
        let who = rng.below(2) as usize;
        self.sides[who].close(Closed::Stopped);
        self.intact = false;
        true
    }

    /// Sends what an honest peer would not.
    pub(super) fn lie(&mut self, rng: &mut Rng) -> bool {
        let who = rng.below(2) as usize;
        let command = rng.pick(&[Command::RegionRead, Command::DmaRead, Command::DmaWrite]);
        let mut channel = if self.config.twin { rng.pick(&Channel::ALL) } else { Channel::Main };
        let payload = vec![7; rng.below(20) as usize];
        let victim = &self.sides[1 - who].book;
        let at = rng.below(victim.requests.len().max(1) as u32) as usize;
        let header = match rng.below(40) {
            // A reply to nothing: no run uses so many ids.
            0..10 => {
                let id = 40_000 + rng.below(1000) as u16;
                Header::command(id, command, 0).reply(payload.len())
            }
            // A reply in place of, or besides, the true one.
            10..25 => {
                let Some(request) = victim.requests.get(at) else { return false };
                let command = if rng.one_in(2) { request.command } else { command };
                Header::command(request.ticket.id(), command, 0).reply(payload.len())
            }
            // A command where none may be sent.
            25..39 => {
                channel = if who == CLIENT { Channel::Twin } else { Channel::Main };
                if !self.config.twin {
                    return false;
                }
                let header = Header::command(rng.word() as u16, command, payload.len());
                if rng.one_in(2) { header.with_no_reply() } else { header }
            }
            // The end of the stream.
            _ => {
                let mut header = Header::command(1, command, payload.len());
                match rng.below(3) {
                    0 => header.size = rng.below(16),
                    1 => header.size = (1 << 20) + 1 + rng.below(1 << 30),
                    _ => header.flags = 2 + rng.below(14),
                }
                header
            }
        };
        let fds = if rng.one_in(4) { vec![rng.word()] } else { Vec::new() };
        let bogus = true;
        let sent = Sent { header, payload, fds, serial: None, writes_before: 0, bogus };
        self.send(who, channel, sent);
        true
    }
}
