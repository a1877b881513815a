//! `vfu migrate`: either end lies, the other one is honest.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use vfu::Client;
use vfu::wire::{Command as Wire, DeviceState, Errno, Feature};
use vfu_testkit::{KitError, LyingServer, RawMessage, RawPeer, truth};

use crate::{HASTY, PATIENT, WRONG, half, run, verdict, words};

/// `vfu serve edu`, killed at the end.
struct Honest {
    child: Child,
    path: PathBuf,
    _folder: TempDir,
}

impl Honest {
    fn start() -> Honest {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
        command.args(["serve", "edu", "-s"]).arg(&path).env_remove("RUST_LOG");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Honest { child, path, _folder: folder }
    }

    /// A device that runs, whatever became of it before.
    fn reset(&self) {
        Client::connect(&self.path).unwrap().reset().unwrap();
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Which end lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liar {
    Source,
    Destination,
}

/// Moves a device, which must fail; gives what the command said.
#[track_caller]
fn fails(what: &str, timeout: &str, honest: &Honest, liar: Liar, server: &LyingServer) -> String {
    let honest: &Path = &honest.path;
    let paths = match liar {
        Liar::Source => [server.path(), honest],
        Liar::Destination => [honest, server.path()],
    };
    let said = verdict(what, &run(&["migrate", timeout], &paths));
    said.unwrap_or_else(|| panic!("{what}: {liar:?}: it has moved"))
}

/// What edu would answer, with a state of 4 KiB that is none.
fn as_edu(request: &RawMessage) -> Vec<u8> {
    let mut reply = truth(request);
    if request.header.command == Wire::RegionRead.as_u16() {
        reply[16..20].copy_from_slice(&[0x34, 0x12, 0xe8, 0x11]);
    }
    reply
}

fn feature_of(request: &RawMessage) -> Option<u16> {
    let is_feature = request.header.command == Wire::DeviceFeature.as_u16();
    is_feature.then(|| u16::from_le_bytes([request.payload[4], request.payload[5]]))
}

/// Is edu, but for the commands of which `answer` makes something else.
fn lying(
    mut answer: impl FnMut(&RawPeer, &RawMessage) -> Option<Result<(), KitError>> + Send + 'static,
) -> LyingServer {
    LyingServer::session(move |peer, request| {
        answer(peer, request).unwrap_or_else(|| peer.send(&request.reply(&as_edu(request))))
    })
}

/// What a move asks of each end: the command, and of a feature which one.
const OF_SOURCE: [(Wire, Option<Feature>); 5] = [
    (Wire::RegionRead, None),
    (Wire::DeviceFeature, Some(Feature::Migration)),
    (Wire::DeviceFeature, Some(Feature::DeviceState)),
    (Wire::MigDataRead, None),
    (Wire::DeviceFeature, None),
];
const OF_DESTINATION: [(Wire, Option<Feature>); 4] = [
    (Wire::RegionRead, None),
    (Wire::DeviceFeature, Some(Feature::Migration)),
    (Wire::DeviceFeature, Some(Feature::DeviceState)),
    (Wire::MigDataWrite, None),
];

/// Both ends, and what each of them is asked.
fn asked() -> impl Iterator<Item = (Liar, Wire, Option<u16>)> {
    let of = |liar| {
        move |(wire, feature): &(Wire, Option<Feature>)| (liar, *wire, feature.map(Feature::as_u16))
    };
    let source = OF_SOURCE.iter().map(of(Liar::Source));
    source.chain(OF_DESTINATION.iter().map(of(Liar::Destination)))
}

fn is(request: &RawMessage, wire: Wire, feature: Option<u16>) -> bool {
    request.header.command == wire.as_u16() && (feature.is_none() || feature_of(request) == feature)
}

#[test]
fn s04_replies_that_make_no_sense() {
    let honest = Honest::start();
    for (what, wrong) in WRONG {
        for (liar, wire, feature) in asked() {
            honest.reset();
            let server = lying(move |peer, request| {
                is(request, wire, feature).then(|| peer.send(&wrong(request)))
            });
            // Whatever is made of it: an end.
            let paths = match liar {
                Liar::Source => [server.path(), &honest.path],
                Liar::Destination => [&*honest.path, server.path()],
            };
            verdict(&format!("{liar:?}, {wire:?}: {what}"), &run(&["migrate", HASTY], &paths));
        }
    }
}

type Answer = fn(&RawPeer, &RawMessage) -> Result<(), KitError>;

#[test]
fn s05_no_replies() {
    let honest = Honest::start();
    for (liar, wire, feature) in asked() {
        let what = format!("{wire:?} {feature:?}");
        let all: [Answer; 4] = [
            |_, _| Ok(()),
            half,
            |_, _| Err(KitError::Closed),
            |peer, request| half(peer, request).and(Err(KitError::Closed)),
        ];
        for answer in all {
            honest.reset();
            let server = lying(move |peer, request| {
                is(request, wire, feature).then(|| answer(peer, request))
            });
            fails(&what, HASTY, &honest, liar, &server);
        }
    }
}

/// Each step is refused, and the honest end goes on.
#[test]
fn a_refusal_at_each_step_leaves_the_source_running() {
    let honest = Honest::start();
    for (liar, wire, feature) in asked() {
        honest.reset();
        let what = format!("{wire:?} {feature:?}");
        let server = lying(move |peer, request| {
            let refusal = || peer.send(&request.refusal(Errno::EIO));
            is(request, wire, feature).then(refusal)
        });
        fails(&what, PATIENT, &honest, liar, &server);
        drop(server);
        let state = Client::connect(&honest.path).unwrap().device_state().unwrap();
        assert_eq!(state, DeviceState::Running, "{liar:?}: {what}");
    }
}

/// A piece of a state, and how many bytes were asked for.
type Piece = (&'static str, fn(u32) -> Vec<u8>);

/// More than was asked for, more than is said, less than is said; without end.
#[test]
fn s12_the_state_of_the_source() {
    let honest = Honest::start();
    let pieces: [Piece; 4] = [
        ("more than was asked for", |most| {
            [words(&[most + 9, most + 1]), vec![7; most as usize + 1]].concat()
        }),
        ("less than it says", |most| [words(&[most + 8, most]), vec![7; 100]].concat()),
        ("nothing but a size", |_| words(&[8, u32::MAX])),
        ("without end", |most| [words(&[most + 8, most]), vec![7; most as usize]].concat()),
    ];
    for (what, piece) in pieces {
        honest.reset();
        let server = lying(move |peer, request| {
            let most = u32::from_le_bytes(request.payload.get(4..8)?.try_into().ok()?);
            is(request, Wire::MigDataRead, None).then(|| peer.send(&request.reply(&piece(most))))
        });
        fails(what, PATIENT, &honest, Liar::Source, &server);
    }
}

/// Answers come in time, but the state of 4 GiB in single bytes.
#[test]
fn s12_a_state_in_single_bytes() {
    let honest = Honest::start();
    let server = lying(|peer, request| {
        let byte = [words(&[9, 1]), vec![7]].concat();
        is(request, Wire::MigDataRead, None).then(|| peer.send(&request.reply(&byte)))
    });
    let said = fails("single bytes", "--timeout=1", &honest, Liar::Source, &server);
    assert!(said.contains("source: its state comes too slowly"), "{said}");
    drop(server);
    let state = Client::connect(&honest.path).unwrap().device_state().unwrap();
    assert_eq!(state, DeviceState::Running, "the destination was reset");
}

/// It says of itself that it is in a state to which nobody has brought it.
#[test]
fn s12_states_that_can_not_be() {
    let honest = Honest::start();
    for state in [0, 2, 7, 8, u32::MAX] {
        for liar in [Liar::Source, Liar::Destination] {
            honest.reset();
            let server = lying(move |peer, request| {
                let device_state = Some(Feature::DeviceState.as_u16());
                is(request, Wire::DeviceFeature, device_state).then(|| {
                    let mut reply = truth(request);
                    reply[8..12].copy_from_slice(&u32::to_le_bytes(state));
                    peer.send(&request.reply(&reply))
                })
            });
            let paths = match liar {
                Liar::Source => [server.path(), &honest.path],
                Liar::Destination => [&*honest.path, server.path()],
            };
            verdict(&format!("{liar:?} {state}"), &run(&["migrate", PATIENT], &paths));
        }
    }
}
