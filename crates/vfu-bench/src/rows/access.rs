//! Registers and regions.

use vfu::Spin;
use vfu::client::Client;

use super::device::{MEMORY, MEMORY_BAR, REGISTER_BAR};
use super::halves::{ClientHalf, ServerHalf};
use super::raw::{Alone, Asker, HEAD, touched};
use crate::measure::{Clocked, Each, Effort, compare};
use crate::place::{Place, between};
use crate::roles::Process;
use crate::row::{Group, Measured, Row};
use crate::stats::{Figures, Ratio};

/// Region accesses that are measured besides a register of 4 bytes.
const SIZES: [usize; 3] = [4096, 64 << 10, MEMORY];

pub(super) fn rows() -> Vec<Row> {
    let group = Group::Access;
    let mut rows = vec![
        Row::new(
            group,
            "read4-one-thread",
            "a register read, client and server, on one thread without waiting",
            "two sends and two receives of the same sizes",
            one_thread,
        )
        .at_most(1.10),
        Row::new(
            group,
            "read4-one-cpu",
            "a register read, two processes on one CPU",
            "two processes that exchange messages of the same sizes",
            |effort| round_trip(effort, Place::OneCpu, Kind::Read, 4),
        )
        .at_most(1.08),
        Row::new(
            group,
            "read4-server-cpu",
            "CPU time of the server for a register read",
            "CPU time of a process that answers messages of the same sizes",
            |effort| server_cpu(effort, Kind::Read, 4),
        )
        .at_most(1.10),
        Row::new(
            group,
            "write4-one-cpu",
            "a register write, two processes on one CPU",
            "two processes that exchange messages of the same sizes",
            |effort| round_trip(effort, Place::OneCpu, Kind::Write, 4),
        )
        .at_most(1.08),
        Row::new(
            group,
            "read4-two-cpus",
            "a register read, two processes on two CPUs",
            "two processes that exchange messages of the same sizes",
            |effort| round_trip(effort, Place::TwoCpus, Kind::Read, 4),
        ),
    ];
    for size in SIZES {
        for kind in [Kind::Read, Kind::Write] {
            let (verb, what) = (kind.verb(), super::size_name(size));
            let about = format!("{verb} {what} of a region, CPU time of the server");
            let name = format!("{verb}-{what}-server-cpu").replace(' ', "");
            let limit = "CPU time of a process that answers messages of the same sizes";
            let row =
                Row::new(group, name, about, limit, move |effort| server_cpu(effort, kind, size));
            rows.push(row.at_most(1.10));
            rows.push(Row::new(
                group,
                format!("{verb}-{what}-one-cpu").replace(' ', ""),
                format!("{verb} {what} of a region, two processes on one CPU"),
                "two processes that exchange messages of the same sizes",
                move |effort| round_trip(effort, Place::OneCpu, kind, size),
            ));
        }
    }
    rows
}

/// Which way an access goes.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
}

impl Kind {
    fn verb(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
        }
    }

    /// The bytes of the request and of the reply, with so many of data.
    fn lengths(self, size: usize) -> (usize, usize) {
        match self {
            Kind::Read => (HEAD, HEAD + size),
            Kind::Write => (HEAD + size, HEAD),
        }
    }

    fn make(self, client: &Client, data: &mut [u8]) -> anyhow::Result<()> {
        let bar = if data.len() <= 8 { REGISTER_BAR } else { MEMORY_BAR };
        match self {
            Kind::Read => client.region_read(bar, 0, data)?,
            Kind::Write => client.region_write(bar, 0, data)?,
        }
        Ok(())
    }
}

fn one_thread(effort: Effort) -> anyhow::Result<Measured> {
    let mut bare = Alone::new(HEAD, HEAD + 4)?;
    let mut server = ServerHalf::new()?;
    let served =
        compare(effort, &mut Each(|| bare.round_trip()), &mut Each(|| server.round_trip()))?;
    let mut client = ClientHalf::new()?;
    let asked =
        compare(effort, &mut Each(|| bare.round_trip()), &mut Each(|| client.round_trip()))?;
    let note = format!(
        "with our server alone {:.2} times, with our client alone {:.2} times",
        served.ratio.median, asked.ratio.median
    );
    // Both halves, less the round trip that is in both.
    let add = |a: f64, b: f64, twice: f64| a + b - twice;
    let figures =
        |pick: fn(&Figures) -> f64| add(pick(&served.ours), pick(&asked.ours), pick(&asked.limit));
    let ours = Figures {
        p50_ns: figures(|f| f.p50_ns),
        p99_ns: figures(|f| f.p99_ns),
        p999_ns: figures(|f| f.p999_ns),
        middle_ns: figures(|f| f.middle_ns),
        samples: asked.ours.samples,
    };
    let ratio = |pick: fn(&Ratio) -> f64| add(pick(&served.ratio), pick(&asked.ratio), 1.0);
    Ok(Measured {
        limit: asked.limit.clone(),
        ours,
        ratio: Ratio {
            median: ratio(|r| r.median),
            low: ratio(|r| r.low),
            high: ratio(|r| r.high),
        },
        pairs: served.pairs.min(asked.pairs),
        note: Some(note),
    })
}

/// The client of a device in another process, and bare messages with another.
struct Ends {
    server: Process,
    client: Client,
    echo: Process,
    bare: Asker,
    data: Vec<u8>,
}

fn start(kind: Kind, size: usize) -> anyhow::Result<Ends> {
    let (server, socket) = Process::server(Spin::Off)?;
    let client = Client::builder().connect_fd(socket)?;
    let (request, reply) = kind.lengths(size);
    let (echo, socket) = Process::raw(request, reply, 1)?;
    let bare = Asker::new(socket, request, reply);
    Ok(Ends { server, client, echo, bare, data: touched(size) })
}

fn round_trip(effort: Effort, place: Place, kind: Kind, size: usize) -> anyhow::Result<Measured> {
    between(
        place,
        || start(kind, size),
        |mut ends| {
            compare(
                effort,
                &mut Each(|| ends.bare.ask()),
                &mut Each(|| kind.make(&ends.client, &mut ends.data)),
            )
        },
    )
}

fn server_cpu(effort: Effort, kind: Kind, size: usize) -> anyhow::Result<Measured> {
    between(
        Place::OneCpu,
        || start(kind, size),
        |mut ends| {
            let (echo, server) = (&ends.echo, &ends.server);
            let mut limit = Clocked { step: || ends.bare.ask(), clock: || echo.cpu() };
            let mut ours = Clocked {
                step: || kind.make(&ends.client, &mut ends.data),
                clock: || server.cpu(),
            };
            compare(effort, &mut limit, &mut ours)
        },
    )
}
