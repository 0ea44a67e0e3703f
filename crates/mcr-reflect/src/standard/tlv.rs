//! STAMP's optional extensions (RFC 8972): a row of type, length and value after the base packet, answered in place.
//!
//! Lengths never change, so a reply is as long as its request. What the row says of itself is believed only within the packet.

use super::{HMAC_BYTES, Key, Request, Session, hmac, verify};
use crate::headers::Mac;

const HEADER_BYTES: usize = 4;
/// Not understood; malformed; integrity check failed.
const U: u8 = 0x80;
const M: u8 = 0x40;
const I: u8 = 0x20;

const EXTRA_PADDING: u8 = 1;
const LOCATION: u8 = 2;
const TIMESTAMP_INFORMATION: u8 = 3;
const CLASS_OF_SERVICE: u8 = 4;
const DIRECT_MEASUREMENT: u8 = 5;
const ACCESS_REPORT: u8 = 6;
const FOLLOW_UP: u8 = 7;
const HMAC: u8 = 8;

/// Synchronisation sources and time stamping methods (RFC 8972, sections 4.3 and 4.7).
const SOURCE_NTP: u8 = 1;
const SOURCE_FREE_RUNNING: u8 = 5;
const METHOD_SOFTWARE: u8 = 2;

/// What TLVs are answered from.
pub(super) struct Context<'a> {
    pub(super) request: &'a Request,
    /// Of the request.
    pub(super) traffic_class: u8,
    pub(super) synchronised: bool,
    pub(super) dscp_by_request: bool,
    /// As it was before this request; none without sessions.
    pub(super) session: Option<Session>,
    pub(super) key: Option<&'a Key>,
    pub(super) must_have_hmac: bool,
    pub(super) request_sequence: [u8; 4],
    pub(super) reply_sequence: [u8; 4],
}

/// One TLV's place in the row.
#[derive(Clone, Copy)]
struct Tlv {
    at: usize,
    kind: u8,
    bytes: usize,
}

impl Tlv {
    /// The TLV at `at`; `Err` if it runs past the end.
    fn at(row: &[u8], at: usize) -> Result<Self, ()> {
        let header: &[u8; HEADER_BYTES] = row.get(at..).and_then(|rest| rest.first_chunk()).ok_or(())?;
        let [_, kind, high, low] = *header;
        let bytes = usize::from(u16::from_be_bytes([high, low]));
        if bytes > row.len() - at - HEADER_BYTES { Err(()) } else { Ok(Self { at, kind, bytes }) }
    }

    fn value(self) -> std::ops::Range<usize> {
        self.at + HEADER_BYTES..self.end()
    }

    fn end(self) -> usize {
        self.at + HEADER_BYTES + self.bytes
    }
}

/// The TLVs of a row, up to its end or to where it is malformed, which is then given last.
fn walk(row: &[u8]) -> impl Iterator<Item = Result<Tlv, usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= row.len() {
            return None;
        }
        let tlv = Tlv::at(row, at).map_err(|()| at);
        at = tlv.map_or(row.len(), Tlv::end);
        Some(tlv)
    })
}

/// Answers the TLVs, and says with which traffic class the reply goes.
pub(super) fn process(row: &mut [u8], context: &Context<'_>) -> u8 {
    let mut traffic_class = context.traffic_class & 0xfc;
    // Type 0 is reserved: zeros are the padding of a TWAMP sender, which gets it back as it is.
    if row.iter().take(HEADER_BYTES).all(|byte| *byte == 0) {
        return traffic_class;
    }
    let Ok(hmac_at) = check_integrity(row, context) else {
        flag_all(row, I);
        return traffic_class;
    };
    let mut at = 0;
    while at < row.len() {
        let Ok(tlv) = Tlv::at(row, at) else {
            let unknown = row.get(at + 1).is_some_and(|kind| !is_known(*kind, context));
            row[at] = if unknown { U | M } else { M };
            return traffic_class;
        };
        let (header, value) = row[at..tlv.end()].split_at_mut(HEADER_BYTES);
        let flags = answer(tlv.kind, value, context, &mut traffic_class);
        header[0] = flags;
        if flags & M != 0 {
            return traffic_class;
        }
        at = tlv.end();
    }
    if let (Some(tlv), Some(key)) = (hmac_at, context.key) {
        let (before, rest) = row.split_at_mut(tlv.at);
        let mac = hmac(key, &[&context.reply_sequence, before]);
        rest[HEADER_BYTES..HEADER_BYTES + HMAC_BYTES].copy_from_slice(&mac);
    }
    traffic_class
}

/// The HMAC TLV, verified, if there is one; `Err` if it is wrong, misplaced, or missing where it must be.
fn check_integrity(row: &[u8], context: &Context<'_>) -> Result<Option<Tlv>, ()> {
    let Some(key) = context.key else { return Ok(None) };
    let mut found: Option<Tlv> = None;
    let mut others = false;
    for tlv in walk(row) {
        match tlv {
            Ok(tlv) if tlv.kind == HMAC => {
                if found.replace(tlv).is_some() {
                    return Err(());
                }
            }
            Ok(tlv) if tlv.kind == EXTRA_PADDING => {}
            // After the HMAC only padding may follow: it would not be covered.
            _ if found.is_some() => return Err(()),
            _ => others = true,
        }
    }
    match found {
        Some(tlv) => {
            let parts: [&[u8]; 2] = [&context.request_sequence, &row[..tlv.at]];
            if verify(key, &parts, &row[tlv.value()]) { Ok(Some(tlv)) } else { Err(()) }
        }
        None if others && context.must_have_hmac => Err(()),
        None => Ok(None),
    }
}

fn flag_all(row: &mut [u8], flags: u8) {
    let mut at = 0;
    while at < row.len() {
        let tlv = Tlv::at(row, at);
        row[at] = if tlv.is_ok() { flags } else { flags | M };
        at = tlv.map_or(row.len(), Tlv::end);
    }
}

fn is_known(kind: u8, context: &Context<'_>) -> bool {
    matches!(kind, EXTRA_PADDING..=FOLLOW_UP) || (kind == HMAC && context.key.is_some())
}

/// Fills in a value and returns the flags.
fn answer(kind: u8, value: &mut [u8], context: &Context<'_>, traffic_class: &mut u8) -> u8 {
    if !is_known(kind, context) {
        return U;
    }
    let bytes = value.len();
    let right = match kind {
        LOCATION => bytes >= 4,
        TIMESTAMP_INFORMATION | CLASS_OF_SERVICE | ACCESS_REPORT => bytes == 4,
        DIRECT_MEASUREMENT => bytes == 12,
        FOLLOW_UP => bytes == 16,
        HMAC => bytes == HMAC_BYTES,
        _ => true,
    };
    if !right {
        return M;
    }
    match kind {
        LOCATION => return location(value, context),
        TIMESTAMP_INFORMATION => {
            let source = if context.synchronised { SOURCE_NTP } else { SOURCE_FREE_RUNNING };
            value.copy_from_slice(&[source, METHOD_SOFTWARE, source, METHOD_SOFTWARE]);
        }
        CLASS_OF_SERVICE => *traffic_class = class_of_service(value, context),
        DIRECT_MEASUREMENT => {
            let traffic = context.request.traffic;
            value[4..8].copy_from_slice(&(traffic.received as u32).to_be_bytes());
            value[8..12].copy_from_slice(&(traffic.sent as u32).to_be_bytes());
        }
        // 3GPP and non-3GPP are the access identifiers there are.
        ACCESS_REPORT if !matches!(value[0] >> 4, 1 | 2) => return U,
        FOLLOW_UP => match context.session.and_then(|session| session.last) {
            Some((sequence, sent)) => {
                value[..4].copy_from_slice(&sequence.to_be_bytes());
                value[4..12].copy_from_slice(&sent.ntp().to_be_bytes());
                value[12] = METHOD_SOFTWARE;
            }
            None => value[..12].fill(0),
        },
        _ => {}
    }
    0
}

/// RFC 8972, section 4.4 with erratum 8199: DSCP1 6 bits, DSCP2 6, ECN 2, RP 2.
fn class_of_service(value: &mut [u8], context: &Context<'_>) -> u8 {
    let (dscp_wanted, dscp_came, ecn) =
        (value[0] >> 2, context.traffic_class >> 2, context.traffic_class & 3);
    let refused = u8::from(!context.dscp_by_request);
    value[0] = dscp_wanted << 2 | dscp_came >> 4;
    value[1] = dscp_came << 4 | ecn << 2 | refused;
    (if context.dscp_by_request { dscp_wanted } else { dscp_came }) << 2
}

/// RFC 8972, section 4.2: ports, then sub-TLVs that ask for addresses.
fn location(value: &mut [u8], context: &Context<'_>) -> u8 {
    let Request { udp, addresses, source, .. } = context.request;
    value[..2].copy_from_slice(&udp.destination_port.to_be_bytes());
    value[2..4].copy_from_slice(&udp.source_port.to_be_bytes());
    let row = &mut value[4..];
    let mut at = 0;
    while at < row.len() {
        let Ok(tlv) = Tlv::at(row, at) else {
            row[at] = M;
            return M;
        };
        let (header, value) = row[at..tlv.end()].split_at_mut(HEADER_BYTES);
        let filled = match tlv.kind {
            1 => mac_address(value, source).then_some(2),
            4 => ip_address(value, addresses.1).map(|is_ipv4| if is_ipv4 { 5 } else { 6 }),
            7 => ip_address(value, addresses.0).map(|is_ipv4| if is_ipv4 { 8 } else { 9 }),
            _ => {
                header[0] = U;
                at = tlv.end();
                continue;
            }
        };
        match filled {
            Some(kind) => header[..2].copy_from_slice(&[0, kind]),
            None => {
                header[0] = M;
                return M;
            }
        }
        at = tlv.end();
    }
    0
}

fn mac_address(value: &mut [u8], mac: &Mac) -> bool {
    let right = value.len() == 8;
    if right {
        value[..6].copy_from_slice(mac);
        value[6..].fill(0);
    }
    right
}

/// Whether it was IPv4, if there was the room that there must be.
fn ip_address(value: &mut [u8], address: std::net::IpAddr) -> Option<bool> {
    if value.len() != 16 {
        return None;
    }
    match address {
        std::net::IpAddr::V4(address) => {
            value[..4].copy_from_slice(&address.octets());
            value[4..].fill(0);
            Some(true)
        }
        std::net::IpAddr::V6(address) => {
            value.copy_from_slice(&address.octets());
            Some(false)
        }
    }
}
