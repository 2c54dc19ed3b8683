//! `job run`: one run of a case.

use std::path::PathBuf;
use std::process::ExitCode;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde_json::{Map, Value, json};

use super::driver::UnknownEffect;
use super::execute::{JobExecutor, RunPlan, RunReport, RunStop, local_egress, remove_engine_folder};
use super::host::{JobHost, ServerOptions, engine_folder};
use super::prepare::{LoadedCase, PreparedJob};
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand, home_relative};
use crate::cli::signals::{INTERRUPTED, Signals};
use crate::clock::Clock;
use crate::job::paths::run_output;
use crate::job::record::RunEnd;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The case: a path, or a name below `jobs/`.
    #[arg(long, value_name = "PATH")]
    case: String,
    /// An input of the case, `key=value`. Repeat.
    #[arg(long = "input", value_name = "KEY=VALUE")]
    inputs: Vec<String>,
    /// Run the jobs that fill missing values of memory first.
    #[arg(long)]
    resolve_deps: bool,
    #[command(flatten)]
    server: ServerOptions,
}

/// Runs the command.
pub async fn run(arguments: Arguments, context: &KitContext) -> KitResult<ExitCode> {
    if arguments.resolve_deps {
        fill(arguments.case.clone(), &arguments.server, context, Vec::new()).await?;
    }
    let prepared = PreparedJob::open(&arguments.case, &arguments.inputs, context).await?;
    perform(prepared, "job-run", &arguments.server, context).await
}

/// Runs the jobs that fill the missing memory of a case, theirs first. `above` are the cases that wait for this one.
fn fill<'a>(case: String, server: &'a ServerOptions, context: &'a KitContext, above: Vec<PathBuf>) -> LocalBoxFuture<'a, KitResult<()>> {
    async move {
        let loaded = LoadedCase::load(&case, &context.paths).await?;
        if above.contains(&loaded.path) {
            return Err(KitFault::runtime(format!("the fill jobs of {} need each other", loaded.path.display())));
        }
        let issues = loaded.dependency_issues(&Map::new(), &context.paths);
        let above: Vec<PathBuf> = above.into_iter().chain([loaded.path]).collect();
        let mut jobs: Vec<PathBuf> = Vec::new();
        for path in issues.into_iter().filter(|issue| issue.namespace.is_some()).filter_map(|issue| issue.fill?.path) {
            if !jobs.contains(&path) {
                jobs.push(path);
            }
        }
        for job in jobs {
            let text = job.display().to_string();
            fill(text.clone(), server, context, above.clone()).await?;
            let failed = |message: &str| KitFault::runtime(format!("the fill job {text} failed: {message}"));
            let prepared = PreparedJob::open(&text, &[], context).await.map_err(|fault| failed(&fault.message))?;
            let (_, stopped) = execute(prepared, "job-dependency-fill", server, context, false).await?;
            match stopped {
                Some(Ok(RunStop::Ended(report))) => {
                    remove_engine_folder(&report.plan.folder);
                    if report.end != RunEnd::Succeeded {
                        return Err(failed(report.summary.get("error").and_then(Value::as_str).unwrap_or_default()));
                    }
                }
                Some(Ok(RunStop::Unknown(unknown))) => return Err(failed(&unknown.message)),
                Some(Err(fault)) => return Err(failed(&fault.message)),
                None => return Err(failed("it was interrupted")),
            }
        }
        Ok(())
    }
    .boxed_local()
}

/// Runs a prepared job and reports it.
pub async fn perform(prepared: PreparedJob, label: &str, server: &ServerOptions, context: &KitContext) -> KitResult<ExitCode> {
    let (id, stopped) = execute(prepared, label, server, context, true).await?;
    finish(stopped, &id, context)
}

/// Runs a prepared job: its id, and how it stopped; nothing when it was interrupted.
async fn execute(
    prepared: PreparedJob,
    label: &str,
    server: &ServerOptions,
    context: &KitContext,
    is_shown: bool,
) -> KitResult<(String, Option<KitResult<RunStop>>)> {
    let clock = Clock::system();
    let plan = RunPlan::new(&clock, &context.paths, label, prepared.input, Map::new());
    let mut signals = Signals::listen()?;
    if is_shown {
        context.say(format_args!("{}  {}", prepared.loaded.case.job_type, plan.id));
    }
    let host = JobHost::open(server, &plan.data(), &clock).await?;
    let egress = local_egress(&clock)?;
    let executor = JobExecutor { host: &host, loaded: &prepared.loaded, paths: &context.paths, egress: &egress, output: context.output };
    let id = plan.id.clone();
    let stopped = tokio::select! {
        stopped = executor.start(plan, is_shown) => Some(stopped),
        () = signals.next() => None,
    };
    host.close().await?;
    Ok((id, stopped))
}

/// Reports how a run stopped; `None`: it was interrupted.
pub fn finish(stopped: Option<KitResult<RunStop>>, id: &str, context: &KitContext) -> KitResult<ExitCode> {
    match stopped {
        Some(Ok(RunStop::Ended(report))) => report_end(&report, context),
        Some(Ok(RunStop::Unknown(unknown))) => Err(unknown_fault(&unknown, id)),
        Some(Err(fault)) => {
            let folder = run_output(&context.paths.root).join(id);
            if engine_folder(&folder).join("execution").is_file() {
                return Err(fault.next(format!("dispatch job resume --run-id {id}"), "go on where the run stopped"));
            }
            // Nothing was started, so there is nothing to keep.
            let _ = std::fs::remove_dir_all(folder);
            Err(fault)
        }
        None => {
            let fault = KitFault::runtime(format!("the run {id} was interrupted"));
            let fault = fault.next(format!("dispatch job resume --run-id {id}"), "go on where the run stopped");
            crate::cli::kit::print_fault(context.output, &fault);
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

fn unknown_fault(unknown: &UnknownEffect, id: &str) -> KitFault {
    let step = unknown.step.map_or_else(String::new, |step| format!("step {}: ", step + 1));
    KitFault::runtime(format!("{step}{}", unknown.message))
        .details(json!({ "runId": id, "stepIndex": unknown.step.map(|step| step + 1) }))
        .next(format!("dispatch job resume --run-id {id} --settle retry"), "it did not happen: do it again")
        .next(format!("dispatch job resume --run-id {id} --settle succeeded"), "it happened: go on")
        .next(format!("dispatch job resume --run-id {id} --settle failed"), "end the run as failed")
}

fn report_end(report: &RunReport, context: &KitContext) -> KitResult<ExitCode> {
    remove_engine_folder(&report.plan.folder);
    let id = &report.plan.id;
    match &report.end {
        RunEnd::Succeeded => {
            let next = [NextCommand::new(format!("dispatch job assert --run-id {id}"), "verify outcomes")];
            context.result(with_member(&report.summary, "next", json!(next)));
            context.say("Complete");
            context.say(format_args!("Run dir  {}", home_relative(&report.plan.folder)));
            context.next(&next);
            Ok(ExitCode::SUCCESS)
        }
        RunEnd::Failed(failure) => {
            context.say(format_args!("Failed  run dir {}", home_relative(&report.plan.folder)));
            let text = report.summary.get("error").and_then(Value::as_str).unwrap_or_default();
            context.say(format_args!("{}", super::progress::printable(text)));
            let mut fault = KitFault::runtime("job run failed").details(json!({ "result": report.summary }));
            if let Some(step) = failure.step {
                let command = format!("dispatch job inspect --run-id {id} --step {}", step + 1);
                fault = fault.next(command, format!("see what failed at step {}", step + 1));
            }
            Err(fault
                .next(format!("dispatch job readable --run-id {id}"), "full request/response trace")
                .next(format!("dispatch job replay --run-id {id}"), "retry with same inputs"))
        }
    }
}

/// An object with one more member.
pub fn with_member(object: &Value, name: &str, value: Value) -> Value {
    let mut map = object.as_object().cloned().unwrap_or_default();
    map.insert(name.to_owned(), value);
    Value::Object(map)
}
