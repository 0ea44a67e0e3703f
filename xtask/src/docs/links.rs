//! Links in documents: each relative one must lead to a file that is there and, after `#`, to a heading in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The faults of all links of these documents, which are named from `root`.
pub(super) fn faults(root: &Path, documents: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut anchors = BTreeMap::new();
    let mut faults = Vec::new();
    for document in documents {
        let text = read(&root.join(document))?;
        for target in targets(&text) {
            let (file, anchor) =
                target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let place = if file.is_empty() {
                root.join(document)
            } else {
                root.join(document).parent().unwrap_or(root).join(file)
            };
            if !place.exists() {
                faults.push(format!("{}: {target}: no such file", document.display()));
                continue;
            }
            let Some(anchor) = anchor else { continue };
            if !anchors.contains_key(&place) {
                anchors.insert(place.clone(), headings(&read(&place)?));
            }
            if !anchors[&place].contains(anchor) {
                faults.push(format!("{}: {target}: no such heading", document.display()));
            }
        }
    }
    Ok(faults)
}

pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Lines that are not in a block of code.
pub(super) fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !is_fence && !in_code
    })
}

/// Where the links of a text lead, those to other hosts aside.
fn targets(text: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for line in prose(text) {
        // What is between backticks is no link.
        for piece in
            line.split('`').step_by(2).filter(|piece| piece.contains("](") || piece.starts_with("]("))
        {
            targets.extend(piece.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()));
        }
    }
    targets.retain(|target| !target.contains("://") && !target.starts_with("mailto:"));
    targets
}

/// The anchors of a document's headings, as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    for heading in headings {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let slug: String = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = slug.clone();
        let mut count = 0;
        while !anchors.insert(anchor.clone()) {
            count += 1;
            anchor = format!("{slug}-{count}");
        }
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let text = "a [b](c.md#d) and [`e`](f.md), `[g](h)`\n```text\n[i](j)\n```\n[k](https://example.com) [l](#m)\n";
        assert_eq!(targets(text), ["c.md#d", "f.md", "#m"]);
    }

    #[test]
    fn headings_have_the_anchors_that_github_gives_them() {
        let text = "# Every metric\n## The `daemon`, and\n## rule.add *\n## Outputs\n## Outputs\n```sh\n# no heading\n```\n";
        let anchors = headings(text);
        for anchor in ["every-metric", "the-daemon-and", "ruleadd-", "outputs", "outputs-1"] {
            assert!(anchors.contains(anchor), "{anchor} in {anchors:?}");
        }
        assert_eq!(anchors.len(), 5);
    }

    #[test]
    fn a_link_to_what_is_not_there_is_a_fault() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = faults(&root, &[PathBuf::from("docs/README.md")]).unwrap();
        assert_eq!(found, Vec::<String>::new());
    }
}
