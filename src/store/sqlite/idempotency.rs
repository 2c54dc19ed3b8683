//! Receipts on SQLite.

use async_trait::async_trait;
use sqlx::Connection;

use super::{SqliteStore, failed};
use crate::clock::Timestamp;
use crate::id::TenantId;
use crate::store::batch::json;
use crate::store::idempotency::{Answer, Begun, Idempotency, Receipt, write_seed};
use crate::store::text::Fit;
use crate::store::{Created, StoreResult, row};

#[async_trait]
impl Idempotency for SqliteStore {
    async fn begin_receipt(&self, tenant: TenantId, receipt: Receipt, now: Timestamp) -> StoreResult<Begun> {
        receipt.fit()?;
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        sqlx::query("delete from idempotency where tenant = $1 and route = $2 and key = $3 and expires_at <= $4")
            .bind(tenant.suffix())
            .bind(receipt.route.clone())
            .bind(receipt.key.clone())
            .bind(now.as_millis())
            .execute(&mut *open)
            .await
            .map_err(failed)?;
        let row = sqlx::query("select * from idempotency where tenant = $1 and route = $2 and key = $3")
            .bind(tenant.suffix())
            .bind(receipt.route.clone())
            .bind(receipt.key.clone())
            .fetch_optional(&mut *open)
            .await
            .map_err(failed)?;
        let begun = match row {
            Some(row) => row::filed(&row)?.judge(&receipt, now)?,
            None => Begun::Mine { seed: receipt.seed },
        };
        let Begun::Mine { seed } = &begun else { return Ok(begun) };
        sqlx::query(
            "insert into idempotency (tenant, route, key, request_hash, subject, lease_until, expires_at) \
             values ($1, $2, $3, $4, $5, $6, $7) on conflict (tenant, route, key) do update set lease_until = excluded.lease_until",
        )
        .bind(tenant.suffix())
        .bind(receipt.route)
        .bind(receipt.key)
        .bind(receipt.request_hash)
        .bind(write_seed(*seed))
        .bind(receipt.lease_until.as_millis())
        .bind(receipt.expires_at.as_millis())
        .execute(&mut *open)
        .await
        .map_err(failed)?;
        open.commit().await.map_err(failed)?;
        Ok(begun)
    }

    async fn find_created_run(&self, tenant: TenantId, route: &str, key: &str, now: Timestamp) -> StoreResult<Option<Created>> {
        let row = sqlx::query(
            "select i.key, i.subject, i.request_hash from idempotency i join runs r on r.id = i.subject \
             where i.tenant = $1 and i.route = $2 and i.key = $3 and i.expires_at > $4",
        )
        .bind(tenant.suffix())
        .bind(route.to_owned())
        .bind(key.to_owned())
        .bind(now.as_millis())
        .fetch_optional(&mut *self.reading().await?)
        .await
        .map_err(failed)?;
        row.as_ref().map(row::duplicate).transpose()
    }

    async fn file_answer(&self, tenant: TenantId, route: &str, key: &str, answer: Answer) -> StoreResult<()> {
        sqlx::query("update idempotency set status = $4, body = $5 where tenant = $1 and route = $2 and key = $3")
            .bind(tenant.suffix())
            .bind(route.to_owned())
            .bind(key.to_owned())
            .bind(i64::from(answer.status))
            .bind(json(&answer.body))
            .execute(&mut *self.writing().await?)
            .await
            .map(drop)
            .map_err(failed)
    }

    async fn drop_receipt(&self, tenant: TenantId, route: &str, key: &str) -> StoreResult<()> {
        sqlx::query("delete from idempotency where tenant = $1 and route = $2 and key = $3 and status is null")
            .bind(tenant.suffix())
            .bind(route.to_owned())
            .bind(key.to_owned())
            .execute(&mut *self.writing().await?)
            .await
            .map(drop)
            .map_err(failed)
    }

    async fn purge_receipts(&self, now: Timestamp) -> StoreResult<u64> {
        sqlx::query("delete from idempotency where expires_at <= $1")
            .bind(now.as_millis())
            .execute(&mut *self.writing().await?)
            .await
            .map(|result| result.rows_affected())
            .map_err(failed)
    }
}
