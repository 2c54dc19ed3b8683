//! `job run-many`: a case run many times at once, each run in a folder of its own.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::execute::{JobExecutor, RunPlan, RunStop, local_egress};
use super::host::{JobHost, ServerOptions, unwritable};
use super::prepare::PreparedJob;
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand};
use crate::cli::signals::Signals;
use crate::clock::{Clock, Timestamp};
use crate::job::paths::{new_batch_id, run_output};
use crate::job::record::RunEnd;

/// Most runs at once.
const MAX_CONCURRENCY: usize = 20;
/// Longest text of a failed run's error.
const MAX_ERROR_CHARS: usize = 180;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The case: a path, or a name below `jobs/`.
    #[arg(long, value_name = "PATH")]
    case: String,
    /// An input of the case, `key=value`. Repeat.
    #[arg(long = "input", value_name = "KEY=VALUE")]
    inputs: Vec<String>,
    /// How many runs there are.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// How many run at once.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    concurrency: u32,
    /// Milliseconds between the starts of two runs, at least.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    stagger_ms: u64,
    /// Write the batch's summary to this file, too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    server: ServerOptions,
}

/// A batch at work.
struct Batch<'a> {
    id: String,
    count: usize,
    stagger: Duration,
    started: Timestamp,
    input: &'a Map<String, Value>,
    executor: JobExecutor<'a>,
    context: &'a KitContext,
    next: AtomicUsize,
    is_interrupted: AtomicBool,
    entries: Mutex<Vec<Value>>,
}

/// Runs the command.
pub async fn run(arguments: Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let prepared = PreparedJob::open(&arguments.case, &arguments.inputs, context).await?;
    let clock = Clock::system();
    let id = new_batch_id(&clock);
    let output = run_output(&context.paths.root);
    let data = output.join(format!("{id}.engine"));
    let mut signals = Signals::listen()?;
    let host = JobHost::open(&arguments.server, &data, &clock).await?;
    let egress = local_egress(&clock)?;
    let executor = JobExecutor { host: &host, loaded: &prepared.loaded, paths: &context.paths, egress: &egress, output: context.output };
    let count = usize::try_from(arguments.count).unwrap_or(usize::MAX);
    let batch = Batch {
        id: id.clone(),
        count,
        stagger: Duration::from_millis(arguments.stagger_ms),
        started: clock.now(),
        input: &prepared.input,
        executor,
        context,
        next: AtomicUsize::new(0),
        is_interrupted: AtomicBool::new(false),
        entries: Mutex::new(Vec::with_capacity(count)),
    };
    let concurrency = usize::try_from(arguments.concurrency).unwrap_or(MAX_CONCURRENCY).min(MAX_CONCURRENCY).min(count);
    {
        let work = join_all((1..=concurrency).map(|worker| batch.work(worker)));
        tokio::pin!(work);
        loop {
            tokio::select! {
                _ = &mut work => break,
                () = signals.next(), if !batch.is_interrupted.load(Ordering::Relaxed) => batch.is_interrupted.store(true, Ordering::Relaxed),
            }
        }
    }
    let path = output.join(format!("{id}.summary.json"));
    let summary = batch.summary(concurrency, arguments.stagger_ms, clock.now(), &prepared.loaded.path, &path);
    drop(batch);
    host.close().await?;
    let _ = std::fs::remove_dir_all(data);
    let text = format!("{summary:#}\n");
    std::fs::write(&path, &text).map_err(|error| unwritable(&path, &error))?;
    if let Some(out) = &arguments.out {
        super::inspect::write(&context.paths.cwd.join(out), &text)?;
    }
    report(&summary, &id, context)
}

impl Batch<'_> {
    /// Takes one run after the other, until there is none.
    async fn work(&self, worker: usize) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed) + 1;
            if index > self.count {
                return;
            }
            let entry = self.run(index, worker).await;
            self.entries.lock().push(entry);
        }
    }

    async fn run(&self, index: usize, worker: usize) -> Value {
        let clock = &self.executor.host.clock;
        if self.is_interrupted.load(Ordering::Relaxed) {
            return self.entry(index, 0, "SKIPPED", 0, Some("Interrupted before start"));
        }
        let due = self.started.after(self.stagger.saturating_mul(u32::try_from(index - 1).unwrap_or(u32::MAX)));
        clock.sleep_until(due).await;
        if self.is_interrupted.load(Ordering::Relaxed) {
            return self.entry(index, 0, "SKIPPED", 0, Some("Interrupted before dispatch"));
        }
        let scope = Map::from_iter([
            ("batchId".to_owned(), self.id.as_str().into()),
            ("batchIndex".to_owned(), index.into()),
            ("batchCount".to_owned(), self.count.into()),
            ("workerId".to_owned(), worker.into()),
        ]);
        let label = format!("job-run-{}-{index:03}", self.id);
        let plan = RunPlan { is_resumable: false, ..RunPlan::new(clock, &self.context.paths, &label, self.input.clone(), scope) };
        let (id, folder, began) = (plan.id.clone(), plan.folder.clone(), clock.instant());
        let stop = self.executor.start(plan, false).await;
        let millis = u64::try_from(clock.instant().duration_since(began).as_millis()).unwrap_or(u64::MAX);
        let error = match stop {
            Ok(RunStop::Ended(report)) => match &report.end {
                RunEnd::Succeeded => None,
                RunEnd::Failed(failure) => Some(report.summary.get("error").and_then(Value::as_str).unwrap_or(&failure.code).to_owned()),
            },
            Ok(RunStop::Unknown(unknown)) => Some(unknown.message),
            Err(fault) => Some(fault.message),
        };
        let status = if error.is_none() { "PASS" } else { "FAIL" };
        let mut entry = self.entry(index, worker, status, millis, error.as_deref());
        if let Some(map) = entry.as_object_mut() {
            map.insert("runId".into(), id.into());
            map.insert("runDir".into(), folder.display().to_string().into());
        }
        entry
    }

    fn entry(&self, index: usize, worker: usize, status: &str, millis: u64, error: Option<&str>) -> Value {
        let mut entry = json!({
            "batchId": self.id, "batchIndex": index, "batchCount": self.count, "workerId": worker, "status": status, "durationMs": millis,
        });
        if let (Some(map), Some(error)) = (entry.as_object_mut(), error) {
            let line: String = error.lines().next().unwrap_or_default().chars().take(MAX_ERROR_CHARS).collect();
            map.insert("error".into(), line.into());
        }
        entry
    }

    fn summary(&self, concurrency: usize, stagger: u64, ended: Timestamp, case: &std::path::Path, path: &std::path::Path) -> Value {
        let mut runs = self.entries.lock().clone();
        runs.sort_by_key(|run| run.get("batchIndex").and_then(Value::as_u64));
        let of_status = |status: &str| runs.iter().filter(|run| run.get("status").and_then(Value::as_str) == Some(status)).count();
        let (passed, failed, skipped) = (of_status("PASS"), of_status("FAIL"), of_status("SKIPPED"));
        let interrupted = self.is_interrupted.load(Ordering::Relaxed);
        let overall = if failed == 0 && skipped == 0 && !interrupted { "PASS" } else { "FAIL" };
        json!({
            "batchId": self.id, "count": self.count, "concurrency": concurrency, "staggerMs": stagger, "startedAt": self.started,
            "endedAt": ended, "durationMs": u64::try_from(ended.since(self.started).as_millis()).unwrap_or(u64::MAX),
            "overall": overall, "total": runs.len(), "completed": passed + failed, "passed": passed, "failed": failed, "skipped": skipped,
            "inFlight": 0, "interrupted": interrupted, "casePath": case, "summaryPath": path, "runs": runs,
        })
    }
}

fn report(summary: &Value, id: &str, context: &KitContext) -> KitResult<ExitCode> {
    let number = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or_default();
    context.say(format_args!(
        "{id}  {} of {} passed, {} failed, {} skipped, {} ms",
        number("passed"),
        number("count"),
        number("failed"),
        number("skipped"),
        number("durationMs"),
    ));
    let review = NextCommand::new(format!("dispatch job batch-inspect --batch-id {id}"), "review batch results");
    if summary.get("overall").and_then(Value::as_str) == Some("PASS") {
        let next = [review];
        context.next(&next);
        context.result(super::run::with_member(summary, "next", json!(next)));
        return Ok(ExitCode::SUCCESS);
    }
    let runs = summary.get("runs").and_then(Value::as_array);
    let failed = runs.into_iter().flatten().find(|run| run.get("status").and_then(Value::as_str) == Some("FAIL"));
    let first = failed.and_then(|run| run.get("runId")).and_then(Value::as_str);
    let fault = KitFault::runtime("job run-many failed").details(json!({ "result": summary }));
    let fault = fault.next(review.command, review.description);
    Err(match first {
        Some(run) => fault.next(format!("dispatch job replay --run-id {run}"), "retry first failure"),
        None => fault,
    })
}
