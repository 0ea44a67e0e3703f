//! Names that users give to rules, classes and reflectors.

use std::fmt;
use std::str::FromStr;

use crate::endpoint::{quote, string_serde};

/// The longest name, in bytes, which are characters here.
const NAME_MAX: usize = 64;

/// The name of a rule: 1 to 64 of `A-Z a-z 0-9 . _ -`, and not digits alone, because those are a
/// [`RuleId`](super::RuleId).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName(String);

impl RuleName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RuleName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        Ok(RuleName(text.to_owned()))
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for RuleName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

string_serde!(RuleName, "the name of a rule");

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no character.
    #[error("the name is empty; write 1 to 64 of A-Z a-z 0-9 . _ -")]
    Empty,
    /// The name has more than 64 characters.
    #[error("name `{text}` has {length} bytes; write at most 64")]
    Length {
        /// The name, cut.
        text: String,
        /// Its length in bytes.
        length: usize,
    },
    /// A character that names do not have.
    #[error("name `{text}` contains {found:?}; use A-Z a-z 0-9 . _ - only")]
    Character {
        /// The name.
        text: String,
        /// The first such character.
        found: char,
    },
    /// Digits alone.
    #[error("name `{text}` is all digits, as ids are; add a letter")]
    Digits {
        /// The name.
        text: String,
    },
}

pub(crate) fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_MAX {
        return Err(NameError::Length { text: quote(text), length: text.len() });
    }
    if let Some(found) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-')) {
        return Err(NameError::Character { text: quote(text), found });
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NameError::Digits { text: quote(text) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_letters_digits_and_three_marks() {
        for text in ["a", "studio-video", "A.b_c-9", "1a", "-", &"x".repeat(64)] {
            assert_eq!(text.parse::<RuleName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_name_that_could_be_an_id_or_break_a_line_is_refused() {
        for (text, message) in [
            ("", "the name is empty; write 1 to 64 of A-Z a-z 0-9 . _ -"),
            ("17", "name `17` is all digits, as ids are; add a letter"),
            ("a\nb", "name `a\\nb` contains '\\n'; use A-Z a-z 0-9 . _ - only"),
            ("é", "name `é` contains 'é'; use A-Z a-z 0-9 . _ - only"),
        ] {
            assert_eq!(text.parse::<RuleName>().unwrap_err().to_string(), message);
        }
        let long = "x".repeat(65).parse::<RuleName>().unwrap_err().to_string();
        assert!(long.ends_with("has 65 bytes; write at most 64"), "{long}");
    }
}
