//! The payload of a test datagram: written by the sender, checked to the last byte by the receiver.
//!
//! Duty: bytes to fields and back, no I/O, no clock. All numbers of the header are big-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 3 | magic, `MCG` |
//! | 3 | 1 | version, 1 |
//! | 4 | 4 | flow: index among the flows of one run |
//! | 8 | 8 | sequence: 0, 1, 2, ... within the flow |
//! | 16 | 8 | send time, ns of CLOCK_REALTIME |
//! | 24 | 4 | run: drawn by the sender, so that a second run is not taken for duplicates of the first |
//! | 28 | 4 | checksum over the 28 bytes before it and the payload's length |
//! | 32 | rest | filler: 64-bit little-endian words, word i = mix(run, flow, sequence) + (i + 1) * 0x9e3779b97f4a7c15; the last one cut |
//!
//! The checksum finds damage to the header and to the length. The filler needs none: the receiver knows every byte of
//! it from the header, so each is compared.

/// Bytes of the header, and so the smallest payload.
pub const HEADER_BYTES: usize = 32;

/// The largest payload that a UDP datagram over IPv4 has room for: 65,535 - 20 - 8.
pub const PAYLOAD_BYTES_MAX: usize = 65_507;

const MAGIC_AND_VERSION: [u8; 4] = *b"MCG\x01";
const CHECKSUM_AT: usize = 28;

/// 2^64 divided by the golden ratio, odd: the step of Weyl sequences and the multiplier of Fibonacci hashing.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the header of a payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// The sender's run.
    pub run: u32,
    /// Index of the flow within the run.
    pub flow: u32,
    /// Position of the datagram within the flow, from 0.
    pub sequence: u64,
    /// When it was handed to the kernel, ns of CLOCK_REALTIME.
    pub sent_ns: u64,
}

/// Why a payload is not one that a sender wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not test traffic of this version at all.
    Foreign,
    /// Test traffic whose header is damaged or whose length changed: nothing in it can be relied on.
    Header,
    /// The header is intact, the bytes after it are not.
    Filler(Header),
}

/// Fills all of `payload` for the datagram that `header` describes.
///
/// # Panics
/// If `payload` is shorter than [`HEADER_BYTES`].
pub fn write(payload: &mut [u8], header: &Header) {
    assert!(payload.len() >= HEADER_BYTES, "a payload has at least {HEADER_BYTES} bytes");
    let checksum = checksum(header, payload.len());
    payload[..4].copy_from_slice(&MAGIC_AND_VERSION);
    payload[4..8].copy_from_slice(&header.flow.to_be_bytes());
    payload[8..16].copy_from_slice(&header.sequence.to_be_bytes());
    payload[16..24].copy_from_slice(&header.sent_ns.to_be_bytes());
    payload[24..28].copy_from_slice(&header.run.to_be_bytes());
    payload[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());

    let mut word = filler_key(header);
    let mut words = payload[HEADER_BYTES..].chunks_exact_mut(8);
    for bytes in &mut words {
        word = word.wrapping_add(GOLDEN);
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let rest = words.into_remainder();
    rest.copy_from_slice(&word.wrapping_add(GOLDEN).to_le_bytes()[..rest.len()]);
}

/// Checks every byte of `payload` and gives what its header says.
///
/// A payload whose magic is damaged but whose checksum still fits is ours, so it is [`Fault::Header`] and not
/// [`Fault::Foreign`].
pub fn check(payload: &[u8]) -> Result<Header, Fault> {
    let Some((head, filler)) = payload.split_first_chunk::<HEADER_BYTES>() else {
        let ours = payload.len() >= 4 && payload[..4] == MAGIC_AND_VERSION;
        return Err(if ours { Fault::Header } else { Fault::Foreign });
    };
    let header = Header {
        run: be_u32(head, 24),
        flow: be_u32(head, 4),
        sequence: be_u64(head, 8),
        sent_ns: be_u64(head, 16),
    };
    let checksum_fits = be_u32(head, CHECKSUM_AT) == checksum(&header, payload.len());
    match (head[..4] == MAGIC_AND_VERSION, checksum_fits) {
        (true, true) if filler_fits(filler, &header) => Ok(header),
        (true, true) => Err(Fault::Filler(header)),
        (false, false) => Err(Fault::Foreign),
        (true, false) | (false, true) => Err(Fault::Header),
    }
}

/// Collects differences instead of leaving at the first: intact payloads are the rule, and without a branch in it the
/// loop becomes vector instructions.
fn filler_fits(filler: &[u8], header: &Header) -> bool {
    let mut word = filler_key(header);
    let mut difference = 0;
    let (words, rest) = filler.as_chunks::<8>();
    for bytes in words {
        word = word.wrapping_add(GOLDEN);
        difference |= u64::from_le_bytes(*bytes) ^ word;
    }
    let last = word.wrapping_add(GOLDEN).to_le_bytes();
    difference == 0 && rest == &last[..rest.len()]
}

fn filler_key(header: &Header) -> u64 {
    let flow = u64::from(header.run) << 32 | u64::from(header.flow);
    mix(mix(flow).wrapping_add(header.sequence))
}

fn checksum(header: &Header, payload_bytes: usize) -> u32 {
    let magic = u64::from(u32::from_be_bytes(MAGIC_AND_VERSION)) << 32;
    let words = [
        magic | u64::from(header.flow),
        header.sequence,
        header.sent_ns,
        u64::from(header.run) << 32 | payload_bytes as u64,
    ];
    // Each step is a bijection of the running value, so two headers that differ in one word never meet before the cut
    // to 32 bits, and after it by chance only: once in 2^32.
    let sum = words.iter().fold(0, |sum, word| mix(sum ^ word));
    (sum >> 32) as u32
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators): a bijection in
/// which each bit of the input moves about half of those of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn be_u32(head: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

fn be_u64(head: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(be_u32(head, at)) << 32 | u64::from(be_u32(head, at + 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header =
        Header { run: 7, flow: 3, sequence: 0x0102_0304_0506_0708, sent_ns: 1_700_000_000_000 };

    fn written(bytes: usize, header: &Header) -> Vec<u8> {
        let mut payload = vec![0xaa; bytes];
        write(&mut payload, header);
        payload
    }

    #[test]
    fn the_header_lies_where_the_table_says() {
        let payload = written(48, &HEADER);
        assert_eq!(&payload[..16], b"MCG\x01\0\0\0\x03\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(payload[16..24], HEADER.sent_ns.to_be_bytes());
        assert_eq!(payload[24..28], [0, 0, 0, 7]);
        let first = u64::from_le_bytes(payload[32..40].try_into().expect("8 bytes"));
        let second = u64::from_le_bytes(payload[40..48].try_into().expect("8 bytes"));
        assert_eq!(second.wrapping_sub(first), GOLDEN);
    }

    #[test]
    fn every_single_bit_flip_is_found() {
        for bytes in [32, 33, 39, 40, 41, 100] {
            let mut payload = written(bytes, &HEADER);
            for bit in 0..bytes * 8 {
                payload[bit / 8] ^= 1 << (bit % 8);
                let found = check(&payload).expect_err("one bit is wrong");
                match bit / 8 {
                    0..HEADER_BYTES => assert_eq!(found, Fault::Header, "bit {bit}"),
                    _ => assert_eq!(found, Fault::Filler(HEADER), "bit {bit}"),
                }
                payload[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn what_others_send_is_foreign_at_any_length() {
        for bytes in 0..80 {
            assert_eq!(check(&vec![0; bytes]), Err(Fault::Foreign));
            assert_eq!(check(&vec![0xff; bytes]), Err(Fault::Foreign));
        }
    }

    #[test]
    fn two_payloads_run_together_are_not_one() {
        let one = written(100, &HEADER);
        let two = written(100, &Header { sequence: HEADER.sequence + 1, ..HEADER });
        assert_eq!(check(&[one, two].concat()), Err(Fault::Header));
    }

    proptest! {
        #[test]
        fn what_is_written_checks(
            run: u32, flow: u32, sequence: u64, sent_ns: u64, bytes in HEADER_BYTES..3000,
        ) {
            let header = Header { run, flow, sequence, sent_ns };
            prop_assert_eq!(check(&written(bytes, &header)), Ok(header));
        }

        #[test]
        fn a_cut_or_stretched_payload_is_found(bytes in HEADER_BYTES..200, other in 4usize..300) {
            prop_assume!(bytes != other);
            let mut payload = written(bytes, &HEADER);
            payload.resize(other, 0);
            prop_assert_eq!(check(&payload), Err(Fault::Header));
        }

        #[test]
        fn a_changed_byte_is_found(bytes in HEADER_BYTES..2000, at: usize, to: u8) {
            let mut payload = written(bytes, &HEADER);
            let at = at % bytes;
            prop_assume!(payload[at] != to);
            payload[at] = to;
            prop_assert!(check(&payload).is_err());
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            // Only what `write` makes passes; the chance of meeting it here is nil.
            prop_assert!(check(&bytes).is_err());
        }
    }
}
