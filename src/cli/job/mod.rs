//! `dispatch job`: job cases checked, run and looked at.
//!
//! A case runs on an engine: the one of a server inside this process, or of a server that is named. What it leaves is a folder
//! below `run-output/`, from whose files the other commands answer.

pub mod action;
mod assert;
mod batch_inspect;
mod diff;
mod driver;
mod execute;
mod explain;
mod from_run;
mod host;
mod inspect;
mod list;
mod local;
mod prepare;
mod progress;
mod recorded;
mod replay;
mod resume;
mod run;
mod run_many;
mod transfer;
mod validate;

use std::process::ExitCode;

pub use self::host::ServerOptions;
use crate::cli::kit::{KitContext, KitFault, KitResult};
use crate::job::folder::RunFolder;
use crate::job::paths::run_output;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a case without running it.
    Validate(validate::Arguments),
    /// Run a case.
    Run(run::Arguments),
    /// Run a case many times.
    RunMany(run_many::Arguments),
    /// Take up a run whose process was killed.
    Resume(resume::Arguments),
    /// Run the case of a finished run again.
    Replay(replay::Arguments),
    /// Check a finished run.
    Assert(assert::Arguments),
    /// Show a run's summary and its last failed call.
    Inspect(inspect::InspectArguments),
    /// Write a run's calls as one text.
    Readable(inspect::ReadableArguments),
    /// Write everything that a run left as one JSON document.
    Dump(inspect::DumpArguments),
    /// Say in which order a run's or a case's steps work, and why a run failed.
    Explain(explain::Arguments),
    /// Compare two runs.
    Diff(diff::Arguments),
    /// List runs, the newest first.
    List(list::ListArguments),
    /// Show the newest run's summary.
    Latest,
    /// List the cases of the workspace.
    Cases,
    /// Copy the case of a run to a file.
    Export(transfer::ExportArguments),
    /// Copy a case into the workspace.
    Import(transfer::ImportArguments),
    /// Analyse a batch of `job run-many`.
    BatchInspect(batch_inspect::Arguments),
    /// Make a case of a finished run.
    FromRun(from_run::Arguments),
}

/// Runs a command.
pub async fn run(arguments: Arguments, context: KitContext) -> KitResult<ExitCode> {
    match arguments.command {
        Command::Validate(arguments) => validate::run(arguments, &context).await,
        Command::Run(arguments) => run::run(arguments, &context).await,
        Command::RunMany(arguments) => run_many::run(arguments, &context).await,
        Command::Resume(arguments) => resume::run(arguments, &context).await,
        Command::Replay(arguments) => replay::run(arguments, &context).await,
        Command::Assert(arguments) => assert::run(&arguments, &context),
        Command::Inspect(arguments) => inspect::inspect(&arguments, &context),
        Command::Readable(arguments) => inspect::readable(&arguments, &context),
        Command::Dump(arguments) => inspect::dump(&arguments, &context),
        Command::Explain(arguments) => explain::run(arguments, &context).await,
        Command::Diff(arguments) => diff::run(&arguments, &context),
        Command::List(arguments) => list::list(&arguments, &context),
        Command::Latest => list::latest(&context),
        Command::Cases => list::cases(&context),
        Command::Export(arguments) => transfer::export(&arguments, &context),
        Command::Import(arguments) => transfer::import(&arguments, &context),
        Command::BatchInspect(arguments) => batch_inspect::run(&arguments, &context),
        Command::FromRun(arguments) => from_run::run(&arguments, &context),
    }
}

/// The run that `--run-id` names.
fn find_run(context: &KitContext, name: &str) -> KitResult<RunFolder> {
    RunFolder::find(&run_output(&context.paths.root), name)
        .ok_or_else(|| KitFault::runtime(format!("run not found or ambiguous: {name}")).next("dispatch job list", "list the runs"))
}
