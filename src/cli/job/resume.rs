//! `job resume`: a run goes on after its process was killed; what was done is not done again.

use std::process::ExitCode;

use serde_json::Value;

use super::driver::Settlement;
use super::execute::{JobExecutor, RunPlan, local_egress};
use super::host::{JobHost, ServerOptions};
use super::prepare::LoadedCase;
use super::run::finish;
use crate::cli::kit::{KitContext, KitFault, KitResult};
use crate::cli::signals::Signals;
use crate::clock::{Clock, Timestamp};
use crate::id::RunId;
use crate::job::folder::RunFolder;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, a part of it, or `latest`.
    #[arg(long, value_name = "ID", default_value = "latest")]
    run_id: String,
    /// What became of a call whose answer was lost.
    #[arg(long, value_enum)]
    settle: Option<Settlement>,
    #[command(flatten)]
    server: ServerOptions,
}

/// Runs the command.
pub async fn run(arguments: Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let folder = super::find_run(context, &arguments.run_id)?;
    let (plan, document, case_path) = read_plan(&folder)?;
    let loaded = LoadedCase::of_document(document, case_path, &context.paths).await?;
    let clock = Clock::system();
    let mut signals = Signals::listen()?;
    let host = JobHost::open(&arguments.server, &plan.data(), &clock).await?;
    let egress = local_egress(&clock)?;
    let executor = JobExecutor { host: &host, loaded: &loaded, paths: &context.paths, egress: &egress, output: context.output };
    let id = plan.id.clone();
    let work = async {
        let run = execution(&plan, &host, &arguments.server).await?;
        executor.resume(plan, run, arguments.settle).await
    };
    let stopped = tokio::select! {
        stopped = work => Some(stopped),
        () = signals.next() => None,
    };
    host.close().await?;
    finish(stopped, &id, context)
}

/// What the killed process kept of its run.
fn read_plan(folder: &RunFolder) -> KitResult<(RunPlan, Value, std::path::PathBuf)> {
    let ended = || {
        KitFault::usage(format!("the run {} has ended; there is nothing to resume", folder.id))
            .next(format!("dispatch job inspect --run-id {}", folder.id), "see how it ended")
    };
    let mut kept = folder.json(".engine/plan.json").ok_or_else(ended)?;
    let mut member = |name: &str| kept.get_mut(name).map(Value::take).unwrap_or_default();
    let (input, run) = (member("input"), member("run"));
    let started_at: Timestamp = serde_json::from_value(member("startedAt"))
        .map_err(|error| KitFault::runtime(format!("the plan of the run {} cannot be read: {error}", folder.id)))?;
    let plan = RunPlan {
        id: folder.id.clone(),
        folder: folder.path.clone(),
        input: input.as_object().cloned().unwrap_or_default(),
        run: run.as_object().cloned().unwrap_or_default(),
        started_at,
        is_job: member("isJob") != Value::Bool(false),
        is_resumable: true,
    };
    let path = member("casePath").as_str().unwrap_or_default().into();
    Ok((plan, member("case"), path))
}

/// The execution of a run: as it was noted, or the only one of the run's own database.
async fn execution(plan: &RunPlan, host: &JobHost, server: &ServerOptions) -> KitResult<RunId> {
    let noted = std::fs::read_to_string(plan.data().join("execution")).ok();
    if let Some(run) = noted.and_then(|text| text.trim().parse().ok()) {
        return Ok(run);
    }
    let unknown = || {
        KitFault::usage(format!("the run {} was interrupted before its start was acknowledged", plan.id))
            .next(format!("dispatch job replay --run-id {}", plan.id), "run the case again")
    };
    if server.server.is_some() {
        return Err(unknown());
    }
    let page = host.client.call(http::Method::GET, "/v1/executions?limit=1", None).await?;
    let id = page.get("data").and_then(|list| list.get(0)).and_then(|row| row.get("executionId").or_else(|| row.get("id")));
    id.and_then(Value::as_str).and_then(|id| id.parse().ok()).ok_or_else(unknown)
}
