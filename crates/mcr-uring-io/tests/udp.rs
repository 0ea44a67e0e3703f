//! UDP over loopback, over both back ends: what comes is what was sent, once, in order.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test that cannot go on says where.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::{NAME_V4, Pump, both, nothing_more, pattern, recv, sink, small};
use mcr_uring_io::{Choice, IoConfig, Outgoing, Part, ReceiveShape, SendError, Source};

both! {
    fn thousands_of_datagrams_arrive_whole_and_in_order(choice) {
        const TOTAL: usize = 6000;
        let mut pump = Pump::new(choice);
        let (key, address) = pump.receiver(NAME_V4);
        let (source, _) = sink();
        let size = |number: usize| number * 37 % 1472;
        for number in 0..TOTAL {
            source.send_to(&pattern(number, size(number)), address).unwrap();
            if number % 40 == 39 {
                pump.until("the datagrams so far", |pump| pump.received.len() == number + 1);
            }
        }
        assert_eq!(pump.received.len(), TOTAL);
        for (number, (socket, bytes)) in pump.received.iter().enumerate() {
            assert_eq!((*socket, bytes), (key, &pattern(number, size(number))), "datagram {number}");
        }
    }

    fn many_sockets_at_once_keep_their_datagrams_apart(choice) {
        let mut pump = Pump::new(choice);
        let receivers: Vec<_> = (0..48).map(|_| pump.receiver(NAME_V4)).collect();
        let (source, _) = sink();
        for number in 0..20 {
            for (which, (_, address)) in receivers.iter().enumerate() {
                source.send_to(&pattern(which * 1000 + number, 200), address).unwrap();
            }
        }
        pump.until("all datagrams", |pump| pump.received.len() == 48 * 20);
        pump.quiet();
        assert_eq!(pump.received.len(), 48 * 20);
        for (which, (key, _)) in receivers.iter().enumerate() {
            let of_socket: Vec<_> = pump.received.iter().filter(|(socket, _)| socket == key).collect();
            assert_eq!(of_socket.len(), 20);
            for (number, (_, bytes)) in of_socket.iter().enumerate() {
                assert_eq!(*bytes, pattern(which * 1000 + number, 200));
            }
        }
    }

    fn each_datagram_is_read_from_its_own_buffer(choice) {
        let mut pump = Pump::new(choice);
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        let (source, from) = sink();
        for number in 0..64 {
            source.send_to(&pattern(number, 300 + number), address).unwrap();
        }
        pump.until("64 datagrams held at once", |pump| pump.held.len() == 64);
        let mut starts = Vec::new();
        for (number, (_, frame)) in pump.held.iter().enumerate() {
            let datagram = pump.io.datagram(frame);
            assert_eq!(datagram.payload, pattern(number, 300 + number));
            assert_eq!(frame.payload_bytes(), 300 + number);
            assert_eq!(datagram.source(), Some(from));
            starts.push(datagram.payload.as_ptr());
        }
        starts.sort();
        starts.dedup();
        assert_eq!(starts.len(), 64);
        pump.recycle_held();
    }

    fn a_receiver_that_is_stopped_leaves_the_rest_to_the_next_reader_and_loses_nothing(choice) {
        let mut pump = Pump::new(choice);
        let mut next = Pump::new(choice);
        let socket = common::bind();
        let address = socket.local_addr().unwrap();
        let key = pump.io.add_receiver(socket.try_clone().unwrap().into(), NAME_V4).unwrap();
        let (source, _) = sink();
        for number in 0..300 {
            source.send_to(&pattern(number, 100), address).unwrap();
            match number {
                // In the middle of what is taken: more wait than a wait takes.
                100 => _ = pump.wait(Some(Duration::ZERO)),
                150 => pump.io.stop(key),
                _ => {}
            }
        }
        pump.until("the end", |pump| pump.stopped == [key]);
        pump.quiet();
        let taken = pump.received.len();
        assert!((1..300).contains(&taken), "{taken} were taken");
        assert_eq!(pump.failed, [], "to be stopped is no failure");
        // A second time, and once it is closed, it is not there to be stopped.
        pump.io.stop(key);
        pump.io.close(key);
        pump.io.stop(key);
        pump.quiet();
        assert_eq!(pump.stopped, [key]);

        let key = next.io.add_receiver(socket.into(), NAME_V4).unwrap();
        next.until("the rest", |next| next.received.len() == 300 - taken);
        next.io.stop(key);
        next.until("the end", |next| next.stopped == [key]);
        let all = pump.received.iter().chain(&next.received).map(|(_, bytes)| bytes);
        for (number, bytes) in all.enumerate() {
            assert_eq!(*bytes, pattern(number, 100), "datagram {number}");
        }
    }

    fn a_receiver_that_is_closed_before_its_stop_is_reported_reports_none(choice) {
        let mut pump = Pump::new(choice);
        let (key, address) = pump.receiver(NAME_V4);
        let (source, _) = sink();
        source.send_to(b"before", address).unwrap();
        pump.until("it receives", |pump| pump.received.len() == 1);
        pump.io.stop(key);
        pump.io.close(key);
        source.send_to(b"behind", address).unwrap();
        pump.quiet();
        assert_eq!((pump.stopped.len(), pump.received.len()), (0, 1));
        assert!(pump.io.fd(key).is_none());
    }

    fn datagrams_of_no_bytes_are_datagrams(choice) {
        let mut pump = Pump::new(choice);
        let (_, address) = pump.receiver(NAME_V4);
        let (sink, to) = sink();
        let expected: Vec<Vec<u8>> = (0..30).map(|number| pattern(number, number % 3)).collect();
        for bytes in &expected {
            sink.send_to(bytes, address).unwrap();
        }
        pump.until("all datagrams", |pump| pump.received.len() == 30);
        let received: Vec<_> = pump.received.drain(..).map(|(_, bytes)| bytes).collect();
        assert_eq!(received, expected);

        let sender = pump.sender();
        let empty = Outgoing { destination: Some(to), ..Outgoing::new(sender, &[], 9) };
        pump.io.send(&empty).unwrap();
        pump.until("the send", |pump| pump.sent == [(9, Ok(0))]);
        assert_eq!(recv(&sink), b"");
    }

    fn sends_to_one_socket_leave_in_the_order_queued(choice) {
        let mut pump = Pump::new(choice);
        let (sink_a, to_a) = sink();
        let (sink_b, to_b) = sink();
        let senders = [pump.sender(), pump.sender()];
        for number in 0..100u64 {
            let to = if number % 3 == 0 { to_a } else { to_b };
            pump.send_to(senders[usize::from(number % 3 == 0)], to, &number.to_be_bytes(), number).unwrap();
        }
        pump.until("all sends", |pump| pump.sent.len() == 100);
        assert!(pump.sent.iter().all(|(_, result)| *result == Ok(8)));
        let mut tokens: Vec<_> = pump.sent.iter().map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..100).collect::<Vec<_>>());
        for (socket, numbers) in [(&sink_a, (0..100u64).filter(|n| n % 3 == 0)), (&sink_b, (0..100).filter(|n| n % 3 != 0))]
            as [(_, std::iter::Filter<std::ops::Range<u64>, fn(&u64) -> bool>); 2]
        {
            for number in numbers {
                assert_eq!(recv(socket), number.to_be_bytes());
            }
            nothing_more(socket);
        }
    }

    fn flush_sends_at_once_and_the_next_wait_reports_it(choice) {
        let mut pump = Pump::new(choice);
        let (sink, to) = sink();
        let sender = pump.sender();
        pump.send_to(sender, to, b"now", 1).unwrap();
        nothing_more(&sink);
        pump.io.flush().unwrap();
        assert_eq!(recv(&sink), b"now");
        pump.until("the event", |pump| pump.sent == [(1, Ok(3))]);
    }

    fn the_buffers_that_are_free_go_to_the_receiver_that_comes_first(choice) {
        let mut pump = Pump::new(choice);
        pump.hold = true;
        let (last, last_address) = pump.receiver(NAME_V4);
        let (first, first_address) = pump.receiver(NAME_V4);
        pump.io.prioritize(last, 7);
        let (source, _) = sink();
        let send = |to, count| (0..count).for_each(|number| _ = source.send_to(&pattern(number, 100), to).unwrap());
        send(last_address, 64);
        pump.until("all buffers are held", |pump| pump.held.len() == 64);
        // Both are starved now, and have more waiting than there are buffers.
        send(last_address, 80);
        send(first_address, 80);
        pump.quiet();
        pump.recycle_held();
        pump.until("all buffers are held again", |pump| pump.held.len() == 64);
        let of_first = pump.held.iter().filter(|(socket, _)| *socket == first).count();
        assert!(of_first >= 32, "{of_first} of 64");
        pump.recycle_held();
    }

    fn a_send_of_64_parts_leaves_as_64_segments(choice) {
        let mut pump = Pump::new(choice);
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        let (sink, to) = sink();
        sink.send_to(&pattern(1, 64 * 500), address).unwrap();
        pump.until("the datagram", |pump| pump.held.len() == 1);
        let sender = pump.sender();
        let frame = &pump.held[0].1;
        // Backwards, so that parts which are mixed up are noticed.
        let parts: Vec<_> = (0..64).rev().map(|at| Part::Frame(frame, at * 500..(at + 1) * 500)).collect();
        let message = Outgoing { destination: Some(to), segment_bytes: Some(500), ..Outgoing::new(sender, &parts, 5) };
        pump.io.send(&message).unwrap();
        pump.recycle_held();
        pump.until("the send", |pump| pump.sent == [(5, Ok(64 * 500))]);
        let whole = pattern(1, 64 * 500);
        for at in (0..64).rev() {
            assert_eq!(recv(&sink), whole[at * 500..(at + 1) * 500]);
        }
        nothing_more(&sink);
    }

    fn a_message_too_long_fails_alone(choice) {
        let mut pump = Pump::new(choice);
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        let (sink, to) = sink();
        sink.send_to(&pattern(2, 60_000), address).unwrap();
        pump.until("the datagram", |pump| pump.held.len() == 1);
        let sender = pump.sender();
        pump.send_to(sender, to, b"before", 1).unwrap();
        let frame = &pump.held[0].1;
        let parts = [Part::Frame(frame, 0..60_000), Part::Frame(frame, 0..60_000)];
        pump.io.send(&Outgoing { destination: Some(to), ..Outgoing::new(sender, &parts, 2) }).unwrap();
        pump.send_to(sender, to, b"after", 3).unwrap();
        pump.until("three ends", |pump| pump.sent.len() == 3);
        assert_eq!(pump.sent, [(1, Ok(6)), (2, Err(libc::EMSGSIZE)), (3, Ok(5))]);
        assert_eq!((recv(&sink), recv(&sink)), (b"before".to_vec(), b"after".to_vec()));
        pump.recycle_held();
    }

    fn a_refused_connection_is_reported_to_the_send_after(choice) {
        let mut pump = Pump::new(choice);
        let nobody = common::bind().local_addr().unwrap();
        let socket = common::bind();
        socket.connect(nobody).unwrap();
        let sender = pump.io.add_sender(socket.into()).unwrap();
        for token in 0..4 {
            pump.io.send(&Outgoing::new(sender, &[Part::Inline(b"anyone?")], token)).unwrap();
            pump.until("the end", |pump| pump.sent.len() as u64 == token + 1);
        }
        let refused = Err(libc::ECONNREFUSED);
        assert_eq!(pump.sent, [(0, Ok(7)), (1, refused), (2, Ok(7)), (3, refused)]);
    }

    fn a_receiver_that_failed_receives_again(choice) {
        let mut pump = Pump::new(choice);
        let (peer, peer_address) = sink();
        let socket = common::bind();
        let address = socket.local_addr().unwrap();
        socket.connect(peer_address).unwrap();
        drop(peer);
        let key = pump.io.add_receiver(socket.into(), NAME_V4).unwrap();
        pump.quiet();
        pump.io.send(&Outgoing::new(key, &[Part::Inline(b"anyone?")], 1)).unwrap();
        pump.until("the failure", |pump| !pump.failed.is_empty());
        pump.quiet();
        assert_eq!(pump.failed, [(key, libc::ECONNREFUSED)]);
        let peer = UdpSocket::bind(peer_address).unwrap();
        peer.send_to(b"I am back", address).unwrap();
        pump.until("the datagram", |pump| pump.received == [(key, b"I am back".to_vec())]);
    }

    fn a_wait_takes_as_long_as_its_timeout_and_not_much_longer(choice) {
        let mut pump = Pump::new(choice);
        let _ = pump.receiver(NAME_V4);
        pump.quiet();
        for timeout in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(20), Duration::from_micros(20_500)] {
            let start = Instant::now();
            assert_eq!(pump.wait(Some(timeout)), 0);
            let took = start.elapsed();
            assert!(took >= timeout && took < timeout + Duration::from_secs(1), "{timeout:?} took {took:?}");
        }
    }

    fn a_wait_without_timeout_ends_with_the_first_datagram(choice) {
        let mut pump = Pump::new(choice);
        let (_, address) = pump.receiver(NAME_V4);
        let (source, _) = sink();
        let thread = std::thread::spawn(move || source.send_to(b"wake up", address).unwrap());
        while pump.received.is_empty() {
            pump.wait(None);
        }
        assert_eq!(thread.join().unwrap(), 7);
    }

    fn hop_limit_class_and_source_are_those_of_the_message(choice) {
        let mut pump = Pump::new(choice);
        pump.hold = true;
        for (bind, source) in [("127.0.0.1:0", "127.0.0.9"), ("[::1]:0", "::1")] {
            let socket = UdpSocket::bind(bind).unwrap();
            let to = socket.local_addr().unwrap();
            receive_options(&socket);
            let shape = ReceiveShape { name_bytes: 28, control_bytes: 128 };
            let _ = pump.io.add_receiver(socket.into(), shape).unwrap();
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let sender = pump.io.add_sender(UdpSocket::bind(any).unwrap().into()).unwrap();
            let source = Source { address: source.parse().unwrap(), interface_index: 1 };
            let message = Outgoing {
                destination: Some(to),
                hop_limit: Some(17),
                traffic_class: Some(0x88),
                source: Some(source),
                ..Outgoing::new(sender, &[Part::Inline(b"options")], 1)
            };
            pump.io.send(&message).unwrap();
            pump.until("the datagram", |pump| pump.held.len() == 1);
            let datagram = pump.io.datagram(&pump.held[0].1);
            assert_eq!(datagram.source().unwrap().ip(), source.address);
            let (level, ttl, class) = if to.is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS)
            };
            let value = |kind| {
                datagram.control_messages().find(|m| (m.level, m.kind) == (level, kind)).map(|m| m.data[0])
            };
            assert_eq!((value(ttl), value(class)), (Some(17), Some(0x88)));
            pump.recycle_held();
        }
    }

    fn a_datagram_longer_than_its_buffer_says_so(choice) {
        let mut pump = Pump::with(&IoConfig { buffer_bytes: 1000, ..small(choice) });
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        let (source, _) = sink();
        source.send_to(&pattern(1, 1000), address).unwrap();
        source.send_to(&pattern(2, 3000), address).unwrap();
        pump.until("both", |pump| pump.held.len() == 2);
        let fits = pump.io.datagram(&pump.held[0].1);
        assert_eq!((fits.payload, fits.truncated), (&pattern(1, 1000)[..], false));
        let cut = pump.io.datagram(&pump.held[1].1);
        assert!(cut.truncated && cut.payload.len() >= 1000 && cut.payload.len() < 3000);
        assert_eq!(cut.payload, &pattern(2, 3000)[..cut.payload.len()]);
        pump.recycle_held();
    }

    fn messages_that_cannot_be_are_refused_and_leave_nothing_behind(choice) {
        let mut pump = Pump::with(&IoConfig { sends_max: 2, ..small(choice) });
        pump.hold = true;
        let (_, address) = pump.receiver(NAME_V4);
        let (sink, to) = sink();
        sink.send_to(b"0123456789", address).unwrap();
        pump.until("the datagram", |pump| pump.held.len() == 1);
        let sender = pump.sender();
        let frame = &pump.held[0].1;
        let refused = |io: &mut mcr_uring_io::Io, parts: &[Part<'_>], hop_limit, why| {
            assert_eq!(io.send(&Outgoing { hop_limit, ..Outgoing::new(sender, parts, 0) }), Err(why));
        };
        let io = &mut pump.io;
        refused(io, &vec![Part::Frame(frame, 0..1); 65], None, SendError::TooManyParts);
        refused(io, &[Part::Inline(&[0; 100]), Part::Inline(&[0; 29])], None, SendError::InlineTooLong);
        refused(io, &[Part::Frame(frame, 0..5), Part::Frame(frame, 5..11)], None, SendError::PartOutOfRange);
        #[allow(clippy::reversed_empty_ranges)]
        refused(io, &[Part::Frame(frame, 5..4)], None, SendError::PartOutOfRange);
        refused(io, &[Part::Frame(frame, 0..5)], Some(3), SendError::FamilyUnknown);
        pump.recycle_held();
        for token in 0..2 {
            pump.send_to(sender, to, b"good", token).unwrap();
        }
        assert_eq!(pump.send_to(sender, to, b"more", 2), Err(SendError::Full));
        pump.until("both ends", |pump| pump.sent.len() == 2);
        pump.send_to(sender, to, b"more", 2).unwrap();
        pump.until("the third end", |pump| pump.sent == [(0, Ok(4)), (1, Ok(4)), (2, Ok(4))]);
    }

    fn a_full_queue_is_an_error_of_each_send_and_reorders_nothing(choice) {
        let mut pump = Pump::new(choice);
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        // The kernel makes of it the least it allows: room for a few datagrams.
        set_option(&ours, libc::SOL_SOCKET, libc::SO_SNDBUF, 1);
        let sender = pump.io.add_sender(ours.into()).unwrap();
        for token in 0..100u8 {
            pump.io.send(&Outgoing::new(sender, &[Part::Inline(&[token])], token.into())).unwrap();
        }
        pump.until("all ends", |pump| pump.sent.len() == 100);
        let sent = pump.sent.iter().take_while(|(_, result)| *result == Ok(1)).count();
        assert!(sent > 0 && sent < 100);
        assert!(pump.sent[sent..].iter().all(|(_, result)| *result == Err(libc::EAGAIN)));
        theirs.set_nonblocking(true).unwrap();
        for token in 0..sent {
            let mut byte = [0];
            assert_eq!((theirs.recv(&mut byte).unwrap(), byte[0]), (1, token as u8));
        }
        assert!(theirs.recv(&mut [0]).is_err());
    }
}

/// Has the socket tell hop limit and traffic class of what it receives.
fn receive_options(socket: &UdpSocket) {
    let options = if socket.local_addr().unwrap().is_ipv4() {
        [(libc::IPPROTO_IP, libc::IP_RECVTTL), (libc::IPPROTO_IP, libc::IP_RECVTOS)]
    } else {
        [(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT), (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)]
    };
    for (level, option) in options {
        set_option(socket, level, option, 1);
    }
}

fn set_option(socket: &impl std::os::fd::AsRawFd, level: i32, option: i32, value: libc::c_int) {
    // SAFETY: the value is an int that lives until the call's end, and its size is an int's.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    assert_eq!(result, 0);
}
