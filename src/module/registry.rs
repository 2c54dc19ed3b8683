//! The registry: every module of every layer, and the action that wins for each key.

use std::collections::HashSet;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;

use super::action::{ModuleAction, ModuleLayer};
use super::{builtin, layers};

/// The folders that modules are loaded from.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// The state folder (`HOME`); installed modules are in its `modules/`.
    pub home: PathBuf,
    /// The workspace folder (`ROOT`).
    pub root: PathBuf,
    /// The current folder.
    pub cwd: PathBuf,
    /// The folder of the case file, where a command has one.
    pub case_dir: Option<PathBuf>,
}

/// All modules that could be loaded, and the action that each key resolves to.
#[derive(Debug, Default)]
pub struct ActionRegistry {
    modules: Vec<LoadedModule>,
    actions: IndexMap<String, ModuleAction>,
    warnings: Vec<String>,
    conflicts: Vec<ActionConflict>,
}

/// A module that was loaded.
#[derive(Debug, Clone)]
pub struct LoadedModule {
    pub name: String,
    pub version: String,
    pub layer: ModuleLayer,
    /// The manifest's path, or `builtin:<name>`.
    pub source_path: String,
    /// The module's folder; absent for builtin modules.
    pub folder: Option<PathBuf>,
    /// Hash of the source; absent for builtin modules.
    pub hash: Option<String>,
    pub metadata: Value,
    pub jobs: Vec<ModuleJob>,
    pub actions: Vec<ModuleAction>,
}

/// A job that a module ships.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleJob {
    /// Path below `jobs/` without the suffix.
    pub id: String,
    pub kind: JobKind,
    pub path: PathBuf,
}

/// The kinds of job files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    Seed,
    Case,
}

/// An action that a later module replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionConflict {
    pub action_key: String,
    pub previous: ConflictSide,
    pub winner: ConflictSide,
}

/// One of the two modules of a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConflictSide {
    pub module_name: String,
    pub layer: ModuleLayer,
    pub version: String,
    pub source_path: String,
}

impl ConflictSide {
    fn of_action(action: &ModuleAction) -> Self {
        Self {
            module_name: action.module.clone(),
            layer: action.layer,
            version: action.version.clone(),
            source_path: action.source_path.clone(),
        }
    }

    fn label(&self) -> String {
        format!("{}@{}({})", self.module_name, self.version, self.layer.as_str())
    }
}

impl ActionRegistry {
    /// Loads the builtin modules, then those of the workspaces, then the installed ones. A module that cannot be loaded is a
    /// warning.
    pub async fn load(options: &RegistryOptions) -> Self {
        let mut registry = Self::default();
        for module in builtin::modules() {
            registry.add(module);
        }
        let loaded = layers::load(options).await;
        registry.warnings.extend(loaded.warnings);
        for module in collapse_mirrors(loaded.modules) {
            registry.add(module);
        }
        registry
    }

    /// Returns the registry of the builtin modules alone.
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        for module in builtin::modules() {
            registry.add(module);
        }
        registry
    }

    /// Returns the action that a key resolves to.
    pub fn find(&self, key: &str) -> Option<&ModuleAction> {
        self.actions.get(key)
    }

    /// Returns the winning actions, in the order of their registration.
    pub fn actions(&self) -> impl Iterator<Item = &ModuleAction> {
        self.actions.values()
    }

    /// Returns all modules, lowest layer first.
    pub fn modules(&self) -> &[LoadedModule] {
        &self.modules
    }

    /// Returns the module that wins for a name: the one that was loaded last.
    pub fn module(&self, name: &str) -> Option<&LoadedModule> {
        self.modules.iter().rev().find(|module| module.name == name)
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub fn conflicts(&self) -> &[ActionConflict] {
        &self.conflicts
    }

    /// Registers a module. Its actions replace those of the same key.
    fn add(&mut self, module: LoadedModule) {
        for action in &module.actions {
            if let Some(previous) = self.actions.insert(action.key.clone(), action.clone()) {
                let sides = (ConflictSide::of_action(&previous), ConflictSide::of_action(action));
                self.warnings.push(format!("action '{}' overridden winner={} replaced={}", action.key, sides.1.label(), sides.0.label()));
                self.conflicts.push(ActionConflict { action_key: action.key.clone(), previous: sides.0, winner: sides.1 });
            }
        }
        self.modules.push(module);
    }
}

/// Drops the workspace's copy of a module that is installed with the same version, source and actions.
fn collapse_mirrors(modules: Vec<LoadedModule>) -> Vec<LoadedModule> {
    let mirrored: HashSet<Identity> = modules.iter().filter(|module| module.layer == ModuleLayer::User).map(Identity::of_module).collect();
    let is_mirror = |module: &LoadedModule| {
        module.layer == ModuleLayer::Repo && module.hash.is_some() && mirrored.contains(&Identity::of_module(module))
    };
    modules.into_iter().filter(|module| !is_mirror(module)).collect()
}

/// The parts that are equal in two copies of one module.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Identity {
    name: String,
    version: String,
    hash: Option<String>,
    actions: Vec<String>,
}

impl Identity {
    fn of_module(module: &LoadedModule) -> Self {
        let mut actions: Vec<String> = module.actions.iter().map(|action| action.name.clone()).collect();
        actions.sort();
        Self { name: module.name.clone(), version: module.version.clone(), hash: module.hash.clone(), actions }
    }
}
