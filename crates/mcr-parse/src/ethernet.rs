//! The link layer: Ethernet header, VLAN tags, the MAC address of a group.

use core::net::IpAddr;

use crate::RewriteError;
use crate::bytes::{Header, array_at, array_at_mut};
use crate::parse::{Malformed, Reject};

/// Bytes of an Ethernet header without tags: two MAC addresses and the EtherType.
pub const ETHERNET_BYTES: usize = 14;

/// EtherType of IPv4.
pub const ETHER_TYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHER_TYPE_IPV6: u16 = 0x86dd;
pub(crate) const TAG_BYTES: usize = 4;

/// One VLAN tag as it stood in the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The EtherType that announced the tag: 0x8100 (802.1Q), 0x88a8 (802.1ad) or 0x9100 (older double tagging).
    pub tpid: u16,
    /// Tag control information: priority, drop eligible indicator, VLAN id.
    pub tci: u16,
}

impl Tag {
    /// The VLAN id, 0 to 4095.
    #[inline]
    #[must_use]
    pub const fn vlan_id(self) -> u16 {
        self.tci & 0x0fff
    }

    /// The priority code point, 0 to 7.
    #[inline]
    #[must_use]
    pub const fn priority(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// The drop eligible indicator.
    #[inline]
    #[must_use]
    pub const fn drop_eligible(self) -> bool {
        self.tci & 0x1000 != 0
    }
}

/// The VLAN tags of a frame, outermost first: none, one or two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags {
    // Unused places are zero, so that the derived comparison is right.
    tags: [Tag; Tags::COUNT_MAX],
    count: u8,
}

impl Tags {
    /// The largest number of tags a frame is parsed through.
    pub const COUNT_MAX: usize = 2;
    /// No tag.
    pub const NONE: Tags = Tags { tags: [Tag { tpid: 0, tci: 0 }; Tags::COUNT_MAX], count: 0 };

    /// The tags given, outermost first; `None` if there are more than [`Tags::COUNT_MAX`].
    #[must_use]
    pub fn new(tags: &[Tag]) -> Option<Tags> {
        let mut all = Tags::NONE;
        all.tags.get_mut(..tags.len())?.copy_from_slice(tags);
        all.count = tags.len() as u8;
        Some(all)
    }

    /// The tags, outermost first.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Tag] {
        &self.tags[..usize::from(self.count).min(Tags::COUNT_MAX)]
    }

    /// True if the frame has no tag.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of tags.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }
}

/// EtherType, offset of what follows it, and the tags passed on the way.
#[inline]
pub(crate) fn ethernet_payload(frame: &[u8]) -> Result<(u16, usize, Tags), Reject> {
    let header: &[u8; ETHERNET_BYTES] = array_at(frame, 0).ok_or(Malformed::Truncated)?;
    let ether_type = header.u16_at::<12>();
    if is_tag_type(ether_type) {
        tagged_payload(frame, ether_type)
    } else {
        Ok((ether_type, ETHERNET_BYTES, Tags::NONE))
    }
}

/// Walks at most two tags. The EtherType of a third is returned as it is, and so is no IP.
fn tagged_payload(frame: &[u8], mut ether_type: u16) -> Result<(u16, usize, Tags), Reject> {
    let mut tags = Tags::NONE;
    let mut offset = ETHERNET_BYTES;
    for place in 0..Tags::COUNT_MAX {
        if !is_tag_type(ether_type) {
            break;
        }
        let tag: &[u8; TAG_BYTES] = array_at(frame, offset).ok_or(Malformed::Truncated)?;
        tags.tags[place] = Tag { tpid: ether_type, tci: tag.u16_at::<0>() };
        tags.count += 1;
        ether_type = tag.u16_at::<2>();
        offset += TAG_BYTES;
    }
    Ok((ether_type, offset, tags))
}

#[inline]
const fn is_tag_type(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100)
}

/// Replaces both MAC addresses of an Ethernet frame.
///
/// # Errors
/// [`RewriteError::Frame`] if the frame is shorter than an Ethernet header.
#[inline]
pub fn set_macs(frame: &mut [u8], destination: [u8; 6], source: [u8; 6]) -> Result<(), RewriteError> {
    let header: &mut [u8; ETHERNET_BYTES] = array_at_mut(frame, 0).ok_or(RewriteError::Frame)?;
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    Ok(())
}

/// The MAC address that frames to a multicast group carry: 01:00:5e and the low 23 bits of an IPv4 group (RFC 1112,
/// section 6.4), 33:33 and the low 32 bits of an IPv6 group (RFC 2464, section 7). `None` for an address that is no
/// group.
///
/// ```
/// let mac = mcr_parse::multicast_mac("239.129.1.2".parse().unwrap());
/// assert_eq!(mac, Some([0x01, 0x00, 0x5e, 0x01, 0x01, 0x02]));
/// ```
#[must_use]
pub fn multicast_mac(group: IpAddr) -> Option<[u8; 6]> {
    if !group.is_multicast() {
        return None;
    }
    Some(match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_either_family_has_the_mac_its_rfc_gives() {
        let mac = |group: &str| multicast_mac(group.parse().unwrap());
        assert_eq!(mac("224.0.0.251"), Some([0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb]));
        assert_eq!(mac("239.255.255.255"), Some([0x01, 0x00, 0x5e, 0x7f, 0xff, 0xff]));
        assert_eq!(mac("ff02::1:ff28:9c5a"), Some([0x33, 0x33, 0xff, 0x28, 0x9c, 0x5a]));
        assert_eq!(mac("10.0.0.1"), None);
        assert_eq!(mac("fe80::1"), None);
    }

    #[test]
    fn the_fields_of_a_tag_are_taken_apart() {
        let tag = Tag { tpid: 0x8100, tci: 0b1011_0000_0111_1011 };
        assert_eq!((tag.priority(), tag.drop_eligible(), tag.vlan_id()), (5, true, 123));
    }

    #[test]
    fn three_tags_do_not_fit() {
        let tag = Tag { tpid: 0x8100, tci: 1 };
        assert_eq!(Tags::new(&[tag; 2]).map(|tags| tags.len()), Some(2));
        assert_eq!(Tags::new(&[tag; 3]), None);
        assert!(Tags::NONE.is_empty());
    }

    #[test]
    fn macs_are_not_set_in_a_frame_without_room_for_a_header() {
        let mut frame = [0; 14];
        set_macs(&mut frame, [1; 6], [2; 6]).unwrap();
        assert_eq!(frame, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0, 0]);
        assert_eq!(set_macs(&mut frame[..13], [3; 6], [4; 6]), Err(RewriteError::Frame));
        assert_eq!(frame[0], 1);
    }
}
