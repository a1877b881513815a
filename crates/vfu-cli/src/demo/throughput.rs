//! How fast a device moves memory, without a device's own work around it.

use std::time::{Duration, Instant};

use vfu::Handle;
use vfu_testkit::Vmm;

use super::stage::Seen;

const AT: u64 = 0x200_0000;
const SIZE: usize = 1 << 20;
/// How long each kind is moved.
const BUDGET: Duration = Duration::from_millis(150);

/// Reads and writes 1 MiB at a time, for a fixed time, directly and by messages.
pub(super) fn measure(vmm: &Vmm, handle: &Handle) -> anyhow::Result<Seen> {
    let _shared = vmm.share_ram(AT, SIZE as u64)?;
    let shared = rate(handle)?;
    vmm.client().dma_unmap(AT, SIZE as u64)?;
    let _by_messages = vmm.message_ram(AT, SIZE)?;
    let messages = rate(handle)?;
    vmm.client().dma_unmap(AT, SIZE as u64)?;
    let text = format!(
        "{shared:.0} MiB/s in shared memory, {messages:.0} MiB/s by messages, 1 MiB at a time"
    );
    Ok(Seen::from(text).figure("shared_mib_per_s", shared).figure("messages_mib_per_s", messages))
}

/// In MiB per second.
fn rate(handle: &Handle) -> anyhow::Result<f64> {
    let (dma, mut block) = (handle.dma(), vec![0; SIZE]);
    let (began, mut moved) = (Instant::now(), 0u32);
    while began.elapsed() < BUDGET {
        dma.read(AT, &mut block)?;
        dma.write(AT, &block)?;
        moved += 2;
    }
    Ok(f64::from(moved) / began.elapsed().as_secs_f64())
}
