//! `job validate`: every check of a case, reported together.

use std::process::ExitCode;

use serde_json::json;

use super::prepare::{LoadedCase, with_next};
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand, home_relative};
use crate::job::checks::semantic_issues;
use crate::job::credentials::credential_issues;
use crate::job::inputs::read_inputs;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The case: a path, or a name below `jobs/`.
    #[arg(long, value_name = "PATH")]
    case: String,
    /// An input of the case, `key=value`. Repeat.
    #[arg(long = "input", value_name = "KEY=VALUE")]
    inputs: Vec<String>,
}

/// Runs the command.
pub async fn run(arguments: Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let loaded = LoadedCase::load(&arguments.case, &context.paths).await?;
    let case = &loaded.case;
    let inputs = read_inputs(&case.inputs, &arguments.inputs);
    let input = inputs.as_ref().ok().cloned().unwrap_or_default();
    let input_issues = inputs.err().unwrap_or_default();
    let issues = semantic_issues(case, loaded.kind, &loaded.registry, &loaded.defaults);
    let credential_issues = credential_issues(case, &loaded.registry, None);
    let dependency_issues = loaded.dependency_issues(&input, &context.paths);
    let warnings = loaded.warnings();
    let is_valid = issues.is_empty() && input_issues.is_empty() && credential_issues.is_empty() && dependency_issues.is_empty();
    let path = loaded.path.display().to_string();
    if !is_valid {
        context.say(format_args!("✗ Invalid {}", home_relative(&loaded.path)));
        let fault = KitFault::usage("job case validation failed").details(json!({
            "casePath": path, "issues": issues, "inputIssues": input_issues, "credentialIssues": credential_issues,
            "dependencyIssues": dependency_issues, "warnings": warnings,
        }));
        return Err(with_next(fault, &dependency_issues));
    }
    let next = [NextCommand::new(format!("dispatch job run --case {}", arguments.case), "run the case")];
    context.result(json!({ "valid": true, "casePath": path, "warnings": warnings, "next": next }));
    context.say(format_args!("✓ Valid {}", home_relative(&loaded.path)));
    for needed in &case.dependencies.memory {
        let seed = needed.fill.as_ref().map(|fill| format!(" (seed: {}:{})", fill.module, fill.job)).unwrap_or_default();
        context.say(format_args!("! Memory deps: {}.{}{seed}", needed.namespace, needed.key));
    }
    for needed in &case.dependencies.http {
        context.say(format_args!("! HTTP deps: http.{needed}"));
    }
    for warning in &warnings {
        context.say(format_args!("! {warning}"));
    }
    context.next(&next);
    Ok(ExitCode::SUCCESS)
}
