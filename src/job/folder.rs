//! The folders of finished runs: which there are, which one a name means, and what is in them.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// One run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    pub id: String,
    pub path: PathBuf,
}

impl RunFolder {
    /// The folder of a run below the output folder.
    pub fn new(output: &Path, id: &str) -> Self {
        Self { id: id.to_owned(), path: output.join(id) }
    }

    /// Every run, the newest first.
    pub fn list(output: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(output).into_iter().flatten().filter_map(Result::ok);
        let folders = entries.filter(|entry| entry.path().join("meta.json").is_file());
        let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
        let mut runs: Vec<(String, Self)> =
            names.map(|name| Self::new(output, &name)).map(|run| (run.started_at().unwrap_or_default(), run)).collect();
        runs.sort_by(|one, other| (&other.0, &other.1.id).cmp(&(&one.0, &one.1.id)));
        runs.into_iter().map(|(_, run)| run).collect()
    }

    /// The run that a name means: `latest`, an id, or a part of exactly one id.
    pub fn find(output: &Path, name: &str) -> Option<Self> {
        let runs = Self::list(output);
        if name == "latest" {
            return runs.into_iter().next();
        }
        if let Some(exact) = runs.iter().find(|run| run.id == name) {
            return Some(exact.clone());
        }
        let mut fitting = runs.into_iter().filter(|run| !name.is_empty() && run.id.contains(name));
        let only = fitting.next()?;
        fitting.next().is_none().then_some(only)
    }

    /// A JSON file of the folder; one that is not JSON is `{"_raw": text}`.
    pub fn json(&self, name: &str) -> Option<Value> {
        let text = std::fs::read_to_string(self.path.join(name)).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|_| json!({ "_raw": text })))
    }

    /// `summary.json`.
    pub fn summary(&self) -> Option<Value> {
        self.json("summary.json")
    }

    /// When the run began, as ISO 8601.
    pub fn started_at(&self) -> Option<String> {
        let time = |name: &str| self.json(name)?.get("startedAt")?.as_str().map(str::to_owned);
        time("meta.json").or_else(|| time("summary.json"))
    }

    /// The entries of `http_calls.jsonl`.
    pub fn calls(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path.join("http_calls.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The calls, each with its `request` and `response` in place.
    pub fn whole_calls(&self) -> Vec<Value> {
        self.calls().into_iter().map(|call| self.whole_call(call)).collect()
    }

    /// A call with its `request` and `response` in place.
    pub fn whole_call(&self, call: Value) -> Value {
        let file = |name: &str| call.get(name).and_then(Value::as_str).and_then(|path| self.json(path)).unwrap_or_default();
        let (request, response) = (file("requestFile"), file("responseFile"));
        let mut whole = match call {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        whole.insert("request".into(), request);
        whole.insert("response".into(), response);
        Value::Object(whole)
    }

    /// The lines of `activity.log`: times and texts.
    pub fn activity(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.path.join("activity.log")).unwrap_or_default();
        let split = |line: &str| line.split_once(' ').map(|(at, message)| (at.to_owned(), message.to_owned()));
        text.lines().filter_map(split).collect()
    }

    /// Everything that `job dump` exports.
    pub fn dump(&self) -> Value {
        let calls = self.whole_calls();
        let status = if calls.iter().any(is_failed_call) { "failed" } else { "success" };
        let activity: Vec<Value> = self.activity().into_iter().map(|(at, message)| json!({ "at": at, "message": message })).collect();
        json!({
            "runId": self.id, "runDir": self.path, "status": status, "summary": self.summary(), "meta": self.json("meta.json"),
            "moduleResolution": self.json("module_resolution.json"), "activityLog": activity,
            "stepResults": self.json("step-results.json").unwrap_or_else(|| json!([])), "calls": calls,
        })
    }

    /// The calls as one text for people.
    pub fn readable(&self) -> String {
        let calls = self.whole_calls();
        let mut text = format!("Run: {}\nCalls: {}\n", self.id, calls.len());
        for call in &calls {
            let field = |name: &str| call.get(name).map(super::interpolation::as_text).unwrap_or_default();
            let body = |name: &str| call.get(name).map(|value| format!("{value:#}")).unwrap_or_default();
            text.push_str(&format!(
                "\n{}\nCall: {} {}\nHTTP: {} {} -> {}\nStarted: {}\nEnded: {}\n{}\nRequest:\n{}\nResponse:\n{}\n",
                "=".repeat(80),
                field("idx"),
                field("name"),
                field("method"),
                field("url"),
                field("httpCode"),
                field("startedAt"),
                field("endedAt"),
                field("curl"),
                body("request"),
                body("response"),
            ));
        }
        text
    }
}

/// Whether a recorded call was answered with anything but 200 to 299, or not at all.
pub fn is_failed_call(call: &Value) -> bool {
    !call.get("httpCode").and_then(Value::as_u64).is_some_and(|code| (200..300).contains(&code))
}
