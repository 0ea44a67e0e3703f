//! Runs: consecutive datagrams of one route that can leave in one send.

/// Most datagrams in a run: what one `UDP_SEGMENT` send takes on every kernel that has it (`UDP_MAX_SEGMENTS`, Linux 4.18).
pub const RUN_DATAGRAMS_MAX: u32 = 64;
/// Most payload bytes in a run of several datagrams: the largest IPv4 packet without its headers, with room for some options.
pub const RUN_BYTES_MAX: u32 = 65_467;
/// Most pieces of memory a run is made of.
const PARTS_MAX: usize = RUN_DATAGRAMS_MAX as usize;

/// A piece of a frame of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which frame.
    pub frame: u32,
    /// Where in the frame it starts.
    pub offset: u32,
    /// How long it is.
    pub bytes: u32,
}

/// Datagrams of equal size, the last of which may be shorter, for one route.
#[derive(Debug)]
pub struct Run {
    pub(super) route: u32,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    /// Size of each datagram but the last, in bytes.
    pub(super) segment: u16,
    bytes: u32,
    datagrams: u32,
    parts: Vec<Part>,
}

impl Run {
    pub(super) fn new() -> Self {
        Self {
            route: 0,
            hop_limit: 0,
            traffic_class: 0,
            segment: 0,
            bytes: 0,
            datagrams: 0,
            // As many as runs were long yet: of thousands of runs, most stay short.
            parts: Vec::new(),
        }
    }

    /// How many bytes of datagrams of this size a run takes.
    pub(super) fn room(segment: u16) -> usize {
        if segment == 0 {
            return RUN_BYTES_MAX as usize;
        }
        let datagrams = (RUN_BYTES_MAX / u32::from(segment)).clamp(1, RUN_DATAGRAMS_MAX);
        datagrams as usize * usize::from(segment)
    }

    pub(super) fn begin(&mut self, route: u32, hop_limit: u8, traffic_class: u8) {
        (self.route, self.hop_limit, self.traffic_class) = (route, hop_limit, traffic_class);
        (self.segment, self.bytes, self.datagrams) = (0, 0, 0);
        self.parts.clear();
    }

    pub(super) fn clear(&mut self) {
        self.begin(0, 0, 0);
    }

    /// Takes as many leading datagrams of `part` as fit; what is left must begin another run.
    pub(super) fn push(&mut self, part: Part, segment: u16) -> Option<Part> {
        // One datagram is a superframe of one. A datagram longer than 65,535 bytes does not exist.
        let size = if segment == 0 { part.bytes.min(u32::from(u16::MAX)) as u16 } else { segment };
        let count = if part.bytes == 0 { 1 } else { part.bytes.div_ceil(u32::from(size)) };
        let fitting = self.fitting(size, part.bytes, count);
        if fitting == 0 {
            return Some(part);
        }
        let bytes = part.bytes.min(fitting.saturating_mul(u32::from(size)));
        if self.datagrams == 0 {
            self.segment = size.min(bytes as u16);
        }
        self.parts.push(Part { bytes, ..part });
        self.bytes += bytes;
        self.datagrams += fitting;
        (fitting < count).then(|| Part { offset: part.offset + bytes, bytes: part.bytes - bytes, ..part })
    }

    /// How many of `count` datagrams of `size` bytes, together `bytes`, can join.
    fn fitting(&self, size: u16, bytes: u32, count: u32) -> u32 {
        if self.datagrams == 0 {
            // A single datagram always fits, so that one larger than a run may be is still sent by itself.
            return count.min(RUN_DATAGRAMS_MAX).min((RUN_BYTES_MAX / u32::from(size).max(1)).max(1));
        }
        // An empty datagram cannot be a segment, and nothing may follow a shorter one.
        let whole = self.bytes == self.datagrams * u32::from(self.segment);
        if !whole || self.segment == 0 || bytes == 0 || self.parts.len() == PARTS_MAX {
            return 0;
        }
        let ends_run = count == 1 && size < self.segment;
        if size != self.segment && !ends_run {
            return 0;
        }
        let by_bytes = (RUN_BYTES_MAX.saturating_sub(self.bytes)) / u32::from(size);
        count.min(RUN_DATAGRAMS_MAX - self.datagrams).min(by_bytes)
    }

    /// How many datagrams of its size it could hold.
    pub fn datagrams_max(&self) -> u32 {
        (RUN_BYTES_MAX / u32::from(self.segment).max(1)).clamp(1, RUN_DATAGRAMS_MAX)
    }

    /// How many datagrams it holds.
    pub fn datagrams(&self) -> u32 {
        self.datagrams
    }

    /// Size of each datagram but the last, in payload bytes.
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// Payload bytes of `datagrams` from `first` on, together.
    pub fn bytes(&self, first: u32, datagrams: u32) -> u32 {
        let (start, end) = self.span(first, datagrams);
        end - start
    }

    /// Where the payload of `datagrams` from `first` on lies, in order; no empty pieces.
    pub fn parts(&self, first: u32, datagrams: u32) -> impl Iterator<Item = Part> + '_ {
        let (start, end) = self.span(first, datagrams);
        let mut position = 0;
        self.parts.iter().filter_map(move |part| {
            let (from, to) = (start.max(position), end.min(position + part.bytes));
            let skipped = from.saturating_sub(position);
            position += part.bytes;
            (from < to).then(|| Part { offset: part.offset + skipped, bytes: to - from, ..*part })
        })
    }

    /// The frames that its datagrams came in, and how many of each, in order.
    pub fn frames(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let segment = u32::from(self.segment);
        self.parts.iter().map(move |part| {
            // A division only for superframes.
            let datagrams = if part.bytes <= segment { 1 } else { part.bytes.div_ceil(segment) };
            (part.frame, datagrams)
        })
    }

    /// The frame that the datagram at `index` came in.
    pub fn frame_of(&self, index: u32) -> u32 {
        self.place_of(index).0
    }

    /// The frame that the datagram at `index` came in, and where in it its payload begins.
    pub fn place_of(&self, index: u32) -> (u32, u32) {
        let (start, _) = self.span(index, 1);
        let mut position = 0;
        for part in &self.parts {
            if start < position + part.bytes {
                return (part.frame, part.offset + (start - position));
            }
            position += part.bytes;
        }
        self.parts.last().map_or((0, 0), |part| (part.frame, part.offset))
    }

    fn span(&self, first: u32, datagrams: u32) -> (u32, u32) {
        let segment = u32::from(self.segment);
        ((first * segment).min(self.bytes), ((first + datagrams) * segment).min(self.bytes))
    }
}
