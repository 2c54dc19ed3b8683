//! Managed secrets in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::id::{SecretId, TenantId};
use crate::store::text::Fit;
use crate::store::{StoreError, StoreResult, StoredSecret};

/// By tenant and key.
#[derive(Default)]
pub(super) struct Secrets(BTreeMap<(TenantId, String), StoredSecret>);

impl Secrets {
    fn of(&self, tenant: TenantId) -> impl Iterator<Item = &StoredSecret> {
        self.0.iter().filter(move |((owner, _), _)| *owner == tenant).map(|(_, secret)| secret)
    }
}

#[async_trait]
impl crate::store::Secrets for MemoryStore {
    async fn create_secret(&self, tenant: TenantId, secret: StoredSecret) -> StoreResult<()> {
        secret.fit()?;
        let kept = &mut self.tables().secrets.0;
        let place = (tenant, secret.key.clone());
        if kept.contains_key(&place) {
            return Err(StoreError::Exists("a secret with this key"));
        }
        kept.insert(place, secret);
        Ok(())
    }

    async fn update_secret(&self, tenant: TenantId, secret: StoredSecret, expected: u32) -> StoreResult<bool> {
        secret.fit()?;
        let kept = &mut self.tables().secrets.0;
        let found = kept.get_mut(&(tenant, secret.key.clone())).filter(|old| old.id == secret.id && old.version == expected);
        Ok(found.map(|old| *old = StoredSecret { created_at: old.created_at, ..secret }).is_some())
    }

    async fn find_secret(&self, tenant: TenantId, id: SecretId) -> StoreResult<Option<StoredSecret>> {
        Ok(self.tables().secrets.of(tenant).find(|secret| secret.id == id).cloned())
    }

    async fn list_secrets(&self, tenant: TenantId) -> StoreResult<Vec<StoredSecret>> {
        Ok(self.tables().secrets.of(tenant).cloned().collect())
    }

    async fn delete_secret(&self, tenant: TenantId, id: SecretId) -> StoreResult<bool> {
        let kept = &mut self.tables().secrets.0;
        let before = kept.len();
        kept.retain(|(owner, _), secret| *owner != tenant || secret.id != id);
        Ok(kept.len() < before)
    }
}
