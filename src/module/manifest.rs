//! `module.json`: a module's name, version and entry, and its declarative actions.

use std::fmt;
use std::path::{Component, Path};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::action::{ActionHandler, ModuleAction, ModuleLayer};
use super::http::HttpDefinition;

/// The file's name.
pub const MANIFEST_FILE: &str = "module.json";

/// A manifest. Unknown members are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    /// The JavaScript entry, relative to the module.
    #[serde(default = "default_entry")]
    pub entry: String,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    #[serde(default)]
    pub pack: PackSection,
    /// Declarative actions. A module that has them needs no JavaScript.
    #[serde(default)]
    actions: Option<IndexMap<String, Value>>,
}

/// What is packed besides the module's code.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PackSection {
    /// Files, folders, or `folder/**`.
    #[serde(default)]
    pub include: Vec<String>,
}

/// A place in a manifest that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ManifestFault {
    /// Dotted path in the manifest; empty for the whole.
    pub path: String,
    pub message: String,
}

impl ManifestFault {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for ManifestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

fn default_entry() -> String {
    "index.mjs".into()
}

/// A declarative action as the manifest writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeclaredAction {
    #[serde(default)]
    description: String,
    input: Option<Value>,
    exports_schema: Option<Value>,
    credential: Option<Value>,
    request: DeclaredRequest,
    #[serde(default)]
    expect: Vec<u16>,
    response: Option<Value>,
    #[serde(default)]
    exports: IndexMap<String, Value>,
    detail: Option<String>,
    activity: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredRequest {
    method: String,
    path: String,
    #[serde(default)]
    query: IndexMap<String, Value>,
    #[serde(default)]
    headers: IndexMap<String, String>,
    body: Option<Value>,
}

impl Manifest {
    /// Reads the manifest of a module's folder.
    pub fn read(folder: &Path) -> Result<Self, Vec<ManifestFault>> {
        let path = folder.join(MANIFEST_FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| vec![ManifestFault::new("", format!("{} cannot be read: {error}", path.display()))])?;
        Self::parse(&text)
    }

    /// Parses a manifest. The error has every fault.
    pub fn parse(text: &str) -> Result<Self, Vec<ManifestFault>> {
        let deserializer = &mut serde_json::Deserializer::from_str(text);
        let manifest: Self = serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let path = error.path().to_string();
            vec![ManifestFault::new(if path == "." { String::new() } else { path }, error.inner().to_string())]
        })?;
        let faults = manifest.faults();
        if faults.is_empty() { Ok(manifest) } else { Err(faults) }
    }

    /// Reports whether the actions are declared in the manifest.
    pub fn is_declarative(&self) -> bool {
        self.actions.is_some()
    }

    fn faults(&self) -> Vec<ManifestFault> {
        let mut faults = Vec::new();
        if !is_name(&self.name) {
            faults.push(ManifestFault::new("name", format!("`{}` is not a name; use lower-case letters, digits and `-`", self.name)));
        }
        if self.version.trim().is_empty() {
            faults.push(ManifestFault::new("version", "the version is empty"));
        }
        if !is_inside(&self.entry) {
            faults.push(ManifestFault::new("entry", format!("`{}` is not a path inside the module", self.entry)));
        }
        if let Err(found) = self.declared_actions(ModuleLayer::Repo, "") {
            faults.extend(found);
        }
        faults
    }

    /// Returns the declarative actions; the error has every fault of every one.
    pub fn declared_actions(&self, layer: ModuleLayer, source_path: &str) -> Result<Vec<ModuleAction>, Vec<ManifestFault>> {
        let mut faults = Vec::new();
        let mut actions = Vec::new();
        for (name, value) in self.actions.iter().flatten() {
            match declared_action(name, value) {
                Ok((declared, definition)) => actions.push(ModuleAction {
                    key: format!("{}.{name}", self.name),
                    module: self.name.clone(),
                    name: name.clone(),
                    version: self.version.clone(),
                    layer,
                    source_path: source_path.to_owned(),
                    description: declared.description,
                    input_schema: declared.input,
                    exports_schema: declared.exports_schema,
                    credential_schema: declared.credential,
                    handler: ActionHandler::Http(Box::new(definition)),
                }),
                Err(found) => faults.extend(found),
            }
        }
        if faults.is_empty() { Ok(actions) } else { Err(faults) }
    }
}

fn declared_action(name: &str, value: &Value) -> Result<(DeclaredAction, HttpDefinition), Vec<ManifestFault>> {
    let at = |path: &str| format!("actions.{name}{}{path}", if path.is_empty() { "" } else { "." });
    if !is_name(name) {
        return Err(vec![ManifestFault::new(at(""), "the name may have lower-case letters, digits and `-`")]);
    }
    let mut declared: DeclaredAction = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        vec![ManifestFault::new(at(if path == "." { "" } else { &path }), error.inner().to_string())]
    })?;
    let request = &mut declared.request;
    let definition = HttpDefinition {
        method: request.method.clone(),
        path: request.path.clone(),
        query: std::mem::take(&mut request.query),
        headers: std::mem::take(&mut request.headers),
        body: request.body.take(),
        expect: std::mem::take(&mut declared.expect),
        response: declared.response.take(),
        exports: std::mem::take(&mut declared.exports),
        detail: declared.detail.take(),
        activity: declared.activity.take(),
    };
    let mut faults: Vec<ManifestFault> =
        definition.faults().into_iter().map(|(path, message)| ManifestFault::new(at(&path), message)).collect();
    let schemas = [("input", &declared.input), ("exportsSchema", &declared.exports_schema), ("credential", &declared.credential)];
    for (member, schema) in schemas.into_iter().filter_map(|(member, schema)| Some((member, schema.as_ref()?))) {
        if let Err(error) = jsonschema::draft202012::new(schema) {
            faults.push(ManifestFault::new(at(member), format!("not a JSON Schema: {error}")));
        }
    }
    if faults.is_empty() { Ok((declared, definition)) } else { Err(faults) }
}

/// Reports whether a text is a name of a module or an action.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-')
}

/// Reports whether a path stays below the folder that it is relative to.
pub fn is_inside(path: &str) -> bool {
    let is_plain = |component: Component<'_>| matches!(component, Component::Normal(_) | Component::CurDir);
    !path.trim().is_empty() && Path::new(path).components().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_manifest_is_found_at_once() {
        let text = r#"{ "name": "Bad", "version": "", "entry": "../x.mjs", "actions": {
            "one": { "request": { "method": "FETCH", "path": "" }, "input": { "type": 7 } },
            "two": { "request": { "method": "GET", "path": "/" }, "exprts": {} } } }"#;
        let faults = Manifest::parse(text).unwrap_err();
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths[..6], ["name", "version", "entry", "actions.one.request.method", "actions.one.request.path", "actions.one.input"]);
        assert!(paths[6].starts_with("actions.two"), "{paths:?}");
        assert!(Manifest::parse(r#"{ "name": "a", "version": "1.0.0", "extra": true }"#).unwrap().entry == "index.mjs");
    }
}
