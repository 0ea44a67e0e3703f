//! The promise `#![no_std]`: a crate that makes it is built into a program that has a panic handler of its own. If the standard library
//! came along, by whatever dependency, there would be two, which no compiler takes.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, bail};
use cargo_metadata::Package;

const SOURCE: &str = "#![no_std]\n\
    use NAME as _;\n\
    #[panic_handler]\n\
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {\n    loop {}\n}\n";

/// Whether a crate promises to do without the standard library.
pub(crate) fn is_promised(package: &Package) -> anyhow::Result<bool> {
    let library =
        package.targets.iter().find(|target| target.is_lib()).context("a published crate is a library")?;
    let source =
        fs::read_to_string(&library.src_path).with_context(|| format!("cannot read {}", library.src_path))?;
    Ok(source.lines().any(|line| line == "#![no_std]"))
}

/// Builds the crate where there is no standard library, in `folder`.
pub(crate) fn check(package: &Package, folder: &Path) -> anyhow::Result<()> {
    let place = package.manifest_path.parent().context("a package has a folder")?;
    let manifest = format!(
        "[package]\nname = \"without-std\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
         [lib]\ncrate-type = [\"staticlib\"]\n[profile.dev]\npanic = \"abort\"\n\
         [dependencies]\n{} = {{ path = \"{place}\" }}\n",
        package.name
    );
    let write = |file: &str, text: &str| {
        fs::write(folder.join(file), text)
            .with_context(|| format!("cannot write {file} in {}", folder.display()))
    };
    fs::create_dir_all(folder.join("src")).with_context(|| format!("cannot make {}", folder.display()))?;
    write("Cargo.toml", &manifest)?;
    write("src/lib.rs", &SOURCE.replace("NAME", &package.name.replace('-', "_")))?;
    let status = Command::new("cargo")
        .current_dir(folder)
        .args(["build", "--quiet", "--offline", "--target-dir", "target"])
        .status()
        .context("cannot run cargo build")?;
    if !status.success() {
        bail!("{} promises no_std and does not build without the standard library", package.name);
    }
    Ok(())
}
