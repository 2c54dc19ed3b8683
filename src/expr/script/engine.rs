//! One run inside QuickJS.
//!
//! Must be called on a thread that may block, and in a process that may be killed: built-in functions that iterate over a length chosen by the script
//! never check the time limit. Every run creates its own runtime and drops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::promise::PromiseState;
use rquickjs::{Array, Context, Ctx, Function, Persistent, Promise, Runtime};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::fault::{self, Fault};
use super::{Limits, Output, ScriptError};
use crate::clock::Clock;
use crate::expr::ParseError;
use crate::expr::bounds::{MAX_DEPTH, depth};

/// Language features without the host: no performance counters, no finalizers.
type Language = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
);

const PRELUDE: &str = include_str!("prelude.js");
/// Interrupts per millisecond of allowed time at which a script is stopped even if the clock stands still, as it does in a
/// simulation. The engine interrupts every 10,000 branches, so a real millisecond never holds this many.
const TICKS_PER_MILLISECOND: u64 = 100;

/// One script to run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    code: String,
    /// The variables: an object.
    variables: Box<RawValue>,
    /// The positions of integers in it that a number would round, with their digits.
    integers: Box<RawValue>,
    limits: Limits,
    /// The time that the script sees, in milliseconds, and the seed of its random numbers.
    now: i64,
    seed: u64,
}

/// The result of a script.
#[derive(Debug, Serialize, Deserialize)]
pub struct ScriptOutput {
    /// Its value as JSON, in which integers are marked; `None` for undefined.
    text: Option<String>,
    logs: Vec<String>,
}

/// Tells the engine when to stop, and remembers that it did.
#[derive(Clone)]
struct Deadline {
    clock: Clock,
    start: tokio::time::Instant,
    time: Duration,
    ticks: u64,
    passed: Arc<AtomicBool>,
}

impl Deadline {
    fn new(clock: &Clock, time: Duration) -> Self {
        let ticks = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_mul(TICKS_PER_MILLISECOND).max(1);
        Self { clock: clock.clone(), start: clock.instant(), time, ticks, passed: Arc::default() }
    }

    fn tick(&mut self) -> bool {
        self.ticks = self.ticks.saturating_sub(1);
        let passed = self.ticks == 0 || self.clock.instant().duration_since(self.start) > self.time;
        if passed {
            self.passed.store(true, Ordering::Relaxed);
        }
        passed
    }

    fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }
}

/// Why a run ended without a value.
enum Stop {
    Fault(ScriptError),
    /// Null was thrown; by whom, the heap tells.
    Null,
}

impl From<ScriptError> for Stop {
    fn from(fault: ScriptError) -> Self {
        Self::Fault(fault)
    }
}

impl Job {
    pub fn new(code: &str, scope: &Map<String, Value>, limits: Limits, clock: &Clock) -> Result<Self, ScriptError> {
        let (now, seed) = (clock.now().as_millis(), clock.below(u64::from(u32::MAX)));
        let (Ok(variables), Ok(integers)) = (to_raw_value(scope), to_raw_value(&long_integers(scope))) else {
            return Err(ScriptError::Engine);
        };
        Ok(Self { code: code.to_owned(), variables, integers, limits, now, seed })
    }

    /// Runs to the end or to a limit.
    pub fn run(self, clock: &Clock) -> Result<ScriptOutput, ScriptError> {
        let runtime = Runtime::new().map_err(|_| ScriptError::Engine)?;
        let context = Context::custom::<Language>(&runtime).map_err(|_| ScriptError::Engine)?;
        // The engine does not survive running out of memory while it sets itself up, so limits come after.
        runtime.set_memory_limit(self.limits.memory);
        runtime.set_max_stack_size(self.limits.stack);
        let deadline = Deadline::new(clock, self.limits.time);
        let mut watch = deadline.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || watch.tick())));
        let result = self.evaluate(&runtime, &context, deadline.clone());
        if deadline.has_passed() {
            return Err(ScriptError::Timeout(self.limits.time));
        }
        match result {
            Err(Stop::Null) if self.is_full(&runtime) || !self.throws() => Err(ScriptError::Memory(self.limits.memory)),
            Err(Stop::Null) => Err(ScriptError::Thrown { message: "null".into(), line: None }),
            Err(Stop::Fault(fault)) => Err(fault),
            Ok(made) => Ok(made),
        }
    }

    /// Whether the heap is so full that a null was thrown for want of memory.
    fn is_full(&self, runtime: &Runtime) -> bool {
        usize::try_from(runtime.memory_usage().malloc_size).is_ok_and(|used| used > self.limits.memory / 2)
    }

    /// Whether the code could throw a null of its own: one that was met while memory was short is often gone again with the heap.
    fn throws(&self) -> bool {
        ["throw", "reject", "new Promise", "eval", "Function", "constructor"].iter().any(|word| self.code.contains(word))
    }

    fn evaluate(&self, runtime: &Runtime, context: &Context, deadline: Deadline) -> Result<ScriptOutput, Stop> {
        let (promise, logs) = context.with(|ctx| self.start(&ctx))?;
        self.settle(runtime, context, &promise, deadline)?;
        context.with(|ctx| self.finish(&ctx, promise, logs))
    }

    /// Calls the script; what it gave is a promise even when it did not wait for anything.
    fn start(&self, ctx: &Ctx<'_>) -> Result<(Persistent<Promise<'static>>, Persistent<Array<'static>>), Stop> {
        let caught = |_| self.explain(fault::caught(ctx));
        let variables = ctx.json_parse(self.variables.get()).map_err(caught)?;
        let integers = ctx.json_parse(self.integers.get()).map_err(caught)?;
        let setup: Function = ctx.eval(PRELUDE).map_err(caught)?;
        let logs: Array = setup.call((variables, integers, self.now as f64, self.seed as f64)).map_err(caught)?;
        let main = compile(ctx, &self.code).map_err(ScriptError::Syntax)?;
        let promise: Promise = main.call(()).map_err(caught)?;
        Ok((Persistent::save(ctx, promise), Persistent::save(ctx, logs)))
    }

    /// Works through the queue of promise reactions until the script's own promise is settled.
    fn settle(
        &self,
        runtime: &Runtime,
        context: &Context,
        promise: &Persistent<Promise<'static>>,
        mut deadline: Deadline,
    ) -> Result<(), Stop> {
        let pending = || context.with(|ctx| promise.clone().restore(&ctx).is_ok_and(|promise| promise.state() == PromiseState::Pending));
        let mut turns = 0u32;
        while pending() {
            turns = turns.wrapping_add(1);
            // Short reactions may never be interrupted, so an endless chain of them is counted here.
            if deadline.has_passed() || (turns.is_multiple_of(64) && deadline.tick()) {
                return Err(ScriptError::Timeout(self.limits.time).into());
            }
            match runtime.execute_pending_job() {
                Ok(true) => {}
                Ok(false) => return Err(ScriptError::Stalled.into()),
                // What a script throws rejects a promise; only the engine itself fails a reaction.
                Err(failed) => return Err(failed.0.with(|ctx| self.explain(fault::caught(&ctx)))),
            }
        }
        Ok(())
    }

    fn finish(&self, ctx: &Ctx<'_>, promise: Persistent<Promise<'static>>, logs: Persistent<Array<'static>>) -> Result<ScriptOutput, Stop> {
        let caught = |_| self.explain(fault::caught(ctx));
        let promise = promise.restore(ctx).map_err(|_| ScriptError::Engine)?;
        let returned: rquickjs::Value = match promise.result() {
            Some(result) => result.map_err(caught)?,
            None => return Err(ScriptError::Stalled.into()),
        };
        let logs = logs.restore(ctx).map_err(|_| ScriptError::Engine)?;
        let finish: Function = logs.as_object().get("finish").map_err(caught)?;
        finish.call::<_, ()>(()).map_err(caught)?;
        let text = ctx.json_stringify(returned).map_err(caught)?.map(|text| text.to_string()).transpose().map_err(caught)?;
        if text.as_ref().is_some_and(|text| text.len() > self.limits.output) {
            return Err(too_large(&self.limits).into());
        }
        Ok(ScriptOutput { text, logs: logs.iter::<String>().filter_map(Result::ok).collect() })
    }

    fn explain(&self, fault: Fault) -> Stop {
        Stop::Fault(match fault {
            Fault::Null => return Stop::Null,
            Fault::Memory => ScriptError::Memory(self.limits.memory),
            Fault::Stack => ScriptError::Stack,
            Fault::Cycle => ScriptError::Output("contains itself".into()),
            Fault::Thrown { message, line } => {
                ScriptError::Thrown { message, line: line.and_then(|line| line.checked_sub(HEADER)).filter(|line| *line > 0) }
            }
        })
    }
}

fn too_large(limits: &Limits) -> ScriptError {
    ScriptError::Output(format!("is larger than {} bytes", limits.output))
}

impl ScriptOutput {
    /// The value itself.
    pub fn output(self, limits: &Limits) -> Result<Output, ScriptError> {
        let value = self.text.as_deref().map_or(Ok(Value::Null), |text| result(text, limits))?;
        Ok(Output { value, logs: self.logs })
    }
}

fn result(text: &str, limits: &Limits) -> Result<Value, ScriptError> {
    if text.len() > limits.output {
        return Err(too_large(limits));
    }
    let mut value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // Cutting a string can leave half a character behind, which JSON text cannot hold.
        Err(_) => serde_json::from_str(&whole_characters(text))
            .map_err(|_| ScriptError::Output(format!("nests deeper than {MAX_DEPTH}, or is not plain data")))?,
    };
    if depth(&value) > MAX_DEPTH {
        return Err(ScriptError::Output(format!("nests deeper than {MAX_DEPTH}")));
    }
    if text.contains(INTEGER_MARK_IN_JSON) {
        restore_integers(&mut value);
    }
    Ok(value)
}

/// What the prelude writes before the digits of a BigInt in the script's result.
const INTEGER_MARK: &str = "\0integer:";
const INTEGER_MARK_IN_JSON: &str = "\\u0000integer:";
/// The largest integer up to which a JavaScript number holds every one.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Where integers stand that a JavaScript number would round, with their digits.
fn long_integers(scope: &Map<String, Value>) -> Vec<(Vec<Value>, String)> {
    let mut found = Vec::new();
    for (name, value) in scope {
        find_long_integers(value, &mut vec![name.clone().into()], &mut found);
    }
    found
}

fn find_long_integers(value: &Value, path: &mut Vec<Value>, found: &mut Vec<(Vec<Value>, String)>) {
    let mut look_at = |key: Value, value: &Value| {
        path.push(key);
        find_long_integers(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| look_at(name.clone().into(), value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| look_at(index.into(), value)),
        Value::Number(number) => {
            let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if size.is_some_and(|size| size > MAX_SAFE_INTEGER) {
                found.push((path.clone(), number.to_string()));
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Puts integers in the place of their marked digits; one beyond 64 bits stays a text.
fn restore_integers(value: &mut Value) {
    match value {
        Value::String(text) => {
            let Some(digits) = text.strip_prefix(INTEGER_MARK) else { return };
            *value = match (digits.parse::<i64>(), digits.parse::<u64>()) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => Value::String(digits.to_owned()),
            };
        }
        Value::Array(items) => items.iter_mut().for_each(restore_integers),
        Value::Object(map) => map.values_mut().for_each(restore_integers),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Parses without running anything.
pub fn validate(code: &str) -> Result<(), ParseError> {
    let engine = || ParseError::new(ScriptError::Engine.to_string());
    let runtime = Runtime::new().map_err(|_| engine())?;
    let context = Context::custom::<Language>(&runtime).map_err(|_| engine())?;
    runtime.set_memory_limit(Limits::default().memory);
    runtime.set_max_stack_size(Limits::default().stack);
    context.with(|ctx| {
        let expression = expression(code);
        // Brackets that close one kind of list early do not close the other.
        let stands = |body: &str| parses(&ctx, FUNCTION, body).is_ok();
        if !expression.is_empty() && stands(&format!("return ({expression}\n)")) && stands(&format!("return [{expression}\n]")) {
            return Ok(());
        }
        for wrapper in [FUNCTION, METHOD] {
            parses(&ctx, wrapper, code).map_err(|fault| fault::syntax(fault, code, HEADER))?;
        }
        Ok(())
    })
}

/// A function as a statement. It is parsed and never reached, so that nothing runs, whatever a body makes of it.
const FUNCTION: (&str, &str) = ("throw 0; async function anonymous(\n) {\n", "\n}");
/// A function in an object. What may come after its end cannot come after a statement's: a body that parses in both ends where it should.
const METHOD: (&str, &str) = ("throw 0; ({ async anonymous(\n) {\n", "\n} })");

fn parses(ctx: &Ctx<'_>, (before, after): (&str, &str), body: &str) -> Result<(), Fault> {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some("<input>".into());
    match ctx.eval_with_options::<(), _>(format!("{before}{body}{after}"), options) {
        Ok(()) => Ok(()),
        Err(_) => match fault::caught(ctx) {
            Fault::Thrown { message, .. } if message == "0" => Ok(()),
            fault => Err(fault),
        },
    }
}

/// A script as one expression, if it is one: without what ends a statement.
fn expression(code: &str) -> &str {
    code.trim().trim_end_matches(';').trim_end()
}

/// Lines that the constructor of functions puts before a body.
const HEADER: usize = 2;

/// The script as a function: of one expression if it is one, else of a body.
fn compile<'js>(ctx: &Ctx<'js>, code: &str) -> Result<Function<'js>, ParseError> {
    let engine = |_| ParseError::new(ScriptError::Engine.to_string());
    let constructor: Function = ctx.eval("(async function () {}).constructor").map_err(engine)?;
    let to_text: Function = ctx.eval("Function.prototype.call.bind(Function.prototype.toString)").map_err(engine)?;
    let expression = expression(code);
    if !expression.is_empty() {
        // On the header's line, so that lines count the same as in a body.
        if let Ok(function) = function(&constructor, &to_text, &format!("return ({expression}\n)")) {
            return Ok(function);
        }
        ctx.catch();
    }
    function(&constructor, &to_text, code).map_err(|fault| match fault {
        Refused::Thrown => fault::syntax(fault::caught(ctx), code, HEADER),
        Refused::Closed => ParseError::new("the script closes a brace that it did not open"),
    })
}

enum Refused {
    /// An exception is pending.
    Thrown,
    /// The body ended before its end.
    Closed,
}

/// One async function of a body. The engine pastes a body between braces, so one that closes them early would pass;
/// it shows in the text of the function that came out.
fn function<'js>(constructor: &Function<'js>, to_text: &Function<'js>, body: &str) -> Result<Function<'js>, Refused> {
    let made: Function = constructor.call((body,)).map_err(|_| Refused::Thrown)?;
    let text: String = to_text.call((made.clone(),)).map_err(|_| Refused::Thrown)?;
    let whole = text.strip_prefix("async function anonymous(\n) {\n").and_then(|text| text.strip_suffix("\n}"));
    if whole == Some(body) { Ok(made) } else { Err(Refused::Closed) }
}

/// Replaces the escapes of lone surrogates in a JSON text.
fn whole_characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let unit = from.strip_prefix("\\u").and_then(|digits| u16::from_str_radix(digits.get(..4)?, 16).ok());
        let (kept, length) = match unit {
            Some(0xD800..=0xDFFF) => ("\u{FFFD}", 6),
            _ => (from.get(..2).unwrap_or(from), from.len().min(2)),
        };
        out.push_str(kept);
        rest = from.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}
