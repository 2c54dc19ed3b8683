//! How long a run was in hand, and how much of that it waited for others: models, services, moments. The rest is what
//! Dispatch itself took, commits included.
//!
//! Steps run side by side, so waiting is counted once however many wait: from the first that begins to the last that ends.

use std::time::Duration;

use metrics::Label;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::model::RunState;
use crate::model::run::Spent;
use crate::provider::{Class, Models, TenantKeys};

const OVERHEAD: &str = "dispatch_own_overhead_seconds";
const ENDED: &str = "dispatch_runs_ended_total";
const CALLS: &str = "dispatch_model_calls_total";
const CALL_SECONDS: &str = "dispatch_model_call_seconds";
const REFUSED: &str = "dispatch_model_failures_total";
const TOKENS: &str = "dispatch_model_tokens_total";
const COST: &str = "dispatch_model_cost_nano_usd_total";

/// Tells the metrics recorder what the numbers mean. Once, after the recorder is installed.
pub fn describe() {
    let seconds = metrics::Unit::Seconds;
    metrics::describe_histogram!(
        OVERHEAD,
        seconds,
        "Time that an execution was in hand without waiting for a model, a service or a moment"
    );
    metrics::describe_counter!(
        ENDED,
        "Executions that ended on this node, by state and outcome; a completed one with failed steps is a failure"
    );
    metrics::describe_counter!(CALLS, "Model calls by provider, model and outcome; a call includes its retries and fallbacks");
    metrics::describe_histogram!(CALL_SECONDS, seconds, "Duration of model calls, by provider, model and outcome");
    metrics::describe_counter!(REFUSED, "Failed attempts of model calls, by provider, model and class of error");
    metrics::describe_counter!(TOKENS, "Tokens by provider, model and direction");
    super::quotas::describe();
    metrics::describe_counter!(COST, "Cost of model calls in billionths of a US dollar, by provider and model");
}

/// See the module.
pub struct Meter {
    clock: Clock,
    begun: Instant,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// How many wait now, and since when the first of them.
    open: u32,
    since: Option<Instant>,
    /// Of those who waited before.
    total: Duration,
}

impl Meter {
    pub fn new(clock: Clock) -> Self {
        let begun = clock.instant();
        Self { clock, begun, waiting: Mutex::default() }
    }

    /// Waiting for others lasts as long as the guard.
    pub fn outside(&self) -> Outside<'_> {
        let mut waiting = self.waiting.lock();
        if waiting.open == 0 {
            waiting.since = Some(self.clock.instant());
        }
        waiting.open += 1;
        Outside(self)
    }

    /// The time in hand so far, without the waiting.
    fn own(&self) -> Duration {
        let now = self.clock.instant();
        let waiting = self.waiting.lock();
        let open = waiting.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        now.saturating_duration_since(self.begun).saturating_sub(waiting.total + open)
    }

    /// The run left this node's hands.
    pub fn left(&self) {
        metrics::histogram!(OVERHEAD).record(self.own().as_secs_f64());
    }
}

/// The outcome of a run, independent of the state that it ended in.
pub const SUCCESS: &str = "success";
pub const FAILURE: &str = "failure";
pub const CANCELLED: &str = "cancelled";

/// Counts a run that ended on this node.
pub fn ended(state: RunState, outcome: &'static str) {
    metrics::counter!(ENDED, "state" => state.as_str(), "outcome" => outcome).increment(1);
}

/// The label of a model: its name in the catalogue, so that callers cannot create labels.
#[derive(Debug, Clone)]
pub struct Asked {
    pub provider: String,
    pub model: String,
}

impl Asked {
    pub fn of(models: &Models, provider: &str, model: &str) -> Self {
        let entry = models.catalogue().provider(provider);
        let known = entry.and_then(|entry| entry.model(model));
        Self {
            provider: entry.map_or_else(|| OTHER.to_owned(), |entry| entry.name.clone()),
            model: known.map_or_else(|| OTHER.to_owned(), |known| known.name.clone()),
        }
    }

    fn label(&self, more: impl IntoIterator<Item = (&'static str, &'static str)>) -> Vec<Label> {
        let own = [Label::new("provider", self.provider.clone()), Label::new("model", self.model.clone())];
        own.into_iter().chain(more.into_iter().map(|(name, value)| Label::from_static_parts(name, value))).collect()
    }
}

/// The label of models that are not in the catalogue.
const OTHER: &str = "other";

impl Default for Asked {
    fn default() -> Self {
        Self { provider: OTHER.into(), model: OTHER.into() }
    }
}

/// Counts the tokens and the cost of a model call.
pub fn spent(asked: &Asked, spent: &Spent) {
    metrics::counter!(TOKENS, asked.label([("direction", "input")])).increment(spent.input_tokens);
    metrics::counter!(TOKENS, asked.label([("direction", "output")])).increment(spent.output_tokens);
    metrics::counter!(COST, asked.label([])).increment(spent.cost);
}

/// Counts a finished call with its retries and fallbacks, under the model that was asked last.
pub fn called(asked: &Asked, outcome: &'static str, took: Duration) {
    metrics::counter!(CALLS, asked.label([("outcome", outcome)])).increment(1);
    metrics::histogram!(CALL_SECONDS, asked.label([("outcome", outcome)])).record(took.as_secs_f64());
}

/// Counts an attempt that a model's server refused or broke off.
pub fn refused(asked: &Asked, class: &'static str) {
    metrics::counter!(REFUSED, asked.label([("class", class)])).increment(1);
}

/// Exports every counter with 0, so that the first increment is visible. `models`: those that have a key.
pub fn register(models: &Models) {
    for (state, outcome) in
        [(RunState::Completed, SUCCESS), (RunState::Completed, FAILURE), (RunState::Failed, FAILURE), (RunState::Cancelled, CANCELLED)]
    {
        metrics::counter!(ENDED, "state" => state.as_str(), "outcome" => outcome).increment(0);
    }
    super::quotas::register();
    let configured = models.list(&TenantKeys::default()).into_iter().filter(|card| card.configured);
    let listed = configured.map(|card| Asked { provider: card.provider, model: card.model });
    for asked in listed.chain([Asked::default()]) {
        spent(&asked, &Spent::default());
        for outcome in [SUCCESS, FAILURE, CANCELLED] {
            metrics::counter!(CALLS, asked.label([("outcome", outcome)])).increment(0);
        }
        // One class is enough: it makes sums over all classes start at 0.
        metrics::counter!(REFUSED, asked.label([("class", Class::ServerError.name())])).increment(0);
    }
}

/// Somebody else is waited for.
pub struct Outside<'a>(&'a Meter);

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.open -= 1;
        if waiting.open == 0
            && let Some(since) = waiting.since.take()
        {
            waiting.total += self.0.clock.instant().saturating_duration_since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_side_by_side_is_waited_once() {
        let meter = Meter::new(Clock::system());
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        pass(3).await;
        let first = meter.outside();
        pass(10).await;
        let second = meter.outside();
        pass(10).await;
        drop(first);
        pass(10).await;
        drop(second);
        pass(4).await;
        assert_eq!(meter.own(), Duration::from_millis(7));
        let third = meter.outside();
        pass(50).await;
        assert_eq!(meter.own(), Duration::from_millis(7), "who still waits is not counted either");
        drop(third);
    }
}
