//! `dispatch completion`: a script that completes this command line in a shell.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::Cli;
use super::output::Output;
use crate::error::{Error, Result};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell. Bash: `dispatch completion bash > /etc/bash_completion.d/dispatch`.
    shell: Shell,
}

pub fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "dispatch", &mut script);
    let script = String::from_utf8(script).map_err(Error::internal)?;
    if output.json {
        return output.envelope(json!({ "shell": arguments.shell.to_string(), "script": script }));
    }
    output.document(script.trim_end());
    Ok(())
}
