//! `flow.poll`: an action called again and again until conditions on its response hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::call::ActionCall;
use super::scope::{JobScope, pick};
use super::{JobStepResult, activity};
use crate::clock::Timestamp;
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::job::cookies::CookieJar;
use crate::job::poll::PollSpec;

/// A poll at work.
pub(super) struct Poll<'a> {
    pub step: &'a str,
    pub spec: &'a PollSpec,
    pub target: &'a ActionCall,
    pub scope: &'a JobScope,
}

/// How one attempt ended.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PollAttempt {
    matched: bool,
    response: Value,
    error: Option<String>,
    summaries: Vec<String>,
    cookies: CookieJar,
}

/// What is known of the attempts so far.
#[derive(Default)]
struct PollProgress {
    attempts: u64,
    last: PollAttempt,
}

impl Poll<'_> {
    pub(super) async fn run(&self, context: &StepContext<'_>) -> StepResult<JobStepResult> {
        let started = context.chosen("poll/started", || context.now()).await;
        let mut progress = PollProgress::default();
        loop {
            let number = progress.attempts + 1;
            let is_over = self.spec.max_attempts.is_some_and(|most| number > most);
            let waited_since = self.begun(context, number);
            let elapsed = millis(waited_since.unwrap_or_else(|| context.now()).since(started));
            if is_over || elapsed > self.spec.max_duration_ms {
                return Err(self.timeout(&progress, elapsed).into());
            }
            let attempt = self.attempt(context, number).await?;
            progress = PollProgress { attempts: number, last: attempt };
            if progress.last.matched && number >= self.spec.min_success_attempts {
                return self.matched(context, progress, started).await;
            }
            if self.spec.max_attempts.is_none_or(|most| number < most) {
                let until = context.chosen(&format!("poll/{number}/until"), || self.next_attempt(context)).await;
                context.sleep_until(&context.key(&format!("poll/{number}/wait")), until).await?;
            }
        }
    }

    fn next_attempt(&self, context: &StepContext<'_>) -> Timestamp {
        context.now().after(Duration::from_millis(self.spec.interval_ms))
    }

    /// When the attempt of this number began, if it did before.
    fn begun(&self, context: &StepContext<'_>, number: u64) -> Option<Timestamp> {
        context.recall_as(&context.key(&format!("poll/{number}/begun")))
    }

    async fn attempt(&self, context: &StepContext<'_>, number: u64) -> StepResult<PollAttempt> {
        let key = context.key(&format!("poll/{number}/ended"));
        if let Some(attempt) = context.recall_as(&key) {
            return Ok(attempt);
        }
        let begun_key = context.key(&format!("poll/{number}/begun"));
        if context.recall(&begun_key).is_none() {
            context.record_done(&begun_key, &context.now());
        }
        let id = format!("{}_attempt_{number}", self.step);
        let payload = Value::Object(self.spec.payload.clone());
        let called = self.target.perform(context, self.scope, &id, &format!("poll/{number}"), &payload).await;
        let tested = match called {
            Ok(called) => self.test(context, called.outcome.response).await.map(|tested| PollAttempt { cookies: called.cookies, ..tested }),
            Err(interrupt) => Err(interrupt),
        };
        let attempt = match tested {
            Ok(attempt) => attempt,
            Err(Interrupt::Fail(failure)) if !failure.fatal => {
                if !self.spec.continue_on_action_error {
                    let message = format!("flow.poll action={} failed on attempt {number}: {}", self.target.action, failure.message);
                    return Err(StepFailure { message, ..failure }.into());
                }
                PollAttempt { error: Some(failure.message), ..PollAttempt::default() }
            }
            Err(interrupt) => return Err(interrupt),
        };
        self.report(context, number, &attempt);
        context.record_done(&key, &attempt);
        Ok(attempt)
    }

    fn report(&self, context: &StepContext<'_>, number: u64, attempt: &PollAttempt) {
        let action = &self.target.action;
        let line = match &attempt.error {
            Some(error) => format!("flow.poll action={action} attempt={number} status=error error={error}"),
            None if attempt.matched && number < self.spec.min_success_attempts => {
                let least = self.spec.min_success_attempts;
                format!("flow.poll action={action} attempt={number} status=success matched=false reason=minSuccessAttempts({least})")
            }
            None if attempt.matched => return,
            None => format!("flow.poll action={action} attempt={number} status=success matched=false"),
        };
        activity(context, &format!("poll/{number}/activity"), self.step, &line);
    }

    /// Evaluates every rule on a response.
    async fn test(&self, context: &StepContext<'_>, response: Value) -> StepResult<PollAttempt> {
        let mut outcomes = Vec::new();
        let mut summaries = Vec::new();
        for rule in self.spec.conditions.rules() {
            let picked = pick(context, &rule.path, response.clone()).await?;
            let holds = match (rule.test(picked.as_ref()), picked) {
                (Some(holds), _) => holds,
                (None, picked) => matches_pattern(context, &rule.value, picked.unwrap_or_default()).await?,
            };
            outcomes.push(holds);
            summaries.push(rule.summary(holds));
        }
        Ok(PollAttempt { matched: self.spec.conditions.holds(&outcomes), response, error: None, summaries, cookies: CookieJar::default() })
    }

    async fn matched(&self, context: &StepContext<'_>, progress: PollProgress, started: Timestamp) -> StepResult<JobStepResult> {
        let elapsed = millis(context.now().since(started));
        let PollProgress { attempts, last } = progress;
        let mut stored = Map::new();
        for (name, path) in &self.spec.store {
            if let Some(value) = pick(context, path, last.response.clone()).await? {
                stored.insert(name.clone(), value);
            }
        }
        activity(context, "poll/matched", self.step, &format!("flow.poll matched attempt={attempts} elapsedMs={elapsed}"));
        let response = json!({
            "matched": true, "attempts": attempts, "elapsedMs": elapsed, "lastAction": self.target.action, "lastStatus": "success",
            "lastResponse": last.response,
        });
        let detail = format!("matched=true attempts={attempts} elapsed={}.{}s", elapsed / 1_000, elapsed % 1_000 / 100);
        Ok(JobStepResult { response, detail: Some(detail), stored, cookies: last.cookies, ..JobStepResult::default() })
    }

    fn timeout(&self, progress: &PollProgress, elapsed: u64) -> StepFailure {
        let spec = self.spec;
        let last = &progress.last;
        let most = spec.max_attempts.map_or_else(|| "unbounded".to_owned(), |most| most.to_string());
        let status = if last.error.is_some() { "error" } else { "success" };
        let conditions: Vec<&str> = last.summaries.iter().take(4).map(String::as_str).collect();
        let message = format!(
            "flow.poll timeout action={} attempts={} elapsedMs={elapsed} maxDurationMs={} maxAttempts={most} minSuccessAttempts={} \
             lastStatus={status} lastError={} conditions=[{}]",
            self.target.action,
            progress.attempts,
            spec.max_duration_ms,
            spec.min_success_attempts,
            last.error.as_deref().unwrap_or("none"),
            conditions.join("; "),
        );
        StepFailure::new("poll_timeout", message)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a text matches a regular expression of JavaScript, which runs where it can be stopped.
async fn matches_pattern(context: &StepContext<'_>, pattern: &Value, text: Value) -> StepResult<bool> {
    let data = Map::from_iter([("pattern".to_owned(), pattern.clone()), ("text".to_owned(), text)]);
    let found = context.sandbox().run("return new RegExp(pattern).test(text)", data).await.map_err(crate::error::Error::from)?;
    Ok(found == Value::Bool(true))
}
