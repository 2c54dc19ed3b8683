//! Sealed credentials in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::id::TenantId;
use crate::store::text::Fit;
use crate::store::{Credential, StoreResult, Vaults};

/// By tenant and provider.
#[derive(Default)]
pub(super) struct Credentials(BTreeMap<(TenantId, String), Credential>);

#[async_trait]
impl Vaults for MemoryStore {
    async fn put_credential(&self, tenant: TenantId, credential: Credential) -> StoreResult<Credential> {
        credential.fit()?;
        let kept = &mut self.tables().credentials.0;
        let place = (tenant, credential.provider.clone());
        let credential = match kept.get(&place) {
            Some(old) => Credential { id: old.id, created_at: old.created_at, ..credential },
            None => credential,
        };
        kept.insert(place, credential.clone());
        Ok(credential)
    }

    async fn list_credentials(&self, tenant: TenantId) -> StoreResult<Vec<Credential>> {
        let tables = self.tables();
        Ok(tables.credentials.0.iter().filter(|((owner, _), _)| *owner == tenant).map(|(_, credential)| credential.clone()).collect())
    }

    async fn delete_credential(&self, tenant: TenantId, provider: &str) -> StoreResult<bool> {
        Ok(self.tables().credentials.0.remove(&(tenant, provider.to_owned())).is_some())
    }
}
