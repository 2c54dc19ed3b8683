//! Sealed credentials: the store sees sealed bytes only.

use async_trait::async_trait;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{CredentialId, TenantId};

/// A provider's key of one tenant, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub id: CredentialId,
    /// The provider's name in the catalogue.
    pub provider: String,
    pub sealed: Vec<u8>,
    /// The last characters, for people to tell keys apart.
    pub hint: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The store of credentials. One per provider and tenant.
#[async_trait]
pub trait Vaults {
    /// Creates or replaces the tenant's credential for its provider; an existing one keeps its id.
    async fn put_credential(&self, tenant: TenantId, credential: Credential) -> StoreResult<Credential>;

    async fn list_credentials(&self, tenant: TenantId) -> StoreResult<Vec<Credential>>;

    /// Deletes; whether it was there.
    async fn delete_credential(&self, tenant: TenantId, provider: &str) -> StoreResult<bool>;
}
