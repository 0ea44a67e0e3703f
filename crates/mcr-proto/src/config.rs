//! The configuration file: TOML text in, [`Config`] out, and back.
//!
//! [`parse`] is a pure function; it opens no file. Every error names the file, the line and the key, because the person
//! who reads it has an editor open. Keys that do not exist are errors: a misspelt key that is silently ignored is a
//! setting that silently does not hold. [`to_toml`] writes the canonical form: keys in a fixed order, defaults left out,
//! and `parse(&to_toml(c))` is `c` again.

mod diff;
mod error;
mod read;
mod reader;
mod write;

use std::{collections::HashMap, net::SocketAddr};

use serde::Deserialize;

pub use diff::{RuleChange, diff};
pub use error::{ConfigError, ConfigErrorKind};
pub use read::{parse, text};
pub use write::to_toml;

pub use crate::reflect::{REFLECT_PORT, Reflect, ReflectMode};

use crate::endpoint::{Codepoint, Rate};
use crate::rule::RuleSpec;

/// The most workers that can be asked for.
pub const WORKERS_MAX: u16 = 128;
/// The lowest of the priorities a class can have.
pub const PRIORITY_MAX: u8 = 7;
/// The most datagrams the queue of a class can hold.
pub const DEPTH_MAX: u32 = 65_536;
/// So many rules that are the same as others are named; more of them are a mistake of another kind.
const TWINS_TOLD_MAX: usize = 10;
/// A whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Number of workers, 1 to [`WORKERS_MAX`]; without it one per core.
    #[serde(default)]
    pub workers: Option<u16>,
    /// Whether users who may not change anything may read from the control socket (key `others_may_read`).
    #[serde(default, rename = "others_may_read")]
    pub allow_read: bool,
    /// What is served over HTTP (key `[http]`); nothing without it.
    #[serde(default)]
    pub http: Option<HttpConfig>,
    /// The rules (key `[[rule]]`).
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleSpec>,
    /// The traffic classes (key `[[class]]`).
    #[serde(default, rename = "class")]
    pub classes: Vec<Class>,
    /// The reflectors (key `[[reflect]]`).
    #[serde(default, rename = "reflect")]
    pub reflects: Vec<Reflect>,
}

/// Metrics, health and the web page over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Names by which clients may reach it, beside addresses, `localhost` and the host's own name.
    #[serde(default)]
    pub names: Vec<String>,
    /// A file whose text lets whoever shows it change rules; without it nobody may.
    #[serde(default)]
    pub token_file: Option<String>,
}

/// Whether `name` can be in the `Host` of a request: letters, digits, `-` and `.`, at most 253.
pub fn is_host_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

/// A traffic class: which datagrams belong to it and how they are queued.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// The name rules refer to; letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Datagrams with one of these codepoints belong to the class, unless their rule has another.
    #[serde(default)]
    pub dscp: Vec<Codepoint>,
    /// 0 to [`PRIORITY_MAX`]; 0 is served first.
    pub priority: u8,
    /// Cap on what each worker takes of the class; more is dropped and counted.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Frames that a receiving socket of it can hold while the worker is busy, 1 to [`DEPTH_MAX`]; more are dropped and counted.
    #[serde(default)]
    pub depth: Option<u32>,
}

/// What a configuration says that is legal but unlikely to be meant, or that this version accepts and does not act on;
/// one line each.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, rule) in config.rules.iter().enumerate() {
        let name = called(index, rule);
        warnings.extend(rule.warnings().into_iter().map(|warning| format!("{name}: {warning}")));
    }
    warnings.extend(twins(&config.rules));
    warnings
}

fn called(index: usize, rule: &RuleSpec) -> String {
    rule.name.as_ref().map_or_else(|| format!("rule[{index}]"), |name| format!("rule `{name}`"))
}

/// Rules that do the same as one before them.
fn twins(rules: &[RuleSpec]) -> Vec<String> {
    let mut first = HashMap::new();
    let mut told = Vec::new();
    let mut count = 0usize;
    for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.enabled) {
        let mut outputs: Vec<_> = rule.outputs.iter().map(ToString::to_string).collect();
        outputs.sort_unstable();
        let place = *first.entry((rule.input.to_string(), outputs)).or_insert(index);
        if place == index {
            continue;
        }
        count += 1;
        if told.len() < TWINS_TOLD_MAX {
            let (name, other) = (called(index, rule), called(place, &rules[place]));
            told.push(match rule.name.is_none() && rule.is_like(&rules[place]) {
                true => format!("{name}: it is the same as {other} and is left out; remove it, or name it"),
                false => {
                    format!(
                        "{name}: {other} takes in and sends the same, so each copy leaves twice; remove one"
                    )
                }
            });
        }
    }
    if count > told.len() {
        told.push(format!("{} further rules are the same as others", count - told.len()));
    }
    told
}
