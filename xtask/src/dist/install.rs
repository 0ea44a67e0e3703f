//! Tries what was made where nothing else of ours is: the package in a Debian root made by debootstrap, a tarball of static programs in
//! a root that has nothing but what is in it. Either is entered by chroot in a mount namespace of its own, so that nothing is mounted
//! or left on the host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use super::{read, succeed};

/// Files without which the package is not what it says.
const INSTALLED: &[&str] = &[
    "usr/bin/mcrd",
    "usr/bin/mcrctl",
    "usr/bin/mcrgen",
    "etc/mcr/mcr.toml",
    "usr/lib/systemd/system/mcrd.service",
    "usr/lib/sysusers.d/mcr.conf",
    "usr/lib/tmpfiles.d/mcr.conf",
    "usr/share/man/man1/mcrd.1.gz",
    "usr/share/man/man1/mcrctl-add.1.gz",
    "usr/share/bash-completion/completions/mcrctl",
    "usr/share/zsh/vendor-completions/_mcrctl",
    "usr/share/fish/vendor_completions.d/mcrctl.fish",
    "usr/share/doc/mcr/copyright",
];

/// A system in a folder, removed when this is dropped.
struct Root {
    path: PathBuf,
}

impl Root {
    fn debian(path: PathBuf) -> anyhow::Result<Self> {
        let root = Self { path };
        succeed(
            Command::new("debootstrap")
                .args(["--variant=minbase", "stable"])
                .arg(&root.path)
                .stdout(std::process::Stdio::null()),
        )
        .context("cannot make a Debian root; debootstrap is Debian's package of that name, and needs root")?;
        Ok(root)
    }

    /// What a tarball holds, and where the kernel's file systems are mounted.
    fn unpacked(archive: &Path, path: PathBuf) -> anyhow::Result<Self> {
        let root = Self { path };
        for folder in ["dev", "proc", "sys", "tmp", "run"] {
            let folder = root.path.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--strip-components=1", "--file"]).arg(archive);
        succeed(tar.arg("--directory").arg(&root.path))?;
        Ok(root)
    }

    /// Runs a command in the root and gives what it printed.
    fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let enter = "mount --bind /dev \"$1/dev\" && mount -t proc proc \"$1/proc\" && mount -t sysfs sysfs \"$1/sys\" && \
                     root=$1 && shift && exec chroot \"$root\" \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        read(unshare.args(["--mount", "sh", "-c", enter, "sh"]).arg(&self.path).args(command))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // What is left is in target/dist, and goes with the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Installs the package, looks at what is there, runs the programs, and removes it again.
pub(crate) fn check(package: &Path, version: &str) -> anyhow::Result<()> {
    let root = Root::debian(package.with_file_name("root"))?;
    fs::copy(package, root.path.join("mcr.deb")).context("cannot copy the package into the root")?;
    root.run(&["dpkg", "--install", "/mcr.deb"])?;
    for file in INSTALLED {
        ensure!(root.path.join(file).is_file(), "{file} is not installed");
    }
    root.run(&["getent", "passwd", "mcr"]).context("the user of workers was not made")?;
    root.run(&["getent", "group", "mcr-control"]).context("the group of clients was not made")?;
    programs_run(&root, version)?;
    verify_unit(&root)?;
    root.run(&["dpkg", "--purge", "mcr"])?;
    for file in INSTALLED.iter().chain(&["etc/mcr"]) {
        ensure!(!root.path.join(file).exists(), "{file} is left behind");
    }
    println!("dist: installed into a clean root, tried there, removed");
    Ok(())
}

/// Unpacks a tarball of static programs and runs them with nothing beside them: no C library, no shell, no users.
pub(crate) fn check_tarball(archive: &Path, version: &str) -> anyhow::Result<()> {
    let root = Root::unpacked(archive, archive.with_file_name("root"))?;
    programs_run(&root, version)?;
    println!("dist: unpacked into an empty root and tried there");
    Ok(())
}

/// Each program says its version; the daemon takes its configuration and relays a demonstration without loss.
fn programs_run(root: &Root, version: &str) -> anyhow::Result<()> {
    for program in ["mcrd", "mcrctl", "mcrgen"] {
        let said = root.run(&[program, "--version"])?;
        ensure!(said == format!("{program} {version}"), "{program} --version says {said}");
    }
    root.run(&["mcrd", "check", "/etc/mcr/mcr.toml"])?;
    let demo = root.run(&["mcrd", "demo", "--seconds", "2", "--json"])?;
    let result = demo.lines().last().unwrap_or_default();
    let result: serde_json::Value = serde_json::from_str(result).context("mcrd demo --json")?;
    ensure!(result["lost"] == 0 && result["relayed"].as_u64() > Some(0), "mcrd demo says {result}");
    Ok(())
}

/// Has systemd read the unit as it is in the root.
fn verify_unit(root: &Root) -> anyhow::Result<()> {
    let output = Command::new("systemd-analyze")
        .arg(format!("--root={}", root.path.display()))
        .args(["verify", "mcrd.service"])
        .output()
        .context("cannot run systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // A minimal root has neither systemd's own units nor kill. What is wrong with ours comes with its file and line.
    let names_a_line = |text: &str| {
        text.split("mcrd.service:").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let ours: Vec<_> = said.lines().filter(|line| names_a_line(line)).collect();
    if !ours.is_empty() {
        bail!("{}", ours.join("\n"));
    }
    Ok(())
}
