//! What a device does for the kernel, by ethtool's netlink family (Linux 5.6).

use std::{collections::BTreeSet, io};

use netlink_sys::protocols::NETLINK_GENERIC;

use crate::netlink::{Asker, ONE, attribute, attributes, put, text, u16_at, zero_ended};

/// A device's features by the names that `ethtool -k` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Those that are on.
    pub(crate) active: BTreeSet<String>,
    /// Those that can be switched.
    pub(crate) changeable: BTreeSet<String>,
}

impl Features {
    /// Whether it is off and could be on.
    pub(crate) fn could_be_on(&self, name: &str) -> bool {
        !self.active.contains(name) && self.changeable.contains(name)
    }
}

// linux/genetlink.h, linux/ethtool_netlink.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const GENL_HEADER_BYTES: usize = 4;
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;

/// Asks for devices' features.
#[derive(Debug)]
pub(crate) struct Offloads {
    asker: Asker,
    family: u16,
}

impl Offloads {
    pub(crate) fn open() -> io::Result<Self> {
        let mut asker = Asker::open(NETLINK_GENERIC)?;
        let mut body = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
        put(&mut body, CTRL_ATTR_FAMILY_NAME, &zero_ended("ethtool"));
        let mut family = None;
        asker.ask(GENL_ID_CTRL, ONE, &body, |answer| {
            let attributes = answer.get(GENL_HEADER_BYTES..).unwrap_or_default();
            family = attribute(attributes, CTRL_ATTR_FAMILY_ID).and_then(|id| u16_at(id, 0));
        })?;
        let family = family.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { asker, family })
    }

    pub(crate) fn of(&mut self, index: u32) -> io::Result<Features> {
        let mut header = Vec::new();
        put(&mut header, ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes());
        let mut body = vec![ETHTOOL_MSG_FEATURES_GET, 1, 0, 0];
        put(&mut body, ETHTOOL_A_FEATURES_HEADER | NLA_F_NESTED, &header);
        let mut features = Features::default();
        self.asker.ask(self.family, ONE, &body, |answer| {
            let attributes = answer.get(GENL_HEADER_BYTES..).unwrap_or_default();
            features = Features {
                active: names(attribute(attributes, ETHTOOL_A_FEATURES_ACTIVE)),
                changeable: names(attribute(attributes, ETHTOOL_A_FEATURES_HW)),
            };
        })?;
        Ok(features)
    }
}

/// The names of the bits that are set. A list without a mask has only those; in one with a mask they have a flag.
fn names(bitset: Option<&[u8]>) -> BTreeSet<String> {
    let Some(bitset) = bitset else { return BTreeSet::new() };
    let masked = attribute(bitset, ETHTOOL_A_BITSET_NOMASK).is_none();
    let bits = attribute(bitset, ETHTOOL_A_BITSET_BITS).unwrap_or_default();
    attributes(bits)
        .filter(|(_, bit)| !masked || attribute(bit, ETHTOOL_A_BITSET_BIT_VALUE).is_some())
        .filter_map(|(_, bit)| attribute(bit, ETHTOOL_A_BITSET_BIT_NAME))
        .map(text)
        .collect()
}
