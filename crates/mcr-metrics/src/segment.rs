//! A worker's counters in shared memory: what is where, and how places are cleared.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering::Relaxed,
};

use mcr_proto::{
    counters::FLOWS_MAX,
    plan::{FlowSlot, InputSlot, OutputSlot, RuleSlot},
};

use crate::{
    Access, AttachError, FlowCounters, FlowSum, LatencyCounters,
    layout::{Header, InputCounters, LAYOUT, Layout, MAGIC, OutputCounters, RuleCounters, SEGMENT_BYTES},
    mapping::Mapping,
    trace::Trace,
};

/// One worker's counters, mapped.
#[derive(Debug)]
pub struct Segment {
    memory: Mapping,
}

impl Segment {
    /// Makes a segment, all zero, writable, sealed against resizing.
    ///
    /// # Errors
    /// [`AttachError::Io`] where the kernel has no memory or descriptors left.
    pub fn create() -> Result<Self, AttachError> {
        let segment = Self { memory: Mapping::create(c"mcr-counters", SEGMENT_BYTES)? };
        segment.layout().header.magic.store(MAGIC, Relaxed);
        segment.layout().header.layout.store(LAYOUT, Relaxed);
        Ok(segment)
    }

    /// Maps a segment that another process made.
    ///
    /// # Errors
    /// A descriptor that is not a segment of this build, or that could change its size (reads would then be fatal).
    pub fn attach(fd: OwnedFd, access: Access) -> Result<Self, AttachError> {
        let segment = Self { memory: Mapping::attach(fd, SEGMENT_BYTES, access)? };
        let header = &segment.layout().header;
        if header.magic.load(Relaxed) != MAGIC || header.layout.load(Relaxed) != LAYOUT {
            return Err(AttachError::Layout);
        }
        Ok(segment)
    }

    /// A descriptor of the same memory through which nobody can write, whatever they map.
    ///
    /// # Errors
    /// The kernel's, as where `/proc` is not mounted.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        self.memory.read_only()
    }

    /// The first page.
    pub fn header(&self) -> &Header {
        &self.layout().header
    }

    /// An input's counters. Panics if the slot is out of range: slots come from the supervisor, which allots them within it.
    pub fn input(&self, slot: InputSlot) -> &InputCounters {
        &self.layout().inputs[slot.0 as usize]
    }

    /// A rule's counters. Panics as [`Segment::input`] does.
    pub fn rule(&self, slot: RuleSlot) -> &RuleCounters {
        &self.layout().rules[slot.0 as usize]
    }

    /// How long a rule's datagrams took. Panics as [`Segment::input`] does.
    pub fn latency(&self, slot: RuleSlot) -> &LatencyCounters {
        &self.layout().latencies[slot.0 as usize]
    }

    /// Gives a row to a flow of which nothing is counted yet. For the one writer; panics as [`Segment::input`] does.
    pub fn begin_flow(&self, slot: FlowSlot, rule: RuleSlot, source: SocketAddr, now_ns: u64) {
        let Layout { header, flows, .. } = self.layout();
        flows[slot.0 as usize].begin(rule, source, now_ns);
        let rows = u64::from(slot.0) + 1;
        if rows > header.flow_rows.get() {
            header.flow_rows.set(rows);
        }
    }

    /// A flow's row. Panics as [`Segment::input`] does.
    #[inline]
    pub fn flow(&self, slot: FlowSlot) -> &FlowCounters {
        &self.layout().flows[slot.0 as usize]
    }

    /// Counts datagrams of a flow that found no row. For the one writer; panics as [`Segment::input`] does.
    #[cold]
    pub fn flow_overflowed(&self, rule: RuleSlot, datagrams: u64) {
        let Layout { header, flow_overflows, .. } = self.layout();
        flow_overflows[rule.0 as usize].add(datagrams);
        header.flow_overflow.add(datagrams);
    }

    /// Datagrams of a rule's flows that found no row. Panics as [`Segment::input`] does.
    pub fn flow_overflow(&self, rule: RuleSlot) -> u64 {
        let Layout { header, flow_overflows, .. } = self.layout();
        // Looking at pages that were never written would take memory for them.
        if header.flow_overflow.get() == 0 { 0 } else { flow_overflows[rule.0 as usize].get() }
    }

    /// The flows of a rule and their rows, in no order: a walk over all rows in use.
    pub fn flows_of(&self, rule: RuleSlot) -> impl Iterator<Item = (FlowSlot, FlowSum)> + '_ {
        let rows = (self.layout().header.flow_rows.get() as usize).min(FLOWS_MAX);
        let flows = self.layout().flows[..rows].iter().zip(0..);
        flows.filter_map(move |(flow, slot)| Some((FlowSlot(slot), flow.of(rule)?)))
    }

    /// Takes all rows from their flows, once their writer is no more.
    pub fn end_flows(&self) {
        let Layout { header, flows, .. } = self.layout();
        flows[..(header.flow_rows.get() as usize).min(FLOWS_MAX)].iter().for_each(|flow| _ = flow.end());
        header.flow_rows.set(0);
    }

    /// An output's counters. Panics as [`Segment::input`] does.
    pub fn output(&self, slot: OutputSlot) -> &OutputCounters {
        &self.layout().outputs[slot.0 as usize]
    }

    /// What traces show.
    pub fn trace(&self) -> &Trace {
        &self.layout().trace
    }

    /// Zeroes a rule's counters, for a slot that no worker uses.
    pub fn clear_rule(&self, slot: RuleSlot) {
        let rule = self.rule(slot);
        if rule.is_timed() {
            self.latency(slot).counters().for_each(|counter| self.clear(counter));
        }
        rule.counters().into_iter().for_each(|counter| self.clear(counter));
        if self.flow_overflow(slot) != 0 {
            self.layout().flow_overflows[slot.0 as usize].set(0);
        }
    }

    /// Zeroes an output's counters, for a slot that no worker uses.
    pub fn clear_output(&self, slot: OutputSlot) {
        let OutputCounters { copies, bytes, drops, send_errors } = self.output(slot);
        for counter in [copies, bytes].into_iter().chain(drops).chain(send_errors.places()) {
            self.clear(counter);
        }
    }

    fn clear(&self, counter: &crate::Counter) {
        // Reading first keeps pages that were never written out of memory.
        if counter.get() != 0 {
            counter.set(0);
        }
    }

    fn layout(&self) -> &Layout {
        // SAFETY: the mapping has SEGMENT_BYTES = size_of::<Layout>() bytes, page-aligned, which covers Layout's 4,096; it lives as
        // long as the borrow of it; it cannot shrink, so no page can vanish; every field is an atomic, valid for any bit
        // pattern, so writers in other processes are no data race.
        unsafe { self.memory.start().cast::<Layout>().as_ref() }
    }

    /// What this mapping may be used for. Writing through a [`Access::Read`] one faults.
    pub fn access(&self) -> Access {
        self.memory.access()
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::fstat;

    use super::*;

    #[test]
    fn what_one_mapping_counts_another_reads() {
        let writer = Segment::create().expect("memory");
        let reader = Segment::attach(writer.read_only().expect("/proc"), Access::Read).expect("own segment");
        writer.rule(RuleSlot(65_535)).datagrams.add(3);
        writer.output(OutputSlot(262_143)).send_errors.add(libc::ENETUNREACH, 2);
        assert_eq!(reader.rule(RuleSlot(65_535)).datagrams.get(), 3);
        let sum = crate::sum_output(&[reader], OutputSlot(262_143));
        assert_eq!(sum.send_errors, [(libc::ENETUNREACH, 2)].into());
    }

    #[test]
    fn a_read_only_descriptor_cannot_be_mapped_for_writing() {
        let writer = Segment::create().expect("memory");
        let fd = writer.read_only().expect("/proc");
        assert!(matches!(Segment::attach(fd, Access::Write), Err(AttachError::Io { call: "mmap", .. })));
    }

    #[test]
    fn a_cleared_slot_reads_zero_and_its_neighbours_stay() {
        let segment = Segment::create().expect("memory");
        for slot in 0..3 {
            segment.rule(RuleSlot(slot)).arrived(1, 1, 7);
            segment.latency(RuleSlot(slot)).add(1_000, 1);
            segment.output(OutputSlot(slot)).copies.add(1);
            segment.output(OutputSlot(slot)).send_errors.add(1, 1);
        }
        segment.clear_rule(RuleSlot(1));
        segment.clear_output(OutputSlot(1));
        let rules: Vec<_> = (0..3).map(|slot| segment.rule(RuleSlot(slot)).datagrams.get()).collect();
        let errors: Vec<_> =
            (0..3).map(|slot| segment.output(OutputSlot(slot)).send_errors.counts().count()).collect();
        assert_eq!((rules, errors), (vec![1, 0, 1], vec![1, 0, 1]));
        // Seen again, so that its latencies are looked at.
        segment.rule(RuleSlot(1)).arrived(1, 1, 9);
        let sum = |slot| crate::sum_rule(std::slice::from_ref(&segment), RuleSlot(slot)).first_seen_ns;
        assert_eq!([sum(0), sum(1), sum(2)], [7, 9, 7]);
        let latencies = |slot| crate::sum_latency(std::slice::from_ref(&segment), RuleSlot(slot)).datagrams();
        assert_eq!([latencies(0), latencies(1), latencies(2)], [1, 0, 1]);
    }

    #[test]
    fn flows_are_those_of_their_rule_until_their_writer_ends() {
        let segment = Segment::create().expect("memory");
        let reader = Segment::attach(segment.read_only().expect("/proc"), Access::Read).expect("own segment");
        let source = |port: u16| SocketAddr::from(([10, 0, 0, 9], port));
        for slot in 0..6_u16 {
            let (flow, rule) = (FlowSlot(slot.into()), RuleSlot(u32::from(slot) % 2));
            segment.begin_flow(flow, rule, source(slot), 5);
            segment.flow(flow).arrived(u64::from(slot), 10, 7);
        }
        segment.flow(FlowSlot(2)).end();
        segment.flow_overflowed(RuleSlot(1), 3);
        let of =
            |rule| reader.flows_of(RuleSlot(rule)).map(|(slot, flow)| (slot.0, flow.source.port())).collect();
        let rows: [Vec<_>; 3] = [of(0), of(1), of(2)];
        assert_eq!(rows, [vec![(0, 0), (4, 4)], vec![(1, 1), (3, 3), (5, 5)], vec![]]);
        assert_eq!([0, 1].map(|rule| reader.flow_overflow(RuleSlot(rule))), [0, 3]);
        segment.clear_rule(RuleSlot(1));
        assert_eq!(reader.flow_overflow(RuleSlot(1)), 0);
        segment.end_flows();
        assert_eq!(reader.flows_of(RuleSlot(0)).count() + reader.flows_of(RuleSlot(1)).count(), 0);
    }

    #[test]
    fn a_file_is_not_a_segment() {
        let file = tempfile::tempfile().expect("a file");
        assert!(matches!(Segment::attach(file.into(), Access::Read), Err(AttachError::Size { got: 0, .. })));
        let file = tempfile::tempfile().expect("a file");
        file.set_len(SEGMENT_BYTES as u64).expect("room");
        assert!(matches!(Segment::attach(file.into(), Access::Read), Err(AttachError::Unsealed)));
    }

    #[test]
    fn untouched_slots_take_no_memory() {
        let segment = Segment::create().expect("memory");
        segment.clear_output(OutputSlot(1000));
        segment.rule(RuleSlot(0)).datagrams.add(1);
        let blocks = fstat(&segment).expect("own descriptor").st_blocks;
        assert!(blocks * 512 <= 4 * 4096, "{blocks} blocks");
    }
}
