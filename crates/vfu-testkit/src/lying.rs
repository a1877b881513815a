//! A server that says every byte itself: honest, but for what a test has it lie about.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use vfu_proto::wire::{
    Command, DeviceFlags, DeviceInfo, DeviceState, DirtyBitmap, DmaUnmapReply, DmaUnmapRequest,
    FeatureOp, FeatureReply, FeatureRequest, FeatureResult, IoFdsReply, IrqFlags, IrqInfo, Kind,
    MigDataReadReply, MigrationFlags, RegionFlags, RegionInfo, RegionReadReply, RegionReadRequest,
    RegionWriteReply, Reply, Request, UnmapWhat, WriteMultiReply, bitmap_len,
};

use crate::{KitError, RawListener, RawMessage, RawPeer};

/// What an honest server of one socket says in VERSION.
pub const HONEST_JSON: &str = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;

/// A server, at work on a thread, for one client. Dropping it waits for its end: drop the client before.
#[derive(Debug)]
pub struct LyingServer {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl LyingServer {
    /// Plays `script` to the first client. That the session is closed means that the client has left.
    ///
    /// # Panics
    /// The system does not let it listen; and the thread panics, and with it who waits for its end, if
    /// the script fails with anything else, or no client comes.
    pub fn new<T>(
        script: impl FnOnce(RawPeer) -> Result<T, KitError> + Send + 'static,
    ) -> LyingServer {
        let listener = RawListener::new().expect("a listening socket");
        let path = listener.path().to_path_buf();
        let thread = thread::spawn(move || {
            let peer = listener.accept().expect("a client");
            match script(peer) {
                Ok(_) | Err(KitError::Closed) => {}
                Err(e) => panic!("the lying server: {e}"),
            }
        });
        LyingServer { path, thread: Some(thread) }
    }

    /// Agrees on a session, and gives each command to `answer`, until the client leaves.
    pub fn session(
        mut answer: impl FnMut(&RawPeer, &RawMessage) -> Result<(), KitError> + Send + 'static,
    ) -> LyingServer {
        LyingServer::new(move |peer| {
            peer.answer_handshake(HONEST_JSON, &[])?;
            loop {
                let request = peer.recv()?;
                if request.header.kind() == Some(Kind::Command) {
                    answer(&peer, &request)?;
                }
            }
            #[expect(unreachable_code, reason = "names the type")]
            Ok(())
        })
    }

    /// As [`session`](Self::session), but only `command` is given to `answer`; else it is honest.
    pub fn lying_about(
        command: Command,
        mut answer: impl FnMut(&RawPeer, &RawMessage) -> Result<(), KitError> + Send + 'static,
    ) -> LyingServer {
        LyingServer::session(move |peer, request| {
            if request.header.command == command.as_u16() {
                answer(peer, request)
            } else {
                peer.send(&request.reply(&truth(request)))
            }
        })
    }

    /// Answers `command` with this payload.
    pub fn saying(command: Command, payload: Vec<u8>) -> LyingServer {
        LyingServer::lying_about(command, move |peer, request| peer.send(&request.reply(&payload)))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the script has been played.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for LyingServer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let played = thread.join();
            if !thread::panicking() {
                played.expect("the script fails with nothing but the end of the session");
            }
        }
    }
}

/// An honest answer: the payload of the reply to a command of a client.
///
/// # Panics
/// That is no command of a client.
pub fn truth(request: &RawMessage) -> Vec<u8> {
    let command = Command::from_u16(request.header.command).expect("a known command");
    let asked = Request::parse(command, &request.payload).expect("a sound command");
    let mut payload = Vec::new();
    let bits = [0x55; 4096];
    let data = [0x11; 4096];
    let mut read = Vec::new();
    let reply = match asked {
        Request::DmaMap(_) => Reply::DmaMap,
        Request::DmaUnmap(unmap) => Reply::DmaUnmap(unmapped(&unmap, &bits)),
        Request::DeviceGetInfo(_) => Reply::DeviceGetInfo(DeviceInfo {
            flags: DeviceFlags::PCI | DeviceFlags::RESET,
            num_regions: 9,
            num_irqs: 5,
        }),
        Request::DeviceGetRegionInfo(region) => Reply::DeviceGetRegionInfo(RegionInfo {
            flags: RegionFlags::READ | RegionFlags::WRITE,
            index: region.index,
            size: 0x1000,
            ..RegionInfo::default()
        }),
        Request::DeviceGetRegionIoFds(list) => {
            Reply::DeviceGetRegionIoFds(IoFdsReply { index: list.index, ..IoFdsReply::default() })
        }
        Request::DeviceGetIrqInfo(irq) => Reply::DeviceGetIrqInfo(IrqInfo {
            flags: IrqFlags::EVENTFD,
            index: irq.index,
            count: 4,
        }),
        Request::DeviceSetIrqs(_) => Reply::DeviceSetIrqs,
        Request::RegionRead(RegionReadRequest { offset, region, count }) => {
            read.resize(count as usize, 0x11);
            Reply::RegionRead(RegionReadReply { offset, region, data: &read })
        }
        Request::RegionWrite(write) => Reply::RegionWrite(RegionWriteReply {
            offset: write.offset,
            region: write.region,
            count: write.data.len() as u32,
        }),
        Request::DeviceReset => Reply::DeviceReset,
        Request::RegionWriteMulti(writes) => {
            Reply::RegionWriteMulti(WriteMultiReply { count: writes.entries().len() as u64 })
        }
        Request::DeviceFeature(feature) => Reply::DeviceFeature(featured(&feature, &bits)),
        Request::MigDataRead(read) => {
            Reply::MigDataRead(MigDataReadReply { data: &data[..read.size.min(4096) as usize] })
        }
        Request::MigDataWrite(_) => Reply::MigDataWrite,
        other => panic!("a client does not send {other:?}"),
    };
    reply.emit(&mut payload);
    payload
}

fn unmapped<'a>(unmap: &DmaUnmapRequest, bits: &'a [u8]) -> DmaUnmapReply<'a> {
    match unmap.what {
        UnmapWhat::All => unmap.reply(0x1000),
        UnmapWhat::Range { size, .. } => unmap.reply(size),
        UnmapWhat::RangeWithDirty { size, pgsize, bitmap_size, .. } => DmaUnmapReply {
            bitmap: Some(DirtyBitmap { pgsize, data: &bits[..bitmap_size as usize] }),
            ..unmap.reply(size)
        },
    }
}

fn featured<'a>(request: &FeatureRequest<'a>, bits: &'a [u8]) -> FeatureReply<'a> {
    FeatureReply::new(match request.op {
        FeatureOp::Probe { feature, get, set } => FeatureResult::Probe { feature, get, set },
        FeatureOp::GetMigration => FeatureResult::GetMigration { flags: MigrationFlags::STOP_COPY },
        FeatureOp::GetDeviceState => {
            FeatureResult::GetDeviceState { state: DeviceState::Running, data_fd: 0 }
        }
        FeatureOp::SetDeviceState { state, data_fd } => {
            FeatureResult::SetDeviceState { state, data_fd }
        }
        FeatureOp::SetLoggingStart { page_size, ranges } => {
            FeatureResult::SetLoggingStart { page_size, ranges }
        }
        FeatureOp::SetLoggingStop => FeatureResult::SetLoggingStop,
        FeatureOp::GetLoggingReport { iova, length, page_size } => {
            let len = bitmap_len(length, page_size).expect("a sound range") as usize;
            FeatureResult::GetLoggingReport { iova, length, page_size, bitmap: &bits[..len] }
        }
    })
}
