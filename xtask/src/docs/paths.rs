//! Files of the source that documents name in their prose, between backticks: each must be there.
//!
//! A file of a crate is named from the root, or from its crate, with or without `src`: `mcr-proto/plan.rs`.

use std::path::{Path, PathBuf};

use super::links::{prose, read};

/// Where names of files begin that are in git. Others (`target/dist`, `fuzz/corpus`) are made.
const FOLDERS: [&str; 7] = ["benches/", "bins/", "crates/", "docs/", "packaging/", "tests/", "xtask/"];

/// The faults of these documents, which are named from `root`.
pub(super) fn faults(root: &Path, documents: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for document in documents {
        let text = read(&root.join(document))?;
        let is_missing = |name: &&str| !is_there(root, document, name);
        faults.extend(
            names(&text)
                .into_iter()
                .filter(is_missing)
                .map(|name| format!("{}: `{name}`: no such file", document.display())),
        );
    }
    Ok(faults)
}

fn is_there(root: &Path, document: &Path, name: &str) -> bool {
    let here = root.join(document);
    if root.join(name).exists() || here.parent().is_some_and(|folder| folder.join(name).exists()) {
        return true;
    }
    let Some((package, file)) = name.split_once('/') else { return false };
    let package = root.join("crates").join(package);
    package.join(file).exists() || package.join("src").join(file).exists()
}

/// Names of files of ours in a text. A name with a `*` or in capitals stands for several.
fn names(text: &str) -> Vec<&str> {
    let is_plain = |name: &&str| {
        name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "/._-".contains(c))
    };
    let is_ours = |name: &&str| {
        FOLDERS.iter().any(|folder| name.starts_with(folder))
            || (name.starts_with("mcr-") && name.contains('/'))
    };
    prose(text).flat_map(|line| line.split('`').skip(1).step_by(2)).filter(is_plain).filter(is_ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_prose_between_backticks() {
        let text = "In `mcr-proto/plan.rs` and `tests/`, not in tests/x or `docs/api/*.txt`, `mcr-VERSION/x`, `mcr-proto`\n\
                    ```sh\ncat `crates/y`\n```\n`target/dist`, `crates/mcr-ebpf/bpf/count.h`";
        assert_eq!(names(text), ["mcr-proto/plan.rs", "tests/", "crates/mcr-ebpf/bpf/count.h"]);
    }

    #[test]
    fn what_a_document_names_is_there_and_what_is_not_is_a_fault() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let document = PathBuf::from("CONTRIBUTING.md");
        assert_eq!(faults(&root, std::slice::from_ref(&document)).unwrap(), Vec::<String>::new());
        for (name, there) in
            [("mcr-proto/plan.rs", true), ("mcr-proto/tests", true), ("mcr-proto/plans.rs", false)]
        {
            assert_eq!(is_there(&root, &document, name), there, "{name}");
        }
    }
}
