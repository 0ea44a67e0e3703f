//! Tries the package where nothing else of ours is: a Debian root made by debootstrap, entered by chroot in a mount namespace of its
//! own, so that nothing is mounted or left on the host.

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

/// A Debian system in a folder, removed when this is dropped.
struct Root {
    path: PathBuf,
}

impl Root {
    fn new(path: PathBuf) -> anyhow::Result<Self> {
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

    /// Runs a command in the root and gives what it printed.
    fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let enter = "mount -t proc proc \"$1/proc\" && mount -t sysfs sysfs \"$1/sys\" && \
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
    let root = Root::new(package.with_file_name("root"))?;
    fs::copy(package, root.path.join("mcr.deb")).context("cannot copy the package into the root")?;
    root.run(&["dpkg", "--install", "/mcr.deb"])?;
    for file in INSTALLED {
        ensure!(root.path.join(file).is_file(), "{file} is not installed");
    }
    root.run(&["getent", "passwd", "mcr"]).context("the user of workers was not made")?;
    root.run(&["getent", "group", "mcr-control"]).context("the group of clients was not made")?;
    for program in ["mcrd", "mcrctl", "mcrgen"] {
        let said = root.run(&[program, "--version"])?;
        ensure!(said == format!("{program} {version}"), "{program} --version says {said}");
    }
    root.run(&["mcrd", "check", "/etc/mcr/mcr.toml"])?;
    verify_unit(&root)?;
    let demo = root.run(&["mcrd", "demo", "--seconds", "2", "--json"])?;
    let result = demo.lines().last().unwrap_or_default();
    let result: serde_json::Value = serde_json::from_str(result).context("mcrd demo --json")?;
    ensure!(result["lost"] == 0 && result["relayed"].as_u64() > Some(0), "mcrd demo says {result}");
    root.run(&["dpkg", "--purge", "mcr"])?;
    for file in INSTALLED.iter().chain(&["etc/mcr"]) {
        ensure!(!root.path.join(file).exists(), "{file} is left behind");
    }
    println!("dist: installed into a clean root, tried there, removed");
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
