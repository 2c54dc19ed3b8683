//! How long a run was in hand, and how much of that it waited for others: models, services, moments. The rest is what
//! Dispatch itself took, commits included.
//!
//! Steps run side by side, so waiting is counted once however many wait: from the first that begins to the last that ends.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::drive::Departure;
use crate::clock::Clock;
use crate::model::run::Spent;

const OVERHEAD: &str = "dispatch_own_overhead_seconds";
const ENDED: &str = "dispatch_runs_ended_total";
const CALLS: &str = "dispatch_model_calls_total";
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
    metrics::describe_counter!(ENDED, "Executions that ended here, by state");
    metrics::describe_counter!(CALLS, "Calls to models, retries and fallbacks of a call included in it");
    metrics::describe_counter!(TOKENS, "Tokens of models, by direction");
    metrics::describe_counter!(COST, "Cost of model calls in billionths of a US dollar");
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
    pub fn left(&self, departure: &Departure) {
        metrics::histogram!(OVERHEAD).record(self.own().as_secs_f64());
        if let Departure::Ended(state) = departure {
            metrics::counter!(ENDED, "state" => state.as_str()).increment(1);
        }
    }
}

/// Counts what a model call came to.
pub fn spent(spent: &Spent) {
    metrics::counter!(CALLS).increment(spent.calls);
    metrics::counter!(TOKENS, "direction" => "input").increment(spent.input_tokens);
    metrics::counter!(TOKENS, "direction" => "output").increment(spent.output_tokens);
    metrics::counter!(COST).increment(spent.cost);
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
