//! Sealed credentials on SQLite.

use async_trait::async_trait;

use super::{SqliteStore, failed};
use crate::id::TenantId;
use crate::store::text::Fit;
use crate::store::vault::{Credential, Vaults};
use crate::store::{StoreResult, row};

#[async_trait]
impl Vaults for SqliteStore {
    async fn put_credential(&self, tenant: TenantId, credential: Credential) -> StoreResult<Credential> {
        credential.fit()?;
        let row = sqlx::query(
            "insert into credentials (id, tenant, provider, sealed, hint, created_at, updated_at) values ($1, $2, $3, $4, $5, $6, $7) \
             on conflict (tenant, provider) do update set sealed = excluded.sealed, hint = excluded.hint, updated_at = excluded.updated_at \
             returning *",
        )
        .bind(credential.id.suffix())
        .bind(tenant.suffix())
        .bind(credential.provider)
        .bind(credential.sealed)
        .bind(credential.hint)
        .bind(credential.created_at.as_millis())
        .bind(credential.updated_at.as_millis())
        .fetch_one(&mut *self.writing().await?)
        .await
        .map_err(failed)?;
        row::credential(&row)
    }

    async fn list_credentials(&self, tenant: TenantId) -> StoreResult<Vec<Credential>> {
        let rows = sqlx::query("select * from credentials where tenant = $1 order by provider")
            .bind(tenant.suffix())
            .fetch_all(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        rows.iter().map(row::credential).collect()
    }

    async fn delete_credential(&self, tenant: TenantId, provider: &str) -> StoreResult<bool> {
        let result = sqlx::query("delete from credentials where tenant = $1 and provider = $2")
            .bind(tenant.suffix())
            .bind(provider.to_owned())
            .execute(&mut *self.writing().await?)
            .await
            .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }
}
