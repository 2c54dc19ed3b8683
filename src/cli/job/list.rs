//! `job list`, `job latest` and `job cases`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::host::engine_folder;
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand};
use crate::job::folder::RunFolder;
use crate::job::interpolation::as_text;
use crate::job::paths::{case_files, run_output};

/// Options of `job list`.
#[derive(Debug, clap::Args)]
pub struct ListArguments {
    /// How many runs are listed.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// `job list`.
pub fn list(arguments: &ListArguments, context: &KitContext) -> KitResult<ExitCode> {
    let runs: Vec<Value> = RunFolder::list(&run_output(&context.paths.root)).iter().take(arguments.limit).map(row).collect();
    for run in &runs {
        let field = |name: &str| run.get(name).map(as_text).unwrap_or_default();
        context.say(format_args!("{:<8} {}  {}  {}", field("status"), field("runId"), field("startedAt"), field("jobType")));
    }
    if runs.is_empty() {
        context.say("No runs. `dispatch job run --case PATH` makes one.");
    }
    context.result(Value::Array(runs));
    Ok(ExitCode::SUCCESS)
}

/// A run in the list; one without a summary is under way, or its process was killed.
fn row(run: &RunFolder) -> Value {
    let summary = run.summary().unwrap_or_default();
    let meta = run.json("meta.json").unwrap_or_default();
    let member = |name: &str| summary.get(name).or_else(|| meta.get(name)).cloned().unwrap_or_default();
    let open = if engine_folder(&run.path).exists() { "OPEN" } else { "UNKNOWN" };
    let status = summary.get("status").cloned().unwrap_or_else(|| open.into());
    json!({ "runId": run.id, "jobType": member("jobType"), "startedAt": run.started_at(), "status": status, "runDir": run.path })
}

/// `job latest`.
pub fn latest(context: &KitContext) -> KitResult<ExitCode> {
    let runs = RunFolder::list(&run_output(&context.paths.root));
    let newest = runs.iter().find_map(|run| Some((run, run.summary()?)));
    let (run, summary) =
        newest.ok_or_else(|| KitFault::runtime("no run found").next("dispatch job cases", "list the cases that can be run"))?;
    let next = [NextCommand::new(format!("dispatch job inspect --run-id {}", run.id), "see the run")];
    context.say(format_args!("{}  {}", run.id, summary.get("status").map(as_text).unwrap_or_default()));
    context.next(&next);
    context.result(super::run::with_member(&summary, "next", json!(next)));
    Ok(ExitCode::SUCCESS)
}

/// `job cases`.
pub fn cases(context: &KitContext) -> KitResult<ExitCode> {
    let jobs = context.paths.root.join("jobs");
    let cases = case_files(&jobs);
    for case in &cases {
        context.say(case);
    }
    if cases.is_empty() {
        context.say(format_args!("No cases in {}.", jobs.display()));
    }
    let next: Vec<NextCommand> =
        cases.iter().take(1).map(|case| NextCommand::new(format!("dispatch job validate --case {case}"), "check a case")).collect();
    context.result(json!({ "root": jobs, "cases": cases, "next": next }));
    Ok(ExitCode::SUCCESS)
}
