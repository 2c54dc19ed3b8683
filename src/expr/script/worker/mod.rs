//! Workers for scripts, JSONPath and JSON Schemas, which can only be stopped for certain by killing their process.
//!
//! None of them can be bounded by counting: built-in functions of QuickJS never check the time limit, a Lua pattern may search for ever, `..` in JSONPath
//! doubles the work with each repetition, and a schema may refer to the same definitions exponentially often. So they run in subprocesses of this program
//! (`dispatch script-worker`), with an empty environment and limited memory, which are killed when a request exceeds its time
//! limit. A worker keeps no state between requests, and idle workers are reused.
//!
//! Must not know: what a script is for.

#[cfg(feature = "lua")]
mod lua;
mod serve;

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

pub use serve::serve;

use super::reading::{self, Foreign};
use super::schema::{self, Faults};
use super::{Limits, ScriptError};
use crate::clock::Clock;
use crate::expr::ParseError;
use crate::fair::Party;
use crate::process::{Pool, PoolError, PoolOptions};

/// The command that makes a worker of this program.
pub const COMMAND: &str = "script-worker";
/// Requests after which a worker is replaced by a fresh one.
const USES: u32 = 500;
/// A script that checks its time limit stops itself; this grace keeps its worker alive.
#[cfg(feature = "js")]
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Maximum size of an answer besides the result: console lines and messages.
const BESIDES: usize = 1 << 20;

/// The languages of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    JavaScript,
    Lua,
    JsonPath,
    /// A JSON Schema.
    Schema,
}

/// Parses a text without running it.
pub fn check(lang: Lang, source: &str) -> Result<(), ParseError> {
    // The parser's work doubles with each nested filter, and it recurses as deep as the brackets nest.
    if lang == Lang::JsonPath && (source.len() > LONGEST_PATH || deepest(source) > DEEPEST_PATH) {
        return Err(ParseError::new(format!(
            "the JSONPath is too long or nested too deep: at most {LONGEST_PATH} bytes and {DEEPEST_PATH} levels of brackets"
        )));
    }
    reading::check(lang, source, false, || read(lang, source))
}

/// Parses a text without running it, without a time limit.
fn read(lang: Lang, source: &str) -> Result<(), ParseError> {
    match lang {
        #[cfg(feature = "js")]
        Lang::JavaScript => super::engine::validate(source),
        #[cfg(feature = "lua")]
        Lang::Lua => lua::check(source),
        Lang::JsonPath => serde_json_path::JsonPath::parse(source)
            .map(drop)
            .map_err(|fault| ParseError::new(format!("`{source}` is no JSONPath (RFC 9535): {fault}"))),
        Lang::Schema => {
            let schema: Value = serde_json::from_str(source).map_err(|error| ParseError::new(error.to_string()))?;
            schema::compile(&schema).map(drop).map_err(ParseError::new)
        }
        #[cfg(not(all(feature = "js", feature = "lua")))]
        _ => Err(ParseError::new(ScriptError::Unavailable.to_string())),
    }
}

/// Longest JSONPath in bytes, and how deep its brackets go.
const LONGEST_PATH: usize = 2_048;
const DEEPEST_PATH: usize = 8;

/// How deep brackets go, those in texts included.
fn deepest(source: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    for byte in source.bytes() {
        match byte {
            b'[' | b'(' => depth += 1,
            b']' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A request to a worker. The answer is a `Result` of the requested value.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Job {
    /// Runs JavaScript and returns its result.
    #[cfg(feature = "js")]
    Script(super::engine::Job),
    /// Evaluates Lua or JSONPath and returns the value.
    Evaluate {
        lang: Lang,
        code: String,
        /// The data that the script sees.
        context: Map<String, Value>,
        /// Memory limit in bytes.
        memory: usize,
        output: usize,
    },
    /// Returns the [`Faults`] of a value.
    Judge { schema: Box<RawValue>, value: Box<RawValue> },
    /// Returns the fault of each text, if it has one.
    Read(Vec<Foreign>),
}

/// The workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers {
    pool: Pool,
    limits: Limits,
}

impl Workers {
    /// Workers that are processes of `program`.
    pub fn new(program: PathBuf, limits: Limits, clock: Clock) -> Self {
        let options = PoolOptions { program, command: COMMAND, turns: limits.concurrent, queue: limits.queue, uses: USES };
        Self { pool: Pool::new(options, clock), limits }
    }

    /// Runs JavaScript.
    #[cfg(feature = "js")]
    pub(super) async fn script(&self, party: Party, job: super::engine::Job) -> Result<super::engine::ScriptOutput, ScriptError> {
        self.ask(party, Job::Script(job), self.limits.time + PATIENCE).await
    }

    /// Evaluates Lua or JSONPath over `context` and returns the value.
    pub(super) async fn evaluate(&self, party: Party, lang: Lang, code: &str, context: Map<String, Value>) -> Result<Value, ScriptError> {
        let Limits { time, memory, output, .. } = self.limits;
        self.ask(party, Job::Evaluate { lang, code: code.to_owned(), context, memory, output }, time).await
    }

    /// Validates a value against a schema.
    pub(super) async fn judge(&self, party: Party, schema: &Value, value: &Value) -> Result<Faults, ScriptError> {
        let (Ok(schema), Ok(value)) = (to_raw_value(schema), to_raw_value(value)) else { return Err(ScriptError::Engine) };
        self.ask(party, Job::Judge { schema, value }, self.limits.time).await
    }

    /// Parses texts and returns the fault of each, if it has one.
    pub(super) async fn read(&self, party: Party, texts: &[Foreign]) -> Result<Vec<Option<ParseError>>, ScriptError> {
        let faults: Vec<Option<ParseError>> = self.ask(party, Job::Read(texts.to_vec()), self.limits.time).await?;
        if faults.len() == texts.len() { Ok(faults) } else { Err(ScriptError::Engine) }
    }

    async fn ask<T: DeserializeOwned>(&self, party: Party, job: Job, time: Duration) -> Result<T, ScriptError> {
        let request = serde_json::to_vec(&job).map_err(|_| ScriptError::Engine)?;
        drop(job);
        // The result is a JSON string within the answer, where quotes and line breaks take two bytes.
        let most = self.limits.output.saturating_mul(2).saturating_add(BESIDES);
        match self.pool.ask(party, &request, time, most).await {
            Ok(answer) => serde_json::from_slice::<Result<T, ScriptError>>(&answer).map_err(|_| ScriptError::Engine)?,
            Err(PoolError::Late) => Err(ScriptError::Timeout(self.limits.time)),
            // The process died: the script needed more memory than its limit.
            Err(PoolError::Gone) => Err(ScriptError::Memory(self.limits.memory)),
            Err(PoolError::QueueFull) => Err(ScriptError::QueueFull),
            Err(PoolError::Unstartable) => Err(ScriptError::Engine),
        }
    }
}
