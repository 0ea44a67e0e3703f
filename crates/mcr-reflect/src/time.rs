//! Points in time, given from outside: this crate reads no clock.

use serde::{Deserialize, Serialize};

/// Seconds from the NTP era's beginning (1900) to that of Unix time (1970); RFC 5905, figure 4.
const NTP_TO_UNIX_S: u64 = 2_208_988_800;
const NS_PER_S: u64 = 1_000_000_000;

/// Wall-clock time since 1970, in 2^-32 of a second: finer than a nanosecond, and exactly what NTP's format holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WallTime {
    seconds: u64,
    fraction: u32,
}

impl WallTime {
    /// From nanoseconds since 1970. Taking them out again by [`WallTime::unix`] gives the same.
    #[must_use]
    pub const fn from_unix_ns(ns: u64) -> Self {
        // Rounded up, so that rounding down the other way comes back to the same nanosecond.
        let fraction = (((ns % NS_PER_S) << 32).div_ceil(NS_PER_S)) as u32;
        Self { seconds: ns / NS_PER_S, fraction }
    }

    /// From the 64 bits of an NTP time stamp, in the era that began in 1900 or, for small values, in the next.
    #[must_use]
    pub const fn from_ntp(bits: u64) -> Self {
        let seconds = bits >> 32;
        let era = if seconds < NTP_TO_UNIX_S { 1 << 32 } else { 0 };
        Self { seconds: seconds + era - NTP_TO_UNIX_S, fraction: bits as u32 }
    }

    /// The 64 bits of an NTP time stamp (RFC 5905, section 6).
    #[must_use]
    pub const fn ntp(self) -> u64 {
        (self.seconds.wrapping_add(NTP_TO_UNIX_S) << 32) | self.fraction as u64
    }

    /// Seconds, modulo 2^32, and nanoseconds, as PTP's truncated format has them.
    #[must_use]
    pub const fn unix(self) -> (u32, u32) {
        (self.seconds as u32, ((self.fraction as u64 * NS_PER_S) >> 32) as u32)
    }

    /// Nanoseconds since an earlier time; 0 if it is none.
    #[must_use]
    pub fn ns_since(self, earlier: Self) -> u64 {
        let ns = |time: Self| time.seconds * NS_PER_S + ((time.fraction as u64 * NS_PER_S) >> 32);
        ns(self).saturating_sub(ns(earlier))
    }

    /// The eight bytes of a Y.1731 time stamp: seconds, nanoseconds.
    pub(crate) fn ptp_bytes(self) -> [u8; 8] {
        let (seconds, nanoseconds) = self.unix();
        (u64::from(seconds) << 32 | u64::from(nanoseconds)).to_be_bytes()
    }
}

/// The time at which a frame is handled, by both clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of a clock that never goes back; guards and tables count by it.
    pub monotonic_ns: u64,
    /// Wall-clock time, for the time stamps of replies.
    pub wall: WallTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nanosecond_comes_back_from_its_ntp_form() {
        for ns in [0, 1, 999_999_999, 100_010_000, 250_015_259, 123_456_789] {
            let time = WallTime::from_unix_ns(1_700_000_000 * NS_PER_S + ns);
            assert_eq!(time.unix(), (1_700_000_000, ns as u32));
            assert_eq!(WallTime::from_ntp(time.ntp()), time);
        }
    }

    #[test]
    fn the_next_era_of_ntp_follows_this_one() {
        let last = WallTime::from_unix_ns(((1 << 32) - NTP_TO_UNIX_S - 1) * NS_PER_S);
        assert_eq!(last.ntp() >> 32, 0xffff_ffff);
        let first = WallTime::from_unix_ns(((1 << 32) - NTP_TO_UNIX_S) * NS_PER_S);
        assert_eq!(first.ntp(), 0);
        assert_eq!(WallTime::from_ntp(0), first);
    }
}
