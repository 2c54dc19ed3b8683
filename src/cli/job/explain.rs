//! `job explain`: what each step of a case does and reads; of a run, also how far it came and why it failed.

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::prepare::LoadedCase;
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand};
use crate::job::folder::RunFolder;
use crate::job::interpolation::{expressions, walk};
use crate::job::payload::effective_payload;
use crate::module::ActionHandler;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, a part of it, or `latest`.
    #[arg(long, value_name = "ID", conflicts_with = "case")]
    run_id: Option<String>,
    /// A case that was not run yet.
    #[arg(long, value_name = "PATH")]
    case: Option<String>,
}

/// Runs the command.
pub async fn run(arguments: Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let (loaded, folder) = match &arguments.case {
        Some(case) => (LoadedCase::load(case, &context.paths).await?, None),
        None => {
            let folder = super::find_run(context, arguments.run_id.as_deref().unwrap_or("latest"))?;
            let document = folder.json("job.case.input.json");
            let document = document.ok_or_else(|| KitFault::usage(format!("the run {} kept no case", folder.id)))?;
            let meta = folder.json("meta.json").unwrap_or_default();
            let path = meta.get("casePath").and_then(Value::as_str).unwrap_or_default().into();
            (LoadedCase::of_document(document, path, &context.paths).await?, Some(folder))
        }
    };
    let summary = folder.as_ref().and_then(RunFolder::summary).unwrap_or_default();
    let finished = folder.as_ref().and_then(|folder| folder.json("step-results.json")).unwrap_or_default();
    let failed = summary.get("failedStepIndex").and_then(Value::as_u64);
    let mut steps = Vec::new();
    for (index, step) in loaded.case.steps.iter().enumerate() {
        let payload = Value::Object(effective_payload(step, &loaded.registry, &loaded.defaults));
        let mut reads = BTreeSet::new();
        walk(&payload, "", &mut |_, text| reads.extend(expressions(text).into_iter().map(|read| read.trim().to_owned())));
        let action = loaded.registry.find(&step.action);
        let is_done = finished.as_array().is_some_and(|done| index < done.len());
        let state = match &folder {
            None => "planned",
            Some(_) if failed == u64::try_from(index + 1).ok() => "failed",
            Some(_) if is_done => "finished",
            Some(_) => "not reached",
        };
        let writes: Vec<String> = step.capture.iter().map(|(target, _)| format!("run.{target}")).collect();
        steps.push(json!({
            "index": index + 1, "stepId": step.id, "action": step.action, "description": action.map(|action| action.description.as_str()),
            "performedBy": action.map(|action| performed_by(&action.handler)), "reads": reads, "writes": writes, "state": state,
            "credential": step.credential, "waits": step.at_relative.as_ref().or(step.at_absolute.as_ref()),
        }));
    }
    let next = match &folder {
        None => {
            vec![NextCommand::new(format!("dispatch job run --case {}", arguments.case.as_deref().unwrap_or_default()), "run the case")]
        }
        Some(folder) => vec![NextCommand::new(format!("dispatch job assert --run-id {}", folder.id), "verify outcomes")],
    };
    context.say(&loaded.case.job_type);
    for step in &steps {
        let text = |name: &str| step.get(name).and_then(Value::as_str).unwrap_or_default();
        context.say(format_args!("{}  {}  [{}]  {}", text("stepId"), text("action"), text("state"), text("description")));
        for read in step.get("reads").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            context.say(format_args!("    reads {read}"));
        }
        for write in step.get("writes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            context.say(format_args!("    writes {write}"));
        }
    }
    if let Some(error) = summary.get("error").and_then(Value::as_str) {
        context.say(format_args!("failed: {}", super::progress::printable(error)));
    }
    context.next(&next);
    context.result(json!({
        "jobType": loaded.case.job_type, "casePath": loaded.path, "runId": folder.as_ref().map(|folder| folder.id.as_str()),
        "status": summary.get("status"), "error": summary.get("error"), "steps": steps, "next": next,
    }));
    Ok(ExitCode::SUCCESS)
}

const fn performed_by(handler: &ActionHandler) -> &'static str {
    match handler {
        ActionHandler::Sleep | ActionHandler::Poll => "engine",
        ActionHandler::Http(_) => "engine: HTTP",
        ActionHandler::Memory(_) => "this machine: memory",
        ActionHandler::Script(_) => "this machine: JavaScript",
    }
}
