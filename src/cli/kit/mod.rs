//! What the commands for jobs, modules and memory share: their folders, their configuration and their answers.
//!
//! Their answers follow the `dispatchkit` contract: one JSON document with `--json`, an error envelope with a code, and the next
//! commands to run.

mod config;
mod envelope;
mod options;
mod state;

use std::process::ExitCode;

pub use config::{KitConfig, ModuleSkill, RegistryConfig, load_config};
pub use envelope::{FaultCode, KitFault, KitResult, NextCommand, print_fault};
pub use options::{GlobalOptions, KitContext, KitPaths, home_relative};
pub use state::{ActionDefaults, RuntimeOverrides};

use super::output::Output;

/// Opens the folders, runs a command and prints its failure, if any.
pub async fn complete<C, F>(options: &GlobalOptions, output: Output, command: C) -> ExitCode
where
    C: FnOnce(KitContext) -> F,
    F: Future<Output = KitResult<ExitCode>>,
{
    let result = match KitContext::open(options, output) {
        Ok(context) => command(context).await,
        Err(fault) => Err(fault),
    };
    result.unwrap_or_else(|fault| print_fault(output, &fault))
}
