//! Y.1731 and IEEE 802.1ag: loopback, delay, synthetic loss and loss measurement.

use super::{LossTest, Standards};
use crate::{
    headers::Mac,
    outcome::{Kind, Reason},
    reflector::Traffic,
    time::{Now, WallTime},
};

/// Level and version, opcode, flags, TLV offset.
const HEADER_BYTES: usize = 4;

/// A message: its opcode, that of its answer, and where its first TLV is.
struct Message {
    kind: Kind,
    opcode: u8,
    answer: u8,
    tlv_offset: u8,
}

const MESSAGES: [Message; 4] = [
    Message { kind: Kind::Lbm, opcode: 3, answer: 2, tlv_offset: 4 },
    Message { kind: Kind::Dmm, opcode: 47, answer: 46, tlv_offset: 32 },
    Message { kind: Kind::Slm, opcode: 55, answer: 54, tlv_offset: 16 },
    Message { kind: Kind::Lmm, opcode: 43, answer: 42, tlv_offset: 12 },
];

impl Standards {
    /// Which message a PDU is, if it is answered.
    pub(crate) fn accept_oam(&self, pdu: &[u8]) -> Result<Kind, Reason> {
        let oam = self.oam.as_ref().ok_or(Reason::EtherType)?;
        let [level, opcode, _, tlv_offset] = *pdu.first_chunk::<HEADER_BYTES>().ok_or(Reason::Short)?;
        if level >> 5 != oam.level {
            return Err(Reason::Level);
        }
        let message = MESSAGES.iter().find(|message| message.opcode == opcode).ok_or(Reason::Request)?;
        let on = match message.kind {
            Kind::Lbm => oam.lbm,
            Kind::Dmm => oam.dmm,
            Kind::Slm => oam.slm,
            _ => oam.lmm,
        };
        let fields_end = HEADER_BYTES + usize::from(tlv_offset);
        if !on || tlv_offset < message.tlv_offset {
            return Err(Reason::Request);
        }
        if pdu.len() < fields_end { Err(Reason::Short) } else { Ok(message.kind) }
    }

    /// Makes an accepted PDU its answer.
    pub(crate) fn answer_oam(
        &mut self,
        pdu: &mut [u8],
        kind: Kind,
        source: Mac,
        received: WallTime,
        now: &Now,
        traffic: Traffic,
    ) {
        if let Some(message) = MESSAGES.iter().find(|message| message.kind == kind) {
            pdu[1] = message.answer;
        }
        let fields = &mut pdu[HEADER_BYTES..];
        match kind {
            Kind::Dmm => {
                fields[8..16].copy_from_slice(&received.ptp_bytes());
                fields[16..24].copy_from_slice(&now.wall.ptp_bytes());
            }
            Kind::Slm => {
                let test = LossTest {
                    source,
                    mep: [fields[0], fields[1]],
                    id: [fields[4], fields[5], fields[6], fields[7]],
                };
                let sent = self.loss_tests.as_mut().map_or(0, |tests| {
                    let sent = tests.entry(test, now.monotonic_ns, || 0);
                    *sent = sent.wrapping_add(1);
                    *sent
                });
                let mep = self.oam.map_or(0, |oam| oam.mep);
                fields[2..4].copy_from_slice(&mep.to_be_bytes());
                fields[12..16].copy_from_slice(&sent.to_be_bytes());
            }
            Kind::Lmm => {
                fields[4..8].copy_from_slice(&(traffic.received as u32).to_be_bytes());
                fields[8..12].copy_from_slice(&(traffic.sent as u32).to_be_bytes());
            }
            _ => {}
        }
    }
}
