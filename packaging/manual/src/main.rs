//! Writes what can be read about the programs' command lines, from the same definitions that parse them:
//! `mcr-manual FOLDER` gives `FOLDER/man` (one page for each program and verb), `FOLDER/completions` (bash, zsh, fish) and
//! `FOLDER/cli.md`, and what documents say of keys that only the code knows, `FOLDER/reflect.md`.
//!
//! `mcr-manual --understand` reads commands, one a line as `PLACE TAB PROGRAM TAB ARGUMENT...`, and prints those that their program would refuse.
#![forbid(unsafe_code)]

// The programs' own definitions. What they do with what they parsed is not needed here.
#[allow(dead_code)]
#[path = "../../../bins/mcrctl/src/args.rs"]
mod mcrctl;
#[allow(dead_code)]
#[path = "../../../bins/mcrd/src/args.rs"]
mod mcrd;
#[allow(dead_code)]
#[path = "../../../bins/mcrgen/src/args.rs"]
mod mcrgen;

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, Write as _},
    path::Path,
};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use mcr_proto::reflect::{Reflect, ReflectKey};

/// Columns of the help texts in the reference.
const WIDTH: usize = 110;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).context("where to? mcr-manual FOLDER")?;
    if folder == "--understand" {
        return understand();
    }
    let folder = Path::new(&folder);
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for made in [&man, &completions] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    let mut reference = String::from(REFERENCE_HEAD);
    for program in programs() {
        let name = program.get_name().to_owned();
        clap_mangen::generate_to(program.clone(), &man).with_context(|| format!("man pages of {name}"))?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(shell, &mut program.clone(), &name, &completions)
                .with_context(|| format!("completions of {name} for {shell}"))?;
        }
        describe(&mut program.term_width(WIDTH).bin_name(&name), 2, &mut reference);
    }
    fs::write(folder.join("reflect.md"), reflect_keys()).context("cannot write reflect.md")?;
    fs::write(folder.join("cli.md"), reference).context("cannot write cli.md")
}

fn programs() -> [Command; 3] {
    [mcrd::Args::command(), mcrctl::Cli::command(), mcrgen::Cli::command()]
}

/// Says of each command that comes whether its program would refuse it, and why.
fn understand() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read commands")?;
        let mut words = line.split('\t');
        let place = words.next().context("a place")?;
        let words: Vec<_> = words.collect();
        let name = words.first().context("a command")?;
        let program = programs().into_iter().find(|program| program.get_name() == *name);
        let refused =
            program.with_context(|| format!("{name} is no program"))?.try_get_matches_from(&words).err();
        if let Some(error) = refused.filter(|error| error.exit_code() != 0) {
            let said = error.to_string();
            writeln!(out, "{place}: `{}`: {}", words.join(" "), said.lines().next().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// The keys of `[[reflect]]`, as a table.
fn reflect_keys() -> String {
    let mut text = String::from("| key | is | default | |\n|---|---|---|---|\n");
    for ReflectKey { key, want, default, meaning } in Reflect::described_keys() {
        let _ = writeln!(text, "| `{key}` | {want} | `{default}` | {} |", meaning.trim());
    }
    text
}

const REFERENCE_HEAD: &str = "\
# Command lines

What `--help` says of each program and verb, as one page. Made by `cargo xtask docs` from the programs' own definitions: change them there.
";

/// Appends a command's help, then that of its subcommands.
fn describe(command: &mut Command, depth: usize, text: &mut String) {
    command.build();
    let path = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    // Writing to a string cannot fail.
    let _ = write!(text, "\n{} {path}\n\n```text\n{}\n```\n", "#".repeat(depth), help.join("\n").trim_end());
    let verbs: Vec<_> = command
        .get_subcommands_mut()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        .collect();
    for verb in verbs {
        describe(verb, depth + 1, text);
    }
}
