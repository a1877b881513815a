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

/// Executes one command and answers it.
pub(super) fn serve(link: &Link, maps: &Maps, max_transfer: usize, command: &mut Message) {
    let header = *command.header();
    let has_fds = !command.take_fds().is_empty();
    let channel = if link.has_twin() { Channel::Twin } else { Channel::Main };
    with_draft(|out| {
        let result = if has_fds {
            Err(Errno::EINVAL)
        } else {
            execute(maps, max_transfer, header.command, command.payload(), out)
        };
        if let Err(errno) = result {
            debug!(command = header.command, %errno, "server's command refused");
            out.truncate(HEADER_SIZE);
        }
        if header.wants_no_reply() {
            return;
        }
        let reply = match result {
            Ok(()) => header.reply(out.len() - HEADER_SIZE),
            Err(errno) => header.error_reply(errno),
        };
        reply.emit_into(out);
        let _closed = link.send(channel, out, &[]);
    });
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
        while let Ok(mut command) = link.begin_command() {
            serve(&link, &maps, max_transfer, &mut command);
            link.end_command(command);
        }
    })?;
    Ok(())
}
