//! JSONPath of cases: plain paths are followed here; whatever else there is, the caller evaluates where it can be stopped.

use serde_json::Value;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq)]
pub enum PathPick {
    /// A plain path was followed to this value; `None`: nothing is there.
    Found(Option<Value>),
    /// It needs the whole language: wildcards, slices, filters or recursion.
    Foreign,
}

/// Follows a path of names and indexes; `.length` at its end is the length of a list or a text.
pub fn pick_plain(path: &str, root: &Value) -> PathPick {
    let Some(segments) = plain_segments(&standard(path)) else { return PathPick::Foreign };
    let mut place = root;
    for (number, segment) in segments.iter().enumerate() {
        let next = match (place, segment) {
            (Value::Object(map), Segment::Name(name)) => map.get(name),
            (Value::Array(items), Segment::Index(index)) => at(items, *index),
            (Value::Array(items), Segment::Name(name)) if name == "length" && number + 1 == segments.len() => {
                return PathPick::Found(Some(items.len().into()));
            }
            (Value::String(text), Segment::Name(name)) if name == "length" && number + 1 == segments.len() => {
                return PathPick::Found(Some(text.encode_utf16().count().into()));
            }
            _ => None,
        };
        let Some(next) = next else { return PathPick::Found(None) };
        place = next;
    }
    PathPick::Found(Some(place.clone()))
}

/// Whether a path can be evaluated; the error says why not.
pub fn check_path(path: &str) -> Result<(), String> {
    if path.trim().is_empty() {
        return Err("the path is empty".into());
    }
    if plain_segments(&standard(path)).is_some() {
        return Ok(());
    }
    serde_json_path::JsonPath::parse(&standard(path)).map(drop).map_err(|fault| fault.to_string())
}

/// Evaluates any path in this process: for paths of the person who runs the command. A path to one place gives the value, others a list.
pub fn pick(path: &str, root: &Value) -> Option<Value> {
    if let PathPick::Found(found) = pick_plain(path, root) {
        return found;
    }
    let path = standard(path);
    let query = serde_json_path::JsonPath::parse(&path).ok()?;
    let found: Vec<Value> = query.query(root).all().into_iter().cloned().collect();
    (!found.is_empty()).then_some(Value::Array(found))
}

/// The same path as RFC 9535 writes it: `$` in front, and `[(@.length-1)]` as `[-1]`.
pub fn standard(path: &str) -> String {
    let path = path.trim();
    let rooted = if path.starts_with('$') { path.to_owned() } else { format!("$.{path}") };
    rooted.replace("[(@.length-1)]", "[-1]").replace("[(@.length - 1)]", "[-1]")
}

enum Segment {
    Name(String),
    Index(i64),
}

fn at(items: &[Value], index: i64) -> Option<&Value> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let place = if index < 0 { length.checked_add(index)? } else { index };
    usize::try_from(place).ok().and_then(|place| items.get(place))
}

/// The segments of a path without wildcards, slices, filters and recursion.
fn plain_segments(path: &str) -> Option<Vec<Segment>> {
    let mut rest = path.strip_prefix('$')?;
    let mut segments = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            segments.push(plain_name(after.get(..end)?)?);
            rest = after.get(end..)?;
        } else {
            let after = rest.strip_prefix('[')?;
            let end = after.find(']')?;
            let inside = after.get(..end)?.trim();
            segments.push(bracketed(inside)?);
            rest = after.get(end + 1..)?;
        }
    }
    Some(segments)
}

fn plain_name(name: &str) -> Option<Segment> {
    let fits = !name.is_empty() && !name.contains(['*', '?', '@', '(', ')', ',', ':', ' ', '\'', '"', '$']);
    fits.then(|| Segment::Name(name.to_owned()))
}

fn bracketed(inside: &str) -> Option<Segment> {
    if let Ok(index) = inside.parse() {
        return Some(Segment::Index(index));
    }
    let quote = inside.chars().next().filter(|first| matches!(first, '\'' | '"'))?;
    let name = inside.strip_prefix(quote)?.strip_suffix(quote)?;
    (!name.contains(['\\', quote])).then(|| Segment::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_give_values_or_lists() {
        let root = json!({ "a": [{ "x": 1 }, { "x": 2 }], "b": { "c d": "e" } });
        assert_eq!(pick("$.a[0].x", &root), Some(json!(1)));
        assert_eq!(pick("$.a[-1].x", &root), Some(json!(2)));
        assert_eq!(pick("$.a.length", &root), Some(json!(2)));
        assert_eq!(pick("$.b['c d']", &root), Some(json!("e")));
        assert_eq!(pick("$.a[*].x", &root), Some(json!([1, 2])));
        assert_eq!(pick("$.a[?(@.x>1)].x", &root), Some(json!([2])));
        assert_eq!(pick("$.nothing", &root), None);
        assert!(check_path("$.a[?(").is_err() && check_path("").is_err() && check_path("$").is_ok());
    }
}
