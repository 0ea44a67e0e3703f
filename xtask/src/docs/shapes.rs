//! What rustdoc knows of a crate's public types, as far as it shows in JSON: structs as objects, enums as words.
//!
//! It comes from rustdoc's JSON, not from the source: there macros are expanded, names resolved, and serde's attributes kept.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use rustdoc_types::{
    Attribute, Crate, FORMAT_VERSION, GenericArg, GenericArgs, Id, Item, ItemEnum, StructKind, Type,
    VariantKind,
};

/// A crate as rustdoc sees it.
pub(super) struct Shapes {
    krate: Crate,
}

/// A field of an object.
pub(super) struct Field<'a> {
    /// As serde writes it.
    pub(super) name: String,
    pub(super) item: &'a Item,
    pub(super) type_: &'a Type,
    /// It may be missing.
    pub(super) is_optional: bool,
    /// Its own fields stand in its place.
    pub(super) is_flat: bool,
}

/// A word of an enum.
pub(super) struct Word<'a> {
    /// As serde writes it.
    pub(super) name: String,
    pub(super) item: &'a Item,
}

/// What a type is in JSON.
pub(super) enum Shape<'a> {
    Object(Vec<Field<'a>>),
    Words(Vec<Word<'a>>),
    /// A struct around one value, written as that.
    Same(&'a Type),
    /// Something with a reading and writing of its own.
    Other,
}

impl Shapes {
    pub(super) fn read(json: &Path) -> anyhow::Result<Self> {
        let text = fs::read(json).with_context(|| format!("cannot read {}", json.display()))?;
        let krate: Crate = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not what rustdoc-types {FORMAT_VERSION} reads", json.display())
        })?;
        Ok(Self { krate })
    }

    /// The item of this path, as in `rpc::Hello`: where it is defined, or where it is published again.
    pub(super) fn named(&self, path: &str) -> anyhow::Result<&Item> {
        let root = self.krate.index.get(&self.krate.root).context("a crate without a root")?;
        let mut item = root;
        for step in path.split("::") {
            let inner = |id: &Id| self.krate.index.get(id);
            item = self
                .children(item)
                .iter()
                .filter_map(inner)
                .find_map(|child| match &child.inner {
                    ItemEnum::Use(used) if used.name == step => used.id.as_ref().and_then(inner),
                    _ => (child.name.as_deref() == Some(step)).then_some(child),
                })
                .with_context(|| format!("there is no public {path}"))?;
        }
        Ok(item)
    }

    pub(super) fn children<'a>(&self, item: &'a Item) -> &'a [Id] {
        match &item.inner {
            ItemEnum::Module(module) => &module.items,
            _ => &[],
        }
    }

    /// The item of this number, if it is of this crate.
    pub(super) fn item(&self, id: Id) -> Option<&Item> {
        self.krate.index.get(&id).filter(|item| item.crate_id == 0)
    }

    /// How a type of this crate is written.
    pub(super) fn shape<'a>(&'a self, item: &'a Item) -> anyhow::Result<Shape<'a>> {
        let serde = Serde::of(item);
        let fields = |ids: &'a [Id]| -> anyhow::Result<Vec<Field<'a>>> {
            ids.iter().map(|id| self.field(*id, &serde)).collect()
        };
        Ok(match &item.inner {
            ItemEnum::Struct(shape) => match &shape.kind {
                StructKind::Plain { fields: ids, has_stripped_fields: false } => Shape::Object(fields(ids)?),
                StructKind::Tuple(ids) if ids.len() == 1 => match ids[0].and_then(|id| self.item(id)) {
                    Some(Item { inner: ItemEnum::StructField(type_), .. }) => Shape::Same(type_),
                    _ => Shape::Other,
                },
                _ => Shape::Other,
            },
            ItemEnum::Enum(shape) => {
                let variants: Option<Vec<&Item>> = shape.variants.iter().map(|id| self.item(*id)).collect();
                let variants = variants.context("a variant that rustdoc does not tell of")?;
                let is_word = |item: &&Item| matches!(&item.inner, ItemEnum::Variant(variant) if matches!(variant.kind, VariantKind::Plain));
                if !variants.iter().all(is_word) {
                    return Ok(Shape::Other);
                }
                let word = |item: &'a Item| Word {
                    name: Serde::of(item)
                        .renamed(item.name.as_deref().unwrap_or_default(), serde.rename_all.as_deref()),
                    item,
                };
                Shape::Words(variants.into_iter().map(word).collect())
            }
            _ => bail!("{:?} is no type", item.name),
        })
    }

    fn field(&self, id: Id, of: &Serde) -> anyhow::Result<Field<'_>> {
        let item = self.item(id).context("a field that rustdoc does not tell of")?;
        let ItemEnum::StructField(type_) = &item.inner else { bail!("{:?} is no field", item.name) };
        let serde = Serde::of(item);
        Ok(Field {
            name: serde.renamed(item.name.as_deref().unwrap_or_default(), of.rename_all.as_deref()),
            item,
            type_,
            is_optional: serde.has_default || serde.is_skipped,
            is_flat: serde.is_flat,
        })
    }
}

/// The arguments of a generic type.
pub(super) fn arguments(args: Option<&GenericArgs>) -> Vec<&Type> {
    let Some(GenericArgs::AngleBracketed { args, .. }) = args else { return Vec::new() };
    args.iter().filter_map(|arg| if let GenericArg::Type(type_) = arg { Some(type_) } else { None }).collect()
}

/// What `#[serde(...)]` says of an item.
#[derive(Default)]
struct Serde {
    rename: Option<String>,
    rename_all: Option<String>,
    has_default: bool,
    is_skipped: bool,
    is_flat: bool,
}

impl Serde {
    fn of(item: &Item) -> Self {
        let mut serde = Self::default();
        for attribute in &item.attrs {
            let Attribute::Other(text) = attribute else { continue };
            let Some(inner) = text.strip_prefix("#[serde(").and_then(|text| text.strip_suffix(")]")) else {
                continue;
            };
            for part in inner.split(',').map(str::trim) {
                let (key, value) =
                    part.split_once('=').map_or((part, ""), |(key, value)| (key.trim(), value.trim()));
                let value = value.trim_matches('"').to_owned();
                match key {
                    "rename" => serde.rename = Some(value),
                    "rename_all" => serde.rename_all = Some(value),
                    "default" => serde.has_default = true,
                    "skip_serializing_if" => serde.is_skipped = true,
                    "flatten" => serde.is_flat = true,
                    _ => {}
                }
            }
        }
        serde
    }

    fn renamed(&self, name: &str, all: Option<&str>) -> String {
        let name = name.strip_prefix("r#").unwrap_or(name);
        match (&self.rename, all) {
            (Some(renamed), _) => renamed.clone(),
            (None, Some("lowercase")) => name.to_lowercase(),
            (None, Some("snake_case")) => separated(name, '_'),
            (None, Some("kebab-case")) => separated(name, '-'),
            (None, _) => name.to_owned(),
        }
    }
}

/// `NotFound` as `not_found`; what is in lower case stays.
fn separated(name: &str, by: char) -> String {
    let mut text = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_uppercase() && index > 0 {
            text.push(by);
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_serde_writes_them() {
        assert_eq!(separated("NotFound", '_'), "not_found");
        assert_eq!(separated("MacIp", '-'), "mac-ip");
        let serde = Serde::default();
        assert_eq!(serde.renamed("Packet", Some("lowercase")), "packet");
        assert_eq!(serde.renamed("worker", Some("snake_case")), "worker");
        let renamed = Serde { rename: Some("loop".into()), ..Serde::default() };
        assert_eq!(renamed.renamed("multicast_loop", Some("snake_case")), "loop");
    }
}
