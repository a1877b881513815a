//! A clock that jumps. All that waits goes by clocks that do not: of the standard library `Instant`, and
//! what takes a length of time (condition variables, `poll`, SO_RCVTIMEO), of the kernel
//! CLOCK_MONOTONIC. This looks that it stays so; to set the clock of a machine is not for a test.

use std::path::{Path, PathBuf};

/// What reads the time of day.
const TIME_OF_DAY: [&str; 6] =
    ["SystemTime", "UNIX_EPOCH", "REALTIME", "Realtime", "gettimeofday", "TFD_TIMER_ABSTIME"];

fn sources(folder: &Path, to: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, to);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            to.push(path);
        }
    }
}

#[test]
fn nothing_goes_by_the_time_of_day() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for name in ["vfu", "vfu-proto", "vfu-devices", "vfu-capi", "vfu-cli"] {
        sources(&crates.join(name).join("src"), &mut files);
    }
    assert!(files.len() > 100, "{} files", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for name in TIME_OF_DAY {
            assert!(!text.contains(name), "{}: {name}", file.display());
        }
    }
}
