//! A case on its way to a run: found, read and checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cli::kit::{KitContext, KitFault, KitPaths, KitResult};
use crate::clock::Timestamp;
use crate::job::case::{CaseKind, JobCase};
use crate::job::checks::semantic_issues;
use crate::job::credentials::credential_issues;
use crate::job::dependencies::{DependencyContext, DependencyIssue, dependency_issues, resolve_http};
use crate::job::inputs::read_inputs;
use crate::job::interpolation::Interpolation;
use crate::job::paths::find_case;
use crate::job::payload::ActionDefaults;
use crate::job::record::local_paths;
use crate::job::state::JobState;
use crate::module::ActionRegistry;

/// A case, with what its checks and its run need.
pub struct LoadedCase {
    pub path: PathBuf,
    pub kind: CaseKind,
    pub case: JobCase,
    pub registry: ActionRegistry,
    pub defaults: ActionDefaults,
    pub env: HashMap<String, String>,
}

/// A case that may run.
pub struct PreparedJob {
    pub loaded: LoadedCase,
    pub input: Map<String, Value>,
}

impl LoadedCase {
    /// Finds and reads the case that `--case` names.
    pub async fn load(text: &str, paths: &KitPaths) -> KitResult<Self> {
        let Some(path) = find_case(text, &paths.cwd, &paths.root) else {
            return Err(KitFault::not_found(format!("case file not found: {text}")).next("dispatch job cases", "list the cases"));
        };
        let read = std::fs::read_to_string(&path);
        let text = read.map_err(|error| KitFault::usage(format!("{} cannot be read: {error}", path.display())))?;
        let document: Value =
            serde_json::from_str(&text).map_err(|error| KitFault::usage(format!("{} is not JSON: {error}", path.display())))?;
        Self::of_document(document, path, paths).await
    }

    /// Reads a case that is a document already.
    pub async fn of_document(document: Value, path: PathBuf, paths: &KitPaths) -> KitResult<Self> {
        let registry = ActionRegistry::load(&paths.registry_options(path.parent())).await;
        let case = JobCase::parse(document).map_err(|issues| {
            let details = json!({ "casePath": path, "issues": issues, "warnings": registry_warnings(&registry) });
            KitFault::usage("job case schema validation failed").details(details)
        })?;
        let kind = CaseKind::of(&path);
        Ok(Self { path, kind, case, registry, defaults: ActionDefaults::read(&paths.home), env: std::env::vars().collect() })
    }

    /// What expressions read before the first step.
    pub fn state(&self, input: &Map<String, Value>, run: &Map<String, Value>) -> JobState {
        JobState { env: self.env.clone(), input: input.clone(), run: run.clone(), ..JobState::default() }
    }

    /// The `http` block with its expressions filled in.
    pub fn http(&self, input: &Map<String, Value>, run: &Map<String, Value>) -> Result<Option<Value>, Box<DependencyIssue>> {
        let state = self.state(input, run);
        let block = Value::Object(self.case.http.clone().unwrap_or_default());
        let paths = local_paths(&state, &block);
        resolve_http(&self.case, &Interpolation { state: &state, own: &Map::new(), paths: &paths })
    }

    /// Every dependency that is not met.
    pub fn dependency_issues(&self, input: &Map<String, Value>, paths: &KitPaths) -> Vec<DependencyIssue> {
        let folders = [self.path.parent().map(Path::to_owned), Some(paths.cwd.clone()), Some(paths.root.clone())];
        let workspaces: Vec<PathBuf> = folders.into_iter().flatten().filter_map(|folder| crate::module::find_workspace(&folder)).collect();
        let context = DependencyContext { registry: &self.registry, home: &paths.home, cwd: &paths.cwd, folders: &workspaces };
        dependency_issues(&self.case, &context, &self.http(input, &start_scope(Timestamp::from_millis(0))))
    }

    /// Warnings of the registry, with one line for each action that was replaced.
    pub fn warnings(&self) -> Vec<String> {
        registry_warnings(&self.registry)
    }
}

/// See [`LoadedCase::warnings`].
pub fn registry_warnings(registry: &ActionRegistry) -> Vec<String> {
    let overrides = registry.conflicts().iter().map(|conflict| {
        let label = |side: &crate::module::ConflictSide| format!("{}@{}({})", side.module_name, side.version, side.layer.as_str());
        format!("override: {} winner={} replaced={}", conflict.action_key, label(&conflict.winner), label(&conflict.previous))
    });
    registry.warnings().iter().cloned().chain(overrides).collect()
}

/// The run scope at the start.
pub fn start_scope(started: Timestamp) -> Map<String, Value> {
    let members = [("startedAt", started.to_string()), ("cliVersion", env!("CARGO_PKG_VERSION").to_owned())];
    members.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect()
}

impl PreparedJob {
    /// Loads a case and checks it stage by stage; the first stage that fails is the answer.
    pub async fn open(text: &str, inputs: &[String], context: &KitContext) -> KitResult<Self> {
        let loaded = LoadedCase::load(text, &context.paths).await?;
        Self::check(loaded, inputs, &context.paths)
    }

    /// Checks a loaded case stage by stage.
    pub fn check(loaded: LoadedCase, inputs: &[String], paths: &KitPaths) -> KitResult<Self> {
        let input = read_inputs(&loaded.case.inputs, inputs)
            .map_err(|issues| preflight(&loaded, "job input preflight failed", "inputIssues", json!(issues)))?;
        Self::check_typed(loaded, input, paths)
    }

    /// Checks a loaded case whose inputs have their types already.
    pub fn check_typed(loaded: LoadedCase, input: Map<String, Value>, paths: &KitPaths) -> KitResult<Self> {
        let issues = semantic_issues(&loaded.case, loaded.kind, &loaded.registry, &loaded.defaults);
        // An action of a module that is not loaded is reported as a missing module, with the command that mends it.
        let issues: Vec<_> = issues.into_iter().filter(|issue| issue.code != "UNKNOWN_ACTION" || has_module(&loaded, issue)).collect();
        if !issues.is_empty() {
            return Err(preflight(&loaded, "job case validation failed", "issues", json!(issues)));
        }
        let issues = loaded.dependency_issues(&input, paths);
        if !issues.is_empty() {
            let first = issues.first().map(|issue| issue.message.clone()).unwrap_or_default();
            let fault = preflight(&loaded, &format!("job dependency preflight failed: {first}"), "issues", json!(issues));
            return Err(with_next(fault, &issues));
        }
        let issues = credential_issues(&loaded.case, &loaded.registry, Some(&loaded.env));
        if !issues.is_empty() {
            return Err(preflight(&loaded, "job credential preflight failed", "issues", json!(issues)));
        }
        Ok(Self { loaded, input })
    }
}

/// Whether the module of an unknown action is loaded, so that only its action is missing.
fn has_module(loaded: &LoadedCase, issue: &crate::job::checks::CaseIssue) -> bool {
    let step = loaded.case.steps.iter().find(|step| Some(&step.id) == issue.step_id.as_ref());
    step.is_some_and(|step| loaded.registry.module(step.action.split('.').next().unwrap_or_default()).is_some())
}

fn preflight(loaded: &LoadedCase, message: &str, field: &str, issues: Value) -> KitFault {
    let mut details = Map::new();
    details.insert("casePath".into(), loaded.path.display().to_string().into());
    details.insert(field.into(), issues);
    details.insert("warnings".into(), json!(loaded.warnings()));
    KitFault::usage(message).details(Value::Object(details))
}

/// Adds the commands that mend missing dependencies, each once.
pub fn with_next(mut fault: KitFault, issues: &[DependencyIssue]) -> KitFault {
    for issue in issues {
        let Some(command) = &issue.next else { continue };
        if !fault.next.iter().any(|known| known.command == *command) {
            fault = fault.next(command.clone(), "provide the missing dependency");
        }
    }
    fault
}
