//! Next hops that the rules need, known to the kernel: those that it does not know it is asked to find, those in use to keep.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use mcr_netmon::{Ask, NeighbourState, Resolver, Snapshot};
use tracing::{debug, warn};

/// How often a neighbour that is known is asked to be confirmed: below the time after which the kernel doubts it
/// (`base_reachable_time_ms`, 30 s).
const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// How often one that is not known is asked for.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Next hops in use, by interface and address.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// And when each was last asked for.
    hops: HashMap<(u32, IpAddr), Option<Instant>>,
    /// Some may be in use no more.
    stale: bool,
    resolver: Option<Resolver>,
}

impl Neighbours {
    /// Makes ready to ask. Where that fails, neighbours become known by other traffic only.
    pub(super) fn open(&mut self) {
        if self.resolver.is_none() {
            self.resolver =
                Resolver::open().inspect_err(|error| warn!("cannot ask for neighbours: {error}")).ok();
        }
    }

    /// Asks no more: nothing is in use.
    pub(super) fn close(&mut self) {
        self.resolver = None;
    }

    /// From now on these are in use.
    pub(super) fn need(&mut self, hops: &BTreeSet<(u32, IpAddr)>) {
        for hop in hops {
            self.hops.entry(*hop).or_insert(None);
        }
    }

    pub(super) fn has(&self, ifindex: u32, address: IpAddr) -> bool {
        self.hops.contains_key(&(ifindex, address))
    }

    /// Asks for those that are not known, or were not confirmed for a while.
    pub(super) fn ask(&mut self, network: &Snapshot, now: Instant) {
        let hops: Vec<_> = self.hops.keys().copied().collect();
        hops.into_iter().for_each(|hop| self.ask_for(hop, network, now));
    }

    /// As [`Neighbours::ask`], for one of them.
    pub(super) fn ask_for(&mut self, hop: (u32, IpAddr), network: &Snapshot, now: Instant) {
        let Self { hops, resolver: Some(resolver), .. } = self else { return };
        let (Some(asked), (ifindex, address)) = (hops.get_mut(&hop), hop) else { return };
        let every = match standing(network, ifindex, address) {
            Standing::Fixed => return,
            Standing::Known => CONFIRM_EVERY,
            Standing::Unknown => ASK_EVERY,
        };
        if asked.is_none_or(|at| now.duration_since(at) >= every) {
            *asked = Some(now);
            if let Err(error) = resolver.ask(ifindex, address, Ask::Keep) {
                debug!(%address, "cannot ask for a neighbour: {error}");
            }
        }
    }

    /// Some may be in use no more: [`Neighbours::forget_all_but`] is to look.
    pub(super) fn doubt(&mut self) {
        self.stale = true;
    }

    /// Lets go of those that nobody needs, if there may be any. `needed` looks at all rules, so not for each that goes.
    pub(super) fn forget_all_but(&mut self, needed: impl FnOnce() -> BTreeSet<(u32, IpAddr)>) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let needed = needed();
        let gone: Vec<_> = self.hops.keys().filter(|hop| !needed.contains(hop)).copied().collect();
        for hop in gone {
            self.hops.remove(&hop);
            if let Some(resolver) = &mut self.resolver {
                // The kernel keeps it no more for us. An interface that is gone has taken it along.
                let _ = resolver.ask(hop.0, hop.1, Ask::Use);
            }
        }
    }
}

/// What is to be done about a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is set, or needs none: nothing.
    Fixed,
    /// To be confirmed from time to time.
    Known,
    /// To be found.
    Unknown,
}

fn standing(network: &Snapshot, ifindex: u32, address: IpAddr) -> Standing {
    match network.neighbour(ifindex, address).map(|known| known.state) {
        Some(NeighbourState::Permanent | NeighbourState::NoArp) => Standing::Fixed,
        Some(state) if state.is_valid() => Standing::Known,
        _ => Standing::Unknown,
    }
}
