//! The case model: what a job file says, read with every fault at once.

use serde::Serialize;
use serde_json::{Map, Value};

use super::names::{is_action, is_dotted, is_env_name, is_module_name, is_namespace};

/// What a job file may do to memory, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseKind {
    /// Reads memory only.
    Case,
    /// Fills memory for other cases.
    Seed,
}

impl CaseKind {
    /// The kind of the file at `path`.
    pub fn of(path: &std::path::Path) -> Self {
        if path.to_string_lossy().ends_with(".job.seed.json") { Self::Seed } else { Self::Case }
    }
}

/// One place where a file does not have the form of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaIssue {
    /// Always `SCHEMA_ERROR`.
    pub code: &'static str,
    /// The member, with dots: `scenario.steps.0.action`.
    pub path: String,
    pub message: String,
}

/// The type of a declared input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputType {
    String,
    Number,
    Boolean,
}

/// One declared input.
#[derive(Debug, Clone)]
pub struct InputDeclaration {
    pub name: String,
    pub kind: InputType,
    pub required: bool,
}

/// A named set of credentials: fields and the environment variables that hold them.
#[derive(Debug, Clone)]
pub struct CredentialProfile {
    pub name: String,
    pub from_env: Vec<(String, String)>,
}

/// A job that fills a missing value of memory.
#[derive(Debug, Clone)]
pub struct FillJob {
    pub module: String,
    pub job: String,
}

/// A value of memory that must exist.
#[derive(Debug, Clone)]
pub struct MemoryDependency {
    pub namespace: String,
    pub key: String,
    pub fill: Option<FillJob>,
}

/// What a case needs before it runs.
#[derive(Debug, Clone, Default)]
pub struct CaseDependencies {
    /// Names and version ranges.
    pub modules: Vec<(String, Option<String>)>,
    pub memory: Vec<MemoryDependency>,
    /// Dotted paths into the resolved `http` block.
    pub http: Vec<String>,
}

/// One step of a case.
#[derive(Debug, Clone)]
pub struct CaseStep {
    pub id: String,
    pub action: String,
    pub payload: Map<String, Value>,
    /// Targets below `run` and their sources below `exports`.
    pub capture: Vec<(String, String)>,
    pub credential: Option<String>,
    pub at_relative: Option<String>,
    pub at_absolute: Option<String>,
}

/// A job case, read.
#[derive(Debug, Clone)]
pub struct JobCase {
    pub schema_version: u64,
    pub job_type: String,
    pub inputs: Vec<InputDeclaration>,
    pub http: Option<Map<String, Value>>,
    pub credentials: Vec<CredentialProfile>,
    pub dependencies: CaseDependencies,
    pub steps: Vec<CaseStep>,
    /// The whole document, unknown members included.
    pub document: Value,
}

impl JobCase {
    /// Reads a document. Error: every place that does not have the form of a case.
    pub fn parse(document: Value) -> Result<Self, Vec<SchemaIssue>> {
        let mut reader = CaseReader::default();
        let case = reader.case(&document);
        match case {
            Some(case) if reader.0.is_empty() => Ok(Self { document, ..case }),
            _ => Err(reader.0),
        }
    }

    /// The credential profile of this name.
    pub fn profile(&self, name: &str) -> Option<&CredentialProfile> {
        self.credentials.iter().find(|profile| profile.name == name.trim())
    }
}

#[derive(Default)]
struct CaseReader(Vec<SchemaIssue>);

impl CaseReader {
    fn issue(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(SchemaIssue { code: "SCHEMA_ERROR", path: path.into(), message: message.into() });
    }

    fn case(&mut self, document: &Value) -> Option<JobCase> {
        let Some(map) = document.as_object() else {
            self.issue("", "expected an object");
            return None;
        };
        let schema_version = map.get("schemaVersion").and_then(Value::as_u64).filter(|version| *version >= 1);
        if schema_version.is_none() {
            self.issue("schemaVersion", "expected a whole number, 1 or more");
        }
        let job_type = self.text(map.get("jobType"), "jobType", true).unwrap_or_default();
        for free in ["verification", "metadata"] {
            self.object(map.get(free), free);
        }
        let http = self.object(map.get("http"), "http").cloned();
        if let Some(http) = &http {
            self.text(http.get("baseUrl"), "http.baseUrl", false);
            self.texts(http.get("defaultHeaders"), "http.defaultHeaders");
        }
        let inputs = self.inputs(map.get("inputs"));
        let credentials = self.credentials(map.get("credentials"));
        let dependencies = self.dependencies(map.get("dependencies"));
        let steps = self.steps(map.get("scenario"));
        let schema_version = schema_version?;
        Some(JobCase { schema_version, job_type, inputs, http, credentials, dependencies, steps, document: Value::Null })
    }

    fn object<'v>(&mut self, value: Option<&'v Value>, path: &str) -> Option<&'v Map<String, Value>> {
        let value = value?;
        if !value.is_object() {
            self.issue(path, "expected an object");
        }
        value.as_object()
    }

    fn text(&mut self, value: Option<&Value>, path: &str, required: bool) -> Option<String> {
        match value {
            None if !required => None,
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            _ => {
                self.issue(path, "expected a text that is not empty");
                None
            }
        }
    }

    /// A text of a certain form.
    fn named(&mut self, value: Option<&Value>, path: &str, fits: fn(&str) -> bool, expected: &str) -> Option<String> {
        let text = value.and_then(Value::as_str).filter(|text| fits(text)).map(str::to_owned);
        if text.is_none() {
            self.issue(path, expected);
        }
        text
    }

    fn texts(&mut self, value: Option<&Value>, path: &str) -> Vec<(String, String)> {
        let Some(map) = self.object(value, path) else { return Vec::new() };
        let mut texts = Vec::with_capacity(map.len());
        for (name, value) in map {
            match value.as_str() {
                Some(text) => texts.push((name.clone(), text.to_owned())),
                None => self.issue(format!("{path}.{name}"), "expected a text"),
            }
        }
        texts
    }

    fn inputs(&mut self, value: Option<&Value>) -> Vec<InputDeclaration> {
        let Some(map) = self.object(value, "inputs") else { return Vec::new() };
        let mut inputs = Vec::with_capacity(map.len());
        for (name, declaration) in map {
            let at = format!("inputs.{name}");
            if name.is_empty() {
                self.issue("inputs", "the name of an input is empty");
            }
            let Some(declaration) = self.object(Some(declaration), &at) else { continue };
            let kind = match declaration.get("type").and_then(Value::as_str) {
                Some("string") => Some(InputType::String),
                Some("number") => Some(InputType::Number),
                Some("boolean") => Some(InputType::Boolean),
                _ => None,
            };
            if kind.is_none() {
                self.issue(format!("{at}.type"), "expected string, number or boolean");
            }
            self.text(declaration.get("description"), &format!("{at}.description"), false);
            let required = declaration.get("required");
            if required.is_some_and(|required| !required.is_boolean()) {
                self.issue(format!("{at}.required"), "expected true or false");
            }
            let required = required.and_then(Value::as_bool).unwrap_or(false);
            inputs.extend(kind.map(|kind| InputDeclaration { name: name.clone(), kind, required }));
        }
        inputs
    }

    fn credentials(&mut self, value: Option<&Value>) -> Vec<CredentialProfile> {
        let Some(map) = self.object(value, "credentials") else { return Vec::new() };
        let mut profiles = Vec::with_capacity(map.len());
        for (name, profile) in map {
            let at = format!("credentials.{name}");
            let Some(profile) = self.object(Some(profile), &at) else { continue };
            let at = format!("{at}.fromEnv");
            if !profile.contains_key("fromEnv") {
                self.issue(&at, "expected an object of fields and environment variables");
            }
            let from_env = self.texts(profile.get("fromEnv"), &at);
            for (field, variable) in &from_env {
                if !is_env_name(variable) {
                    self.issue(format!("{at}.{field}"), "expected the name of an environment variable");
                }
            }
            profiles.push(CredentialProfile { name: name.clone(), from_env });
        }
        profiles
    }

    fn list<'v>(&mut self, value: Option<&'v Value>, path: &str) -> &'v [Value] {
        match value {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.issue(path, "expected a list");
                &[]
            }
        }
    }

    fn dependencies(&mut self, value: Option<&Value>) -> CaseDependencies {
        let mut found = CaseDependencies::default();
        let Some(map) = self.object(value, "dependencies") else { return found };
        for (index, item) in self.list(map.get("modules"), "dependencies.modules").iter().enumerate() {
            let at = format!("dependencies.modules.{index}");
            let name = self.named(item.get("name"), &format!("{at}.name"), is_module_name, "expected a name of a-z, 0-9 and -");
            let version = self.text(item.get("version"), &format!("{at}.version"), false);
            found.modules.extend(name.map(|name| (name, version)));
        }
        for (index, item) in self.list(map.get("memory"), "dependencies.memory").iter().enumerate() {
            let at = format!("dependencies.memory.{index}");
            let expected = "expected a name of a-z, 0-9, _ and -, not beginning with a sign";
            let namespace = self.named(item.get("namespace"), &format!("{at}.namespace"), is_namespace, expected);
            let key = self.named(item.get("key"), &format!("{at}.key"), is_dotted, "expected names with dots between them");
            let fill = self.object(item.get("fill"), &format!("{at}.fill")).cloned();
            let fill = fill.and_then(|fill| {
                let module = self.text(fill.get("module"), &format!("{at}.fill.module"), true);
                let job = self.text(fill.get("job"), &format!("{at}.fill.job"), true);
                Some(FillJob { module: module?, job: job? })
            });
            found.memory.extend(namespace.zip(key).map(|(namespace, key)| MemoryDependency { namespace, key, fill }));
        }
        let http = self.object(map.get("http"), "dependencies.http").and_then(|http| http.get("required"));
        for (index, item) in self.list(http, "dependencies.http.required").iter().enumerate() {
            let at = format!("dependencies.http.required.{index}");
            found.http.extend(self.named(Some(item), &at, is_dotted, "expected names with dots between them"));
        }
        found
    }

    fn steps(&mut self, scenario: Option<&Value>) -> Vec<CaseStep> {
        let steps = scenario.and_then(|scenario| scenario.get("steps")).and_then(Value::as_array).filter(|steps| !steps.is_empty());
        let Some(steps) = steps else {
            self.issue("scenario.steps", "expected a list of at least one step");
            return Vec::new();
        };
        steps.iter().enumerate().filter_map(|(index, step)| self.step(step, index)).collect()
    }

    fn step(&mut self, step: &Value, index: usize) -> Option<CaseStep> {
        let at = format!("scenario.steps.{index}");
        let map = self.object(Some(step), &at)?;
        let id = self.text(map.get("id"), &format!("{at}.id"), false).unwrap_or_else(|| format!("step_{}", index + 1));
        let action = self.named(map.get("action"), &format!("{at}.action"), is_action, "expected module.action");
        let payload = self.object(map.get("payload"), &format!("{at}.payload")).cloned().unwrap_or_default();
        let capture = self.texts(map.get("capture"), &format!("{at}.capture"));
        let credential = self.text(map.get("credential"), &format!("{at}.credential"), false);
        let at_relative = self.text(map.get("atRelative"), &format!("{at}.atRelative"), false);
        let at_absolute = self.text(map.get("atAbsolute"), &format!("{at}.atAbsolute"), false);
        if at_relative.is_some() && at_absolute.is_some() {
            self.issue(&at, "expected either atRelative or atAbsolute");
        }
        Some(CaseStep { id, action: action?, payload, capture, credential, at_relative, at_absolute })
    }
}
