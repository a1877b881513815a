//! A row of the table.

use std::fmt;

use serde::Serialize;

use crate::measure::Effort;
use crate::stats::{Figures, Ratio};

/// What belongs together in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Registers and other regions.
    Access,
    /// DMA by message.
    MessageDma,
    /// DMA through shared memory.
    DirectDma,
    /// Which mapping an address lies in.
    Translation,
    /// DMA_MAP and DMA_UNMAP.
    Mappings,
    /// The log of dirty pages.
    Dirty,
    /// Interrupts, and looking whether there is anything to do.
    Events,
    /// Memory and set-up.
    Footprint,
}

impl Group {
    /// All of them, in the order of the table.
    pub const ALL: [Group; 8] = [
        Group::Access,
        Group::MessageDma,
        Group::DirectDma,
        Group::Translation,
        Group::Mappings,
        Group::Dirty,
        Group::Events,
        Group::Footprint,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Access => "Registers and regions",
            Group::MessageDma => "DMA by message",
            Group::DirectDma => "DMA through shared memory",
            Group::Translation => "Address translation",
            Group::Mappings => "DMA_MAP and DMA_UNMAP",
            Group::Dirty => "Dirty pages",
            Group::Events => "Interrupts and event loops",
            Group::Footprint => "Memory and set-up",
        }
    }
}

/// Something that can be measured.
pub struct Row {
    /// What it is called on the command line.
    pub name: String,
    /// Where it stands.
    pub group: Group,
    /// What vfu does.
    pub about: String,
    /// What the machine does for the limit.
    pub limit: String,
    /// The ratio that we aim at, if there is one.
    pub target: Option<f64>,
    /// Takes many seconds, whatever the effort: not for a first look.
    pub slow: bool,
    pub(crate) run: Box<Run>,
}

/// What measures a row.
pub(crate) type Run = dyn Fn(Effort) -> anyhow::Result<Measured>;

impl Row {
    pub(crate) fn new(
        group: Group,
        name: impl Into<String>,
        about: impl Into<String>,
        limit: impl Into<String>,
        run: impl Fn(Effort) -> anyhow::Result<Measured> + 'static,
    ) -> Row {
        let (name, about, limit) = (name.into(), about.into(), limit.into());
        Row { name, group, about, limit, target: None, slow: false, run: Box::new(run) }
    }

    /// The most that the ratio should be.
    pub(crate) fn at_most(mut self, ratio: f64) -> Row {
        self.target = Some(ratio);
        self
    }

    pub(crate) fn slow(mut self, slow: bool) -> Row {
        self.slow = slow;
        self
    }

    /// Measures it.
    ///
    /// # Errors
    /// A system call failed, or a peer did.
    pub fn measure(&self, effort: Effort) -> anyhow::Result<Measured> {
        (self.run)(effort)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Row").field(&self.name).finish()
    }
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The limit's times.
    pub limit: Figures,
    /// Ours.
    pub ours: Figures,
    /// Ours by the limit.
    pub ratio: Ratio,
    /// How many pairs of batches the ratio is from.
    pub pairs: usize,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A figure that is counted, not timed.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    /// What is counted.
    pub name: String,
    /// How many.
    pub value: u64,
    /// Of what: `bytes`, `system calls`.
    pub unit: String,
}
