//! The modules that are part of this binary: `flow` and `memory`.

use serde_json::{Map, Value, json};

use super::action::{ActionHandler, MemoryVerb, ModuleAction, ModuleLayer};
use super::registry::LoadedModule;

const VERSION: &str = "1.0.0";
/// The pattern of namespaces.
const NAMESPACE: &str = "^[a-z0-9][a-z0-9_-]*$";
/// The pattern of dotted keys: no segment is empty.
const DOTTED_KEY: &str = "^[^.]+(\\.[^.]+)*$";

/// Returns the builtin modules.
pub fn modules() -> Vec<LoadedModule> {
    vec![module("flow", flow_actions()), module("memory", memory_actions())]
}

/// An action's name, description, schemas of payload and exports, and handler.
type ActionRow = (&'static str, &'static str, Value, Option<Value>, ActionHandler);

fn module(name: &str, rows: Vec<ActionRow>) -> LoadedModule {
    let source_path = format!("builtin:{name}");
    let actions = rows.into_iter().map(|(action, description, input, exports, handler)| ModuleAction {
        key: format!("{name}.{action}"),
        module: name.to_owned(),
        name: action.to_owned(),
        version: VERSION.to_owned(),
        layer: ModuleLayer::Builtin,
        source_path: source_path.clone(),
        description: description.to_owned(),
        input_schema: Some(input),
        exports_schema: exports,
        credential_schema: None,
        handler,
    });
    LoadedModule {
        name: name.to_owned(),
        version: VERSION.to_owned(),
        layer: ModuleLayer::Builtin,
        actions: actions.collect(),
        source_path,
        folder: None,
        hash: None,
        metadata: Value::Object(Map::new()),
        jobs: Vec::new(),
    }
}

fn flow_actions() -> Vec<ActionRow> {
    let sleep = object(
        json!({ "duration": { "type": "string", "minLength": 1, "description": "Digits and ms, s, m or h: 250ms, 2s" } }),
        &["duration"],
        true,
    );
    vec![
        ("sleep", "Wait for a fixed duration", sleep, None, ActionHandler::Sleep),
        ("poll", "Call an action until its response meets conditions", poll_schema(), None, ActionHandler::Poll),
    ]
}

fn poll_schema() -> Value {
    let whole = |low: u64, high: u64| json!({ "type": "integer", "minimum": low, "maximum": high });
    let with_default = |mut schema: Value, default: Value| {
        if let Some(members) = schema.as_object_mut() {
            members.insert("default".into(), default);
        }
        schema
    };
    let properties = json!({
        "action": { "type": "string", "pattern": "^[a-z0-9-]+\\.[a-z0-9-]+$" },
        "payload": { "type": "object", "default": {} },
        "intervalMs": with_default(whole(250, 5_000), json!(1_000)),
        "maxDurationMs": with_default(whole(1_000, 180_000), json!(45_000)),
        "maxAttempts": whole(1, 120),
        "minSuccessAttempts": with_default(whole(1, 120), json!(1)),
        "conditions": { "$ref": "#/$defs/group" },
        "store": { "type": "object", "additionalProperties": { "type": "string", "minLength": 1 }, "default": {} },
        "continueOnActionError": { "type": "boolean", "default": true },
    });
    let mut schema = object(properties, &["action", "conditions"], true);
    if let Some(members) = schema.as_object_mut() {
        members.insert("$defs".into(), condition_schemas());
    }
    schema
}

fn condition_schemas() -> Value {
    let operators =
        ["exists", "not_exists", "eq", "neq", "gt", "gte", "lt", "lte", "in", "not_in", "contains", "regex"].map(Value::from).to_vec();
    let mut rule =
        object(json!({ "path": { "type": "string", "minLength": 1 }, "op": { "enum": operators }, "value": true }), &["path", "op"], true);
    if let Some(members) = rule.as_object_mut() {
        members.insert("if".into(), json!({ "properties": { "op": { "enum": ["exists", "not_exists"] } } }));
        members.insert("else".into(), json!({ "required": ["value"] }));
    }
    let rules = json!({ "type": "array", "minItems": 1, "items": {
        "if": { "type": "object", "required": ["rules"] }, "then": { "$ref": "#/$defs/group" }, "else": { "$ref": "#/$defs/rule" }
    } });
    let group = object(json!({ "mode": { "enum": ["ALL", "ANY"] }, "rules": rules }), &["mode", "rules"], true);
    json!({ "group": group, "rule": rule })
}

fn memory_actions() -> Vec<ActionRow> {
    let namespace = || json!({ "type": "string", "pattern": NAMESPACE });
    let key = || json!({ "type": "string", "pattern": DOTTED_KEY });
    let text = || json!({ "type": "string", "minLength": 1 });
    let store = object(json!({ "namespace": namespace(), "key": key(), "value": true }), &["namespace", "key", "value"], false);
    let store_many = object(
        json!({ "namespace": namespace(), "source": { "type": ["array", "object"] }, "keyJsonPath": text(),
            "valueJsonPath": { "type": "string", "minLength": 1, "default": "$.value" }, "keyPrefix": key() }),
        &["namespace", "source", "keyJsonPath"],
        false,
    );
    let recall = object(json!({ "namespace": namespace(), "key": key(), "defaultValue": true }), &["namespace", "key"], false);
    let recall_many = object(
        json!({ "namespace": namespace(), "keys": { "type": "array", "minItems": 1, "items": key() }, "defaultValue": true }),
        &["namespace", "keys"],
        false,
    );
    let mut list = object(json!({ "namespace": namespace(), "prefix": text() }), &[], false);
    let mut forget = object(json!({ "namespace": namespace(), "key": key(), "all": { "type": "boolean" } }), &["namespace"], false);
    if let (Some(list), Some(forget)) = (list.as_object_mut(), forget.as_object_mut()) {
        list.insert("dependentRequired".into(), json!({ "prefix": ["namespace"] }));
        forget
            .insert("anyOf".into(), json!([{ "required": ["key"] }, { "properties": { "all": { "const": true } }, "required": ["all"] }]));
    }
    let verb = ActionHandler::Memory;
    vec![
        ("store", "Store a value in memory", store, None, verb(MemoryVerb::Store)),
        ("store-many", "Store many values in memory, all or none", store_many, Some(store_many_exports()), verb(MemoryVerb::StoreMany)),
        ("recall", "Read a value from memory", recall, Some(recall_exports()), verb(MemoryVerb::Recall)),
        ("recall-many", "Read many values from memory", recall_many, Some(recall_many_exports()), verb(MemoryVerb::RecallMany)),
        ("list", "List namespaces, or the keys of one", list, None, verb(MemoryVerb::List)),
        ("forget", "Remove a key, or everything in a namespace", forget, None, verb(MemoryVerb::Forget)),
    ]
}

fn store_many_exports() -> Value {
    let properties = json!({ "stored": { "const": true }, "namespace": { "type": "string" }, "count": { "type": "integer" },
        "keys": { "type": "array", "items": { "type": "string" } } });
    object(properties, &["stored", "namespace", "count", "keys"], false)
}

fn recall_exports() -> Value {
    let properties =
        json!({ "found": { "type": "boolean" }, "namespace": { "type": "string" }, "key": { "type": "string" }, "value": true });
    object(properties, &["found", "namespace", "key"], false)
}

fn recall_many_exports() -> Value {
    let result = object(json!({ "key": { "type": "string" }, "found": { "type": "boolean" }, "value": true }), &["key", "found"], false);
    let properties = json!({ "namespace": { "type": "string" }, "results": { "type": "array", "items": result },
        "foundCount": { "type": "integer" }, "missingKeys": { "type": "array", "items": { "type": "string" } } });
    object(properties, &["namespace", "results", "foundCount", "missingKeys"], false)
}

/// The schema of an object.
fn object(properties: Value, required: &[&str], is_strict: bool) -> Value {
    let mut schema = json!({ "type": "object", "properties": properties, "required": required });
    if let (true, Some(members)) = (is_strict, schema.as_object_mut()) {
        members.insert("additionalProperties".into(), false.into());
    }
    schema
}
