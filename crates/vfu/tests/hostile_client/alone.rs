//! A test in a process of its own, which has to leave that as it found it.

use std::process::Command;
use std::time::{Duration, Instant};

use vfu_testkit::{TestServer, Vmm, within};

/// Names the test to its own process.
const NAME: &str = "VFU_TEST_ALONE";
/// How long one test may take, on the slowest of machines; and one that makes all its rounds.
const LONGEST: Duration = Duration::from_secs(120);
const LONGEST_FULL: Duration = Duration::from_secs(4 * 3600);
/// Memory that a test may leave behind: what the allocator does not give back.
const SLACK: u64 = 2 << 20;

/// Runs the body in a process of its own, twice: what the second run leaves behind is a leak.
macro_rules! alone {
    ($body:expr) => {{
        fn here() {}
        crate::alone::run(std::any::type_name_of_val(&here), $body)
    }};
}
pub(crate) use alone;

/// What a process holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: Vec<String>,
    threads: usize,
    /// Mappings of files, and memory shared with others.
    mappings: usize,
}

impl Held {
    fn now() -> Held {
        let folder = std::fs::read_dir("/proc/self/fd").unwrap();
        let named = folder.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let mut descriptors: Vec<_> = named.map(|to| to.display().to_string()).collect();
        descriptors.retain(|to| !to.ends_with("/fd"));
        // A pipe or socket has a number that means nothing.
        descriptors.iter_mut().for_each(|to| to.truncate(to.find('[').unwrap_or(to.len())));
        descriptors.sort();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        // One thread of the library stays: it watches what was given by eventfd.
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
        };
        let is_shared = |line: &&str| line.split(' ').nth(1).is_some_and(|p| p.ends_with('s'));
        Held {
            descriptors,
            threads: tasks.map(name).filter(|name| name.trim() != "vfu-eventfds").count(),
            mappings: maps.lines().filter(is_shared).count(),
        }
    }

    /// Threads end a moment after who waited for them goes on.
    fn wait_for(&self) {
        let until = Instant::now() + vfu_testkit::DEADLINE;
        while Held::now() != *self {
            assert!(Instant::now() < until, "before: {self:?}\nafter: {:?}", Held::now());
            std::thread::yield_now();
        }
    }
}

/// A figure of /proc/self/status, in bytes.
pub(crate) fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

/// Memory that is this process's own, in bytes.
fn memory() -> u64 {
    status("RssAnon")
}

#[allow(dead_code, reason = "not all who use this file need it")]
/// The most memory that this process has had at once, in bytes.
pub(crate) fn peak() -> u64 {
    status("VmHWM")
}

pub(crate) fn run(here: &str, body: impl Fn()) {
    let (_crate, name) = here.trim_end_matches("::here").split_once("::").unwrap();
    if std::env::var(NAME).is_ok_and(|child| child == name) {
        in_this_process(body);
    } else {
        in_a_process(name);
    }
}

fn in_this_process(body: impl Fn()) {
    let held = Held::now();
    body();
    a_session_works();
    held.wait_for();
    let before = memory();
    body();
    held.wait_for();
    let after = memory();
    assert!(after <= before + SLACK, "{before} bytes of memory before, {after} after");
    a_session_works();
    held.wait_for();
}

fn in_a_process(name: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--test-threads=1", "--nocapture"])
        .env(NAME, name)
        // What is freed is given back, so that it can be seen that it was.
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .env("MALLOC_TRIM_THRESHOLD_", "65536")
        .spawn()
        .unwrap();
    let is_full = std::env::var_os("VFU_ENDURANCE").is_some();
    let until = Instant::now() + if is_full { LONGEST_FULL } else { LONGEST };
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > until => {
                child.kill().unwrap();
                panic!("{name} hangs");
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    assert!(status.success(), "{name}: {status}");
}

/// An honest server, in the same process.
fn a_session_works() {
    let server = TestServer::start();
    let path = server.path().to_path_buf();
    within("a session with an honest server", move || {
        let vmm = Vmm::connect(path).unwrap();
        vmm.write32(0, 0, 0x1234_5678).unwrap();
        assert_eq!(vmm.read32(0, 0).unwrap(), 0x1234_5678);
    });
    server.stop().unwrap();
}
