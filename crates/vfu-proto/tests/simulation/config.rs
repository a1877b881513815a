//! What differs from run to run, and the program of a run.

use vfu_proto::session::{Channel, Limits};

use super::rng::Rng;
use super::run::Flavour;

/// One step of the world. What exactly it does follows from the seed and from what is there to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) kind: Kind,
    pub(super) seed: u32,
}

macro_rules! kinds {
    ($($kind:ident $weight:literal $text:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind {
            $(#[doc = $text] $kind,)*
        }
        const KINDS: &[(Kind, u32)] = &[$((Kind::$kind, $weight),)*];
    };
}

kinds! {
    Flush 160 "Some of what waits to be sent goes.";
    Deliver 260 "A receive of some bytes.";
    Tick 40 "Time passes.";
    RegionRead 40 "The client reads a register.";
    RegionWrite 30 "The client writes a register.";
    Post 30 "The client writes a register and wants no answer.";
    Bulk 4 "The client writes many bytes.";
    Doorbell 20 "The client has a handler of the device wait for DMA.";
    Map 20 "The client maps memory.";
    Unmap 16 "The client unmaps memory.";
    Reset 7 "The client resets the device.";
    Poke 6 "The client writes to its own memory.";
    Begin 90 "The client begins to execute a command.";
    End 90 "It has executed it.";
    Release 20 "The client sends an answer that it had kept.";
    Execute 130 "The device executes a command.";
    Resume 50 "A handler looks whether its DMA has ended.";
    Answer 20 "The device gives an answer that it had put off.";
    DmaRead 40 "The device reads memory.";
    DmaWrite 50 "The device writes memory.";
    CancelRange 2 "The device gives up DMA to some addresses.";
    Interrupt 20 "The device announces what it has written.";
    Poll 130 "Somebody looks what became of a request.";
    Forget 6 "Somebody does not want to know any more.";
    WakeOn 12 "Somebody wants to be woken.";
    BurnIds 1 "Ids go round.";
    Lose 1 "A socket is lost.";
    Stop 1 "One side stops.";
    Lie 12 "A peer sends what it should not.";
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) twin: bool,
    /// Both peers keep to the protocol.
    pub(super) honest: bool,
    /// Commands are served while a handler waits.
    pub(super) reentrant: bool,
    /// Replies to the client wait for the writes before them.
    pub(super) holds: bool,
    /// The client leaves some requests without an answer.
    pub(super) mute: bool,
    /// Posted commands carry ids that other requests of the same side use.
    pub(super) double_ids: bool,
    /// Of both sides, client first.
    pub(super) limits: [Limits; 2],
    /// What a socket takes, in bytes.
    pub(super) room: usize,
    /// Of two sockets, the one on which everything comes late.
    pub(super) slow: Option<Channel>,
    /// Deadlines are up to so far away.
    pub(super) patience: u32,
    /// A step of time is up to so long.
    pub(super) tick: u32,
    /// Most bytes of a receive.
    pub(super) receive: u32,
}

impl Config {
    /// The world and the program that belong to a seed.
    pub(super) fn draw(flavour: Flavour, seed: u64) -> (Config, Vec<Op>) {
        let mut rng = Rng::new(seed);
        let mut limits = || Limits {
            max_message: 1 << 20,
            outstanding: rng.pick(&[1, 2, 4, 16, 64]),
            zombies: rng.pick(&[8, 64, 64, 64]),
            queued_commands: rng.pick(&[1, 3, 16, 64]),
            queued_bytes: rng.pick(&[1 << 10, 20 << 10, 1 << 20]),
            stray_replies: rng.pick(&[0, 3, 50]),
            misplaced_commands: rng.pick(&[0, 3, 50]),
            unsent_bytes: rng.pick(&[100, 5000, 100_000]),
            ..Limits::default()
        };
        let limits = [limits(), limits()];
        let honest = flavour != Flavour::BrokenPeer;
        let config = Config {
            twin: match flavour {
                Flavour::OneSocket => false,
                Flavour::TwoSockets => true,
                Flavour::LostSocket | Flavour::BrokenPeer => rng.one_in(2),
            },
            honest,
            reentrant: rng.one_in(3),
            holds: rng.one_in(2),
            mute: rng.one_in(4),
            double_ids: rng.one_in(2),
            limits,
            room: rng.pick(&[40, 3000, 20_000, 200_000]),
            slow: rng.pick(&[None, Some(Channel::Main), Some(Channel::Twin)]),
            patience: rng.pick(&[20, 300, 3000, 100_000]),
            tick: rng.pick(&[1, 10, 100, 1000]),
            receive: rng.pick(&[1, 20, 200, 9000, 100_000, 100_000]),
        };
        let len = rng.pick(&[300, 2000, 4000, 6000]);
        let weights = weights(flavour, &mut rng);
        let total = weights.iter().map(|(_, w)| *w).sum();
        let program = (0..len).map(|_| {
            let mut at = rng.below(total);
            let kind = weights.iter().find(|(_, weight)| {
                let found = at < *weight;
                at = at.saturating_sub(*weight);
                found
            });
            Op { kind: kind.map_or(Kind::Flush, |(kind, _)| *kind), seed: rng.word() }
        });
        let program = program.collect();
        (config, program)
    }
}

/// Some things happen much in one run and hardly in another.
fn weights(flavour: Flavour, rng: &mut Rng) -> Vec<(Kind, u32)> {
    let burns = rng.one_in(16);
    let weight = |(kind, weight): &(Kind, u32)| {
        let wanted = match kind {
            Kind::Lose | Kind::Stop => flavour == Flavour::LostSocket,
            Kind::Lie => flavour == Flavour::BrokenPeer,
            Kind::BurnIds => burns && flavour != Flavour::BrokenPeer,
            _ => true,
        };
        let mood = rng.pick(&[2, 8, 8, 8, 24]);
        (*kind, if wanted { (weight * mood / 8).max(1) } else { 0 })
    };
    KINDS.iter().map(weight).collect()
}
