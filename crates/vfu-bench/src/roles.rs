//! The other end of a session, as a process of its own: this program, started again.
//!
//! The child's socket is its standard input; which part it has to play is in its environment.

use std::io::{IoSliceMut, Read, Write, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::write;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};
use vfu::client::{Client, DmaMemory, Memory, READ_WRITE};
use vfu::wire::Errno;
use vfu::{Server, Spin};

use crate::rows::device::{Plain, pci};
use crate::rows::raw::touched;

/// Says that this process is a child, and which.
const VARIABLE: &str = "VFU_BENCH_ROLE";

/// Plays its part to the end if this process is a child, and gives its exit code. A program that
/// measures calls it first of all.
pub fn enter() -> Option<i32> {
    let role = std::env::var(VARIABLE).ok()?;
    match play(&role) {
        Ok(()) => Some(0),
        Err(e) => {
            eprintln!("{role}: {e:#}");
            Some(1)
        }
    }
}

fn play(role: &str) -> anyhow::Result<()> {
    let socket: OwnedFd = stdin().as_fd().try_clone_to_owned()?;
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["server", spin] => {
            let spin = if spin == "spin" { SPIN } else { Spin::Off };
            Ok(Server::builder(pci()).spin(spin).fd(socket)?.run(|_| Plain::new())?)
        }
        ["client", twin] => client(socket, twin == "twin"),
        ["repeat", name, times] => crate::operations::repeat(name, times.parse()?),
        ["footprint"] => footprint(socket.into()),
        ["raw", request, reply, every] => {
            raw(socket.into(), request.parse()?, reply.parse()?, every.parse()?)
        }
        ["raw-fd", request, reply, every] => {
            raw_fd(socket, request.parse()?, reply.parse()?, every.parse()?)
        }
        _ => bail!("there is no such role"),
    }
}

/// Answers one in so many messages of one length with a message of another, as little as can be done.
fn raw(mut socket: UnixStream, request: usize, reply: usize, every: usize) -> anyhow::Result<()> {
    let (mut request, reply) = (touched(request), touched(reply));
    loop {
        for _ in 0..every {
            if socket.read_exact(&mut request).is_err() {
                return Ok(());
            }
        }
        socket.write_all(&reply)?;
    }
}

/// Tells what an idle device takes, in a process that has done nothing before.
fn footprint(mut socket: UnixStream) -> anyhow::Result<()> {
    Ok(socket.write_all(&crate::rows::idle_memory()?.to_ne_bytes())?)
}

/// As [`raw`], and closes the descriptor that comes with each request.
fn raw_fd(socket: OwnedFd, request: usize, reply: usize, every: usize) -> anyhow::Result<()> {
    let (mut request, reply) = (vec![0; request], vec![0; reply]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        for _ in 0..every {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut request)];
            let got = recvmsg(&socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC);
            drop(control); // closes it
            if !got.is_ok_and(|got| got.bytes > 0) {
                return Ok(());
            }
        }
        write(&socket, &reply)?;
    }
}

/// How a process of ours spins, if it does: told where to run, it does not find out by itself that the
/// other end is elsewhere.
pub(crate) const SPIN: Spin = Spin::AtMost(Duration::from_micros(50));

/// Our client, whose memory is reached by messages, until its server leaves.
fn client(socket: OwnedFd, twin: bool) -> anyhow::Result<()> {
    let client = Client::builder().twin_socket(twin).connect_fd(socket)?;
    let memory = Arc::new(Still(touched(MESSAGES_SIZE as usize)));
    client.dma_map(MESSAGES, MESSAGES_SIZE, READ_WRITE, Memory::Messages(memory))?;
    let socket = client.sockets().next().context("a client without a socket")?;
    // Nothing but its end is waited for: a thread of the library serves the messages.
    poll(&mut [PollFd::new(&socket, PollFlags::empty())], None)?;
    Ok(())
}

/// Where the memory of a client lies that only messages reach, as the device sees it.
pub(crate) const MESSAGES: u64 = 0x9000_0000;
/// Its size in bytes.
const MESSAGES_SIZE: u64 = 1 << 20;

/// Memory that costs nothing, so that the messages are what is measured.
struct Still(Vec<u8>);

impl DmaMemory for Still {
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn lend(&self, address: u64, len: usize, send: &mut dyn FnMut(&[u8])) {
        if let Some(bytes) = self.0.get((address - MESSAGES) as usize..).and_then(|b| b.get(..len))
        {
            send(bytes);
        }
    }
}

fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("where this program is")
}

/// Has another program run this one, as a child.
pub(crate) fn child<'a>(by: &'a mut Command, role: &str) -> anyhow::Result<&'a mut Command> {
    Ok(by.arg(program()?).env(VARIABLE, role))
}

/// The library's choice, in bytes, for bare messages, too: large ones take less time with it.
const SEND_BUFFER: usize = 640 << 10;

/// A child at the other end of a socket. It ends with its socket.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts one that serves the bench's device; gives the client's end.
    pub(crate) fn server(spin: Spin) -> anyhow::Result<(Process, OwnedFd)> {
        let role = if spin == Spin::Off { "server sleep" } else { "server spin" };
        let (process, socket) = Process::start(role)?;
        Ok((process, socket.into()))
    }

    /// As [`server`](Self::server), run by another program.
    pub(crate) fn server_by(mut by: Command) -> anyhow::Result<(Process, OwnedFd)> {
        let (process, socket) = Process::start_as(child(&mut by, "server sleep")?)?;
        Ok((process, socket.into()))
    }

    /// Waits for its end, which its socket's brings about.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "the other end: {status}");
        Ok(())
    }

    /// Starts one that is a client with memory for messages; gives the server's end.
    pub(crate) fn client(twin: bool) -> anyhow::Result<(Process, OwnedFd)> {
        let (process, socket) = Process::start(if twin { "client twin" } else { "client single" })?;
        Ok((process, socket.into()))
    }

    /// Starts one that answers one in `every` messages of `request` bytes with `reply` bytes.
    pub(crate) fn raw(
        request: usize,
        reply: usize,
        every: usize,
    ) -> anyhow::Result<(Process, UnixStream)> {
        Process::start(&format!("raw {request} {reply} {every}"))
    }

    /// As [`raw`](Self::raw); a descriptor comes with each request.
    pub(crate) fn raw_fd(
        request: usize,
        reply: usize,
        every: usize,
    ) -> anyhow::Result<(Process, UnixStream)> {
        Process::start(&format!("raw-fd {request} {reply} {every}"))
    }

    /// The bytes of an idle device, as a child finds them.
    pub(crate) fn footprint() -> anyhow::Result<u64> {
        let (_process, mut socket) = Process::start("footprint")?;
        let mut bytes = [0; 8];
        socket.read_exact(&mut bytes).context("the child that measures memory")?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn start(role: &str) -> anyhow::Result<(Process, UnixStream)> {
        let mut command = Command::new(program()?);
        Process::start_as(command.env(VARIABLE, role))
    }

    fn start_as(command: &mut Command) -> anyhow::Result<(Process, UnixStream)> {
        let (near, far) = UnixStream::pair().context("a socket pair")?;
        for end in [&near, &far] {
            set_socket_send_buffer_size(end, SEND_BUFFER).context("the size of a send buffer")?;
        }
        let command = command.stdin(Stdio::from(OwnedFd::from(far))).stdout(Stdio::null());
        let child = command.spawn().context("starting the other end")?;
        Ok((Process { child }, near))
    }

    /// The CPU time that it has used, in nanoseconds. Exact while it sleeps.
    pub(crate) fn cpu(&self) -> anyhow::Result<u64> {
        cpu_of(self.child.id())
    }
}

/// The CPU time that the threads of a process have used, in nanoseconds. Exact while they sleep.
pub(crate) fn cpu_of(process: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/task");
    let mut sum = 0;
    for thread in std::fs::read_dir(&path).with_context(|| path.clone())? {
        let path = thread?.path().join("schedstat");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let first = text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
        sum += first.ok_or_else(|| anyhow!("{} has no time in it", path.display()))?;
    }
    Ok(sum)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its socket may still be open in this process: do not wait for it to end by itself.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
