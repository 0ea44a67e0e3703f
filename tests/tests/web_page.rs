//! The web page in a real browser, over a real daemon with real traffic.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use mcr_e2e::{
    Bed, Cell, DaemonOptions, Source,
    browser::{Browser, is_installed},
    daemon::signal,
    http, law, programs, source, traffic_lock,
};
use mcr_lab::require;
use mcr_proto::reflect::Reflect;
use nix::sys::signal::Signal;
use serde_json::json;

const TOKEN: &str = "a-token-of-the-tests";

fn browser() -> Option<()> {
    if is_installed() { Some(()) } else { require::skip("chromium is not installed") }
}

/// Sends to each place some payloads a hundred times a second until told to stop.
fn send_until(stop: &AtomicBool, sources: &[(Source, usize)]) {
    let mut due = Instant::now();
    while !stop.load(Relaxed) {
        for (source, count) in sources {
            source.send(&source::payloads(1, vec![600; *count]));
        }
        due += Duration::from_millis(10);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Sets the flag when dropped, so that a failed test does not wait for its sender.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

const ROW: &str = "document.querySelector('[data-rule=\"capped\"]')";

#[test]
fn the_page_shows_what_the_relay_does_while_it_does_it() {
    let (Some(()), Some(())) = (require::netns(), browser()) else { return };
    let _lock = traffic_lock::take();
    let directory = programs::directory_for_everyone();
    let token = directory.path().join("token");
    fs::write(&token, TOKEN).expect("the directory is ours");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let arguments =
        ["--http", http::ADDRESS, "--http-token-file", &token.display().to_string()].map(str::to_owned);
    let options = DaemonOptions { workers: 2, arguments: arguments.to_vec(), ..Cell::PACKET_URING.daemon(2) };
    let mut bed = Bed::with_daemon(Cell::PACKET_URING, 2, &options);
    bed.add("studio-video", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0,ttl=16", "10.3.0.2:7000"]);
    bed.add("market-data", "239.1.1.3:5000@in0", &["239.2.2.4:6000@out0"]);
    bed.add("capped", "239.1.1.2:5000@in0", &["239.2.2.3:6000@out0"]);
    bed.add_in_any_state("stage-audio", "239.1.1.9:5004@nic9", &["10.3.0.2:7004"]);
    bed.client.reflect_add(&Reflect::new("in0".parse().expect("a name"))).expect("a reflector");
    let _sinks = [bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(1, "10.3.0.2:7000")];
    let stop = AtomicBool::new(false);
    let sources = [
        (bed.source("239.1.1.1:5000"), 20),
        (bed.source("239.1.1.3:5000"), 5),
        (bed.source("239.1.1.2:5000"), 1),
    ];
    let mut page = Browser::open(&bed.line.relay, http::ADDRESS, "/");
    page.look(1280, 900, "light");
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| send_until(&stop, &sources));
        figures_move(&mut page);
        a_rule_that_drops_turns_red(&mut page, &mut bed);
        keys_work(&mut page);
        it_looks_well(&mut page);
        a_worker_that_dies_is_seen(&mut page, &mut bed);
        rules_are_changed_with_the_token(&mut page, &mut bed);
    });
    figures_are_exact(&mut page, &mut bed);
    let expected = |complaint: &String| complaint.contains("/api/token") && complaint.contains("401");
    let complaints: Vec<_> = page.complaints().iter().filter(|one| !expected(one)).cloned().collect();
    assert!(complaints.is_empty(), "the browser complains: {complaints:#?}");
}

fn figures_move(page: &mut Browser) {
    page.wait("document.querySelectorAll('.rules .row').length === 4");
    page.wait("document.querySelector('.card .value').textContent.includes('k/s')");
    // 2,000 datagrams a second to two outputs are more than the others.
    page.wait("document.querySelector('.rules .row').dataset.rule === 'studio-video'");
    let rate =
        "Number(document.querySelector('[data-rule=\"studio-video\"] .rate b').textContent.split(' ')[0])";
    page.wait(&format!("{rate} > 1 && {rate} < 3"));
    page.wait("document.querySelectorAll('#chart path.stroke').length === 3");
    let before = page.eval("document.querySelector('#chart path.line-in.stroke').getAttribute('d')");
    page.wait(&format!(
        "document.querySelector('#chart path.line-in.stroke').getAttribute('d') !== {before}"
    ));
    page.click("[data-rule=studio-video] .toggle");
    page.wait("document.querySelectorAll('[data-rule=studio-video] .output').length === 2");
    // Its one sender, with as much as all of it.
    page.wait("document.querySelectorAll('[data-rule=studio-video] .flow').length === 1");
    let flow = "document.querySelector('[data-rule=studio-video] .flow')";
    page.wait(&format!("{flow}.querySelector('.to').textContent.startsWith('10.1.0.')"));
    page.wait(&format!("{flow}.querySelector('.out b').textContent.includes('k/s')"));
    let datagrams = "[...document.querySelectorAll('[data-rule=studio-video] dt')].find(e => e.textContent === 'Datagrams').nextSibling.textContent";
    let before = page.eval(datagrams);
    page.wait(&format!("{datagrams} !== {before}"));
}

fn a_rule_that_drops_turns_red(page: &mut Browser, bed: &mut Bed) {
    page.wait(&format!("{ROW}.dataset.health === 'good'"));
    let red = format!(
        "(() => {{ const [r, g, b] = getComputedStyle({ROW}.querySelector('.drops')).color.match(/\\d+/g).map(Number); return r > 150 && g < 90 && b < 90; }})()"
    );
    assert_eq!(page.eval(&red), false);
    // The same rule, now with a cap that 100 datagrams a second are far over.
    bed.remove("capped");
    bed.add("capped", "239.1.1.2:5000@in0", &["239.2.2.3:6000@out0,rate=5pps"]);
    page.wait(&format!("{ROW}?.dataset.health === 'bad'"));
    page.wait(&red);
    page.wait(&format!("Number({ROW}.querySelector('.drops').textContent.replaceAll(',', '')) > 0"));
    page.wait("document.querySelector('#status').dataset.level === 'bad'");
    page.click("[data-rule=capped] .toggle");
    page.wait(&format!("{ROW}.querySelector('.chip')?.textContent.startsWith('rate ')"));
}

fn keys_work(page: &mut Browser) {
    page.click("h2");
    page.press("j");
    page.press("j");
    let row = "document.activeElement.closest('.row')";
    page.wait(&format!(
        "{row} && {row}.previousElementSibling && !{row}.previousElementSibling.previousElementSibling"
    ));
    let open = format!("{row}.querySelector('.toggle').getAttribute('aria-expanded') === 'true'");
    let before = page.eval(&open);
    page.press("Enter");
    page.wait(&format!("({open}) !== {before}"));
    page.press("Enter");
    page.wait(&format!("({open}) === {before}"));
    for (key, view) in
        [("2", "workers"), ("3", "interfaces"), ("4", "events"), ("5", "reflectors"), ("1", "rules")]
    {
        page.press(key);
        page.wait(&format!("!document.querySelector('#panel-{view}').hidden && document.querySelectorAll('.panel:not([hidden])').length === 1"));
    }
    page.press("/");
    page.wait("document.activeElement.id === 'filter'");
    "market".chars().for_each(|key| page.press(&key.to_string()));
    page.wait("document.querySelectorAll('.rules .row').length === 1");
    page.press("Escape");
    page.wait("document.querySelectorAll('.rules .row').length === 4");
    page.press("?");
    page.wait("document.querySelector('#keys').open");
    page.press("Enter");
    page.wait("!document.querySelector('#keys').open");
}

fn it_looks_well(page: &mut Browser) {
    let reflector = "document.querySelector('.reflectors .row')";
    page.press("5");
    page.wait(&format!(
        "{reflector}?.dataset.health === 'good' && {reflector}.textContent.includes('in0-3842')"
    ));
    page.press("1");
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = page.eval(ground);
    page.picture("light");
    page.look(1280, 900, "dark");
    page.wait(&format!("{ground} !== {light}"));
    page.picture("dark");
    // The choice of the reader is above the system's.
    page.press("t");
    page.wait(&format!("{ground} === {light}"));
    for (key, view) in [("2", "workers"), ("3", "interfaces"), ("4", "events"), ("5", "reflectors")] {
        page.press(key);
        page.wait(&format!("!document.querySelector('#panel-{view}').hidden"));
        page.picture(view);
    }
    page.press("1");
    page.look(400, 1400, "light");
    page.picture("narrow");
    page.wait("document.documentElement.scrollWidth <= 400");
    page.press("4");
    page.picture("narrow-events");
    page.press("2");
    page.picture("narrow-workers");
    page.press("1");
    page.look(1280, 900, "light");
}

fn a_worker_that_dies_is_seen(page: &mut Browser, bed: &mut Bed) {
    let worker = bed.client.workers().expect("it answers")[1].pid.expect("it runs");
    signal(worker, Signal::SIGKILL);
    page.press("4");
    page.wait("[...document.querySelectorAll('.events .row')].some(row => row.textContent.includes('worker died') && row.dataset.health === 'bad')");
    page.press("2");
    page.wait("document.querySelectorAll('.workers .row')[1].dataset.health === 'warn'");
    page.press("1");
}

fn rules_are_changed_with_the_token(page: &mut Browser, bed: &mut Bed) {
    assert_eq!(
        page.eval("document.querySelectorAll('.actions button').length"),
        0,
        "nothing to press while locked"
    );
    page.click("#unlock");
    page.wait("document.querySelector('#token-dialog').open");
    "wrong".chars().for_each(|key| page.press(&key.to_string()));
    page.press("Enter");
    page.wait("document.querySelector('#token-error').textContent !== ''");
    TOKEN.chars().for_each(|key| page.press(&key.to_string()));
    page.press("Enter");
    page.wait("!document.querySelector('#token-dialog').open");
    if page.eval(&format!("{ROW}.querySelector('.detail').hidden")) == true {
        page.click("[data-rule=capped] .toggle");
    }
    page.wait(&format!("{ROW}.querySelector('[data-key=disable]')"));
    page.picture("unlocked");
    page.click("[data-rule=capped] [data-key=disable]");
    page.wait(&format!(
        "{ROW}.dataset.health === 'off' && {ROW}.querySelector('.badge').textContent === 'off'"
    ));
    let rules = bed.client.rules(None).expect("it answers");
    assert!(rules.iter().any(|rule| rule.name.as_str() == "capped" && !rule.enabled), "{rules:?}");
    page.click("[data-rule=capped] [data-key=remove]");
    page.wait("document.querySelector('#ask').open");
    page.click("#ask-yes");
    page.wait("document.querySelectorAll('.rules .row').length === 3");
}

/// When nothing is on its way any more, the page has the last datagram.
fn figures_are_exact(page: &mut Browser, bed: &mut Bed) {
    let stats = bed.at_rest();
    let rule = law::rule(&stats, "studio-video");
    let shown = "[...document.querySelectorAll('[data-rule=studio-video] dt')].find(e => e.textContent === 'Datagrams').nextSibling.textContent.replaceAll(',', '')";
    page.wait(&format!("{shown} === {}", json!(rule.datagrams.to_string())));
}
