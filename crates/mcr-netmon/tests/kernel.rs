//! The monitor against the kernel, in namespaces made by the test.
//!
//! [`Watched::check`] is the oracle of every test: the snapshot that was followed by changes equals one that was
//! just dumped, and a mirror that replayed every change equals both. Neighbours are left out of the comparison with
//! the dump: the kernel makes entries and changes their states without announcing each step.

// A test fails by panicking, and so do its steps.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use mcr_lab::{Line, Namespace, require, veth, wait_until};
use mcr_netmon::{
    Ask, Change, LinkKind, Monitor, NeighbourState, Options, Resolver, RouteKind, Snapshot, XdpFeatures,
};
use nix::sys::socket::{NetlinkAddr, getsockname};

const PATIENCE: Duration = Duration::from_secs(10);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A monitor of a namespace, with all it said.
struct Watched {
    namespace: Namespace,
    monitor: Monitor,
    mirror: Snapshot,
    changes: Vec<Change>,
}

impl Watched {
    fn new(namespace: &Namespace) -> Self {
        Self::with(namespace, &Options::default())
    }

    fn with(namespace: &Namespace, options: &Options) -> Self {
        let monitor = namespace.enter(|| Monitor::open_with(options)).unwrap();
        let mirror = monitor.snapshot().clone();
        Self { namespace: namespace.clone(), monitor, mirror, changes: Vec::new() }
    }

    fn read(&mut self) {
        let changes = self.monitor.changes().unwrap();
        self.mirror.replay(&changes);
        self.changes.extend(changes);
    }

    /// Reads until `condition` holds for the snapshot.
    fn until(&mut self, what: &str, condition: impl Fn(&Snapshot) -> bool) {
        wait_until(PATIENCE, what, || {
            self.read();
            condition(self.monitor.snapshot())
        })
        .unwrap();
    }

    /// The changes since the last call that are not about neighbours.
    fn taken(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes).into_iter().filter(|c| !about_neighbour(c)).collect()
    }

    fn check(&mut self) {
        let namespace = self.namespace.clone();
        let mut difference = Vec::new();
        let waited = wait_until(PATIENCE, "the followed and the dumped snapshot agree", || {
            let fresh = namespace.enter(Monitor::open).unwrap();
            self.read();
            difference = self.monitor.snapshot().diff(fresh.snapshot());
            difference.retain(|c| !about_neighbour(c));
            difference.is_empty()
        });
        assert!(waited.is_ok(), "{difference:#?}");
        assert_eq!(&self.mirror, self.monitor.snapshot());
        assert_eq!((self.monitor.malformed(), self.monitor.snapshot().left_out()), (0, 0));
    }
}

fn about_neighbour(change: &Change) -> bool {
    matches!(change, Change::NeighbourChanged { .. } | Change::NeighbourRemoved(_))
}

/// Two connected namespaces, links down, without addresses.
fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    a.quiet_ipv6().unwrap();
    b.quiet_ipv6().unwrap();
    veth((&a, "a0"), (&b, "b0")).unwrap();
    (a, b)
}

fn pair_up() -> (Namespace, Namespace) {
    let (a, b) = pair();
    a.set_up("a0").unwrap();
    b.set_up("b0").unwrap();
    a.wait_running("a0").unwrap();
    b.wait_running("b0").unwrap();
    (a, b)
}

#[test]
fn a_link_is_followed_from_its_making_to_its_end() {
    let Some(()) = require::netns() else { return };
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let mut watched = Watched::new(&a);
    assert!(
        watched
            .monitor
            .snapshot()
            .link_by_name("lo")
            .is_some_and(|lo| lo.kind == LinkKind::Loopback && lo.up)
    );

    veth((&a, "a0"), (&b, "b0")).unwrap();
    watched.until("a0 is there", |s| s.link_by_name("a0").is_some());
    let made = watched.monitor.snapshot().link_by_name("a0").unwrap().clone();
    assert_eq!(
        (made.kind, made.driver.as_deref(), made.up, made.parent),
        (LinkKind::Ethernet, Some("veth"), false, None)
    );
    assert_eq!(made.mac, a.link("a0").unwrap().mac);

    a.set_up("a0").unwrap();
    b.set_up("b0").unwrap();
    watched.until("a0 is running", |s| s.link(made.index).is_some_and(|l| l.up && l.running));
    a.set_mac("a0", [2, 0, 0, 0, 0, 7]).unwrap();
    watched.until("a0 has another address", |s| {
        s.link(made.index).is_some_and(|l| l.mac == Some([2, 0, 0, 0, 0, 7]))
    });
    a.set_mtu("a0", 9000).unwrap();
    watched.until("a0 has another mtu", |s| s.link(made.index).is_some_and(|l| l.mtu == 9000));
    b.set_down("b0").unwrap();
    watched.until("a0 lost its carrier", |s| s.link(made.index).is_some_and(|l| l.up && !l.running));
    a.set_down("a0").unwrap();
    a.rename_link("a0", "a1").unwrap();
    watched.until("a0 is renamed", |s| s.link_by_name("a1").is_some_and(|l| l.index == made.index));
    watched.check();

    watched.taken();
    a.delete_link("a1").unwrap();
    veth((&a, "a1"), (&b, "b0")).unwrap();
    watched.until("a1 is another", |s| s.link_by_name("a1").is_some_and(|l| l.index != made.index));
    let changes = watched.taken();
    assert!(
        changes.iter().any(|c| matches!(c, Change::LinkRemoved(l) if l.index == made.index)),
        "{changes:#?}"
    );
    assert!(changes.iter().any(|c| matches!(c, Change::LinkAdded(l) if l.name == "a1")), "{changes:#?}");
    watched.check();
    assert_eq!(watched.monitor.resyncs(), 0);
}

#[test]
fn nothing_happening_is_no_change_not_even_after_a_resync() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair();
    let mut watched = Watched::new(&a);
    watched.read();
    watched.monitor.force_resync();
    watched.read();
    assert_eq!(watched.taken(), []);
    assert!(watched.monitor.caught_up());
    assert_eq!(watched.monitor.resyncs(), 1);
    watched.check();
}

#[test]
fn addresses_are_added_and_removed() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair_up();
    let mut watched = Watched::new(&a);
    let index = a.link_index("a0").unwrap();
    for (address, prefix) in [("10.0.0.1", 24), ("fd00::1", 64)] {
        let holds =
            |s: &Snapshot| s.addresses_of(index).any(|x| x.address == ip(address) && x.prefix == prefix);
        a.add_address("a0", ip(address), prefix).unwrap();
        watched.until("the address is there", holds);
        a.delete_address("a0", ip(address), prefix).unwrap();
        watched.until("the address is gone", |s| !holds(s));
        let changes = watched.taken();
        let of = |wanted: fn(&Change) -> Option<IpAddr>| {
            changes.iter().filter_map(wanted).filter(|x| *x == ip(address)).count()
        };
        assert_eq!(
            of(|c| if let Change::AddressAdded(x) = c { Some(x.address) } else { None }),
            1,
            "{changes:#?}"
        );
        assert_eq!(
            of(|c| if let Change::AddressRemoved(x) = c { Some(x.address) } else { None }),
            1,
            "{changes:#?}"
        );
    }
    watched.check();
}

#[test]
fn an_address_under_duplicate_detection_is_tentative_until_it_is_over() {
    let Some(()) = require::netns() else { return };
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    veth((&a, "a0"), (&b, "b0")).unwrap();
    let index = a.link_index("a0").unwrap();
    a.set_up("a0").unwrap();
    b.set_up("b0").unwrap();
    // The kernel announces the address only when it is usable, but dumps it before.
    let tentative = |s: &Snapshot| s.addresses_of(index).any(|x| x.tentative && x.scope == 253);
    let mut watched = Watched::new(&a);
    wait_until(PATIENCE, "the link-local address is there", || {
        watched = Watched::new(&a);
        tentative(watched.monitor.snapshot())
    })
    .unwrap();
    assert_eq!(watched.monitor.snapshot().source_v6(index), None);
    watched.until("the link-local address is usable", |s| s.source_v6(index).is_some());
    let changes = watched.taken();
    let usable =
        |c: &Change| matches!(c, Change::AddressChanged { old, new } if old.tentative && !new.tentative);
    assert_eq!(changes.iter().filter(|c| usable(c)).count(), 1, "{changes:#?}");
    watched.check();
}

#[test]
fn routes_that_the_kernel_drops_without_a_word_are_noticed() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair_up();
    a.add_address("a0", ip("10.0.0.1"), 24).unwrap();
    a.add_address("a0", ip("fd00::1"), 64).unwrap();
    let mut watched = Watched::new(&a);
    let far = || Some((ip("192.0.2.0"), 24));
    a.add_route(far(), Some(ip("10.0.0.2")), "a0").unwrap();
    a.add_route(Some((ip("2001:db8::"), 32)), Some(ip("fd00::2")), "a0").unwrap();
    watched.until("the routes are there", |s| {
        s.route_to(ip("192.0.2.9")).is_some() && s.route_to(ip("2001:db8::9")).is_some()
    });
    let hit = watched.monitor.snapshot().route_to(ip("192.0.2.9")).unwrap();
    assert_eq!(
        (hit.gateway, hit.source, hit.kind),
        (Some(ip("10.0.0.2")), Some(ip("10.0.0.1")), RouteKind::Unicast)
    );
    watched.check();

    a.delete_route(far(), Some(ip("10.0.0.2")), "a0").unwrap();
    watched.until("the route is gone", |s| s.route_to(ip("192.0.2.9")).is_none());
    a.add_route(far(), Some(ip("10.0.0.2")), "a0").unwrap();
    watched.until("the route is back", |s| s.route_to(ip("192.0.2.9")).is_some());

    watched.taken();
    a.set_down("a0").unwrap();
    watched.until("a0 is down", |s| s.link_by_name("a0").is_some_and(|l| !l.up));
    let removed = |c: &Change| matches!(c, Change::RouteRemoved(r) if r.destination == ip("192.0.2.0"));
    assert_eq!(watched.taken().iter().filter(|c| removed(c)).count(), 1);
    watched.check();

    a.set_up("a0").unwrap();
    a.add_route(far(), Some(ip("10.0.0.2")), "a0").unwrap();
    watched.until("the route is back", |s| s.route_to(ip("192.0.2.9")).is_some());
    a.delete_address("a0", ip("10.0.0.1"), 24).unwrap();
    watched.until("the route went with the address", |s| s.route_to(ip("192.0.2.9")).is_none());
    watched.check();
    assert_eq!(watched.monitor.resyncs(), 0);
}

#[test]
fn neighbours_are_followed() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair_up();
    a.add_address("a0", ip("10.0.0.1"), 24).unwrap();
    let index = a.link_index("a0").unwrap();
    let mut watched = Watched::new(&a);
    for mac in [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]] {
        a.add_neighbour("a0", ip("10.0.0.9"), mac).unwrap();
        watched.until("the neighbour is known", |s| {
            let found = s.neighbour(index, ip("10.0.0.9"));
            found.is_some_and(|n| {
                n.mac == Some(mac) && n.state == NeighbourState::Permanent && n.state.is_valid()
            })
        });
    }
    a.delete_neighbour("a0", ip("10.0.0.9")).unwrap();
    watched.until("the neighbour is gone", |s| s.neighbour(index, ip("10.0.0.9")).is_none());
    watched.check();
}

#[test]
fn a_neighbour_that_the_kernel_resolved_is_reachable() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let mut watched = Watched::new(&line.relay);
    let (index, mac) = (line.relay.link_index("out0").unwrap(), line.sinks[0].link("dst0").unwrap().mac);
    let sender = line.relay.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    sender.send_to(b"x", (Line::sink_v4(0), 9)).unwrap();
    watched.until("the sink is reachable", |s| {
        let found = s.neighbour(index, Line::sink_v4(0).into());
        found.is_some_and(|n| n.mac == mac && n.state == NeighbourState::Reachable)
    });
}

#[test]
fn a_neighbour_that_is_asked_for_is_found_and_kept() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let mut watched = Watched::new(&line.relay);
    let out = line.relay.link_index("out0").unwrap();
    let mut resolver = line.relay.enter(Resolver::open).unwrap();
    let mac = line.sinks[0].link("dst0").unwrap().mac;
    for (address, ask) in [(ip("10.2.0.2"), Ask::Use), (ip("fd00:2::2"), Ask::Keep)] {
        resolver.ask(out, address, ask).unwrap();
        watched.until("the neighbour is known", |snapshot| {
            snapshot.neighbour(out, address).is_some_and(|known| known.state.is_valid() && known.mac == mac)
        });
        // Asked again, both ways, it stays known.
        resolver.ask(out, address, Ask::Keep).unwrap();
        resolver.ask(out, address, Ask::Use).unwrap();
        watched.read();
        assert!(watched.monitor.snapshot().neighbour(out, address).unwrap().state.is_valid());
    }
    let error = resolver.ask(7_777, ip("10.2.0.2"), Ask::Use).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENODEV));
}

#[test]
fn a_route_by_an_interface_is_the_best_of_those_by_it() {
    let Some(()) = require::netns() else { return };
    let line = Line::with_outputs(2).unwrap();
    let gateway = |text| Some(ip(text));
    line.relay.add_route(Some((ip("10.77.0.0"), 16)), gateway("10.2.0.2"), "out0").unwrap();
    line.relay.add_route(Some((ip("10.77.1.0"), 24)), gateway("10.3.0.2"), "out1").unwrap();
    let watched = Watched::new(&line.relay);
    let [out0, out1] = ["out0", "out1"].map(|name| line.relay.link_index(name).unwrap());
    let snapshot = watched.monitor.snapshot();
    let by =
        |index| snapshot.route_by(ip("10.77.1.1"), index).map(|hit| (hit.index, hit.gateway, hit.source));
    assert_eq!(by(out0), Some((out0, gateway("10.2.0.2"), Some(ip("10.2.0.1")))));
    assert_eq!(by(out1), Some((out1, gateway("10.3.0.2"), Some(ip("10.3.0.1")))));
    // Without a route by it, it is taken to be on the link.
    let stranger = snapshot.route_by(ip("192.0.2.1"), out1).unwrap();
    assert_eq!((stranger.index, stranger.gateway, stranger.source), (out1, None, Some(ip("10.3.0.1"))));
    assert_eq!(snapshot.route_by(ip("192.0.2.1"), 7_777), None);
}

#[test]
fn an_overrun_leads_to_a_resync_and_the_changes_tell_all() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair_up();
    let mut watched = Watched::with(&a, &Options::default().receive_buffer_bytes(16 * 1024));
    let hosts = 1..=200u8;
    for host in hosts.clone() {
        a.add_address("a0", ip(&format!("10.0.0.{host}")), 24).unwrap();
    }
    a.rename_link("lo", "lo1").unwrap();
    watched.until("the link is renamed", |s| s.link_by_name("lo1").is_some());
    assert!(watched.monitor.resyncs() >= 1);
    let changes = watched.taken();
    for host in hosts {
        let added =
            |c: &&Change| matches!(c, Change::AddressAdded(x) if x.address == ip(&format!("10.0.0.{host}")));
        assert_eq!(changes.iter().filter(added).count(), 1, "10.0.0.{host}");
    }
    watched.check();

    // The kernel announces again after an overrun.
    let resyncs = watched.monitor.resyncs();
    a.rename_link("lo1", "lo").unwrap();
    watched.until("the link is renamed back", |s| s.link_by_name("lo").is_some());
    assert_eq!(watched.monitor.resyncs(), resyncs);
}

#[test]
fn a_port_that_leaves_its_bridge_stays_a_link() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair_up();
    a.bridge("br0").unwrap();
    let mut watched = Watched::new(&a);
    let (port, bridge) = (a.link_index("a0").unwrap(), a.link_index("br0").unwrap());
    a.set_master("a0", Some("br0")).unwrap();
    watched.until("a0 is a port", |s| s.link(port).is_some_and(|l| l.master == Some(bridge)));
    a.set_master("a0", None).unwrap();
    watched.until("a0 is no port", |s| s.link(port).is_some_and(|l| l.master.is_none()));
    let changes = watched.taken();
    assert!(
        !changes.iter().any(|c| matches!(c, Change::LinkRemoved(_) | Change::LinkAdded(_))),
        "{changes:#?}"
    );
    watched.check();
}

#[test]
fn route_to_gives_what_the_kernel_would_do() {
    let Some(()) = require::netns() else { return };
    let line = Line::with_outputs(2).unwrap();
    line.relay.add_route(Some((ip("198.51.100.0"), 24)), Some(ip("10.3.0.2")), "out1").unwrap();
    line.relay.add_route(Some((ip("198.51.100.128"), 25)), Some(ip("10.2.0.2")), "out0").unwrap();
    line.relay.add_route(Some((ip("2001:db8::"), 32)), Some(ip("fd00:3::2")), "out1").unwrap();
    line.relay.add_multicast_route("out1").unwrap();
    let mut watched = Watched::new(&line.relay);
    watched.check();
    for destination in [
        "10.1.0.1",
        "10.2.0.2",
        "10.3.0.77",
        "198.51.100.1",
        "198.51.100.200",
        "192.0.2.1",
        "239.1.1.1",
        "127.0.0.1",
        "10.3.0.1",
        "fd00:1::1",
        "fd00:2::2",
        "2001:db8::1",
        "2001:db9::1",
        "ff3e::1",
        "::1",
        "fd00:3::1",
    ] {
        let destination = ip(destination);
        let hit = watched.monitor.snapshot().route_to(destination);
        // The kernel's answer: the source address of a connected socket; another port, so that it may be itself.
        let kernel = line.relay.enter(|| {
            let any = if destination.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(SocketAddr::new(destination, 9)).ok()?;
            socket.local_addr().ok().map(|a| a.ip())
        });
        assert_eq!(hit.and_then(|hit| hit.source), kernel, "{destination}: {hit:?}");
    }
}

#[test]
fn what_another_process_writes_to_the_socket_is_not_believed() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair();
    let mut watched = Watched::new(&a);
    let port = getsockname::<NetlinkAddr>(watched.monitor.as_raw_fd()).unwrap().pid();
    // RTM_DELLINK of lo, well formed.
    let mut forged = vec![0; 32];
    forged[0] = 32;
    forged[4] = 17;
    forged[20] = 1;
    a.enter(|| {
        let mut socket = netlink_sys::Socket::new(0).unwrap();
        socket.bind_auto().unwrap();
        socket.send_to(&forged, &netlink_sys::SocketAddr::new(port, 0), 0).unwrap();
    });
    watched.read();
    assert_eq!(watched.taken(), []);
    assert!(watched.monitor.snapshot().link_by_name("lo").is_some());
}

#[test]
fn a_monitor_needs_no_rights() {
    const CHILD: &str = "MCR_NETMON_CHILD";
    const NOBODY: u32 = 65534;
    if std::env::var_os(CHILD).is_some() {
        let mut monitor = Monitor::open().unwrap();
        assert!(monitor.snapshot().link_by_name("lo").is_some());
        monitor.changes().unwrap();
        return;
    }
    let Some(()) = require::netns() else { return };
    let mut command = Command::new("/proc/self/exe");
    command.env(CHILD, "1").args(["--exact", "a_monitor_needs_no_rights"]).uid(NOBODY).gid(NOBODY);
    assert!(command.status().unwrap().success());
}

#[test]
fn a_driver_says_what_it_can_do_of_xdp() {
    let Some(()) = require::netns() else { return };
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    veth((&a, "a"), (&b, "b")).unwrap();
    let index = a.link_index("a").unwrap();
    // Where the kernel is older than the question, there is no answer.
    let Some(features) = a.enter(|| XdpFeatures::of(index)).unwrap() else { return };
    assert!(features.basic && features.redirect && !features.zero_copy && !features.offload, "{features:?}");
    let missing = a.enter(|| XdpFeatures::of(index + 1000)).unwrap_err();
    assert_eq!(missing.raw_os_error(), Some(nix::libc::ENODEV));
}
