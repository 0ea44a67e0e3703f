//! The parameters of `rule.why`.

use serde::{Deserialize, Serialize};

/// Parameters of `rule.why`: a datagram, as [`crate::probe::Probe`] is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyParams {
    /// As in `10.0.0.9:4000 > 239.1.1.1:5000@eth0`.
    pub datagram: String,
}
