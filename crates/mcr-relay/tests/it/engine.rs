//! What the model does not ask: that runs are as long as they may be, and what is kept from plan to plan.

use std::net::SocketAddr;

use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Rate, Ttl},
    plan::{FlowSlot, InputSlot, OutputSlot, PlanOp, Route, RouteOutput, RuleSlot, SocketId, Span, Via},
};
use mcr_relay::engine::{Arrival, Counts, Engine, RUN_BYTES_MAX, RUN_DATAGRAMS_MAX, Send};

fn output(slot: u32) -> RouteOutput {
    RouteOutput {
        slot: OutputSlot(slot),
        destination: ([10, 0, 0, 1], 6000).into(),
        via: Via::Udp(SocketId(9)),
        ttl: Ttl::Fixed(64),
        dscp: Dscp::Keep,
        rate: None,
    }
}

fn route(rule: u32, outputs: Vec<RouteOutput>) -> Route {
    Route {
        rule: RuleSlot(rule),
        inputs: vec![SocketId(1)],
        source: None,
        address: [239, 1, 1, 1].into(),
        port: 5000,
        outputs,
    }
}

fn arrival(frame: u32, bytes: u32, segment: u16) -> Arrival {
    Arrival {
        socket: SocketId(1),
        input: InputSlot(1),
        source: ([10, 0, 0, 9], 4000).into(),
        destination: ([239, 1, 1, 1], 5000).into(),
        hop_limit: 8,
        traffic_class: 0,
        frame,
        offset: 42,
        bytes,
        segment,
        stamp_ns: 0,
    }
}

fn engine_with(routes: impl IntoIterator<Item = Route>) -> Engine {
    let mut engine = Engine::new(64);
    routes.into_iter().for_each(|route| engine.apply(PlanOp::Put(route)));
    engine
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    matched: u64,
    rules: Vec<(RuleSlot, u64)>,
    flows: u64,
    input_drops: Vec<(InputDrop, u64)>,
    output_drops: Vec<(OutputSlot, OutputDrop, u64)>,
}

impl Counts for Counted {
    fn matched(&mut self, _: InputSlot, datagrams: u64) {
        self.matched += datagrams;
    }

    fn input_drop(&mut self, _: InputSlot, reason: InputDrop, datagrams: u64) {
        self.input_drops.push((reason, datagrams));
    }

    fn begin_flow(&mut self, _: FlowSlot, _: RuleSlot, _: SocketAddr) {
        self.flows += 1;
    }

    fn rule(&mut self, rule: RuleSlot, datagrams: u64, _: u64, _: Option<FlowSlot>) {
        self.rules.push((rule, datagrams));
    }

    fn output_drop(&mut self, output: OutputSlot, reason: OutputDrop, datagrams: u64) {
        self.output_drops.push((output, reason, datagrams));
    }
}

/// Relays a batch at a time, and returns what is sent.
fn relay(engine: &mut Engine, arrivals: &[Arrival], now_ns: u64, counts: &mut Counted) -> Vec<Send> {
    let mut sends = Vec::new();
    for arrival in arrivals {
        engine.relay(arrival, counts).expect("64 runs are enough");
    }
    for run in 0..engine.runs().len() {
        engine.sends(run, now_ns, counts, |_, send| sends.push(send));
    }
    engine.clear_runs();
    sends
}

fn datagrams_of_sends(engine: &mut Engine, arrivals: &[Arrival]) -> Vec<u32> {
    let sends = relay(engine, arrivals, 0, &mut Counted::default());
    sends.iter().map(|send| send.datagrams).collect()
}

#[test]
fn equal_datagrams_leave_in_as_few_sends_as_the_kernel_takes() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    let equal = |count: u32, bytes| (0..count).map(|frame| arrival(frame, bytes, 0)).collect::<Vec<_>>();
    assert_eq!(datagrams_of_sends(&mut engine, &equal(150, 100)), [RUN_DATAGRAMS_MAX, RUN_DATAGRAMS_MAX, 22]);
    let by_bytes = RUN_BYTES_MAX / 1400;
    assert_eq!(datagrams_of_sends(&mut engine, &equal(100, 1400)), [by_bytes, by_bytes, 100 - 2 * by_bytes]);
    assert_eq!(datagrams_of_sends(&mut engine, &equal(2, 65_507)), [1, 1]);
    assert_eq!(datagrams_of_sends(&mut engine, &equal(3, 0)), [1, 1, 1]);
}

#[test]
fn a_shorter_datagram_ends_a_run_and_a_longer_one_begins_another() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    let sizes = [1400, 1400, 700, 1400, 1400, 1401, 1401, 3, 2];
    let arrivals: Vec<_> = (0..).zip(sizes).map(|(frame, bytes)| arrival(frame, bytes, 0)).collect();
    assert_eq!(datagrams_of_sends(&mut engine, &arrivals), [3, 2, 3, 1]);
}

#[test]
fn a_superframe_leaves_in_one_send_and_takes_equal_neighbours_along() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    assert_eq!(datagrams_of_sends(&mut engine, &[arrival(0, 7000, 1400)]), [5]);
    let neighbours =
        [arrival(0, 7000, 1400), arrival(1, 1400, 0), arrival(2, 2900, 1400), arrival(3, 1400, 0)];
    assert_eq!(datagrams_of_sends(&mut engine, &neighbours), [9, 1]);
}

#[test]
fn a_superframe_of_one_short_datagram_is_that_datagram() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    assert_eq!(datagrams_of_sends(&mut engine, &[arrival(0, 700, 1400), arrival(1, 700, 0)]), [2]);
}

#[test]
fn datagrams_that_differ_in_ecn_alone_share_a_run() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    let marked = |frame, traffic_class| Arrival { traffic_class, ..arrival(frame, 100, 0) };
    let arrivals = [marked(0, 0xb8), marked(1, 0xbb), marked(2, 0xb9), marked(3, 0x88)];
    let sends = relay(&mut engine, &arrivals, 0, &mut Counted::default());
    let left: Vec<_> = sends.iter().map(|send| (send.datagrams, send.traffic_class)).collect();
    assert_eq!(left, [(3, Some(0xb8)), (1, Some(0x88))]);
}

#[test]
fn datagrams_of_other_ttls_share_a_run_unless_an_output_keeps_the_ttl() {
    let arrivals = [7, 8, 8].map(|hop_limit| Arrival { hop_limit, ..arrival(hop_limit.into(), 100, 0) });
    let mut engine = engine_with([route(1, vec![output(1)])]);
    assert_eq!(datagrams_of_sends(&mut engine, &arrivals), [3]);
    let keeping = RouteOutput { ttl: Ttl::Keep, ..output(1) };
    let mut engine = engine_with([route(1, vec![keeping])]);
    let sends = relay(&mut engine, &arrivals, 0, &mut Counted::default());
    let left: Vec<_> = sends.iter().map(|send| (send.datagrams, send.hop_limit)).collect();
    assert_eq!(left, [(1, Some(6)), (2, Some(7))]);
}

#[test]
fn a_used_up_ttl_ends_at_the_input_only_if_no_output_of_any_rule_can_send() {
    let keeping = |slot| RouteOutput { ttl: Ttl::Keep, ..output(slot) };
    let expired = Arrival { hop_limit: 1, ..arrival(0, 100, 0) };

    let mut counts = Counted::default();
    let mut engine = engine_with([route(1, vec![keeping(1)]), route(2, vec![keeping(2)])]);
    assert_eq!(relay(&mut engine, &[expired], 0, &mut counts), []);
    assert_eq!(counts, Counted { input_drops: vec![(InputDrop::HopLimit, 1)], ..Counted::default() });

    // The second rule relays it: the first counts it too, and says at its output why it did not leave.
    let mut counts = Counted::default();
    let mut engine = engine_with([route(1, vec![keeping(1)]), route(2, vec![output(2)])]);
    let sends = relay(&mut engine, &[expired], 0, &mut counts);
    assert_eq!(sends.iter().map(|send| send.slot).collect::<Vec<_>>(), [OutputSlot(2)]);
    assert_eq!(counts.matched, 1);
    assert_eq!(counts.input_drops, []);
    assert_eq!(counts.rules, [(RuleSlot(1), 1), (RuleSlot(2), 1)]);
    assert_eq!(counts.output_drops, [(OutputSlot(1), OutputDrop::HopLimit, 1)]);
}

#[test]
fn an_unchanged_output_keeps_its_rate_and_its_segment_size_when_its_route_changes() {
    let capped = RouteOutput { rate: Some(Rate::PacketsPerSecond(1)), ..output(1) };
    let mut engine = engine_with([route(1, vec![capped.clone(), output(2)])]);
    let pair = [arrival(0, 100, 0), arrival(1, 100, 0)];
    let sends = relay(&mut engine, &pair, 0, &mut Counted::default());
    let left: Vec<_> = sends.iter().map(|send| (send.slot.0, send.datagrams)).collect();
    assert_eq!(left, [(1, 1), (2, 2)]);
    engine.refuse_segments(sends[1].output, 100);

    // Another output, and another source filter, which the datagrams pass.
    let source = Some([10, 0, 0, 9].into());
    engine.apply(PlanOp::Put(Route { source, ..route(1, vec![output(3), output(2), capped]) }));
    let sends = relay(&mut engine, &pair, 1, &mut Counted::default());
    let left: Vec<_> = sends.iter().map(|send| (send.slot.0, send.datagrams)).collect();
    assert_eq!(left, [(3, 2), (2, 1), (2, 1)]);
}

/// How many copies leave of a hundred datagrams by the outputs of these routes together.
fn burst(engine: &mut Engine, now_ns: u64) -> u32 {
    let all: Vec<_> = (0..100).map(|frame| arrival(frame, 100, 0)).collect();
    relay(engine, &all, now_ns, &mut Counted::default()).iter().map(|send| send.datagrams).sum()
}

fn capped(slot: u32) -> RouteOutput {
    RouteOutput { rate: Some(Rate::PacketsPerSecond(1_000)), ..output(slot) }
}

#[test]
fn a_route_that_takes_datagrams_in_and_sends_them_by_other_sockets_has_no_second_burst() {
    let mut engine = engine_with([route(1, vec![capped(1)])]);
    assert_eq!(burst(&mut engine, 0), 50);
    let moved = RouteOutput { via: Via::Udp(SocketId(8)), ..capped(1) };
    let inputs = vec![SocketId(1), SocketId(2)];
    engine.apply(PlanOp::Put(Route { inputs, ..route(1, vec![moved]) }));
    assert_eq!(burst(&mut engine, 10_000_000), 10, "what ten milliseconds pay for");
    let faster = RouteOutput { rate: Some(Rate::PacketsPerSecond(2_000)), ..capped(1) };
    engine.apply(PlanOp::Put(route(1, vec![faster])));
    assert_eq!(burst(&mut engine, 10_000_000), 100, "another rate begins anew");
}

#[test]
fn a_rule_that_goes_on_from_another_shares_its_rates_and_one_from_elsewhere_has_no_burst() {
    let mut engine =
        engine_with([route(1, vec![capped(1), output(2)]), route(2, vec![output(3), capped(4)])]);
    engine.apply(PlanOp::Continue { rule: RuleSlot(2), from: Some(RuleSlot(1)) });
    // Both are there for a while: 50 of the one rate, and 100 each of those that have none.
    assert_eq!(burst(&mut engine, 0), 250);
    engine.apply(PlanOp::Remove(RuleSlot(1)));
    assert_eq!(burst(&mut engine, 10_000_000), 110);

    // Other places and rates do not: that is another rule's business.
    let elsewhere = RouteOutput { destination: ([10, 0, 0, 7], 6000).into(), ..capped(5) };
    engine.apply(PlanOp::Put(route(3, vec![elsewhere])));
    engine.apply(PlanOp::Continue { rule: RuleSlot(3), from: Some(RuleSlot(2)) });
    engine.apply(PlanOp::Remove(RuleSlot(2)));
    assert_eq!(burst(&mut engine, 10_000_000), 50);

    engine.apply(PlanOp::Put(route(4, vec![capped(6)])));
    engine.apply(PlanOp::Continue { rule: RuleSlot(4), from: None });
    engine.apply(PlanOp::Remove(RuleSlot(3)));
    assert_eq!([100_000_000, 110_000_000].map(|now_ns| burst(&mut engine, now_ns)), [1, 10]);
    // Two outputs to one place, by two interfaces perhaps, have a rate each.
    engine.apply(PlanOp::Put(route(5, vec![capped(7), capped(8)])));
    engine.apply(PlanOp::Continue { rule: RuleSlot(5), from: Some(RuleSlot(4)) });
    engine.apply(PlanOp::Remove(RuleSlot(4)));
    assert_eq!(burst(&mut engine, 110_000_000), 50);
    engine.apply(PlanOp::Put(route(4, vec![capped(6)])));
    engine.apply(PlanOp::Continue { rule: RuleSlot(4), from: None });
    engine.apply(PlanOp::Remove(RuleSlot(5)));
    assert_eq!(burst(&mut engine, 110_000_000), 1);
    // Rules and routes that are not there are no error.
    engine.apply(PlanOp::Continue { rule: RuleSlot(9), from: Some(RuleSlot(4)) });
    engine.apply(PlanOp::Continue { rule: RuleSlot(4), from: Some(RuleSlot(9)) });
    assert_eq!(burst(&mut engine, 110_000_000), 0);
}

#[test]
fn smaller_segments_than_those_refused_still_leave_together() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    let pair = |bytes| [arrival(0, bytes, 0), arrival(1, bytes, 0)];
    let sends = relay(&mut engine, &pair(1400), 0, &mut Counted::default());
    engine.refuse_segments(sends[0].output, 1400);
    assert_eq!(datagrams_of_sends(&mut engine, &pair(1400)), [1, 1]);
    assert_eq!(datagrams_of_sends(&mut engine, &pair(1399)), [2]);
}

#[test]
fn a_removed_rule_takes_nothing_and_its_flows_are_new_when_it_comes_back() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    let mut counts = Counted::default();
    relay(&mut engine, &[arrival(0, 100, 0), arrival(1, 100, 0)], 0, &mut counts);
    assert_eq!((counts.flows, counts.matched), (1, 2));
    engine.apply(PlanOp::Remove(RuleSlot(1)));
    assert_eq!(engine.route_count(), 0);
    relay(&mut engine, &[arrival(0, 100, 0)], 0, &mut counts);
    assert_eq!(counts.input_drops, [(InputDrop::NoRule, 1)]);
    engine.apply(PlanOp::Put(route(1, vec![output(1)])));
    relay(&mut engine, &[arrival(0, 100, 0)], 0, &mut counts);
    assert_eq!((counts.flows, counts.matched), (2, 3));
}

#[test]
#[should_panic(expected = "a plan is applied between batches")]
fn a_plan_is_refused_while_runs_refer_to_the_one_before() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    engine.relay(&arrival(0, 100, 0), &mut Counted::default()).expect("64 runs are enough");
    engine.apply(PlanOp::Remove(RuleSlot(1)));
}

#[test]
fn a_capped_socket_takes_so_many_and_the_rest_is_counted_by_rate() {
    let mut engine = engine_with([route(1, vec![output(1)])]);
    engine.cap(SocketId(1), 7, Rate::PacketsPerSecond(1_000));
    let mut counts = Counted::default();
    engine.tick(1_000_000_000);
    // A superframe of 40 and one of 20: a burst is 50.
    relay(&mut engine, &[arrival(0, 40 * 100, 100), arrival(1, 19 * 100 + 1, 100)], 0, &mut counts);
    assert_eq!((counts.matched, &counts.input_drops[..]), (50, &[(InputDrop::Rate, 10)][..]));
    // A millisecond pays for one.
    engine.tick(1_001_000_000);
    relay(&mut engine, &[arrival(0, 100, 0), arrival(1, 100, 0)], 0, &mut counts);
    assert_eq!((counts.matched, counts.input_drops.len()), (51, 2));
    // Without a cap all of them go on.
    engine.uncap(SocketId(1));
    relay(&mut engine, &[arrival(0, 60 * 100, 100)], 0, &mut counts);
    assert_eq!(counts.matched, 111);
}

#[test]
fn sockets_of_one_class_share_its_cap_and_what_no_rule_wants_takes_none_of_it() {
    let both = Route { inputs: vec![SocketId(1), SocketId(2)], ..route(1, vec![output(1)]) };
    let mut engine = engine_with([both]);
    for socket in [1, 2] {
        engine.cap(SocketId(socket), 7, Rate::PacketsPerSecond(1_000));
    }
    engine.tick(1_000_000_000);
    let mut counts = Counted::default();
    let unwanted = Arrival { destination: ([239, 9, 9, 9], 5000).into(), ..arrival(0, 60 * 100, 100) };
    let other = Arrival { socket: SocketId(2), ..arrival(2, 30 * 100, 100) };
    relay(&mut engine, &[unwanted, arrival(1, 30 * 100, 100), other], 0, &mut counts);
    assert_eq!(counts.matched, 50);
    assert_eq!(counts.input_drops, [(InputDrop::NoRule, 60), (InputDrop::Rate, 10)]);
}

#[test]
fn what_came_when_the_rule_went_another_way_is_left_to_that_and_the_rest_goes_through_this() {
    let other = RouteOutput { slot: OutputSlot(9), ..output(2) };
    let mut engine = engine_with([route(1, vec![output(1)])]);
    engine.apply(PlanOp::Limit {
        rule: RuleSlot(1),
        spans: vec![(SocketId(1), Span::from(100))],
        hold_ns: None,
    });
    let stamped = |stamp_ns| Arrival { stamp_ns, ..arrival(0, 100, 0) };
    let mine =
        |engine: &Engine| [0, 99, 100, u64::MAX - 1].map(|stamp| !engine.leaves_to_others(&stamped(stamp)));
    assert_eq!(mine(&engine), [false, false, true, true], "what has no stamp came before there were any");
    engine.apply(PlanOp::Limit {
        rule: RuleSlot(1),
        spans: vec![(SocketId(1), Span::until(100))],
        hold_ns: None,
    });
    assert_eq!(mine(&engine), [true, true, false, false]);

    // Another rule of the same datagrams, which goes on as it did.
    engine.apply(PlanOp::Put(route(2, vec![other])));
    assert_eq!(mine(&engine), [true; 4]);
    let mut counted = Counted::default();
    let sends = relay(&mut engine, &[stamped(99), stamped(100)], 0, &mut counted);
    assert_eq!(counted.rules, [(RuleSlot(1), 1), (RuleSlot(2), 1), (RuleSlot(2), 1)]);
    assert_eq!((counted.matched, counted.input_drops.len()), (2, 0));
    assert_eq!(sends.iter().map(|send| (send.slot.0, send.datagrams)).collect::<Vec<_>>(), [(1, 1), (9, 2)]);

    // A route that is put anew is without limits, and so is none that is removed counted on.
    engine.apply(PlanOp::Remove(RuleSlot(2)));
    engine.apply(PlanOp::Put(route(1, vec![output(1)])));
    assert_eq!(mine(&engine), [true; 4]);
    engine.apply(PlanOp::Limit { rule: RuleSlot(1), spans: vec![(SocketId(7), Span::NEVER)], hold_ns: None });
    assert_eq!(mine(&engine), [true; 4], "that is of another socket");
    engine.apply(PlanOp::Remove(RuleSlot(1)));
    assert_eq!(mine(&engine), [true; 4], "nobody's is for this worker to count as `no_rule`");
}

#[test]
fn what_came_at_a_time_that_is_not_certain_is_held_until_it_is() {
    let mut engine = engine_with([route(1, vec![output(1)]), route(2, vec![output(2)])]);
    let limit = |rule, at_ns, hold_ns| {
        let spans = vec![(SocketId(1), Span::until(at_ns))];
        PlanOp::Limit { rule: RuleSlot(rule), spans, hold_ns }
    };
    assert!(!engine.is_held(u64::MAX));
    engine.apply(limit(1, 100, Some(100)));
    engine.apply(limit(2, 50, Some(50)));
    assert_eq!([49, 50].map(|now| engine.is_held(now)), [false, true]);
    engine.apply(limit(2, 50, None));
    assert_eq!([99, 100].map(|now| engine.is_held(now)), [false, true]);
    engine.apply(PlanOp::Remove(RuleSlot(1)));
    assert!(!engine.is_held(u64::MAX));
}
