//! A packet through the rules.

use super::{Chain, Dropper, Element, Expression, Firewall, INET, IPV4, IPV6, NETDEV, Packet, Verdict, Way};

/// Bytes of the register file.
const REGISTERS_BYTES: usize = 64;
/// Chains that call each other, as `NFT_JUMP_STACK_SIZE`.
const DEPTH_MAX: usize = 16;
/// Rules looked at for one packet.
const STEPS_MAX: usize = 50_000;

/// A byte that is known, or not.
type Byte = Option<u8>;

/// Whether a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    Perhaps,
    No,
}

/// What becomes of a packet in a chain.
enum End {
    Dropped(Dropper),
    Accepted,
    /// Nothing was decided: the caller goes on.
    Returned,
}

struct Walk<'a> {
    firewall: &'a Firewall,
    packet: &'a Packet,
    /// A rule that cannot be judged may have let it through.
    doubtful: bool,
    steps: usize,
}

impl Firewall {
    /// What certainly drops a packet, if anything does.
    pub(crate) fn dropper(&self, packet: &Packet) -> Option<Dropper> {
        let mut bases: Vec<_> = self
            .chains
            .iter()
            .filter_map(|(place, chain)| Some((place, chain, order(place.0, chain, packet)?)))
            .collect();
        bases.sort_by_key(|(_, _, order)| *order);
        for (place, ..) in bases {
            // A chain that may accept says nothing of the next one: each must let it through.
            let mut walk = Walk { firewall: self, packet, doubtful: false, steps: 0 };
            if let End::Dropped(dropper) = walk.chain(place, 0)
                && !walk.doubtful
            {
                return Some(dropper);
            }
        }
        None
    }
}

/// Where in the packet's way a chain stands; none if it does not come by. Hooks are those of linux/netfilter.h.
fn order(family: u8, chain: &Chain, packet: &Packet) -> Option<(u32, i32)> {
    let hook = chain.hook.as_ref()?;
    let ours = if packet.destination.is_ipv4() { IPV4 } else { IPV6 };
    let step = match (family, packet.way, hook.number) {
        // NF_NETDEV_INGRESS and NF_INET_INGRESS.
        (NETDEV, Way::In, 0) | (INET, Way::In, 5) => {
            let device = hook.device.as_deref();
            if device.is_none() || device != packet.interface.as_ref().map(|(_, name)| name.as_str()) {
                return None;
            }
            0
        }
        (NETDEV, ..) => return None,
        (INET, Way::In, 0) => 1,
        (INET, Way::In, 1) => 2,
        (INET, Way::Out, 3) => 1,
        (INET, Way::Out, 4) => 2,
        (family, Way::In, number @ 0..=1) if family == ours => number + 1,
        (family, Way::Out, number @ 3..=4) if family == ours => number - 2,
        _ => return None,
    };
    Some((step, hook.priority))
}

impl Walk<'_> {
    fn chain(&mut self, place: &super::Place, depth: usize) -> End {
        let Some(chain) = self.firewall.chains.get(place).filter(|_| depth < DEPTH_MAX) else {
            self.doubtful = true;
            return End::Returned;
        };
        let dropped = |by_policy| {
            let (family, table, chain) = place.clone();
            End::Dropped(Dropper { family, table, chain, by_policy })
        };
        for rule in &chain.rules {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                self.doubtful = true;
                return End::Accepted;
            }
            let (matches, verdict) = self.rule(place, rule);
            let Some(verdict) = verdict else { continue };
            let certain = match matches {
                Match::No => continue,
                Match::Yes => true,
                Match::Perhaps => false,
            };
            match verdict {
                Verdict::Continue => {}
                // What perhaps drops it does not certainly.
                Verdict::Drop if certain => return dropped(false),
                Verdict::Drop => {}
                Verdict::Accept | Verdict::Return | Verdict::Other if !certain => self.doubtful = true,
                Verdict::Accept => return End::Accepted,
                Verdict::Other => {
                    self.doubtful = true;
                    return End::Accepted;
                }
                Verdict::Return => break,
                Verdict::Jump(name) | Verdict::Goto(name) if !certain => {
                    // It may be accepted there; that it is dropped there is not certain.
                    let there = (place.0, place.1.clone(), name);
                    let doubtful_before = self.doubtful;
                    let end = self.chain(&there, depth + 1);
                    self.doubtful = doubtful_before || self.doubtful || matches!(end, End::Accepted);
                }
                Verdict::Jump(name) => match self.chain(&(place.0, place.1.clone(), name), depth + 1) {
                    End::Returned => {}
                    end => return end,
                },
                Verdict::Goto(name) => match self.chain(&(place.0, place.1.clone(), name), depth + 1) {
                    End::Returned => break,
                    end => return end,
                },
            }
        }
        match (&chain.hook, chain.drops_by_policy) {
            (None, _) => End::Returned,
            (Some(_), true) => dropped(true),
            (Some(_), false) => End::Accepted,
        }
    }

    /// Whether a rule matches, and what it says then.
    fn rule(&self, place: &super::Place, rule: &[Expression]) -> (Match, Option<Verdict>) {
        let mut registers: [Byte; REGISTERS_BYTES] = [None; REGISTERS_BYTES];
        let mut matches = Match::Yes;
        let mut verdict = None;
        for expression in rule {
            let found = match expression {
                Expression::Verdict(said) => {
                    verdict = Some(said.clone());
                    break;
                }
                Expression::Passive => Match::Yes,
                Expression::Unknown => Match::Perhaps,
                Expression::Payload { to, base, offset, bytes } => {
                    store(&mut registers, *to, &payload(self.packet, *base, *offset, *bytes));
                    Match::Yes
                }
                Expression::Meta { to, key } => {
                    store(&mut registers, *to, &meta(self.packet, *key));
                    Match::Yes
                }
                Expression::Conntrack { to, key } => {
                    store(&mut registers, *to, &conntrack(*key));
                    Match::Yes
                }
                Expression::Load { to, data } => {
                    store(&mut registers, *to, &data.iter().copied().map(Some).collect::<Vec<_>>());
                    Match::Yes
                }
                Expression::Bitwise { from, to, mask, xor } => {
                    let value = load(&registers, *from, mask.len());
                    let masks = mask.iter().zip(xor);
                    let value: Vec<_> = value
                        .iter()
                        .zip(masks)
                        .map(|(byte, (mask, xor))| masked(*byte, *mask, *xor))
                        .collect();
                    store(&mut registers, *to, &value);
                    Match::Yes
                }
                Expression::Compare { from, how, data } => {
                    compare(&load(&registers, *from, data.len()), *how, data)
                }
                Expression::Range { from, outside, low, high } => whole(&load(&registers, *from, low.len()))
                    .map_or(Match::Perhaps, |value| yes((low..=high).contains(&&value) != *outside)),
                Expression::Lookup { from, set, inverted, is_map } => {
                    let elements = self.firewall.sets.get(&(place.0, place.1.clone(), set.clone()));
                    let Some(found) = elements.and_then(|elements| find(elements, &registers, *from)) else {
                        matches = Match::Perhaps;
                        if *is_map {
                            verdict = Some(Verdict::Other);
                        }
                        continue;
                    };
                    if *is_map && let Some(element) = found {
                        verdict = Some(element.verdict.clone().unwrap_or(Verdict::Other));
                    }
                    yes(found.is_some() != *inverted)
                }
            };
            match found {
                Match::Yes => {}
                Match::Perhaps => matches = Match::Perhaps,
                Match::No => return (Match::No, None),
            }
        }
        (matches, verdict)
    }
}

fn yes(matches: bool) -> Match {
    if matches { Match::Yes } else { Match::No }
}

fn store(registers: &mut [Byte; REGISTERS_BYTES], to: usize, value: &[Byte]) {
    // A value takes whole registers, the rest of the last being zero.
    let padded = value.len().next_multiple_of(4);
    let bytes = value.iter().copied().chain(std::iter::repeat(Some(0)));
    for (place, byte) in registers.iter_mut().skip(to).take(padded).zip(bytes) {
        *place = byte;
    }
}

fn load(registers: &[Byte; REGISTERS_BYTES], from: usize, bytes: usize) -> Vec<Byte> {
    registers.iter().copied().skip(from).chain(std::iter::repeat(None)).take(bytes).collect()
}

fn whole(value: &[Byte]) -> Option<Vec<u8>> {
    value.iter().copied().collect()
}

/// A byte that is masked out is known, whatever it was.
fn masked(byte: Byte, mask: u8, xor: u8) -> Byte {
    if mask == 0 { Some(xor) } else { byte.map(|byte| byte & mask ^ xor) }
}

/// `NFT_CMP_*`: as memcmp orders.
fn compare(value: &[Byte], how: u32, data: &[u8]) -> Match {
    // One byte that differs is enough, whatever the others are.
    let differs = value.iter().zip(data).any(|(byte, data)| byte.is_some_and(|byte| byte != *data));
    match (how, whole(value)) {
        (0, _) if differs => Match::No,
        (1, _) if differs => Match::Yes,
        (_, None) => Match::Perhaps,
        (0, _) => Match::Yes,
        (1, _) => Match::No,
        (how, Some(value)) => {
            let order = value.as_slice().cmp(data);
            yes(match how {
                2 => order.is_lt(),
                3 => order.is_le(),
                4 => order.is_gt(),
                _ => order.is_ge(),
            })
        }
    }
}

/// The element that a key is in, or that it is in none; none if the key is not known or the set is of a kind not known here.
fn find<'a>(
    elements: &'a [Element],
    registers: &[Byte; REGISTERS_BYTES],
    from: usize,
) -> Option<Option<&'a Element>> {
    let keyed = || elements.iter().filter(|element| !element.catches_all);
    let catch_all = elements.iter().find(|element| element.catches_all);
    let Some(bytes) = keyed().map(|element| element.key.len()).max() else { return Some(catch_all) };
    if keyed().any(|element| element.key.len() != bytes) {
        return None;
    }
    let value = whole(&load(registers, from, bytes))?;
    if keyed().any(|element| element.key_end.is_some()) {
        // Several fields side by side, each with a range of its own; their sizes are not known here.
        return None;
    }
    let found = if keyed().any(|element| element.ends_interval) {
        // Sorted: the last that is not above the value; one that ends an interval comes before one that begins there.
        keyed().rfind(|element| element.key <= value).filter(|element| !element.ends_interval)
    } else {
        keyed().find(|element| element.key == value)
    };
    Some(found.or(catch_all))
}

/// Bytes of a header, `NFT_PAYLOAD_*`.
fn payload(packet: &Packet, base: u32, offset: usize, bytes: usize) -> Vec<Byte> {
    let header = match base {
        1 => network_header(packet),
        2 => transport_header(packet),
        _ => Vec::new(),
    };
    header.into_iter().chain(std::iter::repeat(None)).skip(offset).take(bytes).collect()
}

fn network_header(packet: &Packet) -> Vec<Byte> {
    let mut header = vec![None; if packet.destination.is_ipv4() { 20 } else { 40 }];
    let mut set = |at: usize, bytes: &[u8]| {
        header.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = Some(*byte));
    };
    let (protocol_at, source_at, destination_at) =
        if packet.destination.is_ipv4() { (9, 12, 16) } else { (6, 8, 24) };
    set(0, &[if packet.destination.is_ipv4() { 0x45 } else { 0x60 }]);
    set(protocol_at, &[packet.protocol]);
    let octets = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    if let Some(source) = packet.source {
        set(source_at, &octets(source));
    }
    set(destination_at, &octets(packet.destination));
    header
}

fn transport_header(packet: &Packet) -> Vec<Byte> {
    let port = |port: Option<u16>| port.map_or([None; 2], |port| port.to_be_bytes().map(Some));
    match packet.message_type {
        Some(kind) => vec![Some(kind)],
        None => [port(packet.source_port), port(packet.destination_port)].concat(),
    }
}

/// `NFT_META_*`: what is known of the packet beside its bytes.
fn meta(packet: &Packet, key: u32) -> Vec<Byte> {
    let known = |bytes: &[u8]| bytes.iter().copied().map(Some).collect::<Vec<_>>();
    let is_v4 = packet.destination.is_ipv4();
    let mine = |way| packet.interface.as_ref().filter(|_| packet.way == way);
    // The other end's interface: a packet that comes in goes out by none, and one that goes out came in by none.
    let index = |way| match mine(way) {
        Some((index, _)) => known(&index.to_ne_bytes()),
        None if packet.way == way => vec![None; 4],
        None => known(&[0; 4]),
    };
    let name = |way| match mine(way) {
        Some((_, name)) => known(&padded_name(name)),
        None if packet.way == way => vec![None; 16],
        None => known(&[0; 16]),
    };
    match key {
        1 => known(&(if is_v4 { 0x0800_u16 } else { 0x86dd }).to_be_bytes()),
        4 => index(Way::In),
        5 => index(Way::Out),
        6 => name(Way::In),
        7 => name(Way::Out),
        15 => known(&[if is_v4 { IPV4 } else { IPV6 }]),
        16 => known(&[packet.protocol]),
        // PACKET_MULTICAST and PACKET_HOST of linux/if_packet.h.
        19 if packet.way == Way::In => known(&[if packet.destination.is_multicast() { 2 } else { 0 }]),
        // As long as the longest there is.
        _ => vec![None; 16],
    }
}

fn padded_name(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    padded.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte);
    padded
}

/// What a datagram that nobody answers is to connection tracking: new (`NF_CT_STATE_BIT(IP_CT_NEW)`).
fn conntrack(key: u32) -> Vec<Byte> {
    const STATE: u32 = 0;
    const NEW: u32 = 8;
    if key == STATE { NEW.to_ne_bytes().map(Some).to_vec() } else { vec![None; 16] }
}
