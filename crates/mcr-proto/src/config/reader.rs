//! Typed access to parsed TOML that knows, for every value, its key and its line.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrorKind};
use crate::endpoint::{FromTable, quote};
use crate::reflect::Raw;

/// The file being read.
pub(super) struct Source<'a> {
    text: &'a str,
    file: &'a str,
}

/// One table; keys that it should not have are found by [`Table::expect`].
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    key: String,
    offset: usize,
    entries: &'a DeTable<'a>,
}

/// One value.
pub(super) struct Node<'a> {
    source: &'a Source<'a>,
    key: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str, file: &'a str) -> Self {
        Source { text, file }
    }

    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            // The parser may explain itself over several lines.
            let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join("; ");
            let key = key_near(self.text, offset);
            self.error(offset, key, ConfigErrorKind::Syntax { message: printable(&message) })
        })
    }

    pub(super) fn root(&'a self, table: &'a Spanned<DeTable<'a>>) -> Table<'a> {
        Table { source: self, key: String::new(), offset: 0, entries: table.get_ref() }
    }

    /// An error after the text, where something follows that is none.
    pub(super) fn not_text(&self) -> ConfigError {
        let end = self.text.len();
        self.error(end, key_near(self.text, end), ConfigErrorKind::Encoding)
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn error(&self, offset: usize, key: String, kind: ConfigErrorKind) -> ConfigError {
        ConfigError { file: self.file.to_owned(), line: self.line(offset), key, kind: Box::new(kind) }
    }
}

impl<'a> Table<'a> {
    /// Refuses keys that are not `known`, the first in the file first.
    pub(super) fn expect(&self, known: &'static [&'static str]) -> Result<(), ConfigError> {
        let unknown = self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let name = quote(key.get_ref());
        let path = join(&self.key, &name);
        Err(self.source.error(key.span().start, path, ConfigErrorKind::UnknownKey { name, known }))
    }

    pub(super) fn find(&self, key: &str) -> Option<Node<'a>> {
        let value = self.entries.get(key)?;
        Some(Node { source: self.source, key: join(&self.key, key), value })
    }

    pub(super) fn need(&self, key: &str, example: &'static str) -> Result<Node<'a>, ConfigError> {
        self.find(key).ok_or_else(|| {
            self.source.error(self.offset, join(&self.key, key), ConfigErrorKind::Missing { example })
        })
    }

    /// The table's elements under `key`, which is written `[[key]]`.
    pub(super) fn tables(&self, key: &str, want: &'static str) -> Result<Vec<Table<'a>>, ConfigError> {
        let Some(node) = self.find(key) else { return Ok(Vec::new()) };
        node.items(want)?.into_iter().map(|item| item.table(want)).collect()
    }

    /// An error at the table itself.
    pub(super) fn fail(&self, kind: ConfigErrorKind) -> ConfigError {
        self.source.error(self.offset, self.key.clone(), kind)
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// The line of another place in the file. Counting lines reads the file up to there, so it is done for errors only.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.source.line(offset)
    }
}

impl<'a> Node<'a> {
    pub(super) fn fail(&self, kind: ConfigErrorKind) -> ConfigError {
        self.source.error(self.value.span().start, self.key.clone(), kind)
    }

    pub(super) fn offset(&self) -> usize {
        self.value.span().start
    }

    /// The line of another place in the file; see [`Table::line_of`].
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.source.line(offset)
    }

    fn wrong_type(&self, want: &'static str) -> ConfigError {
        let got = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fail(ConfigErrorKind::Type { got, want })
    }

    pub(super) fn text(&self, want: &'static str) -> Result<&'a str, ConfigError> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type(want))
    }

    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// An integer within `range`; `want` says so in words.
    pub(super) fn integer<T: TryFrom<i64> + PartialOrd>(
        &self,
        range: RangeInclusive<T>,
        want: &'static str,
    ) -> Result<T, ConfigError> {
        if !self.value.get_ref().is_integer() {
            return Err(self.wrong_type(want));
        }
        let text = self.scalar(want)?;
        let number = text.parse().ok().and_then(|number: i64| T::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.fail(ConfigErrorKind::Value { text: quote(&text), want }))
    }

    /// A string, number, boolean or list of these; none if it is something else.
    pub(super) fn raw(&self) -> Option<Raw> {
        raw(self.value.get_ref())
    }

    /// An error that says what was written, as far as that fits a line, and what is wanted.
    pub(super) fn refuse(&self, want: &'static str) -> ConfigError {
        // Of a list, what is in it: that it is a list is not what is wrong.
        let text = match self.value.get_ref() {
            DeValue::Array(_) => self.items(want).and_then(|items| {
                let items: Result<Vec<_>, _> = items.iter().map(|item| item.scalar(want)).collect();
                items.map(|items| format!("[{}]", items.join(", ")))
            }),
            _ => self.scalar(want),
        };
        match text {
            Ok(text) => self.fail(ConfigErrorKind::Value { text: quote(&text), want }),
            Err(error) => error,
        }
    }

    /// A string, integer or boolean as text, integers in decimal.
    pub(super) fn scalar(&self, want: &'static str) -> Result<String, ConfigError> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(text.clone().into_owned()),
            DeValue::Boolean(value) => Ok(value.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(value) => Ok(value.to_string()),
                // Too large for TOML, which ends at 64 bits: what reads the text will say what it wants instead.
                Err(_) => Ok(number.to_string()),
            },
            _ => Err(self.wrong_type(want)),
        }
    }

    /// A string read by its `FromStr`.
    pub(super) fn parse<T: FromStr>(
        &self,
        want: &'static str,
        kind: impl FnOnce(T::Err) -> ConfigErrorKind,
    ) -> Result<T, ConfigError> {
        self.text(want)?.parse().map_err(|error| self.fail(kind(error)))
    }

    pub(super) fn items(&self, want: &'static str) -> Result<Vec<Node<'a>>, ConfigError> {
        let items = self.value.get_ref().as_array().ok_or_else(|| self.wrong_type(want))?;
        let node =
            |(index, value)| Node { source: self.source, key: format!("{}[{index}]", self.key), value };
        Ok(items.iter().enumerate().map(node).collect())
    }

    pub(super) fn table(&self, want: &'static str) -> Result<Table<'a>, ConfigError> {
        let entries = self.value.get_ref().as_table().ok_or_else(|| self.wrong_type(want))?;
        Ok(Table { source: self.source, key: self.key.clone(), offset: self.value.span().start, entries })
    }

    /// An endpoint, as a string or as a table of scalars.
    pub(super) fn endpoint<T: FromTable>(&self, want: &'static str) -> Result<T, ConfigError> {
        if self.value.get_ref().is_str() {
            return self.parse(want, ConfigErrorKind::Endpoint);
        }
        let table = self.table(want)?;
        table.expect(T::KEYS)?;
        let mut draft = T::Draft::default();
        for key in T::KEYS {
            let Some(node) = table.find(key) else { continue };
            let text = node.scalar("a string or a number")?;
            T::set(&mut draft, key, &text).map_err(|error| node.fail(ConfigErrorKind::Endpoint(error)))?;
        }
        T::finish(draft).map_err(|error| self.fail(ConfigErrorKind::Endpoint(error)))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn printable(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The key that text at `offset` belongs to, as far as that can be said of text that is not TOML: the last `key =` at or
/// above its line, after the last header above it.
fn key_near(text: &str, offset: usize) -> String {
    let end = text.as_bytes().iter().skip(offset).position(|byte| *byte == b'\n');
    let end = end.map_or(text.len(), |length| offset + length);
    let mut header = String::new();
    let mut seen = HashMap::new();
    let mut key = None;
    // Line ends are ASCII, hence character boundaries.
    for line in text[..end].lines().map(str::trim_start) {
        if let Some(name) = line.strip_prefix("[[").map(header_name) {
            let count = seen.entry(name).or_insert(0);
            header = format!("{}[{count}]", quote(name));
            *count += 1;
            key = None;
        } else if let Some(name) = line.strip_prefix('[').filter(|_| !line.contains('=')).map(header_name) {
            header = quote(name);
            key = None;
        } else if let Some((name, _)) = line.split_once('=') {
            key = Some(quote(name.trim()));
        } else if !line.is_empty() && is_bare(line.trim_end()) {
            key = Some(quote(line.trim_end()));
        }
    }
    match key {
        Some(key) => join(&header, &key),
        None if header.is_empty() => "(none)".to_owned(),
        None => header,
    }
}

fn header_name(rest: &str) -> &str {
    rest.split(']').next().unwrap_or_default().trim()
}

fn is_bare(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// A value without its places.
fn raw(value: &DeValue<'_>) -> Option<Raw> {
    Some(match value {
        DeValue::String(text) => Raw::Text(text.clone().into_owned()),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Integer(number) => Raw::Number(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Array(items) => {
            Raw::List(items.iter().map(|item| raw(item.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}
