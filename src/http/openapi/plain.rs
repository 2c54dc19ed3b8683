//! The document's schemas in the form that generators of clients read.
//!
//! schemars writes all that JSON Schema allows. Generators are narrower: some refuse `true` where a schema is expected, make a property with
//! a default one that must be given, or number what has no name. So the same schemas are said in fewer ways here: `{}` for anything, one
//! list for the words of an enumeration, a named component for each case of a tagged union, `JsonObject` for any object, defaults in words.

use std::collections::BTreeSet;

use schemars::Schema;
use schemars::transform::transform_subschemas;
use serde_json::{Map, Value, json};

const COMPONENTS: &str = "#/components/schemas/";
/// The component that stands for any object.
const ANY_OBJECT: &str = "JsonObject";

/// Rewrites every schema of the document, and leaves out components that nothing refers to.
pub fn simplify(document: &mut Value) {
    for_each_schema_outside_components(document, whole);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.values_mut().for_each(|schema| apply(schema, whole));
        name_cases(schemas);
        let any = json!({ "description": "Any JSON object.", "type": "object", "additionalProperties": {} });
        schemas.insert(ANY_OBJECT.into(), any);
    }
    let used = used_components(document);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.retain(|name, _| used.contains(name));
    }
}

/// The schemas of parameters and of bodies.
fn for_each_schema_outside_components(document: &mut Value, change: fn(&mut Schema)) {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    let operations = paths.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for operation in operations.filter_map(Value::as_object_mut) {
        for (name, part) in operation.iter_mut() {
            match (name.as_str(), part) {
                ("parameters", Value::Array(parameters)) => {
                    parameters.iter_mut().filter_map(|parameter| parameter.get_mut("schema")).for_each(|schema| apply(schema, change));
                }
                ("requestBody", body) => each_media_type(body, change),
                ("responses", Value::Object(responses)) => responses.values_mut().for_each(|response| each_media_type(response, change)),
                _ => {}
            }
        }
    }
}

fn each_media_type(holder: &mut Value, change: fn(&mut Schema)) {
    let content = holder.get_mut("content").and_then(Value::as_object_mut);
    let schemas = content.into_iter().flat_map(Map::values_mut).filter_map(|media| media.get_mut("schema"));
    schemas.for_each(|schema| apply(schema, change));
}

fn apply(schema: &mut Value, change: fn(&mut Schema)) {
    if let Ok(schema) = <&mut Schema>::try_from(schema) {
        change(schema);
    }
}

/// A schema that has a place of its own: a component, a parameter's, a body's.
fn whole(schema: &mut Schema) {
    transform_subschemas(&mut part, schema);
    if schema.as_bool() == Some(true) {
        *schema = Schema::default();
    }
    if let Some(map) = schema.as_object_mut() {
        say_default(map);
        join_words(map);
    }
}

/// A schema inside another.
fn part(schema: &mut Schema) {
    whole(schema);
    if let Some(map) = schema.as_object_mut() {
        name_any_object(map);
    }
}

/// Says a default in words. Absent is what `null` says, too; that needs none.
fn say_default(map: &mut Map<String, Value>) {
    let Some(default) = map.shift_remove("default") else { return };
    let is_plain = !default.is_null() && !default.as_object().is_some_and(Map::is_empty) && !default.as_array().is_some_and(Vec::is_empty);
    if is_plain && default != "" {
        append(map, " ", &format!("Default: `{default}`."));
    }
}

/// One list of words, where each word had a schema of its own to carry its description.
fn join_words(map: &mut Map<String, Value>) {
    let Some(cases) = map.get("oneOf").and_then(Value::as_array) else { return };
    let (mut words, mut texts) = (Vec::new(), Vec::new());
    for case in cases {
        if case.get("type").is_none_or(|kind| kind != "string") {
            return;
        }
        match (case.get("const"), case.get("enum").and_then(Value::as_array)) {
            (Some(word), _) => {
                words.push(word.clone());
                let text = case.get("description").and_then(Value::as_str);
                texts.extend(text.zip(word.as_str()).map(|(text, word)| format!("- `{word}`: {text}")));
            }
            (None, Some(list)) => words.extend(list.iter().cloned()),
            (None, None) => return,
        }
    }
    map.shift_remove("oneOf");
    map.insert("type".into(), "string".into());
    map.insert("enum".into(), Value::Array(words));
    if !texts.is_empty() {
        append(map, "\n\n", &texts.join("\n"));
    }
}

/// Any object, or any object or `null`, by its name.
fn name_any_object(map: &mut Map<String, Value>) {
    let is_any = map.get("additionalProperties").and_then(Value::as_object).is_some_and(Map::is_empty);
    if !is_any || map.keys().any(|key| !["type", "additionalProperties", "description"].contains(&key.as_str())) {
        return;
    }
    let reference = json!({ "$ref": format!("{COMPONENTS}{ANY_OBJECT}") });
    match map.get("type") {
        Some(kind) if *kind == "object" => {
            map.insert("$ref".into(), json!(format!("{COMPONENTS}{ANY_OBJECT}")));
        }
        Some(kind) if *kind == json!(["object", "null"]) => {
            map.insert("anyOf".into(), json!([reference, { "type": "null" }]));
        }
        _ => return,
    }
    map.shift_remove("type");
    map.shift_remove("additionalProperties");
}

/// Gives each case of a tagged union a component of its own, and the union the discriminator that tells them apart.
fn name_cases(schemas: &mut Map<String, Value>) {
    let names: Vec<String> = schemas.keys().cloned().collect();
    for name in names {
        let Some(union) = schemas.get(&name).and_then(Value::as_object) else { continue };
        let Some((tag, cases)) = cases_of(union) else { continue };
        let named: Vec<(String, String, Value)> =
            cases.into_iter().map(|(word, case)| (word.clone(), format!("{name}{}", pascal_case(&word)), case)).collect();
        if named.iter().any(|(_, component, _)| schemas.contains_key(component)) {
            continue;
        }
        let mut whole = Map::new();
        whole.extend(union.get("description").map(|text| ("description".to_owned(), text.clone())));
        let reference = |component: &str| format!("{COMPONENTS}{component}");
        whole.insert("oneOf".into(), named.iter().map(|(_, component, _)| json!({ "$ref": reference(component) })).collect());
        let mapping: Map<String, Value> = named.iter().map(|(word, component, _)| (word.clone(), reference(component).into())).collect();
        whole.insert("discriminator".into(), json!({ "propertyName": tag, "mapping": mapping }));
        schemas.insert(name, Value::Object(whole));
        for (_, component, mut case) in named {
            if let Some(map) = case.as_object_mut() {
                let rest = std::mem::take(map);
                map.insert("title".into(), component.clone().into());
                map.extend(rest);
            }
            schemas.insert(component, case);
        }
    }
}

/// The property that tells the cases of a union apart, and the cases by its value, with what the union says of all of them.
fn cases_of(union: &Map<String, Value>) -> Option<(String, Vec<(String, Value)>)> {
    let cases = union.get("oneOf")?.as_array()?;
    let word = |case: &Value, tag: &str| case.get("properties")?.get(tag)?.get("const")?.as_str().map(str::to_owned);
    let tags = cases.first()?.get("properties")?.as_object()?;
    let tag = tags.keys().find(|tag| cases.iter().all(|case| word(case, tag).is_some()))?;
    let complete = |case: &Value| {
        let mut whole = case.as_object()?.clone();
        for (key, own) in union.iter().filter(|(key, _)| !["oneOf", "description", "type"].contains(&key.as_str())) {
            match (whole.get_mut(key), own) {
                (Some(Value::Object(properties)), Value::Object(shared)) => properties.extend(shared.clone()),
                (Some(Value::Array(required)), Value::Array(shared)) => required.extend(shared.iter().cloned()),
                _ => {
                    whole.insert(key.clone(), own.clone());
                }
            }
        }
        Some((word(case, tag)?, Value::Object(whole)))
    };
    let complete: Option<Vec<(String, Value)>> = cases.iter().map(complete).collect();
    Some((tag.clone(), complete?))
}

/// `execution_start` as `ExecutionStart`.
fn pascal_case(word: &str) -> String {
    let capital = |piece: &str| {
        let mut letters = piece.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>())
    };
    word.split(|letter: char| !letter.is_alphanumeric()).filter_map(capital).collect()
}

fn append(map: &mut Map<String, Value>, between: &str, text: &str) {
    let before = map.get("description").and_then(Value::as_str).unwrap_or_default();
    let whole = if before.is_empty() { text.to_owned() } else { format!("{before}{between}{text}") };
    map.insert("description".into(), whole.into());
}

/// The components that operations reach.
fn used_components(document: &Value) -> BTreeSet<String> {
    let (mut used, mut left) = (BTreeSet::new(), Vec::new());
    for root in ["/paths", "/components/responses"] {
        document.pointer(root).into_iter().for_each(|root| references(root, &mut left));
    }
    while let Some(name) = left.pop() {
        if used.insert(name.to_owned()) {
            let component = document.pointer("/components/schemas").and_then(|schemas| schemas.get(name));
            component.into_iter().for_each(|component| references(component, &mut left));
        }
    }
    used
}

fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix(COMPONENTS)));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simplified(schemas: &Value) -> Value {
        let everything: Vec<Value> =
            schemas.as_object().into_iter().flat_map(Map::keys).map(|name| json!({ "$ref": format!("{COMPONENTS}{name}") })).collect();
        let body = json!({ "content": { "application/json": { "schema": { "anyOf": everything } } } });
        let mut document = json!({ "paths": { "/a": { "post": { "requestBody": body } } }, "components": { "schemas": schemas } });
        simplify(&mut document);
        document["components"]["schemas"].take()
    }

    #[test]
    fn anything_is_an_empty_schema_and_defaults_are_words() {
        let properties = json!({
            "any": true, "list": { "type": "array", "items": true, "default": [] }, "none": { "type": ["string", "null"], "default": null },
            "zone": { "description": "Where.", "type": "string", "default": "UTC" },
        });
        let found = simplified(&json!({ "A": { "type": "object", "properties": properties }, "B": true }));
        let expected = json!({
            "any": {}, "list": { "type": "array", "items": {} }, "none": { "type": ["string", "null"] },
            "zone": { "description": "Where. Default: `\"UTC\"`.", "type": "string" },
        });
        assert_eq!(found, json!({ "A": { "type": "object", "properties": expected }, "B": {} }));
    }

    #[test]
    fn words_stand_in_one_list() {
        let cases = json!([{ "type": "string", "enum": ["a", "b"] }, { "description": "The last.", "type": "string", "const": "c" }]);
        let found = simplified(&json!({ "A": { "description": "Which.", "oneOf": cases } }));
        assert_eq!(found, json!({ "A": { "description": "Which.\n\n- `c`: The last.", "type": "string", "enum": ["a", "b", "c"] } }));
    }

    #[test]
    fn any_object_has_a_name() {
        let properties = json!({
            "one": { "description": "This.", "type": "object", "additionalProperties": true },
            "two": { "type": ["object", "null"], "additionalProperties": true, "default": {} },
            "three": { "type": "object", "additionalProperties": true, "minProperties": 1 },
        });
        let found = simplified(&json!({ "A": { "type": "object", "properties": properties } }));
        let expected = json!({
            "one": { "description": "This.", "$ref": "#/components/schemas/JsonObject" },
            "two": { "anyOf": [{ "$ref": "#/components/schemas/JsonObject" }, { "type": "null" }] },
            "three": { "type": "object", "additionalProperties": {}, "minProperties": 1 },
        });
        assert_eq!(found["A"]["properties"], expected);
        assert!(found["JsonObject"].is_object());
    }

    #[test]
    fn cases_of_a_tagged_union_are_components() {
        let case =
            |word: &str| json!({ "type": "object", "properties": { "type": { "type": "string", "const": word } }, "required": ["type"] });
        let union = json!({
            "description": "What happened.", "type": "object", "properties": { "seq": { "type": "integer" } }, "required": ["seq"],
            "oneOf": [case("run_start"), case("run.end")],
        });
        let found = simplified(&json!({ "Event": union }));
        let expected = |word: &str, title: &str| {
            json!({
                "title": title, "type": "object", "properties": { "type": { "type": "string", "const": word }, "seq": { "type": "integer" } },
                "required": ["type", "seq"],
            })
        };
        let mapping = json!({ "run_start": "#/components/schemas/EventRunStart", "run.end": "#/components/schemas/EventRunEnd" });
        let event = json!({
            "description": "What happened.",
            "oneOf": [{ "$ref": "#/components/schemas/EventRunStart" }, { "$ref": "#/components/schemas/EventRunEnd" }],
            "discriminator": { "propertyName": "type", "mapping": mapping },
        });
        let all = json!({ "Event": event, "EventRunStart": expected("run_start", "EventRunStart"), "EventRunEnd": expected("run.end", "EventRunEnd") });
        assert_eq!(found, all);
    }

    #[test]
    fn what_nothing_refers_to_is_left_out() {
        let mut document = json!({ "paths": {}, "components": { "schemas": { "Query2": { "type": "object" } } } });
        simplify(&mut document);
        assert_eq!(document["components"]["schemas"], json!({}));
    }
}
