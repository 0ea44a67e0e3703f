//! A source, a relay with its daemon, and sinks; and the cells that a test runs in.

use mcr_client::Client;
use mcr_lab::Line;
use mcr_proto::{
    message::RuleState,
    rpc::{RuleInfo, Stats},
    rule::{Datapath, DatapathChoice, RuleSpec},
};

use crate::{
    daemon::{Daemon, DaemonOptions},
    eventually, law,
    sink::Sink,
    source::Source,
};

/// One combination of data path and I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// The data path that rules ask for.
    pub datapath: Datapath,
    /// `--io` of the daemon.
    pub io: &'static str,
}

impl Cell {
    /// Packet sockets, io_uring.
    pub const PACKET_URING: Self = Self { datapath: Datapath::Packet, io: "uring" };
    /// Packet sockets, recvmmsg and sendmmsg.
    pub const PACKET_SYSCALLS: Self = Self { datapath: Datapath::Packet, io: "syscalls" };
    /// UDP sockets, io_uring.
    pub const UDP_URING: Self = Self { datapath: Datapath::Udp, io: "uring" };
    /// UDP sockets, recvmmsg and sendmmsg.
    pub const UDP_SYSCALLS: Self = Self { datapath: Datapath::Udp, io: "syscalls" };

    /// Programs in the kernel.
    pub const KERNEL: Self = Self { datapath: Datapath::Kernel, io: "auto" };

    /// Options of a daemon in this cell.
    pub fn daemon(self, workers: u16) -> DaemonOptions {
        DaemonOptions { workers, io: self.io, ..DaemonOptions::default() }
    }

    /// A rule in this cell.
    ///
    /// # Panics
    /// If the texts are no rule.
    pub fn rule(self, name: &str, input: &str, outputs: &[&str]) -> RuleSpec {
        let parsed =
            outputs.iter().map(|output| output.parse().unwrap_or_else(|error| panic!("{output}: {error}")));
        let mut rule =
            RuleSpec::new(input.parse().unwrap_or_else(|error| panic!("{input}: {error}")), parsed.collect());
        rule.name = Some(name.parse().expect("a name"));
        rule.datapath = match self.datapath {
            Datapath::Packet => DatapathChoice::Packet,
            Datapath::Udp => DatapathChoice::Udp,
            Datapath::Kernel => DatapathChoice::Kernel,
        };
        rule
    }
}

/// A network with a daemon at work in its middle.
#[derive(Debug)]
pub struct Bed {
    /// The daemon, in the relay.
    pub daemon: Daemon,
    /// A connection to it.
    pub client: Client,
    /// The network.
    pub line: Line,
    /// What rules and daemon are made for.
    pub cell: Cell,
}

impl Bed {
    /// A network with `sinks` sinks and a daemon with one worker.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(cell: Cell, sinks: u8) -> Self {
        Self::with_workers(cell, sinks, 1)
    }

    /// A network with `sinks` sinks and a daemon with `workers` workers. Neighbours know each other.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn with_workers(cell: Cell, sinks: u8, workers: u16) -> Self {
        Self::with_daemon(cell, sinks, &cell.daemon(workers))
    }

    /// A network with `sinks` sinks and a daemon with these options. Neighbours know each other.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn with_daemon(cell: Cell, sinks: u8, options: &DaemonOptions) -> Self {
        let line = Line::with_outputs(sinks).unwrap_or_else(|error| panic!("{error}"));
        line.pin_neighbours().unwrap_or_else(|error| panic!("{error}"));
        let daemon = Daemon::start(&line.relay, options);
        let client = daemon.client();
        Self { daemon, client, line, cell }
    }

    /// Adds a rule, which must relay when this returns.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn add(&mut self, name: &str, input: &str, outputs: &[&str]) -> RuleInfo {
        let added = self.add_in_any_state(name, input, outputs);
        assert_eq!((added.state, added.datapath), (RuleState::Active, Some(self.cell.datapath)), "{added:?}");
        added
    }

    /// Adds a rule.
    ///
    /// # Panics
    /// If the daemon refuses it.
    #[track_caller]
    pub fn add_in_any_state(&mut self, name: &str, input: &str, outputs: &[&str]) -> RuleInfo {
        let added = self.client.rule_add(&self.cell.rule(name, input, outputs));
        let added = added.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(added.created, "{added:?}");
        added.rule
    }

    /// Removes a rule.
    ///
    /// # Panics
    /// If the daemon refuses.
    #[track_caller]
    pub fn remove(&mut self, name: &str) {
        let rule = mcr_proto::rpc::rule_ref(name).expect("a name");
        self.client.rule_remove(&rule).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Waits until a rule and all its outputs are active and the workers have what follows from it.
    ///
    /// # Panics
    /// If it does not come to that.
    #[track_caller]
    pub fn wait_active(&mut self, rule: &str) {
        let reference = mcr_proto::rpc::rule_ref(rule).expect("a name");
        eventually(&format!("{rule} is active"), || {
            let rules = self.client.rules(Some(&reference)).unwrap_or_else(|error| panic!("{rule}: {error}"));
            let outputs = rules[0].output_states.iter().map(|output| output.state);
            outputs.chain([rules[0].state]).all(|state| state == RuleState::Active)
        });
        self.wait_applied();
    }

    /// Waits until each worker has applied what it should have. The state of a rule is what the supervisor wants: it says
    /// active a moment before the worker relays.
    ///
    /// # Panics
    /// If they do not.
    #[track_caller]
    pub fn wait_applied(&mut self) {
        eventually("the workers have what they should", || {
            let workers = self.client.workers().unwrap_or_else(|error| panic!("{error}"));
            workers.iter().all(|worker| worker.applied_generation == worker.desired_generation)
        });
    }

    /// A socket at the source's IPv4 or IPv6 address for `to`.
    pub fn source(&self, to: &str) -> Source {
        let from = if to.starts_with('[') { "[fd00:1::1]:0" } else { "10.1.0.1:0" };
        Source::open(&self.line.source, from, to)
    }

    /// A socket of sink `index` at `endpoint`.
    pub fn sink(&self, index: usize, endpoint: &str) -> Sink {
        Sink::open(&self.line.sinks[index], endpoint)
    }

    /// The counters at rest, the law checked.
    #[track_caller]
    pub fn at_rest(&mut self) -> Stats {
        law::at_rest(&mut self.client)
    }

    /// The counters at rest, after which the daemon must have nothing to complain of and stop in order.
    ///
    /// # Panics
    /// If anything is not as it must be.
    #[track_caller]
    pub fn finish(mut self) -> Stats {
        let stats = self.at_rest();
        let workers = self.client.workers().expect("it answers");
        assert!(workers.iter().all(|worker| worker.restarts == 0), "{workers:?}");
        assert_eq!(self.daemon.log(), "", "the daemon has warned");
        self.daemon.stop();
        stats
    }
}

/// Makes a test of `fn name(cell) { .. }` for each data path and I/O, as `name::packet_uring` and so on. Each holds the
/// traffic lock and is skipped where namespaces cannot be made.
#[macro_export]
macro_rules! in_every_cell {
    ($(fn $name:ident($cell:ident) $body:block)+) => {
        $crate::in_cells! {
            packet_uring = PACKET_URING, packet_syscalls = PACKET_SYSCALLS,
            udp_uring = UDP_URING, udp_syscalls = UDP_SYSCALLS, kernel = KERNEL;
            $(fn $name($cell) $body)+
        }
    };
}

/// As [`in_every_cell`], for what the `kernel` path leaves to the others.
#[macro_export]
macro_rules! in_worker_cells {
    ($(fn $name:ident($cell:ident) $body:block)+) => {
        $crate::in_cells! {
            packet_uring = PACKET_URING, packet_syscalls = PACKET_SYSCALLS,
            udp_uring = UDP_URING, udp_syscalls = UDP_SYSCALLS;
            $(fn $name($cell) $body)+
        }
    };
}

/// As [`in_every_cell`], for what only the `packet` path does.
#[macro_export]
macro_rules! in_packet_cells {
    ($(fn $name:ident($cell:ident) $body:block)+) => {
        $crate::in_cells! {
            packet_uring = PACKET_URING, packet_syscalls = PACKET_SYSCALLS;
            $(fn $name($cell) $body)+
        }
    };
}

/// As [`in_every_cell`], for what holds where frames are seen.
#[macro_export]
macro_rules! in_frame_cells {
    ($(fn $name:ident($cell:ident) $body:block)+) => {
        $crate::in_cells! {
            packet_uring = PACKET_URING, packet_syscalls = PACKET_SYSCALLS, kernel = KERNEL;
            $(fn $name($cell) $body)+
        }
    };
}

/// As [`in_every_cell`], for what only the `udp` path does.
#[macro_export]
macro_rules! in_udp_cells {
    ($(fn $name:ident($cell:ident) $body:block)+) => {
        $crate::in_cells! {
            udp_uring = UDP_URING, udp_syscalls = UDP_SYSCALLS;
            $(fn $name($cell) $body)+
        }
    };
}

/// The cells by name; see [`in_every_cell`].
#[doc(hidden)]
#[macro_export]
macro_rules! in_cells {
    ($($test:ident = $value:ident),+; fn $name:ident($cell:ident) $body:block $($rest:tt)*) => {
        $crate::in_cells! { @one [$($test = $value),+] $name $cell $body }
        $crate::in_cells! { $($test = $value),+; $($rest)* }
    };
    ($($test:ident = $value:ident),+;) => {};
    (@one [$($test:ident = $value:ident),+] $name:ident $cell:ident $body:block) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn run($cell: $crate::Cell) $body

            $(
                #[test]
                fn $test() {
                    let Some(()) = mcr_lab::require::netns() else { return };
                    let _lock = $crate::traffic_lock::take();
                    run($crate::Cell::$value);
                }
            )+
        }
    };
}
