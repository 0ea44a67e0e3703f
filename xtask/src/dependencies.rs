//! What MCR is built of besides itself: under which licences, which crates twice, and which only in one place.
//!
//! The lists here are the policy, each entry with its reason; whoever adds a dependency that breaks one changes the list or the mind.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use spdx::{Expression, LicenseReq};

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");

/// Licences that ask for no more than to be named.
const LICENCES: [&str; 8] =
    ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unlicense", "Unicode-3.0", "Zlib"];

/// Crates that may be there in two versions.
const TWICE: &[(&str, &str)] = &[
    ("embedded-io", "postcard has traits of two versions of it, and uses neither here"),
    ("itertools", "criterion, of benches only, has not moved to the version of ratatui"),
    ("syn", "derive macros move to version 3 one by one; only compilers run them"),
];

/// Crates that only the named crates of ours may depend on, also through others, outside of tests.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("aya", &["mcr-ebpf", "mcr-supervisor", "mcr-control", "mcrd", "mcr-e2e"], "eBPF is private to mcr-ebpf"),
    (
        "tokio",
        &["mcr-client", "mcr-control", "mcr-fdpass", "mcr-supervisor", "mcrd"],
        "the data plane has no async runtime",
    ),
];

/// Fails with everything that breaks the policy.
pub(crate) fn run() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(Path::new(MANIFEST))
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .context("cargo metadata failed")?;
    let mut faults = licences(&metadata)?;
    faults.extend(duplicates(&metadata));
    faults.extend(confined(&metadata)?);
    faults.extend(newer_compilers(&metadata));
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("dependencies: {} crates, licences and places as they should be", metadata.packages.len());
    Ok(())
}

fn licences(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let stated = package.license.as_deref().unwrap_or_default();
        let expression = Expression::parse_mode(stated, spdx::ParseMode::LAX)
            .with_context(|| format!("{} {}: licence `{stated}`", package.name, package.version))?;
        let allowed = |licence: &LicenseReq| {
            licence.license.id().is_some_and(|id| LICENCES.contains(&id.name)) && licence.addition.is_none()
        };
        if !expression.evaluate(allowed) {
            faults
                .push(format!("{} {}: licence `{stated}` is not on the list", package.name, package.version));
        }
    }
    Ok(faults)
}

/// Crates that state a newer compiler than ours do.
fn newer_compilers(metadata: &Metadata) -> Vec<String> {
    let Some(ours) =
        metadata.workspace_packages().iter().filter_map(|package| package.rust_version.clone()).min()
    else {
        return vec!["no crate of ours states its rust-version".to_owned()];
    };
    let needs = |package: &Package| package.rust_version.clone().filter(|stated| *stated > ours);
    let newer = metadata.packages.iter().filter_map(|package| Some((package, needs(package)?)));
    newer
        .map(|(package, stated)| {
            format!("{} {} needs Rust {stated}, and we promise {ours}", package.name, package.version)
        })
        .collect()
}

fn duplicates(metadata: &Metadata) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in &metadata.packages {
        versions.entry(package.name.as_str()).or_default().insert(package.version.to_string());
    }
    let excused = |name: &str| TWICE.iter().any(|(twice, _)| *twice == name);
    let unexcused = versions.iter().filter(|(name, versions)| versions.len() > 1 && !excused(name)).map(
        |(name, versions)| {
            let versions: Vec<_> = versions.iter().map(String::as_str).collect();
            format!("{name} is there {} times: {}", versions.len(), versions.join(", "))
        },
    );
    let stale = TWICE
        .iter()
        .filter(|(name, _)| versions.get(name).is_none_or(|versions| versions.len() < 2))
        .map(|(name, _)| format!("{name} is excused and not there twice; remove the excuse"));
    unexcused.chain(stale).collect()
}

fn confined(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut faults = Vec::new();
    for member in metadata.workspace_packages() {
        let (mut reached, mut open) = (BTreeSet::new(), vec![&member.id]);
        while let Some(id) = open.pop() {
            let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
            for dependency in dependencies {
                // What is optional is somebody's choice, and cargo resolves it for all who share the crate as soon as one chose it.
                let target = metadata[&dependency.pkg].name.as_str();
                let is_built_in = metadata[id].dependencies.iter().any(|stated| {
                    stated.name == target && stated.kind == DependencyKind::Normal && !stated.optional
                });
                if is_built_in && reached.insert(&dependency.pkg) {
                    open.push(&dependency.pkg);
                }
            }
        }
        for (name, places, reason) in CONFINED {
            let is_there = reached.iter().any(|id| metadata[*id].name.as_str() == *name);
            if is_there && !places.contains(&member.name.as_str()) {
                faults.push(format!("{} depends on {name}: {reason}", member.name));
            }
        }
    }
    Ok(faults)
}
