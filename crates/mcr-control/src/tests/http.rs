//! HTTP as browsers, scrapers and strangers speak it.

mod events;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use mcr_proto::{
    message::{
        ClassBy, InputClass, InputView, ReflectLatency, ReflectView, ReflectWorker, Reply, Request,
        RuleState, WorkerState, WorkerView,
    },
    plan::{Generation, InputSlot, OutputSlot, RuleSlot, WorkerIndex},
    reflect::{Reflect, ReflectMode},
    rule::Datapath,
};
use serde_json::{Value, json};

use super::stage::{Answer, PATIENCE, Stage, TOKEN, holding, input, rule};
use crate::limits::Limits;

/// A response: status, head and body.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn connect(stage: &Stage) -> TcpStream {
    let stream = TcpStream::connect(stage.http).expect("control listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_all(mut stream: TcpStream) -> Got {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => {}
        // Closed with a request on its way: as one that is one too many is.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no response: {error}"),
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Got { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Sends a request with these header lines, each with its line end, and reads the response to the end.
fn ask(stage: &Stage, method: &str, path: &str, headers: &str, body: &str) -> Got {
    let mut stream = connect(stage);
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}",
        stage.http
    );
    stream.write_all(text.as_bytes()).unwrap();
    read_all(stream)
}

fn get(stage: &Stage, path: &str) -> Got {
    ask(stage, "GET", path, "", "")
}

fn post(stage: &Stage, path: &str, headers: &str, body: &str) -> Got {
    ask(stage, "POST", path, &format!("Authorization: Bearer {TOKEN}\r\n{headers}"), body)
}

fn worker(index: u16, state: WorkerState) -> WorkerView {
    WorkerView {
        index: WorkerIndex(index),
        pid: Some(42),
        state,
        core: None,
        io: None,
        restarts: 3,
        rules: 1,
        sockets: 2,
        desired: Generation(5),
        applied: Generation(5),
    }
}

/// As [`holding`] two rules on one input, with two workers, of which the second is in this state.
fn with_workers(second: WorkerState) -> impl FnMut(Request) -> Answer {
    let inputs = vec![input(3, 1, "eth0", Datapath::Packet)];
    let mut rest = holding(vec![rule(1), rule(2)], inputs, 10);
    move |request| match request {
        Request::WorkerList => {
            Some(Ok(Reply::Workers(vec![worker(0, WorkerState::Running), worker(1, second)])))
        }
        other => rest(other),
    }
}

#[test]
fn metrics_are_the_counters_under_their_names() {
    let stage = Stage::new(Limits::default(), with_workers(WorkerState::Backoff));
    let [first, second] = &stage.segments[..] else { panic!("two workers") };
    first.rule(RuleSlot(1)).arrived(10, 100, 1_000_000_000);
    for (datagrams, now_ns) in [(1, 1_016_000_000), (2, 1_250_000_000), (2, 1_500_000_000)] {
        second.rule(RuleSlot(1)).arrived(datagrams, 10, now_ns);
    }
    first.latency(RuleSlot(1)).add(5_000, 10);
    second.latency(RuleSlot(1)).add(2_000_000_000, 5);
    first.output(OutputSlot(2)).copies.add(9);
    first.output(OutputSlot(2)).drops[0].add(1);
    first.output(OutputSlot(2)).send_errors.add(1, 1);
    second.input(InputSlot(3)).matched.add(15);
    let got = get(&stage, "/metrics");
    assert_eq!(got.status, 200);
    assert!(got.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", got.head);
    for line in [
        &*format!("mcr_build_info{{version=\"{}\",protocol=\"1\"}} 1", env!("CARGO_PKG_VERSION")),
        "mcr_rules{state=\"active\"} 2",
        "mcr_rule_state{rule=\"r1\",state=\"active\"} 1",
        "mcr_rule_state{rule=\"r1\",state=\"paused\"} 0",
        "mcr_rule_datagrams_total{rule=\"r1\"} 15",
        "mcr_rule_datagrams_total{rule=\"r2\"} 0",
        "mcr_rule_last_datagram_timestamp_seconds{rule=\"r1\"} 1.5",
        "mcr_rule_gap_max_seconds{rule=\"r1\"} 0.25",
        "mcr_rule_jitter_seconds{rule=\"r1\"} 0.001",
        "# TYPE mcr_rule_latency_seconds histogram",
        "mcr_rule_latency_seconds_bucket{rule=\"r1\",le=\"0.000004096\"} 0",
        "mcr_rule_latency_seconds_bucket{rule=\"r1\",le=\"0.000008192\"} 10",
        "mcr_rule_latency_seconds_bucket{rule=\"r1\",le=\"1.073741824\"} 10",
        "mcr_rule_latency_seconds_bucket{rule=\"r1\",le=\"+Inf\"} 15",
        "mcr_rule_latency_seconds_sum{rule=\"r1\"} 10.00005",
        "mcr_rule_latency_seconds_count{rule=\"r1\"} 15",
        "mcr_rule_latencies_left_out 0",
        "mcr_output_copies_total{rule=\"r1\",output=\"10.0.0.2:6000\"} 9",
        "mcr_output_drops_total{rule=\"r1\",output=\"10.0.0.2:6000\",reason=\"send_error\"} 1",
        "mcr_output_drops_total{rule=\"r1\",output=\"10.0.0.2:6000\",reason=\"too_big\"} 0",
        "mcr_output_send_errors_total{rule=\"r1\",output=\"10.0.0.2:6000\",errno=\"EPERM\"} 1",
        "mcr_input_matched_total{worker=\"1\",interface=\"eth0\",datapath=\"packet\"} 15",
        "mcr_worker_up{worker=\"0\"} 1",
        "mcr_worker_up{worker=\"1\"} 0",
        "mcr_worker_restarts_total{worker=\"1\"} 3",
    ] {
        assert!(got.body.lines().any(|found| found == line), "{line} is missing in\n{}", got.body);
    }
    for absent in ["timestamp_seconds", "gap_max_seconds", "jitter_seconds", "latency_seconds_count"] {
        assert!(!got.body.contains(&format!("{absent}{{rule=\"r2\"}}")), "no datagram, no {absent}");
    }
    stage.stop();
}

#[test]
fn metrics_have_reflectors_and_say_the_class_of_an_input() {
    let classed = |slot, class: &str, by| InputView {
        class: Some(InputClass { name: class.into(), by }),
        ..input(slot, 0, "eth0", Datapath::Packet)
    };
    let inputs = vec![
        input(0, 0, "eth0", Datapath::Packet),
        classed(1, "voice", ClassBy::Dscp),
        classed(2, "voice", ClassBy::Rule),
    ];
    let mut rest = holding(vec![rule(1)], inputs, 10);
    let stage = Stage::new(Limits::default(), move |request| match request {
        Request::ReflectList { .. } => {
            Some(Ok(Reply::Reflectors { reflectors: vec![reflector()], more: false }))
        }
        other => rest(other),
    });
    stage.segments[0].input(InputSlot(1)).matched.add(7);
    let got = get(&stage, "/metrics");
    for line in [
        "mcr_input_matched_total{worker=\"0\",interface=\"eth0\",datapath=\"packet\"} 0",
        "mcr_input_matched_total{worker=\"0\",interface=\"eth0\",datapath=\"packet\",class=\"voice\",class_by=\"dscp\"} 7",
        "mcr_input_open{worker=\"0\",interface=\"eth0\",datapath=\"packet\",class=\"voice\",class_by=\"rule\"} 1",
        "mcr_reflector_state{reflector=\"bench\",state=\"active\"} 1",
        "mcr_reflector_state{reflector=\"bench\",state=\"failed\"} 0",
        "mcr_reflector_info{reflector=\"bench\",interface=\"eth2\",port=\"3842\",mode=\"mac\",platform=\"packet\"} 1",
        "mcr_reflector_received_total{reflector=\"bench\"} 30",
        "mcr_reflector_reflected_total{reflector=\"bench\"} 20",
        "mcr_reflector_rejected_total{reflector=\"bench\",reason=\"port\"} 8",
        "mcr_reflector_signatures_total{reflector=\"bench\",signature=\"probe\"} 20",
        "mcr_reflector_drops_total{reflector=\"bench\",reason=\"tx_full\"} 2",
        "mcr_reflector_drops_total{reflector=\"bench\",reason=\"rx_ring_drop\"} 0",
        "mcr_reflector_restarts_total{reflector=\"bench\"} 1",
        "mcr_reflector_healthy{reflector=\"bench\"} 0",
        "mcr_reflector_process_up{reflector=\"bench\",process=\"0\"} 1",
        "mcr_reflector_process_received_total{reflector=\"bench\",process=\"0\"} 30",
        "mcr_reflector_process_reflected_total{reflector=\"bench\",process=\"0\"} 20",
        "mcr_reflector_turn_round_seconds{reflector=\"bench\",percentile=\"99.9\"} 0.0005",
    ] {
        assert!(got.body.lines().any(|found| found == line), "{line} is missing in\n{}", got.body);
    }
    stage.stop();
}

fn reflector() -> ReflectView {
    let named =
        |counts: &[(&str, u64)]| counts.iter().map(|(name, count)| ((*name).into(), *count)).collect();
    let mut options = Reflect::new("eth2".parse().expect("a name"));
    options.mode = ReflectMode::Mac;
    ReflectView {
        name: "bench".into(),
        interface: options.interface,
        port: 3842,
        mode: options.mode,
        state: RuleState::Active,
        reason: None,
        platform: Some("packet".into()),
        pid: Some(9),
        restarts: 1,
        options,
        counters: named(&[("received", 30), ("reflected", 20), ("tx_full", 2)]),
        rejected: named(&[("port", 8)]),
        signatures: named(&[("probe", 20)]),
        latency: Some(ReflectLatency {
            count: 20,
            min_ns: 1,
            mean_ns: 2,
            p50_ns: 3,
            p90_ns: 4,
            p99_ns: 5,
            p999_ns: 500_000,
            max_ns: 600_000,
        }),
        fault: Some("1 of 2 processes do not run".into()),
        workers: vec![ReflectWorker {
            queues: vec![0],
            pid: Some(9),
            ready: true,
            restarts: 1,
            received: 30,
            reflected: 20,
        }],
    }
}

#[test]
fn scrapes_however_many_ask_the_supervisor_once_a_period() {
    let asked = Arc::new(AtomicUsize::new(0));
    let limits = Limits { http_fresh: Duration::from_secs(3600), ..Limits::default() };
    let stage = Stage::new(limits, {
        let asked = Arc::clone(&asked);
        let mut rest = with_workers(WorkerState::Running);
        move |request| {
            asked.fetch_add(1, Relaxed);
            rest(request)
        }
    });
    assert_eq!(get(&stage, "/metrics").status, 200);
    let once = asked.load(Relaxed);
    assert!(once > 0);
    (0..50).for_each(|_| assert_eq!(get(&stage, "/metrics").status, 200));
    assert_eq!(asked.load(Relaxed), once);
    stage.stop();
}

#[test]
fn it_is_ready_when_all_workers_run_and_all_rules_that_are_on_are_active() {
    let stage = Stage::new(Limits::default(), with_workers(WorkerState::Running));
    assert_eq!((get(&stage, "/healthz").status, get(&stage, "/healthz").body), (200, "alive\n".into()));
    let got = get(&stage, "/readyz");
    assert_eq!(
        (got.status, &got.json()["ready"], &got.json()["rules_active"]),
        (200, &json!(true), &json!(2))
    );
    stage.stop();

    let (mut off, mut paused) = (rule(1), rule(2));
    (off.spec.enabled, off.state) = (false, RuleState::Disabled);
    (paused.state, paused.reason) = (RuleState::Paused, Some("eth0 is down".into()));
    let mut rest = holding(vec![off, paused], Vec::new(), 10);
    let stage = Stage::new(Limits::default(), move |request| match request {
        Request::WorkerList => Some(Ok(Reply::Workers(vec![worker(0, WorkerState::Backoff)]))),
        other => rest(other),
    });
    let got = get(&stage, "/readyz");
    let reason = "its process has ended and is started again after a pause";
    let problems = json!([
        {"worker": 0, "state": "backoff", "reason": reason},
        {"rule": "r2", "state": "paused", "reason": "eth0 is down"},
    ]);
    assert_eq!((got.status, &got.json()["ready"], &got.json()["rules"]), (503, &json!(false), &json!(1)));
    assert_eq!(got.json()["problems"], problems);
    stage.stop();
}

#[test]
fn a_supervisor_that_does_not_answer_makes_it_unready_but_alive() {
    let limits = Limits { reply: Duration::from_millis(50), ..Limits::default() };
    let stage = Stage::new(limits, |_| None);
    assert_eq!(get(&stage, "/healthz").status, 200);
    let got = get(&stage, "/readyz");
    assert_eq!(got.status, 503);
    assert!(got.json()["problems"][0]["reason"].as_str().unwrap().contains("did not answer"), "{got:?}");
    assert_eq!(get(&stage, "/metrics").status, 503);
    assert_eq!(get(&stage, "/api/rules").status, 503);
    stage.stop();
}

#[test]
fn the_api_gives_what_the_control_protocol_gives() {
    let stage = Stage::new(Limits::default(), with_workers(WorkerState::Running));
    let mut client = stage.client();
    for (path, method) in
        [("rules", "rule.list"), ("workers", "worker.list"), ("interfaces", "interface.list")]
    {
        let got = get(&stage, &format!("/api/{path}"));
        assert_eq!((got.status, got.json()), (200, client.call(method, json!({}))["result"].take()));
        assert!(got.head.contains("content-type: application/json"), "{}", got.head);
    }
    assert_eq!(get(&stage, "/api/stats").json()["rules"].as_array().map(Vec::len), Some(2));
    let one = get(&stage, "/api/stats/r1").json();
    assert_eq!(one["rules"].as_array().map(Vec::len), Some(1));
    assert!(one["rules"][0]["flow_list"]["flows"].is_array(), "{one}");
    assert_eq!(get(&stage, "/api/stats/nobody").status, 404);
    let version = json!({"version": env!("CARGO_PKG_VERSION"), "protocol": 1, "may_change": true});
    assert_eq!(get(&stage, "/api/version").json(), version);
    let got = get(&stage, "/api/nothing");
    assert_eq!((got.status, &got.json()["error"]["data"]["kind"]), (404, &json!("not_found")));
    stage.stop();
}

#[test]
fn every_response_says_what_its_reader_may_do_with_it() {
    let stage = Stage::new(Limits::default(), with_workers(WorkerState::Running));
    for path in ["/", "/style.css", "/app.js", "/icon.svg", "/metrics", "/api/rules", "/nothing"] {
        let got = get(&stage, path);
        assert_eq!(got.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff",
        ] {
            assert!(got.head.contains(header), "{path}: {}", got.head);
        }
        assert!(!got.head.contains("access-control"), "{path}: {}", got.head);
    }
    assert!(get(&stage, "/").head.contains("content-type: text/html"), "it is a page");
    stage.stop();
}

#[test]
fn a_request_under_a_name_that_is_not_this_hosts_is_refused() {
    let stage = Stage::new(Limits::default(), with_workers(WorkerState::Running));
    let under = |host: &str| {
        let mut stream = connect(&stage);
        write!(stream, "GET /api/rules HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        read_all(stream)
    };
    for host in ["evil.example.com", "evil.example.com:9650"] {
        let got = under(host);
        assert_eq!(got.status, 421, "{got:?}");
        assert!(got.body.contains("--http-name") && !got.body.contains("239.1.1.1"), "{got:?}");
    }
    assert_eq!(under("relay1:9650").status, 200);
    stage.stop();
}

#[test]
fn whoever_shows_the_token_changes_rules_and_nobody_else() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let stage = Stage::new(Limits::default(), {
        let seen = Arc::clone(&seen);
        let mut rest = with_workers(WorkerState::Running);
        move |request| {
            seen.lock().unwrap().push(format!("{request:?}"));
            match request {
                Request::RuleEnable { .. } | Request::RuleMove { .. } => {
                    Some(Ok(Reply::Rule(Box::new(rule(1)))))
                }
                other => rest(other),
            }
        }
    });
    let asked = || std::mem::take(&mut *seen.lock().unwrap());
    let without = ask(&stage, "POST", "/api/rules/r1/disable", "", "");
    assert_eq!(
        (without.status, without.head.contains("www-authenticate: bearer")),
        (401, true),
        "{without:?}"
    );
    let wrong = ask(&stage, "POST", "/api/rules/r1/disable", "Authorization: Bearer wrong\r\n", "");
    assert_eq!(wrong.status, 401);
    assert_eq!(get(&stage, "/api/token").status, 401);
    let forged = post(&stage, "/api/rules/r1/disable", "Origin: http://evil.example.com\r\n", "");
    assert_eq!(forged.status, 403);
    assert_eq!(asked(), Vec::<String>::new(), "the supervisor has heard nothing of it");

    assert_eq!(post(&stage, "/api/rules/r1/disable", "", "").status, 200);
    assert_eq!(asked(), ["RuleEnable { rule: Name(RuleName(\"r1\")), enabled: false }"]);
    let own = format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", stage.http);
    assert_eq!(post(&stage, "/api/rules/7/enable", &own, "").status, 200);
    assert_eq!(asked(), ["RuleEnable { rule: Id(RuleId(7)), enabled: true }"]);
    let moved = post(&stage, "/api/rules/r1/move", "Content-Type: application/json\r\n", r#"{"worker":1}"#);
    assert_eq!((moved.status, asked().len()), (200, 1), "{moved:?}");
    assert_eq!(post(&stage, "/api/rules/r1/remove", "", "").status, 200);
    assert_eq!(asked(), ["RuleRemove(Name(RuleName(\"r1\")))"]);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(&stage, "GET", "/api/token", &token, "").status, 204);

    for (path, body, status) in [
        ("/api/rules/r1/explode", "", 404),
        ("/api/rules/r%31/enable", "", 400),
        ("/api/rules/r1/move", "{}", 400),
        ("/api/rules/r1/move", "{\"worker\":-1}", 400),
        ("/api/rules", "", 405),
        ("/metrics", "", 405),
    ] {
        let got = post(&stage, path, "Content-Type: application/json\r\n", body);
        assert_eq!(got.status, status, "{path}: {got:?}");
    }
    assert_eq!(get(&stage, "/api/rules/r1/enable").status, 405);
    let long = format!("{{\"worker\":1{}}}", " ".repeat(16 * 1024));
    assert_eq!(post(&stage, "/api/rules/r1/move", "Content-Type: application/json\r\n", &long).status, 400);
    assert_eq!(
        post(&stage, "/api/rules/r1/move", "Content-Type: text/plain\r\n", r#"{"worker":1}"#).status,
        400
    );
    assert_eq!(asked(), Vec::<String>::new());
    stage.stop();
}

#[test]
fn connections_are_bounded_and_slow_clients_are_closed() {
    let limits =
        Limits { http_connections_max: 2, http_head: Duration::from_millis(300), ..Limits::default() };
    let stage = Stage::new(limits, with_workers(WorkerState::Running));
    let mut slow = connect(&stage);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: local").unwrap();
    let silent = connect(&stage);
    let full = read_all(connect(&stage));
    assert_eq!(full.status, 503, "{full:?}");
    // Both have not said what they want in time.
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("it is closed");
    read_all(silent);
    // A client sees the end of its connection a moment before its place is given back.
    let start = std::time::Instant::now();
    while get(&stage, "/healthz").status != 200 {
        assert!(start.elapsed() < PATIENCE, "there is room again");
    }
    stage.stop();
}

#[test]
fn a_client_that_does_not_take_what_it_asked_for_is_closed() {
    let unread_response = Duration::from_millis(100);
    let limits = Limits { unread_response, http_connections_max: 1, ..Limits::default() };
    let stage = Stage::new(limits, holding((1..=2000).map(rule).collect(), Vec::new(), 100));
    let mut stream = connect(&stage);
    // More responses than the buffers on the way hold.
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", stage.http);
    for _ in 0..100 {
        if stream.write_all(request.as_bytes()).is_err() {
            break;
        }
    }
    let start = std::time::Instant::now();
    while get(&stage, "/healthz").status != 200 {
        assert!(start.elapsed() < PATIENCE, "it gives up its place");
    }
    stage.stop();
}

#[test]
fn what_is_no_http_is_refused_and_harms_nobody() {
    let stage = Stage::new(Limits::default(), with_workers(WorkerState::Running));
    let many_headers = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(200));
    let long_head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {}\r\n\r\n", "b".repeat(20_000));
    for text in ["\0\x01\x02\r\n\r\n", "GET\r\n\r\n", "{\"jsonrpc\":\"2.0\"}\n\n", &many_headers, &long_head]
    {
        let mut stream = connect(&stage);
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{text:.40?}: {answer}");
    }
    assert_eq!(get(&stage, "/healthz").status, 200);
    stage.stop();
}
