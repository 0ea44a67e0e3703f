//! What is handed to users: a tarball, and a Debian package with the service, man pages and completions. For a musl target there is the
//! tarball alone: its programs are static, and run on any Linux.
//!
//! Both hold the same tree, [`stage`]d once. File times are those of the commit, so that the same commit gives the same archives
//! wherever the same compiler runs.

mod install;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use cargo_metadata::MetadataCommand;

use crate::docs;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PROGRAMS: [&str; 3] = ["mcrd", "mcrctl", "mcrgen"];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Where a file of this repository goes.
const FILES: &[(&str, &str)] = &[
    ("packaging/systemd/mcrd.service", "usr/lib/systemd/system/mcrd.service"),
    ("packaging/systemd/sysusers.d/mcr.conf", "usr/lib/sysusers.d/mcr.conf"),
    ("packaging/systemd/tmpfiles.d/mcr.conf", "usr/lib/tmpfiles.d/mcr.conf"),
    ("packaging/mcr.toml", "etc/mcr/mcr.toml"),
    ("README.md", "usr/share/doc/mcr/README.md"),
    ("SECURITY.md", "usr/share/doc/mcr/SECURITY.md"),
    ("CHANGELOG.md", "usr/share/doc/mcr/changelog"),
    ("LICENSE-MIT", "usr/share/doc/mcr/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/mcr/LICENSE-APACHE"),
];

/// What one run makes.
struct Release {
    version: String,
    /// Rust's name of what it is built for, if that is not this machine.
    target: Option<String>,
    /// Rust's name of the processor.
    arch: String,
    /// The C library, as in Rust's names of targets: `gnu` or `musl`.
    libc: String,
    /// Seconds since 1970 of the commit.
    epoch: String,
    /// `target/release`.
    built: PathBuf,
    /// `target/dist`.
    out: PathBuf,
}

/// Makes the archives in `target/dist`, for this machine or for the target named; with `check`, tries them in a clean root.
pub(crate) fn run(check: bool, target: Option<&str>) -> anyhow::Result<()> {
    let release = Release::new(target)?;
    if release.out.exists() {
        fs::remove_dir_all(&release.out)
            .with_context(|| format!("cannot empty {}", release.out.display()))?;
    }
    build(&release)?;
    let tree = release.out.join("tree");
    stage(&release, &tree)?;
    let archive = tarball(&release, &tree)?;
    println!("{}", archive.display());
    if release.libc != "gnu" {
        return if check { install::check_tarball(&archive, &release.version) } else { Ok(()) };
    }
    let package = debian(&release, &tree)?;
    println!("{}", package.display());
    if check { install::check(&package, &release.version) } else { Ok(()) }
}

impl Release {
    fn new(target: Option<&str>) -> anyhow::Result<Self> {
        let metadata = MetadataCommand::new()
            .manifest_path(Path::new(ROOT).join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("cargo metadata failed")?;
        let mcrd =
            metadata.packages.iter().find(|package| package.name.as_str() == "mcrd").context("no mcrd")?;
        let folder = metadata.target_directory.as_std_path();
        let (arch, libc) = match target {
            None => (std::env::consts::ARCH, "gnu"),
            // ARCH-VENDOR-linux-LIBC.
            Some(triple) => match triple.split('-').collect::<Vec<_>>()[..] {
                [arch, _, "linux", libc @ ("gnu" | "musl")] => (arch, libc),
                _ => bail!("{triple}: releases are made for ARCH-unknown-linux-gnu and -musl"),
            },
        };
        Ok(Self {
            version: mcrd.version.to_string(),
            arch: arch.to_owned(),
            libc: libc.to_owned(),
            epoch: read(Command::new("git").current_dir(ROOT).args(["log", "-1", "--format=%ct"]))?,
            built: target.map_or_else(|| folder.to_owned(), |triple| folder.join(triple)).join("release"),
            target: target.map(str::to_owned),
            out: folder.join("dist"),
        })
    }

    fn debian_arch(&self) -> anyhow::Result<&'static str> {
        match self.arch.as_str() {
            "x86_64" => Ok("amd64"),
            "aarch64" => Ok("arm64"),
            other => bail!("Debian's name of {other} is not known here"),
        }
    }
}

fn build(release: &Release) -> anyhow::Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(ROOT).args(["build", "--release", "--locked", "--quiet"]);
    if let Some(target) = &release.target {
        cargo.args(["--target", target]);
    }
    for program in PROGRAMS {
        cargo.args(["--package", program]);
    }
    succeed(&mut cargo)
}

/// Lays out the file tree that is installed at `/`.
fn stage(release: &Release, tree: &Path) -> anyhow::Result<()> {
    for program in PROGRAMS {
        let placed = tree.join("usr/bin").join(program);
        copy(&release.built.join(program), &placed, 0o755)?;
        succeed(Command::new("strip").arg("--strip-debug").arg(&placed))?;
    }
    for (from, to) in FILES {
        copy(&Path::new(ROOT).join(from), &tree.join(to), 0o644)?;
    }
    let manual = docs::manual()?;
    for page in entries(&manual.join("man"))? {
        let placed = tree.join("usr/share/man/man1").join(page.file_name().context("a file")?);
        copy(&page, &placed, 0o644)?;
        succeed(Command::new("gzip").args(["--no-name", "-9"]).arg(&placed))?;
    }
    for program in PROGRAMS {
        let completions = manual.join("completions");
        for (file, place) in [
            (format!("{program}.bash"), format!("bash-completion/completions/{program}")),
            (format!("_{program}"), format!("zsh/vendor-completions/_{program}")),
            (format!("{program}.fish"), format!("fish/vendor_completions.d/{program}.fish")),
        ] {
            copy(&completions.join(file), &tree.join("usr/share").join(place), 0o644)?;
        }
    }
    Ok(())
}

fn tarball(release: &Release, tree: &Path) -> anyhow::Result<PathBuf> {
    let name = format!("mcr-{}-{}-linux-{}", release.version, release.arch, release.libc);
    let archive = release.out.join(format!("{name}.tar.gz"));
    succeed(
        Command::new("tar")
            .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .args(["--use-compress-program=gzip --no-name -9", &format!("--mtime=@{}", release.epoch)])
            .arg(format!("--transform=s,^\\.,{name},"))
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(tree)
            .arg("."),
    )?;
    Ok(archive)
}

fn debian(release: &Release, tree: &Path) -> anyhow::Result<PathBuf> {
    let sources = Path::new(ROOT).join("packaging/debian");
    let place = tree.join("DEBIAN");
    for script in SCRIPTS {
        copy(&sources.join(script), &place.join(script), 0o755)?;
    }
    fs::write(place.join("conffiles"), "/etc/mcr/mcr.toml\n").context("cannot write conffiles")?;
    fs::copy(Path::new(ROOT).join("packaging/debian/copyright"), tree.join("usr/share/doc/mcr/copyright"))
        .context("cannot copy the copyright")?;
    let architecture = release.debian_arch()?;
    let control = fs::read_to_string(sources.join("control.in"))
        .context("cannot read control.in")?
        .replace("@VERSION@", &release.version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@KIBIBYTES@", &kibibytes(tree)?.to_string())
        .replace("@GLIBC@", &glibc(tree)?);
    fs::write(place.join("control"), control).context("cannot write control")?;
    let package = release.out.join(format!("mcr_{}_{architecture}.deb", release.version));
    succeed(
        Command::new("dpkg-deb")
            .env("SOURCE_DATE_EPOCH", &release.epoch)
            .args(["--root-owner-group", "--build"])
            .arg(tree)
            .arg(&package),
    )?;
    Ok(package)
}

/// The C library's oldest version that has all the symbols the programs ask for.
fn glibc(tree: &Path) -> anyhow::Result<String> {
    let mut newest = (2, 0);
    for program in PROGRAMS {
        let bytes = fs::read(tree.join("usr/bin").join(program)).context("cannot read a program")?;
        let text = String::from_utf8_lossy(&bytes);
        let versions = text.split("GLIBC_").skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (major, minor) = rest[..end].split_once('.')?;
            Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
        });
        newest = versions.fold(newest, |newest: (u32, u32), version| newest.max(version));
    }
    Ok(format!("{}.{}", newest.0, newest.1))
}

fn kibibytes(folder: &Path) -> anyhow::Result<u64> {
    let text =
        read(Command::new("du").args(["--summarize", "--apparent-size", "--block-size=1024"]).arg(folder))?;
    text.split_whitespace().next().and_then(|count| count.parse().ok()).context("du said nothing")
}

fn copy(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    let parent = to.parent().context("a place in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", to.display()))
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    read.map(|entry| Ok(entry?.path())).collect()
}

fn read(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
