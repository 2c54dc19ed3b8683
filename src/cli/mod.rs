//! The commands. Each is a file with its arguments and one line in [`Command`].
//!
//! Every command prints for people, or with `--json` one JSON envelope; exit codes say whether to try again: 0 success,
//! 1 internal, 2 usage (do not retry), 3 transient (retry), 4 not found.

pub mod fake_provider;
mod output;
mod selftest;
mod serve;
mod server_options;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Serve(serve::Arguments),
    /// Run a model provider that speaks three wire formats and fails on request.
    FakeProvider(fake_provider::Arguments),
    /// Try this binary on this machine.
    Selftest(selftest::Arguments),
}

/// Runs the command line of this process.
pub async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let output = Output::new(cli.json);
    let result = match cli.command {
        Command::Serve(arguments) => serve::run(arguments, &output).await,
        Command::FakeProvider(arguments) => fake_provider::run(arguments, &output).await,
        Command::Selftest(arguments) => match selftest::run(arguments, &output).await {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(1),
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output.fail(&error),
    }
}
