//! TWAMP-Light (RFC 5357, appendix I) and STAMP (RFC 8762): the base packets.

use super::{HMAC_BYTES, Request, Session, SessionId, Standards, hmac, tlv, verify};
use crate::{
    config::{Sequence, Stamp},
    outcome::Reason,
};

/// The request's part that TWAMP and STAMP share: sequence number, time stamp, error estimate.
const REQUEST_BYTES: usize = 14;
const TWAMP_REPLY_BYTES: usize = 41;
const STAMP_BYTES: usize = 44;
const AUTHENTICATED_BYTES: usize = 112;
/// What an authenticated packet's HMAC covers.
const COVERED_BYTES: usize = 96;

impl Standards {
    /// Whether a payload is a request that is answered, and how long the answer's payload is.
    pub(crate) fn accept(&self, is_stamp: bool, payload: &[u8]) -> Result<usize, Reason> {
        let bytes = payload.len();
        let Some(stamp) = self.stamp.as_ref().filter(|_| is_stamp) else {
            return if bytes < REQUEST_BYTES {
                Err(Reason::Request)
            } else {
                Ok(bytes.max(TWAMP_REPLY_BYTES))
            };
        };
        if stamp.authenticated {
            let key = self.key.as_ref().ok_or(Reason::Auth)?;
            let (covered, rest) = payload.split_at_checked(COVERED_BYTES).ok_or(Reason::Auth)?;
            if rest.len() < HMAC_BYTES || !verify(key, &[covered], &rest[..HMAC_BYTES]) {
                return Err(Reason::Auth);
            }
        }
        if bytes < REQUEST_BYTES {
            return Err(Reason::Request);
        }
        if !stamp.ssids.is_empty() && !stamp.ssids.contains(&ssid(stamp, payload)) {
            return Err(Reason::NotAllowed);
        }
        Ok(bytes.max(base_bytes(stamp)))
    }

    /// Writes the answer to an accepted request over it and returns the traffic class to send it with.
    ///
    /// `frame` ends where the answer does.
    pub(crate) fn answer(
        &mut self,
        is_stamp: bool,
        frame: &mut [u8],
        request: &Request,
        payload_bytes: usize,
    ) -> u8 {
        let hop_limit = request.ip.hop_limit(frame);
        // ECN is between neighbours: what came says nothing of the way back.
        let traffic_class = request.ip.traffic_class(frame);
        let start = request.udp.payload().start;
        let request_bytes = request.udp.payload().len();
        let payload = &mut frame[start..start + payload_bytes];
        // What lies beyond the request is padding or an older frame.
        payload[request_bytes..].fill(0);

        let stamp = self.stamp.as_ref().filter(|_| is_stamp);
        let (sequence_mode, ssid) = match (stamp, self.twamp) {
            (Some(stamp), _) => (stamp.sequence, ssid(stamp, payload)),
            (None, twamp) => (twamp.map_or(Sequence::Stateless, |twamp| twamp.sequence), 0),
        };
        let authenticated = stamp.is_some_and(|stamp| stamp.authenticated);
        let head = Head::read(payload, authenticated);
        let (sequence, session) = match (sequence_mode, &mut self.sessions) {
            (Sequence::Stateful, Some(sessions)) => {
                let (source, destination) = request.addresses;
                let id = SessionId {
                    stamp: is_stamp,
                    ssid,
                    source: (source, request.udp.source_port),
                    destination: (destination, request.udp.destination_port),
                };
                let session = sessions.entry(id, request.now.monotonic_ns, Session::default);
                let before = *session;
                session.last = Some((before.next, request.now.wall));
                session.next = before.next.wrapping_add(1);
                (before.next.to_be_bytes(), Some(before))
            }
            _ => (head.sequence, None),
        };
        let reply = Reply {
            sequence,
            sent: request.now.wall.ntp().to_be_bytes(),
            received: request.received.ntp().to_be_bytes(),
            error_estimate: self.error_estimate.to_be_bytes(),
            ssid: ssid.to_be_bytes(),
            hop_limit,
        };
        let Some(stamp) = stamp else {
            reply.write_open(payload, &head, TWAMP_REPLY_BYTES);
            return traffic_class & 0xfc;
        };
        let base = base_bytes(stamp);
        let tlvs = tlv::Context {
            request,
            traffic_class,
            synchronised: self.error_estimate & 0x8000 != 0,
            dscp_by_request: stamp.dscp_by_request,
            session,
            key: self.key.as_ref(),
            must_have_hmac: authenticated,
            request_sequence: head.sequence,
            reply_sequence: sequence,
        };
        let traffic_class = tlv::process(&mut payload[base..], &tlvs);
        if !authenticated {
            reply.write_open(payload, &head, base);
        } else if let Some(key) = &self.key {
            reply.write_authenticated(payload, &head);
            let mac = hmac(key, &[&payload[..COVERED_BYTES]]);
            payload[COVERED_BYTES..AUTHENTICATED_BYTES].copy_from_slice(&mac);
        }
        traffic_class
    }
}

fn base_bytes(stamp: &Stamp) -> usize {
    if stamp.authenticated { AUTHENTICATED_BYTES } else { STAMP_BYTES }
}

/// The session identifier; senders that know of none have zeros there, or end before it.
fn ssid(stamp: &Stamp, payload: &[u8]) -> u16 {
    let at = if stamp.authenticated { 26 } else { 14 };
    payload.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |two| u16::from_be_bytes(*two))
}

/// What a reply repeats of its request.
struct Head {
    sequence: [u8; 4],
    time: [u8; 8],
    error_estimate: [u8; 2],
}

impl Head {
    fn read(payload: &[u8], authenticated: bool) -> Self {
        let time_at = if authenticated { 16 } else { 4 };
        let mut head = Self { sequence: [0; 4], time: [0; 8], error_estimate: [0; 2] };
        head.sequence.copy_from_slice(&payload[..4]);
        head.time.copy_from_slice(&payload[time_at..time_at + 8]);
        head.error_estimate.copy_from_slice(&payload[time_at + 8..time_at + 10]);
        head
    }
}

/// What a reply says itself.
struct Reply {
    sequence: [u8; 4],
    sent: [u8; 8],
    received: [u8; 8],
    error_estimate: [u8; 2],
    ssid: [u8; 2],
    hop_limit: u8,
}

impl Reply {
    /// RFC 8762, section 4.3.1; TWAMP's ends after the hop limit.
    fn write_open(&self, payload: &mut [u8], head: &Head, base: usize) {
        write(
            &mut payload[..base],
            &[
                &self.sequence,
                &self.sent,
                &self.error_estimate,
                &self.ssid,
                &self.received,
                &head.sequence,
                &head.time,
                &head.error_estimate,
                &[0; 2],
                &[self.hop_limit],
                &[0; 3][..base - TWAMP_REPLY_BYTES],
            ],
        );
    }

    /// RFC 8762, section 4.3.2, but for the HMAC.
    fn write_authenticated(&self, payload: &mut [u8], head: &Head) {
        write(
            &mut payload[..COVERED_BYTES],
            &[
                &self.sequence,
                &[0; 12],
                &self.sent,
                &self.error_estimate,
                &self.ssid,
                &[0; 4],
                &self.received,
                &[0; 8],
                &head.sequence,
                &[0; 12],
                &head.time,
                &head.error_estimate,
                &[0; 6],
                &[self.hop_limit],
                &[0; 15],
            ],
        );
    }
}

/// Writes the fields one after another; together they are as long as `to`.
fn write(to: &mut [u8], fields: &[&[u8]]) {
    let mut at = 0;
    for field in fields {
        to[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    debug_assert_eq!(at, to.len());
}
