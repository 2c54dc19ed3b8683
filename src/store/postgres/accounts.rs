//! Tenants and keys on PostgreSQL.

use async_trait::async_trait;
use sqlx::PgExecutor;

use super::{PostgresStore, failed, unit, unless_taken};
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};
use crate::store::accounts::{Accounts, ApiKey, Tenant};
use crate::store::batch::json;
use crate::store::text::{Fit, is_plain};
use crate::store::{StoreError, StoreResult, row};

/// Both rows in one statement.
async fn insert_tenant(database: impl PgExecutor<'_>, tenant: Tenant, key: ApiKey) -> StoreResult<()> {
    sqlx::query(
        "with new as (insert into tenants (id, name, created_at) values ($1, $2, $3) returning id) \
         insert into api_keys (id, tenant, name, hash, hint, scopes, created_at, expires_at) \
         select $4, new.id, $5, $6, $7, $8, $9, $10 from new",
    )
    .bind(tenant.id.suffix())
    .bind(tenant.name)
    .bind(tenant.created_at.as_millis())
    .bind(key.id.suffix())
    .bind(key.name)
    .bind(key.hash)
    .bind(key.hint)
    .bind(json(&key.scopes))
    .bind(key.created_at.as_millis())
    .bind(key.expires_at.map(Timestamp::as_millis))
    .execute(database)
    .await
    .map(drop)
    .map_err(unless_taken("this tenant or key"))
}

#[async_trait]
impl Accounts for PostgresStore {
    async fn create_first_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<bool> {
        tenant.fit()?;
        key.fit()?;
        let pool = self.pool.clone();
        unit(async move {
            let mut open = pool.begin().await.map_err(failed)?;
            // Nodes that start together must not each find the table empty.
            sqlx::query("lock table tenants in share row exclusive mode").execute(&mut *open).await.map_err(failed)?;
            let taken: bool = sqlx::query_scalar("select exists (select 1 from tenants)").fetch_one(&mut *open).await.map_err(failed)?;
            if taken {
                return Ok(false);
            }
            insert_tenant(&mut *open, tenant, key).await?;
            open.commit().await.map_err(failed)?;
            Ok(true)
        })
        .await
    }

    async fn create_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<()> {
        tenant.fit()?;
        key.fit()?;
        insert_tenant(&self.pool, tenant, key).await
    }

    async fn list_tenants(&self) -> StoreResult<Vec<Tenant>> {
        let rows = sqlx::query("select * from tenants order by id").fetch_all(&self.pool).await.map_err(failed)?;
        rows.iter().map(row::tenant).collect()
    }

    async fn create_key(&self, key: ApiKey) -> StoreResult<()> {
        key.fit()?;
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
        .execute(&self.pool)
        .await
        .map_err(failed)?;
        if result.rows_affected() == 0 { Err(StoreError::Exists("this key")) } else { Ok(()) }
    }

    async fn find_key(&self, hash: &str) -> StoreResult<Option<ApiKey>> {
        if !is_plain(hash) {
            return Ok(None);
        }
        let row = sqlx::query("select * from api_keys where hash = $1").bind(hash).fetch_optional(&self.pool).await.map_err(failed)?;
        row.as_ref().map(row::key).transpose()
    }

    async fn list_keys(&self, tenant: TenantId) -> StoreResult<Vec<ApiKey>> {
        let rows = sqlx::query("select * from api_keys where tenant = $1 order by id")
            .bind(tenant.suffix())
            .fetch_all(&self.pool)
            .await
            .map_err(failed)?;
        rows.iter().map(row::key).collect()
    }

    async fn revoke_key(&self, tenant: TenantId, id: KeyId, now: Timestamp) -> StoreResult<bool> {
        let result = sqlx::query("update api_keys set revoked_at = coalesce(revoked_at, $3) where id = $1 and tenant = $2")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .bind(now.as_millis())
            .execute(&self.pool)
            .await
            .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }
}
