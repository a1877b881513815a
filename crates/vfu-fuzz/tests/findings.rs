//! Every rule finds the server that breaks it, makes the script small, and finds it again.

mod broken;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use broken::{Doing, Fault, RawMessage, is_plain, right, start, u32_at};
use vfu_fuzz::{Area, Ended, Found, Kind, Options, Report, Script, Shape, Target};
use vfu_testkit::message;

fn options() -> Options {
    Options {
        seed: 1,
        cases: Some(800),
        timeout: Duration::from_secs(60),
        minimise: Duration::from_secs(600),
        ..Options::default()
    }
}

fn attack(path: &Path, options: &Options) -> Report {
    Target::new(path).attack(options, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn replay(path: &Path, script: &Script) -> Report {
    let options = Options { minimise: Duration::ZERO, ..options() };
    Target::new(path).replay(script, &options, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn steps(script: &Script) -> usize {
    script.connections.iter().map(|connection| connection.steps.len()).sum()
}

#[track_caller]
fn find(report: &Report, kind: Kind) -> &Found {
    let found = report.found.iter().find(|found| found.finding.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:?}", report.found))
}

/// Checks that the only thing found is this, in so many steps, and that the text of the script finds
/// it in a server of the same kind.
#[track_caller]
fn finds(fault: Fault, kind: Kind, most: usize) -> Script {
    let path = start(fault);
    let report = attack(&path, &options());
    assert_eq!(report.ended, Ended::Done);
    let found = find(&report, kind);
    assert_eq!(report.found.len(), 1, "{:?}", report.found);
    assert_eq!(found.shape, Shape::Minimised);
    assert!(steps(&found.script) <= most, "{}", found.script);
    let text = found.script.to_string();
    let script: Script = text.parse().unwrap();
    assert_eq!(find(&replay(&start(fault), &script), kind).finding, found.finding, "{text}");
    script
}

#[test]
fn nothing_is_found_in_a_server_that_is_right() {
    let report = attack(&start(|_| Doing::Right), &options());
    assert_eq!(report.found.len(), 0, "{:?}", report.found);
    assert_eq!((report.stats.cases, report.ended), (800, Ended::Done));
    assert!(report.stats.answers > 1000 && report.stats.errors["EINVAL"] > 100);
    assert_eq!(report.process.unwrap_err(), "it is this process");
}

#[test]
fn a_reply_that_is_too_long() {
    let script = finds(
        |got| {
            let mut bytes = right(got);
            if got.header.command == 9 && u32_at(got, 12) == 8 && is_plain(got) && bytes[8] == 1 {
                bytes.extend([0xaa; 24]);
                bytes[4] += 24;
                return Doing::Bytes(bytes);
            }
            Doing::Right
        },
        Kind::TooLong,
        2,
    );
    let text = script.to_string();
    assert!(text.contains("send REGION_READ id=0 offset=0 region=0 count=8\n"), "{text}");
}

#[test]
fn a_reply_that_is_too_short() {
    finds(
        |got| match got.header.command {
            3 if u32_at(got, 4) == 2 && got.payload.len() == 24 && is_plain(got) => {
                Doing::Bytes(message(got.header.id, 3, 1, &[]))
            }
            _ => Doing::Right,
        },
        Kind::TooShort,
        2,
    );
}

#[test]
fn a_reply_that_nobody_wants() {
    let always = |got: &RawMessage| match got.header.command {
        10 if got.header.flags & 0xf == 0 => Doing::Bytes(right(got)),
        _ => Doing::Right,
    };
    let script = finds(always, Kind::AnsweredNoReply, 2);
    assert!(script.to_string().contains("header.flags=16"), "{script}");
}

#[test]
fn a_reply_to_a_reply() {
    let fault = |got: &RawMessage| match got.header.flags & 0xf {
        1 => Doing::Bytes(message(got.header.id, got.header.command, 0x21, &[])),
        _ => Doing::Right,
    };
    let report = attack(&start(fault), &options());
    let found = find(&report, Kind::Unasked);
    assert_eq!((found.shape, steps(&found.script)), (Shape::Minimised, 2), "{}", found.script);
}

#[test]
fn a_server_that_is_out_of_step_is_left_alone() {
    let fault = |got: &RawMessage| match got.header.command {
        8 => Doing::Bytes([right(got), message(77, 0, 0x21, &[]).repeat(1000)].concat()),
        _ => Doing::Right,
    };
    let options =
        Options { cases: Some(10), areas: vec![Area::Irqs], minimise: Duration::ZERO, ..options() };
    let report = attack(&start(fault), &options);
    let times = find(&report, Kind::Unasked).times;
    assert!((17..=10 * 17).contains(&times), "{times}");
}

#[test]
fn descriptors_that_nobody_asked_for() {
    let fault = |got: &RawMessage| match got.header.command {
        7 if u32_at(got, 8) == 5 => Doing::WithFd,
        _ => Doing::Right,
    };
    finds(fault, Kind::Descriptors, 2);
}

#[test]
fn a_reply_of_no_type() {
    let fault = |got: &RawMessage| match got.header.command {
        13 => Doing::Bytes(message(got.header.id, 13, 2, &[])),
        _ => Doing::Right,
    };
    let path = start(fault);
    let report = attack(
        &path,
        &Options {
            cases: Some(14),
            areas: vec![Area::Life],
            timeout: Duration::from_secs(1),
            minimise: Duration::ZERO,
            ..options()
        },
    );
    find(&report, Kind::Malformed);
}

#[test]
fn an_error_with_a_payload() {
    let fault = |got: &RawMessage| match got.header.command {
        16 if u32_at(got, 4) & 0xffff == 6 && got.header.flags == 0 => {
            let mut bytes = message(got.header.id, 16, 0x21, &[0; 16]);
            bytes[12] = 22;
            Doing::Bytes(bytes)
        }
        _ => Doing::Right,
    };
    finds(fault, Kind::ErrorPayload, 2);
}

#[test]
fn success_of_what_is_too_short_to_be_a_command() {
    let fault = |got: &RawMessage| match got.header.command {
        10 if got.payload.len() < 16 && got.header.flags == 0 => {
            Doing::Bytes(message(got.header.id, 10, 1, &[0; 16]))
        }
        _ => Doing::Right,
    };
    let script = finds(fault, Kind::Accepted, 2).to_string();
    assert!(script.contains("cut=") || script.contains("header.size="), "{script}");
}

#[test]
fn a_connection_that_is_closed_without_a_reason() {
    let fault = |got: &RawMessage| match got.header.command {
        2 if u32_at(got, 8) != 0 && got.payload.len() >= 32 => Doing::Close,
        _ => Doing::Right,
    };
    let script = finds(fault, Kind::Closed, 2);
    assert!(script.to_string().contains("DMA_MAP"), "{script}");
}

#[test]
fn dma_to_what_was_never_mapped() {
    let fault = |got: &RawMessage| match got.header.command {
        10 if got.payload.len() == 18 && u32_at(got, 0) == 4 && got.header.flags == 0 => {
            let dma = message(1, 11, 0, &[0, 0, 0x99, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
            Doing::Bytes([dma, right(got)].concat())
        }
        _ => Doing::Right,
    };
    finds(fault, Kind::Dma, 2);
}

#[test]
fn wrong_answers_to_good_questions() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static REGIONS: AtomicU32 = AtomicU32::new(9);
    let path = start(|got| {
        if got.header.command == 2 && u32_at(got, 0) == 0 {
            REGIONS.store(10, Ordering::Relaxed);
        }
        let mut bytes = right(got);
        if got.header.command == 4 && bytes.len() == 32 && got.header.flags == 0 {
            bytes[24] = REGIONS.swap(9, Ordering::Relaxed) as u8;
            return Doing::Bytes(bytes);
        }
        Doing::Right
    });
    let report = attack(&path, &options());
    let found = find(&report, Kind::WrongAnswer);
    assert_eq!(report.found.len(), 1, "{:?}", report.found);
    assert!(steps(&found.script) <= 2, "{}", found.script);
    assert!(found.script.to_string().contains("DMA_MAP"), "{}", found.script);
}

/// A time that is over soon. What is found by it costs it each time, so nothing is minimised.
fn short() -> Options {
    Options { timeout: Duration::from_secs(1), minimise: Duration::ZERO, ..options() }
}

#[test]
fn a_command_that_is_not_answered() {
    let fault = |got: &RawMessage| match got.header.command {
        8 if u32_at(got, 8) == 3 => Doing::Nothing,
        _ => Doing::Right,
    };
    let options = Options { cases: Some(12), areas: vec![Area::Irqs], ..short() };
    let report = attack(&start(fault), &options);
    let found = find(&report, Kind::Unanswered);
    assert_eq!(found.finding.command, Some(8));
    assert_eq!(report.ended, Ended::Done);
}

#[test]
fn a_server_that_serves_nobody_any_more() {
    let fault = |got: &RawMessage| match got.header.command {
        3 => Doing::Hang,
        _ => Doing::Right,
    };
    let report = attack(&start(fault), &short());
    find(&report, Kind::Hung);
    assert_eq!((report.found.len(), report.ended), (1, Ended::ServerLost));
}

#[test]
fn a_server_that_lets_nobody_in_any_more() {
    let fault = |got: &RawMessage| match got.header.command {
        3 => Doing::CloseAll,
        _ => Doing::Right,
    };
    let report = attack(&start(fault), &short());
    find(&report, Kind::Hung);
    assert_eq!((report.found.len(), report.ended), (1, Ended::ServerLost));
}

#[test]
fn a_server_that_ends() {
    let fault = |got: &RawMessage| match got.header.command {
        3 => Doing::Die,
        _ => Doing::Right,
    };
    let report = attack(&start(fault), &options());
    let found = find(&report, Kind::Dead);
    assert_eq!((report.found.len(), report.ended), (1, Ended::ServerLost));
    assert_eq!(found.shape, Shape::Untried, "there is nobody to try it with");
    // Whether its socket or its file goes first is chance, so the words may be others.
    find(&replay(&start(fault), &found.script), Kind::Dead);
}
