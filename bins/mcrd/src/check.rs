//! `mcrd check`, and reading a configuration for `mcrd run`.

use std::{fs, io, io::Write, path::Path};

use mcr_proto::config::{self, Config};

use crate::{
    args::CheckArgs,
    exit::{Failure, say},
};

/// Reads and checks a file; what it has that this version does not act on is said on standard error.
pub(crate) fn read(path: &Path) -> Result<Config, Failure> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::not_permitted(format!("{file}: cannot read it: {error}")),
        _ => Failure::usage(format!("{file}: cannot read it: {error}")),
    })?;
    let config = config::parse(&text, &file).map_err(|error| Failure::usage(error.to_string()))?;
    for (index, reflect) in config.reflects.iter().enumerate() {
        let wrong = |fault| Failure::usage(format!("{file}: key `reflect[{index}]`: {fault}"));
        mcr_supervisor::reflect::check(reflect).map_err(wrong)?;
    }
    config::warnings(&config).iter().for_each(|warning| say(&format!("{file}: {warning}")));
    Ok(config)
}

pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let config = read(&args.file)?;
    let outputs: usize = config.rules.iter().map(|rule| rule.outputs.len()).sum();
    let text =
        format!("{}: {} rules with {outputs} outputs, no errors", args.file.display(), config.rules.len());
    // Standard output may be closed; the exit code says the same.
    let _ = writeln!(io::stdout().lock(), "{text}");
    Ok(())
}
