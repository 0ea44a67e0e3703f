//! What is done to a daemon. Each act may follow any other, and leaves what [`Trouble::rest`] can put back.

use std::{
    io::Write as _,
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use mcr_lab::wait_until;
use mcr_proto::{
    message::RuleState,
    rpc::{Subscribe, rule_ref},
    rule::{Datapath, RuleSpec},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    scene::{FLAPS, MOVING, REFLECTOR},
    trouble::Trouble,
};
use crate::{daemon::signal, reflector::load};

/// An act's name, how often it comes beside the others, and itself.
type Act = (&'static str, usize, fn(&mut Trouble));

/// All there are.
pub(super) const ACTS: &[Act] = &[
    ("look", 20, look),
    ("load", 10, load_some),
    ("load and replace", 10, load_and_replace),
    ("save and reload", 4, save_and_reload),
    ("move to a worker", 15, move_to_worker),
    ("move to a data path", 15, move_to_datapath),
    ("switch a rule", 8, switch_rule),
    ("add and remove rules", 6, add_and_remove_rules),
    ("flap an input", 25, flap_input),
    ("flap an output", 4, flap_output),
    ("reflect", 10, reflect),
    ("change the reflector", 3, change_reflector),
    ("ask why", 4, ask_why),
    ("hostile clients", 4, hostile_clients),
    ("deaf subscriber", 3, deaf_subscriber),
    ("kill a worker", 1, kill_worker),
    ("stop a worker", 1, stop_worker),
    ("kill control", 1, kill_control),
    ("kill the reflector", 1, kill_reflector),
];

/// Connections that are left hanging, at most.
const HANGING_MAX: usize = 16;
const FRAMES: u64 = 300;
/// The longest back-off of a child is 16 s.
const REFLECTS_WITHIN: Duration = Duration::from_secs(30);

fn look(trouble: &mut Trouble) {
    trouble.look_forward();
    let rules = trouble.rules();
    trouble.workers();
    trouble.ask("interface.list", |client| client.interfaces());
    // A rule that waits for what is not there must say so.
    let silent = rules.iter().find(|rule| {
        matches!(rule.state, RuleState::Unresolved | RuleState::Paused)
            && rule.enabled
            && rule.reason.is_none()
    });
    if let Some(rule) = silent {
        trouble.faults.push(format!("no reason why: {rule:?}"));
    }
}

fn load_some(trouble: &mut Trouble) {
    trouble.scene.throw_churn(&mut trouble.dice);
    trouble.load(false);
}

fn load_and_replace(trouble: &mut Trouble) {
    trouble.scene.throw_churn(&mut trouble.dice);
    trouble.load(true);
}

/// The running configuration becomes the startup configuration, which is then loaded.
fn save_and_reload(trouble: &mut Trouble) {
    if trouble.ask("config.save", |client| client.config_save()).is_some() {
        signal(trouble.daemon.pid(), Signal::SIGHUP);
    }
}

fn moving(trouble: &mut Trouble) -> usize {
    trouble.dice.roll(MOVING)
}

fn move_to_worker(trouble: &mut Trouble) {
    let (at, workers) = (moving(trouble), trouble.workers().len());
    let to = trouble.dice.roll(workers.max(1)) as u16;
    let rule = rule_ref(&format!("moving-{at}")).expect("a name");
    trouble.ask("rule.move", |client| client.rule_move(&rule, to));
}

fn move_to_datapath(trouble: &mut Trouble) {
    let at = moving(trouble);
    trouble.scene.moving[at] = [Datapath::Packet, Datapath::Udp, Datapath::Kernel][trouble.dice.roll(3)];
    trouble.load(false);
}

fn switch_rule(trouble: &mut Trouble) {
    let count = trouble.scene.churn.len();
    let rule = rule_ref(&format!("churn-{}", trouble.dice.roll(count.max(1)))).expect("a name");
    let enabled = trouble.dice.roll(2) == 0;
    trouble.ask("rule.enable", |client| client.rule_enable(&rule, enabled));
}

fn add_and_remove_rules(trouble: &mut Trouble) {
    for number in 0..10 {
        let name = format!("extra-{number}");
        let output = format!("239.12.0.{number}:6000@out{}", number % 2);
        let mut rule = RuleSpec::new(
            format!("239.11.0.{number}:5000@in0").parse().expect("an endpoint"),
            vec![output.parse().expect("an endpoint")],
        );
        rule.name = Some(name.parse().expect("a name"));
        trouble.ask("rule.add", |client| client.rule_add(&rule));
    }
    for number in 0..10 {
        let rule = rule_ref(&format!("extra-{number}")).expect("a name");
        trouble.ask("rule.remove", |client| client.rule_remove(&rule));
    }
}

/// Deletes, makes, renames, takes down, brings up or changes the address of an interface.
fn flap_input(trouble: &mut Trouble) {
    let flap = trouble.dice.roll(FLAPS);
    let step = trouble.dice.roll(6);
    let relay = &trouble.scene.line.relay;
    let (name, other) = (format!("flap{flap}"), format!("other{flap}"));
    let done = match (relay.link(&name).is_ok(), relay.link(&other).is_ok(), step) {
        (false, false, _) => trouble.scene.make_flap(flap),
        // A link that is up cannot be renamed on every kernel.
        (false, true, 0..=2) => relay
            .set_down(&other)
            .and_then(|()| relay.rename_link(&other, &name))
            .and_then(|()| relay.set_up(&name)),
        (false, true, _) => relay.delete_link(&other),
        (true, _, 0) => relay.delete_link(&name),
        (true, _, 1) => relay.set_down(&name).and_then(|()| relay.rename_link(&name, &other)),
        (true, _, 2) => relay.set_down(&name),
        (true, _, 3) => relay.set_mtu(&name, 1280 + 100 * trouble.dice.roll(3) as u32),
        (true, _, 4) => relay.set_up(&name),
        (true, ..) => {
            let address = std::net::Ipv4Addr::new(10, 70, flap as u8, 1).into();
            let _ = relay.delete_address(&name, address, 24);
            relay.add_address(&name, address, 24)
        }
    };
    if let Err(error) = done {
        trouble.faults.push(format!("the test cannot change {name}: {error}"));
    }
}

fn flap_output(trouble: &mut Trouble) {
    let relay = &trouble.scene.line.relay;
    let up = relay.link("out1").is_ok_and(|link| link.up);
    let done = if up { relay.set_down("out1") } else { relay.set_up("out1") };
    if let Err(error) = done {
        trouble.faults.push(format!("the test cannot change out1: {error}"));
    }
}

/// Every frame comes back, whole and in its turn.
fn reflect(trouble: &mut Trouble) {
    let mut last = None;
    let ready = wait_until(REFLECTS_WITHIN, "it reflects", || {
        let all = trouble.ask("reflect.list", |client| client.reflectors(Some(REFLECTOR)));
        last = all.and_then(|mut all| all.pop());
        last.as_ref().is_some_and(|one| one.state == RuleState::Active)
    });
    if ready.is_err() {
        let log = trouble.log_tail("reflect");
        let last =
            last.map(|one| (one.state, one.reason, one.fault, one.platform, one.restarts, one.workers));
        trouble
            .faults
            .push(format!("the reflector does not reflect for {REFLECTS_WITHIN:?}: {last:?}; log: {log}"));
        return;
    }
    // Replies to what was sent before it was changed.
    trouble.tester.take(|_| {});
    let tester = AssertUnwindSafe(&mut trouble.tester);
    let loaded = catch_unwind(move || {
        let AssertUnwindSafe(tester) = { tester };
        load(tester, 128, FRAMES, 64, &[])
    });
    if let Err(panic) = loaded {
        let text = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
        trouble.faults.push(format!("reflected: {text}"));
    }
}

fn change_reflector(trouble: &mut Trouble) {
    trouble.scene.reflect_xdp = !trouble.scene.reflect_xdp;
    trouble.load(false);
}

fn kill_reflector(trouble: &mut Trouble) {
    let all = trouble.ask("reflect.list", |client| client.reflectors(Some(REFLECTOR))).unwrap_or_default();
    if let Some(pid) = all.first().and_then(|one| one.pid) {
        kill(pid, Signal::SIGKILL);
    }
}

fn ask_why(trouble: &mut Trouble) {
    for datagram in ["10.1.0.1:4000 > 239.1.10.1:5000@in0", "10.1.0.1:4000 > 239.77.1.1:5000@flap0"] {
        // The interface may be gone, which is an answer, too.
        trouble.ask("rule.why", |client| {
            match client.call::<_, Value>("rule.why", &json!({"datagram": datagram})) {
                Err(mcr_client::ClientError::Fault(_)) => Ok(Value::Null),
                answer => answer,
            }
        });
    }
    trouble.ask("doctor.run", |client| client.call::<_, Value>("doctor.run", &json!({})));
}

/// Junk, half a line, a line without end, requests whose answers nobody reads, and many connections.
fn hostile_clients(trouble: &mut Trouble) {
    let hello = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\",\"params\":{\"protocol\":1}}\n";
    let list = "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"rule.list\"}\n";
    let junk: Vec<u8> = (0..20_000).map(|_| trouble.dice.roll(256) as u8).collect();
    let attacks = [
        junk,
        hello.as_bytes()[..30].to_vec(),
        vec![b'x'; 2 << 20],
        [hello.as_bytes(), &b"[".repeat(100_000), b"\n"].concat(),
        [hello.to_owned(), list.repeat(300)].concat().into_bytes(),
    ];
    for bytes in &attacks {
        pour(trouble, bytes);
    }
    for _ in 0..50 {
        pour(trouble, b"");
    }
}

/// Asks for events and never reads one.
fn deaf_subscriber(trouble: &mut Trouble) {
    let subscribed = trouble.ask("event.subscribe", |client| client.subscribe(&Subscribe::default()));
    // This connection has served its time: another is made for the next request.
    if subscribed.is_some() {
        trouble.hang_up();
    }
    let hello = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\",\"params\":{\"protocol\":1}}\n";
    let subscribe = "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"event.subscribe\"}\n";
    pour(trouble, format!("{hello}{subscribe}").as_bytes());
}

/// Writes as much as the daemon takes in a moment, and leaves the connection as it is.
fn pour(trouble: &mut Trouble, bytes: &[u8]) {
    let Ok(mut stream) = UnixStream::connect(trouble.daemon.socket()) else { return };
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("it is not zero");
    let _ = stream.write_all(bytes);
    trouble.hanging.push(stream);
    let many = trouble.hanging.len().saturating_sub(HANGING_MAX);
    trouble.hanging.drain(..many);
}

fn kill_worker(trouble: &mut Trouble) {
    end_worker(trouble, Signal::SIGKILL);
}

fn stop_worker(trouble: &mut Trouble) {
    end_worker(trouble, Signal::SIGSTOP);
}

fn end_worker(trouble: &mut Trouble, how: Signal) {
    let workers = trouble.workers();
    let pids: Vec<_> = workers.iter().filter_map(|worker| worker.pid).collect();
    if !pids.is_empty() {
        kill(pids[trouble.dice.roll(pids.len())], how);
        trouble.kills += 1;
    }
}

fn kill_control(trouble: &mut Trouble) {
    if let Some(control) = trouble.control() {
        kill(control, Signal::SIGKILL);
    }
}

/// It may have ended a moment ago.
fn kill(pid: u32, how: Signal) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    let _ = nix::sys::signal::kill(pid, how);
}
