//! What `./demo` shows: one guest, two devices.

use std::time::Instant;

use anyhow::Result;

use crate::guest::{Device, Machine};
use crate::lab::Lab;
use crate::suite::show_tails;

/// Boots it, and prints what it says.
///
/// # Errors
///
/// If anything inside the guest was not as it should be.
pub fn run() -> Result<()> {
    let lab = Lab::open()?;
    let bench = lab.bench("demo")?;
    let start = Instant::now();
    let (idio16, edu) = (bench.serve("idio16")?, bench.serve("edu")?);
    println!("Two programs serve a device each:");
    println!("  vfu serve idio16 --socket-path {}", idio16.socket().display());
    println!("  vfu serve edu    --socket-path {}", edu.socket().display());
    println!("A Debian guest starts under QEMU with both of them attached.");
    let devices =
        vec![Device::vfio_user("gpio0", idio16.socket()), Device::vfio_user("edu0", edu.socket())];
    let script = include_str!("../inside/demo.sh");
    let machine = Machine { aloud: true, ..Machine::new(script, devices) };
    if let Err(error) = bench.boot(&machine).and_then(|guest| guest.finish()) {
        show_tails(bench.logs());
        return Err(error);
    }
    println!("The guest is off again, after {:.1} s.", start.elapsed().as_secs_f32());
    Ok(())
}
