//! `job replay`: the case of a finished run, run again with its inputs; against the services, or over the recorded responses alone.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value};
use url::Url;

use super::host::ServerOptions;
use super::prepare::{LoadedCase, PreparedJob};
use super::recorded::RecordedServer;
use super::run::perform;
use crate::cli::kit::{KitContext, KitFault, KitResult};
use crate::job::folder::RunFolder;
use crate::job::redaction::is_redacted;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, a part of it, or `latest`.
    #[arg(long, value_name = "ID")]
    run_id: String,
    /// Make no request to any service: the recorded responses are given again.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    server: ServerOptions,
}

/// Runs the command.
pub async fn run(arguments: Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let folder = super::find_run(context, &arguments.run_id)?;
    let document = folder
        .json("job.case.input.json")
        .filter(|case| case.get("_raw").is_none())
        .ok_or_else(|| KitFault::usage(format!("the run {} kept no case; only runs of jobs can be replayed", folder.id)))?;
    let meta = folder.json("meta.json").unwrap_or_default();
    if arguments.offline {
        return offline(&folder, document, &meta, context).await;
    }
    let inputs = inputs(&meta);
    if is_redacted(&document) || is_redacted(&Value::Object(inputs.clone())) {
        let message =
            "the run's case or its inputs hold secrets, which are not kept; run the case itself, or read the secrets with ${env.NAME}";
        let fault = KitFault::usage(message);
        return Err(match meta.get("casePath").and_then(Value::as_str) {
            Some(path) => fault.next(format!("dispatch job run --case {path}"), "run the case itself"),
            None => fault,
        });
    }
    let loaded = LoadedCase::of_document(document, case_path(&meta), &context.paths).await?;
    let prepared = PreparedJob::check_typed(loaded, inputs, &context.paths)?;
    perform(prepared, "job-replay", &arguments.server, context).await
}

/// Runs the case again over the recorded responses; nothing leaves this machine.
async fn offline(folder: &RunFolder, mut document: Value, meta: &Value, context: &KitContext) -> KitResult<ExitCode> {
    let calls = folder.calls();
    let resolved = folder.json("job.case.resolved.json").unwrap_or_default();
    let base = resolved.pointer("/http/baseUrl").and_then(Value::as_str).and_then(|base| Url::parse(base).ok());
    let mut urls = calls.iter().filter_map(|call| Url::parse(call.get("url")?.as_str()?).ok());
    if let Some(foreign) = urls.find(|url| base.as_ref().is_none_or(|base| base.origin() != url.origin())) {
        let message = format!(
            "the run called {}, which is not below http.baseUrl; it cannot be replayed offline",
            foreign.origin().ascii_serialization()
        );
        return Err(KitFault::usage(message).next(format!("dispatch job explain --run-id {}", folder.id), "see what the run did"));
    }
    let recorded = RecordedServer::start(&folder.path, &calls).await?;
    if let (Some(base), Some(http)) = (&base, document.get_mut("http").and_then(Value::as_object_mut)) {
        http.insert("baseUrl".into(), recorded.base(base).into());
    }
    let mut loaded = LoadedCase::of_document(document, case_path(meta), &context.paths).await?;
    let variables: Vec<String> =
        loaded.case.credentials.iter().flat_map(|profile| profile.from_env.iter().map(|(_, name)| name.clone())).collect();
    for variable in variables {
        // Any value will do: no request is sent, the recorded responses are returned.
        loaded.env.entry(variable).or_insert_with(|| "offline".into());
    }
    let prepared = PreparedJob::check_typed(loaded, inputs(meta), &context.paths)?;
    let done = perform(prepared, "job-replay", &ServerOptions::default(), context).await;
    drop(recorded);
    done
}

/// The inputs that the run had.
fn inputs(meta: &Value) -> Map<String, Value> {
    meta.get("inputs").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Where the run's case was.
fn case_path(meta: &Value) -> PathBuf {
    meta.get("casePath").and_then(Value::as_str).unwrap_or_default().into()
}
