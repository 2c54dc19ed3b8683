//! One run from its start to its end: the events go into its folder, and what it asks of this side is performed.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::host::JobHost;
use super::local::{LedgerEntry, LocalLedger, LocalRunner, LocalTask};
use super::progress::Progress;
use crate::cli::follow::EventStream;
use crate::cli::kit::{KitFault, KitResult};
use crate::error::Kind;
use crate::id::RunId;
use crate::job::record::{RunRecorder, position};
use crate::module::ActionHandler;

/// How driving a run ended.
pub enum DriveOutcome {
    /// The run ended; the recorder knows how.
    Ended,
    /// The outcome of an effect is unknown and must be settled.
    Unknown(UnknownEffect),
}

/// An effect whose answer was lost.
#[derive(Debug, Clone)]
pub struct UnknownEffect {
    /// What the server's answer is addressed by; absent for a call of this side.
    pub wait: Option<String>,
    pub step: Option<usize>,
    pub message: String,
}

/// What `job resume` says of an effect whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Settlement {
    /// It did not happen; do it again.
    Retry,
    /// It happened, with an empty result.
    Succeeded,
    /// It failed, and the job with it.
    Failed,
}

/// A run, followed.
pub struct JobDriver<'a> {
    pub host: &'a JobHost,
    pub runner: LocalRunner<'a>,
    pub recorder: RunRecorder,
    pub ledger: LocalLedger,
    pub progress: Progress,
    /// The answer to the first unknown effect.
    pub settlement: Option<Settlement>,
    /// Where the id of the execution is noted, so that the run can be taken up again.
    pub note: Option<PathBuf>,
    cursor: u64,
    open: Option<LocalTask>,
    unknown: Option<UnknownEffect>,
}

/// The parts of a driver.
pub struct DriverParts<'a> {
    pub host: &'a JobHost,
    pub runner: LocalRunner<'a>,
    pub recorder: RunRecorder,
    pub ledger: LocalLedger,
    pub progress: Progress,
    pub settlement: Option<Settlement>,
    pub note: Option<PathBuf>,
}

impl<'a> JobDriver<'a> {
    /// A driver of a run that was not followed yet.
    pub fn new(parts: DriverParts<'a>) -> Self {
        let DriverParts { host, runner, recorder, ledger, progress, settlement, note } = parts;
        Self { host, runner, recorder, ledger, progress, settlement, note, cursor: 0, open: None, unknown: None }
    }

    /// Starts the run and follows it.
    pub async fn start(&mut self, request: &Value) -> KitResult<DriveOutcome> {
        let (run, stream) = self.host.client.post("/v1/dispatch", request).await?;
        if let Some(note) = &self.note {
            std::fs::write(note, run.to_string()).map_err(|error| super::host::unwritable(note, &error))?;
        }
        self.follow(run, stream).await
    }

    /// Follows a run that was started before, from its first event.
    pub async fn take_up(&mut self, run: RunId) -> KitResult<DriveOutcome> {
        let stream = self.host.client.events(run, 0, 1).await?;
        self.follow(run, stream).await
    }

    async fn follow(&mut self, run: RunId, mut stream: EventStream) -> KitResult<DriveOutcome> {
        loop {
            self.read(run, stream).await?;
            if self.recorder.end().is_some() {
                return Ok(DriveOutcome::Ended);
            }
            if let Some(unknown) = self.unknown.take() {
                let Some(settlement) = self.settlement.take() else { return Ok(DriveOutcome::Unknown(unknown)) };
                self.settle(run, &unknown, settlement).await?;
                stream = self.host.client.events(run, self.cursor, 1).await?;
                continue;
            }
            let Some(task) = self.open.take() else {
                stream = self.host.client.events(run, self.cursor, 2).await?;
                continue;
            };
            let answer = match self.perform(&task).await? {
                Ok(answer) => answer,
                Err(unknown) => return Ok(DriveOutcome::Unknown(unknown)),
            };
            let body = json!({ "executionId": run, "toolOutputs": { task.call.as_str(): answer }, "streamResponse": true });
            stream = match self.host.client.post("/v1/dispatch/resume", &body).await {
                Ok((_, stream)) => stream,
                // An answer from before this process was killed is in force already.
                Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Missing) => {
                    self.host.client.events(run, self.cursor, 2).await?
                }
                Err(error) => return Err(error.into()),
            };
        }
    }

    /// Takes events until the run ends or asks for something; a stream that breaks off is taken up where it ended.
    async fn read(&mut self, run: RunId, mut stream: EventStream) -> KitResult<()> {
        let mut failures = 0;
        loop {
            let broken = match stream.next().await {
                Ok(Some(event)) => {
                    failures = 0;
                    self.take(&event)?;
                    continue;
                }
                Ok(None) if self.rests() => return Ok(()),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            failures += 1;
            stream = match self.host.client.events(run, self.cursor, failures).await {
                Ok(stream) => stream,
                Err(error) => return Err(broken.unwrap_or(error).into()),
            };
        }
    }

    const fn rests(&self) -> bool {
        self.recorder.end().is_some() || self.open.is_some() || self.unknown.is_some()
    }

    fn take(&mut self, event: &Value) -> KitResult<()> {
        self.cursor = event.get("seq").and_then(Value::as_u64).unwrap_or(self.cursor);
        self.recorder.apply(event).map_err(|error| super::host::unwritable(&self.recorder.folder, &error))?;
        self.progress.show(event);
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        match (text("type"), text("name")) {
            ("await", _) => {
                let step = position(text("stepId")).unwrap_or_default();
                let step_id = event.pointer("/parameters/stepId").and_then(Value::as_str).unwrap_or_default().to_owned();
                self.open = Some(LocalTask { call: text("toolCallId").into(), step, action: text("toolName").into(), step_id });
            }
            ("custom", "dispatch.effect_unknown") => {
                let value = event.get("value").cloned().unwrap_or_default();
                let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
                let step = position(text("stepId"));
                self.unknown = Some(UnknownEffect { wait: Some(text("waitId").into()), step, message: text("message").into() });
            }
            ("step_complete", _) => (self.open, self.unknown) = (None, None),
            _ => {}
        }
        Ok(())
    }

    /// Performs a local call once. Error: it is unknown whether an earlier attempt performed it.
    async fn perform(&mut self, task: &LocalTask) -> KitResult<Result<Value, UnknownEffect>> {
        let is_script =
            self.runner.loaded.registry.find(&task.action).is_some_and(|action| matches!(action.handler, ActionHandler::Script(_)));
        match self.ledger.find(&task.call) {
            LedgerEntry::Done(answer) => return Ok(Ok(answer)),
            LedgerEntry::Begun if is_script => match self.settlement.take() {
                None => {
                    let message = format!("{} began and was interrupted; nobody knows whether it happened", task.action);
                    return Ok(Err(UnknownEffect { wait: None, step: Some(task.step), message }));
                }
                Some(Settlement::Succeeded) => return Ok(Ok(json!({ "outcome": {} }))),
                Some(Settlement::Failed) => {
                    let error = json!({ "message": "the interrupted call was settled as failed", "retryable": false });
                    return Ok(Ok(json!({ "error": error })));
                }
                Some(Settlement::Retry) => {}
            },
            LedgerEntry::Begun | LedgerEntry::New => {}
        }
        let kept = |error: std::io::Error| KitFault::runtime(format!("the ledger of the run cannot be written: {error}"));
        self.ledger.begin(&task.call).map_err(kept)?;
        let answer = self.runner.perform(task, &self.recorder.state).await;
        self.ledger.end(&task.call, &answer).map_err(kept)?;
        Ok(Ok(answer))
    }

    /// Says what became of an effect whose outcome is unknown.
    async fn settle(&self, run: RunId, unknown: &UnknownEffect, settlement: Settlement) -> KitResult<()> {
        let (outcome, result) = match settlement {
            Settlement::Retry => ("retry", Value::Null),
            Settlement::Succeeded => ("succeeded", json!({ "status": 200, "body": {} })),
            Settlement::Failed => ("failed", Value::Null),
        };
        let body = json!({ "waitId": unknown.wait, "outcome": outcome, "result": result });
        self.host.client.call(http::Method::POST, &format!("/v1/executions/{run}/settle"), Some(&body)).await?;
        Ok(())
    }
}
