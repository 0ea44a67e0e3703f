//! The names of everything that is counted. A datagram ends in exactly one counter per rule and per output.
//!
//! The laws, for any input and any output of a rule, at rest:
//! `datagrams received = matched + sum of input drops` and `matched by the rule = copies + sum of output drops`.

use serde::{Deserialize, Serialize};

/// Flows that a worker tells apart, of all its rules together; the kernel data path as many. What is beyond is counted together.
pub const FLOWS_MAX: usize = 49_152;

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every reason, in the order of its discriminant: `ALL[r as usize] == r`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name under which the counter is published.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

reasons! {
    /// Why an input did not hand a datagram to any rule; the discriminant indexes the drop counters.
    InputDrop {
        /// The kernel's receive queue was full before the worker took the datagram.
        KernelRing = "kernel_ring",
        /// The frame's headers contradict each other or its length.
        Malformed = "malformed",
        /// Not IP, or not UDP.
        NotUdp = "not_udp",
        /// A fragment: later ones have no ports, so the `packet` path takes none of them.
        Fragment = "fragment",
        /// The UDP or IPv4 header checksum is wrong.
        Checksum = "checksum",
        /// No rule wants this address, port and source.
        NoRule = "no_rule",
        /// TTL or hop limit used up, and every output of the rule keeps it.
        HopLimit = "hop_limit",
        /// No buffer was free.
        PoolEmpty = "pool_empty",
        /// The traffic class's queue was full.
        ClassFull = "class_full",
        /// Over the rate cap of the class.
        Rate = "rate",
        /// Taken by a worker that died before it came to it.
        WorkerLost = "worker_lost",
        /// A copy that this host sent and that came back, by a bridge or a router, to where rules would send it again.
        Loop = "loop",
    }
}

reasons! {
    /// Why one copy was not sent to one output; the discriminant indexes the drop counters.
    OutputDrop {
        /// The kernel refused the send; counted by errno as well.
        SendError = "send_error",
        /// The socket's or device's queue was full.
        QueueFull = "queue_full",
        /// Larger than the output can carry.
        TooBig = "too_big",
        /// Over the output's rate cap.
        Rate = "rate",
        /// No route to the destination, or its interface is missing or down.
        NoRoute = "no_route",
        /// The next hop's link-layer address is not known.
        NoNeighbour = "no_neighbour",
        /// TTL or hop limit used up at an output that keeps it, while other outputs still sent.
        HopLimit = "hop_limit",
        /// Under way in a worker that died; the kernel may or may not have taken it.
        WorkerLost = "worker_lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_indexes_its_own_place() {
        for (index, reason) in InputDrop::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, reason) in OutputDrop::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    #[test]
    fn the_serialised_name_is_the_published_name() {
        for reason in OutputDrop::ALL {
            assert_eq!(serde_json::to_string(reason).expect("plain enum"), format!("\"{}\"", reason.name()));
        }
        for reason in InputDrop::ALL {
            assert_eq!(serde_json::to_string(reason).expect("plain enum"), format!("\"{}\"", reason.name()));
        }
    }
}
