//! Counting descriptors, to find leaks.

/// How many descriptors this process has open now.
///
/// Tests that run in parallel threads open descriptors too: count in a test binary of its own.
///
/// # Panics
/// Without `/proc`.
pub fn fd_count() -> usize {
    match std::fs::read_dir("/proc/self/fd") {
        // One of them is the folder's own.
        Ok(entries) => entries.count() - 1,
        Err(e) => panic!("/proc/self/fd: {e}"),
    }
}
