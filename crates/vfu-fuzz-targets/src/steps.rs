//! How many steps the targets have taken: an input is many of them.

use std::sync::atomic::{AtomicU64, Ordering};

static STEPS: AtomicU64 = AtomicU64::new(0);

/// The file that [`add`] tells now and then.
const FILE: &str = "VFU_FUZZ_STEPS";
const NOW_AND_THEN: u64 = 1 << 16;

/// How many by now.
pub fn taken() -> u64 {
    STEPS.load(Ordering::Relaxed)
}

/// So many more. Whoever watches this process reads the file named by `VFU_FUZZ_STEPS`.
pub(crate) fn add(steps: u64) {
    let before = STEPS.fetch_add(steps, Ordering::Relaxed);
    let after = before + steps;
    if before / NOW_AND_THEN != after / NOW_AND_THEN {
        if let Some(file) = std::env::var_os(FILE) {
            let _nobody_watches = std::fs::write(file, after.to_string());
        }
    }
}
