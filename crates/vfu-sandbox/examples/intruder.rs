//! A device in a sandbox that tries what it should not; `tests/tries.rs` drives it.
//!
//!     intruder FOLDER
//!
//! listens at FOLDER/socket. A write of n to offset 0 of BAR 0 makes it try number n of the table; a read gives what came of it.

use std::path::PathBuf;

use vfu::{Access, Bar, Device, Fault, Pci, Server};

#[path = "../tests/tries/table.rs"]
mod table;

/// A write of n to BAR 0 tries number n; a read gives what came of it: 0, or an error number.
struct Intruder {
    folder: PathBuf,
    came: u32,
}

impl Device for Intruder {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        at.give(data, &self.came.to_le_bytes());
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        let number = at.u32(data)? as usize;
        let (_, attempt) =
            table::DENIED.iter().chain(table::ALLOWED).nth(number).ok_or(Fault::Unmodelled)?;
        self.came = match attempt(&self.folder) {
            Ok(()) => 0,
            Err(e) => e.raw_os_error().map_or(u32::MAX, i32::unsigned_abs),
        };
        Ok(())
    }
}

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("usage: intruder FOLDER"));
    let pci = Pci::endpoint(0x1234, 1).bar(0, Bar::mem32(4096));
    let bound = Server::builder(pci).listen(folder.join("socket")).unwrap();
    let entered = vfu_sandbox::enter().unwrap();
    eprintln!("listening; missing {:?}", entered.missing);
    bound.run(|_handle| Intruder { folder, came: 0 }).unwrap();
}
