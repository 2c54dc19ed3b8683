//! `job inspect`, `job readable` and `job dump`: what a run left, as a view, a text or one document.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::host::unwritable;
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand, home_relative};
use crate::job::folder::{RunFolder, is_failed_call};
use crate::job::interpolation::as_text;

/// Options of `job inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArguments {
    /// The run: its id, a part of it, or `latest`.
    #[arg(long, value_name = "ID", default_value = "latest")]
    run_id: String,
    /// Only the calls of this step, counted from 1.
    #[arg(long, value_name = "N")]
    step: Option<usize>,
    /// Show the last failed call as a command of a shell.
    #[arg(long)]
    show_curl: bool,
}

/// Options of `job readable`.
#[derive(Debug, clap::Args)]
pub struct ReadableArguments {
    /// The run: its id, a part of it, or `latest`.
    #[arg(long, value_name = "ID", default_value = "latest")]
    run_id: String,
    /// The file; `readable-requests-responses.txt` in the run's folder when absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Options of `job dump`.
#[derive(Debug, clap::Args)]
pub struct DumpArguments {
    /// The run: its id, a part of it, or `latest`.
    #[arg(long, value_name = "ID", default_value = "latest")]
    run_id: String,
    /// The file; stdout when absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// `job inspect`.
pub fn inspect(arguments: &InspectArguments, context: &KitContext) -> KitResult<ExitCode> {
    let folder = super::find_run(context, &arguments.run_id)?;
    let resolution = folder.json("module_resolution.json").unwrap_or_default();
    let mut calls = folder.calls();
    if let Some(number) = arguments.step {
        let step = number.checked_sub(1).and_then(|index| resolution.get("steps")?.get(index));
        let id = step.and_then(|step| step.get("stepId")).and_then(Value::as_str);
        let id = id.ok_or_else(|| KitFault::usage(format!("the run {} has no step {number}", folder.id)))?;
        let attempt = format!("{id}_attempt_");
        let is_own = |call: &Value| call.get("stepId").and_then(Value::as_str).is_some_and(|own| own == id || own.starts_with(&attempt));
        calls.retain(is_own);
    }
    let failed: Vec<&Value> = calls.iter().filter(|call| is_failed_call(call)).collect();
    let last = failed.last().map(|call| last_failure(&folder, (*call).clone(), &resolution, arguments.show_curl));
    let summary = folder.summary();
    let next = [
        NextCommand::new(format!("dispatch job readable --run-id {}", folder.id), "full request/response trace"),
        NextCommand::new(format!("dispatch job explain --run-id {}", folder.id), "see the steps and why the run failed"),
    ];
    let text = |name: &str| summary.as_ref().and_then(|summary| summary.get(name)).map(as_text).unwrap_or_default();
    context.say(format_args!("{}  {}", folder.id, text("status")));
    context.say(format_args!("calls {}  failed {}", calls.len(), failed.len()));
    if !text("error").is_empty() {
        context.say(format_args!("error  {}", super::progress::printable(&text("error"))));
    }
    if let Some(last) = &last {
        let field = |name: &str| last.get(name).map(as_text).unwrap_or_default();
        context.say(format_args!("last failure  {} {} {} -> {}", field("idx"), field("method"), field("url"), field("httpCode")));
        if arguments.show_curl {
            context.say(field("curl"));
        }
    }
    context.next(&next);
    context.result(json!({
        "runId": folder.id, "runDir": folder.path, "summary": summary, "moduleResolution": resolution, "totalCalls": calls.len(),
        "failedCallCount": failed.len(), "lastFailure": last, "next": next,
    }));
    Ok(ExitCode::SUCCESS)
}

fn last_failure(folder: &RunFolder, call: Value, resolution: &Value, show_curl: bool) -> Value {
    let mut call = folder.whole_call(call);
    let own = call.get("stepId").cloned();
    let steps = resolution.get("steps").and_then(Value::as_array);
    let step = steps.into_iter().flatten().find(|step| step.get("stepId") == own.as_ref());
    let provider = step.and_then(|step| step.get("resolved")).cloned().unwrap_or_default();
    let uuid = call.pointer("/response/uuid").cloned().unwrap_or_default();
    if let Some(map) = call.as_object_mut() {
        map.insert("actionProvider".into(), provider);
        map.insert("uuid".into(), uuid);
        if !show_curl {
            map.remove("curl");
        }
    }
    call
}

/// `job readable`.
pub fn readable(arguments: &ReadableArguments, context: &KitContext) -> KitResult<ExitCode> {
    let folder = super::find_run(context, &arguments.run_id)?;
    let out = arguments.out.as_ref().map_or_else(|| folder.path.join("readable-requests-responses.txt"), |out| context.paths.cwd.join(out));
    write(&out, &folder.readable())?;
    context.say(format_args!("Wrote {}", home_relative(&out)));
    context.result(json!({ "runId": folder.id, "runDir": folder.path, "out": out, "calls": folder.calls().len() }));
    Ok(ExitCode::SUCCESS)
}

/// `job dump`.
pub fn dump(arguments: &DumpArguments, context: &KitContext) -> KitResult<ExitCode> {
    let folder = super::find_run(context, &arguments.run_id)?;
    let dump = folder.dump();
    match &arguments.out {
        None => context.document(dump),
        Some(out) => {
            let out = context.paths.cwd.join(out);
            write(&out, &format!("{dump:#}\n"))?;
            context.say(format_args!("Wrote {}", home_relative(&out)));
            context.result(json!({ "runId": folder.id, "out": out }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file, and the folders above it.
pub fn write(path: &Path, text: &str) -> KitResult<()> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder.and_then(|()| std::fs::write(path, text)).map_err(|error| unwritable(path, &error))
}
