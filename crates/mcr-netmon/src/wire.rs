//! The grammar of netlink: messages in a datagram, attributes in a message. Total on any bytes.
//!
//! All integers are in host byte order and headers are padded to four bytes (netlink(7)). A length that does not fit
//! ends the walk: nothing behind it can be trusted.

use std::net::IpAddr;

pub(crate) const MESSAGE_HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Leaves out NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// One netlink message, cut out of a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawMessage<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// Takes the first message off `rest`; `None` at the end. An error means that what is left is no message.
pub(crate) fn next_message<'a>(rest: &mut &'a [u8]) -> Option<Result<RawMessage<'a>, Malformed>> {
    if rest.is_empty() {
        return None;
    }
    let bytes = std::mem::take(rest);
    let Some(length) = u32_at(bytes, 0).map(|n| n as usize) else { return Some(Err(Malformed)) };
    if length < MESSAGE_HEADER_BYTES || length > bytes.len() {
        return Some(Err(Malformed));
    }
    *rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(read_message(&bytes[..length]))
}

fn read_message(bytes: &[u8]) -> Result<RawMessage<'_>, Malformed> {
    Ok(RawMessage {
        kind: u16_at(bytes, 4).ok_or(Malformed)?,
        flags: u16_at(bytes, 6).ok_or(Malformed)?,
        sequence: u32_at(bytes, 8).ok_or(Malformed)?,
        payload: bytes.get(MESSAGE_HEADER_BYTES..).ok_or(Malformed)?,
    })
}

/// The attributes in `bytes`: (type, value). A broken one is the last item.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < ATTRIBUTE_HEADER_BYTES {
            return None;
        }
        let bytes = std::mem::take(&mut rest);
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_TYPE_MASK;
        let Some(value) = bytes.get(ATTRIBUTE_HEADER_BYTES..length) else { return Some(Err(Malformed)) };
        rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((kind, value)))
    })
}

/// The bytes are not what the kernel would have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

/// An attribute that is a number.
pub(crate) fn number(value: &[u8]) -> Result<u32, Malformed> {
    u32_at(value, 0).ok_or(Malformed)
}

/// An attribute that is an interface index; 0 stands for none.
pub(crate) fn index(value: &[u8]) -> Result<Option<u32>, Malformed> {
    Ok(Some(number(value)?).filter(|&index| index != 0))
}

/// An attribute that is an address of either family.
pub(crate) fn address(value: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(value).map(IpAddr::from).map_err(|_| Malformed)
}

/// An attribute that is a string, with or without its final zero; bytes that are not UTF-8 are replaced.
pub(crate) fn string(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}
