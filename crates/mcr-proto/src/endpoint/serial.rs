//! serde of endpoints: always written as the string; read from the string, and in human-readable formats also from a
//! table. Both ways end in the same draft, so they cannot disagree about what is allowed.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::error::quote;
use super::keys::{Dscp, OutputSource, Ttl};
use super::text::{parse_address, read_port};
use super::{Endpoint, EndpointError, IfName, Input, Output, Rate};

/// An endpoint that can be put together key by key.
pub(crate) trait FromTable: FromStr<Err = EndpointError> {
    /// What is known so far.
    type Draft: Default;
    /// The keys of the table form.
    const KEYS: &'static [&'static str];
    /// What a deserialiser expects.
    const EXPECTING: &'static str;

    /// Takes one key; numbers and booleans come as their text.
    fn set(draft: &mut Self::Draft, key: &str, value: &str) -> Result<(), EndpointError>;

    /// Checks that all there must be is there and means something.
    fn finish(draft: Self::Draft) -> Result<Self, EndpointError>;
}

/// An input or endpoint being read.
#[derive(Default)]
pub(crate) struct PlaceDraft {
    pub(super) source: Option<IpAddr>,
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) interface: Option<IfName>,
}

const PLACE_KEYS: &[&str] = &["address", "port", "interface", "source"];

impl PlaceDraft {
    fn set(&mut self, key: &str, value: &str) -> Result<(), EndpointError> {
        match key {
            "address" => put(&mut self.address, "address", parse_address("address", value)?),
            "port" => put(&mut self.port, "port", read_port(value)?),
            "interface" => put(&mut self.interface, "interface", value.parse()?),
            "source" => put(&mut self.source, "source", parse_address("source", value)?),
            _ => Err(EndpointError::UnknownKey { key: quote(key), known: PLACE_KEYS }),
        }
    }

    fn finish(self) -> Result<Endpoint, EndpointError> {
        let PlaceDraft { source, address, port, interface } = self;
        Ok(Endpoint { source, address: need_address(address)?, port: need_port(port)?, interface })
    }
}

impl FromTable for Input {
    type Draft = PlaceDraft;
    const KEYS: &'static [&'static str] = PLACE_KEYS;
    const EXPECTING: &'static str = "an input, as \"239.1.1.1:5000@eth0\" or a table";

    fn set(draft: &mut PlaceDraft, key: &str, value: &str) -> Result<(), EndpointError> {
        draft.set(key, value)
    }

    fn finish(draft: PlaceDraft) -> Result<Self, EndpointError> {
        let place = draft.finish()?;
        let Some(interface) = place.interface else {
            return Err(EndpointError::NoInterface { text: place.to_string() });
        };
        let input = Input { source: place.source, address: place.address, port: place.port, interface };
        input.check().map(|()| input)
    }
}

impl FromTable for Endpoint {
    type Draft = PlaceDraft;
    const KEYS: &'static [&'static str] = PLACE_KEYS;
    const EXPECTING: &'static str = "an endpoint, as \"239.1.1.1:5000@eth0\" or a table";

    fn set(draft: &mut PlaceDraft, key: &str, value: &str) -> Result<(), EndpointError> {
        draft.set(key, value)
    }

    fn finish(draft: PlaceDraft) -> Result<Self, EndpointError> {
        let endpoint = draft.finish()?;
        endpoint.check().map(|()| endpoint)
    }
}

/// An output being read.
#[derive(Default)]
pub(crate) struct OutputDraft {
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) interface: Option<IfName>,
    pub(super) ttl: Option<Ttl>,
    pub(super) dscp: Option<Dscp>,
    pub(super) source: Option<OutputSource>,
    pub(super) multicast_loop: Option<bool>,
    pub(super) rate: Option<Rate>,
}

impl FromTable for Output {
    type Draft = OutputDraft;
    const KEYS: &'static [&'static str] =
        &["address", "port", "interface", "ttl", "dscp", "source", "loop", "rate"];
    const EXPECTING: &'static str = "an output, as \"239.2.2.2:6000@eth1,ttl=16\" or a table";

    fn set(draft: &mut OutputDraft, key: &str, value: &str) -> Result<(), EndpointError> {
        match key {
            "address" => put(&mut draft.address, "address", parse_address("address", value)?),
            "port" => put(&mut draft.port, "port", read_port(value)?),
            "interface" => put(&mut draft.interface, "interface", value.parse()?),
            "ttl" => put(&mut draft.ttl, "ttl", value.parse()?),
            "dscp" => put(&mut draft.dscp, "dscp", value.parse()?),
            "source" => put(&mut draft.source, "source", value.parse()?),
            "loop" => put(&mut draft.multicast_loop, "loop", read_switch("loop", value)?),
            "rate" => put(&mut draft.rate, "rate", value.parse()?),
            _ => Err(EndpointError::UnknownKey { key: quote(key), known: Self::KEYS }),
        }
    }

    fn finish(draft: OutputDraft) -> Result<Self, EndpointError> {
        let output = Output {
            address: need_address(draft.address)?,
            port: need_port(draft.port)?,
            interface: draft.interface,
            ttl: draft.ttl.unwrap_or_default(),
            dscp: draft.dscp.unwrap_or_default(),
            source: draft.source.unwrap_or_default(),
            multicast_loop: draft.multicast_loop.unwrap_or_default(),
            rate: draft.rate,
        };
        output.check().map(|()| output)
    }
}

fn put<T>(field: &mut Option<T>, key: &'static str, value: T) -> Result<(), EndpointError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(EndpointError::DuplicateKey { key }),
    }
}

fn need_address(address: Option<IpAddr>) -> Result<IpAddr, EndpointError> {
    address.ok_or(EndpointError::Missing { key: "address", example: "\"239.1.1.1\"" })
}

fn need_port(port: Option<u16>) -> Result<u16, EndpointError> {
    port.ok_or(EndpointError::Missing { key: "port", example: "5000" })
}

fn read_switch(key: &'static str, value: &str) -> Result<bool, EndpointError> {
    match value {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(EndpointError::Value { key, text: quote(value), want: "on or off" }),
    }
}

/// Reads a string or a table of scalars into a `T`.
struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: FromTable> Visitor<'de> for TableVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTING)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut draft = T::Draft::default();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value::<ScalarText>()?;
            T::set(&mut draft, &key, &value.0).map_err(de::Error::custom)?;
        }
        T::finish(draft).map_err(de::Error::custom)
    }
}

fn deserialize_table<'de, T: FromTable, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    // A format that does not describe itself cannot be asked for `any`.
    if deserializer.is_human_readable() {
        deserializer.deserialize_any(TableVisitor(PhantomData))
    } else {
        deserializer.deserialize_str(TableVisitor(PhantomData))
    }
}

/// A string, number or boolean, as text.
struct ScalarText(String);

impl<'de> Deserialize<'de> for ScalarText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = ScalarText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an integer or a boolean")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<ScalarText, E> {
                Ok(ScalarText(value.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ScalarText, E> {
                Ok(ScalarText(value.to_string()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ScalarText, E> {
                Ok(ScalarText(value.to_string()))
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<ScalarText, E> {
                Ok(ScalarText(value.to_string()))
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

macro_rules! table_serde {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserialize_table(deserializer)
            }
        }
    };
}

table_serde!(Input);
table_serde!(Output);
table_serde!(Endpoint);

/// serde of a type that is its `Display` and `FromStr`; with `or number`, human-readable formats may give a bare integer.
macro_rules! string_serde {
    ($type:ty, $expecting:literal) => {
        $crate::endpoint::string_serde!(@impl $type, $expecting, deserialize_str, {});
    };
    ($type:ty, $expecting:literal, or number) => {
        $crate::endpoint::string_serde!(@impl $type, $expecting, deserialize_any, {
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<$type, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<$type, E> {
                self.visit_str(&value.to_string())
            }
        });
    };
    (@impl $type:ty, $expecting:literal, $readable:ident, { $($numbers:tt)* }) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextVisitor;

                impl serde::de::Visitor<'_> for TextVisitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    $($numbers)*
                }

                if deserializer.is_human_readable() {
                    deserializer.$readable(TextVisitor)
                } else {
                    deserializer.deserialize_str(TextVisitor)
                }
            }
        }
    };
}

pub(crate) use string_serde;
