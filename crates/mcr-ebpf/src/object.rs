//! One loaded object: its program, its maps by their types, its links. The only place that speaks with the loader library.

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString},
    io,
    os::fd::AsFd as _,
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, IterableMap, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use crate::{
    batch,
    clsact::{self, Entry as IngressEntry, Filter},
    error::{AttachError, LoadError, UpdateError, os_error},
    layout::{
        Arrivals, Entry, FlowCounts, FlowKey, InputCounts, Key, OutputCounts, RuleCounts, Timing, TraceEntry,
    },
    loader,
};

static RELAY: &[u8] = aya::include_bytes_aligned!("../bpf/relay.bpf.o");

/// How many of each the maps hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) inputs: u32,
    pub(crate) rules: u32,
    pub(crate) outputs: u32,
    /// Entries of blocks: heads and outputs, those in use and those under way out of it.
    pub(crate) entries: u32,
}

/// Flows counted at most, all rules together: as in a worker.
const FLOWS_MAX: u32 = mcr_proto::counters::FLOWS_MAX as u32;

/// Counters of each CPU.
pub(crate) type PerCpu<C> = PerCpuArray<MapData, C>;

pub(crate) struct Object {
    ebpf: Ebpf,
    pub(crate) routes: HashMap<MapData, Key, u64>,
    pub(crate) blocks: Array<MapData, Entry>,
    pub(crate) addresses: HashMap<MapData, Key, u32>,
    pub(crate) inputs: PerCpu<InputCounts>,
    pub(crate) rules: PerCpu<RuleCounts>,
    pub(crate) arrivals: Array<MapData, Arrivals>,
    pub(crate) timings: PerCpu<Timing>,
    pub(crate) outputs: PerCpu<OutputCounts>,
    pub(crate) flows: HashMap<MapData, FlowKey, FlowCounts>,
    pub(crate) traces: Array<MapData, TraceEntry>,
    pub(crate) drop_traces: Array<MapData, u32>,
    pub(crate) trace_ring: RingBuf<MapData>,
    /// Where the kernel has no tcx links.
    entry: Option<IngressEntry>,
}

impl Object {
    pub(crate) fn load(sizes: Sizes) -> Result<Self, LoadError> {
        let entries = [
            // Every rule can have its own destination, and a second key for its source.
            ("routes", sizes.rules.saturating_mul(2)),
            ("addresses", sizes.rules),
            ("blocks", sizes.entries),
            ("inputs", sizes.inputs),
            ("drop_traces", sizes.inputs),
            ("rules", sizes.rules),
            ("arrivals", sizes.rules),
            ("timings", sizes.rules),
            ("outputs", sizes.outputs),
            ("flows", FLOWS_MAX),
        ];
        let mut ebpf = loader::load(RELAY, &entries).map_err(|error| LoadError::of(&error))?;
        program(&mut ebpf, "relay")?.load().map_err(|error| LoadError::from_chain(&error))?;
        Ok(Self {
            routes: map(&mut ebpf, "routes")?,
            blocks: map(&mut ebpf, "blocks")?,
            addresses: map(&mut ebpf, "addresses")?,
            inputs: map(&mut ebpf, "inputs")?,
            rules: map(&mut ebpf, "rules")?,
            arrivals: map(&mut ebpf, "arrivals")?,
            timings: map(&mut ebpf, "timings")?,
            outputs: map(&mut ebpf, "outputs")?,
            flows: map(&mut ebpf, "flows")?,
            traces: map(&mut ebpf, "traces")?,
            drop_traces: map(&mut ebpf, "drop_traces")?,
            trace_ring: map(&mut ebpf, "trace_ring")?,
            ebpf,
            entry: None,
        })
    }

    /// The flows and what they have been told of.
    pub(crate) fn flow_rows(&self) -> Vec<(FlowKey, FlowCounts)> {
        batch::read_all(self.flows.map().fd().as_fd(), 2 * FLOWS_MAX as usize)
    }

    /// Forgets the flows of rules, by their places.
    pub(crate) fn forget_flows(&mut self, rules: &[u32]) {
        if rules.is_empty() {
            return;
        }
        // Bounded in case the table changes so fast that the walk begins over and over.
        let flows = self.flows.keys().filter_map(Result::ok).take(2 * FLOWS_MAX as usize);
        let gone: Vec<_> = flows.filter(|flow| rules.contains(&flow.rule)).collect();
        for flow in gone {
            // Twice in the list, if the walk began anew.
            let _ = self.flows.remove(&flow);
        }
    }

    /// Knows the flows that another knows, so that they do not count as new.
    pub(crate) fn copy_flows(&mut self, from: &Self) {
        for flow in from.flows.keys().filter_map(Result::ok).take(2 * FLOWS_MAX as usize) {
            // If it cannot be, the flow counts again.
            let _ = self.flows.insert(flow, FlowCounts::default(), 0);
        }
    }

    /// Attaches the program at the ingress of an interface, behind those that are there.
    pub(crate) fn attach(&mut self, ifindex: u32) -> Result<Link, AttachError> {
        let relay = program(&mut self.ebpf, "relay").map_err(|error| refused(&error))?;
        let entry = match &mut self.entry {
            Some(entry) => entry,
            entry => match attach_tcx(relay, ifindex) {
                Err(Tcx::Lacking) => {
                    let relay = relay.fd().map_err(|error| refused(&error))?;
                    entry.insert(IngressEntry::load(relay).map_err(|error| refused(&error))?)
                }
                Err(Tcx::Failed(error)) => return Err(error),
                Ok(link) => return Ok(Link::Tcx(link)),
            },
        };
        entry.attach(ifindex).map(Link::Clsact)
    }

    /// Has this one's program see the frames of all interfaces that another object's sees, without a moment in which none does.
    pub(crate) fn take_over(
        &mut self,
        other: &mut Self,
        links: &mut std::collections::HashMap<u32, Link>,
    ) -> Result<(), LoadError> {
        let relay = program(&mut self.ebpf, "relay")?;
        if let Some(entry) = &mut other.entry {
            entry.lead_to(relay.fd().map_err(|error| LoadError::from_chain(&error))?)?;
        }
        self.entry = other.entry.take();
        // An interface that is gone has no link to take over.
        let taken = std::mem::take(links).into_iter().filter_map(|(ifindex, link)| match link {
            Link::Tcx(link) => {
                let link = relay.attach_to_link(link).and_then(|id| relay.take_link(id)).ok()?;
                Some((ifindex, Link::Tcx(link)))
            }
            link @ Link::Clsact(_) => Some((ifindex, link)),
        });
        links.extend(taken.collect::<Vec<_>>());
        Ok(())
    }
}

/// A program on an interface, as long as this lives.
pub(crate) enum Link {
    Tcx(SchedClassifierLink),
    Clsact(#[expect(dead_code, reason = "held")] Filter),
}

/// Why there is no tcx link.
pub(crate) enum Tcx {
    /// The kernel does not know them.
    Lacking,
    Failed(AttachError),
}

/// Attaches a program at the ingress of an interface, behind those that are there.
pub(crate) fn attach_tcx(program: &mut SchedClassifier, ifindex: u32) -> Result<SchedClassifierLink, Tcx> {
    let gone = || Tcx::Failed(AttachError::NoInterface { ifindex });
    let name = interface_name(ifindex).ok_or_else(gone)?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::last());
    let link = program
        .attach_with_options(&name, TcAttachType::Ingress, options)
        .and_then(|id| program.take_link(id))
        .map_err(|error| match os_error(&error) {
            // An attach type that the kernel does not know.
            Some(libc::EINVAL) => Tcx::Lacking,
            _ => Tcx::Failed(attach_error(&error, ifindex)),
        })?;
    // The name may have gone to another interface in between.
    if interface_name(ifindex).as_ref() != Some(&name) {
        return Err(gone());
    }
    Ok(link)
}

/// How many programs stand at the ingress of an interface, by links or as filters, whoever attached them; for tests and for looking
/// around.
///
/// # Errors
/// The kernel's: no such interface, no right.
pub fn programs_at(ifname: &str) -> io::Result<usize> {
    let linked = match SchedClassifier::query_tcx(ifname, TcAttachType::Ingress) {
        Ok((_, programs)) => programs.len(),
        Err(error) => match os_error(&error) {
            Some(libc::EINVAL) => 0,
            errno => return Err(errno.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)),
        },
    };
    Ok(linked + clsact::filters_at(interface_index(ifname)?)?)
}

/// What the kernel holds of eBPF, whoever loaded it, by its ids: those of `/proc/PID/fdinfo`. The kernel gives an id anew only when it
/// has given all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// `prog_id`.
    pub programs: BTreeSet<u32>,
    /// `map_id`.
    pub maps: BTreeSet<u32>,
    /// `link_id`.
    pub links: BTreeSet<u32>,
}

/// Looks what is loaded; for tests and for looking around. What goes meanwhile is left out. Needs CAP_SYS_ADMIN.
pub fn loaded() -> Loaded {
    Loaded {
        programs: aya::programs::loaded_programs().flatten().map(|info| info.id()).collect(),
        maps: aya::maps::loaded_maps().flatten().map(|info| info.id()).collect(),
        links: aya::programs::loaded_links().flatten().map(|info| info.id()).collect(),
    }
}

pub(crate) fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier, LoadError> {
    let missing = || LoadError::Failed { reason: format!("the object lacks the program {name}") };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    program.try_into().map_err(|_| missing())
}

pub(crate) fn map<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, LoadError> {
    let missing = |what: String| LoadError::Failed { reason: format!("map {name}: {what}") };
    let map = ebpf.take_map(name).ok_or_else(|| missing("the object lacks it".to_owned()))?;
    T::try_from(map).map_err(|error| missing(error.to_string()))
}

pub(crate) fn map_error(error: MapError) -> UpdateError {
    UpdateError::Map { reason: os_error(&error).map_or_else(|| error.to_string(), errno_text) }
}

/// The values of all CPUs zero.
pub(crate) fn clear<V: Pod + Default>(map: &mut PerCpuArray<MapData, V>, index: u32) -> io::Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let zeroes = PerCpuValues::try_from(vec![V::default(); cpus])?;
    map.set(index, zeroes, 0).map_err(io::Error::other)
}

pub(crate) fn attach_error(error: &(dyn std::error::Error + 'static), ifindex: u32) -> AttachError {
    match os_error(error) {
        Some(libc::ENODEV) => AttachError::NoInterface { ifindex },
        _ => refused(error),
    }
}

pub(crate) fn refused(error: &(dyn std::error::Error + 'static)) -> AttachError {
    AttachError::Refused { reason: os_error(error).map_or_else(|| error.to_string(), errno_text) }
}

fn errno_text(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

fn interface_index(ifname: &str) -> io::Result<u32> {
    let name = CString::new(ifname)?;
    // SAFETY: a string that ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
}

fn interface_name(ifindex: u32) -> Option<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname(3) asks for.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned)
}
