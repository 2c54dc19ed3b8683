//! `job from-run`: a case made of a finished run, with the values that the run had.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand, home_relative};
use crate::job::case::JobCase;
use crate::job::folder::RunFolder;
use crate::job::interpolation::walk;
use crate::job::redaction::is_redacted;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, a part of it, or `latest`.
    run_id: String,
    /// The file of the case; `jobs/from-<run>.job.case.json` of the workspace when absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let folder = super::find_run(context, &arguments.run_id)?;
    let document = document(&folder).ok_or_else(|| KitFault::usage(format!("the run {} kept neither a case nor an action", folder.id)))?;
    let mut redacted = Vec::new();
    walk(&document, "", &mut |at, text| {
        if is_redacted(&Value::String(text.to_owned())) {
            redacted.push(at.to_owned());
        }
    });
    JobCase::parse(document.clone())
        .map_err(|issues| KitFault::runtime("the run's case cannot be read again").details(json!({ "issues": issues })))?;
    let suffix = if is_seed(&folder) { "job.seed.json" } else { "job.case.json" };
    let default = || context.paths.root.join("jobs").join(format!("from-{}.{suffix}", folder.id));
    let out = arguments.out.as_ref().map_or_else(default, |out| context.paths.cwd.join(out));
    super::inspect::write(&out, &format!("{document:#}\n"))?;
    let next = [NextCommand::new(format!("dispatch job validate --case {}", out.display()), "check the case")];
    context.say(format_args!("Wrote {}", home_relative(&out)));
    for place in &redacted {
        context.say(format_args!("! {place} holds a secret that was not kept; read it with ${{env.NAME}}"));
    }
    context.next(&next);
    context.result(json!({ "runId": folder.id, "casePath": out, "redacted": redacted, "next": next }));
    Ok(ExitCode::SUCCESS)
}

/// The case: of a job with its resolved values; of a single action with one step.
fn document(folder: &RunFolder) -> Option<Value> {
    let meta = folder.json("meta.json")?;
    if let Some(action) = meta.get("action").and_then(Value::as_str) {
        let payload = meta.get("payload").cloned().unwrap_or_else(|| json!({}));
        let mut case = json!({
            "schemaVersion": 1, "jobType": action.replace('.', "-"),
            "scenario": { "steps": [{ "id": "action", "action": action, "payload": payload }] },
        });
        if let (Some(map), Some(http)) = (case.as_object_mut(), meta.get("http").filter(|http| http.is_object())) {
            map.insert("http".into(), http.clone());
        }
        return Some(case);
    }
    let input = folder.json("job.case.input.json")?;
    let mut case = folder.json("job.case.resolved.json").unwrap_or_else(|| input.clone()).as_object().cloned().unwrap_or_default();
    // Values that later steps read of earlier ones stay expressions: they differ from run to run.
    let steps = |case: &Value| case.pointer("/scenario/steps").and_then(Value::as_array).cloned().unwrap_or_default();
    let resolved = steps(&Value::Object(case.clone()));
    let kept: Vec<Value> = steps(&input).into_iter().zip(resolved).map(|(before, after)| keep_references(before, after)).collect();
    case.insert("scenario".into(), json!({ "steps": kept }));
    if let (Some(before), Some(after)) = (input.get("http"), case.remove("http")) {
        case.insert("http".into(), keep_references(before.clone(), after));
    }
    let reads_inputs = ["scenario", "http"].iter().filter_map(|name| case.get(*name)).any(|part| part.to_string().contains("${input."));
    if !reads_inputs {
        case.remove("inputs");
    }
    Some(Value::Object(case))
}

/// The resolved value, but with the expressions that read other steps and the run scope.
fn keep_references(before: Value, after: Value) -> Value {
    match (before, after) {
        (Value::String(before), _) if ["${step.", "${run.", "${jsonpath(", "${env."].iter().any(|start| before.contains(start)) => {
            Value::String(before)
        }
        (Value::Object(before), Value::Object(mut after)) => Value::Object(
            before.into_iter().filter_map(|(name, value)| Some((name.clone(), keep_references(value, after.remove(&name)?)))).collect(),
        ),
        (Value::Array(before), Value::Array(after)) => {
            before.into_iter().zip(after).map(|(before, after)| keep_references(before, after)).collect()
        }
        (_, after) => after,
    }
}

/// Whether the run changed memory, which only seed jobs and single actions may do.
fn is_seed(folder: &RunFolder) -> bool {
    let meta = folder.json("meta.json").unwrap_or_default();
    let text = |name: &str| meta.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    text("casePath").ends_with(".job.seed.json") || text("action").starts_with("memory.")
}
