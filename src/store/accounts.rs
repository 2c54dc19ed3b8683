//! Tenants and their API keys.

use async_trait::async_trait;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};

/// The owner of everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub created_at: Timestamp,
}

/// An API key's row. The key itself is not stored, only its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: KeyId,
    pub tenant: TenantId,
    pub name: String,
    /// SHA-256 of the key, lowercase hex. Keys are 256 random bits, so no slow hash is needed.
    pub hash: String,
    /// The first characters, for people to tell keys apart.
    pub hint: String,
    pub scopes: Vec<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// The store of tenants and keys.
#[async_trait]
pub trait Accounts {
    /// Creates a tenant with its first key, if the database has no tenant yet. Whether it did.
    async fn create_first_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<bool>;

    /// Creates one more tenant with a key.
    async fn create_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<()>;

    /// Every tenant, oldest first; for the operator's command line only.
    async fn list_tenants(&self) -> StoreResult<Vec<Tenant>>;

    async fn create_key(&self, key: ApiKey) -> StoreResult<()>;

    /// The key with this hash, of whichever tenant; revoked and expired ones too.
    async fn find_key(&self, hash: &str) -> StoreResult<Option<ApiKey>>;

    async fn list_keys(&self, tenant: TenantId) -> StoreResult<Vec<ApiKey>>;

    /// Revokes a key; whether it was there. Revoking twice keeps the first time.
    async fn revoke_key(&self, tenant: TenantId, id: KeyId, now: Timestamp) -> StoreResult<bool>;
}
