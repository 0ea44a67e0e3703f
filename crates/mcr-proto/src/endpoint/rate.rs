//! Rate caps of outputs.

use std::fmt;
use std::str::FromStr;

use super::error::quote;
use super::{EndpointError, string_serde};

const WANT: &str = "bits per second as 8000000, 8M or 8Mbit, or datagrams per second as 500pps or 10kpps";

/// A cap on what an output sends; never 0. Suffixes are decimal: `k`, `M`, `G`, in either case.
///
/// `8000000`, `8M`, `8Mbit` and `8Mbit/s` are the same number of bits; `500pps` and `10kpps` count datagrams. `bps` is
/// refused, because it means bits to some and bytes to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rate {
    /// Bits of UDP payload per second.
    BitsPerSecond(u64),
    /// Copies per second.
    PacketsPerSecond(u64),
}

impl Rate {
    pub(super) fn is_zero(self) -> bool {
        matches!(self, Rate::BitsPerSecond(0) | Rate::PacketsPerSecond(0))
    }
}

impl FromStr for Rate {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let refused = || EndpointError::Value { key: "rate", text: quote(text), want: WANT };
        let lower = text.to_ascii_lowercase();
        let (number, rate): (&str, fn(u64) -> Rate) = if let Some(number) = lower.strip_suffix("pps") {
            (number, Rate::PacketsPerSecond)
        } else if let Some(number) = lower.strip_suffix("bit/s").or_else(|| lower.strip_suffix("bit")) {
            (number, Rate::BitsPerSecond)
        } else {
            (lower.as_str(), Rate::BitsPerSecond)
        };
        let rate = rate(decimal(number).ok_or_else(refused)?);
        if rate.is_zero() { Err(refused()) } else { Ok(rate) }
    }
}

/// Reads digits with one optional suffix; `None` also if the number does not fit.
fn decimal(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1_000),
        b'm' => (&text[..text.len() - 1], 1_000_000),
        b'g' => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    // u64::from_str would take a leading plus sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match *self {
            Rate::BitsPerSecond(bits) => (bits, ""),
            Rate::PacketsPerSecond(packets) => (packets, "pps"),
        };
        let (number, suffix) = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")]
            .into_iter()
            .find(|(size, _)| number != 0 && number % size == 0)
            .map_or((number, ""), |(size, suffix)| (number / size, suffix));
        write!(f, "{number}{suffix}{unit}")
    }
}

string_serde!(Rate, "a rate, as 8M or 500pps", or number);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_rate_has_one_canonical_form() {
        for (text, canonical, rate) in [
            ("8000000", "8M", Rate::BitsPerSecond(8_000_000)),
            ("8M", "8M", Rate::BitsPerSecond(8_000_000)),
            ("8m", "8M", Rate::BitsPerSecond(8_000_000)),
            ("10Mbit", "10M", Rate::BitsPerSecond(10_000_000)),
            ("10mbit/s", "10M", Rate::BitsPerSecond(10_000_000)),
            ("1500", "1500", Rate::BitsPerSecond(1_500)),
            ("1000k", "1M", Rate::BitsPerSecond(1_000_000)),
            ("2000G", "2000G", Rate::BitsPerSecond(2_000_000_000_000)),
            ("500pps", "500pps", Rate::PacketsPerSecond(500)),
            ("10kpps", "10kpps", Rate::PacketsPerSecond(10_000)),
            ("10Kpps", "10kpps", Rate::PacketsPerSecond(10_000)),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap(), rate, "{text}");
            assert_eq!(rate.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn a_rate_that_is_zero_ambiguous_or_too_large_is_refused() {
        for text in [
            "",
            "0",
            "0pps",
            "k",
            "pps",
            "bit",
            "+5",
            "-5",
            "1.5M",
            "10mbps",
            "8 M",
            "18446744073709551615k",
            "é",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text:?} was taken");
        }
    }
}
