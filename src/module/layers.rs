//! The layers above the builtin modules: `modules/` folders of workspaces, and installed modules of the state folder.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::action::ModuleLayer;
use super::manifest::{MANIFEST_FILE, Manifest};
use super::package::{self, ARTIFACT_FILE, ArtifactRecord};
use super::registry::{LoadedModule, RegistryOptions};
use super::version::Version;
use super::{script, source};

/// The modules of the layers, lowest first, and the warnings about those that could not be loaded.
#[derive(Debug, Default)]
pub(super) struct LayerModules {
    pub modules: Vec<LoadedModule>,
    pub warnings: Vec<String>,
}

/// Loads the modules of the workspaces, then the installed ones.
pub(super) async fn load(options: &RegistryOptions) -> LayerModules {
    let mut loaded = LayerModules::default();
    let starts = options.case_dir.iter().chain([&options.cwd, &options.root]);
    let mut seen = HashSet::new();
    for start in starts {
        let Some(workspace) = find_workspace(start) else { continue };
        let identity = fs::canonicalize(&workspace).unwrap_or_else(|_| workspace.clone());
        let home = fs::canonicalize(&options.home).unwrap_or_else(|_| options.home.clone());
        if identity != home && seen.insert(identity) {
            for folder in workspace_modules(&workspace) {
                loaded.add(&folder, ModuleLayer::Repo, &options.home).await;
            }
        }
    }
    for folder in installed_folders(&options.home.join("modules")) {
        loaded.add_installed(&folder, &options.home).await;
    }
    loaded
}

/// Returns the nearest folder, from `start` upwards, that has a `modules/` folder.
pub fn find_workspace(start: &Path) -> Option<PathBuf> {
    start.ancestors().find(|folder| folder.join("modules").is_dir()).map(Path::to_owned)
}

/// Returns the folders below a workspace's `modules/` that have a manifest, by name.
pub fn workspace_modules(workspace: &Path) -> Vec<PathBuf> {
    module_folders(&workspace.join("modules"))
}

fn module_folders(modules: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(modules).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut folders: Vec<PathBuf> = entries.filter(|path| !is_hidden(path) && path.join(MANIFEST_FILE).is_file()).collect();
    folders.sort();
    folders
}

/// The installed modules by name, then by version, so that the highest version of a module is loaded last and wins.
fn installed_folders(modules: &Path) -> Vec<PathBuf> {
    let mut folders = module_folders(modules);
    folders.sort_by_cached_key(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (module, version) = name.rsplit_once('@').map_or((name.as_str(), None), |(module, version)| (module, Version::parse(version)));
        (module.to_owned(), version, name.clone())
    });
    folders
}

impl LayerModules {
    async fn add_installed(&mut self, folder: &Path, home: &Path) {
        let faults = package::check_installed(folder);
        if faults.is_empty() {
            return self.add(folder, ModuleLayer::User, home).await;
        }
        let is_legacy = faults.iter().any(|issue| issue.code == package::PackageIssueCode::LegacyInstalledFormat);
        let reason = if is_legacy {
            "it has the old non-portable format. Install it again with `dispatch module install`.".to_owned()
        } else {
            faults.into_iter().map(|issue| issue.message).collect::<Vec<_>>().join("; ")
        };
        self.warnings.push(format!("Skipped installed module {}: {reason}", folder.display()));
    }

    async fn add(&mut self, folder: &Path, layer: ModuleLayer, home: &Path) {
        match load_module(folder, layer, home).await {
            Ok(module) => self.modules.push(module),
            Err(reason) => self.warnings.push(format!("Failed loading {} module {}: {reason}", layer.as_str(), folder.display())),
        }
    }
}

/// Loads the module of a folder. The error says why it cannot be loaded.
pub async fn load_module(folder: &Path, layer: ModuleLayer, home: &Path) -> Result<LoadedModule, String> {
    let texts = |faults: Vec<super::manifest::ManifestFault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let manifest = Manifest::read(folder).map_err(texts)?;
    let source_path = folder.join(MANIFEST_FILE).display().to_string();
    let hash = source_hash(folder, layer).map_err(|error| format!("its files cannot be read: {error}"))?;
    let mut metadata = manifest.metadata.clone();
    let actions = if manifest.is_declarative() {
        manifest.declared_actions(layer, &source_path).map_err(texts)?
    } else {
        let described = script::describe(folder, &manifest, home).await?;
        let mut merged = described.metadata.clone();
        merged.extend(metadata);
        metadata = merged;
        described.actions(&manifest, folder, layer, &source_path)
    };
    Ok(LoadedModule {
        jobs: source::jobs_of(folder),
        name: manifest.name,
        version: manifest.version,
        layer,
        source_path,
        folder: Some(folder.to_owned()),
        hash: Some(hash),
        metadata: Value::Object(metadata),
        actions,
    })
}

/// The hash of a module's source: for an installed module, that of the source that it was made from.
fn source_hash(folder: &Path, layer: ModuleLayer) -> std::io::Result<String> {
    if layer == ModuleLayer::User
        && let Ok(record) = ArtifactRecord::read(&folder.join(ARTIFACT_FILE))
    {
        return Ok(record.source_hash);
    }
    source::hash_folder(folder)
}
