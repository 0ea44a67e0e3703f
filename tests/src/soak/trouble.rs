//! Who makes trouble: asks the daemon, connects again where it was cut off, writes down what was not as it must be, and puts
//! everything back to rest.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use mcr_client::{Client, ClientError, Options};
use mcr_lab::wait_until;
use mcr_proto::{
    message::{FaultKind, RuleState, WorkerState},
    rpc::{ConfigLoad, RuleInfo, Stats, WorkerInfo, rule_ref},
};

use super::{
    acts::ACTS,
    scene::{FLAPS, REFLECTOR, Scene},
    usage::Usage,
};
use crate::{Daemon, DaemonOptions, held::Held, law, reflector::Tester};

const WORKERS: u16 = 3;
/// The longest back-off of a child is 16 s, and a stuck one is noticed after 2 s.
const HEALED_WITHIN: Duration = Duration::from_secs(45);
/// What the daemon never says unless something of its own is wrong.
const FAULTS_IN_LOG: [&str; 3] = ["panicked", "worker refused", "was not applied within"];
/// Lines of the log that a fault is told with.
const LOG_LINES: usize = 8;
/// Between two acts, so that each has some effect.
const PAUSE: Duration = Duration::from_millis(50);

/// Numbers that look random and are the same for the same seed.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// The daemon, and all that is done to it.
#[derive(Debug)]
pub(super) struct Trouble {
    // Before the scene: it must end before the networks do.
    pub(super) daemon: Daemon,
    client: Option<Client>,
    pub(super) tester: Tester,
    pub(super) scene: Scene,
    pub(super) dice: Dice,
    /// Connections that were left as they were.
    pub(super) hanging: Vec<UnixStream>,
    /// Which worker carries each rule when all is well.
    homes: BTreeMap<String, u16>,
    before: Option<Stats>,
    /// How often each act was carried out.
    pub(super) acts: BTreeMap<&'static str, u64>,
    /// Workers killed or stopped.
    pub(super) kills: u64,
    /// Requests answered by "busy".
    pub(super) busy: u64,
    /// Connections that ended before their time, as when control is killed.
    pub(super) reconnects: u64,
    pub(super) faults: Vec<String>,
}

impl Trouble {
    /// The scene, and a daemon in it that has begun to relay.
    pub(super) fn new(seed: u64) -> Self {
        let scene = Scene::new().unwrap_or_else(|error| panic!("{error}"));
        let config = Some(scene.config());
        let daemon = Daemon::start(
            &scene.line.relay,
            &DaemonOptions { workers: WORKERS, config, ..DaemonOptions::default() },
        );
        let tester = Tester::open_on(&scene.tester, crate::reflector::TESTER_IF);
        let mut this = Self {
            daemon,
            client: None,
            tester,
            scene,
            dice: Dice(seed),
            hanging: Vec::new(),
            homes: BTreeMap::new(),
            before: None,
            acts: BTreeMap::new(),
            kills: 0,
            busy: 0,
            reconnects: 0,
            faults: Vec::new(),
        };
        this.settle("a daemon that has just begun");
        let rules = this.rules();
        this.homes = rules.iter().map(|rule| (rule.name.to_string(), rule.worker)).collect();
        this
    }

    pub(super) fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Each act once.
    pub(super) fn once(&mut self, say: &mut dyn FnMut(&str)) {
        for (name, _, act) in ACTS {
            let begun = Instant::now();
            act(self);
            say(&format!("{name}: {} ms, {} faults", begun.elapsed().as_millis(), self.faults.len()));
            *self.acts.entry(name).or_default() += 1;
        }
        // Its program is loaded into memory that is kept: that must have happened before what is held is written down.
        self.rest_with(true);
    }

    /// One act, by dice.
    pub(super) fn act(&mut self) {
        let all: usize = ACTS.iter().map(|(_, weight, _)| weight).sum();
        let mut at = self.dice.roll(all);
        for (name, weight, act) in ACTS {
            if at < *weight {
                act(self);
                *self.acts.entry(name).or_default() += 1;
                break;
            }
            at -= weight;
        }
        thread::sleep(PAUSE);
    }

    /// Asks; again on a new connection if the old one was cut off. What "busy" or a race with another change explains gives nothing;
    /// what nothing explains is a fault.
    pub(super) fn ask<T>(
        &mut self,
        what: &str,
        mut call: impl FnMut(&mut Client) -> Result<T, ClientError>,
    ) -> Option<T> {
        let until = Instant::now() + HEALED_WITHIN;
        loop {
            let error = match &mut self.client {
                Some(client) => match call(client) {
                    Ok(answer) => return Some(answer),
                    Err(error) => error,
                },
                None => {
                    match Client::connect(self.daemon.socket(), Options { deadline: Duration::from_secs(5) })
                    {
                        Ok(client) => {
                            self.client = Some(client);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
            };
            match &error {
                ClientError::Fault(fault) => {
                    match fault.kind {
                        FaultKind::Busy => self.busy += 1,
                        // Asked twice because the first answer was lost, or removed by a load meanwhile.
                        FaultKind::NotFound | FaultKind::Exists => {}
                        _ => self.faults.push(format!("{what}: {error}")),
                    }
                    return None;
                }
                ClientError::NotPermitted { .. }
                | ClientError::Protocol { .. }
                | ClientError::TooLong { .. } => {
                    self.faults.push(format!("{what}: {error}"));
                    return None;
                }
                _ if Instant::now() > until => {
                    self.faults.push(format!("{what}: still {error}"));
                    return None;
                }
                _ => {}
            }
            self.reconnects += u64::from(self.client.take().is_some());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Gives up the connection; the next request makes another.
    pub(super) fn hang_up(&mut self) {
        self.client = None;
    }

    /// The control process's number, if it can be told from the others.
    pub(super) fn control(&mut self) -> Option<u32> {
        let usage = self.usage();
        usage.processes.get("control").map(|control| control.pid)
    }

    pub(super) fn rules(&mut self) -> Vec<RuleInfo> {
        self.ask("rule.list", |client| client.rules(None)).unwrap_or_default()
    }

    pub(super) fn workers(&mut self) -> Vec<WorkerInfo> {
        self.ask("worker.list", Client::workers).unwrap_or_default()
    }

    /// Loads what the scene says.
    pub(super) fn load(&mut self, replace: bool) {
        let load = ConfigLoad { text: self.scene.config(), file: Some("soak.toml".into()), replace };
        self.ask("config.load", |client| client.config_load(&load));
    }

    /// No counter of a rule that was there all the time may go back, nor one of the input that stays.
    pub(super) fn look_forward(&mut self) {
        let Some(mut now) = self.ask("stats.get", |client| client.stats(None)) else { return };
        let homes = &self.homes;
        let stays = |name: String| homes.contains_key(&name) && !is_moving(&name);
        now.rules.retain(|rule| stays(rule.name.to_string()));
        now.inputs.retain(|input| input.interface == "in0");
        if let Some(fault) = self.before.as_ref().and_then(|before| law::backward(before, &now)) {
            self.faults.push(fault);
        }
        self.before = Some(now);
    }

    /// Puts everything back: links up, no client but this one, only the rules that stay and those that move, where they were.
    pub(super) fn rest(&mut self) {
        self.rest_with(false);
    }

    fn rest_with(&mut self, reflect_xdp: bool) {
        self.hanging.clear();
        for flap in 0..FLAPS {
            self.put_back(flap);
        }
        let _ = self.scene.line.relay.set_up("out1");
        self.scene.forget_changes();
        self.scene.reflect_xdp = reflect_xdp;
        self.settle("all put back");
    }

    fn put_back(&mut self, flap: usize) {
        let (relay, name, other) = (&self.scene.line.relay, format!("flap{flap}"), format!("other{flap}"));
        // Made anew, so that addresses and routes are as they were, too.
        let mut gone = [&name, &other].into_iter().filter(|name| relay.link(name).is_ok());
        let gone = gone.try_for_each(|name| relay.delete_link(name));
        if let Err(error) = gone.and_then(|()| self.scene.make_flap(flap)) {
            self.faults.push(format!("{name} cannot be made anew: {error}"));
        }
    }

    /// Loads what stays and waits until all of it relays where it did.
    fn settle(&mut self, what: &str) {
        let mut wrong = String::new();
        let settled = wait_until(HEALED_WITHIN, what, || {
            self.load(true);
            wrong = self.unsettled().unwrap_or_default();
            if !wrong.is_empty() {
                self.forget_strays();
            }
            wrong.is_empty()
        });
        if settled.is_err() {
            let log = self.log_tail("");
            self.faults.push(format!("{what}: after {HEALED_WITHIN:?}, {wrong}; log: {log}"));
        }
    }

    /// Removes rules that were moved: loaded again, they are carried by the worker they would have been.
    fn forget_strays(&mut self) {
        for rule in self.rules() {
            let name = rule.name.to_string();
            let strayed = self.homes.get(&name).is_some_and(|home| *home != rule.worker);
            if strayed && is_moving(&name) {
                let rule = rule_ref(&name).expect("a name");
                self.ask("rule.remove", |client| client.rule_remove(&rule));
            }
        }
    }

    /// What is not yet as it is to be.
    fn unsettled(&mut self) -> Option<String> {
        thread::sleep(PAUSE);
        let workers = self.workers();
        let behind = |worker: &&WorkerInfo| {
            worker.state != WorkerState::Running || worker.applied_generation != worker.desired_generation
        };
        if let Some(worker) = workers.iter().find(behind) {
            return Some(format!("{worker:?}"));
        }
        let rules = self.rules();
        let expected = self.scene.streams().len() + FLAPS;
        if rules.len() != expected {
            return Some(format!("{} rules, not {expected}", rules.len()));
        }
        for rule in &rules {
            let states = rule.output_states.iter().map(|output| output.state).chain([rule.state]);
            let home = self.homes.get(&rule.name.to_string());
            if states.clone().any(|state| state != RuleState::Active)
                || home.is_some_and(|home| *home != rule.worker)
            {
                return Some(format!("home is {home:?} of {rule:?}"));
            }
        }
        let reflectors = self.ask("reflect.list", |client| client.reflectors(None)).unwrap_or_default();
        match &reflectors[..] {
            [one] if one.name == REFLECTOR && one.state == RuleState::Active => None,
            others => Some(format!("reflectors {others:?}")),
        }
    }

    /// The last lines of the daemon's log with a word in them.
    pub(super) fn log_tail(&self, word: &str) -> String {
        let log = self.daemon.log();
        let mut lines: Vec<_> =
            log.lines().rev().filter(|line| line.contains(word)).take(LOG_LINES).collect();
        lines.reverse();
        lines.join(" | ")
    }

    /// What is held now.
    pub(super) fn usage(&mut self) -> Usage {
        let workers =
            self.workers().into_iter().map(|worker| (format!("worker {}", worker.index), worker.pid));
        let workers: Vec<_> = workers.collect();
        let reflectors = self.ask("reflect.list", |client| client.reflectors(None)).unwrap_or_default();
        let named = workers
            .into_iter()
            .chain(reflectors.into_iter().map(|one| (format!("reflector {}", one.name), one.pid)));
        let named: Vec<_> = named.filter_map(|(role, pid)| Some((role, pid?))).collect();
        Usage::of(self.daemon.pid(), &named, &self.scene.line.relay)
    }

    /// What is held once that is what was held before, or after a while all the same: what was closed is not gone at once.
    pub(super) fn usage_like(&mut self, before: &Usage) -> Usage {
        let mut now = self.usage();
        let _ = wait_until(crate::PATIENCE, "what is held is what was held", || {
            thread::sleep(PAUSE);
            now = self.usage();
            before.difference(&now).is_none()
        });
        now
    }

    /// The counters, once they move no more and the law holds.
    pub(super) fn at_rest(&mut self) -> Option<Stats> {
        let at_rest = self.ask("stats.get", |client| Ok(law::try_at_rest(client)))?;
        at_rest.map_err(|fault| self.faults.push(fault)).ok()
    }

    /// Ends the daemon; nothing of it may be left. All faults.
    pub(super) fn stop(mut self, before: &Usage, after: &Usage) -> Vec<String> {
        let log = self.daemon.log();
        let is_fault = |line: &&str| FAULTS_IN_LOG.iter().any(|fault| line.contains(fault));
        self.faults.extend(log.lines().filter(is_fault).map(|line| format!("in the log: {line}")));
        self.client = None;
        self.daemon.stop();
        let bpf = before.bpf.iter().chain(&after.bpf);
        let bpf: std::collections::BTreeSet<_> = bpf.copied().collect();
        let mut left = String::new();
        let gone = wait_until(crate::PATIENCE, "nothing is left", || {
            left = left_over(&self.scene, &bpf).unwrap_or_default();
            left.is_empty()
        });
        if gone.is_err() {
            self.faults.push(format!("left after the end: {left}"));
        }
        self.faults
    }
}

/// Whether a rule is one of those that are moved about.
fn is_moving(rule: &str) -> bool {
    rule.starts_with("moving")
}

/// Sockets, memberships and BPF objects that are still there.
fn left_over(scene: &Scene, bpf: &std::collections::BTreeSet<super::usage::BpfObject>) -> Option<String> {
    let held = Held::of(&scene.line.relay);
    if held.packet + held.udp + held.raw > 0 {
        return Some(format!("{held:?}"));
    }
    let loaded = super::usage::loaded_bpf();
    let left: Vec<_> = bpf.intersection(&loaded).collect();
    (!left.is_empty()).then(|| format!("{left:?}"))
}
