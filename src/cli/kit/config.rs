//! `dispatch.config.json` of a workspace over `config.json` of the state folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::options::KitPaths;
use crate::secret::Secret;

/// The configuration file of a workspace.
pub const PROJECT_FILE: &str = "dispatch.config.json";

/// The merged configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KitConfig {
    /// The registry that modules are installed from.
    pub registry: Option<RegistryConfig>,
    /// Modules whose skills are installed, by name.
    #[serde(default)]
    pub modules: BTreeMap<String, ModuleSkill>,
    /// Files that were ignored, and what is wrong with them.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// An npm-like registry of modules.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistryConfig {
    pub url: String,
    /// `@scope`.
    pub scope: String,
    #[serde(default)]
    pub auth_token: Option<Secret>,
}

/// The repository of a module's skill.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSkill {
    pub repo: String,
    pub version: String,
}

/// Reads and merges the files. A file that cannot be used is a warning.
pub fn load_config(paths: &KitPaths) -> KitConfig {
    let mut warnings = Vec::new();
    let user = read(&paths.home.join("config.json"), &mut warnings);
    let project = read(&paths.root.join(PROJECT_FILE), &mut warnings);
    if project.get("registry").is_some_and(|registry| registry.get("authToken").is_some()) {
        warnings.push(format!("{PROJECT_FILE} holds registry.authToken. Keep tokens in the user's config.json or in a variable."));
    }
    let mut merged = Value::Object(merge(user, project));
    fill_variables(&mut merged);
    let config = serde_path_to_error::deserialize::<_, KitConfig>(&merged).map_err(|error| format!("{}: {}", error.path(), error.inner()));
    match config.and_then(KitConfig::checked) {
        Ok(config) => KitConfig { warnings, ..config },
        Err(reason) => {
            warnings.push(format!("the configuration is ignored: {reason}"));
            KitConfig { warnings, ..KitConfig::default() }
        }
    }
}

impl KitConfig {
    /// Refuses what the types allow and the contract does not.
    fn checked(self) -> Result<Self, String> {
        if let Some(registry) = &self.registry {
            let scope = registry.scope.strip_prefix('@').unwrap_or_default();
            if scope.is_empty() || !scope.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-') {
                return Err(format!("registry.scope: `{}` is not of the form @name", registry.scope));
            }
            let url = url::Url::parse(&registry.url).map_err(|error| format!("registry.url: {error}"))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err("registry.url: the scheme must be http or https".into());
            }
        }
        Ok(self)
    }
}

fn read(path: &Path, warnings: &mut Vec<String>) -> Map<String, Value> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Map::new(),
        Err(error) => {
            warnings.push(format!("{} cannot be read: {error}", path.display()));
            return Map::new();
        }
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => map,
        Ok(_) => {
            warnings.push(format!("{} is ignored: it must hold a JSON object", path.display()));
            Map::new()
        }
        Err(error) => {
            warnings.push(format!("{} is ignored: {error}", path.display()));
            Map::new()
        }
    }
}

/// The project's members over the user's, deep for objects.
fn merge(mut below: Map<String, Value>, above: Map<String, Value>) -> Map<String, Value> {
    for (name, value) in above {
        let merged = match (below.remove(&name), value) {
            (Some(Value::Object(below)), Value::Object(above)) => Value::Object(merge(below, above)),
            (_, value) => value,
        };
        below.insert(name, merged);
    }
    below
}

/// Puts environment variables in the place of `${env.NAME}`; one that is not set is empty.
fn fill_variables(value: &mut Value) {
    match value {
        Value::String(text) => *text = filled(text),
        Value::Array(items) => items.iter_mut().for_each(fill_variables),
        Value::Object(members) => members.values_mut().for_each(fill_variables),
        _ => {}
    }
}

fn filled(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${env.") {
        result.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            result.push_str("${env.");
            rest = after;
            break;
        };
        result.push_str(&std::env::var(name.trim()).unwrap_or_default());
        rest = after;
    }
    result + rest
}
