//! The text exposition format of Prometheus, version 0.0.4, as something to write into.
//!
//! Reference: "Exposition formats", prometheus.io. A family is written as a whole: its HELP, its TYPE, then its samples. What is
//! not here: which families there are, and where their values come from.

use std::fmt::{Display, Write};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's values do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They only grow; the name ends in `_total`.
    Counter,
    /// They go up and down.
    Gauge,
    /// Counts by size; the samples are those of [`Family::histogram`].
    Histogram,
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A count, exact.
    Count(u64),
    /// Anything else.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Count(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Count(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// A text under way.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// A family under way; ends with the next one.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family. `help` is one line for a person.
    ///
    /// # Panics
    /// If the name is none, or does not end in `_total` just for a counter: these names are constants of the program.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        assert!(is_name(name), "{name} is no name of a metric");
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name} and its kind");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.text.push_str("# HELP ");
        self.text.push_str(name);
        self.text.push(' ');
        escape(&mut self.text, help, false);
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Adds a sample. No two of a family may have the same labels.
    pub fn sample(&mut self, labels: &[(&'static str, &dyn Display)], value: impl Into<Value>) {
        self.line("", labels, value.into());
    }

    /// Adds a histogram: how many values lie at or below each bound, and the number and sum of all. The bounds rise.
    pub fn histogram(
        &mut self,
        labels: &[(&'static str, &dyn Display)],
        below: impl IntoIterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let mut bucket = |bound: &dyn Display, count: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            self.line("_bucket", &labels, count.into());
        };
        below.into_iter().for_each(|(bound, count)| bucket(&bound, count));
        bucket(&"+Inf", count);
        self.line("_sum", labels, sum.into());
        self.line("_count", labels, count.into());
    }

    fn line(&mut self, suffix: &str, labels: &[(&'static str, &dyn Display)], value: Value) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            let _ = write!(Escaped(self.text), "{value}");
            self.text.push('"');
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = match value {
            Value::Count(count) => writeln!(self.text, "{count}"),
            Value::Real(value) if value.is_infinite() => {
                writeln!(self.text, "{}Inf", if value > 0.0 { '+' } else { '-' })
            }
            Value::Real(value) => writeln!(self.text, "{value}"),
        };
    }
}

/// Escapes what is written through it as a label's value.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        escape(self.0, text, true);
        Ok(())
    }
}

fn escape(text: &mut String, part: &str, quotes: bool) {
    for character in part.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

/// Colons are for recording rules.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_its_help_its_type_and_its_samples() {
        let mut text = Exposition::default();
        let mut family = text.family("mcr_a_total", Kind::Counter, "What \\ it\nis \"for\".");
        family.sample(&[], u64::MAX);
        family.sample(&[("rule", &"a\"b\\c\nd"), ("worker", &3)], 7_u32);
        let mut family = text.family("mcr_b", Kind::Gauge, "B.");
        family.sample(&[("x", &"ü")], 0.25);
        family.sample(&[], true);
        family.sample(&[], f64::NEG_INFINITY);
        family.sample(&[], f64::NAN);
        let want = "# HELP mcr_a_total What \\\\ it\\nis \"for\".\n# TYPE mcr_a_total counter\n\
                    mcr_a_total 18446744073709551615\n\
                    mcr_a_total{rule=\"a\\\"b\\\\c\\nd\",worker=\"3\"} 7\n\
                    # HELP mcr_b B.\n# TYPE mcr_b gauge\nmcr_b{x=\"ü\"} 0.25\nmcr_b 1\nmcr_b -Inf\nmcr_b NaN\n";
        assert_eq!(text.finish(), want);
    }

    #[test]
    fn a_histogram_is_its_buckets_their_sum_and_their_number() {
        let mut text = Exposition::default();
        let mut family = text.family("mcr_a_seconds", Kind::Histogram, "A.");
        family.histogram(&[("rule", &"x")], [(0.5, 1), (1.0, 3)], 4, 7.25);
        let want = "# HELP mcr_a_seconds A.\n# TYPE mcr_a_seconds histogram\n\
                    mcr_a_seconds_bucket{rule=\"x\",le=\"0.5\"} 1\nmcr_a_seconds_bucket{rule=\"x\",le=\"1\"} 3\n\
                    mcr_a_seconds_bucket{rule=\"x\",le=\"+Inf\"} 4\nmcr_a_seconds_sum{rule=\"x\"} 7.25\n\
                    mcr_a_seconds_count{rule=\"x\"} 4\n";
        assert_eq!(text.finish(), want);
    }

    #[test]
    #[should_panic(expected = "and its kind")]
    fn a_counter_without_its_suffix_is_a_bug() {
        Exposition::default().family("mcr_a", Kind::Counter, "A.");
    }
}
