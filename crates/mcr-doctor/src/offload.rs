//! What a device does for the kernel, by ethtool's netlink family (Linux 5.6).

use std::{collections::BTreeSet, io};

use mcr_netlink::{
    Generic,
    attribute::{NESTED, attribute, attributes, put, text},
};

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

// linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// Asks for devices' features.
#[derive(Debug)]
pub(crate) struct Offloads(Generic);

impl Offloads {
    pub(crate) fn open() -> io::Result<Self> {
        Generic::open("ethtool").map(Self)
    }

    pub(crate) fn of(&mut self, index: u32) -> io::Result<Features> {
        let (mut header, mut request) = (Vec::new(), Vec::new());
        put(&mut header, ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes());
        put(&mut request, ETHTOOL_A_FEATURES_HEADER | NESTED, &header);
        let mut features = Features::default();
        self.0.ask(ETHTOOL_MSG_FEATURES_GET, &request, |attributes| {
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
