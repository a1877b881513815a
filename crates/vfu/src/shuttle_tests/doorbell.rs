//! A device that sleeps beside doorbells in memory.

use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use super::check;
use crate::doorbell::{Doorbell, Watch};
use crate::memory::SharedMemory;

/// The word that says that the device sleeps.
const FLAG: u64 = 64;

/// Every ring is seen, though nothing but the driver wakes the device; and the end is not waited for
/// in vain, wherever the device is then.
#[test]
fn no_ring_is_lost_and_it_ends() {
    check(|| {
        let memory = SharedMemory::new(4096).unwrap();
        let bell = Doorbell::new().unwrap();
        let seen = Arc::new((Mutex::new([0; 2]), Condvar::new()));
        let watch = Watch::over(&memory, 0, 2).sleep_flag(FLAG).doorbell(&bell);
        let told = seen.clone();
        let watching = watch.spin(Duration::ZERO).build().unwrap().spawn(move |ring| {
            told.0.lock().unwrap()[ring.index as usize] = ring.value;
            told.1.notify_all();
        });
        let watching = watching.unwrap();
        let driver = |word: u32| {
            let (memory, bell, seen) = (memory.clone(), bell.clone(), seen.clone());
            move || {
                for value in 1..3 {
                    memory.write_u32(4 * u64::from(word), value).unwrap();
                    thread::yield_now();
                    if memory.read_u32(FLAG) != Ok(0) {
                        bell.ring();
                    }
                }
                let mut values = seen.0.lock().unwrap();
                while values[word as usize] != 2 {
                    values = seen.1.wait(values).unwrap();
                }
            }
        };
        let drivers = [thread::spawn(driver(0)), thread::spawn(driver(1))];
        drivers.into_iter().for_each(|driver| driver.join().unwrap());
        drop(watching);
    });
}
