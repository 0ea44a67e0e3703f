//! Parameters and results of the `config` methods.

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Result of `config.get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigShown {
    /// The running configuration.
    pub config: Config,
    /// The same as a file would say it.
    pub toml: String,
    /// The startup configuration's file on the daemon's host; null without one.
    pub path: Option<String>,
}

/// Parameters of `config.check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigText {
    /// The configuration, in TOML.
    pub text: String,
    /// What errors call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Result of `config.check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChecked {
    /// How many rules it has.
    pub rules: usize,
    /// How many outputs they have.
    pub outputs: usize,
    /// What is legal but unlikely to be meant.
    pub warnings: Vec<String>,
}

/// Parameters of `config.load`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigLoad {
    /// The configuration, in TOML.
    pub text: String,
    /// What errors call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Whether what the text does not have is removed.
    #[serde(default)]
    pub replace: bool,
}

/// Result of `config.load`, counted in rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigLoaded {
    /// New ones.
    pub added: u32,
    /// Those that are other than before.
    pub changed: u32,
    /// Those that are gone.
    pub removed: u32,
    /// Those that were left alone.
    pub unchanged: u32,
    /// What is unlikely to be meant, or takes effect only when the daemon is started again.
    pub warnings: Vec<String>,
}

/// Result of `config.save`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSaved {
    /// The file on the daemon's host.
    pub path: String,
    /// How many rules it has now.
    pub rules: u32,
}
