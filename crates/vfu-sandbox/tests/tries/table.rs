//! What the intruder tries, and what is said of it. A number is a place in the first list, and then in the second.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{fs, io, thread};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::process::{Signal, getppid, kill_process};

/// What it tries, with a folder: it holds a `file`, and the socket `outside` of another process.
pub(crate) type Try = fn(&Path) -> io::Result<()>;

pub(crate) const DENIED: &[(&str, Try)] = &[
    ("read a file", |folder| fs::read(folder.join("file")).map(drop)),
    ("read /etc/passwd", |_| fs::read("/etc/passwd").map(drop)),
    ("read its own memory as a file", |_| fs::File::open("/proc/self/mem").map(drop)),
    ("list a folder", |folder| fs::read_dir(folder).map(drop)),
    ("write a file", |folder| fs::write(folder.join("new"), "x")),
    ("remove a file", |folder| fs::remove_file(folder.join("file"))),
    ("rename a file", |folder| fs::rename(folder.join("file"), folder.join("other"))),
    ("make a folder", |folder| fs::create_dir(folder.join("new"))),
    ("change a mode", |folder| {
        fs::set_permissions(folder.join("file"), fs::Permissions::from_mode(0o777))
    }),
    ("run a program", |_| Command::new("/bin/true").status().map(drop)),
    ("run itself", |_| Command::new("/proc/self/exe").status().map(drop)),
    ("connect to a server", |folder| UnixStream::connect(folder.join("outside")).map(drop)),
    ("become a server", |folder| UnixListener::bind(folder.join("inside")).map(drop)),
    ("connect by TCP", |_| TcpStream::connect("127.0.0.1:9").map(drop)),
    ("listen by TCP", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("signal its parent", |_| {
        let parent = getppid().ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(parent, Signal::USR1)?)
    }),
    ("change its folder", |folder| std::env::set_current_dir(folder)),
];

pub(crate) const ALLOWED: &[(&str, Try)] = &[
    ("start a thread", |_| {
        let thread = thread::Builder::new().name("worker".into()).spawn(|| 7)?;
        assert_eq!(thread.join().unwrap(), 7);
        Ok(())
    }),
    ("make memory to share", |_| {
        let memory = memfd_create("memory", MemfdFlags::CLOEXEC)?;
        Ok(ftruncate(memory, 1 << 20)?)
    }),
    ("make a pair of sockets", |_| UnixStream::pair().map(drop)),
    ("allocate much", |_| {
        let much = vec![1u8; 64 << 20];
        assert_eq!(much.iter().map(|&b| usize::from(b)).sum::<usize>(), 64 << 20);
        Ok(())
    }),
    ("sleep", |_| {
        thread::sleep(Duration::from_millis(1));
        Ok(())
    }),
];
