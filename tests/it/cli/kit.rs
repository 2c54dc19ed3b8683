//! The commands for jobs and modules at work: a shell whose state folder is its own, and their one JSON document.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use super::ran::Shell;

/// A shell with a workspace in its folder and a state folder beside it.
pub struct Kit {
    pub shell: Shell,
    variables: Vec<(String, String)>,
}

/// The exit code and the document that a command printed.
pub struct Answer {
    pub code: Option<i32>,
    pub document: Value,
}

impl Kit {
    pub fn new() -> Self {
        Self { shell: Shell::new(), variables: Vec::new() }
    }

    /// Lets the commands find programs such as node.
    pub fn with_path(mut self) -> Self {
        self.variables.push(("PATH".into(), std::env::var("PATH").unwrap_or_default()));
        self
    }

    /// Sets an environment variable of the commands.
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.shell.folder.path().join(name)
    }

    /// Writes a file below the folder, and the folders above it.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs for people: exit code, stdout and stderr.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let home = self.path("home");
        let mut command = self.shell.command(&[&["--home", home.to_str().unwrap()], arguments].concat());
        command.envs(self.variables.iter().cloned()).stdin(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), stdout, stderr)
    }

    /// Runs with `--json` and returns the one document, whose exit code fits it.
    pub fn json(&self, arguments: &[&str]) -> Answer {
        let (code, stdout, stderr) = self.run(&[arguments, &["--json"]].concat());
        let document: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
        assert!(stdout.starts_with("{\n  ") || stdout == "{}\n", "not indented by two: {stdout}");
        if document["status"] == "error" {
            let expected = match document["code"].as_str().unwrap() {
                "RUNTIME_ERROR" => 1,
                "USAGE_ERROR" => 2,
                "TRANSIENT_ERROR" => 3,
                "NOT_FOUND" => 4,
                code => panic!("unknown code {code}"),
            };
            assert_eq!(code, Some(expected), "{document}");
            assert_eq!(document["retryable"], expected == 3, "{document}");
        }
        Answer { code, document }
    }
}

/// The manifest of a module with one declarative action.
pub fn tickets(version: &str) -> String {
    json!({
        "name": "tickets", "version": version, "metadata": { "team": "support" },
        "actions": { "open": {
            "description": "Open a ticket",
            "input": { "type": "object", "required": ["title"], "properties": { "title": { "type": "string", "minLength": 1 } } },
            "exportsSchema": { "type": "object", "properties": { "ticketId": { "type": "integer" } } },
            "credential": { "type": "object", "required": ["token"], "properties": { "token": { "type": "string" } } },
            "request": { "method": "POST", "path": "/tickets", "body": { "title": "${payload.title}" } },
            "exports": { "ticketId": "$.id" }, "detail": "opened ${response.id}"
        } }
    })
    .to_string()
}
