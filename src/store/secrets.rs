//! Managed secrets: the store sees sealed bytes only.

use async_trait::async_trait;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{SecretId, TenantId};

/// A value that flows name as `{{secret:KEY}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSecret {
    pub id: SecretId,
    pub key: String,
    pub description: Option<String>,
    /// None as long as nobody has given the value.
    pub sealed: Option<Vec<u8>>,
    /// How often the value was given.
    pub version: u32,
    pub rotated_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The store of managed secrets.
#[async_trait]
pub trait Secrets {
    /// Keeps a new secret. A key is unique in a tenant: `Exists("a secret with this key")`.
    async fn create_secret(&self, tenant: TenantId, secret: StoredSecret) -> StoreResult<()>;

    /// Replaces description and value, if the secret is still at version `expected`. `false`: it is gone, or it moved on.
    async fn update_secret(&self, tenant: TenantId, secret: StoredSecret, expected: u32) -> StoreResult<bool>;

    async fn find_secret(&self, tenant: TenantId, id: SecretId) -> StoreResult<Option<StoredSecret>>;

    /// All of a tenant's, by key.
    async fn list_secrets(&self, tenant: TenantId) -> StoreResult<Vec<StoredSecret>>;

    /// Deletes; whether it was there.
    async fn delete_secret(&self, tenant: TenantId, id: SecretId) -> StoreResult<bool>;
}
