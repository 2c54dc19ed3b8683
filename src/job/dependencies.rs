//! What a case needs before it runs: modules, values of memory, and parts of `http`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::case::{JobCase, MemoryDependency};
use super::interpolation::Interpolation;
use crate::module::memory::MemoryFolder;
use crate::module::version::{Version, VersionRange};
use crate::module::{ActionRegistry, JobKind, workspace_modules};

/// A dependency that is not met.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DependencyIssue {
    pub code: &'static str,
    pub dependency_type: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<FillTarget>,
    /// The command that mends it.
    #[serde(skip)]
    pub next: Option<String>,
}

/// The job that fills a missing value of memory.
#[derive(Debug, Clone, Serialize)]
pub struct FillTarget {
    pub module: String,
    pub job: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// The places that dependencies are looked up in.
pub struct DependencyContext<'a> {
    pub registry: &'a ActionRegistry,
    pub home: &'a Path,
    pub cwd: &'a Path,
    /// Folders whose workspace may hold modules that are not loaded.
    pub folders: &'a [PathBuf],
}

/// The `http` block with its expressions filled in: `baseUrl` and `defaultHeaders` as texts.
pub fn resolve_http(case: &JobCase, interpolation: &Interpolation<'_>) -> Result<Option<Value>, Box<DependencyIssue>> {
    let Some(http) = &case.http else { return Ok(None) };
    let fail = |message: String| {
        Box::new(DependencyIssue { code: "INVALID_HTTP_CONFIG", dependency_type: "http", message, ..DependencyIssue::default() })
    };
    let mut resolved = match interpolation.fill(&Value::Object(http.clone())) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    if let Some(base) = resolved.get("baseUrl")
        && base.as_str().is_none_or(|base| base.trim().is_empty())
    {
        return Err(fail("http.baseUrl is not a text, or it is blank; set the variables and inputs that it reads".into()));
    }
    match resolved.get_mut("defaultHeaders") {
        None => {}
        Some(Value::Object(headers)) => {
            for (name, value) in headers {
                let text = match &*value {
                    Value::String(text) => text.clone(),
                    Value::Number(_) | Value::Bool(_) => value.to_string(),
                    _ => return Err(fail(format!("http.defaultHeaders.{name} is not a text, a number, true or false"))),
                };
                *value = Value::String(text);
            }
        }
        Some(_) => return Err(fail("http.defaultHeaders is not an object".into())),
    }
    Ok(Some(Value::Object(resolved)))
}

/// Every dependency that is not met, and every `http` fault.
pub fn dependency_issues(
    case: &JobCase,
    context: &DependencyContext<'_>,
    http: &Result<Option<Value>, Box<DependencyIssue>>,
) -> Vec<DependencyIssue> {
    let mut issues = module_issues(case, context);
    issues.extend(case.dependencies.memory.iter().filter_map(|needed| memory_issue(needed, context)));
    match http {
        Err(issue) => issues.push(issue.as_ref().clone()),
        Ok(http) => issues.extend(case.dependencies.http.iter().filter_map(|path| http_issue(path, http.as_ref()))),
    }
    issues
}

fn module_issues(case: &JobCase, context: &DependencyContext<'_>) -> Vec<DependencyIssue> {
    let mut needed: BTreeMap<String, Option<String>> = BTreeMap::new();
    for step in &case.steps {
        let target = step.payload.get("action").and_then(Value::as_str).filter(|_| step.action == "flow.poll");
        for action in [Some(step.action.as_str()), target].into_iter().flatten() {
            needed.entry(action.split('.').next().unwrap_or_default().to_owned()).or_default();
        }
    }
    for (name, version) in &case.dependencies.modules {
        needed.insert(name.clone(), version.clone());
    }
    needed.into_iter().filter_map(|(name, range)| module_issue(name, range, context)).collect()
}

fn module_issue(name: String, range: Option<String>, context: &DependencyContext<'_>) -> Option<DependencyIssue> {
    let issue = DependencyIssue { dependency_type: "module", required_version: range.clone(), ..DependencyIssue::default() };
    let Some(module) = context.registry.module(&name) else {
        let in_workspace = context.folders.iter().any(|folder| workspace_modules(folder).iter().any(|module| module.ends_with(&name)));
        let next = match &range {
            _ if in_workspace => Some("dispatch module bootstrap".to_owned()),
            Some(version) => Some(format!("dispatch module install --name {name} --version {version}")),
            None => None,
        };
        let message = format!("the module `{name}` is not loaded");
        return Some(DependencyIssue { code: "MISSING_MODULE_DEPENDENCY", message, module_name: Some(name), next, ..issue });
    };
    let range = range?;
    if satisfies(&module.version, &range) {
        return None;
    }
    let message = format!("the module `{name}` is loaded in version {}, which does not satisfy {range}", module.version);
    let actual_version = Some(module.version.clone());
    Some(DependencyIssue { code: "MODULE_VERSION_MISMATCH", message, module_name: Some(name), actual_version, ..issue })
}

fn satisfies(version: &str, range: &str) -> bool {
    match (VersionRange::parse(range), Version::parse(version)) {
        (Some(range), Some(version)) => range.matches(&version),
        _ => version == range,
    }
}

fn memory_issue(needed: &MemoryDependency, context: &DependencyContext<'_>) -> Option<DependencyIssue> {
    let place = format!("{}.{}", needed.namespace, needed.key);
    let issue = DependencyIssue {
        code: "MISSING_MEMORY_DEPENDENCY",
        dependency_type: "memory",
        namespace: Some(needed.namespace.clone()),
        key: Some(needed.key.clone()),
        ..DependencyIssue::default()
    };
    match MemoryFolder::new(context.home).find(&needed.namespace, &needed.key) {
        Ok(Some(_)) => return None,
        Ok(None) => {}
        Err(fault) => return Some(DependencyIssue { message: fault.message, ..issue }),
    }
    let Some(fill) = &needed.fill else {
        return Some(DependencyIssue { message: format!("memory has no value at {place}"), ..issue });
    };
    let target =
        FillTarget { module: fill.module.clone(), job: fill.job.clone(), path: fill_job(context.registry, &fill.module, &fill.job) };
    let Some(path) = &target.path else {
        let message = format!("memory has no value at {place}, and the fill job {}:{} cannot be found", fill.module, fill.job);
        return Some(DependencyIssue { code: "INVALID_FILL_JOB", message, fill: Some(target), ..issue });
    };
    let command = format!("dispatch job run --case {}", relative(path, context.cwd));
    let message = format!("memory has no value at {place}; seed with `{command}`");
    Some(DependencyIssue { message, fill: Some(target), next: Some(command), ..issue })
}

/// The file of a module's job: the seed first, then the case.
pub fn fill_job(registry: &ActionRegistry, module: &str, job: &str) -> Option<PathBuf> {
    let jobs = &registry.module(module)?.jobs;
    let of_kind = |kind: JobKind| jobs.iter().find(|known| known.id == job && known.kind == kind);
    of_kind(JobKind::Seed).or_else(|| of_kind(JobKind::Case)).map(|job| job.path.clone())
}

/// A path as a command shows it: relative where it lies below the current folder.
pub fn relative(path: &Path, cwd: &Path) -> String {
    path.strip_prefix(cwd).unwrap_or(path).display().to_string()
}

fn http_issue(path: &str, http: Option<&Value>) -> Option<DependencyIssue> {
    let found = http.and_then(|http| path.split('.').try_fold(http, |value, name| value.as_object()?.get(name)));
    let missing = || DependencyIssue {
        code: "MISSING_HTTP_DEPENDENCY",
        dependency_type: "http",
        message: format!("http.{path} is required but is not set in the case"),
        http_path: Some(path.to_owned()),
        ..DependencyIssue::default()
    };
    found.is_none().then(missing)
}
