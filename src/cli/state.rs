//! `dispatch memory`, `defaults` and `runtime`: the small files of the state folder.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::kit::{ActionDefaults, KitContext, KitFault, KitResult, RuntimeOverrides, home_relative};
use crate::module::memory::MemoryFolder;

/// `dispatch memory`.
#[derive(Debug, clap::Args)]
pub struct MemoryArguments {
    #[command(subcommand)]
    action: MemoryAction,
}

#[derive(Debug, clap::Subcommand)]
enum MemoryAction {
    /// List the namespaces.
    List,
    /// Show what a namespace holds.
    Inspect {
        /// The namespace.
        #[arg(long)]
        namespace: String,
        /// Only what is below this dotted key.
        #[arg(long, value_name = "KEY")]
        prefix: Option<String>,
    },
}

/// `dispatch defaults`.
#[derive(Debug, clap::Args)]
pub struct DefaultsArguments {
    #[command(subcommand)]
    action: DefaultsAction,
}

#[derive(Debug, clap::Subcommand)]
enum DefaultsAction {
    /// Show the default payloads, of all actions or of one.
    Show {
        /// The action: `module.action`.
        #[arg(long)]
        action: Option<String>,
    },
    /// Set an action's default payload.
    Set {
        /// The action: `module.action`.
        #[arg(long)]
        action: String,
        /// A file that holds the payload, a JSON object.
        #[arg(long)]
        file: PathBuf,
    },
    /// Remove an action's default payload.
    Unset {
        /// The action: `module.action`.
        #[arg(long)]
        action: String,
    },
}

/// `dispatch runtime`.
#[derive(Debug, clap::Args)]
pub struct RuntimeArguments {
    #[command(subcommand)]
    action: RuntimeAction,
}

#[derive(Debug, clap::Subcommand)]
enum RuntimeAction {
    /// Show the runtime overrides.
    Show,
    /// Remove the runtime overrides.
    Unset {
        /// Confirms that all of them go; without it nothing changes.
        #[arg(long)]
        all: bool,
    },
}

pub async fn memory(arguments: MemoryArguments, context: KitContext) -> KitResult<ExitCode> {
    let folder = MemoryFolder::new(&context.paths.home);
    match arguments.action {
        MemoryAction::List => list_namespaces(&folder, &context),
        MemoryAction::Inspect { namespace, prefix } => inspect_namespace(&folder, &namespace, prefix.as_deref(), &context),
    }
}

fn list_namespaces(folder: &MemoryFolder, context: &KitContext) -> KitResult<ExitCode> {
    let namespaces = folder.namespaces().map_err(|fault| KitFault::runtime(fault.message))?;
    context.say(format_args!("Memory: {}", home_relative(folder.path())));
    for file in &namespaces {
        context.say(format_args!("  {:<24} {}", file.namespace, home_relative(&file.path)));
    }
    context.result(json!({ "root": folder.path(), "namespaces": namespaces }));
    Ok(ExitCode::SUCCESS)
}

fn inspect_namespace(folder: &MemoryFolder, namespace: &str, prefix: Option<&str>, context: &KitContext) -> KitResult<ExitCode> {
    let runtime = |fault: crate::module::ActionFault| KitFault::runtime(fault.message);
    let contents = folder.read(namespace).map_err(runtime)?.ok_or_else(|| {
        KitFault::not_found(format!("Memory namespace not found: {namespace}")).next("dispatch memory list", "see the namespaces")
    })?;
    let path = folder.file(namespace);
    let document = match prefix {
        None => json!({ "namespace": namespace, "path": path, "values": contents }),
        Some(prefix) => {
            let listing = folder.list(namespace, prefix).map_err(runtime)?;
            json!({
                "namespace": namespace, "path": path, "prefix": listing.prefix, "keys": listing.keys, "count": listing.keys.len(),
                "values": listing.contents,
            })
        }
    };
    show_values(context, &document);
    context.result(document);
    Ok(ExitCode::SUCCESS)
}

/// The values of a document, for people.
fn show_values(context: &KitContext, document: &Value) {
    context.say(format_args!("{:#}", document.get("values").unwrap_or(&Value::Null)));
}

pub async fn defaults(arguments: DefaultsArguments, context: KitContext) -> KitResult<ExitCode> {
    let mut defaults = ActionDefaults::load(&context.paths.home);
    let values = match arguments.action {
        DefaultsAction::Show { action: None } => Some(Value::Object(defaults.values.clone())),
        DefaultsAction::Show { action: Some(action) } => defaults.values.get(&action).cloned(),
        DefaultsAction::Set { action, file } => {
            let path = context.paths.cwd.join(file);
            let text =
                std::fs::read_to_string(&path).map_err(|error| KitFault::usage(format!("{} cannot be read: {error}", path.display())))?;
            let payload: Value =
                serde_json::from_str(&text).map_err(|error| KitFault::usage(format!("{} is not JSON: {error}", path.display())))?;
            if !payload.is_object() {
                return Err(KitFault::usage(format!("{} must hold a JSON object", path.display())));
            }
            defaults.values.insert(action, payload);
            defaults.save()?;
            Some(Value::Object(defaults.values.clone()))
        }
        DefaultsAction::Unset { action } => {
            if defaults.values.shift_remove(&action).is_some() {
                defaults.save()?;
            }
            Some(Value::Object(defaults.values.clone()))
        }
    };
    let mut document = json!({ "path": defaults.path });
    if let (Some(members), Some(values)) = (document.as_object_mut(), values) {
        members.insert("values".into(), values);
    }
    show_values(&context, &document);
    context.result(document);
    Ok(ExitCode::SUCCESS)
}

pub async fn runtime(arguments: RuntimeArguments, context: KitContext) -> KitResult<ExitCode> {
    let mut overrides = RuntimeOverrides::load(&context.paths.home);
    if let RuntimeAction::Unset { all: true } = arguments.action {
        overrides.clear()?;
    }
    let document = json!({ "path": overrides.path, "values": overrides.values });
    show_values(&context, &document);
    context.result(document);
    Ok(ExitCode::SUCCESS)
}
