//! Exact payloads on their way out: every one is kept, with what its headers said.

use std::{
    io::{ErrorKind, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use mcr_lab::Namespace;
use mcr_proto::endpoint::Endpoint;
use nix::{
    cmsg_space,
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{ControlMessageOwned, MsgFlags, SetSockOpt, SockaddrStorage, recvmsg, setsockopt, sockopt},
};

use crate::PATIENCE;

/// Room for everything a test sends at once.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// No UDP payload is larger.
const PAYLOAD_BYTES_MAX: usize = 65_536;

/// One datagram as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its payload.
    pub payload: Vec<u8>,
    /// Who it says it is from.
    pub from: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class byte.
    pub traffic_class: u8,
}

/// A socket that listens at one place.
#[derive(Debug)]
pub struct Sink {
    socket: UdpSocket,
}

impl Sink {
    /// Listens at `endpoint`, as in `239.2.2.2:6000@dst0` or `10.2.0.2:6000`. Multicast needs the interface.
    ///
    /// # Panics
    /// If it cannot.
    pub fn open(namespace: &Namespace, endpoint: &str) -> Self {
        let endpoint: Endpoint = endpoint.parse().expect("an endpoint");
        let socket = namespace.enter(|| listen(&endpoint));
        socket.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        set(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES);
        Self { socket }
    }

    /// The next datagram.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn receive(&self) -> Received {
        self.take(MsgFlags::empty()).expect("a datagram is expected")
    }

    /// Asserts that the next datagrams have these payloads, in this order and to the byte.
    ///
    /// # Panics
    /// If they do not.
    #[track_caller]
    pub fn expect(&self, payloads: &[Vec<u8>]) -> Vec<Received> {
        let mut all = Vec::with_capacity(payloads.len());
        for (index, payload) in payloads.iter().enumerate() {
            let Some(received) = self.take(MsgFlags::empty()) else {
                panic!("{index} of {} datagrams came", payloads.len());
            };
            if received.payload != *payload {
                let (got, want) = (received.payload.len(), payload.len());
                let same = received.payload.iter().zip(payload).take_while(|(a, b)| a == b).count();
                let other = payloads.iter().position(|other| *other == received.payload);
                panic!(
                    "datagram {index}: {got} bytes instead of {want}, the first {same} alike; it is number {other:?}"
                );
            }
            all.push(received);
        }
        all
    }

    /// Asserts that nothing waits. What is on its way is not seen: let the counters come to rest first.
    ///
    /// # Panics
    /// If something does.
    #[track_caller]
    pub fn expect_nothing_more(&self) {
        let more = self.take(MsgFlags::MSG_DONTWAIT);
        assert_eq!(more.map(|received| (received.payload.len(), received.from)), None);
    }

    /// Everything that waits.
    pub fn drain(&self) -> Vec<Received> {
        std::iter::from_fn(|| self.take(MsgFlags::MSG_DONTWAIT)).collect()
    }

    /// The socket itself.
    pub fn into_socket(self) -> UdpSocket {
        self.socket
    }

    fn take(&self, flags: MsgFlags) -> Option<Received> {
        let mut payload = vec![0; PAYLOAD_BYTES_MAX];
        let mut control = cmsg_space!(i32, i32);
        let mut parts = [IoSliceMut::new(&mut payload)];
        let message =
            recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
        let message = match message {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return None,
            Err(errno) => panic!("cannot receive: {errno}"),
        };
        assert!(!message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC), "{:?}", message.flags);
        let (mut ttl, mut traffic_class) = (None, None);
        for control in message.cmsgs().expect("it was not truncated") {
            match control {
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = Some(value)
                }
                ControlMessageOwned::Ipv4Tos(value) => traffic_class = Some(value.into()),
                ControlMessageOwned::Ipv6TClass(value) => traffic_class = Some(value),
                _ => {}
            }
        }
        let from = address(&message.address.expect("a datagram has a source"));
        let bytes = message.bytes;
        let byte = |value: Option<i32>| u8::try_from(value.expect("it was asked for")).expect("a byte");
        payload.truncate(bytes);
        Some(Received { payload, from, ttl: byte(ttl), traffic_class: byte(traffic_class) })
    }
}

fn address(address: &SockaddrStorage) -> SocketAddr {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    // Without scope: it tells the interface, not the sender.
    let v6 = address.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().into(), v6.port()));
    v4.or(v6).expect("an Internet address")
}

fn listen(endpoint: &Endpoint) -> UdpSocket {
    let bound = endpoint.socket_addr();
    let socket = UdpSocket::bind(bound).unwrap_or_else(|error| match error.kind() {
        ErrorKind::AddrInUse => panic!("{bound} is taken"),
        _ => panic!("{bound}: {error}"),
    });
    match endpoint.address {
        IpAddr::V4(_) => {
            set(&socket, sockopt::Ipv4RecvTtl, &true);
            set(&socket, options::RecvTos, &true);
        }
        IpAddr::V6(_) => {
            set(&socket, sockopt::Ipv6RecvHopLimit, &true);
            set(&socket, sockopt::Ipv6RecvTClass, &true);
        }
    }
    if endpoint.address.is_multicast() {
        join(&socket, endpoint);
    }
    socket
}

fn join(socket: &UdpSocket, endpoint: &Endpoint) {
    let name = endpoint.interface.expect("a group is joined on an interface");
    let index = if_nametoindex(name.as_str()).unwrap_or_else(|errno| panic!("{name}: {errno}"));
    match endpoint.address {
        IpAddr::V4(group) => {
            let none = libc::in_addr { s_addr: 0 };
            let imr_multiaddr = libc::in_addr { s_addr: u32::from(group).to_be() };
            let imr_ifindex = i32::try_from(index).expect("an interface index");
            set(socket, options::Join, &libc::ip_mreqn { imr_multiaddr, imr_address: none, imr_ifindex });
        }
        IpAddr::V6(group) => socket.join_multicast_v6(&group, index).expect("it can be joined"),
    }
}

fn set<O: SetSockOpt>(socket: &UdpSocket, option: O, value: &O::Val) {
    setsockopt(socket, option, value).unwrap_or_else(|errno| panic!("cannot set an option: {errno}"));
}

/// Options that nix has no name for.
mod options {
    // The macro makes `pub` types; the module is private all the same.
    #![allow(unreachable_pub)]

    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// The TOS byte comes with each datagram.
        RecvTos, SetOnly, libc::IPPROTO_IP, libc::IP_RECVTOS, bool);
    sockopt_impl!(
        /// Joins an IPv4 group on an interface by its index.
        Join, SetOnly, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, libc::ip_mreqn);
}
