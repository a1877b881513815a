//! One end of ours at a time, on one thread, without anybody waiting: the other end is bare messages.
//!
//! A round trip of bare messages is two sends and two receives. With our server in it, one of each
//! is ours; with our client, the other. So what both ends of ours take is what the two halves take
//! together, less the round trip that was counted twice.

use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Context, ensure};
use vfu::client::Client;
use vfu::wire::{RegionReadRequest, Request};
use vfu::{Dma, Server};
use vfu_testkit::{RawPeer, command};

use super::device::{Plain, REGISTER_BAR, pci};
use super::raw::{HEAD, HEADER, send};

const READ: RegionReadRequest = RegionReadRequest { offset: 0, region: REGISTER_BAR, count: 4 };

/// Our server, asked by bare messages.
pub(crate) struct ServerHalf {
    server: Server<Plain>,
    peer: UnixStream,
    request: Vec<u8>,
    reply: [u8; HEAD + 4],
    answer: Vec<u8>,
}

/// A whole message, whatever its length.
fn read_message(mut from: &UnixStream, to: &mut Vec<u8>) -> anyhow::Result<()> {
    to.resize(HEADER, 0);
    from.read_exact(to)?;
    let len = u32::from_le_bytes([to[4], to[5], to[6], to[7]]) as usize;
    to.resize(len.max(HEADER), 0);
    Ok(from.read_exact(&mut to[HEADER..])?)
}

impl ServerHalf {
    pub(crate) fn new() -> anyhow::Result<ServerHalf> {
        let (peer, socket) = UnixStream::pair().context("a socket pair")?;
        let server = Server::builder(pci()).bus_master_gate(false).fd(OwnedFd::from(socket))?;
        let mut server = server.serve(|_| Plain::new())?;
        let version = RawPeer::version(1, 0, 0, Some("{}"));
        (&peer).write_all(&version)?;
        server.process()?;
        let mut answer = Vec::new();
        read_message(&peer, &mut answer)?;
        let request = command(2, &Request::RegionRead(READ));
        Ok(ServerHalf { server, peer, request, reply: [0; HEAD + 4], answer })
    }

    /// The answer to any command.
    pub(crate) fn ask(
        &mut self,
        request: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> anyhow::Result<&[u8]> {
        send(&self.peer, request, fd)?;
        self.server.process()?;
        read_message(&self.peer, &mut self.answer)?;
        let refused = self.answer[8] & 0x20 != 0;
        ensure!(!refused, "the server refused a command");
        Ok(&self.answer)
    }

    pub(crate) fn dma(&self) -> Dma {
        self.server.handle().dma()
    }

    pub(crate) fn round_trip(&mut self) -> anyhow::Result<()> {
        self.peer.write_all(&self.request)?;
        self.server.process()?;
        self.peer.read_exact(&mut self.reply)?;
        Ok(())
    }

    /// What an event loop does that was woken for nothing.
    pub(crate) fn idle(&mut self) -> anyhow::Result<()> {
        ensure!(self.server.process()? == 0, "there was something to do");
        Ok(())
    }
}

/// Our client, whose reply is there before it asks: bare messages guess its next id.
pub(crate) struct ClientHalf {
    client: Client,
    peer: UnixStream,
    request: [u8; HEAD],
    reply: Vec<u8>,
}

impl ClientHalf {
    pub(crate) fn new() -> anyhow::Result<ClientHalf> {
        let (peer, socket) = UnixStream::pair().context("a socket pair")?;
        let connecting = thread::spawn(move || {
            Client::builder().twin_socket(false).connect_fd(OwnedFd::from(socket))
        });
        let raw = RawPeer::over(peer.into());
        let hello = raw.answer_handshake("{\"capabilities\":{}}", &[])?;
        let client = connecting.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        let id = hello.header.id.wrapping_add(1);
        let peer = UnixStream::from(raw.into_socket());
        let mut reply = command(id, &Request::RegionRead(READ));
        reply[4] = (HEAD + 4) as u8;
        reply[8] = 1; // a reply
        reply.extend([0; 4]);
        Ok(ClientHalf { client, peer, request: [0; HEAD], reply })
    }

    pub(crate) fn round_trip(&mut self) -> anyhow::Result<()> {
        self.peer.write_all(&self.reply)?;
        self.client.region_read(REGISTER_BAR, 0, &mut [0; 4])?;
        self.peer.read_exact(&mut self.request)?;
        let id = u16::from_le_bytes([self.request[0], self.request[1]]).wrapping_add(1);
        self.reply[..2].copy_from_slice(&id.to_le_bytes());
        Ok(())
    }
}
