//! Clients that mean harm gain nothing, and cost nobody else anything.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use mcr_e2e::{Bed, Cell, law, streams::Streams};
use mcr_lab::require;

/// More than the daemon serves at a time.
const CONNECTIONS: usize = 1_000;
const LONG_LINE_BYTES: usize = 100 << 20;

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream
}

/// Writes as much as the daemon takes. It may close the connection at any point.
fn pour(socket: &Path, bytes: &[u8]) -> UnixStream {
    let mut stream = connect(socket);
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn hostile_clients_touch_neither_other_clients_nor_the_data_path() {
    let Some(()) = require::netns() else { return };
    let _lock = mcr_e2e::traffic_lock::take();
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    let streams = Streams::start(&mut bed, 5, 1_000);
    let socket = bed.daemon.socket().to_owned();
    let control = bed.daemon.control();
    // Answers of a client that was there before, between each attack.
    let mut slowest = Duration::ZERO;
    let mut still_served = |bed: &mut Bed| {
        let asked = Instant::now();
        bed.client.ping().unwrap();
        assert_eq!(bed.client.rules(None).unwrap().len(), 5);
        slowest = slowest.max(asked.elapsed());
    };

    let hello = br#"{"jsonrpc":"2.0","id":1,"method":"hello","params":{"protocol":1}}"#;
    let mut deep = hello.to_vec();
    deep.push(b'\n');
    deep.extend_from_slice(&b"[".repeat(500_000));
    deep.push(b'\n');
    let attacks: [(&str, Vec<u8>); 5] = [
        ("junk", (0..=255).cycle().take(300_000).collect()),
        ("invalid UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}\n".repeat(1_000)),
        ("deep JSON", deep),
        ("empty lines", b"\n".repeat(200_000)),
        (
            "requests before hello",
            br#"{"jsonrpc":"2.0","id":1,"method":"rule.remove","params":{"id":1}}"#.to_vec(),
        ),
    ];
    let mut held = Vec::new();
    for (_, bytes) in &attacks {
        held.push(pour(&socket, bytes));
        still_served(&mut bed);
    }
    // A line without end: refused after a megabyte.
    let mut stream = connect(&socket);
    let megabyte = vec![b'x'; 1 << 20];
    let poured =
        (0..LONG_LINE_BYTES / megabyte.len()).take_while(|_| stream.write_all(&megabyte).is_ok()).count();
    assert!(poured < 10, "{poured} MiB of one line were taken");
    still_served(&mut bed);
    // Half a line, and silence; a peer that asks and never reads.
    held.push(pour(&socket, &hello[..30]));
    let mut deaf = hello.to_vec();
    deaf.push(b'\n');
    deaf.extend(br#"{"jsonrpc":"2.0","id":2,"method":"rule.list"}"#.iter().copied().chain([b'\n']).cycle().take(400_000));
    held.push(pour(&socket, &deaf));
    still_served(&mut bed);
    let mut crowd: Vec<_> = (0..CONNECTIONS).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    still_served(&mut bed);
    // Whoever is turned away is told so, in a line, before the connection closes.
    let mut last = crowd.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut told = String::new();
    let _ = last.read_to_string(&mut told);
    assert!(told.contains("\"error\"") && told.lines().count() == 1, "{told:?}");
    crowd.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    drop(crowd);
    drop(held);
    still_served(&mut bed);

    assert!(control.is_alive(), "the control process has been replaced");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let (sent, arrived) = streams.stop(&mut bed);
    for stream in &arrived {
        assert_eq!((stream.received, stream.out_of_place), (sent, 0));
    }
    assert_eq!(law::input(&bed.at_rest(), "in0").datagrams, sent * 5);
}
