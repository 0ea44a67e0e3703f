//! Exact payloads on their way in.

use std::net::{SocketAddr, UdpSocket};

use mcr_lab::Namespace;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::socket::{SetSockOpt, setsockopt, sockopt},
    unistd::Pid,
};

/// A socket that sends to one place.
#[derive(Debug)]
pub struct Source {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Source {
    /// A socket at `from`, as in `10.1.0.1:0`, for `to`. The route chooses the interface.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open(namespace: &Namespace, from: &str, to: &str) -> Self {
        let socket =
            namespace.enter(|| UdpSocket::bind(from)).unwrap_or_else(|error| panic!("{from}: {error}"));
        let source = Self { socket, to: to.parse().expect("an address and a port") };
        source.ttl(16);
        source
    }

    /// Where datagrams come from.
    ///
    /// # Panics
    /// If the socket has no address.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("it is bound")
    }

    /// Sets the TTL or hop limit.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn ttl(&self, ttl: u8) {
        match self.to {
            SocketAddr::V4(_) => {
                self.set(sockopt::IpMulticastTtl, &ttl);
                self.set(sockopt::Ipv4Ttl, &ttl.into());
            }
            SocketAddr::V6(_) => {
                self.set(sockopt::Ipv6MulticastHops, &ttl.into());
                self.set(sockopt::Ipv6Ttl, &ttl.into());
            }
        }
    }

    /// Sets the TOS or traffic class byte, ECN included.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn traffic_class(&self, class: u8) {
        match self.to {
            SocketAddr::V4(_) => self.set(sockopt::Ipv4Tos, &class.into()),
            SocketAddr::V6(_) => self.set(sockopt::Ipv6TClass, &class.into()),
        }
    }

    /// Sends to the group by this interface whatever the routes say, and not to listeners on the same host.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn send_by(&self, namespace: &Namespace, ifname: &str) {
        let index = namespace.link_index(ifname).unwrap_or_else(|error| panic!("{error}"));
        assert!(self.to.is_ipv4(), "of IPv4 only");
        let none = libc::in_addr { s_addr: 0 };
        let imr_ifindex = i32::try_from(index).expect("an interface index");
        let request = libc::ip_mreqn { imr_multiaddr: none, imr_address: none, imr_ifindex };
        self.set(options::MulticastInterface, &request);
        self.set(sockopt::IpMulticastLoop, &false);
    }

    /// Sends each payload as one datagram.
    ///
    /// # Panics
    /// If the kernel refuses one.
    pub fn send(&self, payloads: &[Vec<u8>]) {
        self.send_all(self.to, payloads);
    }

    /// Sends each payload as one datagram to another address of the same family.
    ///
    /// # Panics
    /// If `to` is no address with a port, or the kernel refuses one.
    pub fn send_to(&self, to: &str, payloads: &[Vec<u8>]) {
        self.send_all(to.parse().expect("an address and a port"), payloads);
    }

    fn send_all(&self, to: SocketAddr, payloads: &[Vec<u8>]) {
        on_one_core(|| {
            for payload in payloads {
                let sent = self.socket.send_to(payload, to);
                assert_eq!(sent.unwrap_or_else(|error| panic!("{to}: {error}")), payload.len());
            }
        });
    }

    /// Sends payloads in one superframe; all but the last must be of one size, and the last no larger.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn send_superframe(&self, payloads: &[Vec<u8>]) {
        let segment = payloads.first().expect("a superframe holds something").len();
        self.set(sockopt::UdpGsoSegment, &i32::try_from(segment).expect("a payload size"));
        self.send(&[payloads.concat()]);
        self.set(sockopt::UdpGsoSegment, &0);
    }

    fn set<O: SetSockOpt>(&self, option: O, value: &O::Val) {
        setsockopt(&self.socket, option, value)
            .unwrap_or_else(|errno| panic!("cannot set an option: {errno}"));
    }
}

/// Options that nix has no name for.
mod options {
    // The macro makes `pub` types; the module is private all the same.
    #![allow(unreachable_pub)]

    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// The interface that multicast goes out by, by its index.
        MulticastInterface, SetOnly, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, libc::ip_mreqn);
}

/// Runs what sends on one core, the same for all. A veth device queues at the receiver's side by the sender's core, so a
/// thread that is moved to another core in the middle can overtake itself: an order that no relay could keep.
///
/// # Panics
/// If the kernel does not say, or refuses, where the thread may run.
pub fn on_one_core<T>(send: impl FnOnce() -> T) -> T {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).expect("a thread may ask");
    let first = (0..CpuSet::count()).find(|core| before.is_set(*core).is_ok_and(|set| set));
    let mut one = CpuSet::new();
    one.set(first.expect("a thread has a core")).expect("it is one of the set");
    sched_setaffinity(this, &one).expect("a thread may run where it could before");
    let result = send();
    // Daemons that this thread starts must get all cores.
    sched_setaffinity(this, &before).expect("a thread may run where it could before");
    result
}

/// Payloads of the given sizes, no two (but empty ones) alike: `seed` tells those of one test from those of another.
pub fn payloads(seed: u64, sizes: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    let payload = |(index, bytes): (usize, usize)| {
        // Xorshift (Marsaglia, Xorshift RNGs, 2003): never 0 once it is not.
        let mut state = ((seed << 32) | (index as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..bytes).map(|_| next()).collect()
    };
    sizes.into_iter().enumerate().map(payload).collect()
}

/// Two hundred payloads of the sizes that matter: none, one byte, odd, the usual ones, and the largest that an MTU of 1500
/// takes in IPv6 and, unless `ipv6`, in IPv4.
pub fn assorted(seed: u64, ipv6: bool) -> Vec<Vec<u8>> {
    let largest = if ipv6 { 1452 } else { 1472 };
    let sizes = [
        1316, 0, 1, 31, 1316, 1316, 188, largest, 1400, 1400, 1400, 64, 1453, 2, 500, 1316, 7, 0, 1000, 1452,
    ];
    payloads(seed, sizes.map(|bytes| bytes.min(largest)).into_iter().cycle().take(200))
}
