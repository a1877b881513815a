//! A server that answers anything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vfu_proto::wire::{
    Area, Capabilities, Command, Errno, FdArea, HEADER_SIZE, Header, Kind, RegionCapability,
    RegionFlags, RegionInfo, TwinSocket, bitmap_len,
};
use vfu_testkit::{RawMessage, RawPeer};

use crate::grammar::Payload;
use crate::pipe::some_descriptors;
use crate::script::Script;

/// Answers requests until the client or the script ends.
pub(super) fn serve(socket: OwnedFd, script: Script<'_>) {
    let mut peer = Peer { main: RawPeer::over(socket), twin: None, script };
    let _the_client_has_gone = peer.run();
}

struct Peer<'a> {
    main: RawPeer,
    twin: Option<RawPeer>,
    script: Script<'a>,
}

/// It is over.
struct Over;

impl Peer<'_> {
    fn run(&mut self) -> Result<(), Over> {
        loop {
            let request = self.main.recv().map_err(|_| Over)?;
            if request.header.kind() != Some(Kind::Command) {
                continue; // the answer to something that we asked
            }
            if self.script.is_empty() && request.header.command != Command::Version.as_u16() {
                return Err(Over);
            }
            for _ in 0..self.script.below(4) {
                self.unasked(&request)?;
            }
            if !request.header.wants_no_reply() {
                self.answer(&request)?;
            }
        }
    }

    fn say(
        &self,
        socket: &RawPeer,
        header: Header,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Over> {
        let size = (HEADER_SIZE + payload.len()) as u32;
        let bytes = [&Header { size, ..header }.emit()[..], payload].concat();
        socket.send_with(&bytes, fds).map_err(|_| Over)
    }

    /// Something that the client did not ask for.
    fn unasked(&mut self, request: &RawMessage) -> Result<(), Over> {
        let on_twin = self.twin.is_some() && !self.script.one_in(8);
        let id = self.script.u8().into();
        let (header, payload) = match self.script.below(8) {
            0..3 => self.dma(id, Command::DmaRead),
            3..6 => self.dma(id, Command::DmaWrite),
            6 => (Header { id, ..request.header.reply(0) }, Vec::new()),
            _ => {
                let command = self.script.u16() % 20;
                let header =
                    Header { id, command, flags: self.script.pick(&[0, 16]), ..request.header };
                (header, self.script.bytes(24).to_vec())
            }
        };
        let fds =
            if self.script.one_in(8) { some_descriptors(&mut self.script, 3) } else { Vec::new() };
        let socket = self.twin.as_ref().filter(|_| on_twin).unwrap_or(&self.main);
        self.say(socket, header, &payload, &fds)
    }

    fn dma(&mut self, id: u16, command: Command) -> (Header, Vec<u8>) {
        let address = crate::grammar::address(&mut self.script);
        let count = if self.script.one_in(8) { self.script.number() } else { 8 };
        let payload = Payload::default().u64(address).u64(count);
        let data = if command == Command::DmaWrite { &[0x77; 8][..] } else { &[] };
        let header = Header::command(id, command, 0);
        let header = if self.script.one_in(8) { header.with_no_reply() } else { header };
        (header, payload.bytes(data).0)
    }

    /// The last word to a request: a reply that mostly fits, a refusal, or the end.
    fn answer(&mut self, request: &RawMessage) -> Result<(), Over> {
        let command = Command::from_u16(request.header.command);
        let mut payload = match command {
            Some(command) => self.fitting(command, request),
            None => Vec::new(),
        };
        let mut header = request.header.reply(0);
        match self.script.below(24) {
            0 => payload.truncate(self.script.u8().into()),
            1 => payload.extend_from_slice(self.script.bytes(16)),
            2 | 3 => {
                let at = self.script.below(payload.len().clamp(1, 256));
                let number = self.script.number().to_le_bytes();
                payload.iter_mut().skip(at).zip(number).for_each(|(to, from)| *to = from);
            }
            4 => header.command = self.script.u16(),
            5 => {
                header = request.header.error_reply(Errno::EIO);
                header.error = self.script.number() as u32;
                payload.clear();
            }
            6 => return Err(Over),
            7 => {
                let _the_client_has_gone = self.main.send(self.script.bytes(32));
                return Err(Over);
            }
            _ => {}
        }
        if command == Some(Command::Version) {
            return self.answer_version(header, &payload);
        }
        let gives =
            matches!(command, Some(Command::DeviceGetRegionInfo | Command::DeviceGetRegionIoFds));
        let most = if gives { 3 } else { usize::from(self.script.one_in(12)) };
        let fds = some_descriptors(&mut self.script, most);
        self.say(&self.main, header, &payload, &fds)
    }

    fn answer_version(&mut self, header: Header, payload: &[u8]) -> Result<(), Over> {
        let (ours, theirs) = UnixStream::pair().map_err(|_| Over)?;
        self.twin = Some(RawPeer::over(ours.into()));
        let more = usize::from(self.script.one_in(8));
        let mut fds = some_descriptors(&mut self.script, more);
        if !self.script.one_in(8) {
            fds.insert(0, theirs.as_fd());
        }
        self.say(&self.main, header, payload, &fds)
    }

    fn caps(&mut self) -> Vec<u8> {
        let supported = self.script.one_in(2);
        let mut caps = Capabilities {
            max_msg_fds: Some(self.script.pick(&[16, 1, 0])),
            max_data_xfer_size: Some(self.script.pick(&[1 << 20, 4096, 1, u64::MAX])),
            twin_socket: supported.then_some(TwinSocket { supported, fd_index: Some(0) }),
            write_multiple: Some(true),
            ..Capabilities::default()
        };
        if self.script.one_in(8) {
            caps.twin_socket =
                Some(TwinSocket { supported: true, fd_index: Some(self.script.u8().into()) });
        }
        let mut json = Vec::new();
        caps.emit(&mut json);
        json
    }

    /// A payload that the client could take.
    fn fitting(&mut self, command: Command, request: &RawMessage) -> Vec<u8> {
        let asked = &request.payload;
        let word = |at: usize| {
            let bytes = asked.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let script = &mut self.script;
        let p = Payload::default();
        match command {
            Command::Version => {
                let minor = script.pick(&[1, 0, 9]);
                let json = self.caps();
                p.u16(0).u16(minor).bytes(&json)
            }
            Command::DeviceGetInfo => p.u32(16).u32(script.u8().into()).u32(9).u32(5),
            Command::DeviceGetRegionInfo => return self.region_info(word(8)),
            Command::DeviceGetRegionIoFds => {
                let count = script.below(4) as u32;
                let p = p.u32(16 + 40 * count).u32(0).u32(word(8)).u32(count);
                (0..count).fold(p, |p, _| {
                    let p = p.u64(script.below(16) as u64).u64(script.pick(&[4, 0, 8, 3]));
                    let p = p.u32(script.below(4) as u32).u32(script.below(3) as u32);
                    p.u32(script.below(4) as u32).u32(script.below(3) as u32).u64(script.number())
                })
            }
            Command::DeviceGetIrqInfo => {
                p.u32(16).u32(script.below(16) as u32).u32(word(8)).u32(script.number() as u32)
            }
            Command::RegionRead => {
                let count = word(12);
                p.bytes(asked).bytes(&vec![0x33; count.min(1 << 20) as usize])
            }
            Command::RegionWrite => p.bytes(asked.get(..16).unwrap_or(asked)),
            Command::RegionWriteMulti => p.u64(long(0)),
            Command::DmaUnmap if word(4) == 1 => {
                let bits = bitmap_len(long(16), long(24)).unwrap_or(0).min(1 << 16);
                p.bytes(asked).bytes(&vec![0xff; bits as usize])
            }
            Command::DmaUnmap => p.bytes(asked),
            Command::DeviceFeature => match word(4) {
                0x1_0001 => p.u32(16).u32(word(4)).u64(script.below(8) as u64),
                0x1_0002 => p.u32(16).u32(word(4)).u32(script.below(8) as u32).u32(0),
                0x1_0008 => {
                    let bits = bitmap_len(long(16), long(24)).unwrap_or(0).min(1 << 16);
                    p.bytes(asked).bytes(&vec![script.u8(); bits as usize])
                }
                _ => p.bytes(asked),
            },
            Command::MigDataRead => {
                let size = word(4).min(script.u8().into());
                p.u32(8 + size).u32(size).bytes(&vec![9; size as usize])
            }
            _ => p,
        }
        .0
    }

    fn region_info(&mut self, index: u32) -> Vec<u8> {
        let script = &mut self.script;
        let size = if script.one_in(4) { script.number() } else { 64 << 10 };
        let place = |script: &mut Script<'_>| {
            let pages = |script: &mut Script<'_>| (script.below(16) as u64) << 12;
            if script.one_in(8) {
                (script.number(), script.number())
            } else {
                (pages(script), pages(script))
            }
        };
        let mut capabilities = Vec::new();
        for _ in 0..script.below(3) {
            let (offset, size) = place(script);
            capabilities.push(match script.below(4) {
                0 => RegionCapability::Type { type_: 1, subtype: 2 },
                1 => RegionCapability::SparseMmapFds(vec![FdArea {
                    offset,
                    fd_offset: script.number(),
                    size,
                    fd_index: script.below(3) as u32,
                }]),
                _ => RegionCapability::SparseMmap(vec![Area { offset, size }]),
            });
        }
        let offset = if script.one_in(4) { script.number() } else { 0 };
        let flags = RegionFlags::from_bits_retain(script.below(8) as u32 ^ 7);
        let info = RegionInfo { flags, index, size, offset, capabilities, needed_argsz: None };
        let mut payload = Vec::new();
        info.emit(&mut payload);
        payload
    }
}
