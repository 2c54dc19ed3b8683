//! JavaScript without a host: one fresh QuickJS per run, on a blocking thread, under limits.
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
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::ParseError;
use crate::clock::Clock;
use crate::error::{Error, Kind};

/// What one script may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time on the thread.
    pub time: Duration,
    /// Heap, in bytes, variables included.
    pub memory: usize,
    /// Stack, in bytes; must leave room on a thread of 2 MiB.
    pub stack: usize,
    /// The result as JSON, in bytes.
    pub output: usize,
    /// Longest source, in bytes.
    pub source: usize,
    /// Scripts that run at once; more wait for their turn.
    pub concurrent: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(5), memory: 64 << 20, stack: 512 << 10, output: 1 << 20, source: 256 << 10, concurrent: 4 }
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
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
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
            Self::Engine => "script_engine",
        }
    }
}

impl From<ScriptError> for Error {
    fn from(fault: ScriptError) -> Self {
        let kind = match fault {
            ScriptError::Unavailable => Kind::Unconfigured,
            ScriptError::Engine => Kind::Internal,
            _ => Kind::Invalid,
        };
        Self::new(kind, fault.code(), fault.to_string())
    }
}

/// Runs scripts. Cheap to clone; clones share the limit on how many run at once.
#[derive(Debug, Clone)]
pub struct Sandbox {
    limits: Limits,
    clock: Clock,
    turns: Arc<Semaphore>,
    /// Not there: this process cannot make others of its kind.
    workers: Option<worker::Workers>,
}

impl Sandbox {
    pub fn new(limits: Limits, clock: Clock) -> Self {
        Self { limits, clock, turns: Arc::new(Semaphore::new(limits.concurrent.max(1))), workers: None }
    }

    /// The same sandbox, with workers that are processes of `program` for what must be killed to be stopped.
    #[must_use]
    pub fn with_workers(self, program: std::path::PathBuf) -> Self {
        let workers = worker::Workers::new(program, self.limits, self.clock.clone());
        Self { workers: Some(workers), ..self }
    }

    /// Runs a script of another language over `scope`, in a process of its own, and gives its value.
    pub async fn outside(&self, lang: worker::Lang, code: &str, scope: Map<String, Value>) -> Result<Value, ScriptError> {
        match &self.workers {
            Some(workers) => workers.run(lang, code, scope).await,
            None => Err(ScriptError::Unavailable),
        }
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
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| ScriptError::Engine)?;
        let job = engine::Job { code: code.to_owned(), scope, limits: self.limits, clock: self.clock.clone() };
        let running = tokio::task::spawn_blocking(move || {
            // The turn ends when the thread is free again, not when the caller stops waiting.
            let _turn = turn;
            job.run()
        });
        // The thread stops itself; waiting a little longer covers the rare native call that does not look at the time.
        let patience = self.limits.time + Duration::from_secs(1);
        tokio::select! {
            result = running => result.map_err(|_| ScriptError::Engine)?,
            () = self.clock.sleep(patience) => Err(ScriptError::Timeout(self.limits.time)),
        }
    }

    /// Runs a script over `scope` and gives its value and what it logged.
    #[cfg(not(feature = "js"))]
    pub async fn run_logged(&self, _code: &str, _scope: Map<String, Value>) -> Result<Output, ScriptError> {
        let _ = (&self.clock, &self.turns, self.limits);
        Err(ScriptError::Unavailable)
    }
}

/// Checks a script's syntax without running it.
#[cfg(feature = "js")]
pub fn validate_script(code: &str) -> Result<(), ParseError> {
    if code.len() > Limits::default().source {
        return Err(ParseError::new(format!("the script is longer than {} bytes", Limits::default().source)));
    }
    engine::validate(code)
}

/// Checks a script's syntax without running it.
#[cfg(not(feature = "js"))]
pub fn validate_script(_code: &str) -> Result<(), ParseError> {
    Err(ParseError::new(ScriptError::Unavailable.to_string()))
}
