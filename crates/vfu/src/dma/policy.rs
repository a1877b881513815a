//! How far a peer is trusted that shares memory by file descriptor.

use vfu_proto::wire::AccessMode;

/// What is done about memory files whose pages may go away.
///
/// A process that touches a mapped page which its file does not have gets `SIGBUS`, and dies of it. A
/// peer can bring that about at any time: it cuts its file short, gives one that is sparse on a full
/// filesystem, or takes huge pages back. A memfd that is sealed against shrinking (`F_SEAL_SHRINK`) can't
/// be cut short; it is found out, and nothing is spent on it (unless it has huge pages).
///
/// | policy | how memory is reached | a page that goes away | costs |
/// |---|---|---|---|
/// | [`Trusting`](Self::Trusting) | mapped | ends the process | nothing |
/// | [`Guarded`](Self::Guarded) | mapped | is an error | some instructions for an access; a handler of `SIGBUS` |
/// | [`Copying`](Self::Copying) | `pread`, `pwrite` | is an error | a system call for an access; no leases |
/// | [`Sealed`](Self::Sealed) | mapped, if sealed | can't be | nothing; files that are not sealed are refused |
///
/// # The guard
///
/// It is a handler of `SIGBUS`, put in place once, when the first file that needs it is mapped. Where a page
/// is missing it puts an empty page of this process' own, and the access ends with an error
/// ([`DmaError::File`](super::DmaError::File)). That file's mapping is then given up, and what is left of the
/// file is read and written. Any other `SIGBUS` goes to the handler that was there before, or does what it
/// did without one.
///
/// For the program around it that means:
///
/// * Who handles `SIGBUS` too either does so first, or hands what is not his to the handler that he finds.
/// * A thread that touches shared memory does not block `SIGBUS`: the kernel does not ask the handler then.
/// * [`Trusting`](Self::Trusting), [`Copying`](Self::Copying), and sealed memory without huge pages put no
///   handler in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryPolicy {
    /// The peer is trusted to leave its files as they are. One that does not ends this process.
    Trusting,
    /// A page that goes away costs the access that met it.
    #[default]
    Guarded,
    /// Nothing is mapped.
    Copying,
    /// Only memfds that are sealed against shrinking are taken: with them, the peer can't have this
    /// process wait for a filesystem of its own (FUSE) either. QEMU's `memory-backend-memfd` seals by
    /// default.
    Sealed,
}

impl MemoryPolicy {
    /// Whether mappings are guarded that need it.
    pub(super) fn guards(self) -> bool {
        matches!(self, MemoryPolicy::Guarded | MemoryPolicy::Sealed)
    }

    /// How memory is reached that the peer would have reached in this way.
    pub(super) fn mode(self, asked: AccessMode) -> AccessMode {
        match (self, asked) {
            (MemoryPolicy::Copying, AccessMode::Mmap) => AccessMode::FileIo,
            _ => asked,
        }
    }
}
