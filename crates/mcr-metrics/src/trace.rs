//! What a worker shows of single datagrams: two rings of records in its segment, and a place for each trace that is on.
//!
//! The worker writes and never waits: a full ring begins anew at its oldest record. Whoever reads, with a mapping that cannot write,
//! keeps its own place in the rings; a record that was overwritten meanwhile is seen to be gone and is not read half (a sequence lock
//! for each record). Traces are told apart by their id, the datagrams of a trace by their number, so that what is missing is known.
//!
//! What is read is checked, for a worker parses what strangers send: any words give a record or none.
//!
//! What is not here: which datagrams are traced (the worker), and whose trace it is (control).

mod words;

use std::{
    net::SocketAddr,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    plan::{InputSlot, OutputSlot, RuleSlot},
    rpc::TRACE_SNAP_BYTES_MAX,
};

use self::words::{HEAD_WORDS, NONE, decode, encode, pair, parts, reason, words_of};

/// Traces that can be on at a time.
pub const TRACES_MAX: usize = 8;
/// Of a frame, bytes that a record holds at most.
pub const SNAP_BYTES_MAX: usize = TRACE_SNAP_BYTES_MAX as usize;
/// Datagrams that a segment holds, of all traces together.
pub const TRACED_DATAGRAMS: usize = 2048;
/// Outcomes of copies that a segment holds, of all traces together.
pub const TRACED_COPIES: usize = 32_768;

const SNAP_WORDS: usize = SNAP_BYTES_MAX / 8;
const COPY_WORDS: usize = 7;

/// A trace as a worker carries it out.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct TracePlace {
    id: AtomicU64,
    seen: AtomicU64,
    recorded: AtomicU64,
    omitted: AtomicU64,
    settled: AtomicU64,
    ended: AtomicU64,
}

/// How far a trace has come in one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceProgress {
    /// Which trace; 0 is none.
    pub id: u64,
    /// Datagrams it is about, those between the samples included.
    pub seen: u64,
    /// Datagrams that were recorded: their numbers end with this one.
    pub recorded: u64,
    /// Datagrams that should have been recorded, but too many came at once.
    pub omitted: u64,
    /// Nothing more is recorded of datagrams up to this number.
    pub settled: u64,
    /// Nothing more is recorded at all.
    pub ended: bool,
}

impl TracePlace {
    /// As it stands. What was recorded up to `settled` can be read afterwards, unless it was overwritten.
    pub fn progress(&self) -> TraceProgress {
        // First of all: the others are no older then.
        let ended = self.ended.load(Acquire) != 0;
        let settled = self.settled.load(Acquire);
        TraceProgress {
            id: self.id.load(Acquire),
            seen: self.seen.load(Relaxed),
            recorded: self.recorded.load(Relaxed),
            omitted: self.omitted.load(Relaxed),
            settled,
            ended,
        }
    }

    /// Shows how far it is; for the one writer.
    pub fn set(&self, progress: TraceProgress) {
        let TraceProgress { id, seen, recorded, omitted, settled, ended } = progress;
        self.seen.store(seen, Relaxed);
        self.recorded.store(recorded, Relaxed);
        self.omitted.store(omitted, Relaxed);
        self.settled.store(settled, Release);
        self.ended.store(ended.into(), Release);
        self.id.store(id, Release);
    }
}

/// What the bytes of a record begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Ip,
}

/// A datagram of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedDatagram {
    /// Whose.
    pub trace: u64,
    /// Counted from 1 in each worker.
    pub number: u64,
    /// Which life of the worker it came in.
    pub life: u32,
    /// Where it came in.
    pub input: InputSlot,
    /// The rule that took it, or would have.
    pub rule: Option<RuleSlot>,
    /// When it was received, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Whether the kernel says so; else it is when the worker took it.
    pub is_kernel_time: bool,
    /// Source and destination, unless they could not be read.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// Payload bytes.
    pub bytes: u32,
    /// Its place among the datagrams of its superframe, counted from 0.
    pub index: u16,
    /// How many those are; 1 if it came by itself.
    pub datagrams: u16,
    /// Why no rule got it, if so.
    pub drop: Option<InputDrop>,
    /// Outputs of the rule, each of which comes to an outcome.
    pub outputs: u32,
    /// What the frame begins with.
    pub frame: FrameKind,
    /// Bytes of the frame, of which the record may have fewer.
    pub frame_bytes: u32,
}

/// What came of a copy of a datagram of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedCopy {
    /// Whose.
    pub trace: u64,
    /// The datagram's number.
    pub number: u64,
    /// Which output.
    pub output: OutputSlot,
    /// Why it was not sent, if so.
    pub drop: Option<OutputDrop>,
    /// What `errno` said of the send; 0 if it was not tried or did not fail.
    pub errno: i32,
    /// When that was known, in nanoseconds since 1970.
    pub time_ns: u64,
}

/// A record that is written and read as a whole or not at all.
#[derive(Debug)]
#[repr(C, align(64))]
struct Cell<const WORDS: usize> {
    /// The record's place in the order of all, counted from 1; 0 while it is written.
    stamp: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Cell<WORDS> {
    /// For the one writer.
    fn write(&self, stamp: u64, words: impl Iterator<Item = u64>) {
        self.stamp.store(0, Relaxed);
        fence(Release);
        self.words.iter().zip(words).for_each(|(word, value)| word.store(value, Relaxed));
        self.stamp.store(stamp, Release);
    }

    /// Reads the first words, unless it is another record by now.
    fn read(&self, stamp: u64, words: &mut [u64]) -> bool {
        if self.stamp.load(Acquire) != stamp {
            return false;
        }
        words.iter_mut().zip(&self.words).for_each(|(value, word)| *value = word.load(Relaxed));
        fence(Acquire);
        self.stamp.load(Relaxed) == stamp
    }
}

/// The part of a segment that traces are in.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Trace {
    lives: AtomicU64,
    datagrams_written: AtomicU64,
    copies_written: AtomicU64,
    places: [TracePlace; TRACES_MAX],
    datagrams: [Cell<{ HEAD_WORDS + SNAP_WORDS }>; TRACED_DATAGRAMS],
    copies: [Cell<COPY_WORDS>; TRACED_COPIES],
}

impl Trace {
    /// Begins another life of the worker, which has to say so before anything else; its number.
    pub fn begin_life(&self) -> u32 {
        let life = self.life() + 1;
        self.lives.store(life.into(), Release);
        life
    }

    /// The number of the worker's life; what was recorded in an earlier one and is not settled will not be.
    pub fn life(&self) -> u32 {
        self.lives.load(Acquire) as u32
    }

    /// The places of traces.
    pub fn places(&self) -> &[TracePlace; TRACES_MAX] {
        &self.places
    }

    /// Records a datagram with the beginning of its frame, of which the pieces are taken up to [`SNAP_BYTES_MAX`]; for the one writer.
    pub fn record_datagram(&self, datagram: &TracedDatagram, frame: &[&[u8]]) {
        let index = self.datagrams_written.load(Relaxed);
        let captured = frame.iter().map(|piece| piece.len()).sum::<usize>().min(SNAP_BYTES_MAX);
        let words = encode(datagram, captured as u16).into_iter().chain(words_of(frame, captured));
        self.datagrams[index as usize % TRACED_DATAGRAMS].write(index + 1, words);
        self.datagrams_written.store(index + 1, Release);
    }

    /// Records what came of a copy; for the one writer.
    pub fn record_copy(&self, copy: &TracedCopy) {
        let index = self.copies_written.load(Relaxed);
        let words = [
            copy.trace,
            copy.number,
            pair(copy.output.0, copy.drop.map_or(NONE, |drop| drop as u32)),
            u64::from(copy.errno.unsigned_abs()),
            copy.time_ns,
        ];
        self.copies[index as usize % TRACED_COPIES].write(index + 1, words.into_iter());
        self.copies_written.store(index + 1, Release);
    }

    /// Where the rings end now: the place to read on from for whoever wants only what comes.
    pub fn end(&self) -> TraceCursor {
        TraceCursor {
            datagrams: self.datagrams_written.load(Acquire),
            copies: self.copies_written.load(Acquire),
        }
    }

    /// Shows the datagrams since the last time, each with the beginning of its frame, as far as they were not overwritten.
    pub fn read_datagrams(&self, cursor: &mut TraceCursor, mut show: impl FnMut(TracedDatagram, &[u8])) {
        let written = self.datagrams_written.load(Acquire);
        let mut words = [0; HEAD_WORDS + SNAP_WORDS];
        let mut bytes = [0; SNAP_BYTES_MAX];
        for index in waiting(cursor.datagrams, written, TRACED_DATAGRAMS) {
            if !self.datagrams[index as usize % TRACED_DATAGRAMS].read(index + 1, &mut words) {
                continue;
            }
            let (head, snap) = words.split_at(HEAD_WORDS);
            let head = head.first_chunk().expect("as many words as a head has");
            let Some((datagram, captured)) = decode(head) else { continue };
            for (chunk, word) in bytes.chunks_exact_mut(8).zip(snap) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            show(datagram, &bytes[..captured]);
        }
        cursor.datagrams = written;
    }

    /// Shows the outcomes of copies since the last time and up to `until`, as far as they were not overwritten. If that was
    /// [`Trace::end`] before the datagrams were read, those of them all are among the datagrams.
    pub fn read_copies(
        &self,
        cursor: &mut TraceCursor,
        until: TraceCursor,
        mut show: impl FnMut(TracedCopy),
    ) {
        let written = until.copies;
        let mut words = [0; 5];
        for index in waiting(cursor.copies, written, TRACED_COPIES) {
            if !self.copies[index as usize % TRACED_COPIES].read(index + 1, &mut words) {
                continue;
            }
            let [trace, number, output, errno, time_ns] = words;
            let (output, drop) = parts(output);
            let Some(drop) = reason(drop, OutputDrop::ALL) else { continue };
            let errno = i32::try_from(errno).unwrap_or(0);
            show(TracedCopy { trace, number, output: OutputSlot(output), drop, errno, time_ns });
        }
        cursor.copies = written;
    }
}

/// How far a reader is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceCursor {
    datagrams: u64,
    copies: u64,
}

/// What is to be read of a ring: never more than it holds, whatever the writer says.
fn waiting(from: u64, written: u64, room: usize) -> std::ops::Range<u64> {
    from.max(written.saturating_sub(room as u64))..written
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Access, Segment};

    fn datagram(number: u64) -> TracedDatagram {
        let address = |text: &str| text.parse().expect("an address");
        TracedDatagram {
            trace: 7,
            number,
            life: 3,
            input: InputSlot(1023),
            rule: Some(RuleSlot(65_535)),
            time_ns: u64::MAX - 1,
            is_kernel_time: true,
            addresses: Some((address("[fe80::1]:65535"), address("[ff15::2]:1"))),
            hop_limit: 255,
            traffic_class: 0xb8,
            bytes: 65_527,
            index: 63,
            datagrams: 64,
            drop: Some(InputDrop::HopLimit),
            outputs: 1024,
            frame: FrameKind::Ethernet,
            frame_bytes: 1514,
        }
    }

    fn copy(number: u64) -> TracedCopy {
        let output = OutputSlot(262_143);
        TracedCopy { trace: 7, number, output, drop: Some(OutputDrop::SendError), errno: 1, time_ns: 5 }
    }

    /// A segment as its worker has it and as control has it.
    fn both_ends() -> (Segment, Segment) {
        let writer = Segment::create().expect("memory");
        let reader = Segment::attach(writer.read_only().expect("/proc"), Access::Read).expect("own segment");
        (writer, reader)
    }

    fn datagrams(trace: &Trace, cursor: &mut TraceCursor) -> Vec<(TracedDatagram, Vec<u8>)> {
        let mut all = Vec::new();
        trace.read_datagrams(cursor, |datagram, bytes| all.push((datagram, bytes.to_vec())));
        all
    }

    #[test]
    fn what_one_end_records_the_other_reads_once_and_in_order() {
        let (writer, reader) = both_ends();
        let plain = TracedDatagram {
            rule: None,
            is_kernel_time: false,
            addresses: Some((([10, 0, 0, 9], 4000).into(), ([239, 1, 1, 1], 5000).into())),
            drop: None,
            frame: FrameKind::Ip,
            ..datagram(2)
        };
        let unread = TracedDatagram { addresses: None, ..datagram(3) };
        writer.trace().record_datagram(&datagram(1), &[b"ab", b"", b"cdefghij"]);
        writer.trace().record_datagram(&plain, &[]);
        writer.trace().record_datagram(&unread, &[&[9; 3000]]);
        writer.trace().record_copy(&copy(1));
        writer.trace().record_copy(&TracedCopy { drop: None, errno: 0, ..copy(2) });
        let mut cursor = TraceCursor::default();
        let want =
            [(datagram(1), b"abcdefghij".to_vec()), (plain, Vec::new()), (unread, vec![9; SNAP_BYTES_MAX])];
        assert_eq!(datagrams(reader.trace(), &mut cursor), want);
        let mut copies = Vec::new();
        reader.trace().read_copies(&mut cursor, reader.trace().end(), |copy| copies.push(copy));
        assert_eq!(copies, [copy(1), TracedCopy { drop: None, errno: 0, ..copy(2) }]);
        assert_eq!(datagrams(reader.trace(), &mut cursor), []);
        assert_eq!(cursor, reader.trace().end());
    }

    #[test]
    fn a_slow_reader_gets_the_newest_and_can_tell_what_it_missed() {
        let (writer, reader) = both_ends();
        let mut cursor = reader.trace().end();
        let all = TRACED_DATAGRAMS as u64 + 5;
        (1..=all).for_each(|number| writer.trace().record_datagram(&datagram(number), &[b"x"]));
        let numbers: Vec<_> =
            datagrams(reader.trace(), &mut cursor).iter().map(|(datagram, _)| datagram.number).collect();
        assert_eq!(numbers, (6..=all).collect::<Vec<_>>());
        (1..=TRACED_COPIES as u64 + 1).for_each(|number| writer.trace().record_copy(&copy(number)));
        let mut first = None;
        reader.trace().read_copies(&mut cursor, reader.trace().end(), |copy| {
            first.get_or_insert(copy.number);
        });
        assert_eq!(first, Some(2));
    }

    #[test]
    fn records_are_whole_while_they_are_overwritten() {
        let (writer, reader) = both_ends();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1.. {
                    writer.trace().record_datagram(&datagram(number), &[&[number as u8; 64]]);
                    if stop.load(Relaxed) {
                        break;
                    }
                }
            });
            let (mut cursor, mut last, mut read) = (TraceCursor::default(), 0, 0);
            while read < 20_000 {
                for (datagram, bytes) in datagrams(reader.trace(), &mut cursor) {
                    assert!(datagram.number > last, "{} after {last}", datagram.number);
                    assert!(bytes.iter().all(|byte| *byte == datagram.number as u8), "{bytes:?}");
                    (last, read) = (datagram.number, read + 1);
                }
            }
            stop.store(true, Relaxed);
        });
    }

    #[test]
    fn a_place_shows_how_far_its_trace_is_and_lives_are_told_apart() {
        let (writer, reader) = both_ends();
        let progress = TraceProgress { id: 9, seen: 100, recorded: 10, omitted: 2, settled: 8, ended: true };
        writer.trace().places()[7].set(progress);
        assert_eq!(reader.trace().places()[7].progress(), progress);
        assert_eq!(reader.trace().places()[0].progress(), TraceProgress::default());
        assert_eq!((writer.trace().begin_life(), writer.trace().begin_life()), (1, 2));
        assert_eq!(reader.trace().life(), 2);
    }

    #[test]
    fn a_writer_that_lies_about_its_end_is_read_in_bounded_time() {
        let (writer, reader) = both_ends();
        writer.trace().datagrams_written.store(u64::MAX, Relaxed);
        writer.trace().copies_written.store(u64::MAX, Relaxed);
        let mut cursor = TraceCursor::default();
        assert_eq!(datagrams(reader.trace(), &mut cursor), []);
        reader.trace().read_copies(&mut cursor, reader.trace().end(), |copy| panic!("{copy:?}"));
    }

    proptest! {
        #[test]
        fn any_words_are_read(words in prop::array::uniform15(any::<u64>())) {
            if let Some((datagram, captured)) = decode(&words) {
                prop_assert!(captured <= SNAP_BYTES_MAX);
                // What was understood is what is written again.
                prop_assert_eq!(decode(&encode(&datagram, captured as u16)), Some((datagram, captured)));
            }
        }
    }
}
