//! Events as a stream of HTTP.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use mcr_proto::{
    message::{Event, EventKind, EventWhat, ToControl, WorkerState},
    plan::WorkerIndex,
};
use serde_json::{Value, json};

use super::{connect, get, with_workers};
use crate::{
    limits::Limits,
    tests::stage::{PATIENCE, Stage, send},
};

/// The next event of a stream.
fn event(reader: &mut impl BufRead) -> (u64, Value) {
    let mut id = None;
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).expect("an event in time"), 0, "the stream has ended");
        if let Some(seq) = line.strip_prefix("id: ") {
            id = Some(seq.trim().parse().unwrap());
        } else if let Some(data) = line.strip_prefix("data: ") {
            return (id.expect("an event has an id"), serde_json::from_str(data).unwrap());
        }
    }
}

fn events(stage: &Stage, headers: &str) -> BufReader<TcpStream> {
    let mut stream = connect(stage);
    write!(stream, "GET /api/events HTTP/1.0\r\n{headers}\r\n").unwrap();
    BufReader::new(stream)
}

fn publish(stage: &Stage, seq: u64) {
    let event =
        Event { seq, worker: Some(WorkerIndex(1)), ..Event::new(EventKind::Worker, EventWhat::Ready) };
    send(&stage.channel, &ToControl::Events { events: vec![event] });
}

#[test]
fn events_come_as_they_happen_and_the_last_ones_first() {
    let limits = Limits { http_events_max: 2, http_beat: Duration::from_millis(10), ..Limits::default() };
    let stage = Stage::new(limits, with_workers(WorkerState::Running));
    let mut first = events(&stage, "");
    publish(&stage, 1);
    let (seq, told) = event(&mut first);
    assert_eq!(
        (seq, &told["kind"], &told["what"], &told["worker"]),
        (1, &json!("worker"), &json!("ready"), &json!(1))
    );
    publish(&stage, 2);
    assert_eq!(event(&mut first).0, 2);
    let mut later = events(&stage, "Last-Event-ID: 1\r\n");
    assert_eq!(event(&mut later).0, 2);
    publish(&stage, 3);
    assert_eq!((event(&mut later).0, event(&mut first).0), (3, 3));
    assert_eq!(get(&stage, "/api/events").status, 429, "two streams are the limit here");
    drop((first, later));
    let start = std::time::Instant::now();
    loop {
        let mut stream = events(&stage, "");
        let mut status = String::new();
        stream.read_line(&mut status).unwrap();
        if status.contains(" 200 ") {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "streams whose clients are gone give up their places: {status}");
    }
    stage.stop();
}
