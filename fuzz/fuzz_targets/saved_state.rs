#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vfu_fuzz_targets::run("saved_state", bytes));
