//! The flows of a worker: who sends, how much, since when. A table of fixed size; what finds no place in it is counted together.
//!
//! A row belongs to one flow of one rule for as long as the worker says so, then to another. A reader looks at the row's key, at what
//! it holds, and at the key again (a sequence lock): a row that changed hands in between is passed over.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use mcr_proto::plan::RuleSlot;

use crate::Counter;

/// A row: one line of the cache.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct FlowCounters {
    /// Whose it is, as a [`Key`]; 0 if nobody's.
    key: AtomicU64,
    /// The source's address, an IPv4 one in the first word.
    address: [Counter; 2],
    datagrams: Counter,
    bytes: Counter,
    first_seen_ns: Counter,
    last_seen_ns: Counter,
}

/// One flow, as it was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowSum {
    /// Who sends.
    pub source: SocketAddr,
    /// Datagrams.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// When the first one came, in nanoseconds since 1970.
    pub first_seen_ns: u64,
    /// When the last one came, in nanoseconds since 1970.
    pub last_seen_ns: u64,
}

/// `used | ipv6 | port (16) | rule (16) | turn (30)`. The turn tells one owner of a row from the next of the same rule and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key(u64);

const USED: u64 = 1 << 63;
const IPV6: u64 = 1 << 62;
const PORT_SHIFT: u32 = 46;
const RULE_SHIFT: u32 = 30;
const TURN_MASK: u64 = (1 << RULE_SHIFT) - 1;
const _: () = assert!(crate::RULE_SLOTS <= 1 << 16, "a rule's slot has 16 bits in a key");

impl Key {
    fn new(rule: RuleSlot, source: SocketAddr, turn: u64) -> Self {
        let family = if source.is_ipv6() { IPV6 } else { 0 };
        let (port, rule) = (u64::from(source.port()), u64::from(rule.0) & 0xffff);
        Self(USED | family | port << PORT_SHIFT | rule << RULE_SHIFT | turn & TURN_MASK)
    }

    fn is_of(self, rule: RuleSlot) -> bool {
        self.0 & USED != 0 && (self.0 >> RULE_SHIFT) & 0xffff == u64::from(rule.0)
    }

    fn source(self, address: [u64; 2]) -> SocketAddr {
        let ip = if self.0 & IPV6 == 0 {
            IpAddr::V4(Ipv4Addr::from_bits(address[0] as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(address[0]) << 64 | u128::from(address[1])))
        };
        SocketAddr::new(ip, (self.0 >> PORT_SHIFT) as u16)
    }
}

impl FlowCounters {
    /// Gives the row to a flow of which nothing is counted yet; for the one writer.
    pub fn begin(&self, rule: RuleSlot, source: SocketAddr, now_ns: u64) {
        let turn = self.end();
        let address = match source.ip() {
            IpAddr::V4(ip) => [u64::from(ip.to_bits()), 0],
            IpAddr::V6(ip) => [(ip.to_bits() >> 64) as u64, ip.to_bits() as u64],
        };
        self.address[0].set(address[0]);
        self.address[1].set(address[1]);
        [&self.datagrams, &self.bytes, &self.last_seen_ns].into_iter().for_each(|counter| counter.set(0));
        self.first_seen_ns.set(now_ns);
        self.key.store(Key::new(rule, source, turn + 1).0, Release);
    }

    /// Counts datagrams that came together at `now_ns`, nanoseconds since 1970; for the one writer.
    #[inline]
    pub fn arrived(&self, datagrams: u64, bytes: u64, now_ns: u64) {
        self.datagrams.add(datagrams);
        self.bytes.add(bytes);
        self.last_seen_ns.set(now_ns);
    }

    /// Takes the row from its flow; for the one writer. Gives the row's turn.
    pub fn end(&self) -> u64 {
        let turn = self.key.load(Relaxed) & TURN_MASK;
        self.key.store(turn, Relaxed);
        // Whoever reads what is written from here on reads that the row is nobody's.
        fence(Release);
        turn
    }

    /// Datagrams and bytes of whichever flow has the row.
    pub fn counts(&self) -> (u64, u64) {
        (self.datagrams.get(), self.bytes.get())
    }

    /// What the row says of a flow of `rule`; none if it is not of that rule.
    pub fn of(&self, rule: RuleSlot) -> Option<FlowSum> {
        let key = Key(self.key.load(Acquire));
        if !key.is_of(rule) {
            return None;
        }
        let sum = FlowSum {
            source: key.source([self.address[0].get(), self.address[1].get()]),
            datagrams: self.datagrams.get(),
            bytes: self.bytes.get(),
            first_seen_ns: self.first_seen_ns.get(),
            last_seen_ns: self.last_seen_ns.get(),
        };
        fence(Acquire);
        (self.key.load(Relaxed) == key.0).then_some(sum)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn source(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_row_says_who_sends_and_how_much_to_its_rule_alone() {
        for text in ["10.0.0.9:4000", "255.255.255.255:65535", "[2001:db8::9]:1", "[::]:0"] {
            let (row, rule) = (FlowCounters::default(), RuleSlot(65_535));
            assert_eq!(row.of(RuleSlot(0)), None);
            row.begin(rule, source(text), 5);
            row.arrived(2, 20, 7);
            row.arrived(1, 10, 9);
            let want =
                FlowSum { source: source(text), datagrams: 3, bytes: 30, first_seen_ns: 5, last_seen_ns: 9 };
            assert_eq!((row.of(rule), row.of(RuleSlot(1))), (Some(want), None));
            row.begin(RuleSlot(1), source("10.0.0.1:1"), 11);
            let next = row.of(RuleSlot(1)).map(|sum| (sum.datagrams, sum.bytes, sum.first_seen_ns));
            assert_eq!((row.of(rule), next), (None, Some((0, 0, 11))));
            row.end();
            assert_eq!(row.of(RuleSlot(1)), None);
        }
    }

    #[test]
    fn a_reader_sees_no_row_of_two_flows() {
        let row = FlowCounters::default();
        let done = AtomicBool::new(false);
        // Port, first time and each count are the same number: any other row is a mixture of two.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in (1..=u16::MAX).cycle().take(200_000) {
                    row.begin(RuleSlot(3), SocketAddr::from(([0, 0, (n >> 8) as u8, n as u8], n)), n.into());
                }
                done.store(true, Relaxed);
            });
            let mut seen = 0_u64;
            while !done.load(Relaxed) || seen == 0 {
                let Some(sum) = row.of(RuleSlot(3)) else { continue };
                seen += 1;
                let port = sum.source.port();
                let ip = SocketAddr::from(([0, 0, (port >> 8) as u8, port as u8], port));
                assert_eq!((sum.source, sum.first_seen_ns), (ip, u64::from(port)));
            }
        });
    }
}
