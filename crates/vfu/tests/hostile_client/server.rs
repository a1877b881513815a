//! A server that says every byte itself, and the calls of a client.

use std::time::Duration;

use vfu::client::{Client, ClientBuilder, ClientError, Memory, READ_WRITE};
use vfu::wire::{Command, DeviceState, WriteEntry};
use vfu::{IrqIndex, Limits};
use vfu_testkit::DEADLINE;

pub(crate) use vfu_testkit::{HONEST_JSON as JSON, LyingServer as Hostile, truth};

/// A patient client of a server.
pub(crate) fn connect(server: &Hostile) -> Client {
    patient().connect(server.path()).unwrap()
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
