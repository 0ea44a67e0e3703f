//! Where the demo plays: three namespaces of its own, or the host's loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::DemoError;
use mcr_gen::{Receiver, RecvOptions};
use mcr_lab::{LabError, Line, Namespace, enter_user_namespace};
use mcr_proto::{endpoint::Endpoint, rule::RuleSpec};

/// Datagrams a second. The buffers that an ordinary user gets hold 90 datagrams, which at this rate is 36 ms.
pub(crate) const RATE_PPS: u64 = 2_500;
/// Seven MPEG transport stream packets, as nearly all video over UDP has it.
pub(crate) const PAYLOAD_BYTES: usize = 1_316;

/// Where it plays, and what.
pub(crate) struct Stage {
    /// For a person.
    pub(crate) description: String,
    pub(crate) rule: RuleSpec,
    pub(crate) send_to: Endpoint,
    /// Opened before anything is sent: one for each output.
    pub(crate) receivers: Vec<Receiver>,
    places: Option<Line>,
}

impl Stage {
    /// A source, a relay and two sinks, each in a namespace of its own, joined by veth pairs.
    pub(crate) fn namespaces() -> Result<Self, DemoError> {
        let line = line().map_err(DemoError::NoNamespaces)?;
        let rule = rule("239.1.1.1:5000@in0", &["239.2.2.2:6000@out0,ttl=8", "10.3.0.2:7000@out1"]);
        let listen = [endpoint("239.2.2.2:6000@dst0"), endpoint("10.3.0.2:7000")];
        let receivers = line.sinks.iter().zip(listen);
        let receivers =
            receivers.map(|(sink, endpoint)| sink.enter(|| Receiver::open(&RecvOptions::new(endpoint))));
        let receivers =
            receivers.collect::<Result<_, _>>().map_err(|error| DemoError::part("open a receiver", error))?;
        Ok(Self {
            description:
                "source --239.1.1.1:5000--> relay --239.2.2.2:6000--> sink 1, --10.3.0.2:7000--> sink 2"
                    .into(),
            rule,
            send_to: endpoint("239.1.1.1:5000@src0"),
            receivers,
            places: Some(line),
        })
    }

    /// Everything on the host's loopback interface, which leaves multicast to the host itself.
    pub(crate) fn loopback() -> Result<Self, DemoError> {
        let free = |address: Ipv4Addr| UdpSocket::bind((address, 0)).and_then(|socket| socket.local_addr());
        let group = IpAddr::from([239, 255, 77, 1]);
        let input = free(Ipv4Addr::LOCALHOST).map_err(|error| DemoError::part("find a free port", error))?;
        let input = SocketAddr::new(group, input.port());
        let listen = Endpoint { port: 0, ..endpoint("127.0.0.1:1") };
        let receiver = Receiver::open(&RecvOptions::new(listen))
            .map_err(|error| DemoError::part("open a receiver", error))?;
        let output = receiver.local_addr();
        Ok(Self {
            description: format!("source --{input}--> relay --{output}--> sink, all on lo"),
            rule: rule(&format!("{input}@lo"), &[&output.to_string()]),
            send_to: endpoint(&format!("{input}@lo")),
            receivers: vec![receiver],
            places: None,
        })
    }

    /// Where the daemon runs, if not here.
    pub(crate) fn relay(&self) -> Option<&Namespace> {
        self.places.as_ref().map(|line| &line.relay)
    }

    /// Runs `f` where the sender is.
    pub(crate) fn at_source<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        match &self.places {
            Some(line) => line.source.enter(f),
            None => f(),
        }
    }
}

fn line() -> Result<Line, LabError> {
    // Root makes them as it is, unless it is the root of a container that may not; then, as a user, it may yet.
    let line = match Line::with_outputs(2) {
        Ok(line) => line,
        Err(_) => {
            enter_user_namespace()?;
            Line::with_outputs(2)?
        }
    };
    // The first datagram to a neighbour would wait for its address, and those behind it with it.
    line.pin_neighbours()?;
    Ok(line)
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().expect("an endpoint of the demo's own")
}

fn rule(input: &str, outputs: &[&str]) -> RuleSpec {
    let outputs = outputs.iter().map(|output| output.parse().expect("an output of the demo's own"));
    let mut rule = RuleSpec::new(input.parse().expect("an input of the demo's own"), outputs.collect());
    rule.name = Some("demo".parse().expect("a name of the demo's own"));
    rule
}
