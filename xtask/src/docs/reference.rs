//! Tables of methods, types and keys, made of the documentation comments of `mcr-proto`.

use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, bail};
use rustdoc_types::{Id, Item, ItemEnum, Path, Type};

use super::shapes::{Field, Shape, Shapes, arguments};

/// Types with a reading and writing of their own, and what they are to whoever writes JSON or TOML.
const TEXTS: &[(&str, &str)] = &[
    ("Input", "[endpoint](config.md#endpoints)"),
    ("Output", "[endpoint](config.md#endpoints)"),
    ("RuleName", "name"),
    ("RuleRef", "a rule's name or number"),
    ("IfName", "interface"),
    ("Codepoint", "DSCP"),
    ("Rate", "rate"),
    ("Config", "object, [as a file](config.md)"),
    ("Reflect", "object, [as `[[reflect]]`](config.md#reflect)"),
    ("ReflectMode", "[mode](config.md#reflect)"),
    ("TraceStart", "an object with the fields below"),
    ("IpAddr", "address"),
    ("SocketAddr", "address and port"),
    ("String", "string"),
];

/// A method of the control protocol.
struct Method<'a> {
    name: String,
    does: String,
    parameters: Option<&'a Item>,
    result: Option<&'a Item>,
}

/// The parts of documents that are made of `mcr-proto`.
pub(super) struct Reference<'a> {
    shapes: &'a Shapes,
    methods: Vec<Method<'a>>,
    /// Types that have a section of their own: those named by what has been written so far.
    named: RefCell<BTreeMap<String, Id>>,
}

impl<'a> Reference<'a> {
    pub(super) fn new(shapes: &'a Shapes) -> anyhow::Result<Self> {
        let module = shapes.named("rpc::method")?;
        let items = shapes.children(module).iter().filter_map(|id| shapes.item(*id));
        let methods = items.map(|item| method(shapes, item)).collect::<anyhow::Result<_>>()?;
        Ok(Self { shapes, methods, named: RefCell::default() })
    }

    /// The methods' names.
    pub(super) fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.iter().map(|method| method.name.as_str())
    }

    /// What belongs between the marks of this name.
    pub(super) fn part(&self, name: &str) -> anyhow::Result<String> {
        match name.split_once(' ').unwrap_or((name, "")) {
            ("methods", "") => Ok(self.summary()),
            ("method", name) => self.method(name),
            ("fields", path) => self.object("field", self.shapes.named(path)?),
            ("words", path) => self.words(self.shapes.named(path)?),
            ("keys", path) => self.keys(self.shapes.named(path)?),
            ("constants", path) => self.constants(path),
            ("types", "") => self.types(),
            _ => bail!("nothing is made for `{name}`"),
        }
    }

    fn summary(&self) -> String {
        let mut text = String::from("| method | |\n|---|---|\n");
        for Method { name, does, .. } in &self.methods {
            let _ = writeln!(text, "| [`{name}`](#{}) | {does} |", name.replace('.', ""));
        }
        text
    }

    fn method(&self, name: &str) -> anyhow::Result<String> {
        let method = self.methods.iter().find(|method| method.name == name);
        let method = method.with_context(|| format!("there is no method {name}"))?;
        let stop = if method.does.ends_with('?') { "" } else { "." };
        let mut text = format!("{}{stop}\n\n", method.does);
        match method.parameters {
            // What is described elsewhere is not described again.
            Some(item) if described(item.name.as_deref()).is_some() => {
                let _ =
                    writeln!(text, "Parameters: {}.", described(item.name.as_deref()).unwrap_or_default());
            }
            Some(item) => text += &self.object("parameter", item)?,
            None => text += "No parameters.\n",
        }
        text.push('\n');
        match method.result {
            Some(item) if self.is_shared(item) => {
                let _ = writeln!(text, "Result: {}.", self.link(item));
            }
            Some(item) => text += &self.object("result", item)?,
            None => text += "The result is an empty object.\n",
        }
        Ok(text)
    }

    /// Whether more than one method has this result, or other types hold it.
    fn is_shared(&self, item: &Item) -> bool {
        let count = self
            .methods
            .iter()
            .filter(|method| method.result.is_some_and(|result| result.id == item.id))
            .count();
        count > 1 || self.named.borrow().values().any(|id| *id == item.id)
    }

    fn object(&self, title: &str, item: &Item) -> anyhow::Result<String> {
        let Shape::Object(fields) = self.shapes.shape(item)? else { bail!("{:?} is no object", item.name) };
        let mut text = format!("| {title} | is | |\n|---|---|---|\n");
        for field in fields {
            if field.is_flat {
                let _ = writeln!(text, "| all fields of {} | | |", self.kind(field.type_)?);
                continue;
            }
            let _ = writeln!(
                text,
                "| `{}` | {} | {} |",
                field.name,
                self.field_kind(title, &field)?,
                self.meaning(field.item)
            );
        }
        Ok(text)
    }

    fn field_kind(&self, title: &str, field: &Field<'_>) -> anyhow::Result<String> {
        let kind = self.kind(field.type_)?;
        // Of what a client sends, null and nothing are the same.
        let is_optional = field.is_optional || title == "parameter" && is_option(field.type_);
        Ok(match (is_optional, is_option(field.type_)) {
            (true, _) => format!("{kind}, optional"),
            (false, true) => format!("{kind} or null"),
            (false, false) => kind,
        })
    }

    fn words(&self, item: &Item) -> anyhow::Result<String> {
        let Shape::Words(words) = self.shapes.shape(item)? else {
            bail!("{:?} is not made of words", item.name)
        };
        let mut text = String::from("| | |\n|---|---|\n");
        for word in words {
            let _ = writeln!(text, "| `{}` | {} |", word.name, self.meaning(word.item));
        }
        Ok(text)
    }

    /// The keys of a table in a configuration file.
    fn keys(&self, item: &Item) -> anyhow::Result<String> {
        let Shape::Object(fields) = self.shapes.shape(item)? else { bail!("{:?} is no table", item.name) };
        let mut text = String::from("| key | is | |\n|---|---|---|\n");
        for field in fields {
            let inner = inner(field.type_);
            let kind = match inner.map(|(outer, inner)| (outer, self.is_table(inner))) {
                Some(("Vec", true)) => format!("tables `[[{}]]`", field.name),
                Some(("Option", true)) => format!("table `[{}]`", field.name),
                _ => match self.alternatives(field.type_)? {
                    Some(words) => words,
                    None => self.kind(field.type_)?,
                },
            };
            let is_needed = !field.is_optional && !is_option(field.type_);
            let needed = if is_needed { ", required" } else { "" };
            // Rust may call a field otherwise; here its key stands beside it.
            let meaning = self.meaning(field.item);
            let meaning = [
                format!(" (key `{}`)", field.name),
                format!(" (key `[{}]`)", field.name),
                format!(" (key `[[{}]]`)", field.name),
            ]
            .iter()
            .fold(meaning, |meaning, key| meaning.replace(key, ""));
            let _ = writeln!(text, "| `{}` | {kind}{needed} | {meaning} |", field.name);
        }
        Ok(text)
    }

    /// Whether a type is a table of a file, and no text.
    fn is_table(&self, type_: &Type) -> bool {
        let Type::ResolvedPath(path) = type_ else { return false };
        let is_text = described(Some(last(path))).is_some_and(|text| !text.starts_with("object"));
        let item = self.shapes.item(path.id);
        !is_text && item.is_some_and(|item| matches!(self.shapes.shape(item), Ok(Shape::Object(_))))
    }

    /// The words that a value can be, if it is one of some.
    fn alternatives(&self, type_: &Type) -> anyhow::Result<Option<String>> {
        let Type::ResolvedPath(path) = type_ else { return Ok(None) };
        let Some(item) = self.shapes.item(path.id).filter(|_| described(Some(last(path))).is_none()) else {
            return Ok(None);
        };
        let Shape::Words(words) = self.shapes.shape(item)? else { return Ok(None) };
        let words: Vec<_> = words.iter().map(|word| format!("`{}`", word.name)).collect();
        Ok(words.split_last().map(|(last, others)| format!("{} or {last}", others.join(", "))))
    }

    fn constants(&self, path: &str) -> anyhow::Result<String> {
        let mut text = String::from("| | |\n|---|---|\n");
        for id in self.shapes.children(self.shapes.named(path)?) {
            let item = self.shapes.item(*id).context("a constant that rustdoc does not tell of")?;
            let value = value(item).with_context(|| format!("{:?} is no constant", item.name))?;
            let _ = writeln!(text, "| {value} | {} |", self.meaning(item));
        }
        Ok(text)
    }

    /// A section for each type that was named, and for those that these name.
    fn types(&self) -> anyhow::Result<String> {
        let mut sections = BTreeMap::new();
        loop {
            let open = self.named.borrow().clone();
            let open: Vec<_> = open.into_iter().filter(|(name, _)| !sections.contains_key(name)).collect();
            if open.is_empty() {
                break;
            }
            for (name, id) in open {
                let item = self.shapes.item(id).context("a type of ours")?;
                let table = match self.shapes.shape(item)? {
                    Shape::Object(_) => self.object("field", item)?,
                    _ => self.words(item)?,
                };
                sections.insert(name.clone(), format!("#### {name}\n\n{}\n\n{table}", self.meaning(item)));
            }
        }
        Ok(sections.into_values().collect::<Vec<_>>().join("\n"))
    }

    /// What a type is called, linked to its section if it has one.
    fn kind(&self, type_: &Type) -> anyhow::Result<String> {
        let path = match type_ {
            Type::Primitive(name) if name == "bool" => return Ok("true or false".into()),
            Type::Primitive(name) if name == "str" => return Ok("string".into()),
            Type::Primitive(_) => return Ok("number".into()),
            Type::ResolvedPath(path) => path,
            _ => bail!("{type_:?} is nothing that is in a document"),
        };
        let arguments = arguments(path.args.as_deref());
        match (last(path), &arguments[..]) {
            ("Option" | "Box", [inner]) => return self.kind(inner),
            ("Vec" | "BTreeSet", [inner]) => return Ok(format!("list of {}", plural(&self.kind(inner)?))),
            ("BTreeMap", [key, inner]) => {
                let key = self.kind(key)?;
                let key = if key == "string" { "name" } else { &key };
                return Ok(format!("object: {} by {key}", self.kind(inner)?));
            }
            _ => {}
        }
        if let Some(text) = described(Some(last(path))) {
            return Ok(text.to_owned());
        }
        let unknown = || format!("say in xtask/src/docs/reference.rs what a `{}` is", path.path);
        let item = self.shapes.item(path.id).with_context(unknown)?;
        match self.shapes.shape(item)? {
            Shape::Same(inner) => self.kind(inner),
            Shape::Object(_) => Ok(self.link(item)),
            // A word with a capital is one that serde does not write so: the type has a writing of its own.
            Shape::Words(words) if words.iter().all(|word| !word.name.contains(char::is_uppercase)) => {
                Ok(self.link(item))
            }
            _ => bail!(unknown()),
        }
    }

    /// A link to the section of a type, which there will be.
    fn link(&self, item: &Item) -> String {
        let name = item.name.clone().unwrap_or_default();
        let link = format!("[{name}](#{})", name.to_lowercase());
        self.named.borrow_mut().insert(name, item.id);
        link
    }

    /// The documentation of an item in one line, as a table holds it.
    fn meaning(&self, item: &Item) -> String {
        let docs = item.docs.as_deref().unwrap_or_default();
        // An example, or what is said of errors, is for those who write Rust.
        let docs = docs.split("\n```").next().unwrap_or_default();
        let docs = docs.split("\n#").next().unwrap_or_default();
        let docs = docs.split_whitespace().collect::<Vec<_>>().join(" ");
        without_links(&docs, |target| {
            let target = target.trim_matches('`');
            let id =
                item.links.iter().find(|(text, _)| text.trim_matches('`') == target).map(|(_, id)| *id)?;
            let linked = self.shapes.item(id)?;
            value(linked)
        })
        .replace('|', "\\|")
    }
}

/// `Add a rule: [`crate::rule::RuleSpec`] to [`super::RuleAdded`].` in its parts.
fn method<'a>(shapes: &'a Shapes, item: &'a Item) -> anyhow::Result<Method<'a>> {
    let name = value(item).with_context(|| format!("{:?} is no constant", item.name))?;
    let docs = item.docs.as_deref().unwrap_or_default();
    let (mut parameters, mut result) = (None, None);
    for (at, _) in docs.match_indices("[`") {
        let target = docs[at + 1..].split(']').next().unwrap_or_default();
        let id = item.links.iter().find(|(text, _)| text.trim_matches('`') == target.trim_matches('`'));
        let (_, id) = id.with_context(|| format!("{name}: {target} leads nowhere"))?;
        let linked = shapes.item(*id).with_context(|| format!("{name}: {target} is not public"))?;
        let before = docs[..at].trim_end();
        if before.ends_with("to") || before.ends_with("To") {
            result = Some(linked);
        } else {
            parameters = Some(linked);
        }
    }
    let end =
        docs.find(": ").or(docs.find('?')).with_context(|| format!("{name}: its comment has no `:`"))?;
    let does = without_links(docs[..=end].trim_end_matches(':'), |_| None);
    Ok(Method { name: name.trim_matches(['"', '`']).to_owned(), does, parameters, result })
}

/// The value of a constant as people write it.
fn value(item: &Item) -> Option<String> {
    let ItemEnum::Constant { const_, .. } = &item.inner else { return None };
    let text = const_.value.as_deref().unwrap_or(&const_.expr);
    if let Some(text) = text.strip_prefix('"') {
        return Some(format!("`{}`", text.trim_end_matches('"')));
    }
    let end = text.find(|c: char| c.is_ascii_lowercase()).unwrap_or(text.len());
    Some(text[..end].replace('_', if text.starts_with('-') { "" } else { "," }))
}

/// Text with [`links`] replaced by what they stand for, or by their last name.
fn without_links(text: &str, resolve: impl Fn(&str) -> Option<String>) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("[`") {
        let Some(end) = rest[start..].find("`]").map(|end| start + end) else { break };
        let target = &rest[start + 2..end];
        plain += &rest[..start];
        plain +=
            &resolve(target).unwrap_or_else(|| format!("`{}`", target.rsplit("::").next().unwrap_or(target)));
        rest = &rest[end + 2..];
    }
    plain + rest
}

/// What a type is that documents describe by hand.
fn described(name: Option<&str>) -> Option<&'static str> {
    TEXTS.iter().find(|(known, _)| Some(*known) == name).map(|(_, text)| *text)
}

fn last(path: &Path) -> &str {
    path.path.rsplit("::").next().unwrap_or_default()
}

/// More than one of a kind; links stay as they are.
fn plural(kind: &str) -> String {
    match kind {
        "address" => "addresses".to_owned(),
        _ if kind.ends_with([')', '`']) => kind.to_owned(),
        _ => format!("{kind}s"),
    }
}

/// The outer name and the argument of a type with one argument.
fn inner(type_: &Type) -> Option<(&str, &Type)> {
    let Type::ResolvedPath(path) = type_ else { return None };
    match arguments(path.args.as_deref())[..] {
        [inner] => Some((last(path), inner)),
        _ => None,
    }
}

fn is_option(type_: &Type) -> bool {
    inner(type_).is_some_and(|(outer, _)| outer == "Option")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_rust_become_values_and_names() {
        let resolve = |target: &str| (target == "OUTPUTS_MAX").then(|| "1,024".to_owned());
        assert_eq!(
            without_links("1 to [`OUTPUTS_MAX`], see [`super::Hello`].", resolve),
            "1 to 1,024, see `Hello`."
        );
        assert_eq!(without_links("no [link] here", resolve), "no [link] here");
        assert_eq!(without_links("[`open", resolve), "[`open");
    }
}
