//! Whether superframes leave an interface whole, as `ethtool -K IFNAME tx-udp-segmentation on|off` sets it.

use anyhow::Context as _;
use mcr_lab::Namespace;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, Attributes, Message, Netlink, REQUEST, attribute};

// linux/genetlink.h
const CONTROL: u16 = 0x10;
const GETFAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
// linux/ethtool_netlink_generated.h
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const HEADER_DEV_NAME: u16 = 2;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
/// Length of `struct genlmsghdr`.
const GENERIC_BYTES: usize = 4;

/// Has superframes cut into their datagrams before they are handed to `ifname`, or not.
pub(crate) fn udp_segmentation(namespace: &Namespace, ifname: &str, on: bool) -> anyhow::Result<()> {
    let netlink = Netlink::open(namespace, SockProtocol::NetlinkGeneric)?;
    set(&netlink, ifname, on).with_context(|| format!("cannot set tx-udp-segmentation of {ifname}"))
}

fn set(netlink: &Netlink, ifname: &str, on: bool) -> anyhow::Result<()> {
    let ask = Message::new(CONTROL, REQUEST | ACK, &[GETFAMILY, 1, 0, 0])
        .with(Attributes::default().text(FAMILY_NAME, "ethtool"));
    let answer = netlink.request(vec![ask], 1)?;
    let id = answer.get(GENERIC_BYTES..).and_then(|attributes| attribute(attributes, FAMILY_ID));
    let id = id.and_then(|id| id.first_chunk().copied()).context("the kernel has no ethtool netlink")?;
    // A bit that is named without a value is to be off; those not named stay as they are.
    let bit = Attributes::default().text(BIT_NAME, "tx-udp-segmentation");
    let bit = if on { bit.bytes(BIT_VALUE, &[]) } else { bit };
    let bits = Attributes::default().nested(BITS_BIT, bit);
    let attributes = Attributes::default()
        .nested(FEATURES_HEADER, Attributes::default().text(HEADER_DEV_NAME, ifname))
        .nested(FEATURES_WANTED, Attributes::default().nested(BITSET_BITS, bits));
    let set = Message::new(u16::from_ne_bytes(id), REQUEST | ACK, &[FEATURES_SET, 1, 0, 0]).with(attributes);
    netlink.request(vec![set], 1).map(drop)
}
