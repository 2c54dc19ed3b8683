//! The hash of an agent's definition as clients of this API compute it before they ask whether theirs is saved.
//!
//! It is SHA-256 over the definition in the form that JavaScript's `JSON.stringify` gives: known settings only, no nulls, members in JavaScript's
//! order. A definition with other settings has another hash, which covers them: two that differ are never taken for the same.

use std::cmp::Ordering;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::provenance::{content, flow_hash};
use crate::model::wait::hex;

/// The settings that clients' hashes cover, sorted.
const SETTINGS: [&str; 25] = [
    "advisor",
    "artifacts",
    "contextManagement",
    "durability",
    "errorHandling",
    "frequencyPenalty",
    "loggingPolicy",
    "loopConfig",
    "maxTokens",
    "memory",
    "model",
    "piiRedaction",
    "presencePenalty",
    "reasoning",
    "sandbox",
    "seed",
    "state",
    "systemPrompt",
    "temperature",
    "temporal",
    "tenancyStrategy",
    "tools",
    "topK",
    "topP",
    "voice",
];

/// The hash of an agent's document.
pub(super) fn agent_hash(document: &Value) -> String {
    match normalized(&content(document)) {
        Some(text) => hex(&Sha256::digest(text)),
        None => flow_hash(document),
    }
}

/// The normalized form; none of a document with members that it does not cover.
fn normalized(document: &Value) -> Option<String> {
    let map = document.as_object()?;
    let known = ["name", "description", "icon", "config", "agentType", "label", "notes"];
    let given =
        |map: &Map<String, Value>, known: &[&str]| map.iter().all(|(name, value)| value.is_null() || known.contains(&name.as_str()));
    let none = Map::new();
    let config = match map.get("config") {
        None | Some(Value::Null) => &none,
        Some(config) => config.as_object()?,
    };
    if !given(map, &known) || !given(config, &SETTINGS) {
        return None;
    }
    let mut members = vec![format!("\"name\":{}", stringify(map.get("name").unwrap_or(&Value::Null)))];
    for name in ["description", "icon"] {
        if let Some(text) = map.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()) {
            members.push(format!("\"{name}\":{}", stringify(&text.into())));
        }
    }
    let settings = SETTINGS.iter().filter_map(|name| Some((name, config.get(*name).filter(|value| !value.is_null())?)));
    let settings: Vec<String> = settings.map(|(name, value)| format!("\"{name}\":{}", stringify(value))).collect();
    members.push(format!("\"config\":{{{}}}", settings.join(",")));
    Some(format!("{{{}}}", members.join(",")))
}

/// A value as JavaScript writes it, without members that are null.
fn stringify(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut members: Vec<(&String, &Value)> = map.iter().filter(|(_, value)| !value.is_null()).collect();
            members.sort_by(|(one, _), (other, _)| property_order(one, other));
            let members: Vec<String> =
                members.into_iter().map(|(name, value)| format!("{}:{}", Value::String(name.clone()), stringify(value))).collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(stringify).collect::<Vec<_>>().join(",")),
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, float),
        other => other.to_string(),
    }
}

/// Members whose names are positions in a list come first, by number; the others by their UTF-16 code units.
fn property_order(one: &str, other: &str) -> Ordering {
    match (position(one), position(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.encode_utf16().cmp(other.encode_utf16()),
    }
}

fn position(name: &str) -> Option<u32> {
    let is_canonical = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    name.parse().ok().filter(|position| is_canonical && *position < u32::MAX)
}

/// A number as JavaScript's `Number.prototype.toString` writes it.
fn float(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let scientific = format!("{:e}", value.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific.as_str(), "0"));
    let digits = mantissa.replace('.', "");
    let exponent = exponent.parse::<i64>().unwrap_or(0);
    let point = exponent + 1;
    let count = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let zeros = |number: i64| "0".repeat(usize::try_from(number).unwrap_or(0));
    let body = if (count..=21).contains(&point) {
        format!("{digits}{}", zeros(point - count))
    } else if (1..=21).contains(&point) {
        let (whole, part) = digits.split_at(usize::try_from(point).unwrap_or(0));
        format!("{whole}.{part}")
    } else if (-5..=0).contains(&point) {
        format!("0.{}{digits}", zeros(-point))
    } else {
        format!("{mantissa}e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    };
    if value < 0.0 { format!("-{body}") } else { body }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_is_the_one_that_clients_compute() {
        // Computed by the official Python client.
        let plain = json!({"name": "Helper", "config": {"systemPrompt": "Be brief.", "model": "local/echo"}});
        assert_eq!(agent_hash(&plain), "634bbd07a3c89aaa19a9b1bdb23f46f2c0fc091c69dbc3cd71305b13214beafe");
        let odd = json!({
            "name": "Größe", "description": "", "icon": "x",
            "config": {
                "model": "a", "temperature": 0.5, "topP": 1.0, "seed": -3, "memory": null,
                "tools": {"b": [1e21, 1e-7, 123_456.789, null], "10": 1, "2": 2, "é": "\u{7}\n", "a": {"z": null, "y": true}},
            },
        });
        assert_eq!(agent_hash(&odd), "521e74a6efa7b3f52faf116fb4607bab9c5349f9272e277e222488cba82866b5");
    }

    #[test]
    fn settings_that_clients_do_not_hash_change_the_hash() {
        let plain = json!({"name": "Helper", "config": {"model": "local/echo"}});
        let with = |fallback: &str| json!({"name": "Helper", "config": {"model": "local/echo", "fallbacks": [fallback]}});
        assert_ne!(agent_hash(&with("a")), agent_hash(&plain));
        assert_ne!(agent_hash(&with("a")), agent_hash(&with("b")));
    }

    #[test]
    fn numbers_are_written_as_in_javascript() {
        let written = [
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
            (-0.000_001, "-0.000001"),
            (1.5e-7, "1.5e-7"),
            (12.25, "12.25"),
            (-0.0, "0"),
        ];
        for (value, text) in written {
            assert_eq!(float(value), text);
        }
    }
}
