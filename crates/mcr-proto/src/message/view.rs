//! Rules, workers, interfaces and inputs as they stand.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::IoChoice;
use crate::{
    endpoint::{IfName, Output},
    plan::{Generation, InputSlot, OutputSlot, RuleSlot, WorkerIndex},
    reflect::{Reflect, ReflectMode},
    rule::{Datapath, RuleId, RuleSpec},
};

/// The state of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleState {
    /// An interface it needs is missing.
    Unresolved,
    /// Relaying.
    Active,
    /// An interface it needs is down.
    Paused,
    /// Switched off by the user.
    Disabled,
    /// Something the host refused, such as a socket; tried again.
    Failed,
}

impl std::fmt::Display for RuleState {
    /// The name under which it is published.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Unresolved => "unresolved",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Failed => "failed",
        })
    }
}

/// A rule as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// The daemon's number.
    pub id: RuleId,
    /// The rule as configured; its name is always there.
    pub spec: RuleSpec,
    /// Its state.
    pub state: RuleState,
    /// Why it is in this state, if not active.
    pub reason: Option<String>,
    /// The worker that carries it.
    pub worker: WorkerIndex,
    /// The data path in use.
    pub datapath: Option<Datapath>,
    /// Why this data path.
    pub datapath_reason: String,
    /// Its datagrams are kept from the host's IP stack.
    pub swallowed: bool,
    /// Its counters.
    pub slot: RuleSlot,
    /// Its outputs, in the order of the spec.
    pub outputs: Vec<OutputView>,
}

/// An output as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputView {
    /// Its counters.
    pub slot: OutputSlot,
    /// As configured.
    pub output: Output,
    /// Its state.
    pub state: RuleState,
    /// Why it is in this state, if not active.
    pub reason: Option<String>,
}

/// A worker as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its place.
    pub index: WorkerIndex,
    /// Its process, if one runs.
    pub pid: Option<u32>,
    /// Its state.
    pub state: WorkerState,
    /// The core it is pinned to.
    pub core: Option<u16>,
    /// The I/O back end in use, once it is known.
    pub io: Option<IoChoice>,
    /// How often it was started again.
    pub restarts: u32,
    /// Rules it carries.
    pub rules: u32,
    /// Sockets it was given.
    pub sockets: u32,
    /// The plan it should have.
    pub desired: Generation,
    /// The plan it has.
    pub applied: Generation,
}

/// The state of a worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Started, not ready yet.
    Starting,
    /// Ready.
    Running,
    /// Dead; started again after a pause.
    Backoff,
}

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Carrier present.
    pub running: bool,
    /// Can multicast.
    pub multicast: bool,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Link-layer address.
    pub mac: Option<[u8; 6]>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The driver's kind, such as `veth`, if the kernel says.
    pub kind: Option<String>,
    /// Rules that use it.
    pub rules: u32,
}

/// An input: what one worker receives on one interface by one data path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputView {
    /// Its counters.
    pub slot: InputSlot,
    /// The worker that reads it.
    pub worker: WorkerIndex,
    /// The interface.
    pub interface: IfName,
    /// The data path.
    pub datapath: Datapath,
    /// The class of what it receives.
    pub class: Option<InputClass>,
    /// Whether a socket is open for it now.
    pub open: bool,
}

/// The class of an input's datagrams, and what put them there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputClass {
    /// Its name.
    pub name: String,
    /// By rule or by codepoint.
    pub by: ClassBy,
}

/// What puts a datagram into its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassBy {
    /// The class of its rule.
    Rule,
    /// Its DSCP, where the rule has no class.
    Dscp,
}

impl std::fmt::Display for ClassBy {
    /// The name under which it is published.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Rule => "rule",
            Self::Dscp => "dscp",
        })
    }
}

/// A reflector as it stands, with its counters; also how clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReflectView {
    /// Its name, as chosen or made.
    pub name: String,
    /// Its interface.
    pub interface: IfName,
    /// The UDP port of test packets.
    pub port: u16,
    /// What it exchanges.
    pub mode: ReflectMode,
    /// Its state.
    pub state: RuleState,
    /// Why it is in this state, if not active.
    pub reason: Option<String>,
    /// How it gets and sends frames, if it does.
    pub platform: Option<String>,
    /// Its process, if one runs.
    pub pid: Option<u32>,
    /// How often that was started again.
    pub restarts: u32,
    /// As it was asked for.
    pub options: Reflect,
    /// Frames and bytes received and reflected, and what could not be sent.
    pub counters: BTreeMap<String, u64>,
    /// Frames not reflected, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Frames reflected, by what they were.
    pub signatures: BTreeMap<String, u64>,
    /// Turn-round times, if they are measured.
    pub latency: Option<ReflectLatency>,
    /// What is wrong: it does not reflect, a process of it does not run, or frames came for ten seconds and none was reflected.
    #[serde(default)]
    pub fault: Option<String>,
    /// Its processes.
    #[serde(default)]
    pub workers: Vec<ReflectWorker>,
}

/// A process of a reflector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReflectWorker {
    /// The receive queues whose frames it gets; none where one process gets those of all (AF_PACKET).
    pub queues: Vec<u32>,
    /// The process, if one runs.
    pub pid: Option<u32>,
    /// Whether it reflects.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Frames it received.
    pub received: u64,
    /// Frames it reflected.
    pub reflected: u64,
}

/// Turn-round times of a reflector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReflectLatency {
    /// How many were measured.
    pub count: u64,
    /// The least.
    pub min_ns: u64,
    /// Their mean.
    pub mean_ns: u64,
    /// Half were no longer.
    pub p50_ns: u64,
    /// Nine of ten.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1,000.
    pub p999_ns: u64,
    /// The greatest.
    pub max_ns: u64,
}
