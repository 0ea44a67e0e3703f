//! UDP inputs and outputs, and raw outputs, against the kernel.
#![allow(clippy::unwrap_used)] // The helpers of a test are the test.

mod common;

use common::*;
use mcr_lab::{Line, Namespace, require};
use mcr_socket::raw::{self, RawOutput};
use mcr_socket::udp::{UdpControl, UdpInput, UdpOutput, add_source, open_input, open_output, remove_source};
use mcr_socket::{Family, OpenError, dropped, receive_buffer_bytes, send_buffer_bytes, socket_addr};
use nix::sys::socket::{getsockopt, sockopt};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

fn input(
    net: &Namespace,
    address: &str,
    ifname: &str,
    sources: &[&str],
    gro: bool,
) -> Result<OwnedFd, OpenError> {
    let ifindex = net.link_index(ifname).unwrap();
    let sources: Vec<IpAddr> = sources.iter().map(|source| source.parse().unwrap()).collect();
    let address = address.parse().unwrap();
    let options =
        UdpInput { address, ifindex, ifname, sources: &sources, receive_buffer_bytes: 1 << 20, gro };
    net.enter(|| open_input(&options))
}

fn output(net: &Namespace, ifname: Option<&str>, family: Family) -> UdpOutput {
    UdpOutput {
        family,
        ifindex: ifname.map(|ifname| net.link_index(ifname).unwrap()),
        source: None,
        hop_limit: 17,
        multicast_loop: false,
        dscp: None,
        priority: 0,
        report_full_queue: false,
        send_buffer_bytes: 1 << 20,
    }
}

fn send(fd: &OwnedFd, payload: &[u8], to: &str) {
    assert_eq!(sender(fd).send_to(payload, to).unwrap(), payload.len());
}

#[test]
fn an_input_of_a_group_tells_everything_of_a_datagram_in_both_families() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, to, from) in [
        (Family::V4, "239.1.1.1:5000", "10.1.0.1"),
        (Family::V6, "[ff3e::1]:5000", "fd00:1::1"),
        (Family::V6, "[ff02::4242]:5000", "fe80::"),
    ] {
        let input = input(&line.relay, to, "in0", &[], false).unwrap();
        let output = line.source.enter(|| open_output(&output(&line.source, Some("src0"), family))).unwrap();
        send(&output, b"hello", to);
        let got = recv(&input);
        assert_eq!(got.data, b"hello");
        let control = UdpControl::parse(&got.control);
        assert_eq!((control.ttl, control.tos), (Some(17), Some(0)));
        assert_eq!(control.destination, Some(to.parse::<SocketAddr>().unwrap().ip()));
        assert_eq!(control.ifindex, Some(line.relay.link_index("in0").unwrap()));
        let source = socket_addr(&got.name).unwrap().ip().to_string();
        assert!(source.starts_with(from), "{source}");
    }
}

#[test]
fn an_input_of_one_interface_hears_nothing_of_another() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, to) in [(Family::V4, "239.1.1.1:5000"), (Family::V6, "[ff3e::1]:5000")] {
        let near = input(&line.relay, to, "in0", &[], false).unwrap();
        let far = input(&line.relay, to, "out0", &[], false).unwrap();
        let open =
            |net: &Namespace, ifname| net.enter(|| open_output(&output(net, Some(ifname), family))).unwrap();
        send(&open(&line.source, "src0"), b"near", to);
        send(&open(&line.sinks[0], "dst0"), b"far", to);
        assert_eq!(recv(&near).data, b"near");
        assert_eq!(recv(&far).data, b"far");
        assert!(try_recv(&near).unwrap().is_none() && try_recv(&far).unwrap().is_none());
    }
}

#[test]
fn a_unicast_input_is_received_by_its_interface() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, to) in [(Family::V4, "10.1.0.2:5000"), (Family::V6, "[fd00:1::2]:5000")] {
        let input = input(&line.relay, to, "in0", &[], false).unwrap();
        let output = line.source.enter(|| open_output(&output(&line.source, None, family))).unwrap();
        send(&output, b"unicast", to);
        assert_eq!(recv(&input).data, b"unicast");
    }
}

#[test]
fn an_address_that_goes_to_one_socket_is_that_ones_and_others_are_shared() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let share = |address: &str| {
        let _ours = input(&line.relay, address, "in0", &[], false).unwrap();
        input(&line.relay, address, "in0", &[], false).map(drop)
    };
    for host in ["10.1.0.2:5000", "[fd00:1::2]:5000"] {
        assert!(share(host).unwrap_err().to_string().contains("in use"), "{host}");
    }
    for several in
        ["239.1.1.1:5000", "[ff3e::1]:5000", "10.1.0.255:5000", "255.255.255.255:5000", "0.0.0.0:5000"]
    {
        assert!(share(several).is_ok(), "{several}: {:?}", share(several));
    }
}

#[test]
fn sources_are_added_to_and_taken_from_a_live_input() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, group, prefix, [a, b, c]) in [
        (Family::V4, "232.1.1.1", 24, ["10.1.0.11", "10.1.0.12", "10.1.0.13"]),
        (Family::V6, "ff3e::8000:1", 64, ["fd00:1::a", "fd00:1::b", "fd00:1::c"]),
    ] {
        let to = SocketAddr::new(group.parse().unwrap(), 5000);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let outputs = [a, b, c].map(|address| {
            line.source.add_address("src0", ip(address), prefix).unwrap();
            let source = Some(SocketAddr::new(ip(address), 0));
            let options = UdpOutput { source, ..output(&line.source, Some("src0"), family) };
            (address, line.source.enter(|| open_output(&options)).unwrap())
        });
        let input = input(&line.relay, &to.to_string(), "in0", &[a, b], false).unwrap();
        let ifindex = line.relay.link_index("in0").unwrap();
        // Sends from each; the last, `until`, is one that is heard.
        let heard = |until: &str| {
            for (address, output) in
                outputs.iter().chain(outputs.iter().filter(|(address, _)| *address == until))
            {
                send(output, address.as_bytes(), &to.to_string());
            }
            let mut heard = Vec::new();
            while heard.iter().filter(|address| *address == until).count() < 2 {
                heard.push(String::from_utf8(recv(&input).data).unwrap());
            }
            heard.pop();
            heard
        };
        assert_eq!(heard(a), [a, b]);
        line.relay.enter(|| {
            add_source(&input, ifindex, ip(group), ip(c)).unwrap();
            add_source(&input, ifindex, ip(group), ip(c)).unwrap();
            remove_source(&input, ifindex, ip(group), ip(a)).unwrap();
            remove_source(&input, ifindex, ip(group), ip(a)).unwrap();
        });
        assert_eq!(heard(b), [b, c]);
    }
}

#[test]
fn a_superframe_is_one_datagram_with_gro_and_many_without() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let with = input(&line.relay, "239.1.1.1:5000", "in0", &[], true).unwrap();
    let without = input(&line.relay, "239.1.1.1:5000", "in0", &[], false).unwrap();
    let output = line.source.enter(|| open_output(&output(&line.source, Some("src0"), Family::V4))).unwrap();
    let segment = 1000i32;
    // SAFETY: pointer and length are those of one integer.
    let result = unsafe {
        libc::setsockopt(output.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const segment).cast(), 4)
    };
    assert_eq!(result, 0);
    send(&output, &[7; 3500], "239.1.1.1:5000");
    let whole = recv(&with);
    assert_eq!(whole.data.len(), 3500);
    assert_eq!(UdpControl::parse(&whole.control).segment_bytes, Some(1000));
    let parts: Vec<_> = (0..4).map(|_| recv(&without)).collect();
    assert_eq!(parts.iter().map(|part| part.data.len()).collect::<Vec<_>>(), [1000, 1000, 1000, 500]);
    assert_eq!(UdpControl::parse(&parts[0].control).segment_bytes, None);
}

#[test]
fn an_output_fragments_what_is_longer_than_the_mtu() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, to) in [(Family::V4, "239.1.1.1:5000"), (Family::V6, "[ff3e::1]:5000")] {
        let input = input(&line.relay, to, "in0", &[], false).unwrap();
        let output = line.source.enter(|| open_output(&output(&line.source, Some("src0"), family))).unwrap();
        send(&output, &[3; 8000], to);
        assert_eq!(recv(&input).data, [3; 8000]);
    }
}

#[test]
fn an_output_with_an_interface_needs_no_route() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    // The source has no route to any of these.
    let ours = "10.77.0.1".parse().unwrap();
    line.relay.add_address("in0", ours, 24).unwrap();
    let input = input(&line.relay, "10.77.0.1:5000", "in0", &[], false).unwrap();
    for nobody in [false, true] {
        let options = output(&line.source, Some("src0"), Family::V4);
        let open = || open_output(&options).unwrap();
        let output = line.source.enter(|| if nobody { as_nobody(open) } else { open() });
        send(&output, b"on link", "10.77.0.1:5000");
        assert_eq!(recv(&input).data, b"on link");
    }
}

#[test]
fn local_listeners_get_a_copy_only_with_loop_on() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, to) in [(Family::V4, "239.1.1.1:5000"), (Family::V6, "[ff3e::1]:5000")] {
        let input = input(&line.source, to, "src0", &[], false).unwrap();
        let quiet = output(&line.source, Some("src0"), family);
        let open = |options: UdpOutput| line.source.enter(|| open_output(&options)).unwrap();
        send(&open(quiet), b"quiet", to);
        send(&open(UdpOutput { multicast_loop: true, ..quiet }), b"loud", to);
        assert_eq!(recv(&input).data, b"loud");
        assert!(try_recv(&input).unwrap().is_none());
    }
}

#[test]
fn what_an_output_sends_is_marked_for_the_network_and_for_the_hosts_queues() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, to) in [(Family::V4, "239.1.1.1:5000"), (Family::V6, "[ff3e::1]:5000")] {
        let input = input(&line.relay, to, "in0", &[], false).unwrap();
        let plain = output(&line.source, Some("src0"), family);
        // A DSCP sets a priority of its own, which the one that was asked for must replace.
        for (dscp, priority) in [(None, 0), (None, 6), (Some(46), 0), (Some(34), 4), (Some(0), 7)] {
            let options = UdpOutput { dscp, priority, ..plain };
            let output = line.source.enter(|| open_output(&options)).unwrap();
            let set = getsockopt(&output, sockopt::Priority).unwrap();
            assert_eq!(set, i32::from(priority), "{options:?}");
            send(&output, b"marked", to);
            let tos = UdpControl::parse(&recv(&input).control).tos;
            assert_eq!(tos, Some(dscp.unwrap_or(0) << 2), "{options:?}");
        }
    }
}

#[test]
fn an_output_sends_from_the_source_it_was_given_and_receives_nothing() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, source, to) in
        [(Family::V4, "10.1.0.1:7000", "10.1.0.2:5000"), (Family::V6, "[fd00:1::1]:7000", "[fd00:1::2]:5000")]
    {
        let input = input(&line.relay, to, "in0", &[], false).unwrap();
        let source: SocketAddr = source.parse().unwrap();
        let options = UdpOutput { source: Some(source), ..output(&line.source, Some("src0"), family) };
        let output = line.source.enter(|| open_output(&options)).unwrap();
        send(&output, b"there", to);
        let from = socket_addr(&recv(&input).name).unwrap();
        assert_eq!(from, source);
        sender(&input).send_to(b"back", from).unwrap();
        // Its filter counts what it refuses as dropped: that is how we know it has come.
        mcr_lab::wait_until(DEADLINE, "the answer was refused", || dropped(&output).unwrap() == 1).unwrap();
        assert!(try_recv(&output).unwrap().is_none());
    }
}

#[test]
fn a_raw_output_sends_from_a_foreign_source() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let open = |family| {
        let ifindex = Some(line.source.link_index("src0").unwrap());
        let options =
            RawOutput { family, ifindex, multicast_loop: false, priority: 0, send_buffer_bytes: 1 << 20 };
        line.source.enter(|| raw::open_output(&options)).unwrap()
    };

    let input4 = input(&line.relay, "239.1.1.1:5000", "in0", &[], false).unwrap();
    let packet = ipv4([198, 51, 100, 7].into(), [239, 1, 1, 1].into(), 0, 17, &udp(5000, b"foreign"));
    send(&open(Family::V4), &packet, "239.1.1.1:5000");
    let got = recv(&input4);
    assert_eq!(
        (got.data.as_slice(), socket_addr(&got.name)),
        (&b"foreign"[..], Some(([198, 51, 100, 7], 9).into()))
    );
    assert_eq!(UdpControl::parse(&got.control).ttl, Some(5));

    let (source, group): (Ipv6Addr, Ipv6Addr) = ("2001:db8::7".parse().unwrap(), "ff3e::1".parse().unwrap());
    let input6 = input(&line.relay, "[ff3e::1]:5000", "in0", &[], false).unwrap();
    let packet = ipv6(source, group, 17, &udp6(source, group, 5000, b"foreign"));
    // A raw IPv6 socket takes no port but 0 (ipv6(7)).
    send(&open(Family::V6), &packet, "[ff3e::1]:0");
    let got = recv(&input6);
    assert_eq!((got.data.as_slice(), socket_addr(&got.name)), (&b"foreign"[..], Some((source, 9).into())));
    assert_eq!(UdpControl::parse(&got.control).ttl, Some(5));
}

#[test]
fn every_datagram_is_received_or_counted_as_dropped() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let options = UdpInput {
        address: "10.1.0.2:5000".parse().unwrap(),
        ifindex: 0,
        ifname: "any",
        sources: &[],
        receive_buffer_bytes: 20_000,
        gro: false,
    };
    let input = line.relay.enter(|| open_input(&options)).unwrap();
    let output = line.source.enter(|| open_output(&output(&line.source, None, Family::V4))).unwrap();
    (0..300).for_each(|_| send(&output, &[0; 1000], "10.1.0.2:5000"));
    let mut received = 0;
    mcr_lab::wait_until(DEADLINE, "300 datagrams are accounted for", || {
        while try_recv(&input).unwrap().is_some() {
            received += 1;
        }
        received + dropped(&input).unwrap() == 300
    })
    .unwrap();
    assert!(received > 0 && received < 300, "{received} received");
}

#[test]
fn everything_but_raw_sockets_opens_without_any_right() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let options = UdpInput {
        address: "239.1.1.1:5000".parse().unwrap(),
        ifindex,
        ifname: "in0",
        sources: &[],
        receive_buffer_bytes: 100 << 20,
        gro: true,
    };
    let out = output(&line.relay, Some("out0"), Family::V4);
    let raw_out = RawOutput {
        family: Family::V4,
        ifindex: None,
        multicast_loop: false,
        priority: 0,
        send_buffer_bytes: 0,
    };
    let (input, denied) = line.relay.enter(|| {
        as_nobody(|| {
            open_output(&out).unwrap();
            (open_input(&options).unwrap(), raw::open_output(&raw_out).unwrap_err())
        })
    });
    // Granted as far as net.core.rmem_max goes, and it says so.
    let granted = receive_buffer_bytes(&input).unwrap();
    assert!(granted > 0 && granted < 100 << 20);
    assert!(matches!(denied, OpenError::NotPermitted { capability: "CAP_NET_RAW", .. }), "{denied}");
    let privileged =
        line.relay.enter(|| open_output(&UdpOutput { send_buffer_bytes: 30 << 20, ..out })).unwrap();
    assert_eq!(send_buffer_bytes(&privileged).unwrap(), 30 << 20);
}

#[test]
fn errors_say_what_is_wrong() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let error = input(&line.relay, "10.99.0.1:5000", "in0", &[], false).unwrap_err();
    assert!(matches!(error, OpenError::AddressNotAvailable { .. }), "{error}");
    let _taken = line.relay.enter(|| UdpSocket::bind("10.1.0.2:5000")).unwrap();
    let error = input(&line.relay, "10.1.0.2:5000", "in0", &[], false).unwrap_err();
    assert!(matches!(error, OpenError::AddressInUse { .. }), "{error}");
    let error = input(&line.relay, "232.1.1.1:5000", "in0", &["fe80::1"], false).unwrap_err();
    assert!(matches!(error, OpenError::Join(_)), "{error}");
    for family in [Family::V4, Family::V6] {
        let gone = UdpOutput { ifindex: Some(4711), ..output(&line.relay, None, family) };
        let error = line.relay.enter(|| open_output(&gone)).unwrap_err();
        assert!(matches!(error, OpenError::NoInterface { ifindex: 4711 }), "{error}");
    }
    let mixed =
        UdpOutput { source: Some("[::1]:0".parse().unwrap()), ..output(&line.relay, None, Family::V4) };
    let error = line.relay.enter(|| open_output(&mixed)).unwrap_err();
    assert!(matches!(error, OpenError::Family { .. }), "{error}");
}

#[test]
fn sockets_are_closed_on_exec_and_do_not_block() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let input = input(&line.relay, "239.1.1.1:5000", "in0", &[], false).unwrap();
    let output = line.relay.enter(|| open_output(&output(&line.relay, None, Family::V6))).unwrap();
    for fd in [input, output] {
        // SAFETY: takes two integers; the descriptor is open, for `fd` owns it.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        // SAFETY: as above.
        let status = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(
            (flags & libc::FD_CLOEXEC, status & libc::O_NONBLOCK),
            (libc::FD_CLOEXEC, libc::O_NONBLOCK)
        );
    }
}

#[test]
fn outputs_may_share_a_source_port_and_an_input_keeps_its_own() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    for (family, source, to) in
        [(Family::V4, "10.1.0.1:7000", "10.1.0.2:5000"), (Family::V6, "[fd00:1::1]:7000", "[fd00:1::2]:5000")]
    {
        let input = input(&line.relay, to, "in0", &[], false).unwrap();
        let source: SocketAddr = source.parse().unwrap();
        let by_device = UdpOutput { source: Some(source), ..output(&line.source, Some("src0"), family) };
        let by_route = UdpOutput { hop_limit: 9, ..UdpOutput { ifindex: None, ..by_device } };
        for options in [by_device, by_device, by_route] {
            let output = line.source.enter(|| open_output(&options)).unwrap();
            let other = line.source.enter(|| open_output(&by_device)).unwrap();
            for output in [&output, &other] {
                send(output, b"there", to);
                assert_eq!(socket_addr(&recv(&input).name).unwrap(), source);
            }
        }
        // Whoever receives at an address keeps it to himself.
        let taken = UdpOutput { source: Some(to.parse().unwrap()), ..output(&line.relay, None, family) };
        let error = line.relay.enter(|| open_output(&taken)).unwrap_err();
        assert!(matches!(error, OpenError::AddressInUse { .. }), "{error:?}");
    }
}

#[test]
fn a_full_device_queue_is_reported_where_that_was_asked_for() {
    let Some(()) = require::netns() else { return };
    let net = Namespace::new().unwrap();
    let tun = mcr_lab::Tun::new(&net, "tun0").unwrap();
    net.quiet_ipv6().unwrap();
    net.add_address("tun0", [10, 50, 0, 1].into(), 24).unwrap();
    net.add_address("tun0", [0xfd00, 50, 0, 0, 0, 0, 0, 1].into(), 64).unwrap();
    net.set_up("tun0").unwrap();
    net.set_noqueue("tun0").unwrap();
    for (family, to) in [(Family::V4, "239.1.1.1:5000"), (Family::V6, "[ff15::1]:5000")] {
        let silent = output(&net, Some("tun0"), family);
        let telling = UdpOutput { report_full_queue: true, ..silent };
        let [silent, telling] = [silent, telling].map(|options| net.enter(|| open_output(&options)).unwrap());
        let filled = (0..10_000).find_map(|_| sender(&telling).send_to(&[0; 100], to).err());
        assert_eq!(filled.unwrap().raw_os_error(), Some(libc::ENOBUFS));
        sender(&silent).send_to(&[0; 100], to).unwrap();
        while tun.read(Duration::ZERO).unwrap().is_some() {}
        sender(&telling).send_to(&[0; 100], to).unwrap();
        assert!(tun.read(DEADLINE).unwrap().is_some());
    }
}
