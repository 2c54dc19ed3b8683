//! `job export` and `job import`: cases out of runs, and into the workspace.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::host::unwritable;
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand, home_relative};
use crate::clock::Clock;
use crate::job::case::JobCase;
use crate::job::paths::stamp;

/// Options of `job export`.
#[derive(Debug, clap::Args)]
pub struct ExportArguments {
    /// The run: its id, a part of it, or `latest`.
    #[arg(long, value_name = "ID")]
    run_id: String,
    /// The file; its folder must exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Options of `job import`.
#[derive(Debug, clap::Args)]
pub struct ImportArguments {
    /// The case.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// `job export`.
pub fn export(arguments: &ExportArguments, context: &KitContext) -> KitResult<ExitCode> {
    let folder = super::find_run(context, &arguments.run_id)?;
    let source = folder.path.join("job.case.input.json");
    if !source.is_file() {
        return Err(KitFault::runtime(format!("the run {} kept no case; only runs of jobs can be exported", folder.id)));
    }
    let out = context.paths.cwd.join(&arguments.out);
    std::fs::copy(&source, &out).map_err(|error| unwritable(&out, &error))?;
    let next = [NextCommand::new(format!("dispatch job validate --case {}", arguments.out.display()), "check the case")];
    context.say(format_args!("Exported {}", home_relative(&out)));
    context.next(&next);
    context.result(json!({ "exported": out, "source": source, "next": next }));
    Ok(ExitCode::SUCCESS)
}

/// `job import`.
pub fn import(arguments: &ImportArguments, context: &KitContext) -> KitResult<ExitCode> {
    let file = context.paths.cwd.join(&arguments.file);
    let text = std::fs::read_to_string(&file).map_err(|error| KitFault::runtime(format!("{} cannot be read: {error}", file.display())))?;
    let document: Value =
        serde_json::from_str(&text).map_err(|error| KitFault::usage(format!("{} is not JSON: {error}", file.display())))?;
    JobCase::parse(document)
        .map_err(|issues| KitFault::usage(format!("{} is not a job case", file.display())).details(json!({ "issues": issues })))?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = format!("{}-{name}", stamp(Clock::system().now()));
    let imported = context.paths.root.join("jobs/imported").join(&name);
    super::inspect::write(&imported, &text)?;
    let next = [NextCommand::new(format!("dispatch job validate --case jobs/imported/{name}"), "check the case")];
    context.say(format_args!("Imported {}", home_relative(&imported)));
    context.next(&next);
    context.result(json!({ "imported": imported, "next": next }));
    Ok(ExitCode::SUCCESS)
}
