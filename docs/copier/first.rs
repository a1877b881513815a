//! The device at its smallest: two registers, and nothing is copied yet.

use vfu::{Access, Device, Fault};

/// Two addresses, kept.
#[derive(Debug, Default)]
pub struct Copier {
    source: u64,
    target: u64,
}

impl Device for Copier {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        match at.offset {
            0x00 => at.give(data, b"copy"),
            0x08 => at.give(data, &self.source.to_le_bytes()),
            0x10 => at.give(data, &self.target.to_le_bytes()),
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        match at.offset {
            0x08 => self.source = at.u64(data)?,
            0x10 => self.target = at.u64(data)?,
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }
}
