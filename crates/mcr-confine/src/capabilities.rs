//! The five sets of capabilities of capabilities(7).

use caps::{CapSet, Capability, CapsHashSet};

use crate::error::{ConfineError, Step};

/// Takes all but `kept` from the bounding set, if this process has the right; whether it has.
pub(crate) fn cut_bounding(kept: &[Capability]) -> Result<bool, ConfineError> {
    let failed = || ConfineError::at(Step::CutBounding);
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed())? {
        return Ok(false);
    }
    let all = caps::read(None, CapSet::Bounding).map_err(failed())?;
    for capability in all.into_iter().filter(|capability| !kept.contains(capability)) {
        caps::drop(None, CapSet::Bounding, capability).map_err(failed())?;
    }
    Ok(true)
}

/// Empties the ambient and the inheritable set, and takes all but `kept` from the permitted and the effective one.
pub(crate) fn give_up(kept: &[Capability]) -> Result<(), ConfineError> {
    let failed = || ConfineError::at(Step::GiveUpCapabilities);
    caps::clear(None, CapSet::Ambient).map_err(failed())?;
    caps::clear(None, CapSet::Inheritable).map_err(failed())?;
    // What is effective must be permitted, so it goes first.
    for set in [CapSet::Effective, CapSet::Permitted] {
        let held = caps::read(None, set).map_err(failed())?;
        let kept: CapsHashSet = held.into_iter().filter(|capability| kept.contains(capability)).collect();
        caps::set(None, set, &kept).map_err(failed())?;
    }
    Ok(())
}
