//! Estimates the cost of validation from the schema alone.
//!
//! A validator visits each value of an instance once for each path that leads to it through the schema, following references: two references to a definition
//! are two paths, and definitions that refer to one another double the paths with each step. So the paths are counted, each definition once.
//! Recursive schemas, and keywords whose cost depends on the instance, count as unbounded.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// The cost of a schema that cannot be bounded.
const UNBOUNDED: u64 = u64::MAX;
/// Maximum depth of paths: the validator recurses as deep on its stack.
const MAX_DEPTH: usize = 256;
/// Longest pattern that is analysed, in bytes.
const MAX_PATTERN_BYTES: usize = 512;
/// Bytes of a text that cost as much as one more value.
const PER_VALUE: usize = 8;

/// Returns how many comparisons one value of an instance may cost at most.
pub fn of(schema: &Value) -> u64 {
    Walk { root: schema, known: HashMap::new() }.node(schema, 0).told
}

/// Returns how many values an instance has; long texts count for more.
pub fn size(value: &Value) -> u64 {
    let text = |text: &str| 1 + text.len() as u64 / PER_VALUE as u64;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(value) => text(value),
        Value::Array(items) => items.iter().fold(1, |sum, item| size(item).saturating_add(sum)),
        Value::Object(members) => members.iter().fold(1, |sum, (name, member)| size(member).saturating_add(text(name)).saturating_add(sum)),
    }
}

/// The cost of one part of a schema.
#[derive(Clone, Copy)]
struct SchemaCost {
    /// The cost of a yes or no.
    judged: u64,
    /// The cost of error messages: each part evaluates its own parts once more.
    told: u64,
}

impl SchemaCost {
    const UNBOUNDED: Self = Self { judged: UNBOUNDED, told: UNBOUNDED };
}

struct Walk<'s> {
    root: &'s Value,
    /// Costs by address; `None` while a part is being visited.
    known: HashMap<*const Value, Option<SchemaCost>>,
}

impl<'s> Walk<'s> {
    fn node(&mut self, schema: &'s Value, depth: usize) -> SchemaCost {
        let Value::Object(members) = schema else { return SchemaCost { judged: 1, told: 1 } };
        if depth > MAX_DEPTH {
            return SchemaCost::UNBOUNDED;
        }
        let place = std::ptr::from_ref(schema);
        match self.known.get(&place) {
            Some(Some(cost)) => return *cost,
            // The schema refers back to itself.
            Some(None) => return SchemaCost::UNBOUNDED,
            None => {}
        }
        self.known.insert(place, None);
        let cost = self.object(members, depth);
        self.known.insert(place, Some(cost));
        cost
    }

    fn object(&mut self, members: &'s Map<String, Value>, depth: usize) -> SchemaCost {
        let mut own = 1u64;
        let mut parts: Vec<&'s Value> = Vec::new();
        for (name, value) in members {
            let costs = match name.as_str() {
                "$ref" => match self.target(value) {
                    Some(target) => {
                        parts.push(target);
                        1
                    }
                    None => UNBOUNDED,
                },
                // Their cost is known only during validation.
                "$dynamicRef" | "$recursiveRef" | "unevaluatedItems" | "unevaluatedProperties" => UNBOUNDED,
                // References within it would be relative to another document.
                "$id" | "id" if value.is_string() && depth > 0 => UNBOUNDED,
                "$schema" if !is_standard(value) => UNBOUNDED,
                "allOf"
                | "anyOf"
                | "oneOf"
                | "prefixItems"
                | "items"
                | "additionalItems"
                | "additionalProperties"
                | "contains"
                | "not"
                | "if"
                | "then"
                | "else"
                | "propertyNames"
                | "contentSchema" => {
                    parts.extend(value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
                    1
                }
                "properties" | "dependentSchemas" | "dependencies" => {
                    parts.extend(value.as_object().into_iter().flat_map(Map::values));
                    size(value)
                }
                "patternProperties" => {
                    parts.extend(value.as_object().into_iter().flat_map(Map::values));
                    value.as_object().into_iter().flat_map(Map::keys).fold(1, |sum, name| pattern(name).saturating_add(sum))
                }
                "pattern" => value.as_str().map_or(1, pattern),
                // The pattern would come from the instance.
                "format" if value == "regex" => UNBOUNDED,
                "format" | "uniqueItems" => 64,
                "$defs" | "definitions" | "$comment" | "title" | "description" | "default" | "examples" => 0,
                _ => size(value),
            };
            own = own.saturating_add(costs);
        }
        let mut cost = SchemaCost { judged: own, told: 0 };
        for part in parts {
            let part = self.node(part, depth + 1);
            cost.judged = cost.judged.saturating_add(part.judged);
            cost.told = cost.told.saturating_add(part.told);
        }
        cost.told = cost.told.saturating_add(cost.judged);
        cost
    }

    /// Returns the target of a reference, if it is a plain pointer into this document.
    fn target(&self, reference: &Value) -> Option<&'s Value> {
        let place = reference.as_str()?.strip_prefix('#')?;
        if place.contains('%') { None } else { self.root.pointer(place) }
    }
}

/// Returns whether a schema names one of the published meta-schemas.
fn is_standard(kind: &Value) -> bool {
    let kind = kind.as_str().unwrap_or_default();
    ["http://json-schema.org/", "https://json-schema.org/"].iter().any(|known| kind.starts_with(known))
}

/// Returns the cost of a pattern for each character of a text: the size of its automaton.
fn pattern(pattern: &str) -> u64 {
    let is_long = pattern.len() > MAX_PATTERN_BYTES;
    // Patterns with look-around or back-references backtrack.
    let looks = pattern.match_indices("(?").any(|(at, _)| !pattern.get(at..).is_some_and(|rest| rest.starts_with("(?:")));
    let mut escaped = false;
    let goes_back = pattern.chars().any(|letter| {
        let back = escaped && (letter == 'k' || ('1'..='9').contains(&letter));
        escaped = letter == '\\' && !escaped;
        back
    });
    if is_long || looks || goes_back {
        return UNBOUNDED;
    }
    // A class such as `\w` has some hundreds of states, since it covers all of Unicode.
    let classes = pattern.matches(['\\', '[', '.']).count() as u64;
    let mut states = 16 + pattern.len() as u64 + classes.saturating_mul(256);
    for (at, _) in pattern.match_indices('{') {
        let inside = pattern.get(at + 1..).and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let times = inside.split(',').filter_map(|times| times.trim().parse::<u64>().ok()).max();
        // `{9}{9}` repeats the repetition.
        let of_group = pattern.get(..at).is_some_and(|before| before.ends_with([')', '}']));
        states = match times {
            Some(times) if of_group => states.saturating_mul(times.max(1)),
            Some(times) => states.saturating_add(times.saturating_mul(256)),
            // A named character class.
            None => states.saturating_add(1_024),
        };
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Definitions, each of which refers to the next one this many times.
    fn ladder(levels: usize, times: usize, keyword: &str) -> Value {
        let mut defs: Map<String, Value> = (0..levels)
            .map(|level| (format!("a{level}"), json!({ keyword: vec![json!({ "$ref": format!("#/$defs/a{}", level + 1) }); times] })))
            .collect();
        defs.insert(format!("a{levels}"), json!({ "type": "string" }));
        json!({ "properties": { "x": { "$ref": "#/$defs/a0" } }, "$defs": defs })
    }

    #[test]
    fn paths_through_references_are_multiplied() {
        for keyword in ["allOf", "anyOf", "oneOf", "prefixItems"] {
            assert!(of(&ladder(12, 1, keyword)) < 1_000, "{keyword}");
            assert!(of(&ladder(12, 2, keyword)) > 10_000, "{keyword}");
            assert_eq!(of(&ladder(60, 2, keyword)).max(1 << 60), of(&ladder(60, 2, keyword)), "{keyword}");
        }
        // The chain is long, but each definition is visited once.
        assert_eq!(of(&ladder(100, 100, "allOf")), UNBOUNDED);
    }

    #[test]
    fn unpredictable_keywords_are_unbounded() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "properties": { "child": { "$ref": "#" } } }),
            json!({ "$ref": "#nowhere" }),
            json!({ "$ref": "https://elsewhere.example/schema" }),
            json!({ "$dynamicRef": "#node" }),
            json!({ "unevaluatedProperties": false }),
            json!({ "properties": { "x": { "$id": "https://a.example/x", "$ref": "#/properties/x" } } }),
            json!({ "pattern": "(a+)+(?=b)" }),
            json!({ "pattern": "(a)\\1" }),
            json!({ "format": "regex" }),
            json!({ "$schema": "https://own.example/kind" }),
        ] {
            assert_eq!(of(&schema), UNBOUNDED, "{schema}");
        }
    }

    #[test]
    fn common_schemas_are_cheap() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": ["id", "lines"], "additionalProperties": false,
            "properties": {
                "id": { "type": "string", "pattern": "^[A-Z]{2}-\\d{4,8}$", "description": "The order." },
                "state": { "enum": ["open", "paid", "sent"] },
                "lines": { "type": "array", "uniqueItems": true, "items": { "$ref": "#/$defs/line" } },
                "to": { "anyOf": [{ "$ref": "#/$defs/address" }, { "type": "null" }] },
                "from": { "$ref": "#/$defs/address" },
            },
            "$defs": {
                "line": { "type": "object", "properties": { "sku": { "type": "string" }, "count": { "type": "integer", "minimum": 1 } } },
                "address": { "type": "object", "properties": { "city": { "type": "string" }, "zip": { "type": "string", "maxLength": 10 } } },
            },
        });
        assert!(of(&schema) < 8_000, "{}", of(&schema));
        assert_eq!(size(&json!({ "a": [1, "12345678"], "b": null })), 8);
    }
}
