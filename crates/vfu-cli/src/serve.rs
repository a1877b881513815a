//! `vfu serve`: a device at a socket, until a signal ends it.

use std::fs::File;
use std::io::{Read, Write, stderr, stdout};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::ArgGroup;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use tracing::info;
use vfu::server::{Bound, BuildError, Stopper};
use vfu::{Limits, MemoryPolicy, Spin};
use vfu_devices::{Model, Options};

use crate::exit::Exit;
use crate::fd::take_inherited;
use crate::sandbox::Sandbox;

const EXAMPLES: &str = "\
Examples:
  A device for QEMU (10.1 or newer), whose RAM the device reaches directly since it is shared:

    vfu serve edu --socket-path /tmp/edu.sock &
    qemu-system-x86_64 -machine q35,memory-backend=ram -m 1G \\
      -object memory-backend-memfd,id=ram,size=1G,share=on \\
      -device '{\"driver\":\"vfio-user-pci\",
                \"socket\":{\"type\":\"unix\",\"path\":\"/tmp/edu.sock\"}}' ...

  Without memory-backend-memfd,share=on it works too, but all DMA is sent in messages.

  What a driver does that the device does not know, said when the driver is done (-v), or each time
  (-vv); all accesses by the names of the registers (-vvv):

    vfu serve edu --socket-path /tmp/edu.sock -v

  A device that a service manager or a test starts, with a socket that it has opened:

    vfu serve idio16 --fd 3

  A device that takes over the state of another one, while that is in use:

    vfu serve edu --socket-path /tmp/a & vfu serve edu --socket-path /tmp/b --incoming &
    vfu migrate /tmp/a /tmp/b

When the device can be connected to, a line `listening on ...` is printed to standard error. It
serves one client at a time, and the next one after that, which finds the device as it was left
unless it resets it. SIGTERM and SIGINT end it and remove the socket; a second signal ends it at
once.";

/// Serve a device to vfio-user clients, one after the other
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group(ArgGroup::new("where").required(true)))]
pub(crate) struct Args {
    /// The device
    #[arg(required_unless_present = "list", value_parser = model_parser())]
    model: Option<Model>,

    /// List the devices and end
    #[arg(long, group = "where")]
    list: bool,

    /// Listen on a new UNIX socket at this path
    ///
    /// At most 107 bytes. A socket file that nobody listens on any more is replaced; a socket in
    /// use, or any other file, is left alone.
    #[arg(long, short = 's', value_name = "PATH", group = "where")]
    socket_path: Option<PathBuf>,

    /// Take over this open file descriptor: a UNIX stream socket
    ///
    /// One that listens, or one that is connected to a client; then the command ends with it.
    #[arg(long, value_name = "N", group = "where", value_parser = clap::value_parser!(i32).range(0..))]
    fd: Option<RawFd>,

    /// Wait for the state of another device before it runs: the destination of `vfu migrate`
    ///
    /// The device starts in the migration state RESUMING. Until a state has been loaded and started,
    /// configuration space answers, but BARs read all ones and ignore writes, and there is no DMA and
    /// no interrupt. A client that leaves before that leaves the device waiting; DEVICE_RESET makes
    /// it a fresh device that runs.
    #[arg(long)]
    incoming: bool,

    /// Send DMA messages on the main socket, though the client offers a second one for them
    #[arg(long)]
    no_twin: bool,

    /// Look for the client's next command for a short time before sleeping: auto, off, or at most so
    /// many microseconds
    ///
    /// It halves the time of an access or more where client and server run on CPUs of their own, and
    /// takes CPU time, with which a guest could do better if there is not enough. The time adapts
    /// itself: an idle device does not look. `auto` is 50, and off where the command may use one CPU
    /// only; the most is 100.
    #[arg(long, value_name = "HOW", default_value = "off", value_parser = parse_spin)]
    spin: Spin,

    /// Give up, once it listens, all that a server does not need
    ///
    /// Then the process, whatever a client or a bug makes of it, can open, make and remove no file, run
    /// no program, connect to nothing, and make the system calls of a server only; the rest fail with
    /// EPERM. What was opened before, and descriptors that clients send, are not narrowed. It takes
    /// landlock (Linux 5.13, the whole of it 6.12) and seccomp, and no privileges. A second process
    /// removes the socket at the end. `--sandbox` alone is `on`.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Sandbox::Auto)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    sandbox: Sandbox,

    /// How long a client may take to answer a DMA message, in seconds; 0: for ever
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_timeout)]
    #[arg(allow_negative_numbers = true)]
    timeout: Timeout,

    /// What to do about clients that share memory files and take pages of them away
    #[arg(long, value_name = "POLICY", default_value = "guarded", value_parser = memory_parser())]
    memory: MemoryPolicy,

    /// Give the device an expansion ROM: the image in this file, at most 16 MiB
    ///
    /// The guest's firmware runs it if it is a boot ROM for it; Linux shows it as `rom` in sysfs.
    #[arg(long, value_name = "FILE")]
    rom: Option<PathBuf>,

    /// edu: the addresses in RAM that DMA reaches: each is ANDed with this mask [default: 0xfffffff]
    #[arg(long, value_name = "MASK", value_parser = parse_u64)]
    dma_mask: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Timeout(Option<Duration>);

pub(crate) fn model_parser() -> impl TypedValueParser<Value = Model> {
    let names = Model::ALL.map(|m| PossibleValue::new(m.name()).help(m.description()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Model>())
}

/// The names of the policies, and what they do.
const POLICIES: [(&str, MemoryPolicy, &str); 4] = [
    ("trusting", MemoryPolicy::Trusting, "nothing: the missing page ends the server, by SIGBUS"),
    ("guarded", MemoryPolicy::Guarded, "the DMA that meets the missing page fails"),
    (
        "copying",
        MemoryPolicy::Copying,
        "files are read and written and not mapped, which is slower",
    ),
    (
        "sealed",
        MemoryPolicy::Sealed,
        "only memfds that are sealed against shrinking are taken, such as QEMU's \
         memory-backend-memfd; DMA_MAP of others fails",
    ),
];

fn memory_parser() -> impl TypedValueParser<Value = MemoryPolicy> {
    let names = POLICIES.map(|(name, _, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(names).map(|name| {
        let policy = POLICIES.iter().find(|(other, ..)| *other == name);
        policy.map_or_else(MemoryPolicy::default, |(_, policy, _)| *policy)
    })
}

fn parse_timeout(text: &str) -> Result<Timeout, String> {
    let wrong = || format!("not a time in seconds: '{text}'; give a number such as 2 or 0.5");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    let timeout = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    Ok(Timeout(Some(timeout).filter(|t| !t.is_zero())))
}

fn parse_spin(text: &str) -> Result<Spin, String> {
    match (text, text.parse()) {
        ("off", _) => Ok(Spin::Off),
        ("auto", _) => Ok(Spin::Auto),
        (_, Ok(us)) if (1..=Spin::MOST.as_micros()).contains(&u128::from(us)) => {
            Ok(Spin::AtMost(Duration::from_micros(us)))
        }
        _ => Err(format!("give auto, off, or 1 to {} microseconds", Spin::MOST.as_micros())),
    }
}

/// A number, decimal or hexadecimal with `0x`.
fn parse_u64(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|e| format!("{e}; give a number such as 0xffffffff"))
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.list {
        return list();
    }
    let model = args.model.context("no device is named")?;
    let mut options = Options::default();
    if let Some(mask) = args.dma_mask {
        if model != Model::Edu {
            return Err(Exit::Usage.with(anyhow!("--dma-mask: only edu has one, {model} has none")));
        }
        options.dma_mask = mask;
    }
    // From here on a signal can't be missed.
    let signals = Signals::new([SIGTERM, SIGINT]).context("can't handle signals")?;
    let (bound, place) = bind(model, &args)?;
    let _removes_the_socket = args.sandbox.enter(args.socket_path.as_deref())?;
    let mut server = model.serve(bound, &options)?;
    stop_by(signals, server.stopper())?;
    let (vendor, device) = model.ids();
    // Whoever started us may have closed our standard error; that is no reason to end.
    let waits = if args.incoming { ", waiting for a state" } else { "" };
    let _ = writeln!(stderr(), "listening on {place} ({model} {vendor:04x}:{device:04x}){waits}");
    server.run()?;
    Ok(ExitCode::SUCCESS)
}

fn list() -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    for model in Model::ALL {
        let (vendor, device) = model.ids();
        let (name, description) = (model.name(), model.description());
        writeln!(out, "{name:9}{vendor:04x}:{device:04x}  {description}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Gets the socket, and says where it is.
fn bind(model: Model, args: &Args) -> anyhow::Result<(Bound, String)> {
    let limits = Limits { reply_timeout: args.timeout.0, ..Limits::default() };
    let builder = model.builder()?.limits(limits).spin(args.spin).memory_policy(args.memory);
    let builder = builder.twin_socket(!args.no_twin).incoming(args.incoming);
    let builder = match &args.rom {
        Some(file) => builder.rom(read_rom(file)?),
        None => builder,
    };
    match (&args.socket_path, args.fd) {
        (Some(path), _) => {
            let bound = builder.listen(path).map_err(explain)?;
            Ok((bound, path.display().to_string()))
        }
        (None, Some(number)) => {
            let socket = take_inherited(number).map_err(|e| Exit::Socket.with(e))?;
            let bound = builder.fd(socket).map_err(|e| match e {
                BuildError::Pci(_) => explain(e),
                e => Exit::Socket.with(anyhow::Error::new(e).context(format!("--fd {number}"))),
            })?;
            Ok((bound, format!("descriptor {number}")))
        }
        (None, None) => Err(Exit::Usage.with(anyhow!("neither --socket-path nor --fd is given"))),
    }
}

/// The image in a file. One that is too large is read no further than it takes to know that.
fn read_rom(file: &Path) -> anyhow::Result<Vec<u8>> {
    const MOST: u64 = 16 << 20;
    let wrong = |why: String| Exit::Usage.with(anyhow!("--rom {}: {why}", file.display()));
    let mut image = Vec::new();
    File::open(file)
        .and_then(|rom| rom.take(MOST + 1).read_to_end(&mut image))
        .map_err(|e| wrong(e.to_string()))?;
    if image.len() as u64 > MOST {
        return Err(wrong("more than 16 MiB, which is the most that an expansion ROM has".into()));
    }
    Ok(image)
}

/// A failure to listen has an exit code of its own. The only thing about a model that can't be built
/// is what the user has added: its ROM.
fn explain(error: BuildError) -> anyhow::Error {
    match error {
        BuildError::Listen(error) => Exit::Socket.with(error),
        BuildError::Pci(error) => Exit::Usage.with(anyhow::Error::new(error).context("--rom")),
        error => error.into(),
    }
}

/// Stops the server at the first signal, and the process at the second.
fn stop_by(mut signals: Signals, stopper: Stopper) -> anyhow::Result<()> {
    let wait = move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if stopping {
                let _not_ended = emulate_default_handler(signal);
            }
            info!(signal, "stopping");
            stopper.stop();
            stopping = true;
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("can't start a thread")?;
    Ok(())
}
