//! A store that seals what some tenants keep, wrapped around one that stores it.
//!
//! Sealed is what a tenant's people and programs wrote and got: documents and flows, inputs, journals, events, waits and answers, outputs, the texts of
//! errors, payloads, records, secrets. Not sealed is what the database finds rows by, and what operators count: ids, names (of flows, steps, secrets,
//! signals, queues, records), states, times, figures of cost, hashes, and the numbers of vectors.
//!
//! Of a tenant whose key is not here nothing is read or written ([`StoreError::Locked`]) and nothing is claimed: its runs, jobs and timers lie where
//! they are until a process that has the key takes them.
//!
//! Must not know: how a session proves itself; what the sealed texts say.

mod counts;
mod jobs;
mod kept;
mod keys;
mod page_runs;
mod retention;
mod ring;
mod runs;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::{Collection, Kept, Rung, SharedStore, Store, StoreError, StoreResult};
use crate::clock::Clock;
use crate::id::{ApiSessionId, TenantId};
use crate::secret::Vault;
use keys::{Keys, Place, WrappedKey};
use ring::{Lock, Ring, Stored};

pub use ring::Encryption;

/// See the module.
pub struct Sealing {
    inner: SharedStore,
    ring: Ring,
    /// Wraps the keys of tenants that have no wrapping key of their own.
    vault: Vault,
    clock: Clock,
}

/// How a tenant that shall be sealed begins.
#[derive(Debug, Clone, Copy)]
pub enum Founding<'a> {
    /// Its key is made now, under the server's.
    Managed(&'a Vault),
    /// Its key is made when its first session brings a wrapping key.
    ZeroKnowledge,
}

/// Says, before a tenant keeps anything, who shall be able to read it.
pub async fn found(store: &dyn Store, clock: &Clock, tenant: TenantId, founding: Founding<'_>) -> StoreResult<()> {
    let (encryption, keys) = match founding {
        Founding::Managed(vault) => (Encryption::Managed, vec![WrappedKey::new(tenant, vault, clock)?]),
        Founding::ZeroKnowledge => (Encryption::ZeroKnowledge, Vec::new()),
    };
    Collection::of(store, tenant).create(tenant, Stored { encryption, keys }, clock.now()).await.map(drop)
}

/// Returns whether what a tenant keeps is sealed under a key that is itself sealed under the server's key.
pub async fn is_managed(store: &dyn Store, tenant: TenantId) -> StoreResult<bool> {
    let kept: Option<Kept<Stored>> = Collection::of(store, tenant).find(tenant).await?;
    Ok(kept.is_some_and(|kept| kept.body.encryption == Encryption::Managed))
}

impl Sealing {
    /// Wraps a store. `vault`: under the server's key.
    pub fn new(inner: SharedStore, vault: Vault, clock: Clock) -> Self {
        Self { inner, ring: Ring::new(), vault, clock }
    }

    fn all(&self, tenant: TenantId) -> Collection<'_, Stored> {
        Collection::of(&*self.inner, tenant)
    }

    /// Who can read what a tenant keeps.
    pub async fn encryption(&self, tenant: TenantId) -> StoreResult<Encryption> {
        if let Some(known) = self.ring.known(tenant) {
            return Ok(known);
        }
        let found = self.all(tenant).find(tenant).await?.map_or(Encryption::None, |kept| kept.body.encryption);
        self.ring.learn(tenant, found);
        Ok(found)
    }

    /// Holds a tenant's keys in memory for a session, until its time is over. `false`: this is not their wrapping key. The first wrapping key of a
    /// tenant is the one that counts.
    pub async fn unlock(
        &self,
        tenant: TenantId,
        session: ApiSessionId,
        wrapping: &[u8; 32],
        until: crate::clock::Timestamp,
    ) -> StoreResult<bool> {
        let wrapping = Vault::new(*wrapping, self.clock.clone());
        let stored = self.founded(tenant, &wrapping).await?;
        let Some(keys) = Keys::open(tenant, &stored.body.keys, &wrapping, &self.clock) else { return Ok(false) };
        self.ring.hold(tenant, keys, session, until, self.clock.now());
        Ok(true)
    }

    /// A tenant's keys as they are stored; the first one is made now if there is none.
    async fn founded(&self, tenant: TenantId, wrapping: &Vault) -> StoreResult<Kept<Stored>> {
        loop {
            let stored = self.all(tenant).find(tenant).await?.ok_or(StoreError::Locked)?;
            if !stored.body.keys.is_empty() {
                return Ok(stored);
            }
            let first = Stored { keys: vec![WrappedKey::new(tenant, wrapping, &self.clock)?], ..stored.body.clone() };
            if let Some(changed) = self.all(tenant).change(&stored, first, self.clock.now()).await? {
                return Ok(changed);
            }
        }
    }

    /// Wraps a tenant's keys under another wrapping key, and adds one that seals from now on. `false`: `old` is not their wrapping key.
    pub async fn rewrap(&self, tenant: TenantId, old: &[u8; 32], new: &[u8; 32]) -> StoreResult<bool> {
        let (old, new) = (Vault::new(*old, self.clock.clone()), Vault::new(*new, self.clock.clone()));
        loop {
            let stored = self.founded(tenant, &old).await?;
            let Some(keys) = Keys::open(tenant, &stored.body.keys, &old, &self.clock) else { return Ok(false) };
            let next = Stored { keys: keys.rewrap(&new)?, ..stored.body.clone() };
            if self.all(tenant).change(&stored, next, self.clock.now()).await?.is_some() {
                return Ok(true);
            }
        }
    }

    /// Whether this process holds the tenant's keys for a session.
    pub fn holds(&self, tenant: TenantId, session: ApiSessionId) -> bool {
        self.ring.holds(tenant, session)
    }

    /// A session has ended: its tenant's keys are forgotten when no other session and no run needs them.
    pub fn let_go(&self, tenant: TenantId, session: ApiSessionId) {
        self.ring.let_go(tenant, session);
    }

    /// Whether what a tenant keeps cannot be read here now.
    pub async fn is_shut(&self, tenant: TenantId) -> StoreResult<bool> {
        Ok(matches!(self.lock(tenant).await?, Lock::Shut))
    }

    async fn lock(&self, tenant: TenantId) -> StoreResult<Lock> {
        Ok(match self.encryption(tenant).await? {
            Encryption::None => Lock::None,
            Encryption::Managed => Lock::Open(self.managed(tenant).await?),
            Encryption::ZeroKnowledge => self.ring.held(tenant, self.clock.now()).map_or(Lock::Shut, Lock::Open),
        })
    }

    async fn managed(&self, tenant: TenantId) -> StoreResult<Arc<Keys>> {
        if let Some(keys) = self.ring.managed(tenant) {
            return Ok(keys);
        }
        let stored = self.all(tenant).find(tenant).await?.ok_or(StoreError::Locked)?;
        let keys = Keys::open(tenant, &stored.body.keys, &self.vault, &self.clock).ok_or(StoreError::Locked)?;
        let keys = Arc::new(keys);
        self.ring.keep_managed(tenant, keys.clone());
        Ok(keys)
    }

    /// The keys of a tenant; `None`: nothing of it is sealed. `Locked`: they are not here.
    async fn keys(&self, tenant: TenantId) -> StoreResult<Option<Arc<Keys>>> {
        match self.lock(tenant).await? {
            Lock::None => Ok(None),
            Lock::Open(keys) => Ok(Some(keys)),
            Lock::Shut => Err(StoreError::Locked),
        }
    }

    /// Shows what was read of a tenant.
    async fn show_all<T>(&self, tenant: TenantId, mut all: Vec<T>, show: impl Fn(&Keys, &mut T) -> StoreResult<()>) -> StoreResult<Vec<T>> {
        if let Some(keys) = self.keys(tenant).await? {
            all.iter_mut().try_for_each(|one| show(&keys, one))?;
        }
        Ok(all)
    }

    /// Opens one of many things, in whatever way.
    async fn open_one(&self, tenant: TenantId, open: impl FnOnce(&Keys) -> StoreResult<()>) -> StoreResult<StoreResult<()>> {
        Ok(match self.lock(tenant).await? {
            Lock::None => Ok(()),
            Lock::Open(keys) => open(&keys),
            Lock::Shut => Err(StoreError::Locked),
        })
    }

    /// Whether something of a tenant could be opened, among things of many: one that cannot be must not stop the others. What is sealed under a key that
    /// came after those held here makes the tenant one whose key is not here.
    fn is_readable(&self, tenant: TenantId, opened: StoreResult<()>) -> bool {
        match opened {
            Ok(()) => return true,
            Err(StoreError::Locked) => self.ring.drop_keys(tenant),
            Err(error) => tracing::error!(%tenant, %error, "something sealed cannot be opened; it is passed over"),
        }
        false
    }

    /// The tenants whose keys are not here, as far as this process knows, and those that the caller leaves out.
    fn without(&self, except: &[TenantId]) -> Vec<TenantId> {
        let now = self.clock.now();
        let shut = self.ring.shut().into_iter().filter(|tenant| self.ring.held(*tenant, now).is_none());
        shut.chain(except.iter().copied()).collect()
    }
}

#[async_trait]
impl Store for Sealing {
    fn bell(&self) -> broadcast::Receiver<Rung> {
        self.inner.bell()
    }

    async fn ping(&self) -> StoreResult<()> {
        self.inner.ping().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
