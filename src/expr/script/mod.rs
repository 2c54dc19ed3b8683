//! JavaScript without a host: one fresh QuickJS runtime for each run, with limits, in a subprocess that can be killed ([`worker`]).
//!
//! A script is the body of an async function; a single expression does as well. It sees the variables as `input.x`,
//! `variables.x` and bare `x`, and nothing else: no files, network, timers or modules. `Date` stands still at the
//! moment the run began and `Math.random` is seeded, both by the [`Clock`], so that a simulated run repeats exactly. Integers
//! beyond 2^53 come as BigInt, since a number would round them.
//!
//! Nothing is shared between two runs, so that no tenant can leave anything behind for the next one.

#[cfg(feature = "js")]
mod engine;
#[cfg(feature = "js")]
mod fault;
mod reading;
pub mod schema;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

pub use reading::{accepted, check};

use super::ParseError;
use crate::clock::Clock;
use crate::error::{Error, Kind};
use crate::fair::Party;
use crate::process::MAX_QUEUED;
use schema::Faults;
use worker::{Lang, Workers};

/// What one script may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Time limit for one run.
    pub time: Duration,
    /// Heap, in bytes, variables included.
    pub memory: usize,
    /// Stack, in bytes; must leave room on a thread of 2 MiB.
    pub stack: usize,
    /// The result as JSON, in bytes.
    pub output: usize,
    /// Longest source, in bytes.
    pub source: usize,
    /// All scripts of one document, in bytes.
    pub sources: usize,
    /// Scripts that run at once; more wait for their turn.
    pub concurrent: usize,
    /// Maximum number of one tenant's scripts that wait for their turn.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(5),
            memory: 64 << 20,
            stack: 512 << 10,
            output: 1 << 20,
            source: 256 << 10,
            sources: 1 << 20,
            concurrent: 4,
            queue: MAX_QUEUED,
        }
    }
}

/// What a script gave back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// The returned value as JSON: undefined is null, functions are left out, a BigInt is an integer, or a text beyond 64 bits.
    pub value: Value,
    /// What it wrote to `console`, at most 100 lines of 1,000 characters.
    pub logs: Vec<String>,
}

/// Why a script gave nothing back.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum ScriptError {
    #[error("the script cannot be read: {0}")]
    Syntax(ParseError),
    /// It threw, or rejected its promise.
    #[error("the script failed: {message}{}", .line.map(|line| format!(" (line {line})")).unwrap_or_default())]
    Thrown { message: String, line: Option<usize> },
    #[error("the script ran longer than {0:?}")]
    Timeout(Duration),
    #[error("the script used more than {0} bytes of memory")]
    Memory(usize),
    #[error("the script calls itself too deeply")]
    Stack,
    #[error("the script waits for a promise that nothing will resolve; there are no timers and no network here")]
    Stalled,
    #[error("the script's result {0}")]
    Output(String),
    #[error("scripts are not part of this build (cargo feature `js`)")]
    Unavailable,
    #[error("too many scripts are queued; try again later")]
    QueueFull,
    #[error("the script's engine failed")]
    Engine,
}

impl ScriptError {
    /// Its stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "script_syntax",
            Self::Thrown { .. } => "script_failed",
            Self::Timeout(_) => "script_timeout",
            Self::Memory(_) => "script_memory",
            Self::Stack => "script_stack",
            Self::Stalled => "script_stalled",
            Self::Output(_) => "script_output",
            Self::Unavailable => "script_unavailable",
            Self::QueueFull => "script_busy",
            Self::Engine => "script_engine",
        }
    }

    /// Whether the same script may succeed later.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::QueueFull | Self::Engine)
    }

    /// The same error for the validation of a value against a schema.
    fn of_schema(self) -> Error {
        let message = match &self {
            Self::Timeout(time) => {
                format!("validating the value against its JSON Schema took longer than {time:?}; refer to the same definitions less often")
            }
            Self::Memory(_) => "validating the value against its JSON Schema exceeded the memory limit".into(),
            Self::Thrown { message, .. } => message.clone(),
            _ => return self.into(),
        };
        Error::new(Kind::Invalid, self.code(), message)
    }

    /// The same error for parsing the scripts and schemas of a document.
    fn of_reading(self) -> Error {
        match self {
            Self::Timeout(time) => Error::invalid_at(
                "",
                format!("its scripts and schemas take longer than {time:?} to parse; make them shorter, or use fewer"),
            ),
            Self::Memory(_) => Error::invalid_at("", "its scripts and schemas cannot be parsed: one is too large, or nested too deep"),
            other => other.into(),
        }
    }
}

impl From<ScriptError> for Error {
    fn from(fault: ScriptError) -> Self {
        let kind = match fault {
            ScriptError::Unavailable => Kind::Unconfigured,
            ScriptError::QueueFull => Kind::Limited,
            ScriptError::Engine => Kind::Internal,
            _ => Kind::Invalid,
        };
        Self::new(kind, fault.code(), fault.to_string())
    }
}

/// Runs scripts on behalf of one party. Cheap to clone; clones share the limit on concurrent scripts.
#[derive(Debug, Clone)]
pub struct Sandbox {
    limits: Limits,
    clock: Clock,
    place: Place,
    party: Party,
}

/// Where scripts run.
#[derive(Debug, Clone)]
enum Place {
    /// On this many threads of this process. They cannot be killed: for simulations, whose time does not advance while a subprocess works.
    #[cfg_attr(not(feature = "js"), allow(dead_code))]
    Here(Arc<Semaphore>),
    Workers(Workers),
}

impl Sandbox {
    /// Returns a sandbox in this process, for simulations and tests: JavaScript only, and without a way to stop code that never checks its time limit.
    pub fn new(limits: Limits, clock: Clock) -> Self {
        let place = Place::Here(Arc::new(Semaphore::new(limits.concurrent.max(1))));
        Self { limits, clock, place, party: Party::NOBODY }
    }

    /// Returns the same sandbox with workers that are subprocesses of `program`.
    #[must_use]
    pub fn with_workers(self, program: std::path::PathBuf) -> Self {
        let workers = Workers::new(program, self.limits, self.clock.clone());
        Self { place: Place::Workers(workers), ..self }
    }

    /// Returns the same sandbox for the work of one party.
    #[must_use]
    pub fn on_behalf_of(&self, party: Party) -> Self {
        Self { party, ..self.clone() }
    }

    /// Runs a script of another language over `scope` in a worker, and returns its value.
    pub async fn outside(&self, lang: Lang, code: &str, scope: Map<String, Value>) -> Result<Value, ScriptError> {
        match &self.place {
            Place::Workers(workers) => workers.evaluate(self.party, lang, code, scope).await,
            Place::Here(_) => Err(ScriptError::Unavailable),
        }
    }

    /// Validates a value in a worker, against a schema that may be expensive.
    pub async fn judge(&self, schema: &Value, value: &Value) -> Result<Faults, Error> {
        let judged = match &self.place {
            Place::Workers(workers) => workers.judge(self.party, schema, value).await,
            Place::Here(_) => {
                let (schema, value) = (schema.clone(), value.clone());
                let judge = move || schema::compile(&schema).map(|schema| schema::faults(&schema, &value));
                let judged = tokio::task::spawn_blocking(judge).await.map_err(Error::internal)?;
                judged.map_err(|message| ScriptError::Thrown { message, line: None })
            }
        };
        judged.map_err(ScriptError::of_schema)
    }

    /// Compiles a new document. Its scripts and schemas are parsed in a worker within one time limit; if that finds a fault, `compile` is
    /// called again to report it at its place.
    pub async fn compile<T>(&self, compile: impl Fn() -> T) -> Result<T, Error> {
        let Place::Workers(workers) = &self.place else { return Ok(compile()) };
        let (compiled, texts) = reading::gathering(&compile);
        if texts.is_empty() {
            return Ok(compiled);
        }
        let length: usize = texts.iter().filter(|foreign| foreign.lang != Lang::Schema).map(|foreign| foreign.text.len()).sum();
        if length > self.limits.sources {
            let message = format!("its scripts have {length} bytes in all; the maximum is {}", self.limits.sources);
            return Err(Error::invalid_at("", message));
        }
        let faults = workers.read(self.party.for_short_work(), &texts).await.map_err(ScriptError::of_reading)?;
        if faults.iter().all(Option::is_none) {
            return Ok(compiled);
        }
        Ok(reading::told(texts.into_iter().zip(faults), compile))
    }

    /// Runs a script over `scope` and gives its value.
    pub async fn run(&self, code: &str, scope: Map<String, Value>) -> Result<Value, ScriptError> {
        self.run_logged(code, scope).await.map(|output| output.value)
    }

    /// Runs a script over `scope` and gives its value and what it logged.
    #[cfg(feature = "js")]
    pub async fn run_logged(&self, code: &str, scope: Map<String, Value>) -> Result<Output, ScriptError> {
        if code.len() > self.limits.source {
            return Err(ScriptError::Syntax(ParseError::new(format!("it is longer than {} bytes", self.limits.source))));
        }
        let job = engine::Job::new(code, &scope, self.limits, &self.clock)?;
        drop(scope);
        let made = match &self.place {
            Place::Workers(workers) => workers.script(self.party, job).await?,
            Place::Here(turns) => self.run_here(turns.clone(), job).await?,
        };
        made.output(&self.limits)
    }

    #[cfg(feature = "js")]
    async fn run_here(&self, turns: Arc<Semaphore>, job: engine::Job) -> Result<engine::ScriptOutput, ScriptError> {
        let turn = turns.acquire_owned().await.map_err(|_| ScriptError::Engine)?;
        let clock = self.clock.clone();
        let running = tokio::task::spawn_blocking(move || {
            // The turn ends when the thread is free again, not when the caller stops waiting.
            let _turn = turn;
            job.run(&clock)
        });
        tokio::select! {
            made = running => made.map_err(|_| ScriptError::Engine)?,
            () = self.clock.sleep(self.limits.time + worker::PATIENCE) => Err(ScriptError::Timeout(self.limits.time)),
        }
    }

    /// Runs a script over `scope` and gives its value and what it logged.
    #[cfg(not(feature = "js"))]
    pub async fn run_logged(&self, _code: &str, _scope: Map<String, Value>) -> Result<Output, ScriptError> {
        Err(ScriptError::Unavailable)
    }
}

/// Checks a script's syntax without running it.
pub fn validate_script(code: &str) -> Result<(), ParseError> {
    if code.len() > Limits::default().source {
        return Err(ParseError::new(format!("the script is longer than {} bytes", Limits::default().source)));
    }
    worker::check(Lang::JavaScript, code)
}
