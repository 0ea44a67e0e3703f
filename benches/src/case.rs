//! What is relayed: streams, sizes, outputs. And the addresses, which every peer and the sender agree on.
//!
//! Stream `i` comes in at group 239.1.x.y, port 5000, and leaves by each output, to group 239.2.x.y, port 6000; by kernel
//! multicast routing, which cannot translate, to the group and port it came in at.

use std::net::{Ipv4Addr, SocketAddrV4};

use clap::ValueEnum;

/// Outputs of the case that has most.
pub(crate) const OUTPUTS_MAX: u8 = 10;
/// Streams of the case that has most.
pub(crate) const STREAMS_MAX: u16 = 1000;
/// Second byte of every input group; the baseline makes [`OUTPUT_BYTE`] of it.
pub(crate) const INPUT_BYTE: u8 = 1;
/// Second byte of every output group.
pub(crate) const OUTPUT_BYTE: u8 = 2;
/// Second byte of the group that no relay is told of.
const FOREIGN_BYTE: u8 = 3;
pub(crate) const INPUT_PORT: u16 = 5000;
pub(crate) const OUTPUT_PORT: u16 = 6000;

/// One thing to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// One stream of 1400-byte payloads, one output
    #[value(name = "1x1-1400")]
    One,
    /// One stream of 100-byte payloads, one output
    #[value(name = "1x1-100")]
    Small,
    /// One stream of 1400-byte payloads, ten outputs
    #[value(name = "1x10-1400")]
    FanOut,
    /// One stream of 1400-byte payloads sent as superframes, one output
    #[value(name = "gso-1400")]
    Superframes,
    /// 50 streams of 1400-byte payloads in turn, one output
    #[value(name = "50-streams")]
    Streams50,
    /// 1000 streams of 1400-byte payloads in turn, one output
    #[value(name = "1000-streams")]
    Streams1000,
    /// One stream of 1400-byte payloads, one output, and 999 rules whose streams are silent
    #[value(name = "1000-rules")]
    Rules1000,
    /// One stream of 100-byte payloads to a group that no relay is told of; no case of its own
    #[value(skip)]
    Foreign,
}

impl Case {
    pub(crate) const ALL: [Self; 7] = [
        Self::One,
        Self::Small,
        Self::FanOut,
        Self::Superframes,
        Self::Streams50,
        Self::Streams1000,
        Self::Rules1000,
    ];

    /// The name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "1x1-1400",
            Self::Small => "1x1-100",
            Self::FanOut => "1x10-1400",
            Self::Superframes => "gso-1400",
            Self::Streams50 => "50-streams",
            Self::Streams1000 => "1000-streams",
            Self::Rules1000 => "1000-rules",
            Self::Foreign => "foreign",
        }
    }

    /// What a reader of the table is told.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::One => "1 stream, 1400 B, 1 output",
            Self::Small => "1 stream, 100 B, 1 output",
            Self::FanOut => "1 stream, 1400 B, 10 outputs",
            Self::Superframes => "1 stream, 1400 B, superframes in, 1 output",
            Self::Streams50 => "50 streams, 1400 B, 1 output",
            Self::Streams1000 => "1000 streams, 1400 B, 1 output",
            Self::Rules1000 => "1 stream of 1000 rules, 1400 B, 1 output",
            Self::Foreign => "1 foreign stream, 100 B",
        }
    }

    pub(crate) fn outputs(self) -> u8 {
        if self == Self::FanOut { OUTPUTS_MAX } else { 1 }
    }

    pub(crate) fn streams(self) -> u16 {
        match self {
            Self::Streams50 => 50,
            Self::Streams1000 => STREAMS_MAX,
            _ => 1,
        }
    }

    /// Streams that the relay is set up for, those that are silent included.
    pub(crate) fn rules(self) -> u16 {
        if self == Self::Rules1000 { STREAMS_MAX } else { self.streams() }
    }

    pub(crate) fn payload_bytes(self) -> usize {
        if matches!(self, Self::Small | Self::Foreign) { 100 } else { 1400 }
    }

    /// Whether the sender hands over many datagrams as one superframe.
    pub(crate) fn superframes(self) -> bool {
        self == Self::Superframes
    }

    /// Whether the delay is measured: where one receiver sees everything.
    pub(crate) fn has_latency(self) -> bool {
        matches!(self, Self::One | Self::Small)
    }

    /// Where the streams come in.
    pub(crate) fn inputs(self) -> Vec<SocketAddrV4> {
        let byte = if self == Self::Foreign { FOREIGN_BYTE } else { INPUT_BYTE };
        (0..self.streams()).map(|stream| SocketAddrV4::new(group(byte, stream), INPUT_PORT)).collect()
    }
}

/// Group of stream `stream`: 239.SECOND.x.y, where y is never 0.
pub(crate) fn group(second: u8, stream: u16) -> Ipv4Addr {
    let [x, y] = [stream / 250, stream % 250 + 1].map(|part| part as u8);
    Ipv4Addr::new(239, second, x, y)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_stream_has_a_group_of_its_own() {
        let groups: HashSet<_> = Case::Streams1000.inputs().into_iter().collect();
        assert_eq!(groups.len(), 1000);
        assert_eq!(group(INPUT_BYTE, 999).to_string(), "239.1.3.250");
    }

    #[test]
    fn cases_are_called_in_results_as_on_the_command_line() {
        for case in Case::ALL {
            assert_eq!(
                case.to_possible_value().map(|value| value.get_name().to_owned()).as_deref(),
                Some(case.name())
            );
        }
    }
}
