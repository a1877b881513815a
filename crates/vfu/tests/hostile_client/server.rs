//! A server that says every byte itself, and the calls of a client.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vfu::client::{Client, ClientBuilder, ClientError, Memory, READ_WRITE};
use vfu::wire::{
    Command, DeviceFlags, DeviceInfo, DeviceState, DirtyBitmap, DmaUnmapReply, DmaUnmapRequest,
    FeatureOp, FeatureReply, FeatureRequest, FeatureResult, IoFdsReply, IrqFlags, IrqInfo, Kind,
    MigDataReadReply, MigrationFlags, RegionFlags, RegionInfo, RegionReadReply, RegionReadRequest,
    RegionWriteReply, Reply, Request, UnmapWhat, WriteEntry, WriteMultiReply, bitmap_len,
};
use vfu::{IrqIndex, Limits};
use vfu_testkit::{DEADLINE, KitError, RawListener, RawMessage, RawPeer};

/// What an honest server of one socket says in VERSION.
pub(crate) const JSON: &str = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;

/// A server, at work on a thread. Dropping it waits for its end: drop the client before.
pub(crate) struct Hostile {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    /// Plays `script` to the first client. An error in it means that the client has left.
    pub(crate) fn new<T>(
        script: impl FnOnce(RawPeer) -> Result<T, KitError> + Send + 'static,
    ) -> Hostile {
        let listener = RawListener::new().unwrap();
        let path = listener.path().to_path_buf();
        let thread = thread::spawn(move || {
            let peer = listener.accept().unwrap();
            match script(peer) {
                Ok(_) | Err(KitError::Closed) => {}
                Err(e) => panic!("the hostile server: {e}"),
            }
        });
        Hostile { path, thread: Some(thread) }
    }

    /// Agrees on a session, and gives each command to `answer`, until the client leaves.
    pub(crate) fn session(
        mut answer: impl FnMut(&RawPeer, &RawMessage) -> Result<(), KitError> + Send + 'static,
    ) -> Hostile {
        Hostile::new(move |peer| {
            peer.answer_handshake(JSON, &[])?;
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
    pub(crate) fn lying_about(
        command: Command,
        mut answer: impl FnMut(&RawPeer, &RawMessage) -> Result<(), KitError> + Send + 'static,
    ) -> Hostile {
        Hostile::session(move |peer, request| {
            if request.header.command == command.as_u16() {
                answer(peer, request)
            } else {
                peer.send(&request.reply(&truth(request)))
            }
        })
    }

    /// Answers `command` with this payload.
    pub(crate) fn saying(command: Command, payload: Vec<u8>) -> Hostile {
        Hostile::lying_about(command, move |peer, request| peer.send(&request.reply(&payload)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the script has been played.
    pub(crate) fn finish(self) {
        drop(self);
    }

    pub(crate) fn connect(&self) -> Client {
        patient().connect(&self.path).unwrap()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let played = thread.join();
            if !thread::panicking() {
                played.unwrap();
            }
        }
    }
}

/// A client that gives up only when a test has failed.
pub(crate) fn patient() -> ClientBuilder {
    let never = Some(DEADLINE);
    let limits = Limits {
        reply_timeout: never,
        handshake_timeout: never,
        message_timeout: never,
        send_timeout: never,
        ..Limits::default()
    };
    Client::builder().limits(limits).twin_socket(false)
}

/// A client that gives up soon.
pub(crate) fn hasty() -> ClientBuilder {
    let soon = Some(Duration::from_millis(60));
    let limits = Limits {
        reply_timeout: soon,
        message_timeout: soon,
        send_timeout: soon,
        ..Limits::default()
    };
    Client::builder().limits(limits).twin_socket(false)
}

/// A hasty client of a server. On a slow machine even VERSION may be late: then of another one.
pub(crate) fn hasty_client(make: impl Fn() -> Hostile) -> (Hostile, Client) {
    loop {
        let server = make();
        match hasty().connect(server.path()) {
            Ok(client) => return (server, client),
            Err(ClientError::TimedOut(Command::Version)) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// An honest answer.
pub(crate) fn truth(request: &RawMessage) -> Vec<u8> {
    let command = Command::from_u16(request.header.command).unwrap();
    let asked = Request::parse(command, &request.payload).unwrap();
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
            let len = bitmap_len(length, page_size).unwrap() as usize;
            FeatureResult::GetLoggingReport { iova, length, page_size, bitmap: &bits[..len] }
        }
    })
}

/// The result of a call.
pub(crate) type Called = Result<(), ClientError>;

/// The command that a call takes, and how to call it.
type Call = (Command, fn(&Client) -> Called);

/// Every call of a client that waits for a reply.
/// Those before it in the list have been called with success if it needs them.
pub(crate) const CALLS: [Call; 22] = [
    (Command::DeviceGetInfo, |client| client.device_info().map(drop)),
    (Command::DeviceGetRegionInfo, |client| client.region_info(0).map(drop)),
    (Command::DeviceGetRegionInfo, |client| client.map_region(0).map(drop)),
    (Command::DeviceGetRegionIoFds, |client| client.region_io_fds(0).map(drop)),
    (Command::DeviceGetRegionIoFds, |client| client.doorbells(0).map(drop)),
    (Command::DeviceGetIrqInfo, |client| client.irq_info(IrqIndex::Msix).map(drop)),
    (Command::DeviceSetIrqs, |client| client.disable_irqs(IrqIndex::Msix)),
    (Command::RegionRead, |client| client.region_read(0, 0x10, &mut [0; 8])),
    (Command::RegionWrite, |client| client.region_write(0, 0x10, &[1; 8])),
    (Command::RegionWriteMulti, |client| {
        let entry = WriteEntry::new(0, 0, &[1; 4]).unwrap();
        client.region_write_multi(&[entry, entry]).map(drop)
    }),
    (Command::DmaMap, |client| client.dma_map(0x1000, 0x1000, READ_WRITE, Memory::Nothing)),
    (Command::DmaUnmap, |client| client.dma_unmap(0x1000, 0x1000).map(drop)),
    (Command::DmaUnmap, |client| client.dma_unmap_all()),
    (Command::DeviceReset, |client| client.reset()),
    (Command::DeviceFeature, |client| client.migration().map(drop)),
    (Command::DeviceFeature, |client| client.device_state().map(drop)),
    (Command::DeviceFeature, |client| client.set_device_state(DeviceState::Stop)),
    (Command::DeviceFeature, |client| client.has_dma_logging().map(drop)),
    (Command::DeviceFeature, |client| client.start_dma_logging(4096).map(drop)),
    (Command::DeviceFeature, |client| client.stop_dma_logging()),
    (Command::MigDataRead, |client| client.read_state(&mut Vec::new()).map(drop)),
    (Command::MigDataWrite, |client| client.write_state(&[1; 100])),
];
