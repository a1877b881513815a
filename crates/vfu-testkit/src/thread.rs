//! What threads do, to see that one waits.

use std::fs;
use std::path::{Path, PathBuf};

/// The thread that calls, for [`thread_state`].
///
/// # Panics
/// Without `/proc`.
pub fn this_thread() -> PathBuf {
    match fs::read_link("/proc/thread-self") {
        Ok(thread) => Path::new("/proc").join(thread),
        Err(e) => panic!("/proc/thread-self: {e}"),
    }
}

/// What the kernel says that a thread of this process does: `R` if it runs or could, `S` if it sleeps.
/// `None`: it has ended.
pub fn thread_state(thread: &Path) -> Option<char> {
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
