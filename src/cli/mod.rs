//! The commands. Each is a file with its arguments and one line in [`Command`].
//!
//! Every command prints for people, or with `--json` one JSON envelope; exit codes say whether to try again: 0 success,
//! 1 internal, 2 usage (do not retry), 3 transient (retry), 4 not found.

mod backup;
mod command_list;
mod completion;
pub mod config;
mod database;
mod demo;
mod discover;
mod doctor;
mod embedded;
mod export;
pub mod fake_provider;
mod follow;
mod health;
mod job;
mod keys;
pub mod kit;
mod limit_options;
mod mcp;
mod module;
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
mod skill;
mod state;
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
    #[command(flatten)]
    kit: kit::GlobalOptions,
    /// Print the version; the same as `--version`.
    #[arg(long, global = true, action = clap::ArgAction::Version)]
    pub cli_version: Option<bool>,
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
    /// Run a dispatch request from a file and stream it, or one action of a module.
    Run(run::Arguments),
    /// Check, run and inspect job cases.
    Job(job::Arguments),
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
    /// Check a database, or the folders of jobs and modules, and report what is wrong.
    Doctor(doctor::Arguments),
    /// Print the API document (OpenAPI 3.1).
    Openapi(openapi::Arguments),
    /// Print the JSON Schemas of requests, events, step types, job cases and actions.
    Schema(schema::Arguments),
    /// Manage the modules whose actions jobs call.
    Module(module::Arguments),
    /// Print the guide for agents, and manage those of configured modules.
    Skill(skill::Arguments),
    /// Show what jobs have stored in memory.
    Memory(state::MemoryArguments),
    /// Manage the default payloads of actions.
    Defaults(state::DefaultsArguments),
    /// Show and remove runtime overrides of older versions.
    Runtime(state::RuntimeArguments),
    /// Check that this binary can load modules.
    SelfCheck,
    /// Serve the commands for jobs and modules as MCP tools over standard input and output.
    Mcp,
    /// Print the version.
    Version,
    /// Print the version of the guide for agents.
    SkillVersion,
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
    if is_given("--llms") {
        return kit::complete(&kit::GlobalOptions::from_command_line(), Output::new(true), discover::llms).await;
    }
    if is_given("--skill-version") {
        Output::new(false).document(discover::skill_version());
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = Output::new(cli.json);
    if cli.kit.no_color {
        follow::Paint::disable();
    }
    let (options, command) = (&cli.kit, cli.command);
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    let result = match command {
        Command::Serve(arguments) => done(serve::run(*arguments, &output).await),
        Command::Config(arguments) => done(config::run(&arguments, &output)),
        Command::Demo(arguments) => demo::run(arguments, &output).await,
        Command::Run(arguments) if arguments.names_action() => {
            Ok(kit::complete(options, output, |context| run::run_action(arguments, context)).await)
        }
        Command::Run(arguments) => run::run(arguments, &output).await,
        Command::Job(arguments) => Ok(kit::complete(options, output, |context| job::run(arguments, context)).await),
        Command::Keys(arguments) => done(keys::run(arguments, &output).await),
        Command::Usage(arguments) => done(usage::run(arguments, &output).await),
        Command::Tenants(arguments) => done(tenants::run(arguments, &output).await),
        Command::Runs(arguments) => done(runs::run(arguments, &output).await),
        Command::Backup(arguments) => done(backup::backup(arguments, &output).await),
        Command::Restore(arguments) => done(backup::restore(arguments, &output).await),
        Command::Export(arguments) => done(export::run(arguments, &output).await),
        Command::Health(arguments) => done(health::run(arguments, &output).await),
        Command::Doctor(arguments) if arguments.names_database() => doctor::run(arguments, &output).await,
        Command::Doctor(_) => Ok(kit::complete(options, output, doctor::check).await),
        Command::Openapi(arguments) => done(openapi::run(arguments, &output)),
        Command::Schema(arguments) => match arguments.into_job_schema() {
            Ok(job_schema) => Ok(kit::complete(options, output, |context| schema::print(job_schema, context)).await),
            Err(arguments) => done(schema::run(arguments, &output)),
        },
        Command::Module(arguments) => Ok(kit::complete(options, output, |context| module::run(arguments, context)).await),
        Command::Skill(arguments) => Ok(kit::complete(options, output, |context| skill::run(arguments, context)).await),
        Command::Memory(arguments) => Ok(kit::complete(options, output, |context| state::memory(arguments, context)).await),
        Command::Defaults(arguments) => Ok(kit::complete(options, output, |context| state::defaults(arguments, context)).await),
        Command::Runtime(arguments) => Ok(kit::complete(options, output, |context| state::runtime(arguments, context)).await),
        Command::SelfCheck => Ok(kit::complete(options, output, discover::self_check).await),
        Command::Mcp => Ok(kit::complete(options, output, mcp::run).await),
        Command::Version => Ok(kit::complete(options, output, discover::version).await),
        Command::SkillVersion => Ok(kit::complete(options, output, discover::print_skill_version).await),
        Command::Completion(arguments) => done(completion::run(arguments, &output)),
        Command::FakeProvider(arguments) => done(fake_provider::run(arguments, &output).await),
        Command::ScriptWorker => done(worker::scripts()),
        Command::PrintWorker => done(worker::prints()),
        Command::Selftest(arguments) => selftest::run(arguments, &output).await.map(|passed| ExitCode::from(u8::from(!passed))),
    };
    result.unwrap_or_else(|error| output.fail(&error))
}

/// Reports whether an option is on the command line, wherever it is.
fn is_given(option: &str) -> bool {
    std::env::args_os().skip(1).take_while(|argument| argument != "--").any(|argument| argument == option)
}

/// The commands whose answers have the form of the `dispatchkit` contract.
const KIT_COMMANDS: &[&str] = &["job", "module", "skill", "memory", "defaults", "runtime", "self-check", "mcp"];

/// What a command line that cannot be read is answered with; also help and version, which are asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if !error.use_stderr() || !wants_json {
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
    }
    let text = error.render().to_string();
    let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    if std::env::args_os().skip(1).any(|word| KIT_COMMANDS.iter().any(|command| word == *command)) {
        return kit::print_fault(
            Output::new(true),
            &kit::KitFault::usage(message).next("dispatch --llms", "see the commands and their options"),
        );
    }
    Output::new(true).fail(&Error::new(Kind::Malformed, "usage", message).next("`dispatch help` lists the commands and their options"))
}
