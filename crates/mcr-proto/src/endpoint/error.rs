//! What can be wrong with an endpoint, in words for the person who wrote it.

use std::net::IpAddr;

/// Why an endpoint was refused. Displays as one line: what is wrong, where, and what to write instead.
///
/// `text` fields hold the offending part as it is shown: escaped, and cut if it is long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// There is nothing but blanks.
    #[error("the endpoint is empty; write ADDRESS:PORT@INTERFACE, as in 239.1.1.1:5000@eth0")]
    Empty,
    /// An address without a port.
    #[error("`{text}` has no port; write ADDRESS:PORT, as in 239.1.1.1:5000 or [ff3e::1]:5000")]
    NoPort {
        /// The address part.
        text: String,
    },
    /// A port that is not a number from 1 to 65535.
    #[error("port `{text}` is not a number from 1 to 65535")]
    Port {
        /// The port part.
        text: String,
    },
    /// Port 0, which no datagram can be sent to.
    #[error("the {part} is 0; write a number from 1 to 65535")]
    PortZero {
        /// Which port.
        part: &'static str,
    },
    /// Not an IP address.
    #[error(
        "{part} `{text}` is not an IP address; write one as 239.1.1.1 or [ff3e::1], names are not looked up"
    )]
    Address {
        /// Which address.
        part: &'static str,
        /// The offending part.
        text: String,
    },
    /// An IPv6 address followed by a port, without brackets.
    #[error("`{text}` looks like IPv6 without brackets; write [ADDRESS]:PORT, as in [ff3e::1]:5000")]
    Unbracketed {
        /// The address part.
        text: String,
    },
    /// An IPv6 address with a zone (`%eth0`).
    #[error("{part} `{text}` has a zone; write the interface after @, as in [fe80::1]:5000@eth0")]
    Zone {
        /// Which address.
        part: &'static str,
        /// The offending part.
        text: String,
    },
    /// An IPv4 address written as IPv6.
    #[error("{part} {address} is an IPv4 address written as IPv6; write {v4}")]
    Mapped {
        /// Which address.
        part: &'static str,
        /// The address as given.
        address: IpAddr,
        /// The same address as IPv4.
        v4: IpAddr,
    },
    /// `0.0.0.0` or `::`.
    #[error("{part} {address} stands for any address; name one")]
    Unspecified {
        /// Which address.
        part: &'static str,
        /// The address.
        address: IpAddr,
    },
    /// A source that no host can have.
    #[error("{part} {address} is not the address of a host; a source must be unicast")]
    NotUnicast {
        /// Which address.
        part: &'static str,
        /// The address.
        address: IpAddr,
    },
    /// A source of one family for an address of the other.
    #[error(
        "{part} {source_address} and address {address} are of different families; use IPv4 for both or IPv6 for both"
    )]
    Family {
        /// Which address differs.
        part: &'static str,
        /// The source.
        source_address: IpAddr,
        /// The address it goes with.
        address: IpAddr,
    },
    /// An address that means something else on every link, without the link.
    #[error("address {address} is link-local; name its interface, as in [{address}]:5000@eth0")]
    LinkLocal {
        /// The address.
        address: IpAddr,
    },
    /// An input without an interface.
    #[error("input `{text}` names no interface; append the one datagrams arrive on, as in {text}@eth0")]
    NoInterface {
        /// The input.
        text: String,
    },
    /// A name that no Linux interface can have.
    #[error("`{text}` is no interface name: {reason}; `ip link` lists the names")]
    Interface {
        /// The name.
        text: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// `SOURCE>` in front of an output.
    #[error("`{text}>` in front of an output; to set the source that receivers see, append ,source={text}")]
    SourceInOutput {
        /// What stands in front of the `>`.
        text: String,
    },
    /// A key where none is taken.
    #[error("key `{key}` is not for {kind}; only outputs take keys, remove it")]
    KeyNotTaken {
        /// The key.
        key: String,
        /// What was being read.
        kind: &'static str,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}`{}; known are {}", nearest(.key, .known), listed(.known))]
    UnknownKey {
        /// The key.
        key: String,
        /// The keys that exist here.
        known: &'static [&'static str],
    },
    /// A key given twice.
    #[error("key `{key}` is given twice; remove one")]
    DuplicateKey {
        /// The key.
        key: &'static str,
    },
    /// A key without a value, or a comma without a key.
    #[error("`{text}` after a comma is no key=value; write one as in ,ttl=16, or remove the comma")]
    NoValue {
        /// What follows the comma.
        text: String,
    },
    /// A value that the key does not take.
    #[error("key `{key}`: `{text}` is not understood; write {want}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        text: String,
        /// What the key takes.
        want: &'static str,
    },
    /// A table without a key it needs.
    #[error("key `{key}` is missing; add {key} = {example}")]
    Missing {
        /// The key.
        key: &'static str,
        /// A value it could have.
        example: &'static str,
    },
}

/// Longest part of a user's text that a message repeats, in characters.
const QUOTE_MAX: usize = 64;

/// `text` fit for one line of a message: what does not print escaped, the tail of a long text replaced by dots.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == QUOTE_MAX {
            quoted.push_str("...");
            break;
        }
        // Beyond ASCII there are line separators and marks that turn text around; escape_debug knows them.
        if matches!(c, ' '..='~') {
            quoted.push(c);
        } else {
            quoted.extend(c.escape_debug());
        }
    }
    quoted
}

/// ` (did you mean ...?)` if one of `known` is near enough to `key`, else nothing.
pub(crate) fn nearest(key: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (distance(key, name), name)).min();
    match near {
        Some((steps, name)) if steps <= 1 + name.len() / 4 => format!(" (did you mean `{name}`?)"),
        _ => String::new(),
    }
}

/// The names, for a sentence.
pub(crate) fn listed(known: &[&str]) -> String {
    known.join(", ")
}

/// Edit distance (Levenshtein), one row of the table at a time. Names of keys are short; a long text is far from all.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    if from.len() > QUOTE_MAX {
        return from.len();
    }
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_one_short_line() {
        assert_eq!(quote("a\nb\u{2028}\u{202e}"), "a\\nb\\u{2028}\\u{202e}");
        assert_eq!(quote(&"x".repeat(1000)).len(), QUOTE_MAX + 3);
        assert_eq!(quote("eth0 é"), "eth0 é");
    }

    #[test]
    fn a_typing_error_is_near_and_another_word_is_not() {
        let known = ["ttl", "dscp", "source", "loop", "rate"];
        assert_eq!(nearest("tll", &known), " (did you mean `ttl`?)");
        assert_eq!(nearest("sorce", &known), " (did you mean `source`?)");
        assert_eq!(nearest("interface", &known), "");
        assert_eq!(nearest(&"t".repeat(100_000), &known), "");
    }

    #[test]
    fn distance_counts_insertions_deletions_and_substitutions() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
