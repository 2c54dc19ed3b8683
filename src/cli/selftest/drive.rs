//! One caller: starts a run, follows it over every death of the server, answers what it asks, and reads its log.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::caller::{Answer, Caller};
use super::dice::Dice;
use super::ledger::Ledger;
use super::sink;
use super::story::{Manner, Story};
use super::told::{Breach, Told, is_end, kind_of};
use crate::net::Response;
use crate::net::sse::{DEFAULT_CAP, SseReader};

/// A reader that hears nothing for so long looks how the run stands.
const QUIET: Duration = Duration::from_millis(1_500);

/// See the module.
pub struct Driver {
    pub caller: Caller,
    pub ledger: Arc<Ledger>,
    pub story: Story,
    pub dice: Dice,
    pub told: Arc<Mutex<Told>>,
    run: String,
    cursor: Option<u64>,
    streams: bool,
}

impl Driver {
    pub fn new(caller: Caller, ledger: Arc<Ledger>, story: Story, mut dice: Dice, told: Arc<Mutex<Told>>) -> Self {
        let streams = !dice.one_in(3);
        Self { caller, ledger, story, dice, told, run: String::new(), cursor: None, streams }
    }

    /// Returns when the run has ended and its log is read.
    pub async fn drive(mut self) {
        match self.story.manner {
            Manner::Job => return self.drive_job().await,
            Manner::Workflow => return self.drive_workflow().await,
            Manner::Async | Manner::Stream => {}
            Manner::Told => self.have_told().await,
        }
        if self.story.saved {
            self.save_flow().await;
        }
        self.submit().await;
        loop {
            self.follow().await;
            if self.look().await {
                break;
            }
        }
        self.read_log().await;
        self.repeat().await;
        if self.story.manner == Manner::Told {
            self.was_told().await;
        }
    }

    /// Has an address told of ends, until somebody says that it is.
    async fn have_told(&mut self) {
        let hook = json!({ "url": format!("{}/told/ok/{}", self.story.sink(), self.story.tag), "events": ["run.completed"] });
        loop {
            match self.caller.call(Method::POST, "/v1/webhooks", &[], Some(&hook)).await {
                Some(answer) if answer.status == 201 => return,
                Some(answer) if !answer.is_for_later() => return self.unexpected("making a webhook", &answer),
                _ => self.caller.pause().await,
            }
        }
    }

    /// Waits until the address was told of the run, and has it told no more.
    async fn was_told(&mut self) {
        let mut patience = 600;
        while !self.ledger.was_told(&self.story.tag, &self.run) {
            self.caller.pause().await;
            patience -= 1;
            if patience == 0 {
                return self.fault(Breach::Lost, "nobody was told of the run's end");
            }
        }
        let ours = format!("/told/ok/{}", self.story.tag);
        let mut open = true;
        while open {
            let Some(listed) = self.caller.get("/v1/webhooks").await.filter(|answer| answer.status == 200) else {
                self.caller.pause().await;
                continue;
            };
            let hooks = listed.body.as_array().cloned().unwrap_or_default();
            let of_ours = |hook: &&Value| hook.get("url").and_then(Value::as_str).is_some_and(|url| url.ends_with(&ours));
            open = false;
            for hook in hooks.iter().filter(of_ours) {
                open = true;
                let id = hook.get("id").and_then(Value::as_str).unwrap_or_default();
                self.caller.call(Method::DELETE, &format!("/v1/webhooks/{id}"), &[], None).await;
            }
        }
    }

    pub(super) fn fault(&self, breach: Breach, what: impl Into<String>) {
        self.told.lock().fault(breach, what);
    }

    pub(super) fn unexpected(&self, call: &str, answer: &Answer) {
        self.fault(Breach::Answer, format!("{call} was answered {}: {}", answer.status, answer.body));
    }

    /// Saves the flow, again and again under one key; it must be one flow.
    async fn save_flow(&mut self) {
        let mut document = self.story.body.get("flow").cloned().unwrap_or_default();
        if let Some(map) = document.as_object_mut() {
            map.insert("name".into(), self.story.tag.clone().into());
        }
        let key = format!("flow-{}", self.story.tag);
        loop {
            let answer = self.caller.call(Method::POST, "/v1/flows", &[("idempotency-key", &key)], Some(&document)).await;
            match answer {
                Some(answer) if answer.status == 201 => {
                    let id = answer.body.get("id").cloned().unwrap_or_default();
                    if let Some(map) = self.story.body.as_object_mut() {
                        map.insert("flow".into(), json!({ "id": id }));
                    }
                    return;
                }
                Some(answer) if answer.code() != "idempotency_in_progress" && !answer.is_for_later() => {
                    self.unexpected("saving the flow", &answer);
                    return;
                }
                _ => self.caller.pause().await,
            }
        }
    }

    /// Starts the run under its key until a run is named.
    async fn submit(&mut self) {
        let key = self.story.tag.clone();
        let async_ = matches!(self.story.manner, Manner::Async | Manner::Told);
        let mut headers = vec![("idempotency-key", key.as_str())];
        if async_ {
            headers.push(("prefer", "respond-async"));
        }
        let body = self.story.body.clone();
        loop {
            let Some(response) = self.caller.ask(Method::POST, "/v1/dispatch", &headers, Some(&body)).await else {
                self.caller.pause().await;
                continue;
            };
            let named = response.headers.get("x-execution-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
            if let (200 | 202, Some(run)) = (response.status.as_u16(), named) {
                self.named(&run);
                if !async_ && response.media_type() == "text/event-stream" {
                    self.read(response).await;
                }
                return;
            }
            let status = response.status.as_u16();
            let body = response.bytes().await.unwrap_or_default();
            let answer = Answer { status, body: serde_json::from_slice(&body).unwrap_or_default(), replayed: false };
            let running = answer.body.pointer("/details/executionId").and_then(Value::as_str).map(str::to_owned);
            match running {
                Some(run) if answer.code() == "idempotency_in_progress" => {
                    self.named(&run);
                    return;
                }
                _ if answer.is_for_later() => {}
                _ => self.unexpected("starting the run", &answer),
            }
            self.caller.pause().await;
        }
    }

    pub(super) fn named(&mut self, run: &str) {
        run.clone_into(&mut self.run);
        self.told.lock().runs.insert(run.to_owned());
    }

    /// Reads events until the reader should look how the run stands.
    pub(super) async fn follow(&mut self) {
        let after = self.cursor.map(|cursor| format!("?after={cursor}")).unwrap_or_default();
        let path = format!("/v1/executions/{}/events{after}", self.run);
        let accept = if self.streams { "text/event-stream" } else { "application/json" };
        let Some(response) = self.caller.ask(Method::GET, &path, &[("accept", accept)], None).await else {
            self.caller.pause().await;
            return;
        };
        match response.status.as_u16() {
            200 if self.streams => self.read(response).await,
            200 => {
                let page = response.bytes().await.unwrap_or_default();
                let page: Value = serde_json::from_slice(&page).unwrap_or_default();
                for event in page.get("events").and_then(Value::as_array).into_iter().flatten() {
                    self.take(event);
                }
            }
            // Other readers hold all the streams that one key may.
            429 => self.streams = false,
            503 => self.caller.pause().await,
            404 => {
                self.fault(Breach::Lost, "the run was accepted and is not known");
                self.caller.pause().await;
            }
            status => self.fault(Breach::Answer, format!("reading events was answered {status}")),
        }
    }

    async fn read(&mut self, response: Response) {
        let mut body = response.into_body();
        let mut reader = SseReader::new(DEFAULT_CAP);
        loop {
            let part = tokio::select! {
                part = body.chunk() => part,
                () = self.caller.clock().sleep(QUIET) => return,
            };
            let Ok(Some(part)) = part else { return };
            if reader.feed(&part).is_err() {
                self.fault(Breach::Log, "an event is too large");
                return;
            }
            let mut asks = false;
            while let Some(event) = reader.next_event() {
                match serde_json::from_str::<Value>(&event.data) {
                    Ok(value) => asks |= self.take(&value),
                    Err(_) => self.fault(Breach::Log, format!("an event is not JSON: {}", event.data)),
                }
            }
            if asks {
                return;
            }
        }
    }

    /// Takes one event in; whether the caller should do something now.
    fn take(&mut self, event: &Value) -> bool {
        let mut told = self.told.lock();
        if let Some(seq) = told.show(event, self.cursor) {
            self.cursor = self.cursor.max(Some(seq));
        }
        let kind = kind_of(event);
        if kind == "step_complete"
            && let Some(step) = event.get("id").and_then(Value::as_str)
        {
            let caused = self.ledger.under(&format!("{}/steps/{step}/", self.run));
            told.complete.push((step.to_owned(), caused));
        }
        let unknown = kind == "custom" && event.get("name").and_then(Value::as_str) == Some("dispatch.effect_unknown");
        is_end(event) || unknown || matches!(kind, "await" | "approval_start")
    }

    /// Looks how the run stands and answers what it waits for; whether it has ended.
    pub(super) async fn look(&mut self) -> bool {
        let Some(answer) = self.caller.get(&format!("/v1/executions/{}", self.run)).await else {
            self.caller.pause().await;
            return false;
        };
        if answer.status != 200 {
            if !answer.is_for_later() {
                let breach = if answer.status == 404 { Breach::Lost } else { Breach::Answer };
                self.fault(breach, format!("reading the run was answered {}: {}", answer.status, answer.body));
            }
            self.caller.pause().await;
            return false;
        }
        let status = answer.body.get("status").and_then(Value::as_str).unwrap_or_default();
        if matches!(status, "completed" | "failed" | "cancelled") {
            let mut told = self.told.lock();
            told.status = Some(status.to_owned());
            told.output = answer.body.get("output").cloned().unwrap_or_default();
            return true;
        }
        let waits = answer.body.get("waits").and_then(Value::as_array).cloned().unwrap_or_default();
        self.answer(&waits).await;
        false
    }

    async fn answer(&mut self, waits: &[Value]) {
        let text = |wait: &Value, name: &str| wait.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut outputs = Map::new();
        for wait in waits {
            match text(wait, "kind").as_str() {
                "approval" if !self.story.expires => {
                    let body = json!({
                        "executionId": self.run, "approvalId": text(wait, "id"), "decision": "approved",
                        "digest": text(wait, "digest"), "streamResponse": true,
                    });
                    self.say("/v1/dispatch/approve", &body).await;
                }
                "tool_output" if self.story.cancelled => {
                    self.say(&format!("/v1/executions/{}/cancel", self.run), &json!({})).await;
                    return;
                }
                "tool_output" => drop(outputs.insert(text(wait, "name"), json!({ "seen": true }))),
                "signal" => {
                    let path = format!("/v1/executions/{}/signals/{}", self.run, text(wait, "name"));
                    // Once is enough: a second one could come after the end. Lost, it is sent again when the wait is still seen.
                    drop(self.caller.call(Method::POST, &path, &[], Some(&json!({ "go": true }))).await);
                }
                "settlement" => {
                    let body = self.settlement(&text(wait, "id"), &text(wait, "name"));
                    self.say(&format!("/v1/executions/{}/settle", self.run), &body).await;
                }
                _ => {}
            }
        }
        if outputs.len() > 1 && self.dice.one_in(2) {
            outputs = outputs.into_iter().take(1).collect();
        }
        if !outputs.is_empty() {
            let body = json!({ "executionId": self.run, "toolOutputs": outputs, "streamResponse": true });
            self.say("/v1/dispatch/resume", &body).await;
        }
    }

    /// What a person would find out about the effect at the callee.
    fn settlement(&self, wait: &str, effect: &str) -> Value {
        let key = format!("{}/{effect}", self.run);
        if self.ledger.performed(&key) {
            let result = sink::answer_of(&self.ledger.effect(&key).unwrap_or_default());
            json!({ "waitId": wait, "outcome": "succeeded", "result": result })
        } else {
            json!({ "waitId": wait, "outcome": "retry" })
        }
    }

    /// Says something once, or twice at the same time; it is said again when nobody heard it and it is still open.
    async fn say(&mut self, path: &str, body: &Value) {
        let twice = self.dice.one_in(4);
        let (first, second) = tokio::join!(self.caller.ask(Method::POST, path, &[], Some(body)), async {
            if twice { self.caller.ask(Method::POST, path, &[], Some(body)).await } else { None }
        });
        for response in [first, second].into_iter().flatten() {
            let status = response.status.as_u16();
            if status != 200 && status != 429 && status != 503 {
                let said = String::from_utf8_lossy(&response.prefix(500).await).into_owned();
                self.fault(Breach::Answer, format!("{path} was answered {status}: {said}"));
            }
        }
    }

    pub(super) async fn read_log(&mut self) {
        let (mut log, mut after): (Vec<Value>, Option<u64>) = (Vec::new(), None);
        loop {
            let cursor = after.map(|after| format!("&after={after}")).unwrap_or_default();
            let Some(page) = self.caller.get(&format!("/v1/executions/{}/events?wait=0{cursor}", self.run)).await else {
                self.caller.pause().await;
                continue;
            };
            if page.status != 200 {
                if !page.is_for_later() {
                    self.unexpected("reading the log", &page);
                    return;
                }
                self.caller.pause().await;
                continue;
            }
            let events = page.body.get("events").and_then(Value::as_array).cloned().unwrap_or_default();
            let ended = events.iter().any(is_end);
            after = page.body.get("after").and_then(Value::as_u64);
            let none = events.is_empty();
            log.extend(events);
            if none || ended {
                break;
            }
        }
        self.told.lock().log = Some(log);
    }

    /// The creating call once more: it must name the same run and start nothing.
    async fn repeat(&mut self) {
        let key = self.story.tag.clone();
        loop {
            let headers = [("idempotency-key", key.as_str()), ("accept", "application/json")];
            match self.caller.call(Method::POST, "/v1/dispatch", &headers, Some(&self.story.body)).await {
                Some(answer) if answer.status == 200 => {
                    let run = answer.body.get("executionId").and_then(Value::as_str).unwrap_or_default().to_owned();
                    self.named(&run);
                    if !answer.replayed {
                        self.fault(Breach::Answer, "a repeated call was not answered as a repetition");
                    }
                    return;
                }
                Some(answer) if !answer.is_for_later() => {
                    self.unexpected("repeating the call", &answer);
                    return;
                }
                _ => self.caller.pause().await,
            }
        }
    }
}
