//! The crates made to be published ([P] in docs/architecture.md): those whose manifest does not say `publish = false`.
//!
//! [`package`] checks that each could be published as it is; [`api`] keeps their public interfaces as text in git, so that a change
//! of one is seen where it is reviewed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use cargo_metadata::{Metadata, MetadataCommand, Package};

use crate::no_std;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The compiler whose rustdoc wrote the texts: another one may write the same interface in another way.
const TOOLCHAIN: &str = "docs/api/TOOLCHAIN";

/// Files that each package carries beside its code.
const CARRIED: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// Crates whose types a public interface may name.
const OURS: [&str; 5] = ["core", "alloc", "std", "serde", "serde_core"];
/// Folders of a package, and what cargo adds.
const EXPECTED: [&str; 8] = [
    "src/",
    "tests/",
    "benches/",
    "examples/",
    "Cargo.toml",
    "Cargo.toml.orig",
    "Cargo.lock",
    ".cargo_vcs_info.json",
];

/// Checks what each package contains, builds each from its package alone, and does all of publishing but the upload.
pub(crate) fn package() -> anyhow::Result<()> {
    let metadata = metadata()?;
    let packages = published(&metadata);
    let mut faults = minimum_versions(&metadata)?;
    for package in &packages {
        faults.extend(contents(package)?);
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    forget_unpacked(&packages)?;
    let mut publish = Command::new("cargo");
    publish.current_dir(ROOT).args(["publish", "--dry-run", "--allow-dirty", "--locked", "--quiet"]);
    for package in &packages {
        publish.args(["--package", package.name.as_str()]);
    }
    let status = publish.status().context("cannot run cargo publish")?;
    if !status.success() {
        bail!("cargo publish --dry-run failed");
    }
    for package in &packages {
        if no_std::is_promised(package)? {
            no_std::check(
                package,
                &metadata.target_directory.as_std_path().join("no-std").join(package.name.as_str()),
            )?;
        }
    }
    println!("package: {} crates could be published", packages.len());
    Ok(())
}

/// Writes the public interface of each published crate to `docs/api/NAME.txt`; with `check`, fails if one differs from what is there.
pub(crate) fn api(check: bool) -> anyhow::Result<()> {
    let root = Path::new(ROOT);
    let here = toolchain()?;
    let committed = fs::read_to_string(root.join(TOOLCHAIN)).unwrap_or_default();
    if check && committed.trim() != here {
        bail!(
            "the interfaces were written by {}, and this is {here}; use that toolchain, \
             or write them anew with `cargo xtask api` and commit them",
            committed.trim()
        );
    }
    let metadata = metadata()?;
    let described = rustdoc(metadata.target_directory.as_std_path())?;
    let (mut changed, mut foreign) = (Vec::new(), Vec::new());
    for package in published(&metadata) {
        let text = interface(&json_of(&described, &package.name))?;
        foreign.extend(foreign_types(package, &text));
        let file = root.join("docs/api").join(format!("{}.txt", package.name));
        if fs::read_to_string(&file).ok().as_deref() != Some(text.as_str()) {
            changed.push(package.name.to_string());
            if !check {
                fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
    }
    if !foreign.is_empty() {
        bail!("{}", foreign.join("\n"));
    }
    if !check {
        fs::write(root.join(TOOLCHAIN), format!("{here}\n")).context("cannot write docs/api/TOOLCHAIN")?;
    }
    match (changed.is_empty(), check) {
        (true, _) => println!("api: no interface has changed"),
        (false, false) => println!("api: written: {}", changed.join(", ")),
        (false, true) => bail!(
            "api: the public interface of {} has changed; run `cargo xtask api`, look at the difference, and commit it \
             with a line in the crate's CHANGELOG.md",
            changed.join(", ")
        ),
    }
    Ok(())
}

/// Removes what cargo unpacked of our packages in an earlier run: it takes the same version for the same content.
fn forget_unpacked(packages: &[&Package]) -> anyhow::Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let Some(home) = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"))) else {
        return Ok(());
    };
    for kept in ["registry/src", "registry/cache"] {
        let Ok(registries) = fs::read_dir(home.join(kept)) else { continue };
        for registry in registries {
            let registry = registry.context("cannot read cargo's home")?.path();
            for package in packages {
                let unpacked = registry.join(format!("{}-{}", package.name, package.version));
                if unpacked.is_dir() {
                    fs::remove_dir_all(&unpacked)
                        .with_context(|| format!("cannot remove {}", unpacked.display()))?;
                }
                let packed = unpacked.with_file_name(format!("{}-{}.crate", package.name, package.version));
                if packed.is_file() {
                    fs::remove_file(&packed)
                        .with_context(|| format!("cannot remove {}", packed.display()))?;
                }
            }
        }
    }
    Ok(())
}

fn metadata() -> anyhow::Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(Path::new(ROOT).join("Cargo.toml"))
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .context("cargo metadata failed")
}

fn published(metadata: &Metadata) -> Vec<&Package> {
    let mut packages: Vec<_> = metadata
        .workspace_packages()
        .into_iter()
        .filter(|package| package.publish.as_ref().is_none_or(|registries| !registries.is_empty()))
        .collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    packages
}

/// What is missing in a package, and what should not be in it.
fn contents(package: &Package) -> anyhow::Result<Vec<String>> {
    let output = Command::new("cargo")
        .current_dir(ROOT)
        .args(["package", "--list", "--allow-dirty", "--package", package.name.as_str()])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo package")?;
    let list = String::from_utf8(output.stdout).context("cargo package --list")?;
    let missing = CARRIED
        .iter()
        .filter(|carried| !list.lines().any(|file| file == **carried))
        .map(|file| format!("{}: {file} is not in its package", package.name));
    let stray = list
        .lines()
        .filter(|file| !CARRIED.contains(file) && !EXPECTED.iter().any(|expected| file.starts_with(expected)))
        .map(|file| format!("{}: {file} does not belong into its package", package.name));
    Ok(missing.chain(stray).collect())
}

/// The smallest version that a manifest allows is the one the tests run with: what is not tested is not promised.
fn minimum_versions(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    let mut faults = Vec::new();
    for package in published(metadata) {
        let node =
            resolve.nodes.iter().find(|node| node.id == package.id).context("an unresolved package")?;
        for dependency in &package.dependencies {
            let used =
                node.deps.iter().map(|dep| &metadata[&dep.pkg]).find(|used| {
                    used.name.as_str() == dependency.name && dependency.req.matches(&used.version)
                });
            // A dependency for another platform, or of a feature that is off, is resolved to nothing.
            let Some(used) = used else { continue };
            let stated = dependency.req.to_string();
            let core = format!("{}.{}.{}", used.version.major, used.version.minor, used.version.patch);
            if dependency.path.is_none() && !stated.ends_with(&core) {
                faults.push(format!(
                    "{}: {} {stated} is promised, {core} is tested; state that in the workspace's Cargo.toml",
                    package.name, dependency.name
                ));
            }
        }
    }
    Ok(faults)
}

/// Lines of an interface that name a type of somebody else's crate. Then a new version of that crate would break ours.
fn foreign_types(package: &Package, text: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let is_ours = |path: &str| match path.split_once("::") {
        Some((first, _)) => {
            OURS.contains(&first) || first.starts_with("mcr_") || !first.starts_with(char::is_lowercase)
        }
        None => true,
    };
    text.lines()
        .filter(|line| !line.split(|c| !is_name(c)).all(is_ours))
        .map(|line| format!("{}: an interface of its own names foreign types: {line}", package.name))
        .collect()
}

/// The public interface as text, a line an item, from what rustdoc says of the crate with all its features.
fn interface(json: &Path) -> anyhow::Result<String> {
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(false)
        .build()
        .with_context(|| format!("cannot read {}", json.display()))?;
    Ok(api.to_string())
}

/// Has rustdoc write what it knows of our crates with all their features, as JSON under `target`; the folder ([`json_of`]).
pub(crate) fn rustdoc(target: &Path) -> anyhow::Result<PathBuf> {
    let status = Command::new("cargo")
        .current_dir(ROOT)
        // All crates with all features, and the packages of tests (asked for by way of examples, of which there are none): dependencies
        // are then those of clippy and of `cargo doc` with the same arguments, which have been checked if these ran before.
        .args([
            "doc",
            "--quiet",
            "--locked",
            "--workspace",
            "--all-features",
            "--no-deps",
            "--lib",
            "--examples",
        ])
        .env("RUSTDOC", daring_rustdoc(target)?)
        .env("RUSTDOCFLAGS", "-Zunstable-options --output-format json --cap-lints allow")
        .status()
        .context("cannot run cargo doc")?;
    if !status.success() {
        bail!("cargo doc failed");
    }
    Ok(target.join("doc"))
}

/// What [`rustdoc`] says of a crate.
pub(crate) fn json_of(folder: &Path, package: &str) -> PathBuf {
    folder.join(format!("{}.json", package.replace('-', "_")))
}

/// A script that runs rustdoc with its unstable options. Its JSON is not stable; a stable one writes it when told that it may. Were that
/// said to cargo and all that it starts, build scripts would look for what only a nightly compiler has, and all would be built anew.
fn daring_rustdoc(target: &Path) -> anyhow::Result<PathBuf> {
    let script = target.join("rustdoc-unstable");
    let write = || {
        fs::create_dir_all(target)?;
        fs::write(&script, "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("cannot write {}", script.display()))?;
    Ok(script)
}

fn toolchain() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("cannot run rustc")?;
    let version = String::from_utf8(output.stdout).context("rustc --version")?;
    Ok(version.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}
