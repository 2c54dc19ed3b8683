//! Lua 5.4 without a host: a fresh state for each script, with the context's names as globals and a few helpers.
//!
//! There is no io, os, package or debug, and no way to load code at run time. `math.random` begins anew for each script, so that the same script
//! over the same data gives the same result. [`value`] defines the conversion between tables and JSON.

mod value;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaOptions, LuaString, StdLib, Table};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha512};

use crate::expr::ParseError;
use crate::expr::script::ScriptError;
use value::{as_object, nulls_of, to_json, to_lua};

/// What a script may not reach.
const REMOVED: [&str; 7] = ["collectgarbage", "dofile", "load", "loadfile", "print", "require", "warn"];
const NAME: &str = "=script";

/// Checks a script's syntax.
pub fn check(source: &str) -> Result<(), ParseError> {
    compile(&Lua::new_with(StdLib::NONE, LuaOptions::new()).map_err(|fault| ParseError::new(fault.to_string()))?, source)
        .map(drop)
        .map_err(|fault| ParseError::new(format!("the Lua script cannot be read: {}", told(&fault).0)))
}

/// A script is a single expression, or statements with a `return`.
fn compile(lua: &Lua, source: &str) -> mlua::Result<Function> {
    let load = |source: &str| lua.load(source).set_name(NAME).set_mode(ChunkMode::Text).into_function();
    load(&format!("return {source}\n")).or_else(|_| load(source))
}

/// Runs a script.
pub fn run(source: &str, context: &Map<String, Value>, memory: usize) -> Result<Value, ScriptError> {
    attempt(source, context, memory).map_err(|fault| {
        if is_memory(&fault) {
            return ScriptError::Memory(memory);
        }
        let (message, line) = told(&fault);
        ScriptError::Thrown { message, line }
    })
}

fn attempt(source: &str, context: &Map<String, Value>, memory: usize) -> mlua::Result<Value> {
    let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH | StdLib::UTF8, LuaOptions::new())?;
    lua.set_memory_limit(memory)?;
    let globals = lua.globals();
    for name in REMOVED {
        globals.raw_set(name, mlua::Value::Nil)?;
    }
    lua.load("math.randomseed(0)").exec()?;
    helpers(&lua)?;
    for (name, value) in context {
        globals.raw_set(name.as_str(), to_lua(&lua, value)?)?;
    }
    let value: mlua::Value = compile(&lua, source)?.call(())?;
    // A list that repeats itself grows when it is written out; the process has its limit for that.
    to_json(&lua, &value)
}

fn helpers(lua: &Lua) -> mlua::Result<()> {
    let globals = lua.globals();
    let json = lua.create_table()?;
    json.raw_set("null", mlua::Value::NULL)?;
    let object = |lua: &Lua, table: Table| -> mlua::Result<Table> {
        if nulls_of(&table).is_none() {
            as_object(lua, &table, &[])?;
        }
        Ok(table)
    };
    json.raw_set("object", lua.create_function(object)?)?;
    json.raw_set("encode", lua.create_function(|lua, value: mlua::Value| Ok(to_json(lua, &value)?.to_string()))?)?;
    json.raw_set(
        "decode",
        lua.create_function(|lua, text: LuaString| {
            let value: Value = serde_json::from_slice(&text.as_bytes()).map_err(mlua::Error::external)?;
            to_lua(lua, &value)
        })?,
    )?;
    globals.raw_set("json", json)?;
    let base64 = lua.create_table()?;
    base64.raw_set("encode", lua.create_function(|_, text: LuaString| Ok(STANDARD.encode(text.as_bytes())))?)?;
    base64.raw_set(
        "decode",
        lua.create_function(|lua, text: LuaString| lua.create_string(STANDARD.decode(text.as_bytes()).map_err(mlua::Error::external)?))?,
    )?;
    globals.raw_set("base64", base64)?;
    let crypto = lua.create_table()?;
    crypto.raw_set("sha256", lua.create_function(|_, text: LuaString| Ok(hex(&Sha256::digest(text.as_bytes()))))?)?;
    crypto.raw_set(
        "hmac",
        lua.create_function(|_, (algorithm, key, text): (String, LuaString, LuaString)| match algorithm.as_str() {
            "sha256" => mac::<Hmac<Sha256>>(&key.as_bytes(), &text.as_bytes()),
            "sha512" => mac::<Hmac<Sha512>>(&key.as_bytes(), &text.as_bytes()),
            other => Err(mlua::Error::runtime(format!("unknown algorithm `{other}`; one of sha256, sha512"))),
        })?,
    )?;
    globals.raw_set("crypto", crypto)
}

fn mac<M: Mac + KeyInit>(key: &[u8], text: &[u8]) -> mlua::Result<String> {
    let mut mac = <M as KeyInit>::new_from_slice(key).map_err(mlua::Error::external)?;
    mac.update(text);
    Ok(hex(&mac.finalize().into_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

fn is_memory(fault: &mlua::Error) -> bool {
    match fault {
        mlua::Error::MemoryError(_) => true,
        mlua::Error::CallbackError { cause, .. } => is_memory(cause),
        _ => false,
    }
}

/// What went wrong, without the stack, and in which line.
fn told(fault: &mlua::Error) -> (String, Option<usize>) {
    let text = match fault {
        mlua::Error::CallbackError { cause, .. } => return told(cause),
        mlua::Error::RuntimeError(text) | mlua::Error::SyntaxError { message: text, .. } => text.clone(),
        other => other.to_string(),
    };
    let text = text.lines().next().unwrap_or_default().to_owned();
    let placed = text.strip_prefix("script:").and_then(|rest| rest.split_once(": "));
    match placed.and_then(|(line, rest)| Some((line.parse().ok()?, rest))) {
        Some((line, rest)) => (rest.to_owned(), Some(line)),
        None => (text, None),
    }
}
