//! What happened in a session that its user did not see.

/// Counts of a session's rarer events, for logs and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands received.
    pub commands: u64,
    /// Replies received that completed a request.
    pub replies: u64,
    /// Replies to requests that had been given up; drained and dropped.
    pub late_replies: u64,
    /// Replies that matched no request; drained and dropped.
    pub stray_replies: u64,
    /// Commands on a channel where the peer may not send any; refused.
    pub misplaced_commands: u64,
    /// Requests whose reply did not come in time.
    pub timeouts: u64,
    /// Requests given up because of a reset, an unmap or a stop.
    pub canceled: u64,
    /// The most commands that ever waited at once.
    pub queue_peak: usize,
}
