//! A caller of jobs: puts one in its queue, and looks until it is over.

use http::Method;
use serde_json::Value;

use super::drive::Driver;
use super::told::Breach;

impl Driver {
    /// Returns when the job is over and the log of its last attempt is read.
    pub(super) async fn drive_job(mut self) {
        let Some(job) = self.enqueue().await else { return };
        let path = format!("/v1/jobs/{job}");
        loop {
            let answer = self.caller.get(&path).await;
            let text = |name: &str| answer.as_ref().and_then(|answer| answer.body.get(name)).and_then(Value::as_str).unwrap_or_default();
            match answer.as_ref().map(|answer| answer.status) {
                Some(200) if matches!(text("state"), "completed" | "failed" | "cancelled") => {
                    if text("state") != self.story.status {
                        self.fault(
                            Breach::Lost,
                            format!("the job ended {}, not {}: {}", text("state"), self.story.status, text("last_error")),
                        );
                    }
                    self.named(text("execution_id"));
                    break;
                }
                Some(404) => {
                    self.fault(Breach::Lost, "the job was accepted and is not known");
                    return;
                }
                _ => self.caller.pause().await,
            }
        }
        while !self.look().await {}
        self.read_log().await;
        // Once more: it must be the same job.
        if self.enqueue().await.is_some_and(|again| again != job) {
            self.fault(Breach::Doubled, "one Idempotency-Key made two jobs");
        }
    }

    /// Puts the job in its queue under its key, until one is named.
    async fn enqueue(&mut self) -> Option<String> {
        let key = self.story.tag.clone();
        loop {
            let answer = self.caller.call(Method::POST, "/v1/jobs", &[("idempotency-key", &key)], Some(&self.story.body)).await;
            match answer {
                Some(answer) if answer.status == 201 => return answer.body.get("id").and_then(Value::as_str).map(str::to_owned),
                Some(answer) if answer.code() != "idempotency_in_progress" && !answer.is_for_later() => {
                    self.unexpected("putting the job in its queue", &answer);
                    return None;
                }
                _ => self.caller.pause().await,
            }
        }
    }
}
