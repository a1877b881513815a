//! Both ends look for a while before they sleep: what that gains, and what it takes when little happens.

use std::thread::sleep;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use vfu::Spin;
use vfu::client::Client;

use super::device::REGISTER_BAR;
use crate::measure::{Clocked, Each, Effort, compare};
use crate::place::{Place, between};
use crate::roles::{Process, SPIN};
use crate::row::{Group, Measured, Row};

/// Between two accesses of a driver that has little to do.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new(
            Group::Access,
            "read4-two-cpus-spinning",
            "a register read, two processes on two CPUs that look before they sleep (--spin)",
            "the same, where both sleep at once",
            round_trip,
        )
        .at_most(0.5),
        Row::new(
            Group::Access,
            "read4-seldom-spinning",
            "CPU time of both processes for a read, one every 10 ms, that look before they sleep",
            "the same, where both sleep at once",
            seldom,
        ),
    ]
}

/// A client and its server.
struct Ends(Client, Process);

fn start(spin: Spin) -> anyhow::Result<Ends> {
    let (server, socket) = Process::server(spin)?;
    Ok(Ends(Client::builder().spin(spin).connect_fd(socket)?, server))
}

impl Ends {
    fn read(&self) -> anyhow::Result<()> {
        Ok(self.0.region_read(REGISTER_BAR, 0, &mut [0; 4])?)
    }

    /// What both have used. Exact while the server sleeps.
    fn cpu(&self) -> anyhow::Result<u64> {
        let ours = clock_gettime(ClockId::ThreadCPUTime);
        let ours = Duration::new(ours.tv_sec.try_into()?, ours.tv_nsec.try_into()?);
        Ok(u64::try_from(ours.as_nanos())? + self.1.cpu()?)
    }
}

fn round_trip(effort: Effort) -> anyhow::Result<Measured> {
    let far = || Ok((start(Spin::Off)?, start(SPIN)?));
    between(Place::TwoCpus, far, |(sleep, spin)| {
        compare(effort, &mut Each(|| sleep.read()), &mut Each(|| spin.read()))
    })
}

fn seldom(effort: Effort) -> anyhow::Result<Measured> {
    let far = || Ok((start(Spin::Off)?, start(SPIN)?));
    let read = |ends: &Ends| {
        ends.read()?;
        sleep(PAUSE);
        Ok(())
    };
    between(Place::TwoCpus, far, |(sleeping, spinning)| {
        let mut limit = Clocked { step: || read(&sleeping), clock: || sleeping.cpu() };
        let mut ours = Clocked { step: || read(&spinning), clock: || spinning.cpu() };
        let mut measured = compare(effort, &mut limit, &mut ours)?;
        let pause = PAUSE.as_nanos() as f64;
        let share = |ns: f64| ns / pause * 100.0;
        let (with, without) = (share(measured.ours.middle_ns), share(measured.limit.middle_ns));
        let note = format!("{with:.2} % of a CPU, without spinning {without:.2} %; at most 2 %");
        measured.note = Some(note);
        Ok(measured)
    })
}
