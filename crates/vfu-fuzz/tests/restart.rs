//! Servers in processes of their own, which are started again and watched; and clients.

mod broken;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use broken::{Doing, Fault, is_plain, serve, u32_at};
use vfu_fuzz::{Area, Clients, Ended, Finding, Hunt, Kind, Options, Report, Script, Shape, Target};
use vfu_testkit::{RawListener, message};

/// Says to this program that it is started as a server or client, and as which.
const ROLE: &str = "VFU_FUZZ_TEST_ROLE";
/// And where.
const SOCKET: &str = "VFU_FUZZ_TEST_SOCKET";

/// The command that starts this program in a role. `{}` stays to be filled in.
fn command(role: &str, socket: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let quick = "RUST_BACKTRACE=0";
    format!(
        "{quick} {ROLE}='{role}' {SOCKET}={socket} exec '{}' --exact role --nocapture",
        program.display()
    )
}

/// Not a test: what this program does if it is started in a role.
#[test]
fn role() {
    let (Ok(role), Ok(socket)) = (std::env::var(ROLE), std::env::var(SOCKET)) else { return };
    let fault: Fault = match role.as_str() {
        "aborts" => |got| match got.header.command {
            10 if u32_at(got, 8) == 0 && u32_at(got, 12) == 4 => {
                eprintln!("a register that breaks it");
                std::process::abort()
            }
            _ => Doing::Right,
        },
        "panics" => |got| match got.header.command {
            7 if u32_at(got, 8) == 5 => Doing::Die,
            _ => Doing::Right,
        },
        "leaks" => |got| {
            let plain = is_plain(got) && got.payload.len() == 16;
            if got.header.command == 9 && plain && u32_at(got, 12) == 2 {
                std::mem::forget(std::fs::File::open("/dev/null"));
            }
            Doing::Right
        },
        "leaks and ends" => |got| {
            if got.header.command == 9 && is_plain(got) && got.payload.len() == 16 {
                match (u32_at(got, 12), got.header.id) {
                    (0, 0) => std::process::exit(1), // as minimising makes it
                    (2, _) => std::mem::forget(std::fs::File::open("/dev/null")),
                    _ => {}
                }
            }
            Doing::Right
        },
        "hoards" => |got| {
            if got.header.command == 7 && is_plain(got) && u32_at(got, 8) == 2 {
                std::mem::forget(vec![1_u8; 40 << 10]);
            }
            Doing::Right
        },
        "leaks seldom" => |got| {
            if got.header.command == 7 && u32_at(got, 8) == 5 && u32_at(got, 4) != 0 {
                (0..20).for_each(|_| std::mem::forget(std::fs::File::open("/dev/null")));
            }
            Doing::Right
        },
        "client" => return client(Path::new(&socket)),
        other => panic!("no role {other}"),
    };
    serve(&RawListener::at(&socket).unwrap(), fault);
    panic!("the server has ended");
}

/// A client that trusts its server, but does not wait for it.
fn client(path: &Path) {
    let mut socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut ask = |command: u16, payload: &[u8]| -> Option<(u32, Vec<u8>)> {
        socket.write_all(&message(1, command, 0, payload)).ok()?;
        let mut header = [0; 16];
        socket.read_exact(&mut header).ok()?;
        let size = u32::from_le_bytes(header[4..8].try_into().unwrap());
        let mut payload = vec![0; size.checked_sub(16)?.min(4096) as usize];
        socket.read_exact(&mut payload).ok()?;
        Some((size, payload))
    };
    if ask(1, &[0; 4]).is_none() {
        return;
    }
    if let Some((size, _)) = ask(4, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) {
        assert_eq!(size, 32, "the size of an answer");
    }
}

fn attack(role: &str, areas: &[Area], cases: u64) -> Report {
    run(role, |target| {
        let memory_kib = if role == "hoards" { 1 << 10 } else { 64 << 10 };
        let may_exit = role == "leaks and ends";
        let options = Options { memory_kib, may_exit, ..options(areas, cases) };
        target.attack(&options, &AtomicBool::new(false), &mut |_| {}).unwrap()
    })
}

fn replay(role: &str, script: &Script) -> Report {
    run(role, |target| {
        let options = Options { minimise: Duration::ZERO, ..options(&[], 1) };
        target.replay(script, &options, &AtomicBool::new(false), &mut |_| {}).unwrap()
    })
}

fn run(role: &str, what: impl FnOnce(Target) -> Report) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let command = command(role, path.to_str().unwrap());
    what(Target::new(&path).restart(Some(command)))
}

fn options(areas: &[Area], cases: u64) -> Options {
    Options {
        seed: 3,
        cases: Some(cases),
        areas: areas.to_vec(),
        timeout: Duration::from_secs(60),
        minimise: Duration::from_secs(600),
        ..Options::default()
    }
}

/// The finding. A process that is slow to die may be found to close connections, too.
#[track_caller]
fn only(report: &Report) -> (&Finding, &Script) {
    let found: Vec<_> = report.found.iter().filter(|f| f.finding.kind != Kind::Closed).collect();
    let [found] = found.as_slice() else { panic!("{:?}", report.found) };
    assert_eq!((found.shape, report.ended), (Shape::Minimised, Ended::Done));
    (&found.finding, &found.script)
}

#[test]
fn a_crash_is_minimised_and_the_run_goes_on() {
    let report = attack("aborts", &[Area::Regions], 20);
    let (finding, script) = only(&report);
    assert_eq!(finding.kind, Kind::Dead);
    assert!(finding.text.ends_with("it ended with signal 6 (SIGABRT)"), "{finding}");
    let text = script.to_string();
    assert_eq!(script.connections.len(), 1, "{text}");
    assert!(text.contains("send REGION_WRITE id=0 offset=0 region=0 count=4"), "{text}");
    assert_eq!(text.lines().count(), 3, "connection, VERSION, REGION_WRITE: {text}");
    let found = report.found.iter().find(|found| found.finding == *finding).unwrap();
    assert!(found.last_words.contains("a register that breaks it"));
    assert!(found.times > 1);
}

#[test]
fn a_panic_is_told_apart() {
    let report = attack("panics", &[Area::Irqs], 60);
    let (finding, script) = only(&report);
    assert!(finding.text.ends_with("it ended with exit code 101 (a panic)"), "{finding}");
    assert!(script.to_string().contains("DEVICE_GET_IRQ_INFO"), "{script}");
}

#[test]
fn descriptors_that_leak_are_traced() {
    let report = attack("leaks", &[Area::Regions], 192);
    let (finding, script) = only(&report);
    assert_eq!(finding.kind, Kind::DescriptorLeak);
    let text = script.to_string();
    assert!(text.contains("send REGION_READ") && text.contains("count=2"), "{text}");
    assert!(text.lines().count() <= 3, "{text}");
    let (first, last) = report.usage.unwrap();
    assert!(last.descriptors > first.descriptors);
}

/// One that may end by itself does so while it is traced: what is watched is the next process.
#[test]
fn descriptors_that_leak_are_traced_in_a_server_that_ends() {
    let report = attack("leaks and ends", &[Area::Regions], 192);
    let (finding, script) = only(&report);
    assert_eq!(finding.kind, Kind::DescriptorLeak);
    let text = script.to_string();
    assert!(text.contains("send REGION_READ") && text.contains("count=2"), "{text}");
    assert!(text.lines().count() <= 3, "{text}");
}

#[test]
fn memory_that_grows_is_traced() {
    let report = attack("hoards", &[Area::Irqs, Area::Regions], 256);
    let (finding, script) = only(&report);
    assert_eq!(finding.kind, Kind::Memory);
    let text = script.to_string();
    assert!(text.contains("send DEVICE_GET_IRQ_INFO id=0 argsz=0 flags=0 index=2"), "{text}");
    assert_eq!(text.lines().count(), 3, "connection, VERSION, DEVICE_GET_IRQ_INFO: {text}");
    assert!(replay("hoards", script).found.iter().any(|f| f.finding.kind == Kind::Memory));
}

#[test]
fn what_leaked_need_not_be_the_last_case() {
    let report = attack("leaks seldom", &[Area::Irqs, Area::Regions, Area::Version], 640);
    let (finding, script) = only(&report);
    assert_eq!(finding.kind, Kind::DescriptorLeak);
    let text = script.to_string();
    assert!(text.contains("send DEVICE_GET_IRQ_INFO") && text.contains("index=5"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn a_client_that_trusts_its_server_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let hunt = Hunt::new(&path).unwrap();
    let clients = Clients {
        seed: 1,
        cases: Some(120),
        timeout: Duration::from_secs(60),
        minimise: Duration::from_secs(600),
        command: Some(command("client", "{}")),
        ..Clients::default()
    };
    let mut shown = 0;
    let stop = AtomicBool::new(false);
    let report = hunt.run(&clients, None, &stop, &mut |_, _, _| shown += 1).unwrap();
    assert_eq!((report.clients, shown), (120, 120));
    let at_info = report.found.iter().find(|found| found.finding.command == Some(4));
    let found = at_info.unwrap_or_else(|| panic!("{:?}", report.found));
    assert_eq!((found.finding.kind, found.shape), (Kind::Crashed, Shape::Minimised));
    assert_eq!(found.finding.text, "the client ended with exit code 101 (a panic)");
    assert!(found.last_words.contains("the size of an answer"), "{}", found.last_words);
    let [act] = found.plan.acts.as_slice() else { panic!("{}", found.plan) };
    assert_eq!(act.at, 1, "{}", found.plan);
    let plan = found.plan.to_string().parse().unwrap();
    let again = hunt.run(&clients, Some(&plan), &stop, &mut |_, _, _| {}).unwrap();
    assert_eq!((again.clients, again.found.len()), (1, 1));
}
