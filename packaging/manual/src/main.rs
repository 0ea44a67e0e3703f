//! Writes what can be read about the programs' command lines, from the same definitions that parse them:
//! `mcr-manual FOLDER` gives `FOLDER/man` (one page for each program and verb), `FOLDER/completions` (bash, zsh, fish) and
//! `FOLDER/cli.md`.
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

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};

/// Columns of the help texts in the reference.
const WIDTH: usize = 110;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).context("where to? mcr-manual FOLDER")?;
    let folder = Path::new(&folder);
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for made in [&man, &completions] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    let mut reference = String::from(REFERENCE_HEAD);
    for program in [mcrd::Args::command(), mcrctl::Cli::command(), mcrgen::Cli::command()] {
        let name = program.get_name().to_owned();
        clap_mangen::generate_to(program.clone(), &man).with_context(|| format!("man pages of {name}"))?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(shell, &mut program.clone(), &name, &completions)
                .with_context(|| format!("completions of {name} for {shell}"))?;
        }
        describe(&mut program.term_width(WIDTH).bin_name(&name), 2, &mut reference);
    }
    fs::write(folder.join("cli.md"), reference).context("cannot write cli.md")
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
