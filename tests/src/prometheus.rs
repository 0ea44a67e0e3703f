//! What `/metrics` must look like: it can be read, the rules of `promtool check metrics` hold, and values can be found. The
//! real `promtool` reads it in the tests with stock tools.

use std::collections::{BTreeMap, BTreeSet};

/// Samples by name and labels, as in `mcr_worker_up{worker="0"}`.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    values: BTreeMap<Series, f64>,
}

/// A name with its labels.
type Series = (String, BTreeMap<String, String>);

impl Metrics {
    /// Reads a text.
    ///
    /// # Panics
    /// If it is not in the format, or breaks a rule.
    #[track_caller]
    pub fn read(text: &str) -> Self {
        let faults = faults(text);
        assert!(faults.is_empty(), "{faults:#?}");
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = sample(line).unwrap_or_else(|| panic!("no sample: {line}"));
            assert_eq!(metrics.values.insert(series, value), None, "there twice: {line}");
        }
        metrics
    }

    /// The names of all families, with samples or without.
    pub fn names(text: &str) -> BTreeSet<String> {
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        names.map(str::to_owned).collect()
    }

    /// One sample's value, its labels in any order.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        let wanted = sample(&format!("{series} 0")).unwrap_or_else(|| panic!("{series} is no series"));
        *self.values.get(&wanted.0).unwrap_or_else(|| panic!("no {series} in {:#?}", self.values))
    }

    /// The sum of all samples of a family.
    pub fn sum(&self, name: &str) -> f64 {
        self.values.iter().filter(|((family, _), _)| family == name).map(|(_, value)| value).sum()
    }
}

/// Reads `name{label="value",...} value`, with the escapes that a label's value may have. No time stamps: ours have none.
fn sample(line: &str) -> Option<(Series, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            is_label(label).then_some(())?;
            labels.insert(label.to_owned(), value).is_none().then_some(())?;
            match (after.strip_prefix(','), after.strip_prefix('}')) {
                (Some(more), _) => rest = more,
                (_, Some(after)) => {
                    rest = after;
                    break;
                }
                _ => return None,
            }
        }
    }
    let value = match rest.strip_prefix(' ')? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        value => value.parse().ok()?,
    };
    Some(((name.to_owned(), labels), value))
}

/// A label's value up to its quote, and what is behind that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        value.push(match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match characters.next()?.1 {
                'n' => '\n',
                same @ ('\\' | '"') => same,
                _ => return None,
            },
            (_, other) => other,
        });
    }
}

fn is_label(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_lowercase())
        && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Units that promtool wants in their base form, and what that is.
const UNITS: [(&str, &str); 9] = [
    ("milliseconds", "seconds"),
    ("microseconds", "seconds"),
    ("nanoseconds", "seconds"),
    ("minutes", "seconds"),
    ("hours", "seconds"),
    ("bits", "bytes"),
    ("kilobytes", "bytes"),
    ("percent", "ratio"),
    ("ms", "seconds"),
];

/// What a histogram's samples end in.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// What `promtool check metrics` would complain of, and what it takes for granted.
pub fn faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut helps, mut types) = (BTreeMap::new(), BTreeMap::new());
    let mut series = BTreeSet::new();
    let mut open = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            if help.is_empty() || helps.insert(name.to_owned(), help.to_owned()).is_some() {
                faults.push(format!("{name}: one help text, please"));
            }
            open = name.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            if types.insert(name.to_owned(), kind.to_owned()).is_some() || open != name {
                faults.push(format!("{name}: one type, behind its help"));
            }
        } else if let Some((labelled, value)) = line.rsplit_once(' ') {
            let name = labelled.split('{').next().unwrap_or_default();
            let is_part = types.get(&open).is_some_and(|kind| kind == "histogram")
                && PARTS.iter().any(|part| name.strip_suffix(part) == Some(&open));
            if name != open && !is_part {
                faults.push(format!("{name}: a sample outside of its family"));
            }
            if !series.insert(labelled.to_owned()) {
                faults.push(format!("{labelled}: there twice"));
            }
            if sample(line).is_none() {
                faults.push(format!("{labelled}: {value} cannot be read"));
            }
        } else {
            faults.push(format!("no line of the format: {line}"));
        }
    }
    for (name, kind) in &types {
        faults.extend(name_faults(name, kind));
        if !helps.contains_key(name) {
            faults.push(format!("{name}: no help"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        faults.push("the last line does not end".into());
    }
    faults
}

fn name_faults(name: &str, kind: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let parts: Vec<_> = name.split('_').collect();
    if (kind == "counter") != name.ends_with("_total") {
        faults.push(format!("{name}: `_total` is for counters, and for all of them"));
    }
    if !matches!(kind, "counter" | "gauge" | "histogram" | "summary") {
        faults.push(format!("{name}: {kind} is no type"));
    }
    if kind != "histogram" && kind != "summary" && PARTS.iter().any(|end| name.ends_with(end)) {
        faults.push(format!("{name}: ends like a part of a histogram"));
    }
    if parts[0] != "mcr" || name.chars().any(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_') {
        faults.push(format!("{name}: begins with mcr_ and is in snake_case"));
    }
    if ["counter", "gauge", "histogram", "summary"].iter().any(|kind| parts.contains(kind)) {
        faults.push(format!("{name}: its type is not part of its name"));
    }
    for (unit, base) in UNITS {
        if parts.contains(&unit) {
            faults.push(format!("{name}: use {base} instead of {unit}"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_with_what_is_escaped_in_them() {
        let ((name, labels), value) = sample(r#"a{x="1,2}=\"3\"\\\n",y=""} 2.5"#).expect("a sample");
        let labels: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!((name.as_str(), &labels[..]), ("a", &[("x", "1,2}=\"3\"\\\n"), ("y", "")][..]));
        assert!((value - 2.5).abs() < 1e-9);
        for bad in [
            "a",
            "a ",
            "a{} 1",
            "a{x=1} 1",
            "a{x=\"1} 1",
            "a{x=\"1\"y=\"2\"} 1",
            "a{X=\"1\"} 1",
            "a{x=\"\\q\"} 1",
        ] {
            assert!(sample(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn each_rule_finds_what_breaks_it() {
        let good = "# HELP mcr_a_total A.\n# TYPE mcr_a_total counter\nmcr_a_total{x=\"1\"} 1\nmcr_a_total{x=\"2\"} 1\n";
        assert_eq!(faults(good), Vec::<String>::new());
        assert!((Metrics::read(good).sum("mcr_a_total") - 2.0).abs() < 1e-9);
        let histogram = "# HELP mcr_a A.\n# TYPE mcr_a histogram\nmcr_a_bucket{le=\"+Inf\"} 1\nmcr_a_sum 1\nmcr_a_count 1\n";
        assert_eq!(faults(histogram), Vec::<String>::new());
        for bad in [
            "# HELP mcr_a A.\n# TYPE mcr_a gauge\nmcr_a_sum 1\n",
            "# HELP mcr_a A.\n# TYPE mcr_a counter\nmcr_a 1\n",
            "# HELP mcr_a_total A.\n# TYPE mcr_a_total gauge\nmcr_a_total 1\n",
            "# TYPE mcr_a gauge\nmcr_a 1\n",
            "# HELP mcr_a A.\n# TYPE mcr_a gauge\nmcr_a 1\nmcr_a 2\n",
            "# HELP mcr_a A.\n# TYPE mcr_a gauge\nmcr_b 1\n",
            "# HELP mcr_a_ms A.\n# TYPE mcr_a_ms gauge\nmcr_a_ms 1\n",
            "# HELP mcr_gauge A.\n# TYPE mcr_gauge gauge\nmcr_gauge 1\n",
            "# HELP mcr_a A.\n# TYPE mcr_a gauge\nmcr_a one\n",
            "# HELP mcr_a A.\n# TYPE mcr_a gauge\nmcr_a 1",
            "# HELP a A.\n# TYPE a gauge\na 1\n",
            "# HELP mcr_a_count A.\n# TYPE mcr_a_count gauge\nmcr_a_count 1\n",
        ] {
            assert!(!faults(bad).is_empty(), "{bad}");
        }
    }
}
