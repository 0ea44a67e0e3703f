//! Plans and arrivals made of bytes, so that proptest and the fuzzer share one generator. Few values, chosen to collide and to
//! lie on both sides of every limit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mcr_proto::{
    endpoint::{Dscp, Rate, Ttl},
    plan::{InputSlot, OutputSlot, PlanOp, Route, RouteOutput, RuleSlot, SocketId, Span, Via},
};
use mcr_relay::engine::Arrival;

const RULES: u8 = 6;
const OUTPUTS_MAX: u8 = 5;
const ARRIVALS_MAX: usize = 200;
/// The largest payload of UDP over IPv6 without jumbograms (RFC 8200).
const PAYLOAD_MAX: u32 = 65_527;
const SIZES: [u32; 14] =
    [0, 1, 2, 100, 1000, 1400, 1400, 1400, 1472, 9000, 32_733, 65_467, 65_468, PAYLOAD_MAX];

/// What happens to an engine.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// Runs the engine has at first.
    pub(crate) runs_max: usize,
    /// The smallest size that every output refuses in segments.
    pub(crate) refused_bytes: u16,
    /// In this order.
    pub(crate) steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Debug)]
pub(crate) enum Step {
    /// The plan changes.
    Apply(PlanOp),
    /// A batch is relayed.
    Batch {
        /// In this order, each in a frame of its own.
        arrivals: Vec<Arrival>,
        /// Time since the batch before.
        later_ns: u64,
    },
}

impl Scenario {
    /// The scenario these bytes stand for; every one stands for some.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut choices = Choices { rest: bytes };
        let runs_max = choices.of([64usize, 0, 1, 2, 5, 256]);
        let refused_bytes = choices.of([u16::MAX, u16::MAX, 1400, 1000, 0]);
        let mut steps = Vec::new();
        let mut routes: Vec<Route> = Vec::new();
        while !choices.rest.is_empty() {
            if choices.one_in(2) {
                let route = choices.route();
                routes.retain(|known| known.rule != route.rule);
                routes.push(route.clone());
                steps.push(Step::Apply(PlanOp::Put(route)));
            } else if choices.one_in(8) {
                let rule = RuleSlot(choices.below(RULES).into());
                let spans = [Span::until(5), Span::from(5), Span::from(5), Span::NEVER];
                let spans = (1..=choices.below(3)).map(|socket| (SocketId(socket.into()), choices.of(spans)));
                let spans = spans.collect();
                steps.push(Step::Apply(PlanOp::Limit { rule, spans, hold_ns: None }));
            } else if choices.one_in(8) {
                let rule = RuleSlot(choices.below(RULES).into());
                routes.retain(|known| known.rule != rule);
                steps.push(Step::Apply(PlanOp::Remove(rule)));
            } else {
                let later_ns = choices.of([0, 1, 1_000_000, 50_000_000, 2_000_000_000]);
                steps.push(Step::Batch { arrivals: choices.batch(&routes), later_ns });
            }
        }
        Self { runs_max, refused_bytes, steps }
    }
}

struct Choices<'a> {
    rest: &'a [u8],
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        self.rest.split_off_first().copied().unwrap_or(0)
    }

    fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    fn one_in(&mut self, n: u8) -> bool {
        self.below(n) == 1
    }

    fn of<T: Clone>(&mut self, values: impl AsRef<[T]>) -> T {
        let values = values.as_ref();
        values[usize::from(self.byte()) % values.len()].clone()
    }

    fn route(&mut self) -> Route {
        let rule = self.below(RULES);
        let outputs = self.below(OUTPUTS_MAX + 1);
        Route {
            rule: RuleSlot(rule.into()),
            inputs: self.of([vec![1], vec![1], vec![2], vec![1, 2]]).into_iter().map(SocketId).collect(),
            source: self.of([None, None, Some(source(0).ip()), Some(source(2).ip())]),
            address: self.of([group(0), group(0), group(1)]),
            port: self.of([5000, 5000, 5001]),
            outputs: (0..outputs).map(|index| self.output(rule, index)).collect(),
        }
    }

    fn output(&mut self, rule: u8, index: u8) -> RouteOutput {
        let slot = OutputSlot(u32::from(rule) * u32::from(OUTPUTS_MAX) + u32::from(index));
        let via = [Via::Udp(SocketId(10)), Via::Udp(SocketId(11)), Via::Raw(SocketId(12)), Via::Nowhere];
        let rates = [
            Rate::PacketsPerSecond(1),
            Rate::PacketsPerSecond(1000),
            Rate::PacketsPerSecond(u64::MAX),
            Rate::BitsPerSecond(1),
            Rate::BitsPerSecond(8_000_000),
            Rate::BitsPerSecond(u64::MAX),
        ];
        RouteOutput {
            slot,
            destination: SocketAddr::new(self.of([group(2), group(3)]), 6000),
            via: self.of(via),
            ttl: self.of([Ttl::Fixed(64), Ttl::Keep, Ttl::Fixed(1)]),
            dscp: self.of([Dscp::Keep, Dscp::Fixed(0), Dscp::Fixed(46)]),
            rate: if self.one_in(4) { Some(self.of(rates)) } else { None },
        }
    }

    fn batch(&mut self, routes: &[Route]) -> Vec<Arrival> {
        let mut arrivals: Vec<Arrival> = Vec::new();
        while arrivals.len() < ARRIVALS_MAX && !self.one_in(8) {
            let mut next = match arrivals.last() {
                Some(last) if !self.one_in(3) => *last,
                _ => self.origin(routes),
            };
            self.payload(&mut next);
            for _ in 0..self.of([1, 1, 2, 3, 70]) {
                next.frame = arrivals.len() as u32;
                arrivals.push(next);
            }
            if self.rest.is_empty() {
                break;
            }
        }
        arrivals
    }

    /// An arrival without payload; mostly one that a route wants.
    fn origin(&mut self, routes: &[Route]) -> Arrival {
        let wanted = if routes.is_empty() || self.one_in(8) { None } else { Some(self.of(routes)) };
        let (socket, destination) = match wanted {
            Some(route) => (route.inputs[0], SocketAddr::new(route.address, route.port)),
            None => (SocketId(self.of([1, 2, 3])), SocketAddr::new(group(self.below(4)), 5000)),
        };
        Arrival {
            socket,
            input: InputSlot(socket.0),
            source: source(self.below(4)),
            destination,
            hop_limit: self.of([64, 2, 1, 0, 255]),
            traffic_class: self.of([0, 0xb8, 0xb9, 3]),
            frame: 0,
            offset: self.of([0, 42, 1000]),
            bytes: 0,
            segment: 0,
            stamp_ns: self.of([0, 4, 5, 6]),
        }
    }

    fn payload(&mut self, arrival: &mut Arrival) {
        let any = u32::from(u16::from_be_bytes([self.byte(), self.byte()]));
        let size = if self.one_in(4) { any.min(PAYLOAD_MAX) } else { self.of(SIZES) };
        if self.one_in(2) {
            (arrival.bytes, arrival.segment) = (size, 0);
            return;
        }
        // A superframe: of few or many datagrams, the last often shorter, sometimes a single short one.
        let datagrams = u32::from(self.of([1u8, 2, 3, 5, 63, 64, 65, 130, 255]));
        let tail = if self.one_in(2) { any % size.max(1) } else { size };
        arrival.bytes = (size * (datagrams - 1) + tail).min(PAYLOAD_MAX);
        arrival.segment = size.max(1) as u16;
    }
}

fn group(index: u8) -> IpAddr {
    if index == 1 {
        return Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 1).into();
    }
    Ipv4Addr::new(239, 1, 1, index).into()
}

/// Four flows of three senders.
fn source(index: u8) -> SocketAddr {
    ([10, 0, 0, index.max(1)], 4000 + u16::from(index)).into()
}
