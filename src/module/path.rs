//! JSONPath as modules and jobs write it: a path to one place gives its value, other paths a list.

use serde_json::Value;
use serde_json_path::JsonPath;

/// Evaluates a path. A path of names and indexes gives the value there; any other gives the list of what it matches, and nothing
/// when it matches nothing.
pub fn pick(path: &str, root: &Value) -> Result<Option<Value>, String> {
    let standard = standardize(path);
    let query = JsonPath::parse(&standard).map_err(|error| format!("`{path}` is not a JSONPath: {error}"))?;
    let found = query.query(root).all();
    if is_singular(&standard) {
        return Ok(found.first().map(|value| (*value).clone()));
    }
    Ok((!found.is_empty()).then(|| found.into_iter().cloned().collect()))
}

/// Checks that a path can be evaluated.
pub fn check(path: &str) -> Result<(), String> {
    JsonPath::parse(&standardize(path)).map(drop).map_err(|error| format!("`{path}` is not a JSONPath: {error}"))
}

/// The path as RFC 9535 writes it: it begins with `$`, and the last element is `[-1]`.
fn standardize(path: &str) -> String {
    let path = path.trim().replace("[(@.length-1)]", "[-1]");
    if path.starts_with('$') { path } else { format!("$.{path}") }
}

/// Reports whether a path leads to at most one place: it has no wildcard, slice, filter, union or recursion.
fn is_singular(path: &str) -> bool {
    let mut quote = None;
    let mut before = ' ';
    for letter in path.chars() {
        match quote {
            Some(mark) if letter == mark && before != '\\' => quote = None,
            Some(_) => {}
            None if matches!(letter, '\'' | '"') => quote = Some(letter),
            None if matches!(letter, '*' | ':' | '?' | ',') || (letter == '.' && before == '.') => return false,
            None => {}
        }
        before = letter;
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_to_one_place_gives_the_value_and_others_a_list() {
        let root = json!({ "a": [{ "x": 1 }, { "x": 2 }], "a,b": null });
        let cases = [
            ("$.a[0].x", Some(json!(1))),
            ("a[(@.length-1)].x", Some(json!(2))),
            ("$.a[*].x", Some(json!([1, 2]))),
            ("$..x", Some(json!([1, 2]))),
            ("$.a[?(@.x>1)]", Some(json!([{ "x": 2 }]))),
            ("$['a,b']", Some(json!(null))),
            ("$.b", None),
            ("$.b[*]", None),
        ];
        for (path, expected) in cases {
            assert_eq!(pick(path, &root), Ok(expected), "{path}");
        }
        assert!(pick("$[", &root).is_err());
    }
}
