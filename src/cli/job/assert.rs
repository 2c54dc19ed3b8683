//! `job assert`: checks of a finished run, from its files alone.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand};
use crate::job::asserts::{CHECKS, DEFAULT_CHECKS, evaluate, parameters_of};
use crate::job::inputs::split_pairs;

/// Options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, a part of it, or `latest`.
    #[arg(long, value_name = "ID", default_value = "latest")]
    run_id: String,
    /// A check, instead of the default ones: no-failed-calls, summary-present, module-resolution-present, calls-count-min or
    /// run-succeeded. Repeat.
    #[arg(long = "check", value_name = "NAME")]
    checks: Vec<String>,
    /// A parameter of a check: `min=2` of calls-count-min. Repeat.
    #[arg(long = "param", value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// Refuse parameters that no check reads.
    #[arg(long)]
    strict_params: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &KitContext) -> KitResult<ExitCode> {
    let folder = super::find_run(context, &arguments.run_id)?;
    let mut names: Vec<&str> = arguments.checks.iter().map(|name| name.trim()).collect();
    if names.is_empty() {
        names = DEFAULT_CHECKS.to_vec();
    }
    let mut chosen: Vec<&str> = Vec::new();
    for name in names {
        if !CHECKS.contains(&name) {
            return Err(KitFault::runtime(format!("unknown check `{name}`; one of {}", CHECKS.join(", "))));
        }
        if !chosen.contains(&name) {
            chosen.push(name);
        }
    }
    let (pairs, issues) = split_pairs(&arguments.parameters, "param");
    if let Some(issue) = issues.first() {
        return Err(KitFault::usage(format!("--{}: {}", issue.path, issue.message)));
    }
    let parameters: BTreeMap<String, String> = pairs.into_iter().collect();
    let unread = parameters.keys().find(|key| !chosen.iter().any(|check| parameters_of(check).contains(&key.as_str())));
    if let Some(key) = unread.filter(|_| arguments.strict_params) {
        return Err(KitFault::usage(format!("no chosen check reads the parameter `{key}`")));
    }
    let mut checks = Vec::with_capacity(chosen.len());
    for check in chosen {
        checks.push(evaluate(check, &folder, &parameters).map_err(KitFault::usage)?);
    }
    let passed = checks.iter().filter(|check| check.passed()).count();
    let failed = checks.len() - passed;
    let next = if failed == 0 {
        Vec::new()
    } else {
        vec![
            NextCommand::new(format!("dispatch job inspect --run-id {}", folder.id), "see what failed"),
            NextCommand::new(format!("dispatch job dump --run-id {}", folder.id), "export full artifact"),
        ]
    };
    let verdict = if failed == 0 { "passed" } else { "failed" };
    context.say(format_args!("Assertions {verdict} ({passed}/{}{})", checks.len(), if failed == 0 { "" } else { " passed" }));
    for check in checks.iter().filter(|check| context.verbose || !check.passed()) {
        let mark = if check.passed() { '✓' } else { '✗' };
        context.say(format_args!("{mark} {}  {}", check.name, check.reason.as_deref().unwrap_or_default()));
    }
    context.next(&next);
    let overall = if failed == 0 { "PASS" } else { "FAIL" };
    context.result(json!({
        "runId": folder.id, "runDir": folder.path, "overall": overall, "passed": passed, "failed": failed, "checks": checks, "next": next,
    }));
    Ok(ExitCode::from(u8::from(failed > 0)))
}
