//! One step down a path, and membership.

use std::borrow::Cow;

use serde_json::Value;

use super::numbers;
use crate::expr::native::Key;
use crate::expr::value::text_of;

/// A position in a list; negative ones count from the end.
pub fn position(number: &serde_json::Number, list: &Value) -> Key {
    let length = list.as_array().map_or(0, Vec::len);
    let index = number.as_i64().unwrap_or(i64::MAX);
    let index = if index < 0 { i64::try_from(length).unwrap_or(i64::MAX).saturating_add(index) } else { index };
    usize::try_from(index).map_or_else(|_| Key::Name(number.to_string()), Key::Index)
}

/// One step down. `size`, `first` and `last` are computed where there is no field of that name.
pub fn next<'v>(at: Cow<'v, Value>, key: &Key) -> Option<Cow<'v, Value>> {
    if let (Value::Array(_) | Value::String(_) | Value::Object(_), Key::Name(name)) = (&*at, key) {
        let size = match &*at {
            Value::Array(items) => Some(items.len()),
            Value::String(text) => Some(text.chars().count()),
            Value::Object(fields) if !fields.contains_key(name) => Some(fields.len()),
            _ => None,
        };
        if let (Some(size), "size") = (size, name.as_str()) {
            return Some(Cow::Owned(size.into()));
        }
    }
    match at {
        Cow::Borrowed(Value::Object(fields)) => fields.get(&*key.name()).map(Cow::Borrowed),
        Cow::Borrowed(Value::Array(items)) => item(items, key).map(Cow::Borrowed),
        Cow::Owned(Value::Object(mut fields)) => fields.remove(&*key.name()).map(Cow::Owned),
        Cow::Owned(Value::Array(items)) => item(&items, key).cloned().map(Cow::Owned),
        _ => None,
    }
}

fn item<'v>(items: &'v [Value], key: &Key) -> Option<&'v Value> {
    match key {
        Key::Index(index) => items.get(*index),
        Key::Name(name) if name == "first" => items.first(),
        Key::Name(name) if name == "last" => items.last(),
        Key::Name(_) => None,
    }
}

pub fn contains(whole: &Value, part: &Value) -> bool {
    match whole {
        Value::String(text) => !part.is_null() && text.contains(&text_of(part)),
        Value::Array(items) => items.iter().any(|item| numbers::equal(item, part)),
        Value::Object(fields) => fields.contains_key(&text_of(part)),
        _ => false,
    }
}
