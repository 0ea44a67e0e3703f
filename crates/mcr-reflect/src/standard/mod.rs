//! Responders of standards: TWAMP-Light and STAMP here, their TLVs in [`tlv`], Y.1731 in [`oam`].
//!
//! They write a reply's payload over its request; addresses, lengths and checksums are the caller's.

mod oam;
mod stamp;
mod tlv;

use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{
    config::{Config, Oam, Sequence, Stamp, Twamp},
    headers::{Ip, Mac, Udp},
    reflector::Traffic,
    table::Table,
    time::{Now, WallTime},
};

/// Sessions that are remembered at a time, in sets of four.
const SESSION_SETS: usize = 1024;
/// After so long a sender's packets are a new session's (RFC 5357's REFWAIT).
const SESSION_IDLE_NS: u64 = 900 * 1_000_000_000;

/// Bytes of an HMAC as STAMP truncates it.
const HMAC_BYTES: usize = 16;

type Key = Hmac<Sha256>;

/// A request and what is known of its arrival.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) ip: Ip,
    pub(crate) udp: Udp,
    /// Source and destination.
    pub(crate) addresses: (IpAddr, IpAddr),
    pub(crate) source: Mac,
    pub(crate) received: WallTime,
    pub(crate) now: Now,
    pub(crate) traffic: Traffic,
}

/// What tells sessions apart (RFC 8972, section 3).
#[derive(Debug, PartialEq, Eq, Hash)]
struct SessionId {
    stamp: bool,
    ssid: u16,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

#[derive(Debug, Default, Clone, Copy)]
struct Session {
    next: u32,
    /// Number and time of the reply before.
    last: Option<(u32, WallTime)>,
}

/// A synthetic loss test (Y.1731, clause 9.21).
#[derive(Debug, PartialEq, Eq, Hash)]
struct LossTest {
    source: Mac,
    mep: [u8; 2],
    id: [u8; 4],
}

/// The responders and what they remember.
#[derive(Debug)]
pub(crate) struct Standards {
    twamp: Option<Twamp>,
    stamp: Option<Stamp>,
    oam: Option<Oam>,
    error_estimate: u16,
    key: Option<Key>,
    sessions: Option<Table<SessionId, Session>>,
    loss_tests: Option<Table<LossTest, u32>>,
    random: u64,
}

impl Standards {
    pub(crate) fn new(config: &Config) -> Self {
        let stateful = config.twamp.is_some_and(|twamp| twamp.sequence == Sequence::Stateful)
            || config.stamp.as_ref().is_some_and(|stamp| stamp.sequence == Sequence::Stateful);
        let key = config.stamp.as_ref().and_then(|stamp| stamp.key.as_deref());
        Self {
            twamp: config.twamp,
            stamp: config.stamp.clone(),
            oam: config.oam,
            error_estimate: config.error_estimate,
            // HMAC takes a key of any length, so this is none only if there is none.
            key: key.and_then(|key| Key::new_from_slice(key).ok()),
            sessions: stateful.then(|| Table::new(SESSION_SETS, SESSION_IDLE_NS)),
            loss_tests: config
                .oam
                .is_some_and(|oam| oam.slm)
                .then(|| Table::new(SESSION_SETS, SESSION_IDLE_NS)),
            // Each end point another seed, or they would all answer at once after all.
            random: u64::from_be_bytes([
                0x9e,
                0x37,
                config.mac[0],
                config.mac[1],
                config.mac[2],
                config.mac[3],
                config.mac[4],
                config.mac[5],
            ]),
        }
    }

    /// Up to a second, evenly.
    pub(crate) fn random_delay_ns(&mut self) -> u64 {
        // splitmix64: a few instructions, good enough to spread answers.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 1_000_000_000
    }
}

/// HMAC-SHA-256 of the parts, truncated to the left 16 bytes.
fn hmac(key: &Key, parts: &[&[u8]]) -> [u8; HMAC_BYTES] {
    let mut mac = key.clone();
    parts.iter().for_each(|part| mac.update(part));
    let full = mac.finalize().into_bytes();
    let mut truncated = [0; HMAC_BYTES];
    truncated.copy_from_slice(&full[..HMAC_BYTES]);
    truncated
}

/// Whether the parts have this HMAC, in constant time.
fn verify(key: &Key, parts: &[&[u8]], expected: &[u8]) -> bool {
    let mut mac = key.clone();
    parts.iter().for_each(|part| mac.update(part));
    expected.len() == HMAC_BYTES && mac.verify_truncated_left(expected).is_ok()
}
