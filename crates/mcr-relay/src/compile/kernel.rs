//! What the kernel data path carries: the one place that says so, and says why not.

use std::net::IpAddr;

use mcr_proto::{
    endpoint::{Output, OutputSource},
    rule::{DatapathChoice, RuleSpec},
};

use super::{Framing, Interface, Leads, Network};
use crate::classes::Classes;

/// Whether every feature of a rule is carried in the kernel, or the first that is not. What is missing for now (an interface, a
/// route, a neighbour) is no reason: the rule waits for it there.
pub(super) fn carries(
    spec: &RuleSpec,
    input: Option<Interface>,
    network: &impl Network,
    classes: &Classes,
) -> Result<(), String> {
    needs_sockets(spec, classes).map_or(Ok(()), Err)?;
    if let Some(input) = input {
        if input.loopback {
            return Err("the input is the loopback interface".into());
        }
        if input.framing != Framing::Ethernet {
            return Err("frames of the input have no Ethernet header".into());
        }
    }
    for output in &spec.outputs {
        let leads = way(output, network);
        let refusal = carries_output(spec, output, leads, network).or_else(|| too_small(spec, input, leads));
        if let Some(why) = refusal {
            return Err(format!("output {output}: {why}"));
        }
    }
    Ok(())
}

/// Who is served first, how much may wait, how much is taken and what is counted as a class's, sockets and a worker decide. Who
/// asks for the kernel path does without classes by DSCP.
fn needs_sockets(spec: &RuleSpec, classes: &Classes) -> Option<String> {
    match &spec.class {
        Some(class) => Some(format!("class {class} takes a socket of its own")),
        None if classes.are_by_dscp() && spec.datapath != DatapathChoice::Kernel => {
            Some("there are classes by DSCP, each of which takes a socket of its own".into())
        }
        None => None,
    }
}

fn way(output: &Output, network: &impl Network) -> Leads {
    match &output.interface {
        Some(name) if network.leads(output.address) != Leads::Here => {
            network.interface(name).map_or(Leads::Nowhere, Leads::By)
        }
        _ => network.leads(output.address),
    }
}

fn carries_output(
    spec: &RuleSpec,
    output: &Output,
    leads: Leads,
    network: &impl Network,
) -> Option<&'static str> {
    if output.rate.is_some() {
        return Some("a rate cap");
    }
    if output.multicast_loop && output.address.is_multicast() {
        return Some("loop=on");
    }
    if output.address.is_ipv4() != spec.input.address.is_ipv4() {
        return Some("it is translated between IPv4 and IPv6");
    }
    if let OutputSource::Fixed(address, _) = output.source
        && !network.is_own(address)
    {
        return Some("its source is no address of this host");
    }
    if output.interface.is_none() && matches!(output.address, IpAddr::V6(group) if group.is_multicast()) {
        return Some("a route, and no interface, for an IPv6 group");
    }
    match leads {
        Leads::Here => Some("it is to this host"),
        Leads::By(interface) if interface.loopback => Some("it is by the loopback interface"),
        Leads::By(interface) if interface.framing == Framing::Other => {
            Some("the interface has neither Ethernet nor IP framing")
        }
        Leads::By(interface)
            if output.source == OutputSource::Interface
                && !network.has_source(interface.index, output.address) =>
        {
            Some("its interface has no address for a source")
        }
        Leads::By(_) | Leads::Nowhere => None,
    }
}

/// What does not fit is dropped in the kernel; a socket would send it in fragments. Who asks for the kernel path has it so.
fn too_small(spec: &RuleSpec, input: Option<Interface>, leads: Leads) -> Option<&'static str> {
    match (input, leads) {
        (Some(input), Leads::By(output))
            if output.mtu < input.mtu && spec.datapath != DatapathChoice::Kernel =>
        {
            Some("its interface's MTU is below that of the input, so large datagrams have to be fragmented")
        }
        _ => None,
    }
}
