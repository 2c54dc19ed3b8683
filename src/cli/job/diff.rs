//! `job diff`: what two runs have different, without their ids and times.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::cli::kit::{KitContext, KitResult, NextCommand};
use crate::job::folder::RunFolder;

/// Members that differ from run to run.
const VARIABLE: &[&str] =
    &["runId", "runDir", "startedAt", "endedAt", "generatedAt", "moduleResolutionPath", "elapsedMs", "batchIndex", "workerId"];
/// Most differences that are named.
const MAX_DIFFERENCES: usize = 200;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// One run: its id, a part of it, or `latest`.
    left: String,
    /// The other run.
    right: String,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let left = super::find_run(context, &arguments.left)?;
    let right = super::find_run(context, &arguments.right)?;
    let mut differences = Vec::new();
    compare(&document(&left), &document(&right), "", &mut differences);
    differences.truncate(MAX_DIFFERENCES);
    let is_equal = differences.is_empty();
    context.say(if is_equal { "No differences.".to_owned() } else { format!("{} differences", differences.len()) });
    for difference in &differences {
        let side = |name: &str| difference.get(name).map_or_else(|| "-".to_owned(), |value| super::progress::printable(&value.to_string()));
        let path = difference.get("path").and_then(Value::as_str).unwrap_or_default();
        context.say(format_args!("{path}\n  - {}\n  + {}", side("left"), side("right")));
    }
    let next = [NextCommand::new(format!("dispatch job inspect --run-id {}", right.id), "see the second run")];
    context.next(&next);
    context.result(json!({ "left": left.id, "right": right.id, "equal": is_equal, "differences": differences, "next": next }));
    Ok(ExitCode::from(u8::from(!is_equal)))
}

/// What is compared of a run.
fn document(run: &RunFolder) -> Value {
    let file = |name: &str| run.json(name).unwrap_or_default();
    let calls: Vec<Value> = run
        .whole_calls()
        .into_iter()
        .map(|call| {
            let member = |name: &str| call.get(name).cloned().unwrap_or_default();
            json!({
                "name": member("name"), "method": member("method"), "url": member("url"), "httpCode": member("httpCode"),
                "request": member("request"), "response": member("response"),
            })
        })
        .collect();
    json!({
        "case": file("job.case.input.json"), "inputs": file("meta.json").get("inputs"), "summary": file("summary.json"),
        "steps": file("step-results.json"), "calls": calls,
    })
}

fn compare(left: &Value, right: &Value, path: &str, found: &mut Vec<Value>) {
    match (left, right) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
            for name in names.filter(|name| !VARIABLE.contains(&name.as_str())) {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                pair(one.get(name), other.get(name), &at, found);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for index in 0..one.len().max(other.len()) {
                pair(one.get(index), other.get(index), &format!("{path}[{index}]"), found);
            }
        }
        _ if left == right => {}
        _ => found.push(json!({ "path": path, "left": left, "right": right })),
    }
}

/// Compares two members; one that is missing is not in the difference.
fn pair(left: Option<&Value>, right: Option<&Value>, path: &str, found: &mut Vec<Value>) {
    match (left, right) {
        (Some(left), Some(right)) => compare(left, right, path, found),
        (None, None) => {}
        (left, right) => {
            let mut difference = Map::new();
            difference.insert("path".into(), path.into());
            difference.extend(left.map(|value| ("left".to_owned(), value.clone())));
            difference.extend(right.map(|value| ("right".to_owned(), value.clone())));
            found.push(Value::Object(difference));
        }
    }
}
