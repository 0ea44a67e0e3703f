//! What would become of a datagram: asked of the engine itself, so that the answer is what a worker does.
//!
//! What is not here: what the kernel makes of it before a worker sees it, and of the copies afterwards.

use std::net::SocketAddr;

use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    plan::{FlowSlot, InputSlot, OutputSlot, PlanOp, Route, RuleSlot, SocketId},
    probe::Probe,
    rule::RuleSpec,
};

use crate::engine::{Arrival, Counts, Engine, Send};

/// What the engine does with a datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ends at the input, if it does.
    pub input: Option<InputDrop>,
    /// The rules that take it.
    pub rules: Vec<RuleSlot>,
    /// What becomes of each copy: a send, or the counter it ends in.
    pub copies: Vec<(OutputSlot, Result<Send, OutputDrop>)>,
}

/// Asks what becomes of a datagram at a receiving socket with these routes. Rate caps are taken as not reached.
pub fn explain(socket: SocketId, routes: Vec<Route>, probe: &Probe) -> Outcome {
    let mut engine = Engine::new(0);
    routes.into_iter().for_each(|route| engine.apply(PlanOp::Put(route)));
    let arrival = Arrival {
        socket,
        input: InputSlot(0),
        source: probe.source,
        destination: probe.destination,
        hop_limit: probe.ttl,
        traffic_class: 0,
        frame: 0,
        offset: 0,
        bytes: 1,
        segment: 0,
        stamp_ns: 0,
    };
    let mut noted = Noted::default();
    engine.relay(&arrival, &mut noted).expect("an engine without runs makes room for its first arrival");
    let mut sends = Vec::new();
    for run in 0..engine.runs().len() {
        // The clock begins here: every cap has its full burst.
        engine.sends(run, 0, &mut noted, |_, send| sends.push((send.slot, Ok(send))));
    }
    engine.clear_runs();
    let Noted(mut outcome) = noted;
    outcome.copies.extend(sends);
    outcome
}

#[derive(Debug, Default)]
struct Noted(Outcome);

impl Counts for Noted {
    fn matched(&mut self, _: InputSlot, _: u64) {}

    fn input_drop(&mut self, _: InputSlot, reason: InputDrop, _: u64) {
        self.0.input = Some(reason);
    }

    fn begin_flow(&mut self, _: FlowSlot, _: RuleSlot, _: SocketAddr) {}

    fn rule(&mut self, rule: RuleSlot, _: u64, _: u64, _: Option<FlowSlot>) {
        self.0.rules.push(rule);
    }

    fn output_drop(&mut self, output: OutputSlot, reason: OutputDrop, _: u64) {
        self.0.copies.push((output, Err(reason)));
    }
}

/// Something that keeps a rule from taking a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It listens on another interface.
    Interface,
    /// It listens to another address.
    Address,
    /// It listens to another port.
    Port,
    /// It takes datagrams of one other sender only.
    Source,
}

/// What in the rule's input does not fit the datagram.
pub fn differences(spec: &RuleSpec, probe: &Probe) -> Vec<Difference> {
    let input = &spec.input;
    let found = [
        (input.interface != probe.interface, Difference::Interface),
        (input.address != probe.destination.ip(), Difference::Address),
        (input.port != probe.destination.port(), Difference::Port),
        (input.source.is_some_and(|source| source != probe.source.ip()), Difference::Source),
    ];
    found.into_iter().filter(|(differs, _)| *differs).map(|(_, difference)| difference).collect()
}

#[cfg(test)]
mod tests {
    use mcr_proto::{
        endpoint::{Dscp, Ttl},
        plan::{RouteOutput, Via},
    };

    use super::*;

    const SOCKET: SocketId = SocketId(3);

    fn route(rule: u32, source: Option<&str>, ttls: &[Ttl]) -> Route {
        let outputs = ttls.iter().enumerate().map(|(index, ttl)| RouteOutput {
            slot: OutputSlot(rule * 10 + index as u32),
            destination: "10.9.9.9:1".parse().expect("an address"),
            via: if index == 2 { Via::Nowhere } else { Via::Udp(SocketId(9)) },
            ttl: *ttl,
            dscp: Dscp::Keep,
            rate: None,
        });
        Route {
            rule: RuleSlot(rule),
            inputs: vec![SOCKET],
            source: source.map(|source| source.parse().expect("an address")),
            address: "239.1.1.1".parse().expect("an address"),
            port: 5000,
            outputs: outputs.collect(),
        }
    }

    fn probe(text: &str) -> Probe {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_rule_that_takes_it_and_every_copy_is_named() {
        let routes = vec![
            route(1, None, &[Ttl::Fixed(9), Ttl::Keep, Ttl::Fixed(9)]),
            route(2, Some("10.0.0.9"), &[Ttl::Keep]),
            route(3, Some("10.0.0.8"), &[Ttl::Keep]),
        ];
        let outcome = explain(SOCKET, routes, &probe("10.0.0.9:1 > 239.1.1.1:5000@eth0,ttl=5"));
        assert_eq!(outcome.input, None);
        assert_eq!(outcome.rules, [RuleSlot(1), RuleSlot(2)]);
        let fates: Vec<_> =
            outcome.copies.iter().map(|(slot, fate)| (slot.0, fate.map(|send| send.hop_limit))).collect();
        assert_eq!(
            fates,
            [(12, Err(OutputDrop::NoRoute)), (10, Ok(None)), (11, Ok(Some(4))), (20, Ok(Some(4)))]
        );
    }

    #[test]
    fn a_ttl_that_is_used_up_ends_where_the_engine_counts_it() {
        let keep = vec![route(1, None, &[Ttl::Keep])];
        let outcome = explain(SOCKET, keep, &probe("10.0.0.9:1 > 239.1.1.1:5000@eth0,ttl=1"));
        assert_eq!((outcome.input, outcome.rules.len()), (Some(InputDrop::HopLimit), 0));
        let mixed = vec![route(1, None, &[Ttl::Keep, Ttl::Fixed(1)])];
        let outcome = explain(SOCKET, mixed, &probe("10.0.0.9:1 > 239.1.1.1:5000@eth0,ttl=1"));
        assert_eq!(outcome.copies[0], (OutputSlot(10), Err(OutputDrop::HopLimit)));
        assert!(outcome.copies[1].1.is_ok());
    }

    #[test]
    fn what_no_rule_wants_is_counted_so_and_the_nearest_says_what_differs() {
        let routes = vec![route(3, Some("10.0.0.8"), &[Ttl::Keep])];
        let probe = probe("10.0.0.9:1 > 239.1.1.1:5000@eth0");
        assert_eq!(explain(SOCKET, routes, &probe).input, Some(InputDrop::NoRule));
        let differs = |input: &str| {
            let output = "10.9.9.9:1".parse().expect("an output");
            differences(&RuleSpec::new(input.parse().expect("an input"), vec![output]), &probe)
        };
        assert_eq!(differs("239.1.1.1:5000@eth0"), []);
        assert_eq!(differs("10.0.0.8>239.1.1.1:5000@eth0"), [Difference::Source]);
        assert_eq!(
            differs("239.1.1.2:5001@eth1"),
            [Difference::Interface, Difference::Address, Difference::Port]
        );
    }
}
