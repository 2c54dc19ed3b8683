//! Tenants and keys on SQLite.

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::{SqliteStore, failed, unless_taken};
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};
use crate::store::accounts::{Accounts, ApiKey, Tenant};
use crate::store::batch::json;
use crate::store::text::Fit;
use crate::store::{StoreError, StoreResult, row};

async fn insert_tenant(connection: &mut SqliteConnection, tenant: Tenant) -> StoreResult<()> {
    sqlx::query("insert into tenants (id, name, created_at) values ($1, $2, $3)")
        .bind(tenant.id.suffix())
        .bind(tenant.name)
        .bind(tenant.created_at.as_millis())
        .execute(connection)
        .await
        .map(drop)
        .map_err(unless_taken("this tenant"))
}

async fn insert_key(connection: &mut SqliteConnection, key: ApiKey) -> StoreResult<()> {
    let result = sqlx::query(
        "insert into api_keys (id, tenant, name, hash, hint, scopes, created_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8) \
         on conflict do nothing",
    )
    .bind(key.id.suffix())
    .bind(key.tenant.suffix())
    .bind(key.name)
    .bind(key.hash)
    .bind(key.hint)
    .bind(json(&key.scopes))
    .bind(key.created_at.as_millis())
    .bind(key.expires_at.map(Timestamp::as_millis))
    .execute(connection)
    .await
    .map_err(failed)?;
    if result.rows_affected() == 0 { Err(StoreError::Exists("this key")) } else { Ok(()) }
}

#[async_trait]
impl Accounts for SqliteStore {
    async fn create_first_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<bool> {
        tenant.fit()?;
        key.fit()?;
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let taken: i64 = sqlx::query_scalar("select exists (select 1 from tenants)").fetch_one(&mut *open).await.map_err(failed)?;
        if taken != 0 {
            return Ok(false);
        }
        insert_tenant(&mut open, tenant).await?;
        insert_key(&mut open, key).await?;
        open.commit().await.map_err(failed)?;
        Ok(true)
    }

    async fn create_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<()> {
        tenant.fit()?;
        key.fit()?;
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        insert_tenant(&mut open, tenant).await?;
        insert_key(&mut open, key).await?;
        open.commit().await.map_err(failed)
    }

    async fn list_tenants(&self) -> StoreResult<Vec<Tenant>> {
        let rows = sqlx::query("select * from tenants order by id").fetch_all(&mut *self.reading().await?).await.map_err(failed)?;
        rows.iter().map(row::tenant).collect()
    }

    async fn create_key(&self, key: ApiKey) -> StoreResult<()> {
        key.fit()?;
        insert_key(&mut *self.writing().await?, key).await
    }

    async fn find_key(&self, hash: &str) -> StoreResult<Option<ApiKey>> {
        let row = sqlx::query("select * from api_keys where hash = $1")
            .bind(hash.to_owned())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::key).transpose()
    }

    async fn list_keys(&self, tenant: TenantId) -> StoreResult<Vec<ApiKey>> {
        let rows = sqlx::query("select * from api_keys where tenant = $1 order by id")
            .bind(tenant.suffix())
            .fetch_all(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        rows.iter().map(row::key).collect()
    }

    async fn revoke_key(&self, tenant: TenantId, id: KeyId, now: Timestamp) -> StoreResult<bool> {
        let result = sqlx::query("update api_keys set revoked_at = coalesce(revoked_at, $3) where id = $1 and tenant = $2")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .bind(now.as_millis())
            .execute(&mut *self.writing().await?)
            .await
            .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }
}
