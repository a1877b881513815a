//! One run of a guest: a machine, its devices, and a script that runs inside.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::console::{Console, Event};
use crate::initramfs::{Files, overlay};
use crate::process::Running;
use crate::qemu::Qemu;
use crate::qmp::Qmp;

/// How the guest's memory is backed, which decides how a device reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// A memfd whose descriptor the server gets: direct DMA.
    Shared,
    /// Memory of QEMU's own: all DMA goes by message.
    Private,
}

/// A device of the machine, as QEMU's `-device` takes it in JSON.
#[derive(Debug, Clone)]
pub struct Device(Value);

impl Device {
    /// A device of QEMU, with an id.
    #[must_use]
    pub fn new(driver: &str, id: &str) -> Device {
        Device(json!({ "driver": driver, "id": id }))
    }

    /// A device behind a vfio-user socket.
    #[must_use]
    pub fn vfio_user(id: &str, socket: &Path) -> Device {
        let socket = json!({ "type": "unix", "path": socket });
        Device::new("vfio-user-pci", id).with("socket", socket)
    }

    /// A PCI Express port that devices can be plugged into.
    #[must_use]
    pub fn root_port(id: &str, slot: u8) -> Device {
        Device::new("pcie-root-port", id).with("chassis", slot.into()).with("slot", slot.into())
    }

    /// The device with one more property.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Device {
        self.0[key] = value;
        self
    }

    /// The arguments of QMP's `device_add`.
    #[must_use]
    pub fn json(&self) -> Value {
        self.0.clone()
    }
}

/// A machine, before it is on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The script that runs inside, from `inside/`.
    pub script: &'static str,
    /// How its memory is backed.
    pub memory: Memory,
    /// How much, in MiB. With 256, all of it is in reach of a device with 28 address bits.
    pub mebibytes: u32,
    /// How many processors.
    pub cpus: u32,
    /// Its devices, in order.
    pub devices: Vec<Device>,
    /// Files for the script, by their paths in the guest; their folders must be there.
    pub files: Vec<(String, Vec<u8>)>,
    /// More words for the kernel's command line.
    pub append: &'static str,
    /// More arguments for QEMU.
    pub args: Vec<&'static str>,
    /// What happens at a reset: the machine starts again, or goes off.
    pub reboots: bool,
    /// Says lines of `VFU-SAY` aloud.
    pub aloud: bool,
    /// After how long it is killed.
    pub deadline: Duration,
}

impl Machine {
    /// A machine of 256 MiB of shared memory and one processor, with these devices.
    #[must_use]
    pub fn new(script: &'static str, devices: Vec<Device>) -> Machine {
        Machine {
            script,
            memory: Memory::Shared,
            mebibytes: 256,
            cpus: 1,
            devices,
            files: Vec::new(),
            append: "",
            args: Vec::new(),
            reboots: false,
            aloud: false,
            deadline: Duration::from_secs(120),
        }
    }

    /// The machine with an IOMMU, for VFIO inside the guest.
    #[must_use]
    pub fn with_iommu(mut self) -> Machine {
        let iommu = Device::new("intel-iommu", "iommu0").with("caching-mode", true.into());
        self.devices.insert(0, iommu.with("intremap", "on".into()));
        self.append = "intel_iommu=on";
        self
    }
}

/// Where a run puts what it writes.
#[derive(Debug)]
pub struct Places {
    /// The console.
    pub console: PathBuf,
    /// QEMU's complaints.
    pub qemu: PathBuf,
    /// A folder for sockets and the initramfs: its path is short.
    pub scratch: PathBuf,
}

/// A machine that is on.
#[derive(Debug)]
pub struct Guest {
    qmp: Qmp,
    console: Console,
    running: Running,
    aloud: bool,
    patience: Duration,
    deadline: Instant,
    result: Option<i32>,
    files: BTreeMap<String, String>,
}

impl Guest {
    /// Switches it on. Returns when QEMU has made all devices.
    ///
    /// # Errors
    ///
    /// If QEMU ends at once; the reason is in its log.
    pub fn start(
        qemu: &Qemu,
        files: &Files,
        program: &[u8],
        machine: &Machine,
        places: &Places,
    ) -> Result<Guest> {
        let initramfs = places.scratch.join("initramfs");
        let mut content = fs::read(&files.initramfs)?;
        content.extend(overlay(machine.script, program, &machine.files));
        fs::write(&initramfs, content)?;
        let monitor = places.scratch.join("qmp");
        let _ = fs::remove_file(&monitor);
        let listener = UnixListener::bind(&monitor)?;

        let mut command = qemu.command();
        command
            .args(arguments(machine))
            .arg("-kernel")
            .arg(&files.kernel)
            .arg("-initrd")
            .arg(&initramfs)
            .arg("-qmp")
            .arg(format!("unix:{}", monitor.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&places.qemu)?);
        let mut running = Running::start(&mut command)?;
        let output = running.child().stdout.take().context("no output of QEMU")?;
        let console = Console::read(output, File::create(&places.console)?);
        let qmp = Qmp::accept(&listener, || match running.ended()? {
            Some(status) => bail!("QEMU ended at once: {status}{}", words(&places.qemu)),
            None => Ok(()),
        })?;
        // QEMU has read it. It is large, and nobody would remove it after an interrupt.
        fs::remove_file(&initramfs)?;
        let patience = machine.deadline;
        let deadline = Instant::now() + patience;
        let aloud = machine.aloud;
        let files = BTreeMap::new();
        Ok(Guest { qmp, console, running, aloud, patience, deadline, result: None, files })
    }

    /// Waits until the guest asks for `word`.
    ///
    /// # Errors
    ///
    /// If it asks for something else, ends its script, or does not ask in time.
    pub fn expect(&mut self, word: &str) -> Result<()> {
        match self.next()? {
            Event::Ask(asked) if asked == word => Ok(()),
            Event::Ask(asked) => bail!("the guest asks for {asked:?} instead of {word:?}"),
            Event::Result(code) => bail!("the guest's script ended with {code} before {word:?}"),
            _ => bail!("the guest went off before {word:?}"),
        }
    }

    /// Lets the guest go on after it asked; it gets this line.
    ///
    /// # Errors
    ///
    /// If QEMU is gone.
    pub fn answer(&mut self, line: &str) -> Result<()> {
        let input = self.running.child().stdin.as_mut().context("no console")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    /// QEMU's monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Waits until the script inside has ended well and the machine is off.
    ///
    /// # Errors
    ///
    /// If the script failed, or the machine went off or stayed on without a result.
    pub fn finish(self) -> Result<()> {
        self.finish_with_files().map(drop)
    }

    /// As [`finish`](Self::finish). Gives the texts that the script has shown with `show NAME`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn finish_with_files(mut self) -> Result<BTreeMap<String, String>> {
        loop {
            match self.next()? {
                Event::Ask(word) => bail!("the guest asks for {word:?}, which nobody answers"),
                Event::Result(code) => self.result = Some(code),
                Event::Say(_) | Event::File(..) => {}
                Event::End => break,
            }
        }
        // The console is closed, so the process is about to end, or already has.
        let status = self.running.child().wait()?;
        match self.result {
            None => bail!("the guest went off without a result (QEMU: {status})"),
            Some(0) if status.success() => Ok(self.files),
            Some(0) => bail!("QEMU ended badly: {status}"),
            Some(code) => bail!("the script inside the guest failed ({code})"),
        }
    }

    /// The next event, apart from what is only said.
    fn next(&mut self) -> Result<Event> {
        loop {
            match self.console.next(self.deadline) {
                None => bail!("the guest took longer than {:?}", self.patience),
                Some(Event::Say(text)) if self.aloud => println!("{text}"),
                Some(Event::Say(_)) => {}
                Some(Event::File(name, line)) => {
                    self.files.entry(name).or_default().push_str(&line)
                }
                Some(event) => return Ok(event),
            }
        }
    }
}

fn arguments(machine: &Machine) -> Vec<String> {
    let size = format!("{}M", machine.mebibytes);
    let memory = match machine.memory {
        Memory::Shared => "memory-backend-memfd,share=on",
        Memory::Private => "memory-backend-ram,share=off",
    };
    // What Debian's kernel would do at its start, and a test has no use for.
    let kernel = "console=ttyS0 panic=-1 loglevel=3 mitigations=off nokaslr tsc=reliable \
                  no_timer_check cryptomgr.notests apparmor=0 random.trust_cpu=on";
    let mut args: Vec<String> = vec![
        "-accel".into(),
        "tcg".into(),
        "-machine".into(),
        "q35,memory-backend=ram0".into(),
        "-cpu".into(),
        "qemu64".into(),
        "-smp".into(),
        machine.cpus.to_string(),
        "-m".into(),
        size.clone(),
        "-object".into(),
        format!("{memory},id=ram0,size={size}"),
        "-nodefaults".into(),
        "-display".into(),
        "none".into(),
        "-serial".into(),
        "stdio".into(),
        "-append".into(),
        format!("{kernel} {}", machine.append),
    ];
    if !machine.reboots {
        args.push("-no-reboot".into());
    }
    args.extend(machine.args.iter().map(ToString::to_string));
    for device in &machine.devices {
        args.extend(["-device".into(), device.0.to_string()]);
    }
    args
}

/// The first line of a log, for an error.
fn words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().next().map_or(String::new(), |line| format!(": {line}"))
}
