//! Managed secrets on SQLite.

use async_trait::async_trait;

use super::{SqliteStore, failed, unless_taken};
use crate::clock::Timestamp;
use crate::id::{SecretId, TenantId};
use crate::store::secrets::{Secrets, StoredSecret};
use crate::store::text::Fit;
use crate::store::{StoreResult, row};

#[async_trait]
impl Secrets for SqliteStore {
    async fn create_secret(&self, tenant: TenantId, secret: StoredSecret) -> StoreResult<()> {
        secret.fit()?;
        sqlx::query(
            "insert into secrets (id, tenant, key, description, sealed, version, rotated_at, created_at, updated_at) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(secret.id.suffix())
        .bind(tenant.suffix())
        .bind(secret.key)
        .bind(secret.description)
        .bind(secret.sealed)
        .bind(i64::from(secret.version))
        .bind(secret.rotated_at.map(Timestamp::as_millis))
        .bind(secret.created_at.as_millis())
        .bind(secret.updated_at.as_millis())
        .execute(&mut *self.writing().await?)
        .await
        .map(drop)
        .map_err(unless_taken("a secret with this key"))
    }

    async fn update_secret(&self, tenant: TenantId, secret: StoredSecret, expected: u32) -> StoreResult<bool> {
        secret.fit()?;
        let result = sqlx::query(
            "update secrets set description = $3, sealed = $4, version = $5, rotated_at = $6, updated_at = $7 \
             where id = $1 and tenant = $2 and version = $8",
        )
        .bind(secret.id.suffix())
        .bind(tenant.suffix())
        .bind(secret.description)
        .bind(secret.sealed)
        .bind(i64::from(secret.version))
        .bind(secret.rotated_at.map(Timestamp::as_millis))
        .bind(secret.updated_at.as_millis())
        .bind(i64::from(expected))
        .execute(&mut *self.writing().await?)
        .await
        .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }

    async fn find_secret(&self, tenant: TenantId, id: SecretId) -> StoreResult<Option<StoredSecret>> {
        let row = sqlx::query("select * from secrets where id = $1 and tenant = $2")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::secret).transpose()
    }

    async fn list_secrets(&self, tenant: TenantId) -> StoreResult<Vec<StoredSecret>> {
        let rows = sqlx::query("select * from secrets where tenant = $1 order by key")
            .bind(tenant.suffix())
            .fetch_all(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        rows.iter().map(row::secret).collect()
    }

    async fn delete_secret(&self, tenant: TenantId, id: SecretId) -> StoreResult<bool> {
        let result = sqlx::query("delete from secrets where id = $1 and tenant = $2")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .execute(&mut *self.writing().await?)
            .await
            .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }
}
