//! What can be wrong with a configuration file.

use crate::endpoint::{EndpointError, listed, nearest};
use crate::reflect::ReflectError;
use crate::rule::{DatapathError, NameError, RuleError, WayBack};

/// Why a configuration was refused, and where. Displays as one line: ``FILE:LINE: key `KEY`: what, what to do``.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: key `{key}`: {kind}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The file, as it was named to [`parse`](super::parse).
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The key with all that lead to it, as in `rule[2].outputs[0]`; indices count from 0.
    pub key: String,
    /// What is wrong there.
    pub kind: Box<ConfigErrorKind>,
}

/// What is wrong with a key of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// The text is not TOML; the key is the one nearest above.
    #[error("this is not TOML: {message}")]
    Syntax {
        /// What the TOML parser says.
        message: String,
    },
    /// Bytes that are no text; the key is the one nearest above.
    #[error("this is not text: a byte there is not UTF-8; save the file as UTF-8")]
    Encoding,
    /// A key that does not exist there.
    #[error("there is no such key{}; known here are {}", nearest(.name, .known), listed(.known))]
    UnknownKey {
        /// The key without those that lead to it.
        name: String,
        /// The keys that exist there.
        known: &'static [&'static str],
    },
    /// A key that must be there is not.
    #[error("this key is missing; add {example}")]
    Missing {
        /// A line it could have.
        example: &'static str,
    },
    /// A value of another type than the key has.
    #[error("this is {got}; write {want}")]
    Type {
        /// The type of the value.
        got: &'static str,
        /// What the key takes.
        want: &'static str,
    },
    /// A value of the right type that the key does not take.
    #[error("`{text}` is not understood; write {want}")]
    Value {
        /// The value.
        text: String,
        /// What the key takes.
        want: &'static str,
    },
    /// A wrong endpoint.
    #[error(transparent)]
    Endpoint(EndpointError),
    /// A wrong name.
    #[error(transparent)]
    Name(NameError),
    /// A wrong data path.
    #[error(transparent)]
    Datapath(DatapathError),
    /// A rule whose parts do not fit together.
    #[error(transparent)]
    Rule(RuleError),
    /// A rule whose copies come back to its input by others.
    #[error("{0}")]
    Loop(WayBack),
    /// A reflector whose keys contradict each other.
    #[error(transparent)]
    Reflect(ReflectError),
    /// A name that another table of the same kind has.
    #[error("name `{name}` is taken by line {first_line}; names are unique, change one")]
    DuplicateName {
        /// The name.
        name: String,
        /// Line of its first use.
        first_line: usize,
    },
    /// A class that no `[[class]]` defines.
    #[error(
        "class `{name}` is not defined{near}; add a [[class]] with name = \"{name}\", or remove this key"
    )]
    UndefinedClass {
        /// The class.
        name: String,
        /// A hint at a class with nearly this name, or empty.
        near: String,
    },
    /// A codepoint that already belongs to a class.
    #[error(
        "DSCP {dscp} already belongs to class `{class}` by line {first_line}; a DSCP has one class, remove one"
    )]
    DuplicateDscp {
        /// The codepoint.
        dscp: String,
        /// The class it belongs to.
        class: String,
        /// Line that says so.
        first_line: usize,
    },
    /// Two reflectors on one interface and port.
    #[error("line {first_line} reflects on {interface} port {port} already; change one")]
    DuplicateReflect {
        /// The interface.
        interface: String,
        /// The port.
        port: u16,
        /// Line of the first reflector.
        first_line: usize,
    },
}
