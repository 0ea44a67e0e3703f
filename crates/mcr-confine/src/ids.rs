//! User and groups.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::{
    Ids,
    error::{ConfineError, Step},
};

/// Becomes this user and this group and no other. Groups first: without root's uid there is no right to change them.
pub(crate) fn become_only(Ids { uid, gid }: Ids) -> Result<(), ConfineError> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).map_err(ConfineError::at(Step::LeaveGroups))?;
    setresgid(group, group, group).map_err(ConfineError::at(Step::ChangeGroup { gid }))?;
    setresuid(user, user, user).map_err(ConfineError::at(Step::ChangeUser { uid }))
}
