//! The worker process's side.

use serde::Serialize;
use serde_json::Value;

use super::{Job, Lang, ScriptError, read};
use crate::clock::Clock;
use crate::expr::ParseError;
use crate::expr::script::schema::{self, Faults};
use crate::process;

/// Memory limit of a worker process, in bytes: more than a script's own limit, for requests and answers. Platforms without process limits rely on the script's.
const MEMORY: u64 = 512 << 20;

/// Answers what comes on the standard input. Blocks.
pub fn serve() -> std::io::Result<()> {
    let clock = Clock::system();
    process::serve(MEMORY, |request| answer(request, &clock))
}

#[cfg_attr(not(feature = "js"), allow(unused_variables))]
fn answer(request: &[u8], clock: &Clock) -> Vec<u8> {
    match serde_json::from_slice(request) {
        #[cfg(feature = "js")]
        Ok(Job::Script(job)) => written(&job.run(clock)),
        Ok(Job::Evaluate { lang, code, context, memory, output }) => {
            let value = match lang {
                #[cfg(feature = "lua")]
                Lang::Lua => super::lua::run(&code, &context, memory),
                Lang::JsonPath => path(&code, Value::Object(context)),
                _ => Err(ScriptError::Unavailable),
            };
            written(&value.and_then(|value| fitting(value, output)))
        }
        Ok(Job::Judge { schema, value }) => written(&judge(schema.get(), value.get())),
        Ok(Job::Read(texts)) => {
            let faults: Vec<Option<ParseError>> = texts.iter().map(|foreign| read(foreign.lang, &foreign.text).err()).collect();
            written(&Ok(faults))
        }
        Err(_) => written::<Value>(&Err(ScriptError::Engine)),
    }
}

fn written<T: Serialize>(answer: &Result<T, ScriptError>) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_default()
}

fn judge(schema: &str, value: &str) -> Result<Faults, ScriptError> {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
    let judged = parsed(schema).and_then(|schema| Ok((schema::compile(&schema)?, parsed(value)?)));
    let (validator, value) = judged.map_err(|message| ScriptError::Thrown { message, line: None })?;
    Ok(schema::faults(&validator, &value))
}

fn path(code: &str, context: Value) -> Result<Value, ScriptError> {
    let path = serde_json_path::JsonPath::parse(code).map_err(|fault| ScriptError::Thrown { message: fault.to_string(), line: None })?;
    let mut found = path.query(&context).all().into_iter().cloned();
    Ok(if is_definite(code) { found.next().unwrap_or_default() } else { found.collect() })
}

fn fitting(value: Value, most: usize) -> Result<Value, ScriptError> {
    match serde_json::to_string(&value) {
        Ok(text) if text.len() <= most => Ok(value),
        Ok(_) => Err(ScriptError::Output(format!("takes more than {most} bytes"))),
        Err(error) => Err(ScriptError::Output(error.to_string())),
    }
}

/// Whether a path leads to one place at most (a singular query, RFC 9535 section 2.3.5): it gives that value, and every other path a list, whatever the
/// data are.
fn is_definite(path: &str) -> bool {
    let (mut quote, mut escaped) = (None, false);
    let mut before = ' ';
    for next in path.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if next == '\\' => escaped = true,
            Some(open) if next == open => quote = None,
            Some(_) => {}
            None if matches!(next, '"' | '\'') => quote = Some(next),
            None if matches!(next, '*' | '?' | ':' | ',') || (next == '.' && before == '.') => return false,
            None => {}
        }
        before = if quote.is_some() { ' ' } else { next };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_path_is_definite_is_seen_in_its_text() {
        for path in ["$", "$.a.b", "$['a*..?']", "$.a[0]['b,c']", "$.a[-1]"] {
            assert!(is_definite(path), "{path}");
        }
        for path in ["$..a", "$.a.*", "$.a[*]", "$.a[?(@.b > 1)]", "$.a[0,1]", "$.a[1:2]", "$['a']..b"] {
            assert!(!is_definite(path), "{path}");
        }
    }
}
