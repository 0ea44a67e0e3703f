//! The verbs of reflectors.

use std::io::{self, Write};

use mcr_proto::{
    config,
    message::{ReflectView, RuleState},
    reflect::Reflect,
    rpc::{OptionalReflect, ReflectAdded, ReflectList, ReflectParams, method},
};
use serde_json::Value;

use crate::{
    args::{ReflectAdd, ReflectVerb},
    failure::Failure,
    run::Session,
    table::{
        Column::{Number, Text},
        write_table,
    },
    text::outlook,
};

impl Session<'_> {
    pub(crate) fn reflect(&mut self, verb: &ReflectVerb) -> Result<(), Failure> {
        match verb {
            ReflectVerb::Add(add) => self.reflect_add(add),
            ReflectVerb::Remove { names } => {
                let names: Vec<_> = names.iter().map(|name| ReflectParams { name: name.clone() }).collect();
                self.remove_each(method::REFLECT_REMOVE, &names)
            }
            ReflectVerb::List { name } => self.reflect_list(name.as_deref()),
        }
    }

    fn reflect_add(&mut self, add: &ReflectAdd) -> Result<(), Failure> {
        let added: ReflectAdded = self.call(method::REFLECT_ADD, &wanted(add)?)?;
        let ReflectView { name, state, reason, .. } = &added.reflector;
        if *state != RuleState::Active {
            let reason = reason.as_deref().unwrap_or_default();
            self.note(&format!("reflector {name} is {state}: {reason}; {}", outlook(*state, "reflecting")));
        } else if !added.created {
            self.note(&format!("reflector {name} was there already, unchanged"));
        }
        if self.cli.json {
            return self.json(&added);
        }
        Ok(writeln!(self.out, "{}", added.reflector.name)?)
    }

    fn reflect_list(&mut self, name: Option<&str>) -> Result<(), Failure> {
        let params = OptionalReflect { name: name.map(ToOwned::to_owned) };
        let list: ReflectList = self.call(method::REFLECT_LIST, &params)?;
        if self.cli.json {
            return self.json(&list);
        }
        if list.reflectors.is_empty() {
            self.note("no reflectors; add one with `mcrctl reflect add INTERFACE`");
            return Ok(());
        }
        reflectors(self.out, &list.reflectors)?;
        // What its state says is in the table.
        let faulty = list.reflectors.iter().filter(|reflector| reflector.state == RuleState::Active);
        for (reflector, fault) in faulty.filter_map(|reflector| Some((reflector, reflector.fault.as_ref()?)))
        {
            self.note(&format!("reflector {}: {fault}", reflector.name));
        }
        Ok(())
    }
}

/// As a table, and below it why frames were not reflected.
pub(crate) fn reflectors(out: &mut dyn Write, reflectors: &[ReflectView]) -> io::Result<()> {
    let columns = [
        Text("REFLECTOR"),
        Text("INTERFACE"),
        Number("PORT"),
        Text("MODE"),
        Text("STATE"),
        Text("PLATFORM"),
        Number("RECEIVED"),
        Number("REFLECTED"),
        Text("NOT REFLECTED"),
    ];
    let row = |reflector: &ReflectView| {
        let count = |name: &str| reflector.counters.get(name).copied().unwrap_or(0).to_string();
        let failures =
            ["tx_full", "tx_error", "rx_ring_drop"].map(|name| (name, reflector.counters.get(name)));
        let failures = failures.iter().filter_map(|(name, count)| Some((*name, *count.as_ref().copied()?)));
        let rejected = reflector.rejected.iter().map(|(name, count)| (name.as_str(), *count));
        let why: Vec<_> = rejected
            .chain(failures)
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        vec![
            reflector.name.clone(),
            reflector.interface.to_string(),
            reflector.port.to_string(),
            reflector.mode.to_string(),
            match &reflector.fault {
                Some(_) if reflector.state == RuleState::Active => "unhealthy".into(),
                _ => reflector.state.to_string(),
            },
            reflector.platform.clone().unwrap_or_else(|| "-".into()),
            count("received"),
            count("reflected"),
            if why.is_empty() { "-".into() } else { why.join(", ") },
        ]
    };
    write_table(out, &columns, reflectors.iter().map(row).collect())
}

/// The reflector as typed: its keys are those of a configuration file, and read by what reads that.
fn wanted(add: &ReflectAdd) -> Result<Reflect, Failure> {
    let mut text = format!("[[reflect]]\ninterface = {}\n", quoted(&add.interface));
    if let Some(name) = &add.name {
        text += &format!("name = {}\n", quoted(name));
    }
    if let Some(port) = add.port {
        text += &format!("port = {port}\n");
    }
    if let Some(mode) = &add.mode {
        text += &format!("mode = {}\n", quoted(mode));
    }
    for option in &add.options {
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("{option}: write KEY=VALUE, as in sig=custom")))?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Failure::Usage(format!("{key}: no such key")));
        }
        // A value is one line of a file; more would be keys and tables of their own.
        if value.contains('\n') {
            return Err(Failure::Usage(format!("{key}: its value is of one line")));
        }
        // What is a number, true, false or a list in a file is typed so here; all else is text.
        let bare =
            value.parse::<u64>().is_ok() || matches!(value, "true" | "false") || value.starts_with('[');
        text += &format!("{key} = {}\n", if bare { value.to_owned() } else { quoted(value) });
    }
    let read = config::parse(&text, "reflect")
        .map_err(|error| Failure::Usage(format!("{}: {}", error.key, error.kind)))?;
    let mut reflects = read.reflects.into_iter();
    match (reflects.next(), reflects.next()) {
        (Some(reflect), None) => Ok(reflect),
        _ => Err(Failure::Usage("describe one reflector".into())),
    }
}

/// JSON's strings are TOML's basic strings.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(options: &[&str]) -> Result<Reflect, Failure> {
        wanted(&ReflectAdd {
            interface: "eth2".into(),
            name: Some("port".into()),
            port: Some(3843),
            mode: Some("mac-ip".into()),
            options: options.iter().map(ToString::to_string).collect(),
        })
    }

    #[test]
    fn options_are_the_keys_of_the_file() {
        let reflect =
            add(&["sig=custom", "oui_filter=false", "rate_pps=5", "allow_vlan=[1, 2]"]).expect("a reflector");
        assert_eq!((reflect.port, reflect.rate_pps, reflect.oui_filter), (3843, 5, false));
        assert_eq!((reflect.sig.to_string(), reflect.allow_vlan), ("custom".to_owned(), vec![1, 2]));
    }

    #[test]
    fn what_is_no_option_is_said_by_its_key() {
        for (option, part) in [
            ("sigg=custom", "sigg"),
            ("sig=none", "sig"),
            ("sig", "KEY=VALUE"),
            ("a\nb=1", "no such key"),
            ("allow_vlan=[1]\n[[reflect]]", "allow_vlan"),
        ] {
            let error = add(&[option]).expect_err(option).to_string();
            assert!(error.contains(part), "{option:?}: {error}");
        }
    }
}
