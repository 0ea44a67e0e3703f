//! `load`, `save`, `check` and `show --diff`.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use mcr_proto::{
    config::{self, Config, RuleChange, diff},
    rpc::{ConfigLoad, ConfigLoaded, ConfigSaved, ConfigShown, method},
    rule::RuleSpec,
};
use serde_json::{Value, json};

use crate::{failure::Failure, run::Session};

impl Session<'_> {
    pub(crate) fn load(&mut self, file: &Path, replace: bool) -> Result<(), Failure> {
        let (text, _) = self.read(file)?;
        let load = ConfigLoad { text, file: Some(name_of(file)), replace };
        let loaded = self.connect()?.config_load(&load)?;
        for warning in &loaded.warnings {
            self.note(&format!("warning: {warning}"));
        }
        if self.cli.json {
            return self.json(&loaded);
        }
        let ConfigLoaded { added, changed, removed, unchanged, .. } = loaded;
        Ok(writeln!(self.out, "{added} added, {changed} changed, {removed} removed, {unchanged} unchanged")?)
    }

    pub(crate) fn save(&mut self, stdout: bool) -> Result<(), Failure> {
        if stdout {
            let shown: ConfigShown = self.call(method::CONFIG_GET, &json!({}))?;
            return if self.cli.json { self.json(&shown) } else { Ok(write!(self.out, "{}", shown.toml)?) };
        }
        let saved: ConfigSaved = self.call(method::CONFIG_SAVE, &json!({}))?;
        if self.cli.json {
            return self.json(&saved);
        }
        Ok(writeln!(self.out, "{}: {} rules saved", saved.path, saved.rules)?)
    }

    pub(crate) fn check(&mut self, file: &Path) -> Result<(), Failure> {
        let (_, config) = self.read(file)?;
        let warnings = config::warnings(&config);
        let (rules, outputs) =
            (config.rules.len(), config.rules.iter().map(|rule| rule.outputs.len()).sum::<usize>());
        let name = name_of(file);
        for warning in &warnings {
            self.note(&format!("{name}: {warning}"));
        }
        if self.cli.json {
            return self.json(&json!({"rules": rules, "outputs": outputs, "warnings": warnings}));
        }
        Ok(writeln!(self.out, "{name}: {rules} rules with {outputs} outputs, no errors")?)
    }

    /// What differs between the startup configuration on disk and what runs: `+` runs only, `-` is in the file only, `~` is in
    /// both, but not the same.
    pub(crate) fn show_diff(&mut self) -> Result<(), Failure> {
        let ConfigShown { config: running, path, .. } = self.call(method::CONFIG_GET, &json!({}))?;
        let Some(path) = path else {
            let message =
                "mcrd was started without --config: there is no startup configuration to compare with";
            return Err(Failure::Failed(message.into()));
        };
        let (_, startup) = self.read(Path::new(&path))?;
        let old: Vec<_> = startup.rules.iter().collect();
        let new: Vec<_> = running.rules.iter().collect();
        let changes = diff_of_running(&new, &old);
        if self.cli.json {
            return self.json(&as_json(&changes));
        }
        for (sign, old, new) in &changes {
            match (old, new) {
                (Some(old), Some(new)) => self.changed(old, new)?,
                (Some(rule), None) | (None, Some(rule)) => writeln!(self.out, "{sign} {}", in_a_line(rule))?,
                (None, None) => {}
            }
        }
        let settings = |config: &Config| Config { rules: Vec::new(), ..config.clone() };
        if settings(&startup) != settings(&running) {
            self.note("settings beside the rules differ too; `mcrctl save --stdout` shows those that run");
        }
        if changes.is_empty() {
            self.note(&format!("no rule differs from {path}"));
        }
        Ok(())
    }

    fn changed(&mut self, old: &RuleSpec, new: &RuleSpec) -> Result<(), Failure> {
        let name = new.name.as_ref().map_or("-", |name| name.as_str());
        let mut parts = Vec::new();
        if old.input != new.input {
            parts.push(format!("input {} -> {}", old.input, new.input));
        }
        let gone = old.outputs.iter().filter(|output| !new.outputs.contains(output));
        parts.extend(gone.map(|output| format!("-{output}")));
        let come = new.outputs.iter().filter(|output| !old.outputs.contains(output));
        parts.extend(come.map(|output| format!("+{output}")));
        if old.datapath != new.datapath {
            parts.push(format!("datapath {} -> {}", old.datapath, new.datapath));
        }
        if old.class != new.class {
            let shown = |class: &Option<String>| class.clone().unwrap_or_else(|| "none".into());
            parts.push(format!("class {} -> {}", shown(&old.class), shown(&new.class)));
        }
        if old.enabled != new.enabled {
            parts.push(if new.enabled { "enabled" } else { "disabled" }.into());
        }
        if parts.is_empty() {
            parts.push("outputs in another order".into());
        }
        Ok(writeln!(self.out, "~ {name}: {}", parts.join(", "))?)
    }

    /// A file and what it says; an error names file, line and key.
    fn read(&mut self, file: &Path) -> Result<(String, Config), Failure> {
        let name = name_of(file);
        let bytes = match is_stdin(file) {
            true => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
            }
            false => fs::read(file),
        };
        let bytes = bytes.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Failure::NotPermitted(format!("{name}: cannot read it: {error}"))
            }
            _ => Failure::Usage(format!("{name}: cannot read it: {error}")),
        })?;
        let wrong = |error: config::ConfigError| Failure::Usage(error.to_string());
        let text = config::text(bytes, &name).map_err(wrong)?;
        let config = config::parse(&text, &name).map_err(wrong)?;
        Ok((text, config))
    }
}

/// `-` stands for standard input.
fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// What errors call a file.
fn name_of(file: &Path) -> String {
    if is_stdin(file) { "standard input".into() } else { file.display().to_string() }
}

type Difference<'a> = (char, Option<&'a RuleSpec>, Option<&'a RuleSpec>);

/// Sign, rule of the file, rule that runs. Rules of the file may have no name, running ones have.
fn diff_of_running<'a>(running: &[&'a RuleSpec], startup: &[&'a RuleSpec]) -> Vec<Difference<'a>> {
    let changes = diff(running, startup).into_iter().filter_map(|change| match change {
        RuleChange::Same { .. } => None,
        RuleChange::Changed { old, new } => Some(('~', Some(startup[new]), Some(running[old]))),
        RuleChange::Added { new } => Some(('-', Some(startup[new]), None)),
        RuleChange::Removed { old } => Some(('+', None, Some(running[old]))),
    });
    changes.collect()
}

fn as_json(changes: &[Difference<'_>]) -> Value {
    let of = |wanted: char| changes.iter().filter(move |(sign, ..)| *sign == wanted);
    let running = of('+').filter_map(|(_, _, new)| *new).collect::<Vec<_>>();
    let startup = of('-').filter_map(|(_, old, _)| *old).collect::<Vec<_>>();
    let changed: Vec<_> = of('~').map(|(_, old, new)| json!({"startup": old, "running": new})).collect();
    json!({"running_only": running, "startup_only": startup, "changed": changed})
}

fn in_a_line(rule: &RuleSpec) -> String {
    let name = rule.name.as_ref().map_or("-", |name| name.as_str());
    let outputs: Vec<_> = rule.outputs.iter().map(ToString::to_string).collect();
    let off = if rule.enabled { "" } else { " (disabled)" };
    format!("{name}: {} -> {}{off}", rule.input, outputs.join(" "))
}
