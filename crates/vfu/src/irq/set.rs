//! DEVICE_SET_IRQS: what the client arranges.

use std::ops::Range;
use std::os::fd::OwnedFd;

use tracing::debug;
use vfu_proto::wire::{Errno, IrqAction, IrqData, SetIrqs};

use super::IrqIndex;
use super::eventfd::EventFd;
use super::table::{Irqs, State, Vector};

impl Irqs {
    /// Does what DEVICE_SET_IRQS asks for (specification, "VFIO_USER_DEVICE_SET_IRQS").
    ///
    /// # Errors
    /// `EINVAL`: a range beyond the vectors, a wrong number of descriptors, or one that is no
    /// eventfd; or eventfds that are to mask and unmask, which nobody here would read. Nothing has
    /// changed then.
    pub(crate) fn set(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let index = IrqIndex::from_u32(request.index).ok_or(Errno::EINVAL)?;
        let mut state = self.lock();
        let count = state.vectors[index as usize].len();
        let disable = request.action == IrqAction::Trigger
            && request.data == IrqData::None
            && request.count == 0;
        let start = request.start as usize;
        let end = start.checked_add(request.count as usize).ok_or(Errno::EINVAL)?;
        if end > count || (start >= count && !disable) || (start > 0 && disable) {
            return Err(Errno::EINVAL);
        }
        let assign = request.action == IrqAction::Trigger && request.data == IrqData::EventFd;
        if !fds.is_empty() && !assign {
            return Err(Errno::EINVAL);
        }
        if matches!(index, IrqIndex::Err | IrqIndex::Req) && request.action != IrqAction::Trigger {
            return Err(Errno::EINVAL);
        }
        match (request.action, request.data) {
            (IrqAction::Trigger, IrqData::None) if disable => state.disable(index),
            (IrqAction::Trigger, IrqData::EventFd) => state.assign(index, start..end, fds)?,
            // It takes away the eventfds that are to mask, and there are none.
            (IrqAction::Mask | IrqAction::Unmask, IrqData::EventFd) => return Ok(()),
            (IrqAction::Trigger, data) => {
                for vector in chosen(&mut state.vectors[index as usize][start..end], data) {
                    if vector.masked {
                        vector.pending = true;
                    } else {
                        let _not_assigned = vector.signal();
                    }
                }
            }
            (IrqAction::Mask, data) => {
                for vector in chosen(&mut state.vectors[index as usize][start..end], data) {
                    vector.masked = true;
                }
            }
            (IrqAction::Unmask, data) => {
                for vector in chosen(&mut state.vectors[index as usize][start..end], data) {
                    vector.masked = false;
                    if index == IrqIndex::Intx {
                        vector.pending = false;
                    }
                }
            }
        }
        if index == IrqIndex::Intx {
            state.signal_pin();
        } else {
            state.settle(index, start..end, self.now());
        }
        Ok(())
    }
}

impl State {
    fn assign(
        &mut self,
        index: IrqIndex,
        range: Range<usize>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Errno> {
        if fds.is_empty() {
            for vector in &mut self.vectors[index as usize][range] {
                vector.eventfd = None;
            }
            return Ok(());
        }
        if fds.len() != range.len() {
            return Err(Errno::EINVAL);
        }
        let eventfd = |fd| EventFd::new(fd, &self.distrust);
        let eventfds = fds.into_iter().map(eventfd).collect::<Result<Vec<_>, _>>();
        let eventfds =
            eventfds.inspect_err(|_| debug!("SET_IRQS with something else than eventfds"))?;
        for (vector, eventfd) in self.vectors[index as usize][range].iter_mut().zip(eventfds) {
            vector.eventfd = Some(eventfd);
        }
        Ok(())
    }
}

/// The vectors that the data picks: all, or those with a byte that is not zero.
fn chosen<'a>(
    vectors: &'a mut [Vector],
    data: IrqData<'a>,
) -> impl Iterator<Item = &'a mut Vector> {
    vectors.iter_mut().enumerate().filter_map(move |(i, vector)| match data {
        IrqData::Bool(bytes) => (bytes.get(i).copied().unwrap_or(0) != 0).then_some(vector),
        IrqData::None | IrqData::EventFd => Some(vector),
    })
}
