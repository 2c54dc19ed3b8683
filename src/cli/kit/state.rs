//! Small files of the state folder: defaults of actions, and the overrides that older versions left behind.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::envelope::{KitFault, KitResult};

/// `action-defaults.json`: members that are put under the payloads of an action.
#[derive(Debug, Clone)]
pub struct ActionDefaults {
    pub path: PathBuf,
    /// A payload object for each action key.
    pub values: Map<String, Value>,
}

impl ActionDefaults {
    /// Reads the file. Entries that are no objects are ignored; a file that cannot be read is empty.
    pub fn load(home: &Path) -> Self {
        let path = home.join("action-defaults.json");
        let values = read_object(&path).into_iter().filter(|(_, value)| value.is_object()).collect();
        Self { path, values }
    }

    /// Returns a payload over the defaults of its action: deep for objects; every other value replaces.
    pub fn apply(&self, action: &str, payload: Value) -> Value {
        match self.values.get(action) {
            Some(defaults) => merge(defaults.clone(), payload),
            None => payload,
        }
    }

    /// Writes the file.
    pub fn save(&self) -> KitResult<()> {
        write_object(&self.path, &self.values)
    }
}

fn merge(below: Value, above: Value) -> Value {
    match (below, above) {
        (Value::Object(mut below), Value::Object(above)) => {
            for (name, value) in above {
                let merged = match below.remove(&name) {
                    Some(default) => merge(default, value),
                    None => value,
                };
                below.insert(name, merged);
            }
            Value::Object(below)
        }
        (_, above) => above,
    }
}

/// The members of `scoreDefaults` that survive loading.
const KNOWN_OVERRIDES: &[(&str, &[&str])] = &[("currentPeriod", &["id", "name", "slug"]), ("clock", &["minute", "second"])];

/// `runtime-overrides.json`, of which a few members are understood and none has an effect.
#[derive(Debug, Clone)]
pub struct RuntimeOverrides {
    pub path: PathBuf,
    pub values: Map<String, Value>,
}

impl RuntimeOverrides {
    pub fn load(home: &Path) -> Self {
        let path = home.join("runtime-overrides.json");
        let stored = read_object(&path);
        let scores = stored.get("scoreDefaults").and_then(Value::as_object);
        let mut kept = Map::new();
        for (group, names) in KNOWN_OVERRIDES {
            let Some(members) = scores.and_then(|scores| scores.get(*group)).and_then(Value::as_object) else { continue };
            let members: Map<String, Value> = members
                .iter()
                .filter(|(name, _)| names.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            kept.insert((*group).to_owned(), members.into());
        }
        let values = if kept.is_empty() { Map::new() } else { Map::from_iter([("scoreDefaults".to_owned(), Value::Object(kept))]) };
        Self { path, values }
    }

    /// Removes every override.
    pub fn clear(&mut self) -> KitResult<()> {
        self.values.clear();
        write_object(&self.path, &self.values)
    }
}

fn read_object(path: &Path) -> Map<String, Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Writes the file whole or not at all.
fn write_object(path: &Path, values: &Map<String, Value>) -> KitResult<()> {
    let text = serde_json::to_string_pretty(values).unwrap_or_default() + "\n";
    let temporary = path.with_extension(format!("json.{}.tmp", std::process::id()));
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = folder.and_then(|()| std::fs::write(&temporary, text)).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| KitFault::runtime(format!("{} cannot be written: {error}", path.display())))
}
