//! Parameters that name a rule, and rules as clients see them.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    message::{RuleRef, RuleState},
    rule::{Datapath, DatapathChoice, RuleId, RuleName, RuleSpec},
};

/// Parameters that name a rule: `{"rule": NAME-or-ID}`; `{"name": NAME}` and `{"id": ID}` say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleParams {
    /// The rule.
    pub rule: RuleRef,
}

/// Parameters that may name a rule; without one, all are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionalRule {
    /// The rule.
    pub rule: Option<RuleRef>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RuleFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<NameOrId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<RuleName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<RuleId>,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "`rule` is a name or a number from 0")]
pub(super) enum NameOrId {
    Id(RuleId),
    Text(String),
}

impl RuleFields {
    pub(super) fn into_ref<E: serde::de::Error>(self) -> Result<Option<RuleRef>, E> {
        match (self.rule, self.name, self.id) {
            (None, None, None) => Ok(None),
            (Some(NameOrId::Id(id)), None, None) | (None, None, Some(id)) => Ok(Some(RuleRef::Id(id))),
            (Some(NameOrId::Text(text)), None, None) => rule_ref(&text).map(Some).map_err(E::custom),
            (None, Some(name), None) => Ok(Some(RuleRef::Name(name))),
            _ => Err(E::custom("give one of `rule`, `name` and `id`")),
        }
    }

    pub(super) fn from_ref(rule: Option<&RuleRef>) -> Self {
        let rule = rule.map(|rule| match rule {
            RuleRef::Id(id) => NameOrId::Id(*id),
            RuleRef::Name(name) => NameOrId::Text(name.to_string()),
        });
        Self { rule, name: None, id: None }
    }
}

/// A rule as typed on a command line: all digits is an id, anything else a name.
///
/// # Errors
/// The text is neither, with the reason.
pub fn rule_ref(text: &str) -> Result<RuleRef, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map(|id| RuleRef::Id(RuleId(id)))
            .map_err(|_| format!("rule id {text} is too large"));
    }
    text.parse().map(RuleRef::Name).map_err(|error| format!("{error}"))
}

impl<'de> Deserialize<'de> for RuleParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rule = RuleFields::deserialize(deserializer)?.into_ref()?;
        rule.map(|rule| Self { rule }).ok_or_else(|| D::Error::custom("missing `rule`: a rule's name or id"))
    }
}

impl Serialize for RuleParams {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RuleFields::from_ref(Some(&self.rule)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for OptionalRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { rule: RuleFields::deserialize(deserializer)?.into_ref()? })
    }
}

impl Serialize for OptionalRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RuleFields::from_ref(self.rule.as_ref()).serialize(serializer)
    }
}

/// Parameters of `rule.move`: a rule, named as in [`RuleParams`], and `"worker": INDEX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveParams {
    /// The rule.
    pub rule: RuleRef,
    /// The worker that carries it from now on, counted from 0.
    pub worker: u16,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MoveFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<NameOrId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<RuleName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<RuleId>,
    worker: u16,
}

impl<'de> Deserialize<'de> for MoveParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let MoveFields { rule, name, id, worker } = MoveFields::deserialize(deserializer)?;
        let rule = RuleFields { rule, name, id }.into_ref()?;
        rule.map(|rule| Self { rule, worker })
            .ok_or_else(|| D::Error::custom("missing `rule`: a rule's name or id"))
    }
}

impl Serialize for MoveParams {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let RuleFields { rule, name, id } = RuleFields::from_ref(Some(&self.rule));
        MoveFields { rule, name, id, worker: self.worker }.serialize(serializer)
    }
}

/// Result of `rule.add`: the rule, and whether it is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAdded {
    /// As it stands now.
    #[serde(flatten)]
    pub rule: RuleInfo,
    /// False if an identical one of this name was there.
    pub created: bool,
}

/// A rule as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// The daemon's number.
    pub id: RuleId,
    /// The user's name, or one made from the number.
    pub name: RuleName,
    /// The input, in canonical form.
    pub input: String,
    /// The outputs, in canonical form.
    pub outputs: Vec<String>,
    /// Each output's state, in the same order.
    pub output_states: Vec<StateInfo>,
    /// The class, if the rule names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Switched on by the user.
    pub enabled: bool,
    /// Its state.
    pub state: RuleState,
    /// Why it is in this state, if not active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The worker that carries it.
    pub worker: u16,
    /// The data path that carries it, or will once it is active; null where none can.
    pub datapath: Option<Datapath>,
    /// The data path the rule asks for.
    pub datapath_wanted: DatapathChoice,
    /// Why this data path.
    pub datapath_reason: String,
    /// Its datagrams are kept from the host's IP stack, because nothing else there wants them; not said where they are not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub swallowed: bool,
}

/// A state and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateInfo {
    /// The state.
    pub state: RuleState,
    /// Why, if not active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RuleInfo {
    /// The specification this rule was made from, for adding it again elsewhere.
    ///
    /// # Errors
    /// A text that is not in the grammar, which a daemon of the same version does not send.
    pub fn spec(&self) -> Result<RuleSpec, crate::endpoint::EndpointError> {
        Ok(RuleSpec {
            name: Some(self.name.clone()),
            input: self.input.parse()?,
            outputs: self.outputs.iter().map(|output| output.parse()).collect::<Result<_, _>>()?,
            class: self.class.clone(),
            datapath: self.datapath_wanted,
            enabled: self.enabled,
        })
    }
}

/// Result of `rule.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// In order of id.
    pub rules: Vec<RuleInfo>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_named_in_any_of_three_ways() {
        let by = |text: &str| serde_json::from_str::<RuleParams>(text).map(|params| params.rule);
        let name = RuleRef::Name("video".parse().expect("a name"));
        assert_eq!(by(r#"{"rule":"video"}"#).expect("name"), name);
        assert_eq!(by(r#"{"name":"video"}"#).expect("name"), name);
        for text in [r#"{"rule":7}"#, r#"{"rule":"7"}"#, r#"{"id":7}"#] {
            assert_eq!(by(text).expect("id"), RuleRef::Id(RuleId(7)));
        }
    }

    #[test]
    fn a_rule_named_twice_or_not_at_all_is_refused() {
        for text in [r#"{}"#, r#"{"rule":"a","id":1}"#, r#"{"rule":"a","x":1}"#, r#"{"rule":"a b"}"#] {
            assert!(serde_json::from_str::<RuleParams>(text).is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<OptionalRule>("{}").expect("none"), OptionalRule::default());
    }

    #[test]
    fn a_move_names_rule_and_worker() {
        let params = MoveParams { rule: RuleRef::Id(RuleId(3)), worker: 1 };
        let text = serde_json::to_string(&params).expect("plain data");
        assert_eq!(text, r#"{"rule":3,"worker":1}"#);
        assert_eq!(serde_json::from_str::<MoveParams>(&text).expect("own text"), params);
        for text in [
            r#"{"rule":3}"#,
            r#"{"worker":1}"#,
            r#"{"rule":3,"worker":-1}"#,
            r#"{"rule":3,"worker":1,"x":1}"#,
        ] {
            assert!(serde_json::from_str::<MoveParams>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rule_parameters_read_back_as_they_were_written() {
        for rule in [RuleRef::Id(RuleId(3)), RuleRef::Name("a.b".parse().expect("a name"))] {
            let params = RuleParams { rule };
            let text = serde_json::to_string(&params).expect("plain data");
            assert_eq!(serde_json::from_str::<RuleParams>(&text).expect("own text"), params);
        }
    }
}
