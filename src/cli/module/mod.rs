//! `dispatch module`: the modules that jobs call, and the packages that they travel in.

mod create;
mod install;
mod registry;
mod show;
mod validate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::kit::{FaultCode, KitContext, KitFault, KitResult};
use crate::module::package::PackageIssue;
use crate::module::{MANIFEST_FILE, Manifest, ManifestFault};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the loaded modules and their actions.
    List,
    /// Show one module: its actions with their schemas, and its jobs.
    Inspect {
        /// The module's name.
        name: String,
    },
    /// Print the SKILL.md of a module.
    Skill {
        /// The module's folder.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
    },
    /// Check a module: its manifest, actions and jobs, and whether it can be packed.
    Validate {
        /// The module's folder.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
    },
    /// Write the files of a new module.
    #[command(disable_version_flag = true)]
    Init(create::InitArguments),
    /// Install every module of a workspace.
    Bootstrap {
        /// A folder in the workspace; the current one when absent.
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
    /// Pack a module into a `.dpmod.zip`.
    Pack {
        /// The module's folder.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Install a module from a `.dpmod.zip`, or from the registry of the configuration.
    #[command(disable_version_flag = true)]
    Install(install::InstallArguments),
    /// Remove an installed module.
    Uninstall {
        /// The module's name.
        #[arg(long)]
        name: String,
        /// Only this version; all versions when absent.
        #[arg(long, value_name = "VERSION")]
        module_version: Option<String>,
    },
    /// Replace actions of a module by one of a later layer.
    Override {
        #[command(subcommand)]
        action: OverrideAction,
    },
}

#[derive(Debug, clap::Subcommand)]
enum OverrideAction {
    /// Write a module with the name of another, whose actions replace those of the same name.
    Init {
        /// The module to override.
        #[arg(long, value_name = "NAME")]
        from: String,
        /// The folder to write.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

pub async fn run(arguments: Arguments, context: KitContext) -> KitResult<ExitCode> {
    match arguments.action {
        Action::List => show::list(&context).await,
        Action::Inspect { name } => show::inspect(&name, &context).await,
        Action::Skill { path } => show::skill(&context.paths.cwd.join(path)),
        Action::Validate { path } => validate::run(&context.paths.cwd.join(path), &context).await,
        Action::Init(arguments) => create::init(&arguments, &context),
        Action::Bootstrap { from } => install::bootstrap(from.as_deref(), &context),
        Action::Pack { path, out } => install::pack(&context.paths.cwd.join(path), &context.paths.cwd.join(out), &context),
        Action::Install(arguments) => install::install(arguments, &context).await,
        Action::Uninstall { name, module_version } => install::uninstall(&name, module_version.as_deref(), &context),
        Action::Override { action: OverrideAction::Init { from, out } } => {
            create::init_override(&from, &context.paths.cwd.join(out), &context).await
        }
    }
}

/// Reads a module's manifest. A folder without one is not found; one with faults is refused with all of them.
fn read_manifest(folder: &Path) -> KitResult<Manifest> {
    if !folder.join(MANIFEST_FILE).is_file() {
        return Err(KitFault::not_found(format!("{} has no {MANIFEST_FILE}", folder.display()))
            .next("dispatch module init --name <name> --out <dir>", "write the files of a new module"));
    }
    Manifest::read(folder).map_err(|faults| manifest_fault(folder, &faults))
}

fn manifest_fault(folder: &Path, faults: &[ManifestFault]) -> KitFault {
    let message = format!("{} is not valid", folder.join(MANIFEST_FILE).display());
    KitFault::usage(message).details(json!({ "issues": faults }))
}

/// The failure of packing or installing, with every issue.
fn package_fault(issues: &[PackageIssue]) -> KitFault {
    let first = issues.first().map_or_else(|| "the package is not valid".to_owned(), |issue| issue.message.clone());
    let message = match issues.len() {
        0 | 1 => first,
        count => format!("{first} (and {} more, see details)", count - 1),
    };
    KitFault::new(FaultCode::Usage, message).details(json!({ "issues": issues }))
}

/// The properties of a schema in one line: `id:string, count:integer`.
fn schema_summary(schema: &Value) -> String {
    let properties = schema.get("properties").and_then(Value::as_object).filter(|properties| !properties.is_empty());
    let Some(properties) = properties else { return "declared".into() };
    let kind = |property: &Value| property.get("type").and_then(Value::as_str).unwrap_or("unknown").to_owned();
    properties.iter().map(|(name, property)| format!("{name}:{}", kind(property))).collect::<Vec<_>>().join(", ")
}
