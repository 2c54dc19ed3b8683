//! Following a run: the log so far, then each event as it comes. No gap, nothing twice.
//!
//! Whoever advances a run writes into its [`Ring`]; a [`Follower`] is a cursor over ring, then store, never a
//! queue: a slow reader costs a cursor, and one that falls out of the ring reads from the store.
//!
//! A while after a run's end its log is made small ([`Feed::shrink`]).
//!
//! Must not know: HTTP, what events mean, who may read (authorise before following).

mod follow;
mod ring;
mod shrink;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

pub use follow::{Follower, Stretch};
pub use ring::Ring;

use crate::clock::Clock;
use crate::id::{RunId, TenantId};
use crate::store::SharedStore;

/// Commits that a receiver of [`Feed::activity`] may lie behind.
const MAX_ACTIVITY: usize = 4_096;

/// The rings of the runs that this node advances, and the way to follow any run.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    store: SharedStore,
    clock: Clock,
    rings: RwLock<HashMap<RunId, Arc<Ring>>>,
    opened: Notify,
    activity: broadcast::Sender<RunId>,
    /// Raised when this node takes its leave.
    stop: CancellationToken,
}

impl Feed {
    pub fn new(store: SharedStore, clock: Clock) -> Self {
        let (activity, _) = broadcast::channel(MAX_ACTIVITY);
        let (opened, stop) = (Notify::new(), CancellationToken::new());
        Self(Arc::new(Inner { store, clock, rings: RwLock::default(), opened, activity, stop }))
    }

    /// Opens the ring of a run that this node advances from now on; its first event will have number `start`.
    pub fn open(&self, run: RunId, start: u64) -> Arc<Ring> {
        let ring = Arc::new(Ring::new(run, start, self.0.activity.clone()));
        let before = self.0.rings.write().insert(run, ring.clone());
        if let Some(before) = before {
            // An owner that lost the run may not have noticed yet; its readers are not left with it.
            before.close();
        }
        self.0.opened.notify_waiters();
        ring
    }

    /// Closes a ring: readers go on in the store. A newer ring of the same run stays.
    pub fn close(&self, run: RunId, ring: &Arc<Ring>) {
        let mut rings = self.0.rings.write();
        if rings.get(&run).is_some_and(|current| Arc::ptr_eq(current, ring)) {
            rings.remove(&run);
        }
        drop(rings);
        ring.close();
    }

    /// Follows a run from after `cursor`, or from its first event.
    pub fn follow(&self, tenant: TenantId, run: RunId, cursor: Option<u64>) -> Follower {
        Follower::new(self.clone(), tenant, run, cursor)
    }

    /// Names each run that this node advances when more of its log is in the store. A receiver that is too slow misses some.
    pub fn activity(&self) -> broadcast::Receiver<RunId> {
        self.0.activity.subscribe()
    }

    /// Completes when this node lets its readers go.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
    }

    /// Lets readers go: each is given what is there, and then told that the server stops instead of being kept waiting.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// How many runs this node advances.
    pub fn open_rings(&self) -> usize {
        self.0.rings.read().len()
    }

    fn ring(&self, run: RunId) -> Option<Arc<Ring>> {
        self.0.rings.read().get(&run).cloned()
    }
}
