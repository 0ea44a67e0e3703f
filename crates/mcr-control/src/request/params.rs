//! What a method takes: parameters as types, or the field at fault.

use mcr_proto::{
    endpoint::{Input, Output},
    message::EventKind,
    reflect::Reflect,
    rpc::{ErrorObject, RuleParams, Subscribe, TraceStart, WhyParams, code},
    rule::{DatapathChoice, RuleName, RuleSpec},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{Call, refusal, shown};

pub(super) fn enable(params: Map<String, Value>, enabled: bool) -> Result<Call, ErrorObject> {
    read(params, "rule").map(|RuleParams { rule }| Call::RuleEnable { rule, enabled })
}

/// A trace to start; of one that cannot be read, the field at fault is found by reading each by itself.
pub(super) fn trace_start(params: Map<String, Value>) -> Result<Call, ErrorObject> {
    let params = Value::Object(params);
    TraceStart::deserialize(&params).map(Call::TraceStart).map_err(|error| {
        let alone = |key: &str, value: &Value| match key {
            "rule" | "name" | "id" | "drops" => json!({ key: value }),
            _ => json!({ "rule": 1, key: value }),
        };
        let mut all = params.as_object().into_iter().flatten();
        let faulty = all.find(|(key, value)| TraceStart::deserialize(&alone(key, value)).is_err());
        refusal(code::INVALID_PARAMS, error.to_string(), Some(faulty.map_or("rule", |(key, _)| key)))
    })
}

pub(super) fn why(params: Map<String, Value>) -> Result<Call, ErrorObject> {
    let WhyParams { datagram } = read(params, "datagram")?;
    let probe = datagram.parse();
    probe.map(Call::Why).map_err(|error| refusal(code::INVALID_PARAMS, error.to_string(), Some("datagram")))
}

pub(super) fn subscribe(params: Map<String, Value>) -> Result<Call, ErrorObject> {
    let Subscribe { kinds } = read(params, "kinds")?;
    if kinds.as_ref().is_some_and(|kinds| kinds.is_empty() || kinds.contains(&EventKind::Missed)) {
        let message = "`kinds` is a list of rule, interface and worker, or left out";
        return Err(refusal(code::INVALID_PARAMS, message, Some("kinds")));
    }
    let kinds = kinds.map(|mut kinds| {
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    });
    Ok(Call::Subscribe(kinds))
}

/// Parameters of a type; where it cannot be told which field is at fault, `field` is named.
pub(super) fn read<T: DeserializeOwned>(params: Map<String, Value>, field: &str) -> Result<T, ErrorObject> {
    let params = Value::Object(params);
    T::deserialize(&params).map_err(|error| {
        let message = error.to_string();
        let found = named(&message).map(str::to_owned).or_else(|| faulty::<T>(&params));
        refusal(code::INVALID_PARAMS, message, Some(found.as_deref().unwrap_or(field)))
    })
}

/// The field that a message of serde is about, where it says so.
fn named(message: &str) -> Option<&str> {
    let says = ["unknown field `", "missing field `", "missing `"];
    says.iter().find_map(|says| message.strip_prefix(says))?.split('`').next()
}

/// The only field without which nothing would be wrong, or nothing but that it is missing.
fn faulty<T: DeserializeOwned>(params: &Value) -> Option<String> {
    let params = params.as_object()?;
    let is_at_fault = |key: &&String| {
        let mut others = params.clone();
        others.remove(*key);
        let error = T::deserialize(&Value::Object(others)).err().map(|error| error.to_string());
        error.is_none_or(|error| named(&error) == Some(key.as_str()))
    };
    let mut found = params.keys().filter(is_at_fault);
    found.next().filter(|_| found.next().is_none()).cloned()
}

pub(super) fn none(params: &Map<String, Value>) -> Result<(), ErrorObject> {
    match params.keys().next() {
        None => Ok(()),
        Some(key) => {
            let message = format!("unknown parameter `{}`; the method takes none", shown(key));
            Err(refusal(code::INVALID_PARAMS, message, Some(key)))
        }
    }
}

/// A reflector; of one that cannot be read, the field at fault is found by reading each by itself.
pub(super) fn reflect(params: Map<String, Value>) -> Result<Reflect, ErrorObject> {
    let params = Value::Object(params);
    Reflect::deserialize(&params).map_err(|error| {
        let whole = |key: &str, value: &Value| json!({ "interface": "lo", key: value });
        let faulty = params.as_object().into_iter().flatten().find_map(|(key, value)| {
            let error = Reflect::deserialize(&whole(key, value)).err()?;
            Some((key.clone(), format!("{}: {error}", shown(key))))
        });
        let (field, message) = faulty.unwrap_or_else(|| ("interface".into(), error.to_string()));
        refusal(code::INVALID_PARAMS, message, Some(&field))
    })
}

pub(super) fn rule_spec(params: Map<String, Value>) -> Result<RuleSpec, ErrorObject> {
    let params = Value::Object(params);
    match RuleSpec::deserialize(&params) {
        Ok(spec) => match spec.check() {
            Ok(()) => Ok(spec),
            Err(error) => Err(refusal(code::INVALID_PARAMS, error.to_string(), Some(&error.field()))),
        },
        Err(error) => {
            let field = rule_fault(&params);
            let (field, message) = match field {
                Some((field, message)) => (Some(field), message),
                None => (None, error.to_string()),
            };
            Err(refusal(code::INVALID_PARAMS, message, field.as_deref()))
        }
    }
}

/// Which field of a rule that could not be read is at fault, and why: each is read by itself.
fn rule_fault(params: &Value) -> Option<(String, String)> {
    let params = params.as_object()?;
    for (key, value) in params {
        let error = match key.as_str() {
            "name" => fault_of::<Option<RuleName>>(value),
            "input" => fault_of::<Input>(value),
            "outputs" => match value.as_array() {
                Some(outputs) => {
                    let faulty = |(index, output)| Some((index, fault_of::<Output>(output)?));
                    if let Some((index, error)) = outputs.iter().enumerate().find_map(faulty) {
                        return Some((format!("outputs[{index}]"), format!("output {index}: {error}")));
                    }
                    None
                }
                None => fault_of::<Vec<Output>>(value),
            },
            "class" => fault_of::<Option<String>>(value),
            "datapath" => fault_of::<DatapathChoice>(value),
            "enabled" => fault_of::<bool>(value),
            _ => Some("no such field; a rule has name, input, outputs, class, datapath and enabled".into()),
        };
        if let Some(error) = error {
            return Some((key.clone(), format!("{}: {error}", shown(key))));
        }
    }
    let missing = ["input", "outputs"].into_iter().find(|key| !params.contains_key(*key))?;
    Some((missing.into(), format!("`{missing}` is missing")))
}

fn fault_of<T: DeserializeOwned>(value: &Value) -> Option<String> {
    T::deserialize(value).err().map(|error| error.to_string())
}
