//! Tenants and keys in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};
use crate::store::text::Fit;
use crate::store::{ApiKey, StoreError, StoreResult, Tenant};

/// The tables of this noun.
#[derive(Default)]
pub(super) struct Accounts {
    tenants: BTreeMap<TenantId, Tenant>,
    keys: BTreeMap<KeyId, ApiKey>,
}

impl Accounts {
    fn add_tenant(&mut self, tenant: Tenant, key: ApiKey) -> StoreResult<()> {
        if self.tenants.contains_key(&tenant.id) {
            return Err(StoreError::Exists("this tenant"));
        }
        if self.holds(&key) {
            return Err(StoreError::Exists("this key"));
        }
        self.tenants.insert(tenant.id, tenant);
        self.add_key(key)
    }

    fn holds(&self, key: &ApiKey) -> bool {
        self.keys.contains_key(&key.id) || self.keys.values().any(|kept| kept.hash == key.hash)
    }

    fn add_key(&mut self, key: ApiKey) -> StoreResult<()> {
        if !self.tenants.contains_key(&key.tenant) {
            return Err(StoreError::Refused("the key's tenant is not there".into()));
        }
        if self.holds(&key) {
            return Err(StoreError::Exists("this key"));
        }
        self.keys.insert(key.id, ApiKey { revoked_at: None, ..key });
        Ok(())
    }
}

#[async_trait]
impl crate::store::Accounts for MemoryStore {
    async fn create_first_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<bool> {
        tenant.fit()?;
        key.fit()?;
        let accounts = &mut self.tables().accounts;
        if !accounts.tenants.is_empty() {
            return Ok(false);
        }
        accounts.add_tenant(tenant, key).map(|()| true)
    }

    async fn create_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<()> {
        tenant.fit()?;
        key.fit()?;
        self.tables().accounts.add_tenant(tenant, key)
    }

    async fn list_tenants(&self) -> StoreResult<Vec<Tenant>> {
        Ok(self.tables().accounts.tenants.values().cloned().collect())
    }

    async fn create_key(&self, key: ApiKey) -> StoreResult<()> {
        key.fit()?;
        self.tables().accounts.add_key(key)
    }

    async fn find_key(&self, hash: &str) -> StoreResult<Option<ApiKey>> {
        Ok(self.tables().accounts.keys.values().find(|key| key.hash == hash).cloned())
    }

    async fn list_keys(&self, tenant: TenantId) -> StoreResult<Vec<ApiKey>> {
        Ok(self.tables().accounts.keys.values().filter(|key| key.tenant == tenant).cloned().collect())
    }

    async fn revoke_key(&self, tenant: TenantId, id: KeyId, now: Timestamp) -> StoreResult<bool> {
        let accounts = &mut self.tables().accounts;
        let Some(key) = accounts.keys.get_mut(&id).filter(|key| key.tenant == tenant) else { return Ok(false) };
        key.revoked_at.get_or_insert(now);
        Ok(true)
    }
}
