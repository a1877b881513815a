//! One server process, one script, and what has to be true behind it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use vfu_testkit::{DEADLINE, RawPeer};

use crate::talk::Peer;
use crate::target::Language;

/// Room that the allocator may keep to itself.
const RSS_SLACK: usize = 24 << 20;
/// Mappings of the allocator and of threads that come and go.
const VMA_SLACK: usize = 16;

/// A server, and the folder of its socket.
pub(crate) struct Scene {
    pub(crate) language: Language,
    child: Child,
    folder: tempfile::TempDir,
    before: Snapshot,
}

/// What a process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    /// Descriptors, by kind.
    fds: BTreeMap<String, usize>,
    /// Mappings of files that a client gave.
    files: usize,
    threads: usize,
    vmas: usize,
    rss: usize,
}

impl Snapshot {
    fn of(process: u32) -> Snapshot {
        let proc = PathBuf::from(format!("/proc/{process}"));
        let mut fds = BTreeMap::new();
        for entry in fs::read_dir(proc.join("fd")).expect("the server lives") {
            let link = entry.and_then(|entry| fs::read_link(entry.path()));
            let Ok(link) = link else { continue }; // closed meanwhile
            let kind = link.to_string_lossy();
            let kind = kind.split(['[', ' ']).next().unwrap_or_default().to_owned();
            *fds.entry(kind).or_default() += 1;
        }
        let maps = fs::read_to_string(proc.join("maps")).expect("the server lives");
        let is_given = |line: &&str| line.contains("/memfd:") || line.contains("(deleted)");
        let status = fs::read_to_string(proc.join("status")).expect("the server lives");
        let number = |key| {
            let mut lines = status.lines().filter_map(|line| line.strip_prefix(key));
            let words = lines.next().and_then(|rest| rest.split_whitespace().next());
            words.and_then(|number| number.parse::<usize>().ok()).expect("a number in status")
        };
        Snapshot {
            fds,
            files: maps.lines().filter(is_given).count(),
            threads: number("Threads:"),
            vmas: maps.lines().count(),
            rss: number("VmRSS:") << 10,
        }
    }

    /// What there is more of than before, if anything.
    fn grown(&self, before: &Snapshot) -> Option<String> {
        let same =
            (&self.fds, self.files, self.threads) == (&before.fds, before.files, before.threads);
        let fits = self.vmas <= before.vmas + VMA_SLACK && self.rss <= before.rss + RSS_SLACK;
        (!same || !fits).then(|| format!("before: {before:#?}\nafter: {self:#?}"))
    }
}

impl Scene {
    /// Starts a server, and uses it once: what comes with the first client is no leak.
    fn start(language: Language, settings: &str) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program)
            .args(["--exact", "target::process", "--nocapture", "--test-threads=1"])
            .env(Language::TARGET, format!("{language:?}"))
            .env(Language::SOCKET, &path)
            .env(Language::SETTINGS, settings)
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_TRIM_THRESHOLD_", "65536")
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program starts");
        let before = Snapshot::of(child.id());
        let mut scene = Scene { language, child, folder, before };
        scene.wait_for_the_socket();
        scene.use_it();
        scene.before = scene.snapshot();
        scene
    }

    fn wait_for_the_socket(&self) {
        let deadline = Instant::now() + DEADLINE;
        while RawPeer::connect(self.path()).is_err() {
            assert!(Instant::now() < deadline, "{:?}: the server does not start", self.language);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whatever an honest client does.
    fn use_it(&self) {
        let (main, _twin) = self.begin_twin();
        let ram = vfu_testkit::SharedRam::new(0x1000, 0x1000).expect("memory");
        assert_eq!(main.map(0x1000, 0x1000, 3, Some(&ram)), None);
        assert_eq!(main.dma_read(0x1000, 16), Ok(()));
        let irqs = vfu_testkit::Interrupts::new(1).expect("an eventfd");
        assert_eq!(main.set_irqs(0x24, 2, 0, 1, &irqs.fds()), None);
        main.in_sync();
    }

    /// Counts with one client connected: when it is served, the one before is cleaned up.
    fn snapshot(&self) -> Snapshot {
        let peer = self.begin();
        peer.read32(0);
        peer.in_sync();
        Snapshot::of(self.child.id())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes that the server holds in memory.
    pub(crate) fn rss(&self) -> usize {
        Snapshot::of(self.child.id()).rss
    }

    /// Descriptors that the server has open.
    pub(crate) fn fds(&self) -> usize {
        Snapshot::of(self.child.id()).fds.values().sum()
    }

    /// Lets the server have so many bytes more than it has, and no more; `None`: as many as there are.
    pub(crate) fn limit_memory(&self, room: Option<u64>) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the server lives");
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let size = size.and_then(|size| size.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let current = room.map(|room| (size.expect("a number in status") << 10) + room);
        let limit = Rlimit { current, maximum: None };
        prlimit(Some(Pid::from_child(&self.child)), Resource::As, limit).expect("a child of ours");
    }

    pub(crate) fn vmas(&self) -> usize {
        Snapshot::of(self.child.id()).vmas
    }

    /// A connection without a word.
    pub(crate) fn connect(&self) -> Peer {
        Peer(RawPeer::connect(self.path()).expect("the server listens"))
    }

    /// A session with one socket.
    pub(crate) fn begin(&self) -> Peer {
        Peer(RawPeer::begin(self.path()).expect("a session"))
    }

    pub(crate) fn begin_twin(&self) -> (Peer, Peer) {
        let (main, twin) = RawPeer::begin_twin(self.path()).expect("a session with two sockets");
        (Peer(main), Peer(twin))
    }

    /// What is expected of the one or the other, and why they differ.
    pub(crate) fn differs<T>(&self, rust: T, c: T, because: &str) -> T {
        assert!(!because.is_empty(), "a difference has a reason");
        match self.language {
            Language::Rust => rust,
            Language::C => c,
        }
    }

    /// After the script: nothing is left of it, and the next client is served.
    fn end(mut self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let alive = self.child.try_wait().expect("a child").is_none();
            assert!(alive, "{:?}: the server has died", self.language);
            // The allocator and threads that end may take a moment longer than the next client.
            match self.snapshot().grown(&self.before) {
                None => break,
                Some(growth) if Instant::now() > deadline => {
                    panic!("{:?}: something is left\n{growth}", self.language)
                }
                Some(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        drop(self.child.stdin.take());
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "{:?}: the server does not end", self.language);
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(status.success(), "{:?}: the server ended with {status}", self.language);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Runs the script against either server.
pub(crate) fn both(script: impl Fn(&Scene)) {
    both_with("", script);
}

/// As [`both`], with limits of its own.
pub(crate) fn both_with(settings: &str, script: impl Fn(&Scene)) {
    for language in Language::ALL {
        let scene = Scene::start(language, settings);
        script(&scene);
        scene.end();
    }
}

/// How often something is repeated: `scaled`, or `full` times with `VFU_HOSTILE_FULL=1`. Leaks of one show
/// in a few hundred rounds as well as in a million; the full count is for what grows slower than that.
pub(crate) fn times(scaled: usize, full: usize) -> usize {
    if std::env::var_os("VFU_HOSTILE_FULL").is_some_and(|value| value == "1") {
        full
    } else {
        scaled
    }
}
