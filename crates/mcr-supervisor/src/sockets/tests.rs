//! Sockets on loopback, which need no rights.

use super::*;

/// Loopback.
const IFINDEX: u32 = 1;

#[test]
fn a_rule_more_or_less_has_no_other_rule_looked_at() {
    let counters = Segment::create().expect("memory");
    let mut sockets = Sockets::default();
    let bound = "127.0.0.1:0".parse().expect("an address");
    let key = ReceiverKey::Udp { ifindex: IFINDEX, bound, source: None, lane: Lane::NONE };
    let wanted = Wanted { destination: bound.ip(), port: 0, source: None };
    let acquire = |sockets: &mut Sockets, rule| {
        let acquired =
            sockets.acquire_receiver(key, RuleSlot(rule), wanted, "lo", &counters, || Some(InputSlot(0)));
        acquired.expect("a socket on loopback needs no right")
    };
    for rule in 0..10_000 {
        acquire(&mut sockets, rule);
    }
    assert_eq!(sockets.untold().expect("descriptors").len(), 1);
    sockets.admit(|rule| rule.0 != 17);
    assert_eq!(sockets.looked_at, 10_000);
    acquire(&mut sockets, 10_000);
    sockets.admit(|rule| rule.0 != 17);
    assert_eq!(sockets.looked_at, 10_002, "the new one and the one that has no route yet");
    sockets.release_receiver(&key, RuleSlot(17), &counters, true);
    sockets.admit(|_| true);
    assert_eq!(sockets.looked_at, 10_002);
    assert!(sockets.untold().expect("descriptors").is_empty() && sockets.take_closing().is_empty());
    (0..=10_000).for_each(|rule| sockets.release_receiver(&key, RuleSlot(rule), &counters, true));
    assert_eq!((sockets.count(), sockets.take_closing().len()), (0, 1));
}

#[test]
fn two_thousand_groups_of_a_port_come_to_share_sockets_and_give_them_all_back() {
    let counters = Segment::create().expect("memory");
    let mut sockets = Sockets::default();
    let groups = 2000u32;
    let key = |number: u32| {
        let group = std::net::Ipv4Addr::from_bits(0xefff_0000 + number);
        ReceiverKey::Udp { ifindex: IFINDEX, bound: (group, 15_311).into(), source: None, lane: Lane::NONE }
    };
    let wanted = Wanted { destination: [239, 255, 0, 0].into(), port: 15_311, source: None };
    let acquire = |sockets: &mut Sockets, number| {
        let acquired =
            sockets.acquire_receiver(key(number), RuleSlot(number), wanted, "lo", &counters, || {
                Some(InputSlot(0))
            });
        acquired.expect("a socket on loopback needs no right")
    };
    let ids: Vec<_> = (0..groups).map(|number| acquire(&mut sockets, number)).collect();
    let most = OWN_MAX + (groups as usize - OWN_MAX).div_ceil(20);
    assert!((OWN_MAX..=most).contains(&sockets.count()), "{} sockets", sockets.count());
    assert_eq!(sockets.untold().expect("descriptors").len(), sockets.count());

    // Two rules of one group: it is left with the last.
    let last = groups - 1;
    sockets.share_receiver(&key(last), RuleSlot(last), RuleSlot(groups));
    sockets.release_receiver(&key(last), RuleSlot(last), &counters, true);
    assert_eq!(acquire(&mut sockets, last), ids[last as usize], "the socket that has the group");
    sockets.release_receiver(&key(last), RuleSlot(groups), &counters, true);
    (0..groups).for_each(|number| sockets.release_receiver(&key(number), RuleSlot(number), &counters, true));
    assert_eq!(sockets.count(), 0);
    assert!(sockets.shared.is_empty());
}

#[test]
fn a_worker_that_has_all_the_sockets_it_can_have_is_not_given_another() {
    let counters = Segment::create().expect("memory");
    let mut sockets = Sockets::default();
    let wanted = Wanted { destination: [127, 0, 0, 1].into(), port: 1, source: None };
    let mut acquire = |number: u32| {
        let bound = (std::net::Ipv4Addr::from_bits(0x7f00_0001 + number), 0).into();
        let key = ReceiverKey::Udp { ifindex: IFINDEX, bound, source: None, lane: Lane::NONE };
        sockets.acquire_receiver(key, RuleSlot(number), wanted, "lo", &counters, || Some(InputSlot(0)))
    };
    let opened = (0..2100).map(&mut acquire).take_while(Result::is_ok).count();
    let problem = acquire(2200).expect_err("no room");
    // Where the process may not have as many descriptors, the kernel says so first.
    assert!(
        opened == SOCKETS_MAX && problem.contains("more workers") || problem.contains("open files"),
        "{problem}"
    );
}

#[test]
fn stamps_end_wherever_a_socket_has_gone() {
    let counters = Segment::create().expect("memory");
    let (mut here, mut there) = (Sockets::default(), Sockets::default());
    let bound = "127.0.0.1:0".parse().expect("an address");
    let key = ReceiverKey::Udp { ifindex: IFINDEX, bound, source: None, lane: Lane::NONE };
    let wanted = Wanted { destination: bound.ip(), port: 0, source: None };
    here.acquire_receiver(key, RuleSlot(0), wanted, "lo", &counters, || Some(InputSlot(0)))
        .expect("a socket on loopback needs no right");
    here.stamp(&key);
    let handed_over = here.give(&key, &counters, None).expect("it is there");
    there.take(handed_over, InputSlot(1));
    let stamped = |sockets: &Sockets| sockets.receivers.values().any(|receiver| receiver.stamped);
    assert!(stamped(&there));
    here.end_stamps();
    there.end_stamps();
    assert!(!stamped(&there));
}

#[test]
fn an_address_gets_a_socket_of_another_class_only_when_all_its_rules_are_about_to_have_that_one() {
    let counters = Segment::create().expect("memory");
    let mut sockets = Sockets::default();
    for bound in ["127.0.0.1:15312", "[::1]:15312"] {
        let bound: std::net::SocketAddr = bound.parse().expect("an address");
        let key = |depth| {
            let lane = Lane { depth, ..Lane::NONE };
            ReceiverKey::Udp { ifindex: IFINDEX, bound, source: None, lane }
        };
        let wanted = Wanted { destination: bound.ip(), port: bound.port(), source: None };
        let acquire = |sockets: &mut Sockets, depth, rule| {
            let input = || Some(InputSlot(0));
            sockets.acquire_receiver(key(depth), RuleSlot(rule), wanted, "lo", &counters, input)
        };
        acquire(&mut sockets, None, 1).expect("a socket on loopback needs no right");
        acquire(&mut sockets, None, 2).expect("the same");
        sockets.outdate(&key(None), RuleSlot(1), true);
        let problem = acquire(&mut sockets, Some(9), 1).expect_err("rule 2 would get nothing more");
        assert!(problem.contains("another class"), "{problem}");
        sockets.outdate(&key(None), RuleSlot(2), true);
        acquire(&mut sockets, Some(9), 1).expect("now it may");

        // What is sent there goes to the new one, and to none besides.
        let sender = std::net::UdpSocket::bind((bound.ip(), 0)).expect("a socket");
        sender.send_to(b"once", bound).expect("loopback takes it");
        assert_eq!([None, Some(9)].map(|depth| sockets.is_empty(&key(depth))), [true, false]);
        for (depth, rule) in [(None, 1), (None, 2), (Some(9), 1)] {
            sockets.release_receiver(&key(depth), RuleSlot(rule), &counters, true);
        }
        assert_eq!(sockets.count(), 0);
    }
}
