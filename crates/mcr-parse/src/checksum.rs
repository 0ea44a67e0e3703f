//! The internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! A [`Sum`] is a ones' complement sum of big-endian 16-bit words that has not been folded or complemented yet. Sums
//! add up in any order, so the sum of a payload can be taken once and used under many headers. [`Parts`] sums a byte
//! string that comes in several slices, odd lengths included.
//!
//! Nothing here knows any protocol; what is summed for IPv4 and UDP is in the parser and the builder.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::{Add, AddAssign};

/// A ones' complement sum of 16-bit words, unfolded.
///
/// Only its value modulo `0xffff` means anything, and whether it is zero: the sum of words that are not all zero never
/// folds to 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of no words.
    pub const ZERO: Sum = Sum(0);

    /// The sum in 16 bits, as it stands in a partial checksum field.
    #[inline]
    #[must_use]
    pub const fn fold(self) -> u16 {
        // At most 2^33, then 2^18, then 2^16 + 2, then 2^16 - 1.
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        sum as u16
    }

    /// The complement of the folded sum, as it stands in a checksum field.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The sum of the same bytes moved by one: what a run adds when it starts at an odd offset (RFC 1071, section 2 B).
    #[inline]
    const fn byte_swapped(self) -> Sum {
        Sum(self.fold().swap_bytes() as u64)
    }
}

impl Add for Sum {
    type Output = Sum;

    #[inline]
    fn add(self, other: Sum) -> Sum {
        let (sum, carry) = self.0.overflowing_add(other.0);
        // After a carry the sum is at most 2^64 - 2, so this cannot overflow.
        Sum(sum + u64::from(carry))
    }
}

impl AddAssign for Sum {
    #[inline]
    fn add_assign(&mut self, other: Sum) {
        *self = *self + other;
    }
}

impl From<u16> for Sum {
    #[inline]
    fn from(word: u16) -> Sum {
        Sum(u64::from(word))
    }
}

impl From<u32> for Sum {
    /// The sum of the two words of a 32-bit field.
    #[inline]
    fn from(field: u32) -> Sum {
        Sum(u64::from(field))
    }
}

impl From<u128> for Sum {
    /// The sum of the eight words of a 128-bit field.
    #[inline]
    fn from(field: u128) -> Sum {
        Sum((field >> 64) as u64) + Sum(field as u64)
    }
}

impl From<Ipv4Addr> for Sum {
    #[inline]
    fn from(address: Ipv4Addr) -> Sum {
        Sum::from(address.to_bits())
    }
}

impl From<Ipv6Addr> for Sum {
    #[inline]
    fn from(address: Ipv6Addr) -> Sum {
        Sum::from(address.to_bits())
    }
}

impl From<IpAddr> for Sum {
    #[inline]
    fn from(address: IpAddr) -> Sum {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

/// Sums `bytes` as big-endian words; an odd last byte is the high half of a word whose low half is zero.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> Sum {
    // Words are added in the machine's own byte order: a ones' complement sum commutes with swapping (RFC 1071,
    // section 2 B). Eight independent 64-bit lanes of 32-bit words let the compiler use vector registers; a lane
    // cannot overflow below 2^32 words.
    let mut lanes = [0_u64; 8];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            *lane += u64::from(word_at(word));
        }
    }
    let mut total = lanes.iter().fold(Sum::ZERO, |total, lane| total + Sum(*lane));
    let mut words = chunks.remainder().chunks_exact(4);
    for word in &mut words {
        total += Sum(u64::from(word_at(word)));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    total += Sum(u64::from(u32::from_ne_bytes(last)));
    Sum(u64::from(u16::from_be(total.fold())))
}

#[inline(always)]
fn word_at(word: &[u8]) -> u32 {
    u32::from_ne_bytes([word[0], word[1], word[2], word[3]])
}

/// The sum and the length of a byte string that comes in parts.
///
/// ```
/// use mcr_parse::checksum::{Parts, sum};
/// let parts = Parts::of(&[b"odd", b" and even"]);
/// assert_eq!(parts.bytes(), 12);
/// assert_eq!(parts.sum().fold(), sum(b"odd and even").fold());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    sum: Sum,
    bytes: usize,
}

impl Parts {
    /// Sums the parts as if they stood one after another.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Parts {
        let mut whole = Parts::default();
        for part in parts {
            whole.push(part);
        }
        whole
    }

    /// Appends one part.
    #[inline]
    pub fn push(&mut self, part: &[u8]) {
        let sum = sum(part);
        self.sum += if self.bytes.is_multiple_of(2) { sum } else { sum.byte_swapped() };
        self.bytes += part.len();
    }

    /// The sum of all parts.
    #[inline]
    #[must_use]
    pub const fn sum(self) -> Sum {
        self.sum
    }

    /// The length of all parts.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bytes
    }
}

impl From<&[u8]> for Parts {
    #[inline]
    fn from(bytes: &[u8]) -> Parts {
        Parts { sum: sum(bytes), bytes: bytes.len() }
    }
}

/// A checksum field after the words that sum to `removed` gave place to words that sum to `added`
/// (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
///
/// A field that was wrong stays wrong by the same amount, so the receiver still sees the damage. Where the sum does
/// not change, the field is returned as it is. A result of 0 means "no checksum" to UDP; the caller writes 0xffff
/// then.
#[inline]
#[must_use]
pub fn update(checksum: u16, removed: Sum, added: Sum) -> u16 {
    !update_folded(!checksum, removed, added)
}

/// [`update`] for a field that holds a folded sum, not its complement: a partial checksum (the pseudo-header's sum
/// alone) that a later stage completes.
#[inline]
#[must_use]
pub fn update_folded(folded: u16, removed: Sum, added: Sum) -> u16 {
    let (removed, added) = (removed.fold(), added.fold());
    if removed == added {
        return folded;
    }
    (Sum::from(folded) + Sum::from(!removed) + Sum::from(added)).fold()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).fold(), 0xddf2);
        assert_eq!(sum(&bytes).checksum(), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_updates_to_zero_and_not_to_ffff() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285; equation 2 would give 0xffff.
        assert_eq!(update(0xdd2f, Sum::from(0x5555_u16), Sum::from(0x3285_u16)), 0x0000);
    }

    #[test]
    fn an_update_that_changes_no_word_leaves_either_form_of_zero_alone() {
        for checksum in [0x0000, 0xffff] {
            assert_eq!(update(checksum, Sum::from(0x1234_u16), Sum::from(0x1234_u16)), checksum);
        }
    }

    #[test]
    fn wide_fields_sum_like_their_words() {
        assert_eq!(Sum::from(0x0001_fffe_u32).fold(), 0xffff);
        assert_eq!(Sum::from(u128::MAX).fold(), 0xffff);
        assert_eq!(Sum::from(0x0001_0002_0003_0004_0005_0006_0007_0008_u128).fold(), 36);
        assert_eq!((Sum::from(u128::MAX) + Sum::from(u128::MAX) + Sum::from(2_u16)).fold(), 2);
    }

    #[test]
    fn bytes_of_the_highest_value_do_not_overflow_the_fold() {
        let bytes = [0xff; 70_000];
        assert_eq!(sum(&bytes).fold(), 0xffff);
        assert_eq!(sum(&bytes[..69_999]).fold(), 0xff00);
    }
}
