//! Rules: one input, the outputs its datagrams are sent to, and how.
//!
//! A [`RuleSpec`] says what a user asked for. Whether its interfaces exist, which data path carries it and on which
//! worker is decided elsewhere. A spec that was deserialised has valid endpoints and names, but only
//! [`RuleSpec::check`] says that they make sense together; whoever takes a spec from outside calls it.

mod name;
mod spec;
mod way_back;

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Input, Output};

pub(crate) use name::check_name;
pub use name::{NameError, RuleName};
pub use spec::RuleError;
pub use way_back::WayBack;

/// The most outputs a rule can have.
pub const OUTPUTS_MAX: usize = 1024;

/// The number the daemon gave a rule. Never given to another rule while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u64);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RuleId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(RuleId)
    }
}

/// The data path that carries a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datapath {
    /// Frames from packet sockets, through a worker.
    Packet,
    /// Datagrams from UDP sockets, through a worker.
    Udp,
    /// Programs in the kernel; no worker sees the datagrams.
    Kernel,
}

impl fmt::Display for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Datapath::Packet => "packet",
            Datapath::Udp => "udp",
            Datapath::Kernel => "kernel",
        })
    }
}

/// The data path a user asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatapathChoice {
    /// The first that can carry the rule: `kernel`, `packet`, `udp`.
    #[default]
    Auto,
    /// Programs in the kernel, or none.
    Kernel,
    /// Packet sockets, or none.
    Packet,
    /// UDP sockets, or none.
    Udp,
}

impl DatapathChoice {
    /// All choices, as written.
    pub(crate) const NAMES: &'static [&'static str] = &["auto", "kernel", "packet", "udp"];
}

impl fmt::Display for DatapathChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::NAMES[*self as usize])
    }
}

impl FromStr for DatapathChoice {
    type Err = DatapathError;

    fn from_str(text: &str) -> Result<Self, DatapathError> {
        [DatapathChoice::Auto, DatapathChoice::Kernel, DatapathChoice::Packet, DatapathChoice::Udp]
            .into_iter()
            .find(|choice| Self::NAMES[*choice as usize] == text)
            .ok_or_else(|| DatapathError { text: crate::endpoint::quote(text) })
    }
}

/// A word that names no data path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no data path; write auto, kernel, packet or udp")]
pub struct DatapathError {
    text: String,
}

/// What a user configures: take datagrams in here, send copies there.
///
/// ```
/// use mcr_proto::rule::RuleSpec;
///
/// let rule = RuleSpec::new("239.1.1.1:5000@eth0".parse()?, vec!["10.100.0.2:6000".parse()?]);
/// rule.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// A name that no other rule has.
    #[serde(default)]
    pub name: Option<RuleName>,
    /// Where datagrams come in.
    pub input: Input,
    /// Where copies go, 1 to [`OUTPUTS_MAX`].
    pub outputs: Vec<Output>,
    /// The traffic class, in place of the one that the DSCP gives.
    #[serde(default)]
    pub class: Option<String>,
    /// The data path asked for; `auto` without it.
    #[serde(default)]
    pub datapath: DatapathChoice,
    /// Whether the rule relays, as without it; a rule that is off is kept, but has no sockets.
    #[serde(default = "enabled_by_default")]
    pub enabled: bool,
}

/// `serde` asks for a function.
fn enabled_by_default() -> bool {
    true
}

#[cfg(test)]
mod tests;
