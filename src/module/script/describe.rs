//! The description of a JavaScript module, kept by the hash of its files so that node is not started each time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::process::{BridgeMessage, ScriptProcess};
use super::{ScriptEntry, ScriptHost};
use crate::module::action::{ActionHandler, ModuleAction, ModuleLayer};
use crate::module::manifest::{Manifest, is_name};
use crate::module::source;

/// How long a module may take to load.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a module's default export says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::module) struct DescribedModule {
    name: Value,
    version: Value,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    actions: IndexMap<String, DescribedAction>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribedAction {
    #[serde(default)]
    description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_schema: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exports_schema: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential_schema: Option<Value>,
}

/// Returns the description of the module in a folder. The error says why it cannot be loaded.
pub(in crate::module) async fn describe(folder: &Path, manifest: &Manifest, home: &Path) -> Result<DescribedModule, String> {
    let entry = folder.join(&manifest.entry);
    if !entry.is_file() {
        return Err(format!("its entry {} does not exist", manifest.entry));
    }
    let hash = source::hash_folder(folder).map_err(|error| format!("its files cannot be read: {error}"))?;
    let cache = home.join("cache/modules").join(format!("{hash}-{}.json", env!("CARGO_PKG_VERSION")));
    if let Some(known) = std::fs::read(&cache).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(known);
    }
    let described = tokio::time::timeout(DESCRIBE_TIMEOUT, ask(&entry));
    let described = described.await.map_err(|_| format!("it did not load within {} s", DESCRIBE_TIMEOUT.as_secs()))??;
    described.check(manifest)?;
    keep(&cache, &described);
    Ok(described)
}

async fn ask(entry: &Path) -> Result<DescribedModule, String> {
    let mut process = ScriptProcess::start(entry).map_err(|fault| fault.message)?;
    process.send(&json!({ "type": "describe" })).await.map_err(|fault| fault.message)?;
    loop {
        match process.receive().await.map_err(|fault| fault.message)? {
            BridgeMessage::Module(described) => return Ok(described),
            BridgeMessage::Failure { message } => return Err(message),
            _ => {}
        }
    }
}

/// Keeps a description. The cache only saves time, so a folder that cannot be written is no failure.
fn keep(cache: &Path, described: &DescribedModule) {
    let temporary = cache.with_extension(format!("{}.tmp", std::process::id()));
    let made = cache.parent().map_or(Ok(()), std::fs::create_dir_all);
    let text = serde_json::to_string(described).unwrap_or_default();
    let kept = made.and_then(|()| std::fs::write(&temporary, text)).and_then(|()| std::fs::rename(&temporary, cache));
    if let Err(error) = kept {
        tracing::debug!(%error, "failed to keep the description of a module; node is started again next time");
    }
}

impl DescribedModule {
    /// Refuses a module that does not match its manifest.
    fn check(&self, manifest: &Manifest) -> Result<(), String> {
        for (member, found, expected) in [("name", &self.name, &manifest.name), ("version", &self.version, &manifest.version)] {
            if found.as_str() != Some(expected) {
                return Err(format!("{member} is {found} in the entry's default export and \"{expected}\" in module.json"));
            }
        }
        match self.actions.keys().find(|name| !is_name(name)) {
            Some(name) => Err(format!("the action name `{name}` may have lower-case letters, digits and `-` only")),
            None => Ok(()),
        }
    }

    /// Returns the module's actions.
    pub(in crate::module) fn actions(self, manifest: &Manifest, folder: &Path, layer: ModuleLayer, source_path: &str) -> Vec<ModuleAction> {
        let host = Arc::new(ScriptHost::new(folder.join(&manifest.entry)));
        let actions = self.actions.into_iter().map(|(name, action)| ModuleAction {
            key: format!("{}.{name}", manifest.name),
            module: manifest.name.clone(),
            version: manifest.version.clone(),
            layer,
            source_path: source_path.to_owned(),
            description: action.description,
            input_schema: action.input_schema,
            exports_schema: action.exports_schema,
            credential_schema: action.credential_schema,
            handler: ActionHandler::Script(ScriptEntry::new(&name, &host)),
            name,
        });
        actions.collect()
    }
}
