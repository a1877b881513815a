//! Serving the server's commands: DMA_READ and DMA_WRITE.

use std::sync::Arc;

use tracing::debug;
use vfu_proto::session::Channel;
use vfu_proto::wire::{
    Command, DmaReadReply, DmaReadRequest, DmaWriteReply, Errno, HEADER_SIZE, Header, Request,
};

use super::memory::Maps;
use crate::link::{FROM_PLACE, Link, Message, with_draft};
use crate::sync::ThreadBuilder;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Replies that make so many bytes are sent before the next command is executed.
const BATCH: usize = 64 << 10;
/// So many commands are answered at once at most.
const MOST: usize = 32;

/// Executes a command that has begun, and those that are there behind it, and answers them with one send:
/// not too many, for somebody waits for the first one's reply. Says how many there were.
pub(super) fn serve(link: &Link, maps: &Maps, max_transfer: usize, first: Message) -> usize {
    let channel = if link.has_twin() { Channel::Twin } else { Channel::Main };
    let service = Service { link, channel, maps, max_transfer };
    with_draft(|out| {
        out.clear();
        let (mut command, mut served) = (first, 1);
        service.answer(&mut command, out);
        while out.len() < BATCH && served < MOST {
            match link.end_and_begin(command) {
                Ok(next) => command = next,
                Err(last) => {
                    command = last;
                    break;
                }
            }
            served += 1;
            service.answer(&mut command, out);
        }
        if !out.is_empty() {
            let _closed = link.send(channel, out, &[]);
        }
        link.end_command(command);
        served
    })
}

struct Service<'a> {
    link: &'a Link,
    channel: Channel,
    maps: &'a Maps,
    max_transfer: usize,
}

/// Where a command's reply is.
enum Outcome {
    /// Its payload was appended.
    Appended,
    /// It was sent, with the replies before it.
    Sent,
}

impl Service<'_> {
    /// Executes one command, and appends its reply, if one is wanted.
    fn answer(&self, command: &mut Message, out: &mut Vec<u8>) {
        let header = *command.header();
        let has_fds = !command.take_fds().is_empty();
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_SIZE]);
        let payload = out.len();
        let result = if has_fds {
            Err(Errno::EINVAL)
        } else {
            self.execute(&header, command.payload(), out)
        };
        if let Err(errno) = result {
            debug!(command = header.command, %errno, "server's command refused");
            out.truncate(payload);
        }
        let reply = match result {
            Ok(Outcome::Sent) => return,
            _ if header.wants_no_reply() => {
                out.truncate(start);
                return;
            }
            Ok(Outcome::Appended) => header.reply(out.len() - payload),
            Err(errno) => header.error_reply(errno),
        };
        reply.emit_into(&mut out[start..]);
    }

    /// Executes one command; the payload of its reply goes behind the room for a header at the end of `out`.
    fn execute(
        &self,
        header: &Header,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Errno> {
        let command = Command::from_u16(header.command).filter(|c| c.is_from_server());
        match Request::parse(command.ok_or(Errno::ENOTSUP)?, payload)? {
            Request::DmaRead(DmaReadRequest { address, count }) => {
                let count = usize::try_from(count).ok().filter(|c| *c <= self.max_transfer);
                let count = count.ok_or(Errno::E2BIG)?;
                let head = out.len();
                DmaReadReply::emit_head(address, count as u64, out);
                if count >= FROM_PLACE && !header.wants_no_reply() {
                    let reply = header.reply(out.len() - head + count);
                    let send = |bytes: &[u8]| {
                        reply.emit_into(&mut out[head - HEADER_SIZE..]);
                        let _closed = self.link.send_with_data(self.channel, out, bytes);
                        out.clear();
                    };
                    if self.maps.lend(address, count, send) {
                        return Ok(Outcome::Sent);
                    }
                }
                let start = out.len();
                out.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
                out.resize(start + count, 0);
                self.maps.read(address, &mut out[start..])?;
            }
            Request::DmaWrite(request) => {
                if request.data.len() > self.max_transfer {
                    return Err(Errno::E2BIG);
                }
                self.maps.write(request.address, request.data)?;
                DmaWriteReply::new(request.address, request.data.len() as u64).emit(out);
            }
            _ => return Err(Errno::ENOTSUP),
        }
        Ok(Outcome::Appended)
    }
}

/// The thread that serves when nobody else reads, if there is one.
///
/// Memory that messages reach needs it. So do, as to speed, many requests of a session with a twin socket:
/// whoever waits for a reply has to watch both sockets, which takes a poll, unless somebody else has the
/// twin. A client of few requests, or of an event loop, does without.
#[derive(Debug)]
pub(super) struct ServiceThread {
    started: AtomicBool,
    /// Requests until it pays; 0: there is one, or none is wanted.
    missing: AtomicU32,
}

/// Making a thread takes as long as so many polls, or less.
const PAYS: u32 = 32;

impl ServiceThread {
    pub(super) fn new(link: &Link) -> Self {
        let missing = if link.has_twin() { PAYS } else { 0 };
        ServiceThread { started: AtomicBool::new(false), missing: AtomicU32::new(missing) }
    }

    /// Whether requests are still to be counted.
    #[inline]
    pub(super) fn is_missing(&self) -> bool {
        self.missing.load(Ordering::Relaxed) > 0
    }

    /// Counts a request. True: there have been enough for a thread.
    #[cold]
    pub(super) fn count(&self) -> bool {
        let less = |missing: u32| missing.checked_sub(1);
        self.missing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) == Ok(1)
    }

    /// It need not be fast: somebody else watches the twin.
    pub(super) fn is_not_wanted(&self) {
        self.missing.store(0, Ordering::Relaxed);
    }

    /// Starts it, if that has not been done before. It ends with the session.
    pub(super) fn start(
        &self,
        link: &Arc<Link>,
        maps: &Arc<Maps>,
        max_transfer: usize,
    ) -> std::io::Result<()> {
        if self.started.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let (link, maps) = (link.clone(), maps.clone());
        let thread = ThreadBuilder::new().name("vfu-client-dma".into());
        let started = thread.spawn(move || {
            while let Ok(command) = link.begin_command() {
                serve(&link, &maps, max_transfer, command);
            }
        });
        match started {
            Ok(_) => self.is_not_wanted(),
            Err(_) => self.started.store(false, Ordering::Relaxed),
        }
        started.map(drop)
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicUsize;

    use vfu_proto::session::{Limits, Role};
    use vfu_proto::wire::DmaMapFlags;

    use super::*;
    use crate::client::{DmaMemory, Memory};

    fn read(id: u16, count: u64) -> Vec<u8> {
        let mut message = vec![0; HEADER_SIZE];
        DmaReadRequest { address: 0, count }.emit(&mut message);
        Header::command(id, Command::DmaRead, message.len() - HEADER_SIZE).emit_into(&mut message);
        message
    }

    /// Nothing is mapped: each gets an error, in turn.
    #[test]
    fn commands_that_are_here_are_answered_together() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let link = Arc::new(Link::new(ours.into(), Role::Client, Limits::default()));
        let commands: Vec<_> = (0..MOST as u16 + 3).flat_map(|id| read(id, 4)).collect();
        theirs.write_all(&commands).unwrap();
        link.poll_sockets();
        for expected in [MOST, 3] {
            let first = link.try_begin_command().unwrap();
            assert_eq!(serve(&link, &Maps::default(), 1 << 20, first), expected);
        }
        let mut replies = vec![0; (MOST + 3) * HEADER_SIZE];
        theirs.read_exact(&mut replies).unwrap();
        for (id, header) in replies.chunks(HEADER_SIZE).enumerate() {
            let header = Header::parse(header.first_chunk().unwrap());
            assert_eq!((header.id, header.errno()), (id as u16, Errno::EFAULT));
        }
    }

    /// Lends what it has, as many times as it says, and so many bytes too few.
    struct Lender {
        bytes: Vec<u8>,
        times: usize,
        too_few: usize,
        reads: AtomicUsize,
    }

    impl DmaMemory for Lender {
        fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            to.copy_from_slice(&self.bytes[address as usize..][..to.len()]);
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
            Err(Errno::EPERM)
        }

        fn lend(&self, address: u64, len: usize, send: &mut dyn FnMut(&[u8])) {
            for _ in 0..self.times {
                send(&self.bytes[address as usize..][..len - self.too_few]);
            }
        }
    }

    /// Replies come in order and whole, lent or not, also where the socket takes but a part of them.
    #[test]
    fn what_is_lent_is_what_is_read() {
        let bytes: Vec<u8> = (0..2u32 << 20).map(|i| (i / 251) as u8 ^ i as u8).collect();
        for (times, too_few) in [(1, 0), (0, 0), (2, 0), (1, 1), (3, 1)] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let link = Arc::new(Link::new(ours.into(), Role::Client, Limits::default()));
            let maps = Maps::default();
            let reads = AtomicUsize::new(0);
            let lender = Lender { bytes: bytes.clone(), times, too_few, reads };
            let (lender, size) = (Arc::new(lender), 2 << 20);
            maps.insert(0, size, DmaMapFlags::READ, &Memory::Messages(lender.clone())).unwrap();
            let counts = [4, 16 << 10, 100, 1 << 20, 1 << 20, 4];
            let commands = counts.into_iter().enumerate().map(|(id, count)| read(id as u16, count));
            (&theirs).write_all(&commands.collect::<Vec<_>>().concat()).unwrap();
            let reader = std::thread::spawn(move || {
                let replies = counts.map(|count| {
                    let mut reply = vec![0; HEADER_SIZE + 16 + count as usize];
                    (&theirs).read_exact(&mut reply).unwrap();
                    reply
                });
                (theirs, replies)
            });
            link.poll_sockets();
            while let Some(first) = link.try_begin_command() {
                serve(&link, &maps, 1 << 20, first);
            }
            link.send_apart();
            let (_theirs, replies) = reader.join().unwrap();
            let lent = if times > 0 && too_few == 0 { 3 } else { 0 };
            assert_eq!(lender.reads.load(Ordering::Relaxed), counts.len() - lent);
            for (id, reply) in replies.iter().enumerate() {
                let header = Header::parse(reply.first_chunk().unwrap());
                assert_eq!((header.id, header.size as usize), (id as u16, reply.len()));
                let count = counts[id] as usize;
                assert!(
                    reply[HEADER_SIZE + 16..] == bytes[..count],
                    "reply {id}, lent {times} times"
                );
            }
        }
    }
}
