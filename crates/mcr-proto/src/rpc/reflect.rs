//! Reflectors as clients see them.

use serde::{Deserialize, Serialize};

use crate::message::ReflectView;

/// Which reflector, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReflectParams {
    /// Its name, as chosen or made.
    pub name: String,
}

/// One reflector, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionalReflect {
    /// Its name; without one, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Result of `reflect.add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReflectAdded {
    /// As it stands now.
    pub reflector: ReflectView,
    /// False if the same was there already.
    pub created: bool,
}

/// Result of `reflect.list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReflectList {
    /// In the order in which they were added.
    pub reflectors: Vec<ReflectView>,
}
