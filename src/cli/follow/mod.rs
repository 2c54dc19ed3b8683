//! Following an execution from the command line: over HTTP, event by event, answering what it asks for.
//!
//! `client` speaks to the server, `screen` shows the events to people, `ask` asks them; a [`Chase`] goes after one
//! execution until it ends or nobody can answer it.
//!
//! Must not know: how the server runs anything.

mod ask;
mod client;
mod paint;
mod screen;

use serde_json::{Map, Value, json};

pub use self::client::{Client, EventStream};
pub use self::paint::{Paint, Tone};
use self::screen::Screen;
use super::output::Output;
use crate::error::{Error, Kind, Result};
use crate::http::dispatch::{Fold, Outcome};
use crate::id::RunId;

/// Who decides about approvals.
#[derive(Debug, Clone, Copy)]
pub enum Decider {
    /// Whoever sits at the terminal.
    Person,
    /// Every request is answered alike; the text says why, for people.
    Always(bool, &'static str),
    Nobody,
}

impl Decider {
    /// The person when there is one, else `otherwise`.
    pub fn person_or(otherwise: Self, output: &Output) -> Self {
        if ask::has_person() && !output.json { Self::Person } else { otherwise }
    }
}

/// One execution, followed.
pub struct Chase {
    client: Client,
    decider: Decider,
    /// Outputs of tools that run in the caller, by the tool's name.
    outputs: Map<String, Value>,
    screen: Screen,
    fold: Fold,
    cursor: u64,
}

impl Chase {
    /// Posts a dispatch request and follows its execution to the first rest.
    pub async fn start(client: Client, mut request: Value, decider: Decider, outputs: Map<String, Value>, output: Output) -> Result<Self> {
        stream_it(&mut request)?;
        let (run, stream) = client.post("/v1/dispatch", &request).await?;
        let mut chase = Self { client, decider, outputs, screen: Screen::new(output), fold: Fold::new(run), cursor: 0 };
        chase.watch(run, stream).await?;
        Ok(chase)
    }

    /// Goes on over another connection.
    pub fn reconnect(&mut self, client: Client) {
        self.client = client;
    }

    /// Answers what the execution waits for, until it ends or somebody else must answer.
    pub async fn settle(&mut self) -> Result<()> {
        while !self.fold.has_ended() {
            let Some((path, answer)) = self.answer().await? else { return Ok(()) };
            let (run, stream) = self.client.post(path, &answer).await?;
            self.watch(run, stream).await?;
        }
        Ok(())
    }

    /// All that was said.
    pub fn outcome(self) -> Outcome {
        self.fold.outcome()
    }

    /// The answer to the first thing that can be answered: where it is sent, and its body.
    async fn answer(&self) -> Result<Option<(&'static str, Value)>> {
        for wait in self.fold.waits() {
            let field = |name: &str| wait.get(name).cloned().unwrap_or_default();
            let name = field("toolName");
            if wait.get("approvalId").is_some() {
                let Some(approve) = self.decide().await? else { continue };
                let decision = if approve { "approved" } else { "denied" };
                let body = json!({
                    "executionId": field("executionId"), "approvalId": field("approvalId"), "digest": field("digest"),
                    "decision": decision, "streamResponse": true,
                });
                return Ok(Some(("/v1/dispatch/approve", body)));
            }
            if let Some(output) = name.as_str().and_then(|name| self.outputs.get(name)) {
                let id = field("toolCallId");
                let outputs = Map::from_iter([(id.as_str().unwrap_or_default().to_owned(), output.clone())]);
                let body = json!({ "executionId": field("executionId"), "toolOutputs": outputs, "streamResponse": true });
                return Ok(Some(("/v1/dispatch/resume", body)));
            }
        }
        Ok(None)
    }

    async fn decide(&self) -> Result<Option<bool>> {
        match self.decider {
            Decider::Person => ask::yes("  Approve? [y/N] ").await.map(Some),
            Decider::Always(approve, why) => {
                self.screen.decided(approve, why);
                Ok(Some(approve))
            }
            Decider::Nobody => Ok(None),
        }
    }

    /// Takes events until the execution rests; a stream that breaks off is taken up where it ended.
    async fn watch(&mut self, run: RunId, mut stream: EventStream) -> Result<()> {
        let mut failures = 0;
        loop {
            let broken = match stream.next().await {
                Ok(Some(event)) => {
                    failures = 0;
                    self.take(event);
                    continue;
                }
                Ok(None) if self.fold.has_ended() || !self.fold.waits().is_empty() => return Ok(()),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            failures += 1;
            stream = match self.client.events(run, self.cursor, failures).await {
                Ok(stream) => stream,
                Err(error) => return Err(broken.unwrap_or(error)),
            };
        }
    }

    fn take(&mut self, event: Value) {
        self.cursor = event.get("seq").and_then(Value::as_u64).unwrap_or(self.cursor);
        self.screen.show(&event);
        self.fold.take(event);
    }
}

/// Asks for the stream, whatever form the request itself asks for.
fn stream_it(request: &mut Value) -> Result<()> {
    let refuse =
        || Error::new(Kind::Malformed, "invalid_request", "a dispatch request is a JSON object: {\"flow\": {\"name\", \"steps\"}}");
    let body = request.as_object_mut().ok_or_else(refuse)?;
    body.remove("async");
    body.remove("streamResponse");
    if let Some(options) = body.entry("options").or_insert_with(|| json!({})).as_object_mut() {
        options.insert("streamResponse".into(), true.into());
    }
    Ok(())
}
