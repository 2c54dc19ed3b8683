//! This node's word that it still holds its runs.
//!
//! One renewal prolongs the leases of all runs in hand, so they share one end; a run that no renewal has covered yet has
//! an end of its own. A run's steps are polled only before its end. So a node that was cut off from the store, starved or
//! asleep does nothing under leases that may be another's by now. It goes on where it stood once the store has said that
//! nobody took its runs, and an outage of the store costs no work that was under way.
//!
//! Must not know: who renews, and how.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};
use crate::net::{self, Hold};

/// What the runs of a node have in common.
pub struct NodeLease {
    clock: Clock,
    length: Duration,
    /// Milliseconds since 1970.
    until: AtomicI64,
    moved: Notify,
}

/// The hold on one run.
pub struct RunLease {
    node: Arc<NodeLease>,
    /// Milliseconds since 1970; never, once a renewal has covered the run.
    until: AtomicI64,
}

impl NodeLease {
    /// `length`: how long others respect a lease that is not renewed.
    pub fn new(clock: Clock, length: Duration) -> Self {
        let lease = Self { clock, length, until: AtomicI64::new(0), moved: Notify::new() };
        lease.renewed(lease.clock.now());
        lease
    }

    /// How long others respect a lease that is written at `now`.
    pub fn promised(&self, now: Timestamp) -> Timestamp {
        now.after(self.length)
    }

    /// How long this node itself relies on it: a tenth less, for the clocks of two nodes differ.
    fn relied_on(&self, now: Timestamp) -> i64 {
        now.after(self.length - self.length / 10).as_millis()
    }

    /// Whether others may take this node's runs now.
    pub fn is_over(&self) -> bool {
        self.clock.now().as_millis() >= self.until.load(Ordering::Acquire)
    }

    /// A renewal that was asked for at `asked` has succeeded.
    pub fn renewed(&self, asked: Timestamp) {
        self.until.fetch_max(self.relied_on(asked), Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    /// The hold on a run whose lease is written at `now`.
    pub fn hold(self: &Arc<Self>, now: Timestamp) -> Arc<RunLease> {
        Arc::new(RunLease { node: self.clone(), until: AtomicI64::new(self.relied_on(now)) })
    }
}

impl Hold for RunLease {
    fn lasts(&self) -> bool {
        !self.is_over()
    }
}

impl RunLease {
    /// How long others respect a lease that is written now.
    pub fn promised(&self) -> Timestamp {
        self.node.promised(self.node.clock.now())
    }

    /// From now on the run's lease ends with those of the others. Told before the node's own renewal is.
    pub fn cover(&self) {
        self.until.store(i64::MAX, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.node.is_over() || self.node.clock.now().as_millis() >= self.until.load(Ordering::Acquire)
    }

    /// Does the work, but only while the lease lasts: beyond its end nothing in it moves until it is renewed.
    /// What it hands to the network just before leaves before it, or after that.
    pub async fn under<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(net::under(self.clone(), work));
        loop {
            let mut moved = pin!(self.node.moved.notified());
            moved.as_mut().enable();
            let done =
                poll_fn(
                    |context| {
                        if self.is_over() { moved.as_mut().poll(context).map(|()| None) } else { work.as_mut().poll(context).map(Some) }
                    },
                );
            if let Some(done) = done.await {
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> (Clock, Arc<NodeLease>) {
        let clock = Clock::simulated(1, Timestamp::from_millis(0));
        let lease = NodeLease::new(clock.clone(), Duration::from_secs(10));
        (clock, Arc::new(lease))
    }

    async fn steps(clock: &Clock) -> (i64, i64) {
        clock.sleep(Duration::from_millis(8_900)).await;
        let first = clock.now();
        clock.sleep(Duration::from_millis(200)).await;
        (first.as_millis(), clock.now().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn work_stands_still_from_the_end_of_the_lease_until_it_is_renewed() {
        let (clock, lease) = lease();
        let run = lease.hold(clock.now());
        let keeper = async {
            clock.sleep(Duration::from_secs(15)).await;
            run.cover();
            lease.renewed(clock.now());
        };
        assert_eq!(tokio::join!(run.under(steps(&clock)), keeper).0, (8_900, 15_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_did_not_cover_a_run_prolongs_nothing_for_it() {
        let (clock, lease) = lease();
        let run = lease.hold(clock.now());
        let keeper = async {
            clock.sleep(Duration::from_secs(5)).await;
            lease.renewed(clock.now());
            clock.sleep(Duration::from_secs(5)).await;
            run.cover();
            lease.renewed(clock.now());
        };
        assert_eq!(tokio::join!(run.under(steps(&clock)), keeper).0, (8_900, 10_000));
    }
}
