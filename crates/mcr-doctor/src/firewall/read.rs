//! The rules as nf_tables tells them. Numbers are in network byte order there.

use std::io;

use mcr_netlink::{
    ALL, Asker, Protocol,
    attribute::{attribute, attributes, put, text, zero_ended},
};

use super::{Chain, Element, Expression, Firewall, Hook, Place, Verdict};

/// Rules that are read at most; with more the packet filter is not looked at.
const RULES_MAX: usize = 20_000;
/// Elements of sets, likewise.
const ELEMENTS_MAX: usize = 100_000;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
const HEADER_BYTES: usize = 4;

/// Reads the packet filter of this network namespace; takes CAP_NET_ADMIN in it.
pub(crate) fn read() -> io::Result<Firewall> {
    let mut asker = Asker::open(Protocol::Netfilter)?;
    let mut firewall = Firewall::default();
    asker.ask(GET_CHAIN, ALL, &[0; HEADER_BYTES], |_, message| {
        if let Some((place, chain)) = read_chain(message) {
            firewall.chains.insert(place, chain);
        }
    })?;
    let mut rules = 0;
    asker.ask(GET_RULE, ALL, &[0; HEADER_BYTES], |_, message| {
        rules += 1;
        if let Some((place, rule)) = read_rule(message).filter(|_| rules <= RULES_MAX)
            && let Some(chain) = firewall.chains.get_mut(&place)
        {
            chain.rules.push(rule);
        }
    })?;
    if rules > RULES_MAX {
        return Err(io::Error::other(format!("it has more than {RULES_MAX} rules")));
    }
    read_sets(&mut asker, &mut firewall)?;
    Ok(firewall)
}

fn read_sets(asker: &mut Asker, firewall: &mut Firewall) -> io::Result<()> {
    let mut wanted: Vec<Place> = Vec::new();
    for ((family, table, _), chain) in &firewall.chains {
        for expression in chain.rules.iter().flatten() {
            if let Expression::Lookup { set, .. } = expression {
                wanted.push((*family, table.clone(), set.clone()));
            }
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    let mut count = 0;
    for place in wanted {
        let mut body = vec![place.0, 0, 0, 0];
        put(&mut body, 1, &zero_ended(&place.1));
        put(&mut body, 2, &zero_ended(&place.2));
        let mut elements = Vec::new();
        asker.ask(GET_ELEMENTS, ALL, &body, |_, message| {
            let list = attribute(message.get(HEADER_BYTES..).unwrap_or_default(), 3).unwrap_or_default();
            let room = ELEMENTS_MAX.saturating_sub(count);
            elements.extend(attributes(list).map(|(_, element)| read_element(element)).take(room));
            count += attributes(list).count();
        })?;
        if count > ELEMENTS_MAX {
            return Err(io::Error::other(format!("its sets have more than {ELEMENTS_MAX} elements")));
        }
        // Where one range ends and the next begins, the end comes first.
        elements.sort_by(|one: &Element, other| {
            (&one.key, !one.ends_interval).cmp(&(&other.key, !other.ends_interval))
        });
        firewall.sets.insert(place, elements);
    }
    Ok(())
}

fn read_chain(message: &[u8]) -> Option<(Place, Chain)> {
    let family = *message.first()?;
    let body = message.get(HEADER_BYTES..)?;
    let hook = attribute(body, 4).and_then(|hook| {
        Some(Hook {
            number: be32(attribute(hook, 1)?)?,
            priority: be32(attribute(hook, 2)?)?.cast_signed(),
            device: attribute(hook, 3).map(text),
        })
    });
    // Without a policy it is accept.
    let policy = attribute(body, 5).and_then(be32).unwrap_or(1);
    let place = (family, text(attribute(body, 1)?), text(attribute(body, 3)?));
    Some((place, Chain { hook, drops_by_policy: policy == 0, rules: Vec::new() }))
}

fn read_rule(message: &[u8]) -> Option<(Place, Vec<Expression>)> {
    let family = *message.first()?;
    let body = message.get(HEADER_BYTES..)?;
    let place = (family, text(attribute(body, 1)?), text(attribute(body, 2)?));
    let expressions = attributes(attribute(body, 4).unwrap_or_default());
    Some((place, expressions.map(|(_, expression)| read_expression(expression)).collect()))
}

fn read_expression(expression: &[u8]) -> Expression {
    let name = attribute(expression, 1).map(text).unwrap_or_default();
    let data = attribute(expression, 2).unwrap_or_default();
    known(&name, data).unwrap_or(Expression::Unknown)
}

fn known(name: &str, data: &[u8]) -> Option<Expression> {
    let number = |kind| attribute(data, kind).and_then(be32);
    let size = |kind| number(kind).and_then(|number| usize::try_from(number).ok());
    let at = |kind| number(kind).and_then(register);
    let value = |kind| attribute(data, kind).and_then(|data| attribute(data, 1)).map(<[u8]>::to_vec);
    Some(match name {
        "payload" => Expression::Payload { to: at(1)?, base: number(2)?, offset: size(3)?, bytes: size(4)? },
        "meta" => Expression::Meta { to: at(1)?, key: number(2)? },
        "ct" => Expression::Conntrack { to: at(1)?, key: number(2)? },
        "cmp" => Expression::Compare { from: at(1)?, how: number(2)?, data: value(3)? },
        "range" => {
            Expression::Range { from: at(1)?, outside: number(2)? == 1, low: value(3)?, high: value(4)? }
        }
        "bitwise" => Expression::Bitwise { from: at(1)?, to: at(2)?, mask: value(4)?, xor: value(5)? },
        "lookup" => Expression::Lookup {
            set: text(attribute(data, 1)?),
            from: at(2)?,
            is_map: number(3).is_some(),
            inverted: number(5).unwrap_or(0) & 1 != 0,
        },
        "immediate" => {
            let content = attribute(data, 2)?;
            match attribute(content, 2) {
                Some(verdict) => Expression::Verdict(read_verdict(verdict)),
                None => Expression::Load { to: at(1)?, data: attribute(content, 1)?.to_vec() },
            }
        }
        "reject" => Expression::Verdict(Verdict::Drop),
        "counter" | "log" | "notrack" | "last" => Expression::Passive,
        _ => return None,
    })
}

/// Byte of the register file at which a register begins: four of 16 bytes, or, from number 8 on, sixteen of four
/// (`nft_parse_register`).
fn register(number: u32) -> Option<usize> {
    match number as usize {
        number @ 1..=4 => Some((number - 1) * 16),
        number @ 8..=23 => Some((number - 8) * 4),
        _ => None,
    }
}

fn read_verdict(verdict: &[u8]) -> Verdict {
    let chain = || attribute(verdict, 2).map(text);
    match attribute(verdict, 1).and_then(be32).map(u32::cast_signed) {
        Some(0) => Verdict::Drop,
        Some(1) => Verdict::Accept,
        Some(-1) => Verdict::Continue,
        Some(-3) => chain().map_or(Verdict::Other, Verdict::Jump),
        Some(-4) => chain().map_or(Verdict::Other, Verdict::Goto),
        Some(-5) => Verdict::Return,
        _ => Verdict::Other,
    }
}

fn read_element(element: &[u8]) -> Element {
    let value = |kind| attribute(element, kind).and_then(|data| attribute(data, 1)).map(<[u8]>::to_vec);
    let flags = attribute(element, 3).and_then(be32).unwrap_or(0);
    Element {
        key: value(1).unwrap_or_default(),
        key_end: value(10),
        ends_interval: flags & 1 != 0,
        catches_all: flags & 2 != 0,
        verdict: attribute(element, 2).and_then(|data| attribute(data, 2)).map(read_verdict),
    }
}

/// The packet filter speaks network byte order.
fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_be_bytes)
}
