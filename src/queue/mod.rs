//! The workers: who advances which run, under a lease.
//!
//! A run that starts here is advanced here. Everything else is claimed when it is due: what was resumed, what a
//! timer woke, what an owner that went away left behind. Leases are renewed in bulk; a node that cannot renew
//! stops what it holds before anyone else can take it up.
//!
//! Must not know: HTTP, what a step does. Nobody else drives a run.

pub mod broker;
pub mod census;
pub mod crons;
pub mod events;
pub mod jobs;
mod keeper;
mod loads;
mod pulse;
pub mod retention;
pub mod webhooks;
mod workers;

pub use jobs::Jobs;
pub use workers::{Options, Workers};

/// Tells the metrics recorder what the numbers mean. Once, after the recorder is installed.
pub fn describe() {
    metrics::describe_gauge!("dispatch_runs_active", "Executions that this node advances now");
    metrics::describe_counter!("dispatch_runs_stuck_total", "Executions that nothing could have woken, found and entered again");
    metrics::describe_counter!(webhooks::ATTEMPTS, "Webhook delivery attempts, by outcome: delivered, retried, given_up");
    metrics::describe_counter!(crons::FIRED, "Fired times of cron entries and schedules, by kind");
    census::describe();
    retention::describe();
    metrics::gauge!("dispatch_runs_active").increment(0);
    metrics::counter!("dispatch_runs_stuck_total").increment(0);
    for outcome in webhooks::OUTCOMES {
        metrics::counter!(webhooks::ATTEMPTS, "outcome" => outcome).increment(0);
    }
    for kind in ["cron", "schedule"] {
        metrics::counter!(crons::FIRED, "kind" => kind).increment(0);
    }
}
