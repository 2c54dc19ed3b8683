//! Actions that run in this process: memory and JavaScript, with their HTTP through the one door out.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, header};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::prepare::LoadedCase;
use crate::clock::Clock;
use crate::job::cookies::CookieJar;
use crate::job::credentials::{credential_action, credential_value};
use crate::job::http::{HttpDefaults, PreparedRequest, module_response};
use crate::job::payload::effective_payload;
use crate::job::record::fill_value;
use crate::job::state::JobState;
use crate::module::{ActionFault, ActivityLog, HttpGate, LocalCall, ModuleRequest, ModuleResponse};
use crate::net::{Deadlines, Egress, Request, Trust};
use crate::secret::Secret;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A call that the engine waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTask {
    /// The call's id, unique in the run.
    pub call: String,
    /// The position of the case's step, from 0.
    pub step: usize,
    pub action: String,
    /// The step's id as handlers see it; of a poll, with the attempt.
    pub step_id: String,
}

/// Performs local actions of one run.
pub struct LocalRunner<'a> {
    pub loaded: &'a LoadedCase,
    pub home: &'a Path,
    pub clock: &'a Clock,
    pub egress: &'a Egress,
    /// The resolved `http` block.
    pub http: HttpDefaults,
    pub cookies: Mutex<CookieJar>,
}

impl LocalRunner<'_> {
    /// Performs a call; the result is what the engine is answered with: `{outcome?, error?, calls, activity}`.
    pub async fn perform(&self, task: &LocalTask, state: &JobState) -> Value {
        let journal = CallJournal { runner: self, step_id: &task.step_id, calls: Mutex::default(), lines: Mutex::default() };
        let result = self.call(task, state, &journal).await;
        let (outcome, error) = match result {
            Ok(outcome) => (Some(outcome), None),
            Err(fault) => (None, Some(fault)),
        };
        json!({ "outcome": outcome, "error": error, "calls": journal.calls.into_inner(), "activity": journal.lines.into_inner() })
    }

    async fn call(
        &self,
        task: &LocalTask,
        state: &JobState,
        journal: &CallJournal<'_>,
    ) -> Result<crate::module::ActionOutcome, ActionFault> {
        let fault = |message: String| ActionFault { message, retryable: false };
        let step = self.loaded.case.steps.get(task.step).ok_or_else(|| fault(format!("the case has no step {}", task.step + 1)))?;
        let action = self.loaded.registry.find(&task.action).ok_or_else(|| fault(format!("{} is not loaded here", task.action)))?;
        let payload = fill_value(state, &Value::Object(effective_payload(step, &self.loaded.registry, &self.loaded.defaults)));
        let payload = if step.action == "flow.poll" { payload.get("payload").cloned().unwrap_or_else(|| json!({})) } else { payload };
        let needs = credential_action(step, &self.loaded.registry).is_some_and(|action| action.credential_schema.is_some());
        let profile = step.credential.as_deref().filter(|_| needs).and_then(|name| self.loaded.case.profile(name));
        let credential = profile.map(|profile| credential_value(&profile.from_env, &state.env));
        let steps: Map<String, Value> = state
            .steps
            .iter()
            .map(|(id, result)| (id.clone(), json!({ "response": result.response, "exports": result.exports })))
            .collect();
        let runtime = json!({ "configDir": self.home, "input": state.input, "run": state.run, "steps": steps });
        let call = LocalCall { home: self.home, step_id: &task.step_id, payload, credential, runtime, http: journal, log: journal };
        action.call_local(call).await
    }
}

/// What one call does: its HTTP calls and its lines.
struct CallJournal<'a> {
    runner: &'a LocalRunner<'a>,
    step_id: &'a str,
    calls: Mutex<Vec<Value>>,
    lines: Mutex<Vec<String>>,
}

impl ActivityLog for CallJournal<'_> {
    fn line(&self, text: &str) {
        self.lines.lock().push(text.to_owned());
    }

    fn progress(&self, _text: &str) {}
}

#[async_trait]
impl HttpGate for CallJournal<'_> {
    async fn send(&self, request: ModuleRequest) -> Result<ModuleResponse, ActionFault> {
        let clock = self.runner.clock;
        let jar = self.runner.cookies.lock().clone();
        let fault = |message: String| ActionFault { message, retryable: false };
        let prepared = PreparedRequest::new(&request, &self.runner.http, &jar, clock.now()).map_err(fault)?;
        let method = Method::from_bytes(prepared.method.as_bytes()).map_err(|_| fault(format!("`{}` is no method", prepared.method)))?;
        let mut outgoing = Request::new(method, prepared.url.as_str(), Trust::Judged);
        outgoing.max_redirects = 0;
        outgoing.deadlines = Deadlines { first_byte: RESPONSE_TIMEOUT, between_chunks: RESPONSE_TIMEOUT, ..Deadlines::default() };
        for (name, value) in &prepared.headers {
            outgoing = outgoing.header(name, Secret::new(value.as_str()));
        }
        if let Some(body) = &prepared.body {
            outgoing = outgoing.body(body.to_string());
        }
        let started = clock.now();
        let received = exchange(self.runner.egress, outgoing).await;
        let ended = clock.now();
        let record = |status: u16, text: &str| self.calls.lock().push(prepared.record(self.step_id, started, ended, status, text));
        match received {
            Err(error) => {
                let message = format!("{} {}: {error}", prepared.method, prepared.url);
                record(0, &json!({ "_error": message }).to_string());
                Err(ActionFault { message, retryable: error.is_transient() })
            }
            Ok((status, set, text)) => {
                record(status, &text);
                if let Ok(url) = url::Url::parse(&prepared.url) {
                    let mut cookies = self.runner.cookies.lock();
                    set.iter().for_each(|header| cookies.store(&url, header, ended));
                }
                Ok(module_response(status, &text))
            }
        }
    }
}

async fn exchange(egress: &Egress, request: Request) -> Result<(u16, Vec<String>, String), crate::net::Error> {
    let response = egress.send(request).await?;
    let status = response.status.as_u16();
    let cookies = response.headers.get_all(header::SET_COOKIE).iter();
    let set = cookies.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
    let bytes = response.bytes().await?;
    Ok((status, set, String::from_utf8_lossy(&bytes).into_owned()))
}

/// The calls of a run that were performed here, on disk, so that none is performed twice after the process was killed.
pub struct LocalLedger {
    folder: Option<std::path::PathBuf>,
}

/// What is known of a call.
pub enum LedgerEntry {
    New,
    /// It began, and its end is not known.
    Begun,
    Done(Value),
}

impl LocalLedger {
    /// A ledger in a folder; without one nothing is kept.
    pub const fn new(folder: Option<std::path::PathBuf>) -> Self {
        Self { folder }
    }

    /// What is known of a call.
    pub fn find(&self, call: &str) -> LedgerEntry {
        let Some(text) = self.file(call).and_then(|file| std::fs::read_to_string(file).ok()) else { return LedgerEntry::New };
        match serde_json::from_str::<HashMap<String, Value>>(&text).ok().and_then(|mut entry| entry.remove("answer")) {
            Some(answer) => LedgerEntry::Done(answer),
            None => LedgerEntry::Begun,
        }
    }

    /// Notes that a call begins.
    pub fn begin(&self, call: &str) -> std::io::Result<()> {
        self.write(call, "{}")
    }

    /// Notes how a call ended.
    pub fn end(&self, call: &str, answer: &Value) -> std::io::Result<()> {
        self.write(call, &json!({ "answer": answer }).to_string())
    }

    fn file(&self, call: &str) -> Option<std::path::PathBuf> {
        let name: String = call.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
        self.folder.as_ref().map(|folder| folder.join(format!("{name}.json")))
    }

    /// Replaces the entry in one step, so that a reader never sees half of it.
    fn write(&self, call: &str, text: &str) -> std::io::Result<()> {
        let Some(file) = self.file(call) else { return Ok(()) };
        let draft = file.with_extension("tmp");
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, file)
    }
}
