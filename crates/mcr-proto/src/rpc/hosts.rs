//! Workers and interfaces as clients see them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::message::{IoChoice, WorkerState};

/// Result of `worker.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerList {
    /// In order of index.
    pub workers: Vec<WorkerInfo>,
}

/// A worker as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its place.
    pub index: u16,
    /// Its process, if one runs.
    pub pid: Option<u32>,
    /// Its state.
    pub state: WorkerState,
    /// The core it is pinned to.
    pub core: Option<u16>,
    /// The I/O back end in use.
    pub io: Option<IoChoice>,
    /// How often it was started again.
    pub restarts: u32,
    /// Rules it carries.
    pub rules: u32,
    /// Sockets it holds.
    pub sockets: u32,
    /// The plan it should have.
    pub desired_generation: u64,
    /// The plan it has.
    pub applied_generation: u64,
}

/// Result of `interface.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceList {
    /// In order of index.
    pub interfaces: Vec<InterfaceInfo>,
}

/// An interface as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceInfo {
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
    /// Link-layer address, as `aa:bb:cc:dd:ee:ff`.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The driver's kind, such as `veth`, if the kernel says.
    pub kind: Option<String>,
    /// Rules that use it.
    pub rules: u32,
}
