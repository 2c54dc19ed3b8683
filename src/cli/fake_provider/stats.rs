//! What arrived.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use axum::body::Bytes;
use parking_lot::Mutex;
use serde_json::json;

/// How many models and callers are told apart before the tables begin anew.
const MOST_KEYS: usize = 10_000;

/// Counters of one fake provider.
#[derive(Debug, Default)]
pub(super) struct Stats {
    connections: AtomicU64,
    open_connections: AtomicI64,
    open: AtomicI64,
    finished: AtomicU64,
    aborted: AtomicU64,
    models: Mutex<BTreeMap<String, Seen>>,
    visits: Mutex<HashMap<u64, u32>>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    last: Bytes,
}

impl Stats {
    /// Counts a request in; the ticket counts it out.
    pub(super) fn open(self: &Arc<Self>, model: &str, body: &Bytes) -> Ticket {
        self.open.fetch_add(1, Ordering::Relaxed);
        let mut models = self.models.lock();
        if models.len() >= MOST_KEYS {
            models.clear();
        }
        match models.get_mut(model) {
            Some(seen) => {
                seen.requests += 1;
                seen.last = body.clone();
            }
            None => {
                models.insert(model.to_owned(), Seen { requests: 1, last: body.clone() });
            }
        }
        Ticket { stats: self.clone(), finished: false }
    }

    /// How often this caller has asked this model, now included.
    pub(super) fn visits(&self, model: &str, caller: &[u8]) -> u32 {
        let mut hasher = DefaultHasher::new();
        (model, caller).hash(&mut hasher);
        let mut visits = self.visits.lock();
        if visits.len() >= MOST_KEYS {
            visits.clear();
        }
        let count = visits.entry(hasher.finish()).or_default();
        *count += 1;
        *count
    }

    pub(super) fn connected(self: &Arc<Self>) -> Connection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open_connections.fetch_add(1, Ordering::Relaxed);
        Connection(self.clone())
    }

    pub(super) fn last(&self, model: &str) -> Option<Bytes> {
        self.models.lock().get(model).map(|seen| seen.last.clone())
    }

    pub(super) fn show(&self) -> serde_json::Value {
        let models = self.models.lock();
        let requests: BTreeMap<&str, u64> = models.iter().map(|(model, seen)| (model.as_str(), seen.requests)).collect();
        json!({
            "requests": requests,
            "connections": self.connections.load(Ordering::Relaxed),
            "openConnections": self.open_connections.load(Ordering::Relaxed),
            "openRequests": self.open.load(Ordering::Relaxed),
            "finished": self.finished.load(Ordering::Relaxed),
            "aborted": self.aborted.load(Ordering::Relaxed),
        })
    }

    /// Forgets what is over; what is open stays counted.
    pub(super) fn reset(&self) {
        self.models.lock().clear();
        self.visits.lock().clear();
        for counter in [&self.connections, &self.finished, &self.aborted] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// A request that is being answered. Dropped before [`Ticket::finish`], its caller had left.
#[derive(Debug)]
pub(super) struct Ticket {
    stats: Arc<Stats>,
    finished: bool,
}

impl Ticket {
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.stats.open.fetch_sub(1, Ordering::Relaxed);
        let end = if self.finished { &self.stats.finished } else { &self.stats.aborted };
        end.fetch_add(1, Ordering::Relaxed);
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection(Arc<Stats>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}
