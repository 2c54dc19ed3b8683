//! The run's folder as a projection of its event log: each event adds to it, and the same log gives the same files.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::case::JobCase;
use super::http::{ACTIVITY_EVENT, CALL_EVENT};
use super::interpolation::{Interpolation, PathQuery, path_queries};
use super::json_path::pick;
use super::redaction::redact_keys;
use super::state::{JobState, StepResult};
use crate::secret::Redactor;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    Succeeded,
    Failed(RunFailure),
}

/// Why a run failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFailure {
    /// The failed step's position, from 0.
    pub step: Option<usize>,
    pub message: String,
    pub code: String,
    pub retryable: bool,
}

/// Writes one run's folder.
pub struct RunRecorder {
    pub folder: PathBuf,
    redactor: Redactor,
    /// Ids and actions of the steps.
    steps: Vec<(String, String)>,
    /// The fold of the log so far.
    pub state: JobState,
    results: Vec<Value>,
    calls: usize,
    failure: Option<RunFailure>,
    end: Option<RunEnd>,
}

impl RunRecorder {
    /// Opens a run's folder. What an earlier recorder wrote of the log is written again.
    pub fn open(folder: PathBuf, redactor: Redactor, steps: Vec<(String, String)>, state: JobState) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let calls = folder.join("calls");
        if calls.exists() {
            fs::remove_dir_all(&calls)?;
        }
        fs::create_dir_all(&calls)?;
        for name in ["http_calls.jsonl", "activity.log"] {
            match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(Self { folder, redactor, steps, state, results: Vec::new(), calls: 0, failure: None, end: None })
    }

    /// How the run ended, once it has.
    pub const fn end(&self) -> Option<&RunEnd> {
        self.end.as_ref()
    }

    /// Takes in the next event.
    pub fn apply(&mut self, event: &Value) -> io::Result<()> {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        match text("type") {
            "custom" => {
                let value = event.get("value").cloned().unwrap_or_default();
                match text("name") {
                    ACTIVITY_EVENT => self.activity(&value)?,
                    CALL_EVENT => self.call(value)?,
                    _ => {}
                }
            }
            "step_complete" => self.step(event),
            "execution_complete" => {
                let failed = self.failure.take().filter(|_| event.get("success") != Some(&Value::Bool(true)));
                self.end = Some(failed.map_or(RunEnd::Succeeded, RunEnd::Failed));
            }
            "execution_error" => {
                let of_log = RunFailure {
                    step: None,
                    message: text("error").to_owned(),
                    code: text("code").to_owned(),
                    retryable: event.get("retryable") == Some(&Value::Bool(true)),
                };
                self.end = Some(RunEnd::Failed(self.failure.take().unwrap_or(of_log)));
            }
            _ => {}
        }
        Ok(())
    }

    fn step(&mut self, event: &Value) {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some(index) = position(text("id")) else { return };
        let Some((id, action)) = self.steps.get(index).cloned() else { return };
        if event.get("success") != Some(&Value::Bool(true)) {
            self.failure = Some(RunFailure {
                step: Some(index),
                message: text("error").to_owned(),
                code: text("code").to_owned(),
                retryable: event.get("retryable") == Some(&Value::Bool(true)),
            });
            return;
        }
        let result: StepResult = event.get("result").cloned().and_then(|result| serde_json::from_value(result).ok()).unwrap_or_default();
        self.results.push(json!({
            "stepId": id, "action": action, "detail": result.detail, "response": result.response, "exports": result.exports,
            "diagnostics": result.diagnostics,
        }));
        self.state.finish(&id, result);
    }

    fn activity(&self, value: &Value) -> io::Result<()> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let line = self.redactor.text(text("line")).replace(['\n', '\r'], " ");
        self.append("activity.log", &format!("{} {line}\n", text("at")))
    }

    fn call(&mut self, value: Value) -> io::Result<()> {
        self.calls += 1;
        let index = format!("{:03}", self.calls);
        let field = |name: &str| value.get(name).cloned().unwrap_or_default();
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let url = self.redactor.text(&text("url"));
        let name = call_name(&text("method"), &url);
        let mut body = field("body");
        let request_file = if body.is_null() {
            None
        } else {
            redact_keys(&mut body);
            self.redactor.value(&mut body);
            let file = format!("calls/{index}_{name}.request.json");
            self.write(&file, &format!("{body:#}"))?;
            Some(file)
        };
        let response_file = format!("calls/{index}_{name}.response.json");
        self.write(&response_file, &self.redactor.text(&text("response")))?;
        let mut headers = field("headers");
        redact_keys(&mut headers);
        self.redactor.value(&mut headers);
        let entry = json!({
            "idx": index, "startedAt": field("startedAt"), "endedAt": field("endedAt"), "name": name, "method": field("method"), "url": url,
            "requestFile": request_file, "responseFile": response_file, "httpCode": field("httpCode"), "stepId": field("stepId"),
            "curl": curl(&text("method"), &url, &headers, &body),
        });
        self.append("http_calls.jsonl", &format!("{entry}\n"))
    }

    /// Writes what is known at the end: step results, the resolved case and the summary.
    pub fn finish(&self, case: Option<(&JobCase, Option<&Value>)>, mut summary: Map<String, Value>) -> io::Result<Value> {
        if let Some((case, http)) = case {
            self.write_json("step-results.json", Value::Array(self.results.clone()))?;
            let mut resolved = fill_value(&self.state, &case.document);
            if let (Some(map), Some(http)) = (resolved.as_object_mut(), http) {
                map.insert("http".into(), http.clone());
            }
            self.write_json("job.case.resolved.json", resolved)?;
        }
        let failure = match &self.end {
            Some(RunEnd::Failed(failure)) => Some(failure),
            _ => None,
        };
        let step = failure.and_then(|failure| failure.step);
        let failed_step = step.and_then(|step| self.steps.get(step)).map(|(id, action)| json!({ "id": id, "action": action }));
        summary.insert("status".into(), if failure.is_some() { "FAILED" } else { "SUCCESS" }.into());
        summary.insert("failedStep".into(), failed_step.unwrap_or_default());
        summary.insert("failedStepIndex".into(), step.map_or(Value::Null, |step| (step + 1).into()));
        let error = failure.map(|failure| self.redactor.text(&super::redaction::redact_text(&failure.message)));
        summary.insert("error".into(), error.map_or(Value::Null, Value::String));
        let summary = Value::Object(summary);
        self.write("summary.json", &format!("{summary:#}"))?;
        Ok(summary)
    }

    /// Writes a JSON file without its secrets.
    pub fn write_json(&self, name: &str, mut value: Value) -> io::Result<()> {
        redact_keys(&mut value);
        self.redactor.value(&mut value);
        self.write(name, &format!("{value:#}"))
    }

    /// The results of the finished steps.
    pub fn results(&self) -> &[Value] {
        &self.results
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        fs::write(self.folder.join(name), text)
    }

    fn append(&self, name: &str, text: &str) -> io::Result<()> {
        fs::OpenOptions::new().create(true).append(true).open(self.folder.join(name))?.write_all(text.as_bytes())
    }
}

/// A value with its expressions filled in. JSONPath is evaluated in this process: for cases of the person who runs the command.
pub fn fill_value(state: &JobState, value: &Value) -> Value {
    Interpolation { state, own: &Map::new(), paths: &local_paths(state, value) }.fill(value)
}

/// The values of a value's JSONPaths, evaluated in this process.
pub fn local_paths(state: &JobState, value: &Value) -> HashMap<PathQuery, Value> {
    let mut paths = HashMap::new();
    for query in path_queries(value) {
        let root = match &query.step {
            None => Some(Value::Object(state.run.clone())),
            Some(id) => state.step(id).map(|result| result.response.clone()),
        };
        if let Some(found) = root.and_then(|root| pick(&query.path, &root)) {
            paths.insert(query, found);
        }
    }
    paths
}

/// The position of a step of the flow, from 0.
pub fn position(flow_id: &str) -> Option<usize> {
    flow_id.strip_prefix("step_")?.parse::<usize>().ok()?.checked_sub(1)
}

/// The name of a call: its method, and its path with everything but letters and digits as `_`.
pub fn call_name(method: &str, url: &str) -> String {
    let path = url::Url::parse(url).map(|url| url.path().to_owned()).unwrap_or_default();
    let slug: String = path.trim_matches('/').chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    let slug = if slug.is_empty() { "root" } else { slug.as_str() };
    // Names of files have a limit of 255 bytes.
    format!("{method}_{slug}").to_ascii_lowercase().chars().take(120).collect()
}

/// A call as a command of a shell.
fn curl(method: &str, url: &str, headers: &Value, body: &Value) -> String {
    let mut words = vec!["curl".to_owned(), "-X".to_owned(), method.to_owned(), quoted(url)];
    for (name, value) in headers.as_object().into_iter().flatten() {
        words.push("-H".to_owned());
        words.push(quoted(&format!("{name}: {}", value.as_str().unwrap_or_default())));
    }
    if !body.is_null() {
        words.push("--data-raw".to_owned());
        words.push(quoted(&body.to_string()));
    }
    words.join(" ")
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_by_method_and_path() {
        assert_eq!(call_name("GET", "https://h/v1/Users/7?x=1"), "get_v1_users_7");
        assert_eq!(call_name("POST", "https://h"), "post_root");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("http://h/a"), "http://h/a");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
