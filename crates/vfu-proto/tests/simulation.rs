//! Both ends of a session in one thread and in virtual time, with everything against them: bytes
//! that come in any pieces and any late, sockets that are lost, peers that do not answer, answer
//! twice or lie; a driver and a device that do whatever a random program says. After each step both
//! engines are compared with a simple model of what they have to do.
//!
//! A failure names its seed and the shortest program found that fails. `VFU_SIM_SEED=n` runs that
//! seed alone. The long run, of `VFU_SIM_STEPS` steps (20 million if not set), starts at a seed of
//! its own each time:
//!
//! ```text
//! cargo test -p vfu-proto --test simulation -- --ignored --nocapture
//! ```

#[path = "simulation/mod.rs"]
mod simulation;

use simulation::{Flavour, campaign, replay};

/// Steps of each of the four tests below: together more than a million.
const STEPS: u64 = 260_000;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.trim().parse().unwrap_or_else(|e| panic!("{name}={value}: {e}")))
}

fn check(flavour: Flavour) {
    if let Some(seed) = setting("VFU_SIM_SEED") {
        if Flavour::of(seed) == flavour {
            println!("{flavour:?}: {} steps of seed {seed}", replay(seed));
        }
        return;
    }
    let done = campaign(flavour, 0, STEPS);
    assert!(done >= STEPS);
    println!("{flavour:?}: {done} steps");
}

#[test]
fn one_socket() {
    check(Flavour::OneSocket);
}

#[test]
fn two_sockets() {
    check(Flavour::TwoSockets);
}

#[test]
fn sockets_are_lost() {
    check(Flavour::LostSocket);
}

#[test]
fn peers_break_the_rules() {
    check(Flavour::BrokenPeer);
}

#[test]
#[ignore = "long: 20 million steps, some minutes"]
fn the_long_run() {
    let steps = setting("VFU_SIM_STEPS").unwrap_or(20_000_000);
    let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs());
    let first = setting("VFU_SIM_SEED").unwrap_or(since << 20);
    println!("from seed {first} on");
    let done: u64 = Flavour::ALL.iter().map(|f| campaign(*f, first, steps.div_ceil(4))).sum();
    println!("{done} steps");
}
