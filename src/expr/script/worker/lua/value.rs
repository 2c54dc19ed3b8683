//! Converts JSON values to Lua and back without silent loss.
//!
//! A null member of an object reads as nil, like a missing one, and becomes null again when the object is returned. In a list a null keeps its position as
//! `json.null`, because nil would end the list. A table whose keys are the positions from one on without a gap, or that is empty, is a list; every
//! other table is an object, whose positions become names. A list from the input stays a list, with nulls in the place of removed elements.

use mlua::{Lua, LuaSerdeExt, LuaString, Table};
use serde_json::{Map, Number, Value};

/// Maximum nesting of tables; also stops at a table that contains itself.
const MAX_DEPTH: usize = 120;
/// The key in an object's metatable of the names of its null members.
const NULLS: &str = "__nulls";
/// Maximum number of nulls that fill the gaps of a list, beyond its number of elements.
const SPARSE: usize = 64;

/// Converts a JSON value for a script.
pub fn to_lua(lua: &Lua, value: &Value) -> mlua::Result<mlua::Value> {
    Ok(match value {
        Value::Null => mlua::Value::Nil,
        Value::Bool(value) => mlua::Value::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => mlua::Value::Integer(integer),
            None => mlua::Value::Number(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => mlua::Value::String(lua.create_string(text)?),
        Value::Array(items) => {
            let list = lua.create_table_with_capacity(items.len(), 0)?;
            for (index, item) in items.iter().enumerate() {
                let item = if item.is_null() { mlua::Value::NULL } else { to_lua(lua, item)? };
                list.raw_set(index + 1, item)?;
            }
            list.set_metatable(Some(lua.array_metatable()))?;
            mlua::Value::Table(list)
        }
        Value::Object(members) => {
            let object = lua.create_table_with_capacity(0, members.len())?;
            let mut nulls = Vec::new();
            for (name, member) in members {
                if member.is_null() {
                    nulls.push(name.as_str());
                } else {
                    object.raw_set(name.as_str(), to_lua(lua, member)?)?;
                }
            }
            // Other objects are recognised by their keys.
            if members.is_empty() || !nulls.is_empty() {
                as_object(lua, &object, &nulls)?;
            }
            mlua::Value::Table(object)
        }
    })
}

/// Marks a table as an object, whatever its keys are, with nulls under these names.
pub fn as_object(lua: &Lua, table: &Table, nulls: &[&str]) -> mlua::Result<()> {
    let mark = lua.create_table()?;
    // If the script could replace the metatable, the nulls would be lost.
    mark.raw_set("__metatable", false)?;
    mark.raw_set(NULLS, lua.create_sequence_from(nulls.iter().copied())?)?;
    table.set_metatable(Some(mark))
}

/// Returns the names of the null members of a table that is marked as an object.
pub fn nulls_of(table: &Table) -> Option<Vec<String>> {
    table.metatable()?.raw_get::<Option<Vec<String>>>(NULLS).ok()?
}

/// Converts the result of a script to JSON.
pub fn to_json(lua: &Lua, value: &mlua::Value) -> mlua::Result<Value> {
    read(value, &lua.array_metatable(), 0)
}

fn refused(what: impl std::fmt::Display) -> mlua::Error {
    mlua::Error::runtime(format!("the result cannot be converted to JSON: it contains {what}"))
}

fn text_of(text: &LuaString) -> mlua::Result<String> {
    let refused = |_| refused("a string that is not UTF-8; encode it with `base64.encode`");
    text.to_str().map(|text| String::from(&*text)).map_err(refused)
}

fn read(value: &mlua::Value, lists: &Table, depth: usize) -> mlua::Result<Value> {
    match value {
        mlua::Value::Nil => Ok(Value::Null),
        null if null.is_null() => Ok(Value::Null),
        mlua::Value::Boolean(value) => Ok((*value).into()),
        mlua::Value::Integer(integer) => Ok((*integer).into()),
        mlua::Value::Number(number) => Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| refused(format_args!("the number {number}, which JSON cannot represent"))),
        mlua::Value::String(text) => text_of(text).map(Value::String),
        mlua::Value::Table(table) => read_table(table, lists, depth),
        other => Err(refused(format_args!("a {}", other.type_name()))),
    }
}

/// The entries of a table, and the names of its null members.
struct Members {
    positions: Vec<(i64, Value)>,
    names: Vec<(String, Value)>,
    nulls: Option<Vec<String>>,
}

fn read_table(table: &Table, lists: &Table, depth: usize) -> mlua::Result<Value> {
    if depth == MAX_DEPTH {
        return Err(refused(format_args!("tables nested more than {MAX_DEPTH} deep, or a table that contains itself")));
    }
    let is_list = table.metatable().is_some_and(|mark| mark.to_pointer() == lists.to_pointer());
    let mut members = Members { positions: Vec::new(), names: Vec::new(), nulls: nulls_of(table) };
    for pair in table.pairs::<mlua::Value, mlua::Value>() {
        let (key, member) = pair?;
        let member = read(&member, lists, depth + 1)?;
        match key {
            mlua::Value::Integer(position) => members.positions.push((position, member)),
            mlua::Value::String(name) => members.names.push((text_of(&name)?, member)),
            mlua::Value::Number(number) => members.names.push((number.to_string(), member)),
            other => return Err(refused(format_args!("a table with a key of type {}", other.type_name()))),
        }
    }
    members.positions.sort_by_key(|(position, _)| *position);
    match members.length(is_list) {
        Some(length) => Ok(members.list(length)),
        None => members.object(),
    }
}

impl Members {
    /// Returns the length of the list that the table is, if it is one.
    fn length(&self, was_list: bool) -> Option<usize> {
        if !self.names.is_empty() || self.nulls.is_some() {
            return None;
        }
        let count = self.positions.len();
        let (first, last) = match (self.positions.first(), self.positions.last()) {
            (Some((first, _)), Some((last, _))) => (*first, usize::try_from(*last).ok()?),
            _ => return Some(0),
        };
        let fits = if was_list { last <= count.saturating_mul(2).saturating_add(SPARSE) } else { last == count };
        (first >= 1 && fits).then_some(last)
    }

    fn list(self, length: usize) -> Value {
        let mut items = Vec::with_capacity(length);
        for (position, item) in self.positions {
            let before = usize::try_from(position).unwrap_or_default().saturating_sub(1);
            items.resize(before.max(items.len()), Value::Null);
            items.push(item);
        }
        Value::Array(items)
    }

    /// Sorted by position, then by name, because Lua tables have no order.
    fn object(self) -> mlua::Result<Value> {
        let mut names = self.names;
        for null in self.nulls.into_iter().flatten() {
            if !names.iter().any(|(name, _)| *name == null) {
                names.push((null, Value::Null));
            }
        }
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        let positions = self.positions.into_iter().map(|(position, member)| (position.to_string(), member));
        let mut object = Map::new();
        for (name, member) in positions.chain(names) {
            if object.insert(name.clone(), member).is_some() {
                return Err(refused(format_args!("a table with the key `{name}` both as a number and as a string")));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn given(code: &str, trigger: &Value) -> Result<Value, String> {
        let context = Map::from_iter([("t".to_owned(), trigger.clone())]);
        super::super::run(code, &context, 64 << 20).map_err(|fault| fault.to_string())
    }

    #[test]
    fn nothing_is_lost_between_json_and_lua() {
        for value in [
            json!({}),
            json!([]),
            json!([1, null]),
            json!([null, null]),
            json!([null, 1, [null], {}]),
            json!({ "a": null, "b": 1 }),
            json!({ "a": null }),
            json!({ "1": "a", "2": "b" }),
            json!({ "deep": [{ "x": [], "y": {}, "z": null }] }),
            json!([9_007_199_254_740_993_i64, -1.5, "x", true]),
        ] {
            assert_eq!(given("return t", &value), Ok(value.clone()), "{value}");
            assert_eq!(given("return json.decode(json.encode(t))", &value), Ok(value.clone()), "{value}");
        }
    }

    #[test]
    fn a_table_is_a_list_or_comes_out_whole() {
        for (code, wanted) in [
            ("return {}", json!([])),
            ("local out = {} for _, x in ipairs(t) do if x > 9 then out[#out + 1] = x end end return out", json!([])),
            ("return json.object({})", json!({})),
            ("return {1, 2, 3}", json!([1, 2, 3])),
            ("return {1, json.null, 3}", json!([1, null, 3])),
            ("return {[1] = 'a', [3] = 'c'}", json!({ "1": "a", "3": "c" })),
            ("return {1, 2, x = 3}", json!({ "1": 1, "2": 2, "x": 3 })),
            ("return {[0] = 'a', 'b'}", json!({ "0": "a", "1": "b" })),
            ("return {[17] = 'a', [42] = 'b'}", json!({ "17": "a", "42": "b" })),
            ("return {b = 1, a = 2}", json!({ "a": 2, "b": 1 })),
            ("t[1] = nil return t", json!([null, 2, 3])),
            ("t[2] = nil return t", json!([1, null, 3])),
            ("t[3] = nil return t", json!([1, 2])),
            ("t[1000000] = 4 return t", json!({ "1": 1, "2": 2, "3": 3, "1000000": 4 })),
            ("t.x = 4 return t", json!({ "1": 1, "2": 2, "3": 3, "x": 4 })),
            ("table.remove(t, 1) return t", json!([2, 3])),
            ("return nil", json!(null)),
        ] {
            let value = given(code, &json!([1, 2, 3]));
            assert_eq!(value.as_ref().map(ToString::to_string), Ok(wanted.to_string()), "{code}");
        }
    }

    #[test]
    fn nulls_read_as_nil_in_objects_and_keep_their_place_in_lists() {
        let trigger = json!({ "none": null, "list": [1, null, 3], "text": "x" });
        for (code, wanted) in [
            ("t.none == nil and t.missing == nil", json!(true)),
            ("#t.list", json!(3)),
            ("t.list[2] == json.null", json!(true)),
            ("t.none = 5 return t.none", json!(5)),
            ("t.list = nil t.text = nil return t", json!({ "none": null })),
        ] {
            assert_eq!(given(code, &trigger), Ok(wanted), "{code}");
        }
    }

    #[test]
    fn values_that_json_cannot_represent_are_refused() {
        for (code, says) in [
            ("return base64.decode('/w==')", "not UTF-8"),
            ("return {[base64.decode('/w==')] = 1}", "not UTF-8"),
            ("return {string.rep}", "function"),
            ("return 0/0", "number"),
            ("return {1/0}", "number"),
            ("return {[true] = 1}", "boolean"),
            ("return {[1] = 'a', ['1'] = 'b', ['2'] = 'c'}", "`1`"),
            ("local l = {} l[1] = l return l", "contains itself"),
        ] {
            let fault = given(code, &json!([])).unwrap_err();
            assert!(fault.contains(says), "{code}: {fault}");
        }
    }
}
