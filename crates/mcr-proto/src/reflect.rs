//! Reflectors as users describe them: the keys of `[[reflect]]`, the parameters of `reflect.add` and the options of `mcrd reflect`.
//!
//! One list of keys, with their defaults, is what all of them are made from. [`Reflect::check`] says which combinations
//! make no sense; what the others mean is `mcr-reflect`'s to say.

mod check;
mod values;

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeStruct};

pub use self::check::ReflectError;
pub use self::values::{
    AddressPrefix, Hex, MacAddress, Oui, Platform, Queues, ReflectMode, Sequence, SignatureFamily, ValueError,
};
use crate::{endpoint::IfName, rule::RuleName};

/// The port a reflector listens on unless told otherwise.
pub const REFLECT_PORT: u16 = 3842;

/// A key of [`Reflect`] for those who document it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReflectKey {
    /// As written.
    pub key: &'static str,
    /// What its value is.
    pub want: &'static str,
    /// The value without it, in TOML.
    pub default: String,
    /// What it means.
    pub meaning: &'static str,
}

/// Makes the type from its keys, so that no key can be forgotten where it is read, written or compared.
macro_rules! keys {
    ($($(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr, $want:literal;)*) => {
        /// A reflector: test packets that arrive on an interface are sent back.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Reflect {
            /// A name that no other reflector has.
            pub name: Option<RuleName>,
            /// The interface to reflect on.
            pub interface: IfName,
            $($(#[doc = $doc])* pub $key: $type,)*
        }

        /// A reflector's keys, each of which may be missing.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename = "Reflect")]
        struct Draft {
            #[serde(default)]
            name: Option<RuleName>,
            interface: IfName,
            $(#[serde(default)] $key: Option<$type>,)*
        }

        impl Reflect {
            /// Keys, as written.
            pub(crate) const KEYS: &'static [&'static str] = &["name", "interface", $(stringify!($key)),*];

            /// What documents say of each key but name and interface.
            pub fn described_keys() -> Vec<ReflectKey> {
                vec![$(ReflectKey {
                    key: stringify!($key),
                    want: $want,
                    default: {
                        let default: $type = $default;
                        values::Value::toml(&default)
                    },
                    meaning: concat!($($doc),*),
                }),*]
            }

            /// All defaults, without a name.
            pub fn new(interface: IfName) -> Self {
                Self { name: None, interface, $($key: $default,)* }
            }

            /// Calls `read` for each key but name and interface, with what it should be.
            pub(crate) fn read_keys<E>(&mut self, reader: &impl ReadKey<E>) -> Result<(), E> {
                $(if let Some(value) = reader.read::<$type>(stringify!($key), $want)? {
                    self.$key = value;
                })*
                Ok(())
            }

            /// Calls `write` with each key but name and interface that is not at its default, and its TOML value.
            pub(crate) fn write_keys(&self, mut write: impl FnMut(&str, String)) {
                let default = Self::new(self.interface);
                $(if self.$key != default.$key {
                    write(stringify!($key), values::Value::toml(&self.$key));
                })*
            }
        }

        impl From<Draft> for Reflect {
            fn from(draft: Draft) -> Self {
                let default = Self::new(draft.interface);
                Self {
                    name: draft.name,
                    interface: draft.interface,
                    $($key: draft.$key.unwrap_or(default.$key),)*
                }
            }
        }

        /// Keys at their default are left out for people and written for formats that count fields.
        impl Serialize for Reflect {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let all = !serializer.is_human_readable();
                let default = Self::new(self.interface);
                let mut fields = serializer.serialize_struct("Reflect", Self::KEYS.len())?;
                if all || self.name.is_some() {
                    fields.serialize_field("name", &self.name)?;
                }
                fields.serialize_field("interface", &self.interface)?;
                $(if all {
                    fields.serialize_field(stringify!($key), &Some(&self.$key))?;
                } else if self.$key != default.$key {
                    fields.serialize_field(stringify!($key), &self.$key)?;
                })*
                fields.end()
            }
        }
    };
}

impl<'de> Deserialize<'de> for Reflect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Draft::deserialize(deserializer).map(Self::from)
    }
}

/// Whoever knows the values of keys.
pub(crate) trait ReadKey<E> {
    /// The value of a key, if it is there; `want` says what it should be.
    fn read<V: Value>(&self, key: &'static str, want: &'static str) -> Result<Option<V>, E>;
}

pub(crate) use values::{Raw, Value};

keys! {
    /// UDP destination port of test packets; 0 for any.
    port: u16 = REFLECT_PORT, "a number from 0 to 65535";
    /// What is exchanged.
    mode: ReflectMode = ReflectMode::All, "mac, mac-ip, all or auto";
    /// Which signatures count.
    sig: SignatureFamily = SignatureFamily::All, "all, ito, rfc2544, y1564 or custom";
    /// Testers' OUI.
    oui: Oui = Oui::NETALLY, "three bytes, as in \"00:c0:17\"";
    /// Whether the OUI matters.
    oui_filter: bool = true, "true or false";
    /// Whether only frames to the interface's own address are reflected.
    mac_filter: bool = true, "true or false";
    /// A reflector of anything is what is wanted.
    i_know: bool = false, "true or false";
    /// How frames are got and sent.
    platform: Platform = Platform::Auto, "auto, packet or xdp";
    /// Receive queues that are served on AF_XDP, the first ones, each by a process of its own.
    queues: Queues = Queues::All, "a number of queues, 1 or more, or \"all\"";
    /// Turn-round times are measured.
    latency: bool = false, "true or false";
    /// One frame of so many is measured.
    latency_sample: u32 = 1, "a number of frames, 1 or more";
    /// Every frame on the interface is counted with its reason, not only those that nearly match.
    explain: bool = false, "true or false";
    /// Source addresses that are answered; none for all.
    allow_source: Vec<AddressPrefix> = Vec::new(), "a list of prefixes, as in [\"192.0.2.0/24\"]";
    /// Source MAC addresses that are answered; none for all.
    allow_mac: Vec<MacAddress> = Vec::new(), "a list of MAC addresses, as in [\"00:c0:17:01:02:03\"]";
    /// VLAN ids that are answered; none for all.
    allow_vlan: Vec<u16> = Vec::new(), "a list of VLAN ids, as in [100, 200]";
    /// Most replies a second to test packets; 0 for no limit.
    rate_pps: u64 = 0, "a number of frames a second, 0 for no limit";
    /// Most bits a second in replies to test packets; 0 for no limit.
    rate_bps: u64 = 0, "a number of bits a second, 0 for no limit";
    /// Most replies a second to test packets of one source; 0 for no limit.
    source_rate_pps: u64 = 0, "a number of frames a second, 0 for no limit";
    /// Most bits a second in replies to test packets of one source; 0 for no limit.
    source_rate_bps: u64 = 0, "a number of bits a second, 0 for no limit";
    /// Most replies a second of the services of standards; 0 for no limit.
    standard_rate_pps: u64 = 10_000, "a number of frames a second, 0 for no limit";
    /// Most replies a second of the services of standards to one source; 0 for no limit.
    standard_source_rate_pps: u64 = 1_000, "a number of frames a second, 0 for no limit";
    /// First fragments count as whole datagrams.
    first_fragments: bool = false, "true or false";
    /// 0x9100 is a VLAN tag's protocol id, too.
    tpid_9100: bool = false, "true or false";
    /// IPv6 hop-by-hop and destination options are skipped.
    extension_headers: bool = false, "true or false";
    /// Frames to groups are answered, from the interface's own address.
    answer_groups: bool = false, "true or false";
    /// Frames from the service's own port are answered even without the OUI filter.
    same_port: bool = false, "true or false";
    /// UDP port of TWAMP-Light; 0 for off.
    twamp: u16 = 0, "a port, 0 for off";
    /// How TWAMP-Light's replies are numbered.
    twamp_sequence: Sequence = Sequence::Stateful, "stateful or stateless";
    /// UDP port of STAMP; 0 for off.
    stamp: u16 = 0, "a port, 0 for off";
    /// How STAMP's replies are numbered.
    stamp_sequence: Sequence = Sequence::Stateless, "stateful or stateless";
    /// STAMP's key, in hexadecimal digits; empty for none.
    stamp_key: Hex = Hex::default(), "hexadecimal digits, two for each byte";
    /// Only authenticated STAMP is answered.
    stamp_authenticated: bool = false, "true or false";
    /// STAMP session ids that are answered; none for all.
    stamp_ssid: Vec<u16> = Vec::new(), "a list of session ids, as in [1, 2]";
    /// A STAMP Class of Service TLV may choose the reply's DSCP.
    stamp_dscp: bool = false, "true or false";
    /// UDP port of echo; 0 for off.
    echo: u16 = 0, "a port, 0 for off";
    /// Y.1731 is answered, as this maintenance end point's id; 0 for off.
    oam_mep: u16 = 0, "a MEP id from 1 to 8191, 0 for off";
    /// Level of the maintenance end point.
    oam_level: u16 = 0, "a level from 0 to 7";
    /// Loopback is answered.
    oam_lbm: bool = true, "true or false";
    /// Delay measurement is answered.
    oam_dmm: bool = true, "true or false";
    /// Synthetic loss measurement is answered.
    oam_slm: bool = true, "true or false";
    /// Loss measurement is answered, with the counts of test frames.
    oam_lmm: bool = false, "true or false";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reflect() -> Reflect {
        Reflect::new("eth0".parse().expect("a name"))
    }

    #[test]
    fn only_what_was_chosen_is_written_for_people_and_all_of_it_is_read_by_programs() {
        let mut reflect = reflect();
        reflect.mode = ReflectMode::MacIp;
        reflect.allow_source = vec!["192.0.2.0/24".parse().expect("a prefix")];
        reflect.stamp_key = "00ff".parse().expect("digits");
        let json = serde_json::to_string(&reflect).expect("JSON");
        assert_eq!(
            json,
            r#"{"interface":"eth0","mode":"mac-ip","allow_source":["192.0.2.0/24"],"stamp_key":"00ff"}"#
        );
        assert_eq!(serde_json::from_str::<Reflect>(&json).expect("own JSON"), reflect);
        let bytes = crate::codec::encode(&reflect).expect("small");
        assert_eq!(crate::codec::decode::<Reflect>(&bytes).expect("own bytes"), reflect);
    }

    #[test]
    fn keys_that_do_not_exist_are_refused() {
        let error =
            serde_json::from_str::<Reflect>(r#"{"interface":"eth0","prot":1}"#).expect_err("no such key");
        assert!(error.to_string().contains("prot"), "{error}");
        assert!(serde_json::from_str::<Reflect>(r#"{"port":1}"#).is_err(), "an interface is needed");
    }
}
