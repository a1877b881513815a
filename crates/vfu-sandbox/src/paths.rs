//! landlock: nothing by its path, no network, no word to other processes.

use landlock::{
    ABI, Access, AccessFs, AccessNet, RestrictionStatus, Ruleset, RulesetAttr, RulesetStatus, Scope,
};

use crate::{Missing, SandboxError};

/// What is denied: all that this version knows. Older kernels deny what they know of it.
const KNOWN: ABI = ABI::V6;

/// Denies all of it, without an exception.
pub(crate) fn close() -> Result<Option<Missing>, SandboxError> {
    let status = restrict().map_err(SandboxError::Landlock)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => None,
        RulesetStatus::PartiallyEnforced => Some(Missing::PartOfLandlock),
        RulesetStatus::NotEnforced => Some(Missing::Landlock),
    })
}

fn restrict() -> Result<RestrictionStatus, landlock::RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .restrict_self()
}
