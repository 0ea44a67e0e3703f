//! Configurations: read here, where there are no rights, and given to the supervisor in types.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
};

use mcr_proto::{
    config::{self, Config, to_toml},
    message::{Fault, FaultKind, Reply, Request},
    rpc::{ConfigChecked, ConfigLoad, ConfigLoaded, ConfigShown, ConfigText},
};
use tracing::{error, info, warn};

use crate::supervisor::{Supervisor, misunderstood};

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Of what a client calls its file, in characters.
const FILE_CHARS_MAX: usize = 512;
/// What a text without a name is called.
const UNNAMED: &str = "config";

pub(crate) async fn get(supervisor: &Supervisor) -> Result<ConfigShown, Fault> {
    let Reply::Settings { settings, path } = supervisor.ask(Request::SettingsGet).await? else {
        return Err(misunderstood("SettingsGet"));
    };
    let rules = supervisor.rules(None).await?.into_iter().map(|rule| rule.spec).collect();
    let config = settings.join(rules);
    Ok(ConfigShown { toml: to_toml(&config), config, path })
}

pub(crate) fn check(text: &ConfigText) -> Result<ConfigChecked, Fault> {
    let config = parse(&text.text, text.file.as_deref())?;
    Ok(ConfigChecked {
        rules: config.rules.len(),
        outputs: config.rules.iter().map(|rule| rule.outputs.len()).sum(),
        warnings: config::warnings(&config),
    })
}

pub(crate) async fn load(supervisor: &Supervisor, load: &ConfigLoad) -> Result<ConfigLoaded, Fault> {
    let config = parse(&load.text, load.file.as_deref())?;
    let mut warnings = config::warnings(&config);
    let report = supervisor.load(config, load.replace).await?;
    warnings.extend(report.notes);
    let (added, changed, removed, unchanged) =
        (report.added, report.changed, report.removed, report.unchanged);
    Ok(ConfigLoaded { added, changed, removed, unchanged, warnings })
}

/// Makes the startup configuration's file the running configuration, and says in the log what came of it.
pub(crate) async fn reload(supervisor: &Supervisor, file: OwnedFd, name: String) {
    let stays = "the running configuration stays";
    let text = match read(file.into()) {
        Ok(text) => text,
        Err(problem) => return error!("{name}: cannot read it: {problem}; {stays}"),
    };
    let config = match parse(&text, Some(&name)) {
        Ok(config) => config,
        Err(fault) => return error!("{fault}; {stays}"),
    };
    for warning in config::warnings(&config) {
        warn!("{name}: {warning}");
    }
    match supervisor.load(config, true).await {
        Ok(report) => {
            report.notes.iter().for_each(|note| warn!("{name}: {note}"));
            info!("{name}: loaded again");
        }
        Err(fault) => error!("{name}: {fault}"),
    }
}

fn parse(text: &str, file: Option<&str>) -> Result<Config, Fault> {
    let file: String =
        file.unwrap_or(UNNAMED).chars().take(FILE_CHARS_MAX).flat_map(char::escape_debug).collect();
    config::parse(text, &file)
        .map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()).at(error.key))
}

/// Reads a file by `read` alone: the process may not ask for its size.
fn read(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut part = vec![0; 64 * 1024];
    let mut file = file.take(FILE_BYTES_MAX + 1);
    loop {
        match file.read(&mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text (UTF-8)"))
}
