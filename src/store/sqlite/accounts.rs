//! Tenants and keys on SQLite.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::runs::broken;
use super::{SqliteStore, failed};
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};
use crate::store::accounts::{Accounts, ApiKey, Tenant};
use crate::store::batch::json;
use crate::store::{StoreError, StoreResult};

fn decode(row: &SqliteRow) -> StoreResult<ApiKey> {
    let id: String = row.try_get("id").map_err(failed)?;
    let tenant: String = row.try_get("tenant").map_err(failed)?;
    let scopes: String = row.try_get("scopes").map_err(failed)?;
    let time = |column| row.try_get::<Option<i64>, _>(column).map(|at| at.map(Timestamp::from_millis)).map_err(failed);
    Ok(ApiKey {
        id: KeyId::from_suffix(&id).map_err(|why| broken("api_keys", "id", &id, why))?,
        tenant: TenantId::from_suffix(&tenant).map_err(|why| broken("api_keys", "tenant", &id, why))?,
        name: row.try_get("name").map_err(failed)?,
        hash: row.try_get("hash").map_err(failed)?,
        hint: row.try_get("hint").map_err(failed)?,
        scopes: serde_json::from_str(&scopes).map_err(|why| broken("api_keys", "scopes", &id, why))?,
        created_at: Timestamp::from_millis(row.try_get("created_at").map_err(failed)?),
        expires_at: time("expires_at")?,
        revoked_at: time("revoked_at")?,
    })
}

async fn insert_tenant(connection: &mut SqliteConnection, tenant: Tenant) -> StoreResult<()> {
    sqlx::query("insert into tenants (id, name, created_at) values ($1, $2, $3)")
        .bind(tenant.id.suffix())
        .bind(tenant.name)
        .bind(tenant.created_at.as_millis())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed)
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
        let mut connection = self.writing().await;
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
        let mut connection = self.writing().await;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        insert_tenant(&mut open, tenant).await?;
        insert_key(&mut open, key).await?;
        open.commit().await.map_err(failed)
    }

    async fn list_tenants(&self) -> StoreResult<Vec<Tenant>> {
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("select id, name, created_at from tenants order by id").fetch_all(&self.read).await.map_err(failed)?;
        rows.into_iter()
            .map(|(id, name, at)| {
                let tenant = TenantId::from_suffix(&id).map_err(|why| broken("tenants", "id", &id, why))?;
                Ok(Tenant { id: tenant, name, created_at: Timestamp::from_millis(at) })
            })
            .collect()
    }

    async fn create_key(&self, key: ApiKey) -> StoreResult<()> {
        insert_key(&mut *self.writing().await, key).await
    }

    async fn find_key(&self, hash: &str) -> StoreResult<Option<ApiKey>> {
        let row =
            sqlx::query("select * from api_keys where hash = $1").bind(hash.to_owned()).fetch_optional(&self.read).await.map_err(failed)?;
        row.as_ref().map(decode).transpose()
    }

    async fn list_keys(&self, tenant: TenantId) -> StoreResult<Vec<ApiKey>> {
        let rows = sqlx::query("select * from api_keys where tenant = $1 order by id")
            .bind(tenant.suffix())
            .fetch_all(&self.read)
            .await
            .map_err(failed)?;
        rows.iter().map(decode).collect()
    }

    async fn revoke_key(&self, tenant: TenantId, id: KeyId, now: Timestamp) -> StoreResult<bool> {
        let result = sqlx::query("update api_keys set revoked_at = coalesce(revoked_at, $3) where id = $1 and tenant = $2")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .bind(now.as_millis())
            .execute(&mut *self.writing().await)
            .await
            .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }
}
