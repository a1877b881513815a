//! All that tests share, and what each of them gets.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::apt::Apt;
use crate::binaries;
use crate::cache::{Cache, Lock};
use crate::guest::{Guest, Machine, Places};
use crate::initramfs::{self, Files};
use crate::qemu::{self, Qemu};
use crate::server::Server;

/// QEMU, the guest's files and the programs.
#[derive(Debug)]
pub struct Lab {
    qemu: Qemu,
    files: Files,
    program: Vec<u8>,
    vfu: OnceCell<PathBuf>,
    out: PathBuf,
}

/// Whether [`setup`] has nothing to fetch.
#[must_use]
pub fn is_ready() -> bool {
    let Ok(cache) = Cache::open() else { return false };
    cache.ready("guest", initramfs::RECIPE).is_some()
        && (cache.ready("qemu", qemu::RECIPE).is_some() || Qemu::installed().is_some())
}

/// Fetches and makes what is not in the cache yet.
///
/// # Errors
///
/// If something cannot be fetched, in words for the person who runs this.
pub fn setup() -> Result<(Qemu, Files)> {
    let cache = Cache::open()?;
    let lock = cache.lock()?;
    let mut apt = LazyApt { cache: &cache, apt: None };
    let qemu = find_qemu(&cache, &lock, &mut apt)?;
    let guest = cache.make(&lock, "guest", initramfs::RECIPE, |dir| {
        initramfs::make(apt.get()?, dir).context("cannot make the guest")
    })?;
    // The lists would be out of date by the next time anyway.
    crate::cache::remove(&cache.root().join("apt"))?;
    Ok((qemu, Files::new(&guest)))
}

fn find_qemu(cache: &Cache, lock: &Lock, apt: &mut LazyApt<'_>) -> Result<Qemu> {
    if let Some(qemu) = Qemu::installed() {
        return Ok(qemu);
    }
    let dir = cache.make(lock, "qemu", qemu::RECIPE, |dir| {
        qemu::make(apt.get()?, dir).context("cannot get QEMU")
    })?;
    Qemu::unpacked(&dir)
}

/// Asked for once, and only if something must be fetched.
struct LazyApt<'a> {
    cache: &'a Cache,
    apt: Option<Apt>,
}

impl LazyApt<'_> {
    fn get(&mut self) -> Result<&Apt> {
        if self.apt.is_none() {
            if let Some(why) = crate::check::why_not() {
                bail!(why);
            }
            crate::say(format!("fetching lists of packages into {}", self.cache.root().display()));
            let apt = Apt::new(&self.cache.root().join("apt"));
            self.apt = Some(apt.context("cannot reach the Debian archive")?);
        }
        self.apt.as_ref().context("no apt")
    }
}

impl Lab {
    /// Sets up what is missing, and builds the program for the guest.
    ///
    /// # Errors
    ///
    /// As for [`setup`], and if the program does not build.
    pub fn open() -> Result<Lab> {
        let (qemu, files) = setup()?;
        let program = binaries::guest_program()?;
        let out = binaries::target_dir()?.join("guest-out");
        Ok(Lab { qemu, files, program, vfu: OnceCell::new(), out })
    }

    /// An empty bench for one test.
    ///
    /// # Errors
    ///
    /// If its folders cannot be made.
    pub fn bench(&self, name: &str) -> Result<Bench<'_>> {
        let logs = self.out.join(name);
        crate::cache::remove(&logs)?;
        fs::create_dir_all(&logs)?;
        // In the folder for temporary files: paths of sockets are limited to 107 bytes.
        let scratch = TempDir::with_prefix("vfu-guest-")?;
        let expected = RefCell::default();
        Ok(Bench { lab: self, logs, scratch, boots: Cell::new(0), expected })
    }

    fn vfu(&self) -> Result<&Path> {
        if self.vfu.get().is_none() {
            let _ = self.vfu.set(binaries::vfu()?);
        }
        self.vfu.get().map(PathBuf::as_path).context("no vfu")
    }
}

/// What one test works with.
#[derive(Debug)]
pub struct Bench<'a> {
    lab: &'a Lab,
    logs: PathBuf,
    scratch: TempDir,
    boots: Cell<u32>,
    /// Complaints of QEMU that belong to the test.
    expected: RefCell<Vec<&'static str>>,
}

/// What QEMU says when a vfio-user session went wrong, in lower case. The guest may not notice.
const COMPLAINTS: [&str; 6] =
    ["bad header", "unexpected reply", "short read", "timed out", "unknown message", "vfio_user"];

impl Bench<'_> {
    /// Starts `vfu serve DEVICE`; a second call for the same device takes the same path.
    ///
    /// # Errors
    ///
    /// As for [`Server::start`].
    pub fn serve(&self, device: &str) -> Result<Server> {
        let socket = self.scratch.path().join(format!("{device}.sock"));
        Server::start(self.lab.vfu()?, device, &socket, &self.logs.join(format!("{device}.log")))
    }

    /// Builds and starts a sample program of the C library.
    ///
    /// # Errors
    ///
    /// If it does not build, and as for [`Server::run`].
    pub fn serve_sample(&self, name: &str) -> Result<Server> {
        let socket = self.scratch.path().join(format!("{name}.sock"));
        let program = binaries::sample(name)?;
        let mut command = crate::process::command(&program);
        command.arg(&socket);
        Server::run(&mut command, name, &socket, &self.logs.join(format!("{name}.log")))
    }

    /// Runs the `vfu` command with these arguments; gives what it prints.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn vfu(&self, args: &[&OsStr]) -> Result<String> {
        let output = crate::process::command(self.lab.vfu()?).args(args).output()?;
        if !output.status.success() {
            bail!("vfu {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Switches a machine on.
    ///
    /// # Errors
    ///
    /// As for [`Guest::start`].
    pub fn boot(&self, machine: &Machine) -> Result<Guest> {
        let lab = self.lab;
        let number = self.boots.get() + 1;
        self.boots.set(number);
        let places = Places {
            console: self.logs.join(format!("guest-{number}.log")),
            qemu: self.logs.join(format!("qemu-{number}.log")),
            scratch: self.scratch.path().to_path_buf(),
        };
        Guest::start(&lab.qemu, &lab.files, &lab.program, machine, &places)
    }

    /// Lets QEMU complain about a session in these words, in lower case; else that fails the test.
    pub fn expect_complaint(&self, words: &'static str) {
        self.expected.borrow_mut().push(words);
    }

    /// Checks that QEMU did not complain about a session, but for what the test expects.
    ///
    /// # Errors
    ///
    /// The first line that it should not have said.
    pub fn no_complaints(&self) -> Result<()> {
        let expected = self.expected.borrow();
        for boot in 1..=self.boots.get() {
            let text = fs::read(self.logs.join(format!("qemu-{boot}.log")))?;
            let text = String::from_utf8_lossy(&text).to_lowercase();
            let is_bad = |line: &&str| {
                COMPLAINTS.iter().any(|words| line.contains(words))
                    && !expected.iter().any(|words| line.contains(words))
            };
            if let Some(line) = text.lines().find(is_bad) {
                bail!("QEMU complains: {line}");
            }
        }
        Ok(())
    }

    /// Where the logs are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }
}
