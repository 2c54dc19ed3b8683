//! The filter language of records: conditions over columns and metadata keys.
//!
//! `{field, op, value}`, or groups `{"and": [...]}` and `{"or": [...]}`, also written `{"op": "and", "conditions": [...]}`. Judged here, not in SQL, so that every
//! store gives the same answer. Fields are the columns `id name type createdAt updatedAt` and metadata
//! keys, as dot paths.

use serde_json::Value;

use crate::error::{Problems, Result};
use crate::model::Record;
use crate::number;

/// A parsed filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Compare {
        field: Vec<String>,
        op: Op,
        value: Value,
    },
    /// The metadata has this key.
    HasKey(String),
    /// How many keys the metadata has.
    KeyCount {
        least: usize,
        most: usize,
    },
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Contains,
    NotContains,
    StartsWith,
    EndsWith,
    In,
    NotIn,
    Exists,
    IsEmpty,
}

const OPS: &[(&str, Op)] = &[
    ("eq", Op::Eq),
    ("equals", Op::Eq),
    ("=", Op::Eq),
    ("==", Op::Eq),
    ("ne", Op::Ne),
    ("neq", Op::Ne),
    ("not_equals", Op::Ne),
    ("!=", Op::Ne),
    ("lt", Op::Lt),
    ("<", Op::Lt),
    ("lte", Op::Le),
    ("<=", Op::Le),
    ("gt", Op::Gt),
    (">", Op::Gt),
    ("gte", Op::Ge),
    (">=", Op::Ge),
    ("contains", Op::Contains),
    ("not_contains", Op::NotContains),
    ("starts_with", Op::StartsWith),
    ("startsWith", Op::StartsWith),
    ("ends_with", Op::EndsWith),
    ("endsWith", Op::EndsWith),
    ("in", Op::In),
    ("not_in", Op::NotIn),
    ("notIn", Op::NotIn),
    ("nin", Op::NotIn),
    ("exists", Op::Exists),
    ("is_empty", Op::IsEmpty),
];

/// Deeper groups are refused.
const MAX_DEPTH: usize = 8;
/// More conditions are refused.
const MAX_CONDITIONS: usize = 100;

impl Filter {
    /// A filter that every record passes.
    pub const fn everything() -> Self {
        Self::All(Vec::new())
    }

    /// Reads a `where` document. Pointers of problems are relative to it.
    pub fn parse(document: &Value) -> Result<Self> {
        let mut problems = Problems::default();
        let mut budget = MAX_CONDITIONS;
        let filter = parse(document, "", 0, &mut budget, &mut problems);
        problems.into_result()?;
        Ok(filter.unwrap_or(Self::everything()))
    }

    /// Whether a record passes.
    pub fn matches(&self, record: &Record) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(record)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(record)),
            Self::Not(part) => !part.matches(record),
            Self::Compare { field, op, value } => compare(&read(record, field), *op, value),
            Self::HasKey(key) => record.metadata.contains_key(key),
            Self::KeyCount { least, most } => (*least..=*most).contains(&record.metadata.len()),
        }
    }
}

fn parse(document: &Value, at: &str, depth: usize, budget: &mut usize, problems: &mut Problems) -> Option<Filter> {
    if depth > MAX_DEPTH {
        problems.add(at, format!("groups may be nested {MAX_DEPTH} deep"));
        return None;
    }
    let mut list = |items: &Value, at: &str, problems: &mut Problems| -> Option<Vec<Filter>> {
        let Some(items) = items.as_array() else {
            problems.add(at, "expected a list of conditions");
            return None;
        };
        Some(
            items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| parse(item, &format!("{at}/{index}"), depth + 1, budget, problems))
                .collect(),
        )
    };
    if document.is_array() {
        return list(document, at, problems).map(Filter::All);
    }
    let Some(map) = document.as_object() else {
        problems.add(at, "expected a condition {field, op, value} or a group {and: [...]} or {or: [...]}");
        return None;
    };
    for (name, group) in [("and", Filter::All as fn(Vec<Filter>) -> Filter), ("or", Filter::Any)] {
        if let Some(items) = map.get(name).or_else(|| map.get(&name.to_uppercase())) {
            return list(items, &format!("{at}/{name}"), problems).map(group);
        }
    }
    if let Some(items) = map.get("conditions") {
        let group: fn(Vec<Filter>) -> Filter = match map.get("op").map_or(Some("and"), Value::as_str) {
            Some("and" | "AND") => Filter::All,
            Some("or" | "OR") => Filter::Any,
            _ => {
                problems.add(format!("{at}/op"), "expected `and` or `or`");
                return None;
            }
        };
        return list(items, &format!("{at}/conditions"), problems).map(group);
    }
    if let Some(part) = map.get("not") {
        return parse(part, &format!("{at}/not"), depth + 1, budget, problems).map(|part| Filter::Not(Box::new(part)));
    }
    if *budget == 0 {
        problems.add(at, format!("a filter may have {MAX_CONDITIONS} conditions"));
        return None;
    }
    *budget -= 1;
    condition(map, at, problems)
}

fn condition(map: &serde_json::Map<String, Value>, at: &str, problems: &mut Problems) -> Option<Filter> {
    let Some(field) = map.get("field").and_then(Value::as_str).filter(|field| !field.is_empty()) else {
        problems.add(format!("{at}/field"), "expected the name of a column (id, name, type, createdAt, updatedAt) or a metadata key");
        return None;
    };
    let name = map.get("op").or_else(|| map.get("operator")).map_or(Some("eq"), Value::as_str).unwrap_or_default();
    let path: Vec<String> = field.strip_prefix("metadata.").unwrap_or(field).split('.').map(str::to_owned).collect();
    let value = map.get("value").cloned().unwrap_or(Value::Null);
    if let Some(filter) = shorthand(name, &path, &value) {
        return Some(filter);
    }
    let Some((_, op)) = OPS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = OPS.iter().map(|(known, _)| *known).collect();
        problems.add(format!("{at}/op"), format!("unknown operator `{name}`; one of {}", known.join(", ")));
        return None;
    };
    if matches!(op, Op::In | Op::NotIn) && !value.is_array() {
        problems.add(format!("{at}/value"), format!("`{name}` needs a list of values"));
        return None;
    }
    Some(Filter::Compare { field: path, op: *op, value })
}

/// Operators that say in one word what others say with a value.
fn shorthand(name: &str, path: &[String], value: &Value) -> Option<Filter> {
    let compare = |op: Op, value: Value| Filter::Compare { field: path.to_vec(), op, value };
    Some(match name {
        "isSet" => compare(Op::Exists, Value::Bool(true)),
        "isNotSet" => compare(Op::Exists, Value::Bool(false)),
        "isTrue" => compare(Op::Eq, Value::Bool(true)),
        "isFalse" => compare(Op::Eq, Value::Bool(false)),
        "between" => {
            let [least, most] = value.as_array()?.as_slice() else { return None };
            Filter::All(vec![compare(Op::Ge, least.clone()), compare(Op::Le, most.clone())])
        }
        _ => return None,
    })
}

fn read(record: &Record, field: &[String]) -> Option<Value> {
    let (first, rest) = field.split_first()?;
    if rest.is_empty() {
        match first.as_str() {
            "id" => return Some(Value::String(record.id.to_string())),
            "name" => return Some(Value::String(record.name.clone())),
            "type" => return Some(Value::String(record.kind.clone())),
            "createdAt" => return Some(Value::String(record.created_at.to_string())),
            "updatedAt" => return Some(Value::String(record.updated_at.to_string())),
            _ => {}
        }
    }
    let mut value = record.metadata.get(first)?;
    for key in rest {
        value = match value {
            Value::Object(map) => map.get(key)?,
            Value::Array(items) => items.get(key.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value.clone())
}

fn compare(found: &Option<Value>, op: Op, wanted: &Value) -> bool {
    let empty = match found {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    };
    let text = |value: &Value| value.as_str().map(str::to_lowercase);
    match (op, found) {
        (Op::Exists, found) => found.as_ref().is_some_and(|value| !value.is_null()) == wanted.as_bool().unwrap_or(true),
        (Op::IsEmpty, _) => empty == wanted.as_bool().unwrap_or(true),
        (Op::Ne, found) => !compare(found, Op::Eq, wanted),
        (Op::NotContains, found) => !compare(found, Op::Contains, wanted),
        (Op::NotIn, found) => !compare(found, Op::In, wanted),
        (Op::Eq, None) => wanted.is_null(),
        (_, None) => false,
        (Op::Eq, Some(found)) => number::alike(found, wanted),
        (Op::In, Some(found)) => wanted.as_array().is_some_and(|items| items.iter().any(|item| number::alike(found, item))),
        (Op::Contains, Some(Value::Array(items))) => items.iter().any(|item| number::alike(item, wanted)),
        (Op::Contains, Some(found)) => matches!((text(found), text(wanted)), (Some(found), Some(wanted)) if found.contains(&wanted)),
        (Op::StartsWith, Some(found)) => matches!((text(found), text(wanted)), (Some(found), Some(wanted)) if found.starts_with(&wanted)),
        (Op::EndsWith, Some(found)) => matches!((text(found), text(wanted)), (Some(found), Some(wanted)) if found.ends_with(&wanted)),
        (Op::Lt, Some(found)) => order(found, wanted).is_some_and(std::cmp::Ordering::is_lt),
        (Op::Le, Some(found)) => order(found, wanted).is_some_and(std::cmp::Ordering::is_le),
        (Op::Gt, Some(found)) => order(found, wanted).is_some_and(std::cmp::Ordering::is_gt),
        (Op::Ge, Some(found)) => order(found, wanted).is_some_and(std::cmp::Ordering::is_ge),
    }
}

/// Numbers by value, texts by code point; everything else has no order.
fn order(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => number::order(a, b),
        (Value::String(a), Value::String(b)) => Some(a.as_str().cmp(b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record() -> Record {
        let metadata = json!({"region": "North America", "total": 12, "tags": ["a", "b"], "deep": {"x": null}, "none": ""});
        Record {
            id: crate::id::RecordId::from_u128(1),
            kind: "report".into(),
            name: "Q4".into(),
            metadata: metadata.as_object().cloned().unwrap_or_default(),
            messages: vec![],
            created_at: crate::clock::Timestamp::from_millis(0),
            updated_at: crate::clock::Timestamp::from_millis(5_000),
        }
    }

    fn passes(filter: Value) -> bool {
        Filter::parse(&filter).is_ok_and(|filter| filter.matches(&record()))
    }

    #[test]
    fn every_operator_says_yes_and_no() {
        for (filter, expected) in [
            (json!({"field": "region", "op": "eq", "value": "North America"}), true),
            (json!({"field": "region", "value": "South"}), false),
            (json!({"field": "metadata.region", "op": "contains", "value": "north"}), true),
            (json!({"field": "region", "op": "not_contains", "value": "north"}), false),
            (json!({"field": "region", "op": "starts_with", "value": "North"}), true),
            (json!({"field": "region", "op": "ends_with", "value": "North"}), false),
            (json!({"field": "total", "op": "gte", "value": 12.0}), true),
            (json!({"field": "total", "op": ">", "value": 12}), false),
            (json!({"field": "total", "op": "lt", "value": "13"}), false),
            (json!({"field": "total", "op": "<=", "value": 12}), true),
            (json!({"field": "tags", "op": "contains", "value": "b"}), true),
            (json!({"field": "tags.0", "op": "eq", "value": "a"}), true),
            (json!({"field": "total", "op": "in", "value": [1, 12]}), true),
            (json!({"field": "total", "op": "not_in", "value": [1, 12]}), false),
            (json!({"field": "deep.x", "op": "exists", "value": false}), true),
            (json!({"field": "missing", "op": "exists"}), false),
            (json!({"field": "missing", "op": "ne", "value": 1}), true),
            (json!({"field": "none", "op": "is_empty"}), true),
            (json!({"field": "name", "op": "eq", "value": "Q4"}), true),
            (json!({"field": "updatedAt", "op": "gt", "value": "1970-01-01T00:00:01.000Z"}), true),
            (
                json!({"and": [{"field": "total", "value": 12}, {"or": [{"field": "name", "value": "x"}, {"field": "type", "value": "report"}]}]}),
                true,
            ),
            (json!({"not": {"field": "total", "value": 12}}), false),
            (json!({"op": "or", "conditions": [{"field": "total", "value": 1}, {"field": "region", "op": "isSet"}]}), true),
            (
                json!({"op": "and", "conditions": [{"field": "total", "op": "between", "value": [12, 20]}, {"field": "x", "op": "isNotSet"}]}),
                true,
            ),
            (json!({"field": "total", "op": "between", "value": [13, 20]}), false),
            (json!({"field": "total", "op": "isTrue"}), false),
            (json!([{"field": "total", "value": 12}, {"field": "name", "value": "x"}]), false),
        ] {
            assert_eq!(passes(filter.clone()), expected, "{filter}");
        }
    }

    #[test]
    fn faults_are_all_named() {
        let error = Filter::parse(&json!({"and": [{"op": "eq"}, {"field": "a", "op": "like"}, 3, {"field": "a", "op": "in", "value": 1}]}));
        let pointers: Vec<String> =
            error.err().map(|error| error.problems().iter().map(|problem| problem.pointer.clone()).collect()).unwrap_or_default();
        assert_eq!(pointers, ["/and/0/field", "/and/1/op", "/and/2", "/and/3/value"]);
    }

    #[test]
    fn deep_and_wide_filters_are_refused() {
        let deep = (0..20).fold(json!({"field": "a"}), |inner, _| json!({"and": [inner]}));
        assert!(Filter::parse(&deep).is_err());
        let wide: Vec<Value> = (0..101).map(|_| json!({"field": "a"})).collect();
        assert!(Filter::parse(&Value::Array(wide)).is_err());
    }
}
