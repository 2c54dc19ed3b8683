//! The commands. Each is a file with its arguments and one line in [`Command`].
//!
//! Every command prints for people, or with `--json` one JSON envelope; exit codes say whether to try again: 0 success,
//! 1 internal, 2 usage (do not retry), 3 transient (retry), 4 not found.

mod backup;
mod completion;
pub mod config;
mod database;
mod demo;
mod doctor;
mod embedded;
mod export;
pub mod fake_provider;
mod follow;
mod health;
mod keys;
mod limit_options;
mod openapi;
mod output;
mod reload;
mod request;
mod run;
mod runs;
mod schema;
mod selftest;
mod serve;
mod settings;
mod signals;
mod tenants;
mod usage;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Kind, Result};
use output::Output;

/// Dispatch runs LLM agent and flow executions for other people's backends: durable, streamed, pausable.
#[derive(Debug, Parser)]
#[command(name = "dispatch", version, about, propagate_version = true)]
pub struct Cli {
    /// One JSON envelope on stdout instead of words.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(Box<serve::Arguments>),
    /// Show, check and list the settings of a server.
    Config(config::Arguments),
    /// Show what it does in a few seconds: no key, no network, nothing left behind.
    Demo(demo::Arguments),
    /// Run a dispatch request from a file and stream it.
    Run(run::Arguments),
    /// Make, list, limit and revoke API keys.
    Keys(keys::Arguments),
    /// Print what was used and what it cost, by day, key, flow, agent and model.
    Usage(usage::Arguments),
    /// Make and list tenants.
    Tenants(tenants::Arguments),
    /// List unfinished executions, and discard one, while no server runs.
    Runs(runs::Arguments),
    /// Write a backup of the embedded database and its files to a folder, also while a server runs.
    Backup(backup::BackupArguments),
    /// Restore a backup as a new data folder.
    Restore(backup::RestoreArguments),
    /// Write a tenant's flows, agents, tools, records, conversations and executions as JSON lines.
    Export(export::Arguments),
    /// Ask a running server whether it takes work, for health checks.
    Health(health::Arguments),
    /// Check a database and report what is wrong with it.
    Doctor(doctor::Arguments),
    /// Print the API document (OpenAPI 3.1).
    Openapi(openapi::Arguments),
    /// Print the JSON Schemas of requests, events and step types.
    Schema(schema::Arguments),
    /// Print a shell's completion script.
    Completion(completion::Arguments),
    /// Run a model provider that speaks every wire format and fails on request.
    FakeProvider(fake_provider::Arguments),
    /// Try this binary on this machine.
    Selftest(selftest::Arguments),
    /// Run scripts of workflows for another process of this program.
    #[command(hide = true)]
    ScriptWorker,
    /// Print a document for another process of this program.
    #[command(hide = true)]
    PrintWorker,
}

/// Runs the command line of this process.
pub async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = Output::new(cli.json);
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    let result = match cli.command {
        Command::Serve(arguments) => done(serve::run(*arguments, &output).await),
        Command::Config(arguments) => done(config::run(&arguments, &output)),
        Command::Demo(arguments) => demo::run(arguments, &output).await,
        Command::Run(arguments) => run::run(arguments, &output).await,
        Command::Keys(arguments) => done(keys::run(arguments, &output).await),
        Command::Usage(arguments) => done(usage::run(arguments, &output).await),
        Command::Tenants(arguments) => done(tenants::run(arguments, &output).await),
        Command::Runs(arguments) => done(runs::run(arguments, &output).await),
        Command::Backup(arguments) => done(backup::backup(arguments, &output).await),
        Command::Restore(arguments) => done(backup::restore(arguments, &output).await),
        Command::Export(arguments) => done(export::run(arguments, &output).await),
        Command::Health(arguments) => done(health::run(arguments, &output).await),
        Command::Doctor(arguments) => doctor::run(arguments, &output).await,
        Command::Openapi(arguments) => done(openapi::run(arguments, &output)),
        Command::Schema(arguments) => done(schema::run(arguments, &output)),
        Command::Completion(arguments) => done(completion::run(arguments, &output)),
        Command::FakeProvider(arguments) => done(fake_provider::run(arguments, &output).await),
        Command::ScriptWorker => done(worker::scripts()),
        Command::PrintWorker => done(worker::prints()),
        Command::Selftest(arguments) => selftest::run(arguments, &output).await.map(|passed| ExitCode::from(u8::from(!passed))),
    };
    result.unwrap_or_else(|error| output.fail(&error))
}

/// What a command line that cannot be read is answered with; also help and version, which are asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if !error.use_stderr() || !wants_json {
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
    }
    let text = error.render().to_string();
    let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    Output::new(true).fail(&Error::new(Kind::Malformed, "usage", message).next("`dispatch help` lists the commands and their options"))
}
