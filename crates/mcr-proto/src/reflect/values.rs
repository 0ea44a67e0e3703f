//! Types of a reflector's keys: read from text, written as text.

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

use crate::endpoint::string_serde;

/// Why a text is no value of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write {want}")]
pub struct ValueError {
    /// What it should be.
    pub want: &'static str,
}

/// A TOML value, or as much of one as there is in keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    Text(String),
    Number(i64),
    Boolean(bool),
    List(Vec<Raw>),
}

/// A value that can be read from TOML and written to it.
pub(crate) trait Value: Sized {
    /// None if it is of another type or out of range.
    fn from_raw(raw: &Raw) -> Option<Self>;

    fn toml(&self) -> String;
}

impl Value for bool {
    fn from_raw(raw: &Raw) -> Option<Self> {
        if let Raw::Boolean(value) = raw { Some(*value) } else { None }
    }

    fn toml(&self) -> String {
        self.to_string()
    }
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn from_raw(raw: &Raw) -> Option<Self> {
                if let Raw::Number(number) = raw { Self::try_from(*number).ok() } else { None }
            }

            fn toml(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

numbers!(u16, u32, u64);

impl<V: Value> Value for Vec<V> {
    fn from_raw(raw: &Raw) -> Option<Self> {
        if let Raw::List(items) = raw { items.iter().map(V::from_raw).collect() } else { None }
    }

    fn toml(&self) -> String {
        let items: Vec<_> = self.iter().map(Value::toml).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Values that are text: in TOML, in JSON and on the command line alike.
macro_rules! texts {
    ($($type:ty, $expecting:literal;)*) => {$(
        string_serde!($type, $expecting);

        impl Value for $type {
            fn from_raw(raw: &Raw) -> Option<Self> {
                if let Raw::Text(text) = raw { text.parse().ok() } else { None }
            }

            fn toml(&self) -> String {
                // None of them has a character that needs an escape.
                format!("\"{self}\"")
            }
        }
    )*};
}

/// An enum of words.
macro_rules! words {
    ($(#[doc = $doc:literal])* $enum:ident, $want:literal { $($(#[doc = $each:literal])* $variant:ident = $word:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $enum {
            $($(#[doc = $each])* $variant,)*
        }

        impl $enum {
            /// All words.
            pub const WORDS: &'static [&'static str] = &[$($word),*];
        }

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),* })
            }
        }

        impl FromStr for $enum {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(ValueError { want: $want }),
                }
            }
        }
    };
}

words! {
    /// What a reflector exchanges.
    ReflectMode, "mac, mac-ip, all or auto" {
        /// MAC addresses.
        Mac = "mac",
        /// MAC and IP addresses.
        MacIp = "mac-ip",
        /// MAC and IP addresses and UDP ports.
        All = "all",
        /// As much of these as a frame has, whatever it carries.
        Auto = "auto",
    }
}

words! {
    /// Which signatures of test packets count.
    SignatureFamily, "all, ito, rfc2544, y1564 or custom" {
        /// All of them.
        All = "all",
        /// PROBEOT, DATA:OT and LATENCY.
        Ito = "ito",
        /// RFC2544.
        Rfc2544 = "rfc2544",
        /// Y.1564.
        Y1564 = "y1564",
        /// RFC2544 and Y.1564.
        Custom = "custom",
    }
}

words! {
    /// How a reflector gets and sends frames.
    Platform, "auto, packet or xdp" {
        /// The best that works.
        Auto = "auto",
        /// AF_PACKET.
        Packet = "packet",
        /// AF_XDP.
        Xdp = "xdp",
    }
}

words! {
    /// How replies are numbered.
    Sequence, "stateful or stateless" {
        /// From 0 in each session.
        Stateful = "stateful",
        /// As their requests.
        Stateless = "stateless",
    }
}

/// The first three bytes of a MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Oui(pub [u8; 3]);

impl Oui {
    /// NetAlly's.
    pub const NETALLY: Self = Self([0x00, 0xc0, 0x17]);
}

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// Addresses that begin with the same bits, as in `192.0.2.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressPrefix {
    /// An address among them.
    pub address: IpAddr,
    /// How many bits are the same.
    pub bits: u8,
}

/// Bytes, written in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Hex(pub Vec<u8>);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a key.
        write!(f, "Hex({} bytes)", self.0.len())
    }
}

/// How many of an interface's receive queues a reflector serves, the first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queues {
    /// Those there are.
    All,
    /// So many, and those behind them are the stack's.
    First(NonZeroU16),
}

impl Queues {
    const WANT: &'static str = "all, or how many, 1 or more";

    /// How many of `there` are served.
    #[must_use]
    pub fn of(self, there: u32) -> u32 {
        match self {
            Self::All => there,
            Self::First(count) => there.min(count.get().into()),
        }
    }
}

impl FromStr for Queues {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "all" {
            return Ok(Self::All);
        }
        text.parse().map(Self::First).map_err(|_| ValueError { want: Self::WANT })
    }
}

impl fmt::Display for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.pad("all"),
            Self::First(count) => count.fmt(f),
        }
    }
}

string_serde!(Queues, "all, or how many, 1 or more", or number);

impl Value for Queues {
    fn from_raw(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Text(text) => text.parse().ok(),
            Raw::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    fn toml(&self) -> String {
        match self {
            Self::All => "\"all\"".to_owned(),
            Self::First(count) => count.to_string(),
        }
    }
}

texts! {
    ReflectMode, "mac, mac-ip, all or auto";
    SignatureFamily, "all, ito, rfc2544, y1564 or custom";
    Platform, "auto, packet or xdp";
    Sequence, "stateful or stateless";
    Oui, "three bytes, as in \"00:c0:17\"";
    MacAddress, "a MAC address";
    AddressPrefix, "a prefix, as in \"192.0.2.0/24\"";
    Hex, "hexadecimal digits";
}

/// Bytes of two hexadecimal digits each, with colons between them and nothing else.
fn colons<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = digits(parts.next()?)?;
    }
    parts.next().is_none().then_some(bytes)
}

fn digits(text: &str) -> Option<u8> {
    let right = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| u8::from_str_radix(text, 16).ok()).flatten()
}

fn join(f: &mut fmt::Formatter<'_>, bytes: &[u8], between: &str) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        write!(f, "{}{byte:02x}", if at == 0 { "" } else { between })?;
    }
    Ok(())
}

impl FromStr for Oui {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        colons(text).map(Self).ok_or(ValueError { want: "three bytes, as in 00:c0:17" })
    }
}

impl fmt::Display for Oui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.0, ":")
    }
}

impl FromStr for MacAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        colons(text).map(Self).ok_or(ValueError { want: "six bytes, as in 00:c0:17:01:02:03" })
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.0, ":")
    }
}

impl FromStr for Hex {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = ValueError { want: "hexadecimal digits, two for each byte" };
        if !text.is_ascii() || !text.len().is_multiple_of(2) {
            return Err(error);
        }
        let bytes: Option<_> = (0..text.len()).step_by(2).map(|at| digits(&text[at..at + 2])).collect();
        bytes.map(Self).ok_or(error)
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.0, "")
    }
}

impl FromStr for AddressPrefix {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let prefix = address.parse().ok().and_then(|address: IpAddr| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
            Some(Self { address, bits })
        });
        prefix.ok_or(ValueError { want: "a prefix, as in 192.0.2.0/24 or 2001:db8::/32" })
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_as_it_was_written() {
        fn check<T: FromStr<Err = ValueError> + fmt::Display>(texts: &[&str]) {
            for text in texts {
                let value: T = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!(value.to_string(), *text);
            }
        }
        check::<Oui>(&["00:c0:17"]);
        check::<MacAddress>(&["00:c0:17:54:05:98"]);
        check::<AddressPrefix>(&["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"]);
        check::<Hex>(&["", "00ff10"]);
        check::<ReflectMode>(ReflectMode::WORDS);
        check::<SignatureFamily>(SignatureFamily::WORDS);
        check::<Platform>(Platform::WORDS);
        check::<Sequence>(Sequence::WORDS);
        check::<Queues>(&["all", "1", "65535"]);
    }

    #[test]
    fn what_is_no_value_is_refused_whole() {
        for text in ["00:c0", "00:c0:17:", "00:c0:17x", "0:c0:17", "+0:c0:17", "00-c0-17", ""] {
            assert!(text.parse::<Oui>().is_err(), "{text}");
        }
        for text in ["192.0.2.0/33", "192.0.2.0/", "::/129", "x/8", "192.0.2.0/-1"] {
            assert!(text.parse::<AddressPrefix>().is_err(), "{text}");
        }
        assert!("0".parse::<Hex>().is_err() && "zz".parse::<Hex>().is_err() && "äö".parse::<Hex>().is_err());
        for text in ["0", "-1", "65536", "some", ""] {
            assert!(text.parse::<Queues>().is_err(), "{text}");
        }
        assert!("ALL".parse::<ReflectMode>().is_err());
    }

    #[test]
    fn queues_are_a_number_or_all_wherever_they_are_written() {
        let two: Queues = "2".parse().expect("a number");
        assert_eq!((two.toml(), Queues::All.toml()), ("2".to_owned(), "\"all\"".to_owned()));
        assert_eq!(Queues::from_raw(&Raw::Number(2)), Some(two));
        assert_eq!(Queues::from_raw(&Raw::Number(0)), None);
        assert_eq!(Queues::from_raw(&Raw::Text("all".into())), Some(Queues::All));
        assert_eq!(serde_json::from_str::<Queues>("2").expect("a number"), two);
        assert_eq!(serde_json::from_str::<Queues>("\"all\"").expect("a word"), Queues::All);
        let bytes = crate::codec::encode(&two).expect("small");
        assert_eq!(crate::codec::decode::<Queues>(&bytes).expect("own bytes"), two);
        assert_eq!((two.of(1), two.of(3), Queues::All.of(3)), (1, 2, 3));
    }
}
