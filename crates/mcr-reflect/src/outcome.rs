//! What becomes of a frame, and the names under which it is counted.

/// Declares an enum whose discriminants index counters, with the name of each.
macro_rules! named {
    ($(#[$meta:meta])* $enum:ident { $($(#[doc = $doc:literal])* $variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $enum {
            $($(#[doc = $doc])* $variant,)*
        }

        impl $enum {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name in statistics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Its place in tables of counters.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(crate) use named;

named! {
    /// Why a frame was not reflected.
    Reason {
        /// The frame ends inside a header.
        Short = "short",
        /// Longer than the interface's MTU allows to send: a product of GRO or LRO.
        Oversize = "oversize",
        /// The destination MAC is not ours.
        DstMac = "dst_mac",
        /// The destination, MAC or IP, is a group or broadcast address, which is not answered.
        DstGroup = "dst_group",
        /// The source, MAC or IP, is a group or broadcast address, which cannot be answered.
        SrcGroup = "src_group",
        /// The source MAC is our own.
        SrcSelf = "src_self",
        /// The source MAC has another OUI than testers have.
        SrcOui = "src_oui",
        /// More VLAN tags than two.
        VlanDepth = "vlan_depth",
        /// An EtherType that is not reflected.
        EtherType = "ethertype",
        /// IP version or header length is wrong.
        IpHeader = "ip_header",
        /// A part of a larger datagram.
        Fragment = "fragment",
        /// Another protocol than UDP.
        Protocol = "protocol",
        /// A length field of IP, UDP or what follows contradicts another or the frame.
        LengthField = "length_field",
        /// Another UDP destination port.
        Port = "port",
        /// No known signature in its place.
        Signature = "signature",
        /// A known signature, of a family that is not selected.
        FamilyOff = "family_off",
        /// It would go round in circles: another reflector's or service's reply.
        Loop = "loop",
        /// More than a limit of the rate allows.
        Rate = "rate",
        /// Not on the list of those who are answered.
        NotAllowed = "not_allowed",
        /// An OAM frame of another level than ours.
        Level = "level",
        /// An OAM operation or test packet that is not answered here, or too short for what it says it is.
        Request = "request",
        /// Authentication is wanted and missing or wrong.
        Auth = "auth",
    }
}

named! {
    /// What a reflected frame was.
    Kind {
        /// ITO probe.
        ProbeOt = "probeot",
        /// ITO data.
        DataOt = "dataot",
        /// ITO latency.
        Latency = "latency",
        /// RFC2544 signature.
        Rfc2544 = "rfc2544",
        /// Y.1564 signature.
        Y1564 = "y1564",
        /// Without a known signature, reflected by mode `auto`.
        Other = "other",
        /// UDP echo (RFC 862).
        Echo = "echo",
        /// TWAMP-Light (RFC 5357, appendix I).
        Twamp = "twamp",
        /// STAMP (RFC 8762).
        Stamp = "stamp",
        /// Loopback message (Y.1731, IEEE 802.1ag).
        Lbm = "lbm",
        /// Delay measurement message (Y.1731).
        Dmm = "dmm",
        /// Synthetic loss message (Y.1731).
        Slm = "slm",
        /// Loss measurement message (Y.1731).
        Lmm = "lmm",
    }
}

/// What is to be done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a frame that is not counted is lost in silence"]
pub enum Outcome {
    /// Send the first `bytes` of the buffer.
    Send {
        /// Length of the reply.
        bytes: usize,
        /// What it is.
        kind: Kind,
    },
    /// Send the first `bytes` of the buffer, but only after `delay_ns`; copy it if the buffer is needed.
    SendLater {
        /// Length of the reply.
        bytes: usize,
        /// What it is.
        kind: Kind,
        /// How long to wait; at most one second.
        delay_ns: u64,
    },
    /// Send nothing. The frame is as it came.
    Drop(Reason),
}
