//! VLAN tags, which drivers and the kernel take out of a frame and tell beside it.

/// The room in front of a frame that a tag is put back into.
pub(super) const TAG_BYTES: usize = 4;
/// Addresses, behind which a tag goes.
pub(super) const ADDRESSES_BYTES: usize = 12;
/// 802.1Q, if the kernel does not say.
const TPID: u16 = 0x8100;

/// Puts a tag back into the frame that begins at `start`; from then on it begins [`TAG_BYTES`] before.
///
/// Panics if there is no such room, or not that much of a frame.
pub(super) fn put_tag_back(memory: &mut [u8], start: usize, tpid: Option<u16>, tci: u16) {
    memory.copy_within(start..start + ADDRESSES_BYTES, start - TAG_BYTES);
    let tag = &mut memory[start - TAG_BYTES + ADDRESSES_BYTES..][..TAG_BYTES];
    tag[..2].copy_from_slice(&tpid.unwrap_or(TPID).to_be_bytes());
    tag[2..].copy_from_slice(&tci.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stands_behind_the_addresses_and_the_rest_stays_where_it_is() {
        let frame: Vec<u8> = (0..20).collect();
        let mut memory = [&[0xee; 7][..], &frame].concat();
        put_tag_back(&mut memory, 7, Some(0x88a8), 0x2005);
        let tagged = [&[0xee; 3][..], &frame[..12], &[0x88, 0xa8, 0x20, 0x05], &frame[12..]].concat();
        assert_eq!(memory, tagged);
        put_tag_back(&mut memory, 3 + TAG_BYTES, None, 1);
        assert_eq!(memory[3 + 12..][..4], [0x81, 0, 0, 1]);
    }
}
