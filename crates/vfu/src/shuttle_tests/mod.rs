//! The threaded shell in many schedules: every thread ends, and each gets what is its own.
//!
//! A schedule in which some thread waits for ever is a deadlock, which shuttle reports together with
//! the schedule. Time stands still unless the test lets it pass.

mod client;
mod device;
mod doorbell;
mod event_loop;
mod irqs;
mod moving;
mod peer;
mod server;
mod time;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};
use vfu_proto::session::Limits;

use crate::Spin;

/// Schedules of each kind; more with `VFU_SCHEDULES`.
const SCHEDULES: usize = 1000;

/// Runs `model` in many schedules: random ones, and such with few preemptions at bad moments.
fn check(model: impl Fn() + Clone + Send + Sync + 'static) {
    let schedules = std::env::var("VFU_SCHEDULES").ok().and_then(|n| n.parse().ok());
    let schedules = schedules.unwrap_or(SCHEDULES);
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.max_steps = MaxSteps::FailAfter(100_000);
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new(schedules), config.clone()).run(model.clone());
    Runner::new(PctScheduler::new(3, schedules), config).run(model);
}

/// Whether the threads of an end look before they sleep: in some schedules they do.
fn some_spin() -> Spin {
    if thread_rng().gen_bool(0.5) { Spin::AtMost(Spin::MOST) } else { Spin::Off }
}

/// Nothing ends because of the time: what is lost is lost.
fn no_timeouts() -> Limits {
    Limits {
        reply_timeout: None,
        handler_timeout: None,
        handshake_timeout: None,
        message_timeout: None,
        send_timeout: None,
        ..Limits::default()
    }
}
