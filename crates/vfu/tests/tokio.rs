//! A server as a task of a tokio runtime, and DMA by its tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use vfu::{Access, Bar, Device, DmaError, Fault, Handle, Pci, Server};
use vfu_testkit::{Vmm, within};

/// A write starts a task that copies a page from 0x10_0000 to 0x10_8000.
struct Copier {
    handle: Handle,
    done: Arc<AtomicU32>,
}

impl Device for Copier {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        at.give(data, &self.done.load(Ordering::SeqCst).to_le_bytes());
        Ok(())
    }

    fn region_write(&mut self, _: Access, _: &[u8]) -> Result<(), Fault> {
        let (dma, irq, done) = (self.handle.dma(), self.handle.vector(0), self.done.clone());
        tokio::spawn(async move {
            let mut page = [0; 4096];
            dma.read_async(0x10_0000, &mut page).await?;
            dma.write_async(0x10_8000, &page).await?;
            done.fetch_add(1, Ordering::SeqCst);
            irq.trigger().ok();
            Ok::<(), DmaError>(())
        });
        Ok(())
    }
}

fn work(path: std::path::PathBuf, twin: bool) {
    let vmm = if twin { Vmm::connect(&path) } else { Vmm::connect_single(&path) }.unwrap();
    let function = vmm.enumerate().unwrap();
    let msix = vmm.enable_msix(&function, 1).unwrap();
    let ram = vmm.message_ram(0x10_0000, 0x10000).unwrap();
    for round in 1..=50u32 {
        let page: Vec<u8> = (0..4096u32).map(|i| (i * round) as u8).collect();
        ram.store(0x10_0000, &page).unwrap();
        vmm.write32(0, 0, 1).unwrap();
        msix.wait(0).unwrap();
        assert_eq!(vmm.read32(0, 0).unwrap(), round);
        assert_eq!(ram.bytes(0x10_8000, 4096).unwrap(), page);
    }
}

#[test]
fn a_task_serves_and_tasks_do_dma() {
    for twin in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copier.sock");
        let pci = Pci::endpoint(0x1234, 0x0001).bar(0, Bar::mem32(4096)).msix(1);
        let bound = Server::builder(pci).listen(&path).unwrap();
        let done = Arc::default();
        let mut server = bound.serve(|handle| Copier { handle, done }).unwrap();
        let stopper = server.stopper();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let client = std::thread::spawn(move || {
            work(path, twin);
            stopper.stop();
        });
        within("the server's end", move || runtime.block_on(server.run_async()).unwrap());
        client.join().unwrap();
    }
}

/// The peer does not answer: the future ends by its deadline, though no thread waits for it.
#[test]
fn a_future_times_out_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copier.sock");
    let pci = Pci::endpoint(0x1234, 0x0001).bar(0, Bar::mem32(4096));
    let limits =
        vfu::Limits { reply_timeout: Some(Duration::from_millis(50)), ..Default::default() };
    let bound = Server::builder(pci).limits(limits).listen(&path).unwrap();
    let mut server = bound.serve(|handle| Copier { handle, done: Arc::default() }).unwrap();
    let (dma, stopper) = (server.handle().dma(), server.stopper());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let client = std::thread::spawn(move || {
        let vmm = Vmm::connect(&path).unwrap();
        vmm.enumerate().unwrap();
        let ram = vmm.message_ram(0, 4096).unwrap();
        ram.hold();
        let (sender, receiver) = std::sync::mpsc::channel();
        dma.read_then(0, 16, move |result| sender.send(result).unwrap());
        assert_eq!(receiver.recv().unwrap(), Err(DmaError::TimedOut));
        stopper.stop();
    });
    within("the server's end", move || runtime.block_on(server.run_async()).unwrap());
    client.join().unwrap();
}
