//! What callers write about work to be done, in jobs and crons alike.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::engine::Engine;
use crate::error::{Problem, Problems, Result};
use crate::model::job::{DEFAULT_QUEUE, DEFAULT_RETRIES, DEFAULT_TIMEOUT, JobScope, Order, Placed};
use crate::queue::jobs::Callback;

const LONGEST_NAME: usize = 255;
const MOST_RETRIES: u32 = 100;
/// An attempt's time, pauses not counted.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(24 * 3_600);

/// What is to be done.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "JobOrder")]
pub(in crate::http) struct OrderInput {
    /// What the flow sees: its members as variables, and the whole as `payload`.
    #[serde(default)]
    pub payload: Value,
    /// The queue; `default` when absent.
    #[serde(default)]
    #[schemars(length(min = 1, max = 255))]
    pub queue: Option<String>,
    /// Higher ones first; 0 when absent.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Attempts after the first one that failed; 3 when absent, 100 at most.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub max_retries: Option<u32>,
    /// The time of one attempt in milliseconds, pauses not counted; five minutes when absent, a day at most.
    #[serde(default)]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub timeout_ms: Option<u64>,
    /// The call that does it, instead of a flow.
    #[serde(default)]
    #[schemars(with = "Option<Callback>")]
    pub callback: Option<Value>,
    /// Whose it is, in your words.
    #[serde(default)]
    #[schemars(length(max = 255))]
    pub scope_app_id: Option<String>,
    /// The organisation, which may have limits of its own in a queue.
    #[serde(default)]
    #[schemars(length(max = 255))]
    pub scope_org_id: Option<String>,
}

impl OrderInput {
    /// Reads what is given about `name`, which the caller judges; what is absent stays as in `old`. Faults are noted with their places.
    pub fn place(self, engine: &Engine, name: String, old: Option<&Placed>, problems: &mut Problems) -> Placed {
        let queue = self.queue.or(old.map(|old| old.queue.clone())).unwrap_or_else(|| DEFAULT_QUEUE.to_owned());
        fit(&queue, 1, "/queue", problems);
        let priority = self.priority.or(old.map(|old| old.priority)).unwrap_or(0);
        let old = old.map(|old| &old.order);
        let scope = old.map(|old| old.scope.clone()).unwrap_or_default();
        let scope = JobScope { app: self.scope_app_id.unwrap_or(scope.app), org: self.scope_org_id.unwrap_or(scope.org) };
        for (at, text) in [("/scope_app_id", &scope.app), ("/scope_org_id", &scope.org)] {
            fit(text, 0, at, problems);
        }
        let max_retries = self.max_retries.or(old.map(|old| old.max_retries)).unwrap_or(DEFAULT_RETRIES);
        if max_retries > MOST_RETRIES {
            problems.add("/max_retries", format!("expected {MOST_RETRIES} at most"));
        }
        let longest = millis(LONGEST_ATTEMPT);
        let timeout_ms = self.timeout_ms.or(old.and_then(|old| old.timeout_ms)).unwrap_or(millis(DEFAULT_TIMEOUT));
        if !(1..=longest).contains(&timeout_ms) {
            problems.add("/timeout_ms", format!("expected 1 to {longest}"));
        }
        let callback = self.callback.filter(|callback| !callback.is_null());
        if let Some(callback) = &callback
            && let Err(error) = checked(callback, engine)
        {
            for problem in error.0 {
                problems.add(format!("/callback{}", problem.pointer), problem.message);
            }
        }
        let payload = if self.payload.is_null() { old.map(|old| old.payload.clone()).unwrap_or_default() } else { self.payload };
        let callback = callback.or(old.and_then(|old| old.callback.clone()));
        let key_id = old.and_then(|old| old.key_id);
        let order =
            Order { name, payload, callback, max_retries, timeout_ms: Some(timeout_ms), scope, key_id, cron: None, replay_of: None };
        Placed { queue, priority, order }
    }
}

/// A name of the caller's own.
pub(super) fn fit(text: &str, least: usize, at: &str, problems: &mut Problems) {
    let length = text.trim().chars().count();
    if length < least || text.chars().count() > LONGEST_NAME || text.contains(char::is_control) {
        problems.add(at, format!("expected {least} to {LONGEST_NAME} characters, none of them a control character"));
    }
}

fn checked(callback: &Value, engine: &Engine) -> Result<(), Problems> {
    let read: Callback = serde_path_to_error::deserialize(callback).map_err(|error| Problem::misfit(&error))?;
    read.check(engine).map_err(|error| {
        let problems = error.problems().to_vec();
        if problems.is_empty() {
            let mut one = Problems::default();
            one.add("", error.message());
            return one;
        }
        Problems(problems)
    })
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
