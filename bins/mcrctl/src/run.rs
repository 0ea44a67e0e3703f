//! The verbs.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    thread,
    time::Duration,
};

use mcr_client::{Client, ClientError, Options, default_socket_path};
use mcr_proto::{
    message::{Fault, FaultKind, RuleRef, RuleState},
    rpc::{
        InterfaceList, MoveParams, OptionalRule, Pong, RuleAdded, RuleInfo, RuleList, RuleParams, Stats,
        Version, WorkerList, method, rule_ref,
    },
    rule::RuleSpec,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    args::{Add, Cli, Verb},
    failure::Failure,
    stats, table,
    text::{one_line, outlook},
};

/// How often `stats --watch` shows the counters; rates are averages over a second.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Where a verb reads from and writes to.
pub(crate) struct Session<'a> {
    pub(crate) cli: &'a Cli,
    pub(crate) out: &'a mut dyn Write,
    notes: &'a mut dyn Write,
}

/// Carries out what was typed.
pub(crate) fn run(cli: &Cli, out: &mut dyn Write, notes: &mut dyn Write) -> Result<(), Failure> {
    let mut session = Session { cli, out, notes };
    match &cli.verb {
        Verb::Add(add) => session.add(add),
        Verb::Remove { rules } => session.remove(rules),
        Verb::List => session.list(),
        Verb::Show { diff: true, .. } => session.show_diff(),
        Verb::Show { rule, .. } => session.show(rule.as_deref().unwrap_or_default()),
        Verb::Move { rule, worker } => session.move_rule(rule, *worker),
        Verb::Enable { rule } => session.enable(rule, true),
        Verb::Disable { rule } => session.enable(rule, false),
        Verb::Load { file, replace } => session.load(file, *replace),
        Verb::Save { stdout } => session.save(*stdout),
        Verb::Check { file } => session.check(file),
        Verb::Events(events) => session.events(events),
        Verb::LogLevel { level, facility } => session.log_level(level.as_deref(), facility.as_deref()),
        Verb::Stats { rule, watch, classes } => session.stats(rule.as_deref(), *watch, *classes),
        Verb::Trace(trace) => session.trace(trace),
        Verb::Top => session.top(),
        Verb::Reflect { verb } => session.reflect(verb),
        Verb::Workers => session.workers(),
        Verb::Interfaces => session.interfaces(),
        Verb::Doctor => session.doctor(),
        Verb::Why { datagram } => session.why(datagram),
        Verb::Ping => session.ping(),
        Verb::Version => session.version(),
    }
}

impl Session<'_> {
    fn add(&mut self, add: &Add) -> Result<(), Failure> {
        let spec = spec(add)?;
        for warning in spec.warnings() {
            self.note(&format!("warning: {warning}"));
        }
        let added: RuleAdded = self.call(method::RULE_ADD, &spec)?;
        self.note_states(&added);
        if self.cli.json {
            return self.json(&added);
        }
        Ok(writeln!(self.out, "{}", added.rule.name)?)
    }

    /// Says what is not as the user may think it is.
    fn note_states(&mut self, added: &RuleAdded) {
        let RuleAdded { rule, created } = added;
        let done = if *created { "added" } else { "was there already" };
        let because =
            |reason: &Option<String>| reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        if rule.state != RuleState::Active {
            let (state, reason) = (rule.state, because(&rule.reason));
            self.note(&format!(
                "rule {} {done}, {state}{reason}; {}",
                rule.name,
                outlook(rule.state, "relaying")
            ));
        } else if !created {
            self.note(&format!("rule {} {done}, unchanged", rule.name));
        }
        for (output, state) in rule.outputs.iter().zip(&rule.output_states) {
            if rule.state == RuleState::Active && state.state != RuleState::Active {
                let (name, reason) = (state.state, because(&state.reason));
                self.note(&format!(
                    "output {output} of rule {} is {name}{reason}; {}",
                    rule.name,
                    outlook(state.state, "relaying")
                ));
            }
        }
    }

    fn remove(&mut self, rules: &[String]) -> Result<(), Failure> {
        let rules = rules.iter().map(|rule| Ok(RuleParams { rule: named(rule)? }));
        let rules = rules.collect::<Result<Vec<_>, Failure>>()?;
        self.remove_each(method::RULE_REMOVE, &rules)
    }

    /// Removes each by a method; one that cannot be removed does not keep the others. The last failure is the outcome.
    pub(crate) fn remove_each(&mut self, method: &str, those: &[impl Serialize]) -> Result<(), Failure> {
        let mut client = self.connect()?;
        let mut failure: Option<Failure> = None;
        for params in those {
            match client.call::<_, Value>(method, params) {
                Ok(_) => {}
                Err(error @ (ClientError::Fault(_) | ClientError::NotPermitted { .. })) => {
                    if let Some(earlier) = failure.replace(error.into()) {
                        self.note(&earlier.to_string());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None if self.cli.json => self.json(&json!({})),
            None => Ok(()),
        }
    }

    fn list(&mut self) -> Result<(), Failure> {
        let list: RuleList = self.call(method::RULE_LIST, &OptionalRule::default())?;
        if self.cli.json {
            return self.json(&list);
        }
        if list.rules.is_empty() {
            self.note("no rules; add one with `mcrctl add INPUT OUTPUT...`");
            return Ok(());
        }
        Ok(table::rules(self.out, &list.rules)?)
    }

    fn show(&mut self, rule: &str) -> Result<(), Failure> {
        let rule = named(rule)?;
        let list: RuleList = self.call(method::RULE_LIST, &OptionalRule { rule: Some(rule.clone()) })?;
        if self.cli.json {
            return self.json(&list);
        }
        let shown: &RuleInfo = list.rules.first().ok_or_else(|| {
            ClientError::Fault(Fault::new(
                FaultKind::NotFound,
                format!("no rule {rule}; `mcrctl list` shows all"),
            ))
        })?;
        Ok(table::rule(self.out, shown)?)
    }

    fn move_rule(&mut self, rule: &str, worker: u16) -> Result<(), Failure> {
        let moved: RuleInfo = self.call(method::RULE_MOVE, &MoveParams { rule: named(rule)?, worker })?;
        if moved.worker != worker {
            let (name, now) = (&moved.name, moved.worker);
            self.note(&format!("worker {worker} does not run; worker {now} carries {name} until it does"));
        }
        if self.cli.json { self.json(&moved) } else { Ok(()) }
    }

    fn enable(&mut self, rule: &str, enabled: bool) -> Result<(), Failure> {
        let name = if enabled { method::RULE_ENABLE } else { method::RULE_DISABLE };
        let rule: RuleInfo = self.call(name, &RuleParams { rule: named(rule)? })?;
        if enabled && rule.state != RuleState::Active {
            let reason = rule.reason.as_deref().unwrap_or_default();
            self.note(&format!("rule {} is {}: {reason}", rule.name, rule.state));
        }
        if self.cli.json { self.json(&rule) } else { Ok(()) }
    }

    fn stats(&mut self, rule: Option<&str>, watch: bool, classes: bool) -> Result<(), Failure> {
        let params = OptionalRule { rule: rule.map(named).transpose()? };
        let mut client = self.connect()?;
        loop {
            let counters: Stats = client.call(method::STATS_GET, &params)?;
            if self.cli.json {
                self.json(&counters)?;
            } else {
                if watch && io::stdout().is_terminal() {
                    // Cursor home, and all below it erased (ECMA-48 CUP and ED).
                    write!(self.out, "\x1b[H\x1b[J")?;
                }
                self.tables(&counters, classes)?;
            }
            if !watch {
                return Ok(());
            }
            // Somebody is watching.
            self.out.flush()?;
            thread::sleep(WATCH_EVERY);
        }
    }

    fn tables(&mut self, counters: &Stats, classes: bool) -> Result<(), Failure> {
        if classes {
            if counters.classes.is_empty() {
                self.note("no classes; a [[class]] in the configuration makes one");
            }
            return Ok(stats::classes(self.out, &counters.classes)?);
        }
        if counters.rules.is_empty() {
            self.note("no rules; add one with `mcrctl add INPUT OUTPUT...`");
        }
        Ok(stats::stats(self.out, counters)?)
    }

    fn top(&self) -> Result<(), Failure> {
        if self.cli.json {
            return Err(Failure::Usage(
                "top is for a terminal; `mcrctl --json stats --watch` is for programs".into(),
            ));
        }
        mcr_top::run(self.socket_path()).map_err(|error| Failure::Failed(error.to_string()))
    }

    fn workers(&mut self) -> Result<(), Failure> {
        let list: WorkerList = self.call(method::WORKER_LIST, &json!({}))?;
        if self.cli.json { self.json(&list) } else { Ok(table::workers(self.out, &list.workers)?) }
    }

    fn interfaces(&mut self) -> Result<(), Failure> {
        let list: InterfaceList = self.call(method::INTERFACE_LIST, &json!({}))?;
        if self.cli.json { self.json(&list) } else { Ok(table::interfaces(self.out, &list.interfaces)?) }
    }

    fn ping(&mut self) -> Result<(), Failure> {
        let pong: Pong = self.call(method::PING, &json!({}))?;
        if self.cli.json { self.json(&pong) } else { Ok(writeln!(self.out, "pong")?) }
    }

    fn version(&mut self) -> Result<(), Failure> {
        if !self.cli.json {
            writeln!(self.out, "mcrctl {}", env!("CARGO_PKG_VERSION"))?;
        }
        let version: Version = self.call(method::VERSION, &json!({}))?;
        if self.cli.json {
            return self.json(&version);
        }
        Ok(writeln!(self.out, "mcrd {}, control protocol {}", version.version, version.protocol)?)
    }

    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.socket_path(), Options::default())?)
    }

    fn socket_path(&self) -> PathBuf {
        self.cli.socket.clone().unwrap_or_else(default_socket_path)
    }

    pub(crate) fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<R, Failure> {
        Ok(self.connect()?.call(method, params)?)
    }

    pub(crate) fn json(&mut self, result: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(result).map_err(|error| Failure::Output(error.into()))?;
        Ok(writeln!(self.out, "{text}")?)
    }

    /// A line beside the data. Nobody to read it is no failure.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.notes, "mcrctl: {}", one_line(text));
    }
}

/// The rule as typed, checked before the daemon is asked.
fn spec(add: &Add) -> Result<RuleSpec, Failure> {
    let usage = |what: &str, error: &dyn std::fmt::Display| Failure::Usage(format!("{what}: {error}"));
    let input = add.input.parse().map_err(|error| usage("input", &error))?;
    let outputs = add
        .outputs
        .iter()
        .enumerate()
        .map(|(index, output)| output.parse().map_err(|error| usage(&format!("output {index}"), &error)));
    let mut spec = RuleSpec::new(input, outputs.collect::<Result<_, _>>()?);
    spec.name =
        add.name.as_ref().map(|name| name.parse()).transpose().map_err(|error| usage("--name", &error))?;
    spec.class = add.class.clone();
    spec.datapath = add.datapath.parse().map_err(|error| usage("--datapath", &error))?;
    spec.check().map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(spec)
}

pub(crate) fn named(rule: &str) -> Result<RuleRef, Failure> {
    rule_ref(rule).map_err(|error| Failure::Usage(format!("rule: {error}")))
}
