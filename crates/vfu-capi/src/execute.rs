//! One command: what it does, and its reply.

use std::cell::Cell;
use std::ffi::c_int;
use std::os::fd::{BorrowedFd, OwnedFd};

use vfu::raw::{Command, Session};
use vfu::wire::{
    Command as Name, DeviceFlags, DeviceInfo, DeviceInfoRequest, Errno, HEADER_SIZE, Header,
    IoFdsRequest, IrqFlags, IrqInfo, IrqInfoRequest, RegionInfoRequest, RegionReadReply,
    RegionReadRequest, RegionWriteRequest, SetIrqs, WriteMulti, WriteMultiReply,
};

use crate::ctx::Context;
use crate::errno::{self, EINVAL, ENOMEM, checked};
use crate::log::{ERR, INFO};
use crate::setup::{IRQ_TYPES, REGIONS, irq_type};

/// `VFU_RESET_DEVICE`, `VFU_RESET_LOST_CONN`, `VFU_RESET_PCI_FLR`.
pub(crate) const RESET_DEVICE: c_int = 0;
pub(crate) const RESET_LOST_CONN: c_int = 1;
pub(crate) const RESET_FLR: c_int = 2;

/// A buffer that is larger than this is not kept.
const KEPT: usize = 64 << 10;

thread_local! {
    static BUFFERS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends a buffer of this thread's, with room for a header. A nested call gets one of its own.
fn with_buffer<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    BUFFERS.with(|cell| {
        let mut buffer = cell.take();
        buffer.clear();
        buffer.resize(HEADER_SIZE, 0);
        let result = f(&mut buffer);
        buffer.truncate(KEPT);
        buffer.shrink_to(KEPT);
        cell.set(buffer);
        result
    })
}

impl Context {
    /// Executes a command and answers it. False: it failed, and errno says why.
    pub(crate) fn execute(&self, session: &Session, mut command: Command) {
        let header = command.header();
        let fds = command.take_fds();
        with_buffer(|out| {
            let mut send = Vec::new();
            match self.handle(&header, command.payload(), fds, out, &mut send) {
                Ok(()) => {
                    // SAFETY: the program's descriptors, which stay open as long as its context.
                    let send = send.iter().map(|fd| unsafe { BorrowedFd::borrow_raw(*fd) });
                    session.reply(&header, out, &send.collect::<Vec<_>>());
                }
                Err(e) => {
                    self.log_seldom(
                        ERR,
                        "command failed",
                        format_args!("{} with errno {e}", header.command),
                    );
                    session.refuse(&header, e as u32);
                    // The program may look for the errno of its callback.
                    errno::set(e);
                }
            }
        });
        session.recycle(command);
    }

    /// Does what a command asks for; the reply's payload goes to `out`, behind its header.
    fn handle(
        &self,
        header: &Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        out: &mut Vec<u8>,
        send: &mut Vec<c_int>,
    ) -> Result<(), c_int> {
        let raw = Errno::raw;
        match Name::from_u16(header.command).ok_or(EINVAL)? {
            Name::RegionRead => self.region_read(payload, out),
            Name::RegionWrite => {
                let request = RegionWriteRequest::parse(payload).map_err(raw)?;
                self.region_write(&request)?;
                if !request.data.is_empty() {
                    request.reply().emit(out);
                }
                Ok(())
            }
            Name::RegionWriteMulti => {
                let session = self.session().ok_or(EINVAL)?;
                if !session.may_write_multiple(self.station()) {
                    return Err(EINVAL); // VERSION has not agreed on it
                }
                let writes = WriteMulti::parse(payload).map_err(raw)?;
                // The first bad one ends it; the reply says how far it came.
                let made = writes.iter().map_while(|write| {
                    let (offset, region) = (write.offset(), write.region());
                    self.region_write(&RegionWriteRequest { offset, region, data: write.data() })
                        .ok()
                });
                WriteMultiReply { count: made.count() as u64 }.emit(out);
                Ok(())
            }
            Name::DmaMap => self.dma_map(payload, fds),
            Name::DmaUnmap => self.dma_unmap(payload, out),
            Name::DeviceGetInfo => {
                DeviceInfoRequest::parse(payload).map_err(raw)?;
                let flags = DeviceFlags::RESET | DeviceFlags::PCI;
                let (num_regions, num_irqs) = (REGIONS as u32, IRQ_TYPES as u32);
                DeviceInfo { flags, num_regions, num_irqs }.emit(out);
                Ok(())
            }
            Name::DeviceGetRegionInfo => {
                self.region_info(RegionInfoRequest::parse(payload).map_err(raw)?, out, send)
            }
            Name::DeviceGetRegionIoFds => {
                self.region_io_fds(IoFdsRequest::parse(payload).map_err(raw)?, out, send)
            }
            Name::DeviceGetIrqInfo => {
                let request = IrqInfoRequest::parse(payload).map_err(raw)?;
                let index = irq_type(c_int::try_from(request.index).map_err(|_| EINVAL)?)?;
                let count = self.setup().irq_counts.0[index];
                IrqInfo { flags: IrqFlags::EVENTFD, index: request.index, count }.emit(out);
                Ok(())
            }
            Name::DeviceSetIrqs => self.set_irqs(&SetIrqs::parse(payload).map_err(raw)?, fds),
            Name::DeviceReset => {
                self.log(INFO, format_args!("reset by the client"));
                self.reset(RESET_DEVICE)?;
                self.end_migration();
                Ok(())
            }
            Name::DeviceFeature => self.feature(payload, out),
            Name::MigDataRead => self.mig_data_read(payload, out),
            Name::MigDataWrite => self.mig_data_write(payload),
            Name::Version | Name::DmaRead | Name::DmaWrite => Err(EINVAL),
        }
    }

    fn region_read(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), c_int> {
        let request = RegionReadRequest::parse(payload).map_err(Errno::raw)?;
        let region = self.check_access(request.region, request.offset, request.count.into())?;
        if request.count == 0 {
            return Ok(());
        }
        RegionReadReply::emit_head(&request, out);
        let start = out.len();
        out.try_reserve(request.count as usize).map_err(|_| ENOMEM)?;
        out.resize(start + request.count as usize, 0);
        self.access(region, request.offset, &mut out[start..], false)
    }

    fn region_write(&self, request: &RegionWriteRequest<'_>) -> Result<(), c_int> {
        let RegionWriteRequest { region, offset, data } = *request;
        let region = self.check_access(region, offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        // The callback may change what it gets.
        let mut small = [0; 8];
        if let Some(copy) = small.get_mut(..data.len()) {
            copy.copy_from_slice(data);
            return self.access(region, offset, copy, true);
        }
        with_buffer(|copy| {
            copy.clear();
            copy.try_reserve(data.len()).map_err(|_| ENOMEM)?;
            copy.extend_from_slice(data);
            self.access(region, offset, copy, true)
        })
    }

    /// The device goes back to its state at power-on, as far as that is the program's; gives what that
    /// said.
    pub(crate) fn reset(&self, kind: c_int) -> Result<c_int, c_int> {
        self.station().cancel();
        self.irqs.forget();
        let Some(reset) = self.setup().reset else { return Ok(0) };
        self.station().notify(|| {
            // SAFETY: the program's callback, called as the header says.
            checked(|| unsafe { reset(self.as_ptr(), kind) })
        })
    }

    /// The client wrote Initiate Function Level Reset.
    pub(crate) fn function_reset(&self) -> Result<(), c_int> {
        match self.reset(RESET_FLR)? {
            0 => Ok(()),
            _ => Err(EINVAL),
        }
    }
}
