//! From [`Config`] to text: canonical TOML for files, and serde for what travels.

use std::fmt::Write;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{Class, Config, HttpConfig, Reflect};
use crate::rule::{DatapathChoice, RuleSpec};

/// Lists that make a line longer than this get a line per element.
const LINE_MAX: usize = 100;

/// The configuration as TOML, in canonical form. It reads back equal if it holds what [`parse`](super::parse) accepts.
pub fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    if let Some(workers) = config.workers {
        line(&mut text, "workers", workers);
    }
    if config.allow_read {
        line(&mut text, "others_may_read", true);
    }
    if let Some(http) = &config.http {
        let blank = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{blank}[http]");
        write_http(&mut text, http);
    }
    for rule in &config.rules {
        header(&mut text, "rule");
        write_rule(&mut text, rule);
    }
    for class in &config.classes {
        header(&mut text, "class");
        write_class(&mut text, class);
    }
    for reflect in &config.reflects {
        header(&mut text, "reflect");
        write_reflect(&mut text, reflect);
    }
    text
}

fn write_http(text: &mut String, http: &HttpConfig) {
    line(text, "listen", quoted(&http.listen.to_string()));
    if !http.names.is_empty() {
        list(text, "names", http.names.iter().map(|name| quoted(name)));
    }
    if let Some(file) = &http.token_file {
        line(text, "token_file", quoted(file));
    }
}

fn write_rule(text: &mut String, rule: &RuleSpec) {
    if let Some(name) = &rule.name {
        line(text, "name", quoted(name.as_str()));
    }
    line(text, "input", quoted(&rule.input.to_string()));
    list(text, "outputs", rule.outputs.iter().map(|output| quoted(&output.to_string())));
    if let Some(class) = &rule.class {
        line(text, "class", quoted(class));
    }
    if rule.datapath != DatapathChoice::default() {
        line(text, "datapath", quoted(&rule.datapath.to_string()));
    }
    if !rule.enabled {
        line(text, "enabled", false);
    }
}

fn write_class(text: &mut String, class: &Class) {
    line(text, "name", quoted(&class.name));
    if !class.dscp.is_empty() {
        list(text, "dscp", class.dscp.iter().map(|codepoint| quoted(&codepoint.to_string())));
    }
    line(text, "priority", class.priority);
    if let Some(rate) = class.rate {
        line(text, "rate", quoted(&rate.to_string()));
    }
    if let Some(depth) = class.depth {
        line(text, "depth", depth);
    }
}

fn write_reflect(text: &mut String, reflect: &Reflect) {
    if let Some(name) = &reflect.name {
        line(text, "name", quoted(name.as_str()));
    }
    line(text, "interface", quoted(reflect.interface.as_str()));
    reflect.write_keys(|key, value| line(text, key, value));
}

fn header(text: &mut String, name: &str) {
    let blank = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{blank}[[{name}]]");
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{key} = {value}");
}

fn list(text: &mut String, key: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.collect();
    let one_line = format!("{key} = [{}]\n", items.join(", "));
    if items.len() < 2 || one_line.len() <= LINE_MAX {
        text.push_str(&one_line);
    } else {
        let _ = writeln!(text, "{key} = [\n    {},\n]", items.join(",\n    "));
    }
}

/// A TOML string with whatever escapes it needs.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Fields at their default are left out for people and written for formats that count fields.
impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = !serializer.is_human_readable();
        let mut fields = serializer.serialize_struct("Config", 6)?;
        if all || self.workers.is_some() {
            fields.serialize_field("workers", &self.workers)?;
        }
        if all || self.allow_read {
            fields.serialize_field("others_may_read", &self.allow_read)?;
        }
        if all || self.http.is_some() {
            fields.serialize_field("http", &self.http)?;
        }
        if all || !self.rules.is_empty() {
            fields.serialize_field("rule", &self.rules)?;
        }
        if all || !self.classes.is_empty() {
            fields.serialize_field("class", &self.classes)?;
        }
        if all || !self.reflects.is_empty() {
            fields.serialize_field("reflect", &self.reflects)?;
        }
        fields.end()
    }
}

impl Serialize for Class {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = !serializer.is_human_readable();
        let mut fields = serializer.serialize_struct("Class", 5)?;
        fields.serialize_field("name", &self.name)?;
        if all || !self.dscp.is_empty() {
            fields.serialize_field("dscp", &self.dscp)?;
        }
        fields.serialize_field("priority", &self.priority)?;
        if all || self.rate.is_some() {
            fields.serialize_field("rate", &self.rate)?;
        }
        if all || self.depth.is_some() {
            fields.serialize_field("depth", &self.depth)?;
        }
        fields.end()
    }
}
