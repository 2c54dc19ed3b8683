//! Filters over lists.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::Value;

use super::numbers;
use crate::expr::limits;
use crate::expr::value::{Text, text_of};

/// A value as a list: nothing is an empty one, a single value one item.
pub fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        other => vec![other],
    }
}

fn field<'v>(item: &'v Value, name: &str) -> &'v Value {
    name.split('.').fold(item, |at, step| at.get(step).unwrap_or(&Value::Null))
}

pub fn join(items: Value, separator: &str) -> Result<Value, String> {
    let mut out = Text::new(limits::OUTPUT, "a text");
    for (index, item) in list(items).iter().enumerate() {
        let separated = if index > 0 { out.push(separator) } else { Ok(()) };
        separated.and_then(|()| out.push_value(item)).map_err(|fault| fault.message().to_owned())?;
    }
    Ok(out.into_string().into())
}

pub fn map(items: Value, name: &str) -> Value {
    list(items).iter().map(|item| field(item, name).clone()).collect()
}

/// Items whose field has the wanted value, or any value but nil and `false`.
pub fn matching(items: Value, name: &str, wanted: Option<&Value>, keep: bool) -> Vec<Value> {
    let holds = |item: &Value| match wanted {
        Some(wanted) => numbers::equal(field(item, name), wanted),
        None => !matches!(field(item, name), Value::Null | Value::Bool(false)),
    };
    list(items).into_iter().filter(|item| holds(item) == keep).collect()
}

/// Sorts by a field or by the items themselves; numbers before texts, nothing last.
pub fn sort(items: Value, name: Option<&str>, fold_case: bool) -> Value {
    let mut items = list(items);
    let key = |item: &Value| name.map_or_else(|| item.clone(), |name| field(item, name).clone());
    items.sort_by_cached_key(|item| Sortable(key(item), fold_case));
    items.into()
}

struct Sortable(Value, bool);

impl Ord for Sortable {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |value: &Value| match value {
            Value::Bool(_) => 0,
            Value::Number(_) => 1,
            Value::String(_) => 2,
            Value::Array(_) | Value::Object(_) => 3,
            Value::Null => 4,
        };
        let (a, b) = (&self.0, &other.0);
        rank(a).cmp(&rank(b)).then_with(|| match (a, b) {
            (Value::String(a), Value::String(b)) if self.1 => a.to_lowercase().cmp(&b.to_lowercase()),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            _ => numbers::order(a, b).unwrap_or(Ordering::Equal),
        })
    }
}

impl PartialOrd for Sortable {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sortable {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Sortable {}

/// Drops what was seen before, by a field or by the whole item.
pub fn uniq(items: Value, name: Option<&str>) -> Value {
    let mut seen = BTreeSet::new();
    list(items).into_iter().filter(|item| seen.insert(name.map_or(item, |name| field(item, name)).to_string())).collect()
}

pub fn compact(items: Value, name: Option<&str>) -> Value {
    list(items).into_iter().filter(|item| !name.map_or(item, |name| field(item, name)).is_null()).collect()
}

pub fn sum(items: Value, name: Option<&str>) -> Value {
    list(items).iter().map(|item| name.map_or(item, |name| field(item, name))).fold(Value::from(0), |sum, item| numbers::plus(&sum, item))
}

/// A part of a list or text; a negative start counts from the end.
pub fn slice(value: Value, start: i64, length: i64) -> Value {
    let span = |size: usize| {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let from = if start < 0 { size + start } else { start };
        let skip = usize::try_from(from).ok()?;
        Some((skip, usize::try_from(length).unwrap_or(0)))
    };
    match value {
        Value::Array(items) => match span(items.len()) {
            Some((skip, take)) => items.into_iter().skip(skip).take(take).collect(),
            None => Value::Array(Vec::new()),
        },
        other => {
            let text = text_of(&other);
            match span(text.chars().count()) {
                Some((skip, take)) => text.chars().skip(skip).take(take).collect::<String>().into(),
                None => "".into(),
            }
        }
    }
}

/// Cuts a text at every separator; an empty one cuts into characters.
pub fn split(text: &str, separator: &str) -> Result<Value, String> {
    const MOST: usize = 50_000;
    let pieces: Vec<Value> = match separator {
        "" => text.chars().take(MOST + 1).map(|part| part.to_string().into()).collect(),
        " " => text.split_whitespace().take(MOST + 1).map(Value::from).collect(),
        _ => text.split(separator).take(MOST + 1).map(Value::from).collect(),
    };
    if pieces.len() > MOST {
        return Err(format!("it gives more than {MOST} pieces"));
    }
    let full = pieces.iter().rposition(|piece| piece != "").map_or(0, |last| last + 1);
    Ok(pieces.into_iter().take(full).collect())
}
