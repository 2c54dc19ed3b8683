//! The root of a tool's schema. Vendors want an object with properties there: no `$ref`, no `anyOf`, no missing `properties`. The tool's own
//! check keeps judging by the schema as it was written.

use serde_json::{Map, Value, json};

/// Deepest chain of references that is followed.
const MAX_DEPTH: usize = 8;

/// Makes the root an object with properties.
pub(super) fn flatten_root(schema: &mut Value) {
    let definitions = ["$defs", "definitions"].map(|name| (name, schema.get(name).cloned()));
    let flat = flatten(schema, schema, MAX_DEPTH);
    let Value::Object(mut root) = flat else {
        *schema = json!({ "type": "object", "properties": {} });
        return;
    };
    root.insert("type".to_owned(), "object".into());
    if !root.get("properties").is_some_and(Value::is_object) {
        root.insert("properties".to_owned(), json!({}));
    }
    for (name, definition) in definitions {
        if let Some(definition) = definition {
            root.entry(name).or_insert(definition);
        }
    }
    *schema = Value::Object(root);
}

fn flatten(schema: &Value, root: &Value, depth: usize) -> Value {
    let Some(members) = schema.as_object() else { return json!({}) };
    let Some(depth) = depth.checked_sub(1) else { return Value::Object(members.clone()) };
    let mut flat = members.clone();
    if let Some(target) = members.get("$ref").and_then(Value::as_str).and_then(|place| root.pointer(place.strip_prefix('#')?)) {
        flat.remove("$ref");
        merge(&mut flat, flatten(target, root, depth), true);
    }
    if let Some(Value::Array(all)) = flat.remove("allOf") {
        all.iter().for_each(|part| merge(&mut flat, flatten(part, root, depth), true));
    }
    for name in ["anyOf", "oneOf"] {
        let Some(Value::Array(ways)) = flat.remove(name) else { continue };
        // A way that takes no object is none for a call.
        let ways: Vec<Value> = ways
            .iter()
            .map(|way| flatten(way, root, depth))
            .filter(|way| way.get("type").is_none_or(|kind| kind == "object") && way.get("properties").is_some_and(Value::is_object))
            .collect();
        let shared = shared_required(&ways);
        for mut way in ways {
            if let Some(way) = way.as_object_mut() {
                way.remove("required");
                way.remove("additionalProperties");
            }
            merge(&mut flat, way, false);
        }
        require(&mut flat, shared);
    }
    flat.remove("not");
    flat.remove("enum");
    Value::Object(flat)
}

/// Properties that every way requires.
fn shared_required(ways: &[Value]) -> Vec<Value> {
    let required = |way: &Value| way.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some((first, others)) = ways.split_first() else { return Vec::new() };
    required(first).into_iter().filter(|name| others.iter().all(|way| required(way).contains(name))).collect()
}

fn require(flat: &mut Map<String, Value>, names: Vec<Value>) {
    if names.is_empty() {
        return;
    }
    let known = flat.entry("required").or_insert_with(|| json!([]));
    if let Some(known) = known.as_array_mut() {
        for name in names {
            if !known.contains(&name) {
                known.push(name);
            }
        }
    }
}

/// Adds the members of `other`. A property of both is what either takes, or with `narrow` what the first says.
fn merge(flat: &mut Map<String, Value>, other: Value, narrow: bool) {
    let Value::Object(other) = other else { return };
    for (name, value) in other {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                let known = flat.entry("properties").or_insert_with(|| json!({}));
                let Some(known) = known.as_object_mut() else { continue };
                for (property, schema) in properties {
                    match known.get_mut(&property) {
                        None => {
                            known.insert(property, schema);
                        }
                        Some(have) if !narrow && *have != schema => widen(have, schema),
                        Some(_) => {}
                    }
                }
            }
            ("required", Value::Array(names)) => require(flat, names),
            ("$defs" | "definitions", _) => {}
            (_, value) => {
                flat.entry(name).or_insert(value);
            }
        }
    }
}

fn widen(have: &mut Value, other: Value) {
    if let Some(ways) = have.get_mut("anyOf").and_then(Value::as_array_mut) {
        if !ways.contains(&other) {
            ways.push(other);
        }
        return;
    }
    *have = json!({ "anyOf": [have.take(), other] });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(mut schema: Value) -> Value {
        flatten_root(&mut schema);
        schema
    }

    #[test]
    fn the_root_becomes_an_object_with_properties() {
        let city = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
        assert_eq!(flat(city.clone()), city);
        assert_eq!(flat(json!({ "type": "object" })), json!({ "type": "object", "properties": {} }));
        assert_eq!(flat(json!(true)), json!({ "type": "object", "properties": {} }));
        let referred = flat(json!({ "$ref": "#/$defs/City", "$defs": { "City": city } }));
        assert_eq!(referred["properties"]["city"]["type"], "string");
        assert_eq!(referred["required"], json!(["city"]));
        let either = flat(json!({ "anyOf": [
            { "type": "object", "properties": { "id": { "type": "string" }, "n": { "type": "integer" } }, "required": ["id", "n"] },
            { "type": "object", "properties": { "id": { "type": "integer" } }, "required": ["id"] },
        ] }));
        assert_eq!(either["properties"]["id"], json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] }));
        assert_eq!((either["required"].clone(), either.get("anyOf")), (json!(["id"]), None));
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = flat(json!({ "$ref": "#/$defs/A", "$defs": { "A": { "$ref": "#/$defs/A" } } }));
        assert_eq!(schema["type"], "object");
    }
}
