//! What a session allows its peer, and itself.

use std::time::Duration;

/// The limits of a session. Every queue has one; reaching it has a documented answer.
///
/// The defaults are those of the concurrency model (a transfer timeout below QEMU's own 5 s,
/// queues that hold a burst but not a flood).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message accepted, header included, in bytes. A larger one ends the session.
    pub max_message: usize,
    /// Requests of ours that may wait for their reply at once, on each channel.
    /// One more is refused ([`Start::Full`](super::Start)).
    pub outstanding: usize,
    /// Requests that we gave up and whose replies the peer still owes. One more ends the session.
    pub zombies: usize,
    /// Commands of the peer that wait for the executor. When so many wait, the main socket is
    /// not read until some have been executed.
    pub queued_commands: usize,
    /// Bytes of commands that wait for the executor; as [`queued_commands`](Self::queued_commands).
    pub queued_bytes: usize,
    /// Replies that match no request. One more ends the session.
    pub stray_replies: u64,
    /// Commands of the peer on a channel where it may not send any. One more ends the session.
    pub misplaced_commands: u64,
    /// Bytes that may wait to be sent on each channel before we stop taking commands.
    pub unsent_bytes: usize,
    /// How long the peer may take to answer a request, and as long again before that until there is room
    /// for it among the others and in what waits to be sent; but a future waits for room as long as
    /// [`send_timeout`](Self::send_timeout) allows. `None`: for ever.
    pub reply_timeout: Option<Duration>,
    /// How long all DMA by message inside one call of a handler may take, its waits for room included.
    /// What comes after fails at once. `None`: for ever.
    pub handler_timeout: Option<Duration>,
    /// How long the peer may take to complete VERSION. `None`: for ever.
    pub handshake_timeout: Option<Duration>,
    /// How long a message may stay incomplete once it has begun. `None`: for ever.
    pub message_timeout: Option<Duration>,
    /// How long the peer may leave its end unread while we have something to send.
    /// `None`: for ever.
    pub send_timeout: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_message: 4096 + (1 << 20),
            outstanding: 64,
            zombies: 4096,
            queued_commands: 1024,
            queued_bytes: 8 << 20,
            stray_replies: 64,
            misplaced_commands: 64,
            unsent_bytes: 8 << 20,
            reply_timeout: Some(Duration::from_secs(2)),
            handler_timeout: Some(Duration::from_secs(4)),
            handshake_timeout: Some(Duration::from_secs(10)),
            message_timeout: Some(Duration::from_secs(10)),
            send_timeout: Some(Duration::from_secs(10)),
        }
    }
}
