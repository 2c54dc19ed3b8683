//! A caller of workflows: registers one, starts a run of it, and follows that like any other.

use http::Method;
use serde_json::{Value, json};

use super::drive::Driver;
use super::told::Breach;

impl Driver {
    /// Returns when the run has ended and its log is read.
    pub(super) async fn drive_workflow(mut self) {
        let name: String =
            self.story.tag.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' }).collect();
        if let Some(document) = self.story.body.as_object_mut() {
            document.insert("name".into(), json!(name));
        }
        if !self.register(&name).await {
            return;
        }
        let Some(run) = self.trigger(&name, false).await else { return };
        self.named(&run);
        loop {
            self.follow().await;
            if self.look().await {
                break;
            }
        }
        self.read_log().await;
        // Once more: it must be the same run.
        if let Some(again) = self.trigger(&name, true).await {
            self.named(&again);
        }
    }

    async fn register(&mut self, name: &str) -> bool {
        let path = format!("/api/workflows/{name}");
        loop {
            match self.caller.call(Method::PUT, &path, &[], Some(&self.story.body)).await {
                Some(answer) if matches!(answer.status, 200 | 201) => return true,
                Some(answer) if !answer.is_for_later() => {
                    self.unexpected("registering the workflow", &answer);
                    return false;
                }
                _ => self.caller.pause().await,
            }
        }
    }

    /// Starts the run under its key, until one is named.
    async fn trigger(&mut self, name: &str, repeated: bool) -> Option<String> {
        let (path, key) = (format!("/workflows/{name}"), self.story.tag.clone());
        let headers = [("idempotency-key", key.as_str()), ("prefer", "respond-async")];
        loop {
            match self.caller.call(Method::POST, &path, &headers, Some(&json!({ "tag": self.story.tag }))).await {
                Some(answer) if answer.status == 202 => {
                    if repeated && !answer.replayed {
                        self.fault(Breach::Answer, "a repeated call was not answered as a repetition");
                    }
                    return answer.body.get("run_id").and_then(Value::as_str).map(str::to_owned);
                }
                Some(answer) if !answer.is_for_later() => {
                    self.unexpected("starting the workflow", &answer);
                    return None;
                }
                _ => self.caller.pause().await,
            }
        }
    }
}
