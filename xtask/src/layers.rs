//! The floors of the house: a crate imports only crates of a lower floor, so that what lies below can be understood, tested and
//! published without what stands on it. Dev-dependencies are free. And unsafe code is only in the crates named here.
//!
//! [`check`] is a function of what cargo and the sources say; [`run`] asks them.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context as _, bail};
use cargo_metadata::{DependencyKind, MetadataCommand, Package, TargetKind};

/// Crates that need unsafe code: for mappings, system calls that have no safe wrapper, and what a child does before exec. All
/// others forbid it, in which case the compiler holds them to it.
const UNSAFE_ALLOWED: &[&str] = &[
    "mcr-bench",
    "mcr-bufpool",
    "mcr-confine",
    "mcr-ebpf",
    "mcr-lab",
    "mcr-metrics",
    "mcr-socket",
    "mcr-uring-io",
    "mcr-xdp",
];
const FORBID: &str = "#![forbid(unsafe_code)]";

/// A crate of the workspace, as far as the check cares.
#[derive(Debug)]
struct Member {
    name: String,
    /// `[package.metadata.mcr] floor`, if it is a number.
    floor: Option<u64>,
    /// Names of what it needs to be built, of this workspace or not.
    dependencies: Vec<String>,
    /// The main files of its library and programs that lack [`FORBID`].
    not_forbidding: Vec<String>,
}

/// What is wrong with the house.
#[derive(Debug, PartialEq, Eq)]
enum Violation {
    NoFloor { member: String },
    Upward { member: String, floor: u64, imports: String, imports_floor: u64 },
    Unsafe { member: String, file: String },
    UnknownUnsafe { name: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::NoFloor { member } => {
                write!(
                    f,
                    "{member} has no floor; add `floor = N` under [package.metadata.mcr] in its Cargo.toml"
                )
            }
            Violation::Upward { member, floor, imports, imports_floor } => write!(
                f,
                "{member} (floor {floor}) imports {imports} (floor {imports_floor}); \
                 a crate imports only crates of a lower floor"
            ),
            Violation::Unsafe { member, file } => write!(
                f,
                "{member}: {file} lacks `{FORBID}`; add it, or make the case for unsafe code in xtask/src/layers.rs"
            ),
            Violation::UnknownUnsafe { name } => {
                write!(
                    f,
                    "{name} may have unsafe code but is no crate of the workspace; remove it from the list"
                )
            }
        }
    }
}

/// Asks cargo and the sources, and fails with all violations there are.
pub(crate) fn run() -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata =
        MetadataCommand::new().manifest_path(manifest).no_deps().exec().context("cargo metadata failed")?;
    let members =
        metadata.workspace_packages().into_iter().map(member).collect::<anyhow::Result<Vec<_>>>()?;
    let violations = check(&members, UNSAFE_ALLOWED);
    if violations.is_empty() {
        println!("layers: {} crates, each on its floor", members.len());
        return Ok(());
    }
    let lines: Vec<_> = violations.iter().map(|violation| format!("  {violation}")).collect();
    bail!("layers: {} found\n{}", lines.len(), lines.join("\n"))
}

fn member(package: &Package) -> anyhow::Result<Member> {
    let dependencies = package
        .dependencies
        .iter()
        .filter(|dependency| matches!(dependency.kind, DependencyKind::Normal | DependencyKind::Build))
        .map(|dependency| dependency.name.to_string());
    let mut not_forbidding = Vec::new();
    for target in package.targets.iter().filter(|target| is_product(&target.kind)) {
        let text = fs::read_to_string(&target.src_path)
            .with_context(|| format!("cannot read {}", target.src_path))?;
        if !forbids_unsafe(&text) {
            let directory = package.manifest_path.parent();
            let file = directory.and_then(|directory| target.src_path.strip_prefix(directory).ok());
            not_forbidding.push(file.unwrap_or(&target.src_path).to_string());
        }
    }
    Ok(Member {
        name: package.name.to_string(),
        floor: package.metadata.get("mcr").and_then(|mcr| mcr.get("floor")).and_then(|floor| floor.as_u64()),
        dependencies: dependencies.collect(),
        not_forbidding,
    })
}

/// Libraries and programs; not tests, benches and examples.
fn is_product(kinds: &[TargetKind]) -> bool {
    kinds.iter().any(|kind| matches!(kind, TargetKind::Lib | TargetKind::Bin | TargetKind::ProcMacro))
}

/// Whether a file forbids unsafe code for the entire crate. Not fooled by the words in a comment.
fn forbids_unsafe(text: &str) -> bool {
    text.lines().any(|line| line.trim_end() == FORBID)
}

fn check(members: &[Member], unsafe_allowed: &[&str]) -> Vec<Violation> {
    let floors: BTreeMap<&str, Option<u64>> =
        members.iter().map(|member| (member.name.as_str(), member.floor)).collect();
    let mut violations = Vec::new();
    for member in members {
        match member.floor {
            None => violations.push(Violation::NoFloor { member: member.name.clone() }),
            Some(floor) => violations.extend(upward(member, floor, &floors)),
        }
        if !unsafe_allowed.contains(&member.name.as_str()) {
            let files = member.not_forbidding.iter().cloned();
            violations.extend(files.map(|file| Violation::Unsafe { member: member.name.clone(), file }));
        }
    }
    let unknown = unsafe_allowed.iter().filter(|name| !floors.contains_key(**name));
    violations.extend(unknown.map(|name| Violation::UnknownUnsafe { name: (*name).to_owned() }));
    violations
}

/// What a crate imports that is not below it. Crates of other people have no floor; ours without one are reported by themselves.
fn upward(member: &Member, floor: u64, floors: &BTreeMap<&str, Option<u64>>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for import in &member.dependencies {
        let Some(&Some(imports_floor)) = floors.get(import.as_str()) else { continue };
        if imports_floor >= floor {
            violations.push(Violation::Upward {
                member: member.name.clone(),
                floor,
                imports: import.clone(),
                imports_floor,
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, floor: u64, dependencies: &[&str]) -> Member {
        Member {
            name: name.to_owned(),
            floor: Some(floor),
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
            not_forbidding: Vec::new(),
        }
    }

    fn upward(member: &str, floor: u64, imports: &str, imports_floor: u64) -> Violation {
        Violation::Upward { member: member.to_owned(), floor, imports: imports.to_owned(), imports_floor }
    }

    #[test]
    fn imports_of_lower_floors_and_of_other_people_are_fine() {
        let members = [
            member("parse", 0, &["libc"]),
            member("relay", 2, &["parse", "serde"]),
            member("daemon", 4, &["relay", "parse"]),
        ];
        assert_eq!(check(&members, &[]), []);
    }

    #[test]
    fn an_import_of_the_same_or_a_higher_floor_is_a_violation() {
        let members = [
            member("parse", 0, &["proto"]),
            member("proto", 0, &["relay"]),
            member("relay", 2, &["parse", "relay-too"]),
            member("relay-too", 2, &[]),
        ];
        let expected = [
            upward("parse", 0, "proto", 0),
            upward("proto", 0, "relay", 2),
            upward("relay", 2, "relay-too", 2),
        ];
        assert_eq!(check(&members, &[]), expected);
        let text = "parse (floor 0) imports proto (floor 0); a crate imports only crates of a lower floor";
        assert_eq!(expected[0].to_string(), text);
    }

    #[test]
    fn a_crate_without_a_floor_is_a_violation_once() {
        let homeless = Member { floor: None, ..member("new", 0, &["parse"]) };
        let members = [member("parse", 0, &[]), homeless, member("relay", 2, &["new"])];
        assert_eq!(check(&members, &[]), [Violation::NoFloor { member: "new".to_owned() }]);
    }

    #[test]
    fn unsafe_code_is_forbidden_but_where_it_is_allowed() {
        let lacking = |name| Member { not_forbidding: vec!["src/lib.rs".to_owned()], ..member(name, 0, &[]) };
        let members = [lacking("pool"), lacking("parse")];
        let parse = Violation::Unsafe { member: "parse".to_owned(), file: "src/lib.rs".to_owned() };
        assert_eq!(check(&members, &["pool"]), [parse]);
        assert_eq!(check(&members, &["pool", "parse"]), []);
    }

    #[test]
    fn the_list_of_crates_with_unsafe_code_names_no_crate_that_is_gone() {
        let gone = Violation::UnknownUnsafe { name: "gone".to_owned() };
        assert_eq!(check(&[member("parse", 0, &[])], &["gone"]), [gone]);
    }

    #[test]
    fn only_the_attribute_itself_forbids_unsafe_code() {
        assert!(forbids_unsafe("//! Parses.\n#![forbid(unsafe_code)]\n\nmod a;\n"));
        assert!(!forbids_unsafe("//! Parses.\n// #![forbid(unsafe_code)]\nmod a;\n"));
        assert!(!forbids_unsafe("#![deny(unsafe_code)]\nmod a { #![forbid(unsafe_code)] }\n"));
    }
}
