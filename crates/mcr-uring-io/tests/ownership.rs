//! Buffers, sockets and watches over both back ends: who owns what, and when it is over.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test that cannot go on says where.

mod common;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{NAME_V4, Pump, bind, both, pattern, recv, sink, small};
use mcr_uring_io::{AddError, Choice, IoConfig, Outgoing, Part, ReceiveShape, SendError};

both! {
    fn nothing_is_lost_when_the_buffers_run_out(choice) {
        let mut pump = Pump::with(&IoConfig { buffers: 8, ..small(choice) });
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        let (other, other_address) = pump.receiver(NAME_V4);
        let (source, _) = sink();
        for number in 0..60 {
            source.send_to(&pattern(number, 100), address).unwrap();
        }
        let mut seen = 0;
        while seen < 60 {
            pump.until("all the buffers there are", |pump| pump.held.len() == 8.min(60 - seen));
            if seen == 0 {
                pump.quiet();
                assert_eq!(pump.held.len(), 8);
                assert!(pump.io.counts().starved > 0);
                source.send_to(b"the other socket is not forgotten", other_address).unwrap();
            }
            for (_, frame) in pump.held.iter().filter(|(socket, _)| *socket != other) {
                assert_eq!(pump.io.datagram(frame).payload, pattern(seen, 100));
                seen += 1;
            }
            pump.received.extend(pump.held.iter().filter(|(socket, _)| *socket == other).map(|(s, _)| (*s, Vec::new())));
            pump.recycle_held();
            if seen + 8 > 60 {
                pump.hold = false;
                pump.until("the rest", |pump| pump.received.len() == 60 - seen + 1);
                break;
            }
        }
        pump.quiet();
        assert_eq!(pump.failed, []);
    }

    fn a_watch_is_reported_though_no_buffer_is_free(choice) {
        let mut pump = Pump::with(&IoConfig { buffers: 1, ..small(choice) });
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let watch = pump.io.add_watch(ours.into()).unwrap();
        let (source, _) = sink();
        for _ in 0..3 {
            source.send_to(b"data", address).unwrap();
        }
        pump.until("the one buffer used", |pump| pump.held.len() == 1);
        pump.quiet();
        theirs.write_all(b"command").unwrap();
        pump.until("the watch", |pump| pump.readable.contains(&watch));
        pump.recycle_held();
    }

    fn a_buffer_returns_when_the_last_send_from_it_has_ended(choice) {
        let mut pump = Pump::with(&IoConfig { buffers: 2, ..small(choice) });
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        let sinks: Vec<_> = (0..3).map(|_| sink()).collect();
        let sender = pump.sender();
        let (source, _) = sink();
        for round in 0..300 {
            source.send_to(&pattern(round, 1000), address).unwrap();
            pump.until("the datagram", |pump| pump.held.len() == 1);
            let (_, frame) = pump.held.pop().unwrap();
            for (number, (_, to)) in sinks.iter().enumerate() {
                let header = [number as u8];
                let parts = [Part::Inline(&header), Part::Frame(&frame, 500..1000), Part::Frame(&frame, 0..500)];
                pump.io.send(&Outgoing { destination: Some(*to), ..Outgoing::new(sender, &parts, 0) }).unwrap();
            }
            pump.io.recycle(frame);
            pump.until("the sends", |pump| pump.sent.len() == 3 * (round + 1));
            let expected = pattern(round, 1000);
            for (number, (socket, _)) in sinks.iter().enumerate() {
                assert_eq!(recv(socket), [&[number as u8], &expected[500..], &expected[..500]].concat());
            }
        }
        assert!(pump.sent.iter().all(|(_, result)| *result == Ok(1001)));
    }

    fn a_closed_socket_is_silent_and_its_descriptor_is_closed(choice) {
        let mut pump = Pump::with(&IoConfig { files_max: 2, ..small(choice) });
        let (sink, to) = sink();
        let (key, address) = pump.receiver(NAME_V4);
        pump.quiet();
        for number in 0..10 {
            sink.send_to(&pattern(number, 50), address).unwrap();
            pump.send_to(key, to, &[number as u8], number as u64).unwrap();
        }
        pump.io.close(key);
        pump.io.close(key);
        assert!(pump.io.fd(key).is_none());
        assert_eq!(pump.send_to(key, to, b"late", 99), Err(SendError::UnknownSocket));
        pump.until("the sends queued before", |pump| pump.sent.len() == 10);
        assert!(pump.sent.iter().all(|(_, result)| *result == Ok(1)));
        for number in 0..10 {
            assert_eq!(recv(&sink), [number as u8]);
        }
        // The port is free again when, and only when, nobody has the socket open.
        let mut again = None;
        pump.until("the port to be free", |_| {
            again = UdpSocket::bind(address).ok();
            again.is_some()
        });
        pump.quiet();
        assert_eq!((pump.received.len(), pump.failed.len()), (0, 0));

        let keys = [pump.io.add_receiver(again.unwrap().into(), NAME_V4).unwrap(), pump.sender()];
        assert!(!keys.contains(&key));
        assert!(pump.io.fd(key).is_none() && pump.io.fd(keys[0]).is_some());
        assert!(matches!(pump.io.add_sender(bind().into()), Err(AddError::Full { files_max: 2 })));
        sink.send_to(b"new", address).unwrap();
        pump.until("the new socket's datagram", |pump| pump.received == [(keys[0], b"new".to_vec())]);
    }

    fn sockets_come_and_go_under_traffic(choice) {
        let mut pump = Pump::with(&IoConfig { buffers: 16, files_max: 8, ..small(choice) });
        let (source, _) = sink();
        let mut total = 0;
        for round in 0..200 {
            let (key, address) = pump.receiver(NAME_V4);
            pump.wait(Some(Duration::ZERO));
            for number in 0..round % 7 {
                source.send_to(&pattern(number, 20), address).unwrap();
            }
            if round % 2 == 0 {
                total += round % 7;
                pump.until("its datagrams", |pump| pump.received.len() == total);
            }
            let before = pump.received.len();
            pump.io.close(key);
            pump.wait(Some(Duration::ZERO));
            assert_eq!(pump.received.len(), before);
        }
        // No buffer went missing: all 16 can be held at once.
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        for number in 0..16 {
            source.send_to(&pattern(number, 20), address).unwrap();
        }
        pump.until("all buffers", |pump| pump.held.len() == 16);
        pump.recycle_held();
    }

    fn datagrams_outlive_the_socket_they_came_on(choice) {
        let mut pump = Pump::new(choice);
        pump.hold = true;
        let (key, address) = pump.receiver(NAME_V4);
        let (source, from) = sink();
        source.send_to(&pattern(4, 400), address).unwrap();
        pump.until("the datagram", |pump| pump.held.len() == 1);
        pump.io.close(key);
        pump.quiet();
        let datagram = pump.io.datagram(&pump.held[0].1);
        assert_eq!((datagram.payload, datagram.source()), (&pattern(4, 400)[..], Some(from)));
        pump.recycle_held();
    }

    fn a_watch_is_reported_until_it_is_read(choice) {
        let mut pump = Pump::new(choice);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut reader = ours.try_clone().unwrap();
        let watch = pump.io.add_watch(ours.into()).unwrap();
        pump.quiet();
        assert_eq!(pump.readable, []);
        theirs.write_all(b"command").unwrap();
        pump.until("three reports", |pump| pump.readable.len() == 3);
        assert!(pump.readable.iter().all(|key| *key == watch));
        assert_eq!(reader.read(&mut [0; 16]).unwrap(), 7);
        // One report may be under way already.
        pump.wait(Some(Duration::ZERO));
        pump.readable.clear();
        pump.quiet();
        assert_eq!(pump.readable, []);
        assert!(matches!(pump.send_to(watch, theirs_address(), b"x", 0), Err(SendError::UnknownSocket)));
        drop(theirs);
        pump.until("the end of the peer", |pump| !pump.readable.is_empty());
        pump.io.close(watch);
        pump.readable.clear();
        pump.quiet();
        assert_eq!(pump.readable, []);
    }

    fn dropping_with_everything_in_flight_ends_cleanly(choice) {
        let (sink, to) = sink();
        for round in 0..30u8 {
            let mut pump = Pump::new(choice);
            pump.hold = true;
            let receivers: Vec<_> = (0..4).map(|_| pump.receiver(NAME_V4)).collect();
            let (ours, _theirs) = UnixStream::pair().unwrap();
            pump.io.add_watch(ours.into()).unwrap();
            if round % 3 > 0 {
                pump.wait(Some(Duration::ZERO));
            }
            for (_, address) in &receivers {
                sink.send_to(b"into the void", address).unwrap();
            }
            if round % 3 > 1 {
                pump.wait(Some(Duration::ZERO));
            }
            pump.send_to(receivers[0].0, to, &[round], 0).unwrap();
            drop(pump);
            assert_eq!(recv(&sink), [round]);
            for (_, address) in &receivers {
                drop(UdpSocket::bind(address).expect("its socket is closed"));
            }
        }
    }

    fn shapes_too_large_are_refused(choice) {
        let mut pump = Pump::new(choice);
        for (name_bytes, control_bytes) in [(129, 0), (0, 257), (u16::MAX, u16::MAX)] {
            let shape = ReceiveShape { name_bytes, control_bytes };
            assert!(matches!(pump.io.add_receiver(bind().into(), shape), Err(AddError::Shape { .. })));
        }
        pump.io.add_receiver(bind().into(), ReceiveShape { name_bytes: 128, control_bytes: 256 }).unwrap();
    }
}

fn theirs_address() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 9).into()
}
