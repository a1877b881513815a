//! Moving bytes, piece by piece.

use super::session::{Serve, ServeAs};
use super::station::Station;
use crate::dma::{Buffer, DmaError, DmaFuture, How, Transfer, copy_at_once, run_to_end};

/// Whether memory that the client shared is reached without messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// Where that is possible.
    Allowed,
    /// Nowhere.
    Refused,
}

/// A piece of the client's memory, and the bytes that go there or come from there.
#[derive(Debug)]
pub enum Piece {
    /// Filled from an address.
    Read(u64, &'static mut [u8]),
    /// Written to an address.
    Write(u64, &'static [u8]),
}

/// What is called when pieces have been moved.
pub type Done = Box<dyn FnOnce(Result<(), DmaError>) + Send>;

impl Station {
    /// Fills `to` from the client's memory, a message at a time if it takes messages, and has commands
    /// served meanwhile if there is somebody for that. While the device is quiesced, and in what
    /// [`notify`](Self::notify) runs, only memory that the client shared is reached, and only directly.
    ///
    /// # Errors
    /// See [`DmaError`].
    pub fn read(
        &self,
        address: u64,
        to: &mut [u8],
        direct: Direct,
        serve: Option<&dyn Serve>,
    ) -> Result<(), DmaError> {
        if direct == Direct::Allowed && copy_at_once(&self.shared, address, Buffer::Read(to)) {
            return Ok(());
        }
        self.block(Transfer::with(&self.shared, address, Buffer::Read(to), self.how(direct)), serve)
    }

    /// Writes `from` to the client's memory; as [`read`](Self::read).
    ///
    /// # Errors
    /// See [`DmaError`].
    pub fn write(
        &self,
        address: u64,
        from: &[u8],
        direct: Direct,
        serve: Option<&dyn Serve>,
    ) -> Result<(), DmaError> {
        if direct == Direct::Allowed && copy_at_once(&self.shared, address, Buffer::Write(from)) {
            return Ok(());
        }
        self.block(
            Transfer::with(&self.shared, address, Buffer::Write(from), self.how(direct)),
            serve,
        )
    }

    /// While no message may be sent, memory is there all the same.
    fn how(&self, direct: Direct) -> How {
        match direct {
            Direct::Refused => How::Messages,
            Direct::Allowed if self.shared.may_dma() == Err(DmaError::Busy) => How::Memory,
            Direct::Allowed => How::Shortest,
        }
    }

    fn block(&self, transfer: Transfer<'_>, serve: Option<&dyn Serve>) -> Result<(), DmaError> {
        let (transfer, asker) = (transfer.one_by_one(), self.shared.asker());
        match serve {
            Some(serve) => transfer.block_as(&asker.serving(&ServeAs(serve))),
            None => transfer.block_as(&asker),
        }
    }

    /// Moves pieces, one after the other, and then calls `done`, once, from whatever thread comes to
    /// know: this one if no message is needed, else one that reads the session's sockets.
    pub fn move_all(&self, pieces: Vec<Piece>, direct: Direct, done: Done) {
        let (shared, how) = (self.shared.clone(), self.how(direct));
        run_to_end(async move {
            let mut result = Ok(());
            for piece in pieces {
                let (address, buffer) = match piece {
                    Piece::Read(address, to) => (address, Buffer::Read(to)),
                    Piece::Write(address, from) => (address, Buffer::Write(from)),
                };
                let transfer = Transfer::with(&shared, address, buffer, how);
                result = DmaFuture::new(transfer).await;
                if result.is_err() {
                    break;
                }
            }
            done(result);
        });
    }
}
