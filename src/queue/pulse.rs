//! Whether this node keeps up: how late it comes to what is due.
//!
//! While many runs are in hand, a task sleeps a moment, again and again, and notes how late it wakes. Being late now and
//! then is a burst, which passes. If every one of these moments is late, everything waits: more was admitted than can be
//! done, and what is admitted on top makes all of it slower. Judging a queue by the shortest wait of a while, not by the
//! longest, is the idea of CoDel (RFC 8289, section 4.2).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Workers;

/// Runs in hand from which lateness can be of their making.
const MANY: usize = 256;
/// Sleeps of one look.
const BEATS: u32 = 8;
/// How long each sleep is meant to take.
const BEAT: Duration = Duration::from_millis(5);
/// Waiting that every task has to bear, at which no more is admitted.
const TOO_LATE: Duration = Duration::from_millis(4);

/// The last look. Measures nothing while few runs are in hand.
#[derive(Default)]
pub(super) struct Pulse {
    /// Microseconds that each beat of the last look was late, at least.
    late: AtomicU64,
    many: Notify,
}

impl Pulse {
    /// So many runs are in hand now.
    pub fn hold(&self, runs: usize) {
        if runs == MANY {
            self.many.notify_one();
        }
    }

    /// Whether everything here waits for too long.
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed) > u64::try_from(TOO_LATE.as_micros()).unwrap_or(u64::MAX)
    }
}

/// Looks, as long as there is reason to.
pub(super) async fn keep(workers: Workers) {
    let inner = workers.inner();
    let clock = &inner.engine.parts().clock;
    while !inner.stop.is_cancelled() {
        tokio::select! {
            () = inner.pulse.many.notified() => {}
            () = inner.stop.cancelled() => return,
        }
        while workers.active() >= MANY {
            let mut least = Duration::MAX;
            for _ in 0..BEATS {
                let due = clock.instant() + BEAT;
                clock.sleep(BEAT).await;
                least = least.min(clock.instant().saturating_duration_since(due));
            }
            inner.pulse.late.store(u64::try_from(least.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        inner.pulse.late.store(0, Ordering::Relaxed);
    }
}
