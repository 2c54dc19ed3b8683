//! `dispatch module bootstrap`, `pack`, `install` and `uninstall`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{manifest_fault, package_fault, read_manifest, registry};
use crate::cli::embedded::Scratch;
use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand, home_relative, load_config};
use crate::clock::Clock;
use crate::module::package::{self, InstalledModule};
use crate::module::{Manifest, find_workspace, workspace_modules};

#[derive(Debug, clap::Args)]
pub(super) struct InstallArguments {
    /// A `.dpmod.zip`.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// The name of a module in the registry.
    #[arg(long)]
    name: Option<String>,
    /// Its version, or a range of versions: `1.2.0`, `^1.0.0`.
    #[arg(long)]
    version: Option<String>,
}

pub(super) fn bootstrap(from: Option<&Path>, context: &KitContext) -> KitResult<ExitCode> {
    let start = from.map_or_else(|| context.paths.cwd.clone(), |from| context.paths.cwd.join(from));
    let workspace = find_workspace(&start)
        .ok_or_else(|| KitFault::not_found(format!("no folder from {} upwards has a modules/ folder", start.display())))?;
    let folders = workspace_modules(&workspace);
    if folders.is_empty() {
        return Err(KitFault::not_found(format!("{} has no modules", workspace.join("modules").display())));
    }
    let mut installed = Vec::new();
    for folder in folders {
        let manifest = Manifest::read(&folder).map_err(|faults| manifest_fault(&folder, &faults))?;
        let clock = Clock::system();
        let module = package::install_folder(&context.paths.home, &clock, |target| package::normalize(&folder, &manifest, target, &clock));
        let module = module.map_err(|issues| {
            let fault = package_fault(&issues);
            KitFault { message: format!("{}: {}", folder.display(), fault.message), ..fault }
        })?;
        context.say(format_args!("✓ Installed {}@{} -> {}", module.name, module.version, home_relative(&module.install_dir)));
        installed.push(with_source(&module, &folder));
    }
    context.result(json!({ "workspaceRoot": workspace, "installed": installed }));
    Ok(ExitCode::SUCCESS)
}

fn with_source(module: &InstalledModule, source: &Path) -> Value {
    json!({ "name": module.name, "version": module.version, "sourceDir": source, "installDir": module.install_dir })
}

pub(super) fn pack(folder: &Path, out: &Path, context: &KitContext) -> KitResult<ExitCode> {
    let manifest = read_manifest(folder)?;
    let clock = Clock::system();
    let scratch = Scratch::new(&clock)?;
    let packed = package::normalize(folder, &manifest, scratch.path(), &clock).and_then(|()| package::write_zip(scratch.path(), out));
    packed.map_err(|issues| package_fault(&issues))?;
    let next = [NextCommand::new(format!("dispatch module install --bundle {}", out.display()), "install the module")];
    context.say(format_args!("✓ Packed {}@{} -> {}", manifest.name, manifest.version, home_relative(out)));
    context.next(&next);
    context.result(json!({ "bundlePath": out, "next": next }));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn install(arguments: InstallArguments, context: &KitContext) -> KitResult<ExitCode> {
    let (module, warnings) = match (arguments.bundle, arguments.name, arguments.version) {
        (Some(bundle), None, None) => (install_bundle(&context.paths.cwd.join(bundle), context)?, None),
        (None, Some(name), Some(version)) => {
            let config = load_config(&context.paths);
            let module = registry::install(&name, &version, &config, context).await?;
            (module, Some(config.warnings))
        }
        _ => return Err(KitFault::usage("Provide either --bundle, or --name together with --version.")),
    };
    context.say(format_args!("✓ Installed {}@{} -> {}", module.name, module.version, home_relative(&module.install_dir)));
    for warning in warnings.iter().flatten() {
        context.say(format_args!("! {warning}"));
    }
    let next = [NextCommand::new(format!("dispatch module inspect {}", module.name), "see its actions and jobs")];
    let mut document = json!({ "name": module.name, "version": module.version, "installDir": module.install_dir });
    if let Some(members) = document.as_object_mut() {
        members.extend(warnings.map(|warnings| ("warnings".to_owned(), json!(warnings))));
        members.insert("next".into(), json!(next));
    }
    context.next(&next);
    context.result(document);
    Ok(ExitCode::SUCCESS)
}

fn install_bundle(bundle: &Path, context: &KitContext) -> KitResult<InstalledModule> {
    if !bundle.is_file() {
        return Err(KitFault::not_found(format!("there is no file {}", bundle.display())));
    }
    let clock = Clock::system();
    package::install_folder(&context.paths.home, &clock, |target| package::read_zip(bundle, target))
        .map_err(|issues| package_fault(&issues))
}

pub(super) fn uninstall(name: &str, version: Option<&str>, context: &KitContext) -> KitResult<ExitCode> {
    let removed = package::uninstall(&context.paths.home, name, version).map_err(|issues| package_fault(&issues))?;
    if removed.is_empty() {
        let label = version.map_or_else(|| name.to_owned(), |version| format!("{name}@{version}"));
        return Err(KitFault::not_found(format!("{label} is not installed")).next("dispatch module list", "see the loaded modules"));
    }
    for module in &removed {
        context.say(format_args!("✓ Removed {}@{}", module.name, module.version));
    }
    context.result(json!({ "removed": removed }));
    Ok(ExitCode::SUCCESS)
}
