//! `dispatch module list`, `inspect` and `skill`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::schema_summary;
use crate::cli::kit::{KitContext, KitFault, KitResult, home_relative};
use crate::module::{ActionRegistry, JobKind, LoadedModule, ModuleAction, ModuleJob};

pub(super) async fn list(context: &KitContext) -> KitResult<ExitCode> {
    let registry = ActionRegistry::load(&context.paths.registry_options(None)).await;
    for module in registry.modules() {
        context.say(format_args!("{}@{}  {} · {} actions", module.name, module.version, module.layer.as_str(), module.actions.len()));
        for action in &module.actions {
            context.say(format_args!("  {:<24} {}", action.name, action.description));
        }
    }
    for warning in registry.warnings() {
        context.say(format_args!("! {warning}"));
    }
    let modules: Vec<Value> = registry.modules().iter().map(|module| module_document(module, false)).collect();
    context.result(json!({ "warnings": registry.warnings(), "conflicts": registry.conflicts(), "modules": modules }));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn inspect(name: &str, context: &KitContext) -> KitResult<ExitCode> {
    let registry = ActionRegistry::load(&context.paths.registry_options(None)).await;
    let module = registry.module(name.trim()).ok_or_else(|| {
        KitFault::not_found(format!("Module not found: {name}"))
            .details(json!({ "warnings": registry.warnings() }))
            .next("dispatch module list", "see the loaded modules")
    })?;
    print_module(module, context);
    let mut document = module_document(module, true);
    if let (Some(members), Some(hash)) = (document.as_object_mut(), &module.hash) {
        members.insert("hash".into(), hash.as_str().into());
    }
    context.result(document);
    Ok(ExitCode::SUCCESS)
}

fn print_module(module: &LoadedModule, context: &KitContext) {
    context.say(format_args!("{}@{}", module.name, module.version));
    context.say(format_args!("Layer:  {}", module.layer.as_str()));
    context.say(format_args!("Source: {}", home_relative(Path::new(&module.source_path))));
    if let Some(hash) = module.hash.as_ref().filter(|_| context.verbose) {
        context.say(format_args!("Hash:   {hash}"));
    }
    context.say("Actions:");
    for action in &module.actions {
        context.say(format_args!("  - {} - {}", action.key, action.description));
        let schemas = [("inputs", &action.input_schema), ("exports", &action.exports_schema), ("credentials", &action.credential_schema)];
        for (word, schema) in schemas.into_iter().filter_map(|(word, schema)| Some((word, schema.as_ref()?))) {
            context.say(format_args!("      {word}: {}", schema_summary(schema)));
        }
    }
    for (title, kind) in [("Case jobs:", JobKind::Case), ("Seed jobs:", JobKind::Seed)] {
        let jobs: Vec<&ModuleJob> = module.jobs.iter().filter(|job| job.kind == kind).collect();
        if !jobs.is_empty() {
            context.say(title);
        }
        for job in jobs {
            context.say(format_args!("  - {} -> {}", job.id, home_relative(&job.path)));
        }
    }
}

/// A module as a document. An inspected module shows the schemas of its payloads too.
fn module_document(module: &LoadedModule, is_inspected: bool) -> Value {
    json!({
        "name": module.name,
        "version": module.version,
        "layer": module.layer,
        "sourcePath": module.source_path,
        "actionCount": module.actions.len(),
        "jobs": module.jobs,
        "actions": module.actions.iter().map(|action| action_document(action, is_inspected)).collect::<Vec<_>>(),
    })
}

fn action_document(action: &ModuleAction, is_inspected: bool) -> Value {
    let mut document = Map::from_iter([
        ("key".to_owned(), Value::from(action.key.as_str())),
        ("description".to_owned(), Value::from(action.description.as_str())),
    ]);
    let schemas = [
        ("schema", action.input_schema.as_ref().filter(|_| is_inspected)),
        ("exportsSchema", action.exports_schema.as_ref()),
        ("credentialSchema", action.credential_schema.as_ref()),
    ];
    document.extend(schemas.into_iter().filter_map(|(name, schema)| Some((name.to_owned(), schema?.clone()))));
    document.into()
}

/// Prints the file as it is. A missing one is said on stderr, so that stdout holds the text or nothing.
pub(super) fn skill(folder: &Path) -> KitResult<ExitCode> {
    match std::fs::read_to_string(folder.join("SKILL.md")) {
        Ok(text) => {
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "{} has no SKILL.md that can be read: {error}", folder.display());
            Ok(ExitCode::from(1))
        }
    }
}
