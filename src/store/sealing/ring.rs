//! Which tenants are sealed, and whose keys this process holds.
//!
//! Keys are in memory only, for as long as somebody needs them: a session until its end, a run that began here until it has ended, a day at most.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::keys::{Keys, WrappedKey};
use crate::clock::Timestamp;
use crate::id::{ApiSessionId, RunId, TenantId};
use crate::store::Document;

/// Tenants that are known to be sealed or not.
const KNOWN: u64 = 100_000;
/// How long a run holds its tenant's key.
const RUN_HOLDS: Duration = Duration::from_secs(24 * 3_600);

/// Who can read what a tenant keeps. Chosen when the tenant is made, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TenantEncryption")]
pub enum Encryption {
    /// Whoever reads the database; secrets are sealed under the server's key.
    #[default]
    None,
    /// Whoever has the database and the server's key.
    Managed,
    /// Whoever has the tenant's own key, which this server has in memory while a session or a run needs it.
    ZeroKnowledge,
}

/// How a sealed tenant's keys are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    pub encryption: Encryption,
    /// Oldest first; none before the first session of a tenant with a key of its own.
    pub keys: Vec<WrappedKey>,
}

impl Document for Stored {
    const KIND: &'static str = "tenant_keys";
    const TAKEN: &'static str = "the tenant's keys";
    type Id = TenantId;
}

/// A tenant, to this process, now.
#[derive(Debug, Clone)]
pub(super) enum Lock {
    /// Nothing is sealed.
    None,
    Open(Arc<Keys>),
    /// The key is not here.
    Shut,
}

#[derive(Debug)]
struct Held {
    keys: Arc<Keys>,
    sessions: HashMap<ApiSessionId, Timestamp>,
    runs: HashMap<RunId, Timestamp>,
}

impl Held {
    fn is_needed(&self, now: Timestamp) -> bool {
        self.sessions.values().chain(self.runs.values()).any(|until| *until > now)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    known: Cache<TenantId, Encryption>,
    held: Mutex<HashMap<TenantId, Held>>,
    /// Keys under the server's key.
    managed: Cache<TenantId, Arc<Keys>>,
    /// Tenants that were found shut: a claim leaves them out.
    shut: Mutex<std::collections::BTreeSet<TenantId>>,
}

impl Ring {
    pub fn new() -> Self {
        Self { known: Cache::new(KNOWN), held: Mutex::default(), managed: Cache::new(KNOWN), shut: Mutex::default() }
    }

    pub fn known(&self, tenant: TenantId) -> Option<Encryption> {
        self.known.get(&tenant)
    }

    pub fn learn(&self, tenant: TenantId, encryption: Encryption) {
        self.known.insert(tenant, encryption);
    }

    pub fn managed(&self, tenant: TenantId) -> Option<Arc<Keys>> {
        self.managed.get(&tenant)
    }

    pub fn keep_managed(&self, tenant: TenantId, keys: Arc<Keys>) {
        self.managed.insert(tenant, keys);
    }

    /// The keys of a tenant with a key of its own. Those that nobody needs any more are forgotten now.
    pub fn held(&self, tenant: TenantId, now: Timestamp) -> Option<Arc<Keys>> {
        let mut held = self.held.lock();
        if held.get(&tenant).is_some_and(|held| !held.is_needed(now)) {
            held.remove(&tenant);
        }
        let found = held.get(&tenant).map(|held| held.keys.clone());
        drop(held);
        if found.is_none() {
            self.shut.lock().insert(tenant);
        }
        found
    }

    /// Tenants that were found shut.
    pub fn shut(&self) -> Vec<TenantId> {
        self.shut.lock().iter().copied().collect()
    }

    pub fn holds(&self, tenant: TenantId, session: ApiSessionId) -> bool {
        self.held.lock().get(&tenant).is_some_and(|held| held.sessions.contains_key(&session))
    }

    /// Holds a tenant's keys for a session.
    pub fn hold(&self, tenant: TenantId, keys: Keys, session: ApiSessionId, until: Timestamp, now: Timestamp) {
        let keys = Arc::new(keys);
        let mut all = self.held.lock();
        let held = all.entry(tenant).or_insert_with(|| Held { keys: keys.clone(), sessions: HashMap::new(), runs: HashMap::new() });
        held.keys = keys;
        held.sessions.retain(|_, until| *until > now);
        held.runs.retain(|_, until| *until > now);
        held.sessions.insert(session, until);
        drop(all);
        self.shut.lock().remove(&tenant);
    }

    /// The keys of a tenant are of no use any more.
    pub fn drop_keys(&self, tenant: TenantId) {
        self.held.lock().remove(&tenant);
        self.shut.lock().insert(tenant);
    }

    /// A session ends; its runs go on.
    pub fn let_go(&self, tenant: TenantId, session: ApiSessionId) {
        if let Some(held) = self.held.lock().get_mut(&tenant) {
            held.sessions.remove(&session);
        }
    }

    /// A run of a tenant whose keys are held needs them from now on.
    pub fn run_begins(&self, tenant: TenantId, run: RunId, now: Timestamp) {
        if let Some(held) = self.held.lock().get_mut(&tenant) {
            held.runs.entry(run).or_insert_with(|| now.after(RUN_HOLDS));
        }
    }

    pub fn run_ends(&self, tenant: TenantId, run: RunId) {
        if let Some(held) = self.held.lock().get_mut(&tenant) {
            held.runs.remove(&run);
        }
    }
}
