//! Whether the parts of a rule make sense together, and how a rule is written.

use std::collections::HashMap;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::name::{NameError, check_name};
use super::{DatapathChoice, OUTPUTS_MAX, RuleSpec};
use crate::endpoint::{EndpointError, Input, Output, OutputSource};

/// Why a rule was refused. [`RuleError::field`] names the field at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// There is nowhere to send to.
    #[error("the rule has no outputs; name at least one, as in \"10.100.0.2:6000\"")]
    NoOutputs,
    /// More than [`OUTPUTS_MAX`] outputs.
    #[error("the rule has {count} outputs; at most {OUTPUTS_MAX} are taken, split it over several rules")]
    TooManyOutputs {
        /// How many there are.
        count: usize,
    },
    /// Two outputs with the same address, port and interface.
    #[error("outputs {first} and {second} both send to {place}; remove one")]
    DuplicateOutput {
        /// Index of the first.
        first: usize,
        /// Index of the second.
        second: usize,
        /// Address, port and interface.
        place: String,
    },
    /// An output that sends to where the input listens.
    #[error(
        "output {index} sends to {place}, which the input takes in again: the rule would loop; change its address, port or interface"
    )]
    Loop {
        /// Index of the output.
        index: usize,
        /// Address, port and interface.
        place: String,
    },
    /// `source=keep` from one address family to the other.
    #[error(
        "output {index}: source=keep cannot keep an {from} source in an {to} datagram; write source=interface or leave it out"
    )]
    KeepAcrossFamilies {
        /// Index of the output.
        index: usize,
        /// Family of the input.
        from: &'static str,
        /// Family of the output.
        to: &'static str,
    },
    /// The input is wrong by itself.
    #[error("input: {0}")]
    Input(EndpointError),
    /// An output is wrong by itself.
    #[error("output {index}: {error}")]
    Output {
        /// Index of the output.
        index: usize,
        /// What is wrong with it.
        error: EndpointError,
    },
    /// The class is not a name.
    #[error("class: {0}")]
    Class(NameError),
}

impl RuleError {
    /// Index of the output at fault, if it is one.
    pub(crate) fn output(&self) -> Option<usize> {
        match *self {
            RuleError::DuplicateOutput { second: index, .. }
            | RuleError::Loop { index, .. }
            | RuleError::KeepAcrossFamilies { index, .. }
            | RuleError::Output { index, .. } => Some(index),
            _ => None,
        }
    }

    /// The field at fault as it is written in a configuration, as in `outputs[1]`; indices count from 0.
    pub fn field(&self) -> String {
        match (self, self.output()) {
            (_, Some(index)) => format!("outputs[{index}]"),
            (RuleError::Input(_), _) => "input".to_owned(),
            (RuleError::Class(_), _) => "class".to_owned(),
            _ => "outputs".to_owned(),
        }
    }
}

impl RuleSpec {
    /// A rule with everything but its endpoints at the default.
    pub fn new(input: Input, outputs: Vec<Output>) -> Self {
        RuleSpec { name: None, input, outputs, class: None, datapath: DatapathChoice::Auto, enabled: true }
    }

    /// Whether it is the same as another in everything but its name.
    pub fn is_like(&self, other: &Self) -> bool {
        self.input == other.input
            && self.outputs == other.outputs
            && self.class == other.class
            && self.datapath == other.datapath
            && self.enabled == other.enabled
    }

    /// Refuses a rule whose parts do not fit together; what a single endpoint may not say is checked again, because
    /// their fields are public.
    ///
    /// # Errors
    /// The first thing found wrong: see [`RuleError`].
    pub fn check(&self) -> Result<(), RuleError> {
        self.input.check().map_err(RuleError::Input)?;
        self.class.as_deref().map_or(Ok(()), check_name).map_err(RuleError::Class)?;
        match self.outputs.len() {
            0 => return Err(RuleError::NoOutputs),
            count if count > OUTPUTS_MAX => return Err(RuleError::TooManyOutputs { count }),
            _ => {}
        }
        let mut seen = HashMap::with_capacity(self.outputs.len());
        for (index, output) in self.outputs.iter().enumerate() {
            output.check().map_err(|error| RuleError::Output { index, error })?;
            check_pair(&self.input, output, index)?;
            if let Some(first) = seen.insert((output.address, output.port, output.interface), index) {
                return Err(RuleError::DuplicateOutput { first, second: index, place: place(output) });
            }
        }
        Ok(())
    }

    /// What is legal but unlikely to be meant, or accepted and not acted on by this version; one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.input.lacks_source() {
            warnings.push(format!(
                "input {}: the group is for source-specific multicast, but no source is named; write SOURCE>{}",
                self.input, self.input
            ));
        }
        for output in
            self.outputs.iter().filter(|output| output.multicast_loop && !output.address.is_multicast())
        {
            warnings.push(format!("output {output}: loop=on has no effect, the address is not multicast"));
        }
        warnings
    }
}

fn check_pair(input: &Input, output: &Output, index: usize) -> Result<(), RuleError> {
    // Without an interface the route decides; to an address of this host it leads back here, to a group it need not.
    let same_link = match &output.interface {
        Some(interface) => *interface == input.interface,
        None => !output.address.is_multicast(),
    };
    if same_link && output.socket_addr() == input.socket_addr() {
        return Err(RuleError::Loop { index, place: place(output) });
    }
    if output.source == OutputSource::Keep && input.address.is_ipv4() != output.address.is_ipv4() {
        let [from, to] = [input.address, output.address].map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" });
        return Err(RuleError::KeepAcrossFamilies { index, from, to });
    }
    Ok(())
}

/// Address, port and interface of an output, without its keys.
fn place(output: &Output) -> String {
    Output { interface: output.interface, ..Output::new(output.address, output.port) }.to_string()
}

/// Fields at their default are left out for people and written for formats that count fields.
impl Serialize for RuleSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = !serializer.is_human_readable();
        let mut fields = serializer.serialize_struct("RuleSpec", 6)?;
        if all || self.name.is_some() {
            fields.serialize_field("name", &self.name)?;
        }
        fields.serialize_field("input", &self.input)?;
        fields.serialize_field("outputs", &self.outputs)?;
        if all || self.class.is_some() {
            fields.serialize_field("class", &self.class)?;
        }
        if all || self.datapath != DatapathChoice::Auto {
            fields.serialize_field("datapath", &self.datapath)?;
        }
        if all || !self.enabled {
            fields.serialize_field("enabled", &self.enabled)?;
        }
        fields.end()
    }
}
