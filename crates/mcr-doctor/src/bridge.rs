//! Bridges: whether they snoop on memberships, and whether anybody asks for them.

use std::{collections::BTreeMap, io};

use mcr_netlink::{
    ALL, Asker, Protocol,
    attribute::{attribute, put, u32_at},
};

/// A bridge's multicast settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bridge {
    pub(crate) snooping: bool,
    /// It asks itself.
    pub(crate) querier: bool,
    /// It has heard somebody else ask, not long ago.
    pub(crate) other_querier: bool,
}

// linux/rtnetlink.h, linux/if_link.h, linux/if_bridge.h.
const RTM_GETLINK: u16 = 18;
const IFINFOMSG_BYTES: usize = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_MCAST_QUERIER: u16 = 25;
const IFLA_BR_MCAST_QUERIER_STATE: u16 = 47;
const BRIDGE_QUERIER_IP_OTHER_TIMER: u16 = 3;
const BRIDGE_QUERIER_IPV6_OTHER_TIMER: u16 = 7;

/// All bridges, by index.
pub(crate) fn all() -> io::Result<BTreeMap<u32, Bridge>> {
    let mut bridges = BTreeMap::new();
    let mut body = vec![0; IFINFOMSG_BYTES];
    let mut info = Vec::new();
    // Only bridges; a kernel that does not filter sends all, and the kind is looked at anyway.
    put(&mut info, IFLA_INFO_KIND, b"bridge");
    put(&mut body, IFLA_LINKINFO, &info);
    Asker::open(Protocol::Route)?.ask(RTM_GETLINK, ALL, &body, |_, link| {
        if let Some((index, bridge)) = read(link) {
            bridges.insert(index, bridge);
        }
    })?;
    Ok(bridges)
}

fn read(link: &[u8]) -> Option<(u32, Bridge)> {
    let index = u32_at(link, 4)?;
    let info = attribute(link.get(IFINFOMSG_BYTES..)?, IFLA_LINKINFO)?;
    if !attribute(info, IFLA_INFO_KIND)?.starts_with(b"bridge") {
        return None;
    }
    let data = attribute(info, IFLA_INFO_DATA)?;
    let is_on = |kind| attribute(data, kind).and_then(<[u8]>::first).is_some_and(|value| *value != 0);
    let state = attribute(data, IFLA_BR_MCAST_QUERIER_STATE).unwrap_or_default();
    let heard = |kind| attribute(state, kind).is_some();
    Some((
        index,
        Bridge {
            snooping: is_on(IFLA_BR_MCAST_SNOOPING),
            querier: is_on(IFLA_BR_MCAST_QUERIER),
            other_querier: heard(BRIDGE_QUERIER_IP_OTHER_TIMER) || heard(BRIDGE_QUERIER_IPV6_OTHER_TIMER),
        },
    ))
}
