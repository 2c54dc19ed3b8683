//! Keys that were seen a moment ago, so that a burst of calls asks the store once.
//!
//! Holds only keys that exist: guesses find no place here. Entries live for [`TTL`], which bounds how
//! long a revocation made on another node can go unnoticed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::id::KeyId;
use crate::store::ApiKey;

/// How long an entry is believed.
pub(super) const TTL: Duration = Duration::from_millis(500);
/// Most entries; when full, the cache starts over.
const CAPACITY: usize = 10_000;

#[derive(Default)]
pub(super) struct Cache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    rows: HashMap<String, (Arc<ApiKey>, Instant)>,
    /// Counts the forgettings: a row that was read before one must not be put back after it.
    epoch: u64,
}

impl Cache {
    /// The row with this hash, if it was put less than [`TTL`] before `now`.
    pub fn get(&self, hash: &str, now: Instant) -> Option<Arc<ApiKey>> {
        let inner = self.0.lock();
        let (row, put) = inner.rows.get(hash)?;
        (now.duration_since(*put) < TTL).then(|| row.clone())
    }

    /// To be read before the store is, and given to [`Cache::put`].
    pub fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// Keeps a row that was read at `now`, unless something was forgotten since `epoch`.
    pub fn put(&self, row: Arc<ApiKey>, now: Instant, epoch: u64) {
        let mut inner = self.0.lock();
        if inner.epoch != epoch {
            return;
        }
        if inner.rows.len() >= CAPACITY {
            inner.rows.retain(|_, (_, put)| now.duration_since(*put) < TTL);
        }
        if inner.rows.len() >= CAPACITY {
            inner.rows.clear();
        }
        inner.rows.insert(row.hash.clone(), (row, now));
    }

    /// Forgets a key at once.
    pub fn forget(&self, id: KeyId) {
        let mut inner = self.0.lock();
        inner.epoch += 1;
        inner.rows.retain(|_, (row, _)| row.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::id::TenantId;

    fn row() -> Arc<ApiKey> {
        Arc::new(ApiKey {
            id: KeyId::from_u128(1),
            tenant: TenantId::from_u128(1),
            name: "k".into(),
            hash: "h".into(),
            hint: "h".into(),
            scopes: vec![],
            created_at: Timestamp::from_millis(0),
            expires_at: None,
            revoked_at: None,
        })
    }

    #[test]
    fn entries_age_and_can_be_forgotten() {
        let (cache, now) = (Cache::default(), Clock::system().instant());
        cache.put(row(), now, cache.epoch());
        assert!(cache.get("h", now + TTL / 2).is_some());
        assert!(cache.get("h", now + TTL).is_none());
        cache.forget(KeyId::from_u128(1));
        assert!(cache.get("h", now).is_none());
    }

    #[test]
    fn a_row_read_before_a_revocation_is_not_kept_after_it() {
        let (cache, now) = (Cache::default(), Clock::system().instant());
        let epoch = cache.epoch();
        cache.forget(KeyId::from_u128(1));
        cache.put(row(), now, epoch);
        assert!(cache.get("h", now).is_none());
    }
}
