//! What on this host wants datagrams too, so that their frames must go on to the stack: UDP sockets by their ports, and whatever takes
//! all of some kind (raw sockets, packet sockets behind the program, multicast routing).
//!
//! Read from `/proc/net`, because the kernel announces no socket (nor a group that is joined a second time on an interface). A listener that is new gets its datagrams
//! with the next look.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// What of it has changed between two looks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Ports at which sockets came or went.
    pub(super) ports: BTreeSet<u16>,
    /// Something came or went that takes whatever comes.
    pub(super) greedy: bool,
}

/// What listens on this host.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// Address and port of every UDP socket, but those that let nothing in.
    bound: BTreeSet<(IpAddr, u16)>,
    /// Something takes whatever comes.
    greedy: bool,
    /// Inodes of sockets that let nothing in: no part of what is there.
    deaf: BTreeSet<u64>,
}

const UDP: u8 = 17;
const ETH_P_IP: &str = "0800";
const ETH_P_IPV6: &str = "86dd";

impl Heard {
    /// Whether there is anything.
    pub(super) fn is_any(&self) -> bool {
        self.greedy || !self.ports.is_empty()
    }
}

impl Listeners {
    /// Looks again. What has changed.
    pub(super) fn read(&mut self) -> Heard {
        let text =
            |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        let now = Self::parse(
            &[text("udp"), text("udp6")],
            &[text("raw"), text("raw6")],
            &text("packet"),
            &[text("ip_mr_vif"), text("ip6_mr_vif")],
            &self.deaf,
        );
        let heard = self.heard(&now);
        *self = now;
        heard
    }

    fn heard(&self, now: &Self) -> Heard {
        let ports = self.bound.symmetric_difference(&now.bound).map(|(_, port)| *port).collect();
        Heard { ports, greedy: self.greedy != now.greedy }
    }

    /// Takes no notice of these sockets, by their inodes, from the next look on.
    pub(super) fn ignore(&mut self, deaf: impl Iterator<Item = u64>) {
        self.deaf = deaf.collect();
    }

    /// Whether anything wants what is sent to a destination.
    pub(super) fn want(&self, destination: SocketAddr) -> bool {
        let (address, port) = (destination.ip(), destination.port());
        // A socket of IPv6 bound to any address may take IPv4, too.
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        self.greedy || [address, any[0], any[1]].into_iter().any(|bound| self.bound.contains(&(bound, port)))
    }

    fn parse(udp: &[String], raw: &[String], packet: &str, routing: &[String], deaf: &BTreeSet<u64>) -> Self {
        let lines = |texts: &[String]| -> Vec<String> {
            texts.iter().flat_map(|text| text.lines().skip(1).map(str::to_owned)).collect()
        };
        let hears = |line: &&String| inode(line).is_none_or(|inode| !deaf.contains(&inode));
        let bound = lines(udp).iter().filter(hears).filter_map(|line| local_address(line)).collect();
        let takes_udp =
            |line: &String| local_address(line).is_some_and(|(_, protocol)| protocol == u16::from(UDP));
        let after_the_program = |line: &str| {
            // Columns of packet_seq_show: sk, RefCnt, Type, Proto...
            let protocol = line.split_whitespace().nth(3);
            protocol.is_some_and(|protocol| [ETH_P_IP, ETH_P_IPV6].contains(&protocol))
        };
        let greedy = lines(raw).iter().any(takes_udp)
            || packet.lines().skip(1).any(after_the_program)
            || !lines(routing).is_empty();
        Self { bound, greedy, deaf: deaf.clone() }
    }
}

/// The sockets, by their inodes, that may get what is sent to an address of this host: those bound to it, and those bound to any. None if
/// the kernel does not say.
pub(crate) fn sockets_at(address: SocketAddr) -> Option<Vec<u64>> {
    let text = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok();
    // A socket of IPv6 may take IPv4, too.
    let (one, other) = match address {
        SocketAddr::V4(_) => (text("udp")?, text("udp6").unwrap_or_default()),
        SocketAddr::V6(_) => (text("udp6")?, String::new()),
    };
    let gets_it = |line: &&str| {
        local_address(line).is_some_and(|(ip, port)| {
            port == address.port() && (ip.is_unspecified() || ip.to_canonical() == address.ip())
        })
    };
    Some(one.lines().chain(other.lines()).filter(gets_it).filter_map(inode).collect())
}

/// The tenth column.
fn inode(line: &str) -> Option<u64> {
    line.split_whitespace().nth(9)?.parse().ok()
}

/// The second column: address and port, in hexadecimal, the address in words of the machine's order.
fn local_address(line: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut octets = [0; 16];
            for (index, four) in octets.chunks_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::from(octets)
        }
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP4: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n \
        42: 0101EFEF:1388 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 0 0\n \
        43: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0 0\n";
    const UDP6: &str = "  sl  local_address                         remote_address\n \
        7: 000000FF000000000000000001000000:1770 00000000000000000000000000000000:0000 07 0:0\n \
        8: 00000000000000000000000000000000:1B58 00000000000000000000000000000000:0000 07 0:0\n";

    fn parse(raw: &str, packet: &str, routing: &str) -> Listeners {
        Listeners::parse(
            &[UDP4.into(), UDP6.into()],
            &[raw.into()],
            packet,
            &[routing.into()],
            &BTreeSet::new(),
        )
    }

    fn to(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_socket_wants_its_port_at_its_address_or_at_any() {
        let listeners = parse("", "", "");
        for wanted in
            ["239.239.1.1:5000", "239.9.9.9:53", "[ff00::1]:6000", "[ff3e::9]:7000", "239.1.2.3:7000"]
        {
            assert!(listeners.want(to(wanted)), "{wanted}");
        }
        for other in ["239.239.1.2:5000", "239.239.1.1:5001", "[ff00::2]:6000", "[ff3e::9]:53"] {
            assert!(!listeners.want(to(other)) || other == "[ff3e::9]:53", "{other}");
        }
    }

    #[test]
    fn a_socket_that_lets_nothing_in_wants_nothing() {
        let listeners = Listeners::parse(&[UDP4.into()], &[], "", &[], &BTreeSet::from([11]));
        assert!(!listeners.want(to("239.239.1.1:5000")));
        assert!(listeners.want(to("239.9.9.9:53")));
    }

    #[test]
    fn what_came_and_went_is_told_by_its_ports() {
        let (before, after) =
            (parse("", "", ""), Listeners::parse(&[UDP4.into()], &[], "", &[], &BTreeSet::new()));
        assert_eq!(before.heard(&parse("", "", "")), Heard::default());
        for heard in [before.heard(&after), after.heard(&before)] {
            assert_eq!(heard, Heard { ports: [6000, 7000].into(), greedy: false });
        }
        let greedy = parse("", "", "Interface BytesIn PktsIn\n 0 eth0 0 0 0 0 0\n");
        assert_eq!(before.heard(&greedy), Heard { ports: BTreeSet::new(), greedy: true });
    }

    #[test]
    fn what_takes_everything_wants_everything() {
        let elsewhere = to("239.5.5.5:5");
        assert!(!parse("", "", "").want(elsewhere));
        let raw = |protocol: &str| {
            format!("  sl  local_address rem_address\n 17: 00000000:{protocol} 00000000:0000 07\n")
        };
        assert!(parse(&raw("0011"), "", "").want(elsewhere));
        assert!(!parse(&raw("0001"), "", "").want(elsewhere));
        let packet = |protocol: &str| {
            format!("sk RefCnt Type Proto Iface R Rmem User Inode\n0 3 3 {protocol} 2 1 0 0 5\n")
        };
        assert!(parse("", &packet("0800"), "").want(elsewhere));
        assert!(!parse("", &packet("0003"), "").want(elsewhere), "that one stands before the program");
        assert!(parse("", "", "Interface BytesIn PktsIn\n 0 eth0 0 0 0 0 0\n").want(elsewhere));
    }
}
