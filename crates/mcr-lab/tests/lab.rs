//! The lab against the kernel: every test makes its own namespaces and reads back what the kernel did.

// A test fails by panicking, and so do its steps.
#![allow(clippy::unwrap_used)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use mcr_lab::{Chain, LabError, Line, Namespace, Tun, macvlan, require, veth, wait_until};

const PATIENCE: Duration = Duration::from_secs(5);

fn v4(text: &str) -> IpAddr {
    IpAddr::V4(text.parse().unwrap())
}

/// A socket bound to `address` inside `namespace` that does not wait for ever.
fn socket(namespace: &Namespace, address: &str) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind(address)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn errno(error: LabError) -> (String, Option<i32>) {
    match error {
        LabError::Request { what, source } => (what, source.raw_os_error()),
        other => panic!("{other}"),
    }
}

/// Two connected namespaces, up, with addresses 10.0.0.1 and 10.0.0.2.
fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    veth((&a, "a0"), (&b, "b0")).unwrap();
    for (namespace, ifname, address) in [(&a, "a0", "10.0.0.1"), (&b, "b0", "10.0.0.2")] {
        namespace.set_up(ifname).unwrap();
        namespace.add_address(ifname, v4(address), 24).unwrap();
    }
    a.wait_running("a0").unwrap();
    b.wait_running("b0").unwrap();
    (a, b)
}

#[test]
fn a_unicast_datagram_of_either_family_goes_from_source_to_relay_to_each_sink() {
    let Some(()) = require::netns() else { return };
    let line = Line::with_outputs(3).unwrap();
    let mut buffer = [0; 64];
    for (from, to) in [("10.1.0.1:0", "10.1.0.2:5000"), ("[fd00:1::1]:0", "[fd00:1::2]:5000")] {
        let relay = socket(&line.relay, to);
        socket(&line.source, from).send_to(b"to the relay", to).unwrap();
        assert_eq!(relay.recv(&mut buffer).unwrap(), 12);
    }
    for index in 0..3 {
        for address in [IpAddr::V4(Line::sink_v4(index)), IpAddr::V6(Line::sink_v6(index))] {
            let sink = socket(
                &line.sinks[usize::from(index)],
                if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" },
            );
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let port = sink.local_addr().unwrap().port();
            socket(&line.relay, any).send_to(b"to a sink", (address, port)).unwrap();
            assert_eq!(sink.recv(&mut buffer).unwrap(), 9);
        }
    }
}

#[test]
fn multicast_of_either_family_reaches_a_member_at_the_relay_without_choosing_an_interface() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let mut buffer = [0; 64];

    let member = socket(&line.relay, "0.0.0.0:5000");
    member.join_multicast_v4(&Ipv4Addr::new(239, 1, 1, 1), &Ipv4Addr::new(10, 1, 0, 2)).unwrap();
    let sender = socket(&line.source, "0.0.0.0:0");
    sender.send_to(b"group", "239.1.1.1:5000").unwrap();
    let (length, from) = member.recv_from(&mut buffer).unwrap();
    assert_eq!((length, from.ip()), (5, v4("10.1.0.1")));

    let member = socket(&line.relay, "[::]:5001");
    let group: Ipv6Addr = "ff3e::1234".parse().unwrap();
    member.join_multicast_v6(&group, line.relay.link_index("in0").unwrap()).unwrap();
    socket(&line.source, "[::]:0").send_to(b"group", (group, 5001)).unwrap();
    let (length, from) = member.recv_from(&mut buffer).unwrap();
    assert_eq!((length, from.ip()), (5, "fd00:1::1".parse::<IpAddr>().unwrap()));
}

#[test]
fn pinned_neighbours_leave_nothing_to_resolve() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    line.pin_neighbours().unwrap();
    // 8: answer no ARP request at all (Documentation/networking/ip-sysctl).
    line.sinks[0].sysctl("net.ipv4.conf.dst0.arp_ignore", "8").unwrap();
    let sink = socket(&line.sinks[0], "10.2.0.2:6000");
    let before = line.sinks[0].link_stats("dst0").unwrap();
    socket(&line.relay, "10.2.0.1:0").send_to(b"x", "10.2.0.2:6000").unwrap();
    sink.recv(&mut [0; 8]).unwrap();
    let after = line.sinks[0].link_stats("dst0").unwrap();
    assert!(after.rx_packets > before.rx_packets && after.rx_bytes >= before.rx_bytes + 43);
}

#[test]
fn a_chain_connects_neighbours_and_forwards_nothing_by_itself() {
    let Some(()) = require::netns() else { return };
    let chain = Chain::new(2).unwrap();
    let mut buffer = [0; 8];
    let hops = [&chain.source, &chain.relays[0], &chain.relays[1], &chain.sink];
    for (cable, nodes) in hops.windows(2).enumerate() {
        let to = format!("10.{}.0.2:5000", cable + 1);
        let receiver = socket(nodes[1], &to);
        socket(nodes[0], "0.0.0.0:0").send_to(b"hop", &to).unwrap();
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 3);
    }
    let error = socket(&chain.source, "0.0.0.0:0").send_to(b"far", "10.3.0.2:5000").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
}

#[test]
fn a_link_can_be_changed_renamed_and_deleted() {
    let Some(()) = require::netns() else { return };
    let (a, b) = pair();
    a.set_mtu("a0", 1400).unwrap();
    a.set_mac("a0", [2, 0, 0, 0, 0, 7]).unwrap();
    a.set_down("a0").unwrap();
    a.rename_link("a0", "a1").unwrap();
    let link = a.link("a1").unwrap();
    assert_eq!((link.mtu, link.mac, link.up, link.running), (1400, Some([2, 0, 0, 0, 0, 7]), false, false));
    assert_eq!(link.index, a.link_index("a1").unwrap());
    wait_until(PATIENCE, "the peer lost its carrier", || !b.link("b0").unwrap().running).unwrap();
    a.delete_link("a1").unwrap();
    assert_eq!(errno(b.link("b0").unwrap_err()), ("read link b0".to_owned(), Some(19)));
}

#[test]
fn an_error_names_what_was_tried_and_the_errno() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair();
    let error = a.add_address("a0", v4("10.0.0.1"), 24).unwrap_err();
    assert_eq!(error.to_string(), "cannot add address 10.0.0.1/24 to a0: File exists (os error 17)");
    assert_eq!(errno(a.set_up("none0").unwrap_err()), ("read link none0".to_owned(), Some(19)));
    let error = a.add_route(Some((v4("10.9.0.0"), 16)), Some(v4("192.0.2.1")), "a0").unwrap_err();
    assert_eq!(errno(error), ("add route to 10.9.0.0/16 by a0".to_owned(), Some(101)));
    let error = a.sysctl("net.ipv4.none", "0").unwrap_err();
    assert!(matches!(error, LabError::Sysctl { ref key, .. } if key == "net.ipv4.none"), "{error}");
}

#[test]
fn addresses_routes_and_neighbours_can_be_removed() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair();
    let dest = Some((v4("10.9.0.0"), 16));
    a.add_route(dest, Some(v4("10.0.0.2")), "a0").unwrap();
    a.delete_route(dest, Some(v4("10.0.0.2")), "a0").unwrap();
    assert_eq!(errno(a.delete_route(dest, Some(v4("10.0.0.2")), "a0").unwrap_err()).1, Some(3));
    a.add_neighbour("a0", v4("10.0.0.9"), [2; 6]).unwrap();
    a.delete_neighbour("a0", v4("10.0.0.9")).unwrap();
    assert!(a.delete_neighbour("a0", v4("10.0.0.9")).is_err());
    a.delete_address("a0", v4("10.0.0.1"), 24).unwrap();
    assert_eq!(errno(a.delete_address("a0", v4("10.0.0.1"), 24).unwrap_err()).1, Some(99));
}

#[test]
fn a_bridge_connects_its_ports() {
    let Some(()) = require::netns() else { return };
    let hub = Namespace::new().unwrap();
    hub.bridge("br0").unwrap();
    let ends = [("10.0.0.1", "p1"), ("10.0.0.2", "p2")].map(|(address, port)| {
        let end = Namespace::new().unwrap();
        veth((&end, "e0"), (&hub, port)).unwrap();
        hub.set_master(port, Some("br0")).unwrap();
        hub.set_up(port).unwrap();
        end.set_up("e0").unwrap();
        end.add_address("e0", v4(address), 24).unwrap();
        end
    });
    hub.set_up("br0").unwrap();
    ends.iter().for_each(|end| end.wait_running("e0").unwrap());
    hub.wait_running("br0").unwrap();
    let receiver = socket(&ends[1], "10.0.0.2:5000");
    socket(&ends[0], "0.0.0.0:0").send_to(b"over", "10.0.0.2:5000").unwrap();
    assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 4);
    hub.set_master("p2", None).unwrap();
}

#[test]
fn macvlans_of_one_parent_reach_each_other() {
    let Some(()) = require::netns() else { return };
    let (host, _far) = pair();
    let ends = ["10.0.0.1", "10.0.0.2"].map(|address| {
        let end = Namespace::new().unwrap();
        macvlan((&host, "a0"), (&end, "m0")).unwrap();
        end.set_up("m0").unwrap();
        end.add_address("m0", v4(address), 24).unwrap();
        end.wait_running("m0").unwrap();
        end
    });
    let receiver = socket(&ends[1], "10.0.0.2:5000");
    socket(&ends[0], "0.0.0.0:0").send_to(b"over", "10.0.0.2:5000").unwrap();
    assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 4);
}

#[test]
fn a_vxlan_carries_datagrams_over_a_veth_pair() {
    let Some(()) = require::netns() else { return };
    let (a, b) = pair();
    let (outer_a, outer_b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    for (end, local, remote, inner) in
        [(&a, outer_a, outer_b, "10.8.0.1"), (&b, outer_b, outer_a, "10.8.0.2")]
    {
        end.vxlan("vx0", 42, local, remote).unwrap();
        end.set_up("vx0").unwrap();
        end.add_address("vx0", v4(inner), 24).unwrap();
    }
    let receiver = socket(&b, "10.8.0.2:5000");
    socket(&a, "0.0.0.0:0").send_to(b"over", "10.8.0.2:5000").unwrap();
    assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 4);
}

#[test]
fn a_sysctl_is_of_its_namespace_alone() {
    let Some(()) = require::netns() else { return };
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    a.sysctl("net.ipv4.ip_default_ttl", "17").unwrap();
    assert_eq!(a.read_sysctl("net.ipv4.ip_default_ttl").unwrap(), "17");
    assert_eq!(b.read_sysctl("net.ipv4.ip_default_ttl").unwrap(), "64");
}

#[test]
fn threads_and_programs_run_inside_and_the_caller_stays_outside() {
    let Some(()) = require::netns() else { return };
    let own = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let (before, a) = (own(), Namespace::new().unwrap());
    let inside = a.enter(own);
    assert_ne!(inside, before);
    assert_eq!(own(), before);
    assert_eq!(a.clone().spawn(own).join().unwrap(), inside);
    let output = a.command("readlink").arg("/proc/self/ns/net").stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), inside.to_str().unwrap());
}

#[test]
#[should_panic(expected = "from inside")]
fn a_panic_inside_reaches_the_caller() {
    let Some(()) = require::netns() else { panic!("from inside, were there an inside") };
    Namespace::new().unwrap().enter(|| panic!("from inside"));
}

#[test]
fn a_user_namespace_is_refused_to_a_process_with_threads() {
    // The test harness itself has threads, so this changes nothing in the process.
    let error = std::thread::spawn(mcr_lab::enter_user_namespace).join().unwrap().unwrap_err();
    assert!(matches!(error, LabError::NotSingleThreaded), "{error}");
}

#[test]
fn a_tun_device_gives_what_the_host_sends_and_takes_what_it_shall_receive() {
    let Some(()) = require::netns() else { return };
    let a = Namespace::new().unwrap();
    let tun = Tun::new(&a, "tun0").unwrap();
    a.quiet_ipv6().unwrap();
    assert_eq!(tun.write(&[0x45; 20]).unwrap_err().raw_os_error(), Some(nix::libc::EIO), "it is down");
    a.add_address("tun0", v4("10.50.0.1"), 24).unwrap();
    a.set_up("tun0").unwrap();
    let host = socket(&a, "10.50.0.1:4000");
    host.send_to(b"echo", "10.50.0.2:7").unwrap();
    // Of IPv6 the kernel may send something on its own.
    let mut packet = loop {
        let packet = tun.read(Duration::from_secs(10)).unwrap().expect("the host has sent");
        if packet[0] == 0x45 {
            break packet;
        }
    };
    assert_eq!(packet[28..], *b"echo");
    // Both ends exchanged, no checksum changes.
    let (from, to) = (packet[12..16].to_vec(), packet[16..20].to_vec());
    packet[12..20].copy_from_slice(&[to, from].concat());
    let (from, to) = (packet[20..22].to_vec(), packet[22..24].to_vec());
    packet[20..24].copy_from_slice(&[to, from].concat());
    tun.write(&packet).unwrap();
    let mut echo = [0; 8];
    let (bytes, from) = host.recv_from(&mut echo).unwrap();
    assert_eq!((&echo[..bytes], from), (&b"echo"[..], "10.50.0.2:7".parse().unwrap()));
}

#[test]
fn a_tun_device_of_a_name_that_cannot_be_is_refused() {
    let Some(()) = require::netns() else { return };
    let error = Tun::new(&Namespace::new().unwrap(), "a-name-far-too-long").unwrap_err();
    assert!(error.to_string().starts_with("cannot make tun device a-name-far-too-long"), "{error}");
}

#[test]
fn an_offload_is_switched_and_an_unknown_one_refused() {
    let Some(()) = require::netns() else { return };
    let (a, _b) = pair();
    for on in [true, false, true] {
        a.set_offload("a0", "rx-gro", on).unwrap();
    }
    let error = a.set_offload("a0", "no-such-thing", true).unwrap_err();
    assert!(error.to_string().starts_with("cannot switch no-such-thing of a0 on"), "{error}");
    let error = a.set_offload("none0", "rx-gro", true).unwrap_err();
    assert!(matches!(error, LabError::Request { .. }), "{error}");
}
