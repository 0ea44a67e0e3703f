//! Interface names: a name that the kernel could not have given to a device is refused here, once, for everybody.

use std::fmt;
use std::str::FromStr;

use super::error::quote;
use super::{EndpointError, string_serde};

/// IFNAMSIZ of the kernel: 15 bytes of name and the NUL that ends it.
const IFNAMSIZ: usize = 16;

/// The name of a Linux network interface: 1 to 15 bytes, held in place, so that a copy costs no allocation.
///
/// The rules are those of the kernel's `dev_valid_name`, and `,`, `@` and `>` are refused too, because endpoints use
/// them as separators. Whether such an interface exists is not asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName([u8; IFNAMSIZ]);

impl IfName {
    /// The name.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(IFNAMSIZ);
        std::str::from_utf8(&self.0[..len]).expect("only from_str fills a name, from a &str")
    }
}

impl FromStr for IfName {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(reason) = fault(text) {
            return Err(EndpointError::Interface { text: quote(text), reason });
        }
        let mut name = [0; IFNAMSIZ];
        name[..text.len()].copy_from_slice(text.as_bytes());
        Ok(IfName(name))
    }
}

/// Why `text` cannot name an interface.
fn fault(text: &str) -> Option<&'static str> {
    // dev_valid_name judges bytes with the kernel's Latin-1 isspace, to which 0xa0 is a blank.
    let blank = |c: char| c.is_whitespace() || c.is_control();
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() >= IFNAMSIZ {
        Some("a name has at most 15 bytes")
    } else if text == "." || text == ".." {
        Some("the kernel reserves this name")
    } else if text.contains(blank) || text.bytes().any(|byte| byte == 0xa0) {
        Some("a name has no blanks or control characters")
    } else if text.contains(['/', ':', ',', '@', '>']) {
        Some("a name has none of / : , @ >")
    } else {
        None
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

string_serde!(IfName, "the name of a network interface");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_gives_are_taken() {
        for name in ["a", "eth0", "wlp0s20f3", "br-1234567890ab", "eth0.100", "if%d", "é0", "..."] {
            let parsed: IfName = name.parse().unwrap();
            assert_eq!(parsed.as_str(), name);
            assert_eq!(parsed.to_string(), name);
        }
    }

    #[test]
    fn names_the_kernel_refuses_are_refused() {
        for name in
            ["", ".", "..", "a/b", "a:1", "a b", "a\tb", "a\0b", "a@b", "a>b", "a,b", "sixteen-bytes-xx", "à"]
        {
            let error = name.parse::<IfName>().unwrap_err();
            assert!(matches!(error, EndpointError::Interface { .. }), "{name:?} gave {error}");
        }
    }

    #[test]
    fn names_sort_as_their_text_does() {
        let mut names: Vec<IfName> =
            ["eth10", "eth1", "br0", "eth2"].iter().map(|n| n.parse().unwrap()).collect();
        names.sort();
        assert_eq!(names.iter().map(IfName::as_str).collect::<Vec<_>>(), ["br0", "eth1", "eth10", "eth2"]);
    }
}
