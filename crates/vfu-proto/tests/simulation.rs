//! Both ends of a session in one thread and in virtual time, with everything against them: bytes
//! that come in any pieces and any late, sockets that are lost, peers that do not answer, answer
//! twice or lie; a driver and a device that do whatever a random program says. After each step both
//! engines are compared with a simple model of what they have to do.
//!
//! A failure names its seed and the shortest program found that fails. `VFU_SIM_SEED=n` has the four
//! tests run that seed alone. The long run takes `VFU_SIM_STEPS` steps (20 million if not set), and
//! starts at `VFU_SIM_SEED`, or somewhere else each time:
//!
//! ```text
//! VFU_SIM_SEED=452 cargo test -p vfu-proto --test simulation
//! cargo test -p vfu-proto --test simulation -- --ignored --nocapture
//! ```

#[path = "simulation/mod.rs"]
mod simulation;

use simulation::{Flavour, Seen, campaign, replay};

/// Steps of each of the four tests: together more than a million. A step is a thing that was done and
/// checked; what finds nothing to do does not count.
const STEPS: u64 = 260_000;

/// What has to happen in each of them, or it would show little.
const COMMON: &[&str] = &[
    "a command while a handler waits",
    "a full queue",
    "a handler that a reset ends",
    "a late reply",
    "a request given up",
    "a request without room",
    "a stop",
    "a timeout",
    "an end within a message",
    "an interrupt behind writes",
    "the peer gone",
    "too many zombies",
];

const ONE_SOCKET: &[&str] = &["an outcome behind a command", "ids that come round"];

const TWO_SOCKETS: &[&str] =
    &["a reply behind writes", "DMA to memory that was unmapped", "ids that come round"];

const LOST_SOCKET: &[&str] = &["a reply behind writes", "an outcome behind a command"];

const BROKEN_PEER: &[&str] = &[
    "a broken stream",
    "a misplaced command",
    "a stray reply",
    "too many misplaced commands",
    "too many stray replies",
];

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.trim().parse().unwrap_or_else(|e| panic!("{name}={value}: {e}")))
}

fn check(flavour: Flavour, happens: &[&str]) {
    if let Some(seed) = setting("VFU_SIM_SEED") {
        if Flavour::of(seed) == flavour {
            println!("{flavour:?}: {} steps of seed {seed}", replay(seed).0);
        }
        return;
    }
    let (done, seen) = campaign(flavour, 0, STEPS);
    assert!(done >= STEPS);
    println!("{flavour:?}: {done} steps, {seen:#?}");
    seen.require(COMMON);
    seen.require(happens);
}

#[test]
fn one_socket() {
    check(Flavour::OneSocket, ONE_SOCKET);
}

#[test]
fn two_sockets() {
    check(Flavour::TwoSockets, TWO_SOCKETS);
}

#[test]
fn sockets_are_lost() {
    check(Flavour::LostSocket, LOST_SOCKET);
}

#[test]
fn peers_break_the_rules() {
    check(Flavour::BrokenPeer, BROKEN_PEER);
}

#[test]
#[ignore = "long: 20 million steps, some minutes"]
fn the_long_run() {
    let steps = setting("VFU_SIM_STEPS").unwrap_or(20_000_000);
    let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs());
    let first = setting("VFU_SIM_SEED").unwrap_or(since << 20);
    println!("from seed {first} on");
    let (mut done, mut seen) = (0, Seen::default());
    for flavour in Flavour::ALL {
        let (steps, also) = campaign(flavour, first, steps.div_ceil(4));
        done += steps;
        seen.merge(&also);
    }
    println!("{done} steps, {seen:#?}");
}
