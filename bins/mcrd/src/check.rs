//! `mcrd check`, and reading a configuration for `mcrd run`.

use std::{
    fs, io,
    io::{Read, Write},
    path::Path,
};

use mcr_proto::config::{self, Config};

use crate::{
    args::CheckArgs,
    exit::{Failure, say},
};

/// What stands for standard input.
const STDIN: &str = "-";

/// Reads and checks a file; what it has that this version does not act on is said on standard error.
pub(crate) fn read(path: &Path) -> Result<Config, Failure> {
    let file = path.display().to_string();
    parse(fs::read(path), &file)
}

fn parse(bytes: io::Result<Vec<u8>>, file: &str) -> Result<Config, Failure> {
    let bytes = bytes.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::not_permitted(format!("{file}: cannot read it: {error}")),
        _ => Failure::usage(format!("{file}: cannot read it: {error}")),
    })?;
    let config = config::text(bytes, file).and_then(|text| config::parse(&text, file));
    let config = config.map_err(|error| Failure::usage(error.to_string()))?;
    config::warnings(&config).iter().for_each(|warning| say(&format!("{file}: {warning}")));
    Ok(config)
}

pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let is_stdin = args.file.as_os_str() == STDIN;
    let file = if is_stdin { "standard input".into() } else { args.file.display().to_string() };
    let config = match is_stdin {
        true => {
            let mut bytes = Vec::new();
            parse(io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes), &file)?
        }
        false => read(&args.file)?,
    };
    let outputs: usize = config.rules.iter().map(|rule| rule.outputs.len()).sum();
    let text = format!("{file}: {} rules with {outputs} outputs, no errors", config.rules.len());
    match writeln!(io::stdout().lock(), "{text}") {
        // A reader that has seen enough; the exit code says the same.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
