//! What drivers did that the model does not know.

use crate::device::Fault;

/// The most different accesses that are kept.
const ROOM: usize = 64;

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The driver reads.
    Read,
    /// The driver writes.
    Write,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// An access that the model did not cover, wholly or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// The first byte, from the start of the BAR.
    pub offset: u64,
    /// How many bytes.
    pub width: usize,
    /// Which way.
    pub direction: Direction,
    /// What was wrong with it first.
    pub fault: Fault,
    /// How often it came.
    pub count: u64,
}

impl std::fmt::Display for Uncovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Uncovered { offset, width, direction, fault, count } = self;
        let (bytes, times) = (plural(*width as u64, "byte"), plural(*count, "time"));
        write!(f, "{direction} of {bytes} at {offset:#x}, {times}: {fault}")
    }
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

#[derive(Clone, Debug)]
pub(super) struct Coverage {
    /// Never grows beyond the room that it got at first.
    seen: Vec<Uncovered>,
    others: u64,
}

impl Coverage {
    pub(super) fn new() -> Self {
        Coverage { seen: Vec::with_capacity(ROOM), others: 0 }
    }

    pub(super) fn all(&self) -> &[Uncovered] {
        &self.seen
    }

    pub(super) fn others(&self) -> u64 {
        self.others
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.seen.clear();
        self.others = 0;
    }

    /// Counts an access. Whether it is a new one.
    pub(super) fn count(&mut self, new: Uncovered) -> bool {
        let key = |u: &Uncovered| (u.offset, u.width, u.direction);
        if let Some(known) = self.seen.iter_mut().find(|known| key(known) == key(&new)) {
            known.count = known.count.saturating_add(1);
            return false;
        }
        if self.seen.len() == ROOM {
            self.others = self.others.saturating_add(1);
            return false;
        }
        self.seen.push(new);
        true
    }
}
