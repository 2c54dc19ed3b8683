//! The actions of the `memory` module. Payloads were validated against the actions' schemas.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::folder::{MemoryFolder, find_in, remove_in, store_in};
use crate::module::action::MemoryVerb;
use crate::module::call::{ActionFault, ActionOutcome};
use crate::module::path;

/// The payloads of all actions in one.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MemoryPayload {
    namespace: Option<String>,
    key: Option<String>,
    keys: Vec<String>,
    value: Value,
    default_value: Option<Value>,
    source: Value,
    key_json_path: String,
    value_json_path: Option<String>,
    key_prefix: Option<String>,
    prefix: Option<String>,
    all: bool,
}

impl MemoryPayload {
    fn namespace(&self) -> Result<&str, ActionFault> {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let is_plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '_' | '-');
        let is_first = namespace.starts_with(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit());
        if is_first && namespace.chars().all(is_plain) {
            return Ok(namespace);
        }
        Err(ActionFault::new(format!("namespace: `{namespace}` is invalid; use lower-case letters, digits, `_` and `-`")))
    }

    fn key(&self) -> Result<&str, ActionFault> {
        valid_key(self.key.as_deref().unwrap_or_default()).map_err(|message| ActionFault::new(format!("key: {message}")))
    }

    /// Returns the default as the result's `value`, if the payload has one.
    fn default_member(&self) -> Option<(String, Value)> {
        self.default_value.clone().map(|value| ("value".to_owned(), value))
    }
}

pub(super) fn perform(verb: MemoryVerb, folder: &MemoryFolder, payload: &Value) -> Result<ActionOutcome, ActionFault> {
    let payload = MemoryPayload::deserialize(payload).map_err(|error| ActionFault::new(format!("the payload is invalid: {error}")))?;
    match verb {
        MemoryVerb::Store => store(folder, &payload),
        MemoryVerb::StoreMany => store_many(folder, &payload),
        MemoryVerb::Recall => recall(folder, &payload),
        MemoryVerb::RecallMany => recall_many(folder, &payload),
        MemoryVerb::List => list(folder, &payload),
        MemoryVerb::Forget => forget(folder, &payload),
    }
}

fn store(folder: &MemoryFolder, payload: &MemoryPayload) -> Result<ActionOutcome, ActionFault> {
    let (namespace, key) = (payload.namespace()?, payload.key()?);
    folder.update(namespace, |contents| {
        store_in(contents, key, payload.value.clone());
        Ok(())
    })?;
    let response = json!({ "stored": true, "namespace": namespace, "key": key, "value": payload.value });
    Ok(ActionOutcome::new(response, format!("stored {namespace}.{key}")))
}

fn store_many(folder: &MemoryFolder, payload: &MemoryPayload) -> Result<ActionOutcome, ActionFault> {
    let namespace = payload.namespace()?;
    let entries = derive_entries(payload)?;
    let keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
    let response = json!({ "stored": true, "namespace": namespace, "count": keys.len(), "keys": keys });
    folder.update(namespace, |contents| {
        for (key, value) in &entries {
            if let Some(value) = value {
                store_in(contents, key, value.clone());
            }
        }
        Ok(())
    })?;
    Ok(ActionOutcome::exported(response, format!("stored {} key(s) in {namespace}", entries.len())))
}

/// Derives every key and value before anything is written.
fn derive_entries(payload: &MemoryPayload) -> Result<Vec<(String, Option<Value>)>, ActionFault> {
    let items: Vec<Value> = match &payload.source {
        Value::Array(items) => items.clone(),
        Value::Object(members) => members.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect(),
        _ => return Err(ActionFault::new("source: must be a list or an object")),
    };
    let value_path = payload.value_json_path.as_deref().unwrap_or("$.value");
    let mut seen = HashSet::new();
    let mut entries = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let derived = path::pick(&payload.key_json_path, item).map_err(ActionFault::new)?;
        let key = derived.as_ref().and_then(Value::as_str).map(str::trim).unwrap_or_default();
        let key = match &payload.key_prefix {
            Some(prefix) if !key.is_empty() => format!("{prefix}.{key}"),
            _ => key.to_owned(),
        };
        valid_key(&key).map_err(|message| ActionFault::new(format!("source[{index}] produced invalid key: {message}")))?;
        if !seen.insert(key.clone()) {
            return Err(ActionFault::new(format!("source[{index}] produced duplicate key `{key}`")));
        }
        entries.push((key, path::pick(value_path, item).map_err(ActionFault::new)?));
    }
    Ok(entries)
}

fn recall(folder: &MemoryFolder, payload: &MemoryPayload) -> Result<ActionOutcome, ActionFault> {
    let (namespace, key) = (payload.namespace()?, payload.key()?);
    let value = folder.find(namespace, key)?;
    let found = value.is_some();
    let mut response =
        Map::from_iter([("found".to_owned(), found.into()), ("namespace".to_owned(), namespace.into()), ("key".to_owned(), key.into())]);
    response.extend(value.map(|value| ("value".to_owned(), value)).or_else(|| payload.default_member()));
    let word = if found { "recalled" } else { "missing" };
    Ok(ActionOutcome::exported(response.into(), format!("{word} {namespace}.{key}")))
}

fn recall_many(folder: &MemoryFolder, payload: &MemoryPayload) -> Result<ActionOutcome, ActionFault> {
    let namespace = payload.namespace()?;
    let contents = folder.read(namespace)?.unwrap_or_default();
    let mut missing = Vec::new();
    let mut results = Vec::with_capacity(payload.keys.len());
    for key in &payload.keys {
        valid_key(key).map_err(|message| ActionFault::new(format!("keys: {message}")))?;
        let value = find_in(&contents, key).cloned();
        let mut result: Map<String, Value> =
            Map::from_iter([("key".to_owned(), key.as_str().into()), ("found".to_owned(), value.is_some().into())]);
        if value.is_none() {
            missing.push(key.as_str());
        }
        result.extend(value.map(|value| ("value".to_owned(), value)).or_else(|| payload.default_member()));
        results.push(Value::Object(result));
    }
    let (all, found) = (results.len(), results.len() - missing.len());
    let response = json!({ "namespace": namespace, "results": results, "foundCount": found, "missingKeys": missing });
    Ok(ActionOutcome::exported(response, format!("recalled {found}/{all} key(s) from {namespace}")))
}

fn list(folder: &MemoryFolder, payload: &MemoryPayload) -> Result<ActionOutcome, ActionFault> {
    if payload.namespace.is_none() {
        if payload.prefix.is_some() {
            return Err(ActionFault::new("prefix: needs a namespace"));
        }
        let names: Vec<String> = folder.namespaces()?.into_iter().map(|file| file.namespace).collect();
        let detail = format!("listed {} namespace(s)", names.len());
        return Ok(ActionOutcome::new(json!({ "count": names.len(), "namespaces": names }), detail));
    }
    let namespace = payload.namespace()?;
    let Some(prefix) = &payload.prefix else {
        let contents = folder.read(namespace)?.unwrap_or_default();
        let keys: Vec<&String> = contents.keys().collect();
        let detail = format!("inspected namespace={namespace} keys={}", keys.len());
        let response = json!({ "namespace": namespace, "keys": keys, "count": keys.len(), "contents": contents });
        return Ok(ActionOutcome::new(response, detail));
    };
    let listing = folder.list(namespace, prefix)?;
    let count = listing.keys.len();
    let detail = format!("inspected namespace={namespace} prefix={} keys={count}", listing.prefix);
    let response = json!({
        "namespace": namespace, "prefix": listing.prefix, "keys": listing.keys, "count": count, "contents": listing.contents,
    });
    Ok(ActionOutcome::new(response, detail))
}

fn forget(folder: &MemoryFolder, payload: &MemoryPayload) -> Result<ActionOutcome, ActionFault> {
    let namespace = payload.namespace()?;
    if payload.all {
        let removed = folder.update(namespace, |contents| {
            let removed = contents.len();
            contents.clear();
            Ok(removed)
        })?;
        let response = json!({ "cleared": true, "namespace": namespace, "removed": removed });
        return Ok(ActionOutcome::new(response, format!("cleared namespace={namespace}")));
    }
    let key = payload.key()?;
    let forgotten = match folder.find(namespace, key)? {
        Some(_) => folder.update(namespace, |contents| Ok(remove_in(contents, key)))?,
        None => false,
    };
    let response = json!({ "cleared": false, "namespace": namespace, "key": key, "forgotten": forgotten });
    Ok(ActionOutcome::new(response, format!("forgot {namespace}.{key}")))
}

/// Refuses keys with an empty segment.
fn valid_key(key: &str) -> Result<&str, String> {
    if key.split('.').any(|segment| segment.trim().is_empty()) {
        return Err(format!("`{key}` has an empty segment; write keys like `users.alice.id`"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> (tempfile::TempDir, MemoryFolder) {
        let home = tempfile::tempdir().unwrap();
        let folder = MemoryFolder::new(home.path());
        (home, folder)
    }

    #[test]
    fn what_is_stored_is_recalled_and_forgotten_with_its_empty_parents() {
        let (_home, folder) = memory();
        let call = |verb, payload: Value| perform(verb, &folder, &payload).unwrap();
        call(MemoryVerb::Store, json!({ "namespace": "users", "key": "a.id", "value": null }));
        call(MemoryVerb::Store, json!({ "namespace": "users", "key": "b.id", "value": [1] }));
        let found = call(MemoryVerb::Recall, json!({ "namespace": "users", "key": "a.id" }));
        assert_eq!(found.exports, json!({ "found": true, "namespace": "users", "key": "a.id", "value": null }));
        assert_eq!(call(MemoryVerb::Forget, json!({ "namespace": "users", "key": "a.id" })).response["forgotten"], true);
        let listed = call(MemoryVerb::List, json!({ "namespace": "users" }));
        assert_eq!(listed.response["contents"], json!({ "b": { "id": [1] } }));
        let missing = call(MemoryVerb::Recall, json!({ "namespace": "users", "key": "a.id", "defaultValue": 3 }));
        assert_eq!((&missing.response["value"], missing.detail.as_deref()), (&json!(3), Some("missing users.a.id")));
        let cleared = call(MemoryVerb::Forget, json!({ "namespace": "users", "all": true }));
        assert_eq!(cleared.response["removed"], 1);
        assert_eq!(std::fs::read_to_string(folder.file("users")).unwrap(), "{}\n");
    }

    #[test]
    fn many_are_stored_or_none() {
        let (_home, folder) = memory();
        let bad = json!({ "namespace": "n", "source": [{ "id": "a", "value": 1 }, { "id": 2 }], "keyJsonPath": "$.id" });
        let fault = perform(MemoryVerb::StoreMany, &folder, &bad).unwrap_err();
        assert!(fault.message.starts_with("source[1] produced invalid key"), "{fault}");
        assert_eq!(folder.read("n").unwrap(), None);
        let good = json!({ "namespace": "n", "source": { "a": 1, "b": 2 }, "keyJsonPath": "$.key", "keyPrefix": "p.q" });
        let outcome = perform(MemoryVerb::StoreMany, &folder, &good).unwrap();
        assert_eq!(outcome.exports, json!({ "stored": true, "namespace": "n", "count": 2, "keys": ["p.q.a", "p.q.b"] }));
        assert_eq!(folder.find("n", "p.q").unwrap(), Some(json!({ "a": 1, "b": 2 })));
    }

    #[test]
    fn a_damaged_file_is_not_overwritten() {
        let (_home, folder) = memory();
        std::fs::create_dir_all(folder.path()).unwrap();
        std::fs::write(folder.file("n"), "{broken").unwrap();
        let store = json!({ "namespace": "n", "key": "a", "value": 1 });
        assert!(perform(MemoryVerb::Store, &folder, &store).unwrap_err().message.contains("does not hold a JSON object"));
        assert_eq!(std::fs::read_to_string(folder.file("n")).unwrap(), "{broken");
    }
}
