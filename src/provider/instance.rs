//! A small value that a JSON Schema allows, for schemas as people write them for models.

use serde_json::{Map, Value, json};

const DEEPEST: usize = 16;

/// A value of the schema: its example, default, constant or first choice, else the least value of its type.
/// Optional properties are left out. Keywords beyond the usual (patterns, conditions) are not considered.
pub fn instance(schema: &Value) -> Value {
    build(schema, schema, 0)
}

fn build(schema: &Value, root: &Value, depth: usize) -> Value {
    let Value::Object(keywords) = schema else { return Value::Null };
    if depth > DEEPEST {
        return Value::Null;
    }
    if let Some(value) = keywords.get("const").or_else(|| keywords.get("default")) {
        return value.clone();
    }
    let first_of = |name: &str| keywords.get(name).and_then(Value::as_array).and_then(|items| items.first());
    if let Some(value) = first_of("enum").or_else(|| first_of("examples")) {
        return value.clone();
    }
    let target = keywords.get("$ref").and_then(Value::as_str).and_then(|path| root.pointer(path.strip_prefix('#')?));
    if let Some(next) = target.or_else(|| first_of("anyOf")).or_else(|| first_of("oneOf")) {
        return build(next, root, depth + 1);
    }
    if let Some(parts) = keywords.get("allOf").and_then(Value::as_array) {
        return build(&merged(keywords, parts), root, depth + 1);
    }
    match kind(keywords) {
        "object" => object(keywords, root, depth),
        "array" => array(keywords, root, depth),
        "string" => string(keywords),
        "integer" | "number" => number(keywords),
        "boolean" => json!(false),
        _ => Value::Null,
    }
}

fn kind(keywords: &Map<String, Value>) -> &str {
    match keywords.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null"),
        _ if keywords.contains_key("properties") => "object",
        _ if keywords.contains_key("items") => "array",
        _ => "null",
    }
}

/// `allOf` as one schema: properties and requirements together.
fn merged(keywords: &Map<String, Value>, parts: &[Value]) -> Value {
    let mut whole = keywords.clone();
    whole.remove("allOf");
    for part in parts.iter().filter_map(Value::as_object) {
        for (name, value) in part {
            match (whole.get_mut(name), value) {
                (Some(Value::Object(have)), Value::Object(more)) => have.extend(more.clone()),
                (Some(Value::Array(have)), Value::Array(more)) => have.extend(more.clone()),
                _ => {
                    whole.insert(name.clone(), value.clone());
                }
            }
        }
    }
    Value::Object(whole)
}

fn object(keywords: &Map<String, Value>, root: &Value, depth: usize) -> Value {
    let properties = keywords.get("properties").and_then(Value::as_object);
    let required = keywords.get("required").and_then(Value::as_array);
    let names = required.into_iter().flatten().filter_map(Value::as_str);
    let pairs = names.map(|name| {
        let schema = properties.and_then(|properties| properties.get(name));
        (name.to_owned(), schema.map_or(Value::Null, |schema| build(schema, root, depth + 1)))
    });
    Value::Object(pairs.collect())
}

fn array(keywords: &Map<String, Value>, root: &Value, depth: usize) -> Value {
    const MOST_ITEMS: u64 = 100;
    let count = keywords.get("minItems").and_then(Value::as_u64).unwrap_or(0).min(MOST_ITEMS);
    let item = keywords.get("items").map_or(Value::Null, |items| build(items, root, depth + 1));
    Value::Array((0..count).map(|_| item.clone()).collect())
}

fn string(keywords: &Map<String, Value>) -> Value {
    const MOST_CHARACTERS: u64 = 10_000;
    let text = match keywords.get("format").and_then(Value::as_str) {
        Some("date-time") => "1970-01-01T00:00:00Z",
        Some("date") => "1970-01-01",
        Some("time") => "00:00:00Z",
        Some("email") => "echo@example.com",
        Some("uri" | "url") => "https://example.com/",
        Some("uuid") => "00000000-0000-0000-0000-000000000000",
        _ => "",
    };
    let least = keywords.get("minLength").and_then(Value::as_u64).unwrap_or(0).min(MOST_CHARACTERS);
    let least = usize::try_from(least).unwrap_or(0);
    let missing = least.saturating_sub(text.len());
    json!(format!("{text}{}", "x".repeat(missing)))
}

fn number(keywords: &Map<String, Value>) -> Value {
    let whole = |name: &str| keywords.get(name).and_then(Value::as_i64);
    let least = whole("minimum").or_else(|| whole("exclusiveMinimum").map(|bound| bound.saturating_add(1)));
    let most = whole("maximum").or_else(|| whole("exclusiveMaximum").map(|bound| bound.saturating_sub(1)));
    match (least, most) {
        (Some(least), _) if least > 0 => json!(least),
        (_, Some(most)) if most < 0 => json!(most),
        _ => keywords.get("minimum").filter(|least| least.as_f64().is_some_and(|least| least > 0.0)).cloned().unwrap_or(json!(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_valid() {
        let schemas = [
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number", "minimum": 0.5}, "minItems": 2}}, "required": ["a"]}),
            json!({"$defs": {"p": {"type": "string", "minLength": 3}}, "type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "required": ["p"]}),
            json!({"anyOf": [{"type": "integer", "exclusiveMinimum": 4}, {"type": "null"}]}),
            json!({"allOf": [{"properties": {"x": {"type": "boolean"}}, "required": ["x"]}, {"properties": {"y": {"const": 7}}, "required": ["y"]}], "type": "object"}),
            json!({"type": ["null", "string"], "format": "email"}),
            json!({"type": "integer", "maximum": -2}),
        ];
        for schema in schemas {
            let value = instance(&schema);
            assert!(jsonschema::is_valid(&schema, &value), "{value} is not of {schema}");
        }
    }

    #[test]
    fn a_schema_without_an_end_gets_a_finite_value() {
        let schema = json!({"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}, "required": ["next"]}}, "$ref": "#/$defs/n"});
        assert!(instance(&schema).is_object());
    }
}
