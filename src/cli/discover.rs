//! What an agent reads first: `--llms`, `--skill-version`, and `dispatch version`, `skill-version` and `self-check`.

use std::process::ExitCode;

use clap::CommandFactory;
use serde_json::{Value, json};

use super::Cli;
use super::command_list::list_commands;
use super::kit::{KitContext, KitFault, KitResult};
use super::skill::SKILL;
use crate::module::ActionRegistry;

/// Commands that the manifest leaves out.
const UNLISTED: &[&str] = &["version", "skill-version", "completion", "self-check", "help"];

/// Prints the manifest of the commands and actions.
pub async fn llms(context: KitContext) -> KitResult<ExitCode> {
    let registry = ActionRegistry::load(&context.paths.registry_options(None)).await;
    let commands = list_commands(&Cli::command());
    let is_listed = |words: &[String]| words.first().is_some_and(|word| !UNLISTED.contains(&word.as_str()));
    let commands: Vec<Value> = commands
        .iter()
        .filter(|command| is_listed(&command.words))
        .map(|command| json!({ "cmd": command.usage(), "desc": command.about }))
        .collect();
    let mut actions: Vec<(&str, &str)> = registry.actions().map(|action| (action.key.as_str(), action.description.as_str())).collect();
    actions.sort_unstable();
    let actions: Vec<Value> = actions.into_iter().map(|(key, description)| json!({ "key": key, "desc": description })).collect();
    context.document(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "hint": "Run `dispatch skill print` for the guide, and `dispatch <cmd> --help` for the options of a command. \
                 `dispatch schema action --name <key> --print` gives the schemas of an action. Every command takes --json.",
        "commands": commands,
        "actions": actions,
    }));
    Ok(ExitCode::SUCCESS)
}

/// `dispatch version`.
pub async fn version(context: KitContext) -> KitResult<ExitCode> {
    context.output.document(concat!("dispatch v", env!("CARGO_PKG_VERSION")));
    Ok(ExitCode::SUCCESS)
}

/// `dispatch skill-version`.
pub async fn print_skill_version(context: KitContext) -> KitResult<ExitCode> {
    context.output.document(skill_version());
    Ok(ExitCode::SUCCESS)
}

/// Returns the version of the guide that ships with this binary.
pub fn skill_version() -> &'static str {
    SKILL.lines().find_map(|line| line.strip_prefix("version: ")).map_or("0.0.0", str::trim)
}

/// `dispatch self-check`.
pub async fn self_check(context: KitContext) -> KitResult<ExitCode> {
    let (is_good, check) = registry_check(&context).await;
    context.say(format_args!("{} module registry: {}", if is_good { "✓" } else { "✗" }, check["detail"].as_str().unwrap_or_default()));
    let report = json!({ "ok": is_good, "results": [check] });
    if is_good {
        context.result(report);
        return Ok(ExitCode::SUCCESS);
    }
    Err(KitFault::runtime("self-check failed").details(json!({ "result": report })))
}

/// Checks that modules can be loaded: `{name, ok, detail}`.
pub async fn registry_check(context: &KitContext) -> (bool, Value) {
    let registry = ActionRegistry::load(&context.paths.registry_options(None)).await;
    let is_good = ["flow.sleep", "flow.poll", "memory.store", "memory.recall"].iter().all(|key| registry.find(key).is_some());
    let (modules, actions) = (registry.modules().len(), registry.actions().count());
    let mut detail = format!("{modules} module(s), {actions} action(s)");
    if !registry.warnings().is_empty() {
        detail = format!("{detail}; warnings: {}", registry.warnings().join("; "));
    }
    (is_good, json!({ "name": "module registry", "ok": is_good, "detail": detail }))
}
