//! Serving the server's commands: DMA_READ and DMA_WRITE.

use std::sync::Arc;

use tracing::debug;
use vfu_proto::session::Channel;
use vfu_proto::wire::{
    Command, DmaReadReply, DmaReadRequest, DmaWriteReply, Errno, HEADER_SIZE, Request,
};

use super::memory::Maps;
use crate::link::{Link, Message, with_draft};
use crate::sync::ThreadBuilder;

/// Replies that make so many bytes are sent before the next command is executed.
const BATCH: usize = 64 << 10;
/// So many commands are answered at once at most.
const MOST: usize = 32;

/// Executes a command that has begun, and those that are there behind it, and answers them with one send:
/// not too many, for somebody waits for the first one's reply. Says how many there were.
pub(super) fn serve(link: &Link, maps: &Maps, max_transfer: usize, first: Message) -> usize {
    let channel = if link.has_twin() { Channel::Twin } else { Channel::Main };
    with_draft(|out| {
        out.clear();
        let (mut command, mut served) = (first, 1);
        answer(maps, max_transfer, &mut command, out);
        while out.len() < BATCH && served < MOST {
            match link.end_and_begin(command) {
                Ok(next) => command = next,
                Err(last) => {
                    command = last;
                    break;
                }
            }
            served += 1;
            answer(maps, max_transfer, &mut command, out);
        }
        if !out.is_empty() {
            let _closed = link.send(channel, out, &[]);
        }
        link.end_command(command);
        served
    })
}

/// Executes one command, and appends its reply, if one is wanted.
fn answer(maps: &Maps, max_transfer: usize, command: &mut Message, out: &mut Vec<u8>) {
    let header = *command.header();
    let has_fds = !command.take_fds().is_empty();
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_SIZE]);
    let payload = out.len();
    let result = if has_fds {
        Err(Errno::EINVAL)
    } else {
        execute(maps, max_transfer, header.command, command.payload(), out)
    };
    if let Err(errno) = result {
        debug!(command = header.command, %errno, "server's command refused");
        out.truncate(payload);
    }
    if header.wants_no_reply() {
        out.truncate(start);
        return;
    }
    let reply = match result {
        Ok(()) => header.reply(out.len() - payload),
        Err(errno) => header.error_reply(errno),
    };
    reply.emit_into(&mut out[start..]);
}

fn execute(
    maps: &Maps,
    max_transfer: usize,
    command: u16,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Errno> {
    let command = Command::from_u16(command).filter(|c| c.is_from_server());
    match Request::parse(command.ok_or(Errno::ENOTSUP)?, payload)? {
        Request::DmaRead(DmaReadRequest { address, count }) => {
            let count = usize::try_from(count).ok().filter(|c| *c <= max_transfer);
            let count = count.ok_or(Errno::E2BIG)?;
            DmaReadReply::emit_head(address, count as u64, out);
            let start = out.len();
            out.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
            out.resize(start + count, 0);
            maps.read(address, &mut out[start..])
        }
        Request::DmaWrite(request) if request.data.len() > max_transfer => Err(Errno::E2BIG),
        Request::DmaWrite(request) => {
            maps.write(request.address, request.data)?;
            DmaWriteReply::new(request.address, request.data.len() as u64).emit(out);
            Ok(())
        }
        _ => Err(Errno::ENOTSUP),
    }
}

/// A thread that serves when nobody else reads. It ends with the session.
pub(super) fn spawn(link: Arc<Link>, maps: Arc<Maps>, max_transfer: usize) -> std::io::Result<()> {
    let thread = ThreadBuilder::new().name("vfu-client-dma".into());
    thread.spawn(move || {
        while let Ok(command) = link.begin_command() {
            serve(&link, &maps, max_transfer, command);
        }
    })?;
    Ok(())
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use vfu_proto::session::{Limits, Role};
    use vfu_proto::wire::Header;

    use super::*;

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
}
