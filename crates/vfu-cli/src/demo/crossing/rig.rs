//! The DMA test device and the one that drives it, in this process.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use vfu::server::Running;
use vfu::{Client, Handle, Limits, Reentrant, Server};
use vfu_devices::DmaTest;
use vfu_devices::dmatest;
use vfu_testkit::{MessageRam, Vmm};

/// Memory that stays.
pub(super) const RAM: u64 = 0x100_0000;
/// How much, in bytes.
pub(super) const RAM_SIZE: usize = 1 << 20;
/// What one transfer moves, in bytes.
pub(super) const PAGE: usize = 4096;
/// BAR 0.
pub(super) const BAR: u32 = 0;

/// Either end waits so long for the other one: what is shown is that nothing gets lost, on however slow
/// a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client is dropped first.
pub(super) struct Rig {
    pub(super) vmm: Vmm,
    pub(super) ram: Arc<MessageRam>,
    /// The device's way to the memory.
    pub(super) handle: Handle,
    _server: Running<Reentrant<DmaTest>>,
}

impl Rig {
    pub(super) fn new(twin: bool) -> anyhow::Result<Rig> {
        let (near, far) = UnixStream::pair().context("a socket pair")?;
        let patience = Some(PATIENCE);
        let limits =
            Limits { reply_timeout: patience, handler_timeout: patience, ..Limits::default() };
        let server = Server::builder(dmatest::pci()).limits(limits).fd(far.into())?;
        let server = server.serve_shared(DmaTest::new)?;
        let handle = server.handle();
        let server = server.spawn();
        let client = Client::builder().timeout(patience).twin_socket(twin);
        let vmm = Vmm::over(client.connect_fd(near.into())?);
        ensure!(vmm.client().has_twin_socket() == twin, "not the sockets that were asked for");
        vmm.enumerate()?;
        let ram = vmm.message_ram(RAM, RAM_SIZE)?;
        Ok(Rig { vmm, ram, handle, _server: server })
    }

    /// Checks that no message got lost, or came where it should not, in the session so far.
    pub(super) fn is_sound(&self) -> anyhow::Result<()> {
        let device = self.handle.counters().context("the session has ended")?;
        for (end, counters) in [("device", device), ("client", self.vmm.client().counters())] {
            let wrong = (counters.timeouts, counters.stray_replies, counters.misplaced_commands);
            ensure!(wrong == (0, 0, 0), "the {end} counts {counters:?}");
        }
        Ok(())
    }
}

/// Per second.
pub(super) fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}

/// What is written in a round: no two rounds alike.
pub(super) fn pattern(round: u64) -> [u8; PAGE] {
    let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
}
