//! Rules whose copies come back to them without leaving the host.

use std::{collections::HashSet, fmt, net::SocketAddr};

use super::RuleSpec;
use crate::endpoint::Output;

const LOOPBACK: &str = "lo";

/// The rules, by name or input, by which a rule's own copies come back to it. Displays as what to tell whoever asked for such a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayBack(pub Vec<String>);

impl fmt::Display for WayBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.0.join(", ");
        write!(
            f,
            "the rule would loop: what it sends comes back to its input by {by} on this host; choose another output, or remove \
             what is between"
        )
    }
}

impl RuleSpec {
    /// The other rules by which this one's own copies would come back to it without leaving the host, if they would.
    /// `with_input` has the rules whose input has an address and port.
    pub fn way_back<'a>(&self, with_input: impl Fn(SocketAddr) -> Vec<&'a RuleSpec>) -> Option<WayBack> {
        let mut seen = HashSet::new();
        let mut ways = vec![(self, Vec::new())];
        while let Some((rule, way)) = ways.pop() {
            for output in &rule.outputs {
                if is_fed(self, output) && !way.is_empty() {
                    return Some(WayBack(way));
                }
                for fed in with_input(output.socket_addr()).into_iter().filter(|fed| is_fed(fed, output)) {
                    let key =
                        (fed.input.socket_addr(), fed.input.interface, fed.input.source, fed.name.clone());
                    if seen.insert(key) {
                        let name =
                            fed.name.as_ref().map_or_else(|| fed.input.to_string(), ToString::to_string);
                        ways.push((fed, way.iter().cloned().chain([name]).collect()));
                    }
                }
            }
        }
        None
    }
}

/// Whether this host itself hands what is sent by `output` to the rule.
fn is_fed(rule: &RuleSpec, output: &Output) -> bool {
    let input = &rule.input;
    if output.socket_addr() != input.socket_addr() || !rule.enabled {
        return false;
    }
    match &output.interface {
        Some(interface) => {
            *interface == input.interface && (output.multicast_loop || interface.as_str() == LOOPBACK)
        }
        // To an address of this host, which is reached by loopback.
        None => !output.address.is_multicast() && input.interface.as_str() == LOOPBACK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, input: &str, output: &str) -> RuleSpec {
        let mut spec =
            RuleSpec::new(input.parse().expect("an input"), vec![output.parse().expect("an output")]);
        spec.name = Some(name.parse().expect("a name"));
        spec
    }

    #[test]
    fn rules_that_feed_each_other_within_the_host_are_named_and_others_are_not() {
        let known = [
            spec("a", "239.1.1.1:1@lo", "239.1.1.2:2@lo"),
            spec("b", "239.1.1.2:2@lo", "239.1.1.3:3@lo"),
            spec("c", "127.0.0.1:5@lo", "127.0.0.1:6"),
            spec("d", "239.9.9.9:9@eth0", "239.9.9.9:9@eth1"),
        ];
        let with_input = |input| known.iter().filter(|rule| rule.input.socket_addr() == input).collect();
        let way = |new: &RuleSpec| new.way_back(with_input).map(|way| way.0);
        assert_eq!(way(&spec("n", "239.1.1.3:3@lo", "239.1.1.1:1@lo")), Some(vec!["a".into(), "b".into()]));
        assert_eq!(way(&spec("n", "239.1.1.3:3@lo", "239.1.1.2:7@lo")), None);
        assert_eq!(way(&spec("n", "127.0.0.1:6@lo", "127.0.0.1:5")), Some(vec!["c".into()]));
        assert_eq!(way(&spec("n", "127.0.0.1:6@lo", "10.0.0.1:5")), None);
        // Both ways between two networks: only what joins them makes a circle of it.
        assert_eq!(way(&spec("n", "239.9.9.9:9@eth1", "239.9.9.9:9@eth0")), None);
        assert!(
            way(&spec("n", "239.9.9.9:9@eth1", "239.9.9.9:9@eth0,loop=on")).is_none(),
            "d does not feed it"
        );
    }
}
