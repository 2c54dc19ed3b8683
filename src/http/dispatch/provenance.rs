//! Who changed a saved flow or agent last, and under which hash a repository knows it.
//!
//! Clients that keep their flows and agents in a repository first ask with a hash whether the saved one is still theirs, and send the whole
//! document only when it is not. The hash is the client's: what it covers is the client's to choose. Both facts are kept as members of the document,
//! which no reader of it sees.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::Problems;
use crate::model::wait::{canonical, hex};

/// The member that holds the hash.
const HASH: &str = "contentHash";
/// The member that names who changed the document last.
const SOURCE: &str = "lastModifiedSource";
/// Changed by a call that does not go by hashes.
const API: &str = "api";
/// Changed by an upsert or by `ensure`.
const SDK: &str = "sdk";
/// Characters of a hash.
const MAX_HASH: usize = 128;

/// The document without what is noted in it.
pub(super) fn content(document: &Value) -> Value {
    let mut content = document.clone();
    if let Some(map) = content.as_object_mut() {
        map.retain(|name, _| name != HASH && name != SOURCE);
    }
    content
}

/// A document that was saved without a hash.
pub(super) fn edited(document: &Value) -> Value {
    noted(document, [(SOURCE, API)])
}

/// A document that an upsert or `ensure` saved under a hash.
pub(super) fn converged(document: &Value, hash: &str) -> Value {
    noted(document, [(HASH, hash), (SOURCE, SDK)])
}

fn noted<const N: usize>(document: &Value, notes: [(&str, &str); N]) -> Value {
    let mut document = content(document);
    if let Some(map) = document.as_object_mut() {
        map.extend(notes.into_iter().map(|(name, note)| (name.to_owned(), note.into())));
    }
    document
}

/// The hash that the document was saved under; none once it was changed in another way.
pub(super) fn hash(document: &Value) -> Option<&str> {
    document.get(HASH).and_then(Value::as_str)
}

/// `sdk` or `api`; none for what was saved before this was noted.
pub(super) fn source(document: &Value) -> Option<&str> {
    document.get(SOURCE).and_then(Value::as_str)
}

/// Whether an upsert would undo what somebody else changed.
pub(super) fn is_edited(document: &Value) -> bool {
    source(document) == Some(API)
}

/// The hash that a request gives, if it gives one.
pub(super) fn given_hash(given: Option<&Value>, at: &str, problems: &mut Problems) -> Option<String> {
    let given = given.filter(|hash| !hash.is_null())?;
    let hash = given.as_str().filter(|hash| (1..=MAX_HASH).contains(&hash.len()) && !hash.contains(char::is_control));
    if hash.is_none() {
        problems.add(at, format!("expected a hash of 1 to {MAX_HASH} characters"));
    }
    hash.map(str::to_owned)
}

/// The hash of a flow's document, whatever the order of its members. Label and notes are of a version, not of what it does.
pub(super) fn flow_hash(document: &Value) -> String {
    let mut content = content(document);
    if let Some(map) = content.as_object_mut() {
        map.retain(|name, value| !value.is_null() && name != "label" && name != "notes");
    }
    hex(&Sha256::digest(canonical(&content)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_noted_is_no_part_of_the_content() {
        let document = json!({"name": "f", "steps": [{"b": 1, "a": null}]});
        let saved = converged(&document, "h");
        assert_eq!((hash(&saved), source(&saved), is_edited(&saved)), (Some("h"), Some("sdk"), false));
        let changed = edited(&saved);
        assert_eq!((hash(&changed), is_edited(&changed)), (None, true));
        assert_eq!((content(&saved), content(&changed)), (document.clone(), document.clone()));
        assert_eq!(flow_hash(&saved), flow_hash(&json!({"steps": [{"a": null, "b": 1}], "name": "f", "label": "v2"})));
        assert_ne!(flow_hash(&saved), flow_hash(&json!({"steps": [{"b": 2, "a": null}], "name": "f"})));
        assert!(!is_edited(&document), "saved before this was noted");
    }
}
