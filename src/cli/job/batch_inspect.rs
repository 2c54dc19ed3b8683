//! `job batch-inspect`: the analysis of a batch.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand};
use crate::job::batch::analyze;
use crate::job::interpolation::as_text;
use crate::job::paths::run_output;

const SUFFIX: &str = ".summary.json";

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The batch: its id, a part of it, the path of its summary, or `latest`.
    #[arg(long, value_name = "ID", default_value = "latest")]
    batch_id: String,
    /// How many of the slowest runs are named.
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let output = run_output(&context.paths.root);
    let path = find(&arguments.batch_id, &output, &context.paths.cwd)
        .ok_or_else(|| KitFault::runtime(format!("batch not found or ambiguous: {}", arguments.batch_id)))?;
    let text = std::fs::read_to_string(&path).map_err(|error| KitFault::runtime(format!("{} cannot be read: {error}", path.display())))?;
    let summary: Value =
        serde_json::from_str(&text).map_err(|error| KitFault::runtime(format!("{} is not JSON: {error}", path.display())))?;
    let analysis = analyze(&summary, &output, arguments.top);
    let at = |pointer: &str| analysis.pointer(pointer).map(as_text).unwrap_or_default();
    context.say(format_args!("{}  {}", at("/batchId"), at("/overall")));
    context.say(format_args!(
        "passed {}  failed {}  skipped {}  total {} ms",
        at("/passed"),
        at("/failed"),
        at("/skipped"),
        at("/totalDurationMs")
    ));
    context.say(format_args!(
        "runs   min {} ms  avg {} ms  p50 {} ms  p95 {} ms  max {} ms",
        at("/runDuration/minMs"),
        at("/runDuration/avgMs"),
        at("/runDuration/p50Ms"),
        at("/runDuration/p95Ms"),
        at("/runDuration/maxMs"),
    ));
    context.say(format_args!(
        "calls  {}  avg {} ms  at once {}",
        at("/callTotals/calls"),
        at("/callTotals/avgMs"),
        at("/overlap/maxConcurrentCalls")
    ));
    for slow in analysis.get("slowRuns").and_then(Value::as_array).into_iter().flatten() {
        let field = |name: &str| slow.get(name).map(as_text).unwrap_or_default();
        context.say(format_args!("  {}  {}  {} ms  {}", field("runId"), field("status"), field("durationMs"), field("error")));
    }
    for hint in analysis.get("hints").and_then(Value::as_array).into_iter().flatten() {
        context.say(format_args!("! {}", as_text(hint)));
    }
    let slowest = analysis.pointer("/slowRuns/0/runId").and_then(Value::as_str);
    let next: Vec<NextCommand> =
        slowest.map(|run| NextCommand::new(format!("dispatch job inspect --run-id {run}"), "see the slowest run")).into_iter().collect();
    context.next(&next);
    context.result(super::run::with_member(&analysis, "next", json!(next)));
    Ok(ExitCode::SUCCESS)
}

fn find(name: &str, output: &Path, cwd: &Path) -> Option<PathBuf> {
    let file = cwd.join(name);
    if name.ends_with(".json") && file.is_file() {
        return Some(file);
    }
    let entries = std::fs::read_dir(output).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut ids: Vec<String> = entries.filter_map(|name| name.strip_suffix(SUFFIX).map(str::to_owned)).collect();
    ids.sort();
    let path = |id: &str| output.join(format!("{id}{SUFFIX}"));
    if name == "latest" {
        return ids.last().map(|id| path(id));
    }
    if ids.iter().any(|id| id == name) {
        return Some(path(name));
    }
    let mut fitting = ids.iter().filter(|id| !name.is_empty() && id.contains(name));
    let only = fitting.next()?;
    fitting.next().is_none().then(|| path(only))
}
