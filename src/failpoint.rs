//! Named points where the process can be told to die, for `dispatch selftest crash`.
//!
//! `DISPATCH_FAILPOINT=name` or `name:n` ends the process, without any clean-up, when the point is reached for the
//! n-th time. Nothing is armed unless that variable is set at start; an unarmed point costs one load.
//!
//! Must not know: what happens at a point.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every point, for the self-test to walk through.
pub const ALL: &[&str] = &[
    // A run's beginning, its commits, and who holds it.
    "run.create.before",
    "run.create.after",
    "run.commit.before",
    "run.commit.after",
    "run.claim.after",
    "run.claim.loaded",
    "run.recover.before",
    "run.recover.after",
    "run.renew.before",
    "run.renew.after",
    "run.release.before",
    "run.release.after",
    // The store's transactions.
    "store.group.before",
    "store.group.after",
    "store.resolve.before",
    "store.resolve.after",
    // Steps and their effects.
    "step.start",
    "step.end",
    "step.settled",
    "effect.begun",
    "effect.before",
    "effect.after",
    "effect.recorded",
    "effect.unknown",
    "effect.settled",
    "retry.before_wait",
    "retry.after_wait",
    "model.before",
    "model.first_token",
    "model.middle",
    "model.after",
    "tool.before",
    "tool.after",
    "tool.recorded",
    // Pauses and what ends them.
    "wait.opened",
    "wait.resolved",
    "approval.told",
    "pause.before",
    "pause.after",
    "timer.due",
    "timer.expired",
    "signal.before",
    "signal.after",
    "cancel.before",
    "cancel.asked",
    "cancel.seen",
    "finish.before",
    "finish.after",
    // Undoing.
    "compensation.begun",
    "compensation.undo.before",
    "compensation.undo.after",
    // Events on their way to readers.
    "event.emit",
    "event.shown",
    "log.shrink.before",
    "log.shrink.after",
    // The surface.
    "http.accepted",
    "http.resolved",
    "http.repeated",
    "http.first_byte",
    "http.last_byte",
    // Events between runs.
    "event.publish.before",
    "event.publish.after",
    // Jobs.
    "job.enqueue.before",
    "job.enqueue.after",
    "job.claimed",
    "job.begin.before",
    "job.begin.after",
    // What is told outside.
    "webhook.told",
    "webhook.send.before",
    "webhook.send.after",
    // Other creating calls.
    "receipt.begun",
    "receipt.done",
    "receipt.filed",
];

struct Armed {
    name: String,
    nth: u64,
    hits: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Arms a point from the text of the variable; `None` arms nothing. Call once at start.
pub fn arm(text: Option<&str>) -> Result<(), String> {
    let armed = match text.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
            if !ALL.contains(&name) {
                return Err(format!("unknown failpoint `{name}`"));
            }
            let nth = nth.parse().map_err(|_| format!("failpoint `{text}`: expected name:number"))?;
            Some(Armed { name: name.into(), nth, hits: AtomicU64::new(0) })
        }
    };
    ARMED.set(armed).map_err(|_| "failpoints are armed once, at start".to_owned())
}

/// A point. Dies here if it is armed and it is its turn.
pub fn hit(name: &'static str) {
    if let Some(Some(armed)) = ARMED.get()
        && armed.name == name
        && armed.hits.fetch_add(1, Ordering::Relaxed) + 1 == armed.nth
    {
        std::process::abort();
    }
}
