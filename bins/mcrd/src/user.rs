//! Whom workers and control run as.

use std::fs;

use mcr_proto::message::Ids;
use nix::unistd::{User, geteuid};

use crate::exit::Failure;

/// The user that is taken if nobody chose one and it exists.
const OWN: &str = "mcr";
/// The one that is taken else; kernel and C libraries know it by this number even where no file names it.
const NOBODY: Ids = Ids { uid: 65534, gid: 65534 };

/// The ids to change to; none where this process has not the right to change, by its user or its user namespace.
pub(crate) fn ids(wanted: Option<&str>) -> Result<Option<Ids>, Failure> {
    let Some(name) = wanted else {
        let ids = default();
        return Ok((geteuid().is_root() && is_possible(ids)).then_some(ids));
    };
    let user = find(name)?;
    let ids = Ids { uid: user.uid.as_raw(), gid: user.gid.as_raw() };
    if ids.uid == 0 {
        return Err(Failure::usage(format!("workers must not run as {name}; choose a user without rights")));
    }
    if geteuid() == user.uid {
        return Ok(None);
    }
    if !geteuid().is_root() {
        return Err(Failure::not_permitted(format!(
            "only root can have workers run as {name}; leave out --user"
        )));
    }
    if !is_possible(ids) {
        let Ids { uid, gid } = ids;
        return Err(Failure::not_permitted(format!(
            "{name} (user {uid}, group {gid}) does not exist in this user namespace; leave out --user"
        )));
    }
    Ok(Some(ids))
}

fn find(name: &str) -> Result<User, Failure> {
    let found = match name.parse() {
        Ok(uid) => User::from_uid(nix::unistd::Uid::from_raw(uid)),
        Err(_) => User::from_name(name),
    };
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(Failure::usage(format!("no user {name}; make it with useradd, or choose another"))),
        Err(errno) => Err(Failure::failed(format!("cannot look up user {name}: {errno}"))),
    }
}

fn default() -> Ids {
    let known = [OWN, "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    let known = known.map(|user| Ids { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
    known.filter(|ids| ids.uid != 0).unwrap_or(NOBODY)
}

/// Whether these ids exist in this process's user namespace, and groups can be left there (user_namespaces(7)).
fn is_possible(ids: Ids) -> bool {
    let map = |path| fs::read_to_string(path).unwrap_or_default();
    let groups_stay = map("/proc/self/setgroups").trim() == "deny";
    maps(&map("/proc/self/uid_map"), ids.uid) && maps(&map("/proc/self/gid_map"), ids.gid) && !groups_stay
}

/// Whether a line of the map (first id inside, first id outside, count) has this id inside.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse::<u64>().ok());
        let (first, count) = (numbers.next(), numbers.nth(1));
        first.zip(count).is_some_and(|(first, count)| (first..first + count).contains(&id.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_the_user_namespace_does_not_have_are_seen() {
        let host = "         0          0 4294967295\n";
        assert!(maps(host, 0) && maps(host, 65534));
        let one = "0 1000 1\n";
        assert!(maps(one, 0) && !maps(one, 1) && !maps(one, 65534));
        let container = "0 1000 1\n1 100000 65536\n";
        assert!(maps(container, 65534) && maps(container, 65536) && !maps(container, 65537));
        assert!(!maps("", 0) && !maps("nonsense", 0));
    }

    #[test]
    fn nobody_can_ask_for_root_or_for_a_user_that_does_not_exist() {
        for name in ["root", "0", "no-such-user", "4294967294"] {
            let failure = ids(Some(name)).expect_err(name);
            assert!(format!("{failure:?}").contains("code: 2"), "{failure:?}");
        }
    }
}
