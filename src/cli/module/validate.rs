//! `dispatch module validate`: whether a module is written well, and whether it can be packed.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use super::read_manifest;
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand, home_relative, load_config};
use crate::module::package::{PackageIssue, check_sources};
use crate::module::source::{hash_folder, jobs_of};
use crate::module::{ActionHandler, ActionRegistry, JobKind, LoadedModule, Manifest, ModuleJob, ModuleLayer, RegistryOptions, load_module};

/// A fault that the module's author must mend.
#[derive(Debug, Serialize)]
struct AuthoringIssue {
    code: &'static str,
    /// The action, or `<jobId>:<path>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    message: String,
}

impl AuthoringIssue {
    fn new(code: &'static str, path: Option<String>, message: impl Into<String>) -> Self {
        Self { code, path, message: message.into() }
    }
}

pub(super) async fn run(folder: &Path, context: &KitContext) -> KitResult<ExitCode> {
    let manifest = read_manifest(folder)?;
    let hash = hash_folder(folder).map_err(|error| KitFault::usage(format!("{} cannot be read: {error}", folder.display())))?;
    let (errors, warnings) = authoring_issues(folder, &manifest, context).await;
    let issues = check_sources(folder, &manifest);
    let is_valid = errors.is_empty() && issues.is_empty();
    let report = json!({
        "module": manifest.name,
        "version": manifest.version,
        "hash": hash,
        "authoringValidity": { "status": status(errors.is_empty()), "errors": errors, "warnings": warnings },
        "artifactReadiness": { "status": status(issues.is_empty()), "errors": issues, "warnings": [] },
        "warnings": warnings,
    });
    if is_valid {
        context.say(format_args!("✓ Valid module {}@{}", manifest.name, manifest.version));
        print_issues(&errors, &issues, &warnings, context);
        let next = [NextCommand::new(
            format!("dispatch module pack --path {} --out {}-{}.dpmod.zip", folder.display(), manifest.name, manifest.version),
            "pack the module",
        )];
        context.next(&next);
        context.result(with_next(report, &next));
        return Ok(ExitCode::SUCCESS);
    }
    if !context.output.json {
        context.say(format_args!("✗ Invalid module {}", home_relative(folder)));
        print_issues(&errors, &issues, &warnings, context);
        return Ok(ExitCode::from(2));
    }
    Err(KitFault::usage(format!("module {} is not valid", manifest.name)).details(report))
}

const fn status(is_good: bool) -> &'static str {
    if is_good { "pass" } else { "fail" }
}

fn with_next(mut report: Value, next: &[NextCommand]) -> Value {
    if let Some(members) = report.as_object_mut() {
        members.insert("next".into(), json!(next));
    }
    report
}

fn print_issues(errors: &[AuthoringIssue], issues: &[PackageIssue], warnings: &[String], context: &KitContext) {
    for error in errors {
        let place = error.path.as_ref().map(|path| format!("{path}: ")).unwrap_or_default();
        context.say(format_args!("- {place}{}", error.message));
    }
    for issue in issues {
        context.say(format_args!("- {}", issue.message));
    }
    for warning in warnings {
        context.say(format_args!("! {warning}"));
    }
}

async fn authoring_issues(folder: &Path, manifest: &Manifest, context: &KitContext) -> (Vec<AuthoringIssue>, Vec<String>) {
    let mut errors = Vec::new();
    // Jobs may call actions of the module itself and of its neighbours.
    let options = RegistryOptions { case_dir: Some(folder.to_owned()), ..context.paths.registry_options(None) };
    let registry = ActionRegistry::load(&options).await;
    let own = match load_module(folder, ModuleLayer::Repo, &context.paths.home).await {
        Ok(module) => {
            let missing = module.actions.iter().filter(|action| action.description.trim().is_empty());
            errors.extend(missing.map(|action| {
                AuthoringIssue::new(
                    "MISSING_DESCRIPTION",
                    Some(action.key.clone()),
                    format!("the action {} has no description", action.name),
                )
            }));
            Some(module)
        }
        // A missing entry is an issue of the package.
        Err(_) if !manifest.is_declarative() && !folder.join(&manifest.entry).is_file() => None,
        Err(reason) => {
            errors.push(AuthoringIssue::new("MODULE_LOAD_ERROR", None, format!("the module cannot be loaded: {reason}")));
            None
        }
    };
    for job in jobs_of(folder) {
        errors.extend(job_issues(&job, own.as_ref(), &registry));
    }
    (errors, skill_warning(folder, manifest, context).into_iter().collect())
}

/// The issues of a job that the module ships: its form, its actions and what it may do to memory.
fn job_issues(job: &ModuleJob, own: Option<&LoadedModule>, registry: &ActionRegistry) -> Vec<AuthoringIssue> {
    let at = |path: String| Some(format!("{}:{path}", job.id));
    let text = std::fs::read_to_string(&job.path).unwrap_or_default();
    let case: Value = match serde_json::from_str(&text) {
        Ok(case) => case,
        Err(error) => return vec![AuthoringIssue::new("SCHEMA_ERROR", at(String::new()), format!("the job is not JSON: {error}"))],
    };
    let Some(steps) = case.pointer("/scenario/steps").and_then(Value::as_array).filter(|steps| !steps.is_empty()) else {
        return vec![AuthoringIssue::new("SCHEMA_ERROR", at("scenario.steps".into()), "the job has no steps")];
    };
    let mut issues = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let target = step.pointer("/payload/action").filter(|_| step.get("action") == Some(&Value::from("flow.poll")));
        let called = [("action", step.get("action")), ("payload.action", target)];
        for (member, action) in called.into_iter().filter(|(member, action)| *member == "action" || action.is_some()) {
            let key = action.and_then(Value::as_str).unwrap_or_default();
            let own_action = own.and_then(|module| module.actions.iter().find(|action| action.key == key));
            let found = own_action.or_else(|| registry.find(key));
            let place = at(format!("scenario.steps.{index}.{member}"));
            match found.map(|action| &action.handler) {
                None => issues.push(AuthoringIssue::new("UNKNOWN_ACTION", place, format!("no loaded module offers the action `{key}`"))),
                Some(ActionHandler::Memory(verb)) if verb.mutates() && job.kind == JobKind::Case => {
                    let message = format!("a case job may not change memory with {key}; make it a seed job (.job.seed.json)");
                    issues.push(AuthoringIssue::new("DISALLOWED_MEMORY_MUTATION", place, message));
                }
                Some(_) => {}
            }
        }
    }
    issues
}

/// Advises to install the skill of a module that is configured and ships one.
fn skill_warning(folder: &Path, manifest: &Manifest, context: &KitContext) -> Option<String> {
    let skill = std::fs::read_to_string(folder.join("SKILL.md")).ok()?;
    if !load_config(&context.paths).modules.contains_key(&manifest.name) {
        return None;
    }
    let name = front_matter_name(&skill).unwrap_or_else(|| manifest.name.clone());
    let lock = std::fs::read(context.paths.cwd.join("skills-lock.json")).unwrap_or_default();
    let lock: Value = serde_json::from_slice(&lock).unwrap_or_default();
    let is_installed = lock.pointer("/skills").and_then(Value::as_object).is_some_and(|skills| skills.contains_key(&name));
    (!is_installed).then(|| format!("the skill {name} is not installed. Run `dispatch skill install {}`.", manifest.name))
}

/// The `name` of a Markdown text's front matter.
fn front_matter_name(text: &str) -> Option<String> {
    let front = text.strip_prefix("---\n")?.split("\n---").next()?;
    let name = front.lines().find_map(|line| line.strip_prefix("name:"))?.trim();
    Some(name.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}
