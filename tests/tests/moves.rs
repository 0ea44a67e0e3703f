//! Rules that change their worker while datagrams flow.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use mcr_e2e::{Bed, eventually, in_udp_cells, law, streams::Streams};
use mcr_proto::rpc::rule_ref;

const STREAMS: usize = 4;
const WORKERS: u16 = 3;
/// Datagrams a second of each stream.
const RATE: u32 = 1_000;
const MOVES: u16 = 60;

in_udp_cells! {
    fn a_rule_with_a_udp_socket_changes_its_worker_and_each_datagram_comes_once_and_in_its_turn(cell) {
        let mut bed = Bed::with_workers(cell, 1, WORKERS);
        let streams = Streams::start(&mut bed, STREAMS, RATE);
        eventually("traffic flows", || streams.received() > 100);
        for round in 0..MOVES {
            for stream in 0..STREAMS {
                let name = rule_ref(&format!("stream-{stream}")).unwrap();
                let to = (round + stream as u16) % WORKERS;
                assert_eq!(bed.client.rule_move(&name, to).unwrap().worker, to);
            }
            // Each move under traffic, those of the slowest machine as well.
            let seen = streams.received();
            eventually("the streams flow", || streams.received() > seen);
        }
        let (sent, arrived) = streams.stop(&mut bed);
        for (stream, arrived) in arrived.iter().enumerate() {
            assert_eq!((arrived.received, arrived.out_of_place), (sent, 0), "stream {stream}: {arrived:?}");
        }
        let stats = bed.finish();
        let (input, all) = (law::input(&stats, "in0"), sent * STREAMS as u64);
        assert_eq!((input.datagrams, input.matched, input.drops.len()), (all, all, 0), "{input:?}");
    }

    fn rules_of_one_group_change_their_workers_one_by_one_and_the_one_that_stays_gets_all(cell) {
        let mut bed = Bed::with_workers(cell, 1, WORKERS);
        let streams = Streams::start(&mut bed, 1, RATE);
        // Of the same input, so of the same socket.
        bed.add("other", "239.1.1.0:5000@in0", &["239.9.9.9:7000@out0"]);
        let other = rule_ref("other").unwrap();
        eventually("traffic flows", || streams.received() > 100);
        for round in 0..MOVES {
            let to = round % WORKERS;
            assert_eq!(bed.client.rule_move(&other, to).unwrap().worker, to);
            let seen = streams.received();
            eventually("the stream flows", || streams.received() > seen);
        }
        let (sent, arrived) = streams.stop(&mut bed);
        assert_eq!((arrived[0].received, arrived[0].out_of_place), (sent, 0), "{arrived:?}");
        let stats = bed.finish();
        assert_eq!(law::rule(&stats, "stream-0").datagrams, sent);
    }
}
