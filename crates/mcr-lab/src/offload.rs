//! Offloads of a device, as `ethtool -K` switches them.

use mcr_netlink::{
    Generic,
    attribute::{NESTED, put, zero_ended},
};

use crate::error::LabError;
use crate::namespace::Namespace;

// linux/ethtool_netlink_generated.h
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const HEADER_DEV_NAME: u16 = 2;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

impl Namespace {
    /// Switches an offload by the name that `ethtool -k` has for the kernel's feature bit, as in `rx-gro`,
    /// `rx-udp-gro-forwarding`, `tx-udp-segmentation` or `tx-checksum-ip-generic`. The others stay as they are.
    pub fn set_offload(&self, ifname: &str, feature: &str, on: bool) -> Result<(), LabError> {
        let refused = |source| {
            let what = format!("switch {feature} of {ifname} {}", if on { "on" } else { "off" });
            LabError::Request { what, source }
        };
        let mut ethtool = self.try_enter(|| Generic::open("ethtool"))?.map_err(refused)?;
        // A bit that is named is to be on if it has the flag BIT_VALUE.
        let mut bit = Vec::new();
        put(&mut bit, BIT_NAME, &zero_ended(feature));
        if on {
            put(&mut bit, BIT_VALUE, &[]);
        }
        let [mut bits, mut wanted, mut device, mut set] = [const { Vec::new() }; 4];
        put(&mut bits, BITS_BIT | NESTED, &bit);
        put(&mut wanted, BITSET_BITS | NESTED, &bits);
        put(&mut device, HEADER_DEV_NAME, &zero_ended(ifname));
        put(&mut set, FEATURES_HEADER | NESTED, &device);
        put(&mut set, FEATURES_WANTED | NESTED, &wanted);
        ethtool.ask(FEATURES_SET, &set, |_| {}).map_err(refused)
    }
}
