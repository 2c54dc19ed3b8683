//! Scripts that only a killed process is sure to stop: Lua and JSONPath.
//!
//! Their engines do long work in one native call, which no counting and no hook ends. So they run in processes of this very program
//! (`dispatch script-worker`), which know nothing but what a line on their input says, have an empty environment, and are killed when a script takes
//! too long. Between two scripts a process forgets everything; a few wait for the next one.
//!
//! Must not know: what a script is for.

#[cfg(feature = "lua")]
mod lua;
mod serve;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::Semaphore;

pub use serve::serve;

use super::{Limits, ScriptError};
use crate::clock::Clock;
use crate::expr::ParseError;
use crate::process::Process;

/// The command that makes a worker of this program.
pub const COMMAND: &str = "script-worker";
/// Scripts after which a process makes room for a fresh one.
const USES: u32 = 500;

/// What a worker can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    Lua,
    JsonPath,
    /// A JSON Schema, over the one name `value`; it gives the faults, as pairs of a pointer and a message.
    Schema,
}

/// Checks a script without running it.
pub fn check(lang: Lang, source: &str) -> Result<(), ParseError> {
    match lang {
        #[cfg(feature = "lua")]
        Lang::Lua => lua::check(source),
        #[cfg(not(feature = "lua"))]
        Lang::Lua => Err(ParseError::new(ScriptError::Unavailable.to_string())),
        // Whoever has one compiles it, within bounds.
        Lang::Schema => Ok(()),
        // The parser takes twice as long with each filter inside a filter, and goes as deep as the brackets do.
        Lang::JsonPath if source.len() > LONGEST_PATH || deepest(source) > DEEPEST_PATH => {
            Err(ParseError::new(format!("a JSONPath has {LONGEST_PATH} bytes at most, and brackets {DEEPEST_PATH} deep")))
        }
        Lang::JsonPath => serde_json_path::JsonPath::parse(source)
            .map(drop)
            .map_err(|fault| ParseError::new(format!("`{source}` is no JSONPath (RFC 9535): {fault}"))),
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

/// One line to a worker.
#[derive(Serialize, Deserialize)]
struct Job {
    lang: Lang,
    code: String,
    /// What the script sees.
    context: Map<String, Value>,
    /// Bytes.
    memory: usize,
    output: usize,
}

/// One line back.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Done(Value),
    Thrown { message: String, line: Option<usize> },
    Memory,
    Output(String),
}

struct Worker {
    /// Killed when it is dropped.
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    uses: u32,
}

/// The processes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers(Arc<Inner>);

struct Inner {
    program: PathBuf,
    limits: Limits,
    clock: Clock,
    idle: Mutex<Vec<Worker>>,
    turns: Semaphore,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workers({})", self.program.display())
    }
}

impl Workers {
    /// Workers that are processes of `program`.
    pub fn new(program: PathBuf, limits: Limits, clock: Clock) -> Self {
        let turns = Semaphore::new(limits.concurrent.max(1));
        Self(Arc::new(Inner { program, limits, clock, idle: Mutex::default(), turns }))
    }

    /// Runs a script over `context` and gives its value.
    pub async fn run(&self, lang: Lang, code: &str, context: Map<String, Value>) -> Result<Value, ScriptError> {
        let Limits { time, memory, output, .. } = self.0.limits;
        let job = Job { lang, code: code.to_owned(), context, memory, output };
        let _turn = self.0.turns.acquire().await.map_err(|_| ScriptError::Engine)?;
        let idle = self.0.idle.lock().pop();
        // One that waited may have died meanwhile; a fresh one has not.
        let mut answer = match idle {
            Some(worker) => self.ask(worker, &job, time).await?,
            None => None,
        };
        if answer.is_none() {
            answer = self.ask(self.spawn()?, &job, time).await?;
        }
        // It took its process with it: there is no more memory than that for a script.
        match answer.unwrap_or(Answer::Memory) {
            Answer::Done(value) => Ok(value),
            Answer::Thrown { message, line } => Err(ScriptError::Thrown { message, line }),
            Answer::Memory => Err(ScriptError::Memory(memory)),
            Answer::Output(why) => Err(ScriptError::Output(why)),
        }
    }

    /// Asks a worker; `None`: it went away. It waits for the next script afterwards.
    async fn ask(&self, mut worker: Worker, job: &Job, time: std::time::Duration) -> Result<Option<Answer>, ScriptError> {
        let answer = tokio::select! {
            answer = worker.ask(job) => answer,
            // Dropping the worker kills it.
            () = self.0.clock.sleep(time) => return Err(ScriptError::Timeout(time)),
        };
        worker.uses += 1;
        if answer.is_some() && worker.uses < USES {
            self.0.idle.lock().push(worker);
        }
        Ok(answer)
    }

    fn spawn(&self) -> Result<Worker, ScriptError> {
        let Process { child, input, output } = Process::start(&self.0.program, COMMAND).map_err(|_| ScriptError::Engine)?;
        Ok(Worker { _child: child, input, output: BufReader::new(output), uses: 0 })
    }
}

impl Worker {
    /// `None`: the process is gone.
    async fn ask(&mut self, job: &Job) -> Option<Answer> {
        let mut line = serde_json::to_vec(job).ok()?;
        line.push(b'\n');
        self.input.write_all(&line).await.ok()?;
        self.input.flush().await.ok()?;
        let mut answer = Vec::new();
        // The worker keeps to its limit; nobody relies on that.
        let most = job.output as u64 + 64 * 1024;
        (&mut self.output).take(most).read_until(b'\n', &mut answer).await.ok()?;
        serde_json::from_slice(&answer).ok()
    }
}
