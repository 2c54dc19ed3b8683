//! Scripts, JSONPath and JSON Schemas: what only killing is sure to stop.
//!
//! None of them can be bounded by counting: natives of QuickJS never look at the time, a pattern of Lua may search for ever, a `..` of JSONPath doubles
//! its work with each repetition, a schema may refer to the same definitions without end. So they run in processes of this very program
//! (`dispatch script-worker`), which know nothing but what they are asked, have an empty environment and bounded memory, and are killed when a request takes
//! too long. Between two requests a process forgets everything; a few wait for the next one.
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
use crate::process::{Pool, PoolOptions, Unanswered};

/// The command that makes a worker of this program.
pub const COMMAND: &str = "script-worker";
/// Requests after which a process makes room for a fresh one.
const USES: u32 = 500;
/// A script that looks at the time stops itself; waiting a little longer leaves its process alive.
#[cfg(feature = "js")]
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// What an answer may have besides a result, in bytes: lines of a console, messages.
const BESIDES: usize = 1 << 20;

/// What a worker can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    JavaScript,
    Lua,
    JsonPath,
    /// A JSON Schema.
    Schema,
}

/// Checks a text without running it.
pub fn check(lang: Lang, source: &str) -> Result<(), ParseError> {
    // The parser takes twice as long with each filter inside a filter, and goes as deep as the brackets do.
    if lang == Lang::JsonPath && (source.len() > LONGEST_PATH || deepest(source) > DEEPEST_PATH) {
        return Err(ParseError::new(format!("a JSONPath has {LONGEST_PATH} bytes at most, and brackets {DEEPEST_PATH} deep")));
    }
    reading::check(lang, source, false, || read(lang, source))
}

/// Reads a text without running it, for as long as that takes.
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

/// What a worker is asked. It answers with a `Result` of what is wanted.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Job {
    /// Gives what the script made.
    #[cfg(feature = "js")]
    Script(super::engine::Job),
    /// Lua or JSONPath; gives a value.
    Evaluate {
        lang: Lang,
        code: String,
        /// What the script sees.
        context: Map<String, Value>,
        /// Bytes.
        memory: usize,
        output: usize,
    },
    /// Gives the [`Faults`] of a value.
    Judge { schema: Box<RawValue>, value: Box<RawValue> },
    /// Gives, for each text, what is wrong with it.
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
        let options = PoolOptions { program, command: COMMAND, turns: limits.concurrent, uses: USES };
        Self { pool: Pool::new(options, clock), limits }
    }

    /// Runs JavaScript.
    #[cfg(feature = "js")]
    pub(super) async fn script(&self, party: Party, job: super::engine::Job) -> Result<super::engine::Made, ScriptError> {
        self.ask(party, Job::Script(job), self.limits.time + PATIENCE).await
    }

    /// Runs Lua or JSONPath over `context` and gives its value.
    pub(super) async fn evaluate(&self, party: Party, lang: Lang, code: &str, context: Map<String, Value>) -> Result<Value, ScriptError> {
        let Limits { time, memory, output, .. } = self.limits;
        self.ask(party, Job::Evaluate { lang, code: code.to_owned(), context, memory, output }, time).await
    }

    /// What is wrong with a value by a schema.
    pub(super) async fn judge(&self, party: Party, schema: &Value, value: &Value) -> Result<Faults, ScriptError> {
        let (Ok(schema), Ok(value)) = (to_raw_value(schema), to_raw_value(value)) else { return Err(ScriptError::Engine) };
        self.ask(party, Job::Judge { schema, value }, self.limits.time).await
    }

    /// What is wrong with each text.
    pub(super) async fn read(&self, party: Party, texts: &[Foreign]) -> Result<Vec<Option<ParseError>>, ScriptError> {
        let faults: Vec<Option<ParseError>> = self.ask(party, Job::Read(texts.to_vec()), self.limits.time).await?;
        if faults.len() == texts.len() { Ok(faults) } else { Err(ScriptError::Engine) }
    }

    async fn ask<T: DeserializeOwned>(&self, party: Party, job: Job, time: Duration) -> Result<T, ScriptError> {
        let request = serde_json::to_vec(&job).map_err(|_| ScriptError::Engine)?;
        drop(job);
        // A result stands in its answer as a text, in which marks and breaks take two bytes.
        let most = self.limits.output.saturating_mul(2).saturating_add(BESIDES);
        match self.pool.ask(party, &request, time, most).await {
            Ok(answer) => serde_json::from_slice::<Result<T, ScriptError>>(&answer).map_err(|_| ScriptError::Engine)?,
            Err(Unanswered::Late) => Err(ScriptError::Timeout(self.limits.time)),
            // It took its process with it: there is no more memory than that for a script.
            Err(Unanswered::Gone) => Err(ScriptError::Memory(self.limits.memory)),
            Err(Unanswered::Crowded) => Err(ScriptError::Crowded),
            Err(Unanswered::Unstartable) => Err(ScriptError::Engine),
        }
    }
}
