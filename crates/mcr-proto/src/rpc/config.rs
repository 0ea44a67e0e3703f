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

/// Parameters of `config.part`: text that comes before that of the next `config.load` of the same connection, after that of earlier
/// `config.part`s. A line is bounded, a configuration may be longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigPart {
    /// A piece of the configuration, in TOML; it may end anywhere.
    pub text: String,
}

/// Result of `config.part`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigPartTaken {
    /// How much text waits for its end now.
    pub bytes: usize,
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

/// Text of one line: as JSON no byte of it becomes more than six, so that the line stays under its bound.
const PART_BYTES_MAX: usize = 128 * 1024;

impl ConfigLoad {
    /// The same in pieces that fit into lines: what is to be sent by `config.part` first, then what is left to load.
    pub fn in_parts(&self) -> (Vec<ConfigPart>, Self) {
        let mut parts = Vec::new();
        let mut rest = self.text.as_str();
        while rest.len() > PART_BYTES_MAX {
            let end = (0..=PART_BYTES_MAX).rev().find(|end| rest.is_char_boundary(*end)).unwrap_or(0);
            let (part, left) = rest.split_at(end);
            parts.push(ConfigPart { text: part.to_owned() });
            rest = left;
        }
        (parts, Self { text: rest.to_owned(), file: self.file.clone(), replace: self.replace })
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::LINE_BYTES_MAX;

    #[test]
    fn a_text_of_any_length_and_kind_goes_in_lines_that_fit_and_is_whole_again() {
        for text in ["", "short", &"\u{1}".repeat(1_000_000), &"ü\"".repeat(300_000), &"𝄞".repeat(300_000)]
        {
            let load = ConfigLoad { text: text.into(), file: Some("f".into()), replace: true };
            let (parts, last) = load.in_parts();
            let fits =
                |bytes: serde_json::Result<Vec<u8>>| bytes.expect("plain data").len() < LINE_BYTES_MAX - 1024;
            assert!(
                parts.iter().all(|part| fits(serde_json::to_vec(part))) && fits(serde_json::to_vec(&last))
            );
            let whole: String =
                parts.iter().map(|part| part.text.as_str()).chain([last.text.as_str()]).collect();
            assert!(whole == text && (last.file, last.replace) == (load.file, true));
        }
    }
}
