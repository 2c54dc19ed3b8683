//! `flow.poll`: its payload, and when its conditions hold.

use serde_json::{Map, Value};

use super::interpolation::as_text;
use super::json_path::check_path;
use super::names::is_action;

/// A payload of `flow.poll`, read.
#[derive(Debug, Clone)]
pub struct PollSpec {
    pub action: String,
    pub payload: Map<String, Value>,
    pub interval_ms: u64,
    pub max_duration_ms: u64,
    pub max_attempts: Option<u64>,
    pub min_success_attempts: u64,
    pub conditions: ConditionGroup,
    /// Names in the run scope, and the JSONPath of each in the response.
    pub store: Vec<(String, String)>,
    pub continue_on_action_error: bool,
}

/// Rules that must hold, all or any of them.
#[derive(Debug, Clone, Default)]
pub struct ConditionGroup {
    any: bool,
    rules: Vec<ConditionNode>,
}

#[derive(Debug, Clone)]
enum ConditionNode {
    Rule(ConditionRule),
    Group(ConditionGroup),
}

/// One comparison of what a path picks.
#[derive(Debug, Clone)]
pub struct ConditionRule {
    pub path: String,
    pub op: String,
    pub value: Value,
}

const OPS: &[&str] = &["exists", "not_exists", "eq", "neq", "gt", "gte", "lt", "lte", "in", "not_in", "contains", "regex"];
const FIELDS: &[&str] = &[
    "action",
    "payload",
    "intervalMs",
    "maxDurationMs",
    "maxAttempts",
    "minSuccessAttempts",
    "conditions",
    "store",
    "continueOnActionError",
];

/// A fault of a payload: its place in it, and a message.
pub type PayloadFault = (String, String);

impl PollSpec {
    /// Reads a payload. Error: every fault.
    pub fn parse(payload: &Map<String, Value>) -> Result<Self, Vec<PayloadFault>> {
        let mut faults = Vec::new();
        for name in payload.keys().filter(|name| !FIELDS.contains(&name.as_str())) {
            faults.push((name.clone(), "unknown member".to_owned()));
        }
        let action = payload.get("action").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !is_action(&action) {
            faults.push(("action".into(), "expected module.action".into()));
        } else if action == "flow.poll" {
            faults.push(("action".into(), "flow.poll cannot poll itself".into()));
        }
        let inner = object(payload, "payload", &mut faults);
        let interval_ms = number(payload, "intervalMs", 250, 5_000, &mut faults).unwrap_or(1_000);
        let max_duration_ms = number(payload, "maxDurationMs", 1_000, 180_000, &mut faults).unwrap_or(45_000);
        let max_attempts = number(payload, "maxAttempts", 1, 120, &mut faults);
        let min_success_attempts = number(payload, "minSuccessAttempts", 1, 120, &mut faults).unwrap_or(1);
        if max_attempts.is_some_and(|most| min_success_attempts > most) {
            faults.push(("minSuccessAttempts".into(), "expected at most maxAttempts".into()));
        }
        let conditions = group(payload.get("conditions"), "conditions", &mut faults);
        let mut store = Vec::new();
        for (name, path) in object(payload, "store", &mut faults) {
            match path.as_str().map(|path| (path, check_path(path))) {
                Some((path, Ok(()))) => store.push((name, path.to_owned())),
                Some((_, Err(why))) => faults.push((format!("store.{name}"), format!("invalid JSONPath: {why}"))),
                None => faults.push((format!("store.{name}"), "expected a JSONPath".into())),
            }
        }
        let go_on = payload.get("continueOnActionError");
        if go_on.is_some_and(|flag| !flag.is_boolean()) {
            faults.push(("continueOnActionError".into(), "expected true or false".into()));
        }
        let continue_on_action_error = go_on.and_then(Value::as_bool).unwrap_or(true);
        let spec = Self {
            action,
            payload: inner,
            interval_ms,
            max_duration_ms,
            max_attempts,
            min_success_attempts,
            conditions,
            store,
            continue_on_action_error,
        };
        if faults.is_empty() { Ok(spec) } else { Err(faults) }
    }
}

fn object(payload: &Map<String, Value>, name: &str, faults: &mut Vec<PayloadFault>) -> Map<String, Value> {
    match payload.get(name) {
        None => Map::new(),
        Some(Value::Object(map)) => map.clone(),
        Some(_) => {
            faults.push((name.to_owned(), "expected an object".into()));
            Map::new()
        }
    }
}

fn number(payload: &Map<String, Value>, name: &str, least: u64, most: u64, faults: &mut Vec<PayloadFault>) -> Option<u64> {
    let given = payload.get(name)?;
    let number = given.as_u64().filter(|number| (least..=most).contains(number));
    if number.is_none() {
        faults.push((name.to_owned(), format!("expected a whole number from {least} to {most}")));
    }
    number
}

fn group(value: Option<&Value>, at: &str, faults: &mut Vec<PayloadFault>) -> ConditionGroup {
    let Some(map) = value.and_then(Value::as_object) else {
        faults.push((at.to_owned(), "expected a group {mode, rules}".into()));
        return ConditionGroup::default();
    };
    for name in map.keys().filter(|name| !matches!(name.as_str(), "mode" | "rules")) {
        faults.push((format!("{at}.{name}"), "unknown member".into()));
    }
    let mode = map.get("mode").and_then(Value::as_str);
    if !matches!(mode, Some("ALL" | "ANY")) {
        faults.push((format!("{at}.mode"), "expected ALL or ANY".into()));
    }
    let rules = map.get("rules").and_then(Value::as_array).filter(|rules| !rules.is_empty());
    if rules.is_none() {
        faults.push((format!("{at}.rules"), "expected a list of at least one rule".into()));
    }
    let rules = rules.map(Vec::as_slice).unwrap_or_default().iter().enumerate();
    let rules = rules.filter_map(|(index, item)| node(item, &format!("{at}.rules[{index}]"), faults)).collect();
    ConditionGroup { any: mode == Some("ANY"), rules }
}

fn node(item: &Value, at: &str, faults: &mut Vec<PayloadFault>) -> Option<ConditionNode> {
    if item.get("rules").is_some() || item.get("mode").is_some() {
        return Some(ConditionNode::Group(group(Some(item), at, faults)));
    }
    let Some(map) = item.as_object() else {
        faults.push((at.to_owned(), "expected a rule {path, op, value} or a group".into()));
        return None;
    };
    for name in map.keys().filter(|name| !matches!(name.as_str(), "path" | "op" | "value")) {
        faults.push((format!("{at}.{name}"), "unknown member".into()));
    }
    let path = map.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Err(why) = check_path(&path) {
        faults.push((format!("{at}.path"), format!("invalid JSONPath: {why}")));
    }
    let op = map.get("op").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !OPS.contains(&op.as_str()) {
        faults.push((format!("{at}.op"), format!("expected one of {}", OPS.join(", "))));
    } else if !op.ends_with("exists") && !map.contains_key("value") {
        faults.push((format!("{at}.value"), format!("`{op}` needs a value")));
    }
    let value = map.get("value").cloned().unwrap_or_default();
    Some(ConditionNode::Rule(ConditionRule { path, op, value }))
}

impl ConditionGroup {
    /// Every rule, in the order of the document.
    pub fn rules(&self) -> Vec<&ConditionRule> {
        let mut found = Vec::new();
        for node in &self.rules {
            match node {
                ConditionNode::Rule(rule) => found.push(rule),
                ConditionNode::Group(group) => found.extend(group.rules()),
            }
        }
        found
    }

    /// Whether the group holds, given whether each of [`ConditionGroup::rules`] does.
    pub fn holds(&self, outcomes: &[bool]) -> bool {
        self.combine(&mut outcomes.iter().copied())
    }

    fn combine(&self, outcomes: &mut dyn Iterator<Item = bool>) -> bool {
        // Each outcome is taken, also when the result is known before: they belong to the rules by their order.
        let mut each = Vec::with_capacity(self.rules.len());
        for node in &self.rules {
            each.push(match node {
                ConditionNode::Rule(_) => outcomes.next().unwrap_or(false),
                ConditionNode::Group(group) => group.combine(outcomes),
            });
        }
        if self.any { each.contains(&true) } else { !each.contains(&false) }
    }
}

impl ConditionRule {
    /// Whether the rule holds for what its path picked; `None`: it is a regular expression of JavaScript, which the caller evaluates.
    pub fn test(&self, picked: Option<&Value>) -> Option<bool> {
        let exists = picked.is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()));
        let null = Value::Null;
        let value = picked.unwrap_or(&null);
        let order = || js_number(value).partial_cmp(&js_number(&self.value)).filter(|_| picked.is_some() && is_finite(value, &self.value));
        Some(match self.op.as_str() {
            "exists" => exists,
            "not_exists" => !exists,
            "eq" => picked.is_some_and(|value| is_equal(value, &self.value)),
            "neq" => picked.is_none_or(|value| !is_equal(value, &self.value)),
            "gt" => order().is_some_and(std::cmp::Ordering::is_gt),
            "gte" => order().is_some_and(std::cmp::Ordering::is_ge),
            "lt" => order().is_some_and(std::cmp::Ordering::is_lt),
            "lte" => order().is_some_and(std::cmp::Ordering::is_le),
            "in" => self.value.as_array().is_some_and(|items| items.iter().any(|item| is_equal(item, value))),
            "not_in" => self.value.as_array().is_some_and(|items| !items.iter().any(|item| is_equal(item, value))),
            "contains" => match value {
                Value::String(text) => text.contains(&as_text(&self.value)),
                Value::Array(items) => items.iter().any(|item| is_equal(item, &self.value)),
                _ => false,
            },
            "regex" if value.is_string() => return None,
            _ => false,
        })
    }

    /// One line for people.
    pub fn summary(&self, holds: bool) -> String {
        format!("{} {} => {holds}", self.path, self.op)
    }
}

/// Deep equality; `1` and `1.0` are one number.
pub fn is_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| is_equal(value, other)))
        }
        _ => one == other,
    }
}

fn is_finite(one: &Value, other: &Value) -> bool {
    js_number(one).is_finite() && js_number(other).is_finite()
}

/// A value as JavaScript's `Number()` reads it.
pub fn js_number(value: &Value) -> f64 {
    match value {
        Value::Null => 0.0,
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        Value::String(text) => number_of_text(text),
        Value::Array(items) => match items.as_slice() {
            [] => 0.0,
            [only] => js_number(only),
            _ => f64::NAN,
        },
        Value::Object(_) => f64::NAN,
    }
}

/// A text as JavaScript's `Number()` reads it: blanks around it are allowed, nothing is 0.
pub fn number_of_text(text: &str) -> f64 {
    let text = text.trim();
    if text.is_empty() {
        return 0.0;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = text.to_ascii_lowercase().strip_prefix(prefix) {
            return u64::from_str_radix(digits, radix).map_or(f64::NAN, as_double);
        }
    }
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    if plain { text.parse().unwrap_or(f64::NAN) } else { f64::NAN }
}

#[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are no more exact")]
const fn as_double(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(op: &str, value: Value, picked: Option<Value>) -> Option<bool> {
        ConditionRule { path: "$".into(), op: op.into(), value }.test(picked.as_ref())
    }

    #[test]
    fn each_operator_says_yes_and_no() {
        let yes = [
            ("exists", json!(null), json!("")),
            ("eq", json!({ "a": [1] }), json!({ "a": [1.0] })),
            ("neq", json!(1), json!("1")),
            ("gt", json!(4), json!("5")),
            ("gte", json!("0"), json!(null)),
            ("lt", json!(4), json!(3)),
            ("lte", json!(3), json!(3)),
            ("in", json!([1, 2]), json!(2)),
            ("not_in", json!([1, 2]), json!(3)),
            ("contains", json!("b"), json!("abc")),
            ("contains", json!({ "x": 1 }), json!([{ "x": 1 }])),
            ("not_exists", json!(null), json!([])),
        ];
        for (op, value, picked) in yes {
            assert_eq!(rule(op, value, Some(picked)), Some(true), "{op}");
        }
        let no = [
            ("exists", json!(null), json!(null)),
            ("eq", json!(1), json!("1")),
            ("gt", json!(4), json!("x")),
            ("in", json!("a"), json!("a")),
            ("not_in", json!("a"), json!("b")),
            ("contains", json!("d"), json!("abc")),
            ("regex", json!("a"), json!(1)),
        ];
        for (op, value, picked) in no {
            assert_eq!(rule(op, value, Some(picked)), Some(false), "{op}");
        }
        assert_eq!(rule("regex", json!("^a"), Some(json!("abc"))), None);
    }

    #[test]
    fn groups_nest() {
        let payload = json!({ "action": "a.b", "conditions": { "mode": "ALL", "rules": [
            { "path": "$.a", "op": "exists" }, { "mode": "ANY", "rules": [{ "path": "$.b", "op": "eq", "value": 1 }, { "path": "$.c", "op": "exists" }] },
        ] } });
        let spec = PollSpec::parse(payload.as_object().unwrap()).unwrap();
        assert_eq!(spec.conditions.rules().len(), 3);
        assert!(spec.conditions.holds(&[true, false, true]) && !spec.conditions.holds(&[true, false, false]));
        let wrong =
            json!({ "action": "flow.poll", "intervalMs": 1, "conditions": { "mode": "ALL", "rules": [{ "path": "$.x[?(", "op": "is" }] } });
        let faults = PollSpec::parse(wrong.as_object().unwrap()).unwrap_err();
        assert_eq!(faults.len(), 4, "{faults:?}");
    }
}
