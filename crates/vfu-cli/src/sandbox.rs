//! `vfu serve --sandbox`.

use std::path::Path;

use anyhow::{Context, bail};
use clap::ValueEnum;
use tracing::{debug, warn};
use vfu_sandbox::Missing;

use crate::janitor::Janitor;

/// When the sandbox is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sandbox {
    /// As far as this kernel can
    Auto,
    /// Or fail
    On,
    /// The process keeps what its user may do
    Off,
}

impl Sandbox {
    /// Enters it, or not. The socket at `path` goes away with what is given back.
    ///
    /// To be called when all is open and no thread has been started.
    pub(crate) fn enter(self, path: Option<&Path>) -> anyhow::Result<Option<Janitor>> {
        if self == Sandbox::Off {
            return Ok(None);
        }
        let janitor = path.map(Janitor::start).transpose();
        let janitor = janitor.context("can't start the process that removes the socket")?;
        let missing = vfu_sandbox::enter().context("--sandbox")?.missing;
        self.judge(&missing)?;
        Ok(janitor)
    }

    fn judge(self, missing: &[Missing]) -> anyhow::Result<()> {
        match (self, missing) {
            (_, []) => debug!("in the sandbox: nothing can be opened, and little called"),
            (Sandbox::On, [first, ..]) => bail!("--sandbox: {first}; --sandbox=auto does without"),
            (_, some) => {
                some.iter().for_each(|m| warn!("the sandbox is weaker than it could be: {m}"))
            }
        }
        Ok(())
    }
}
