//! Receipts on PostgreSQL.

use async_trait::async_trait;

use super::{PostgresStore, failed, unit};
use crate::clock::Timestamp;
use crate::id::TenantId;
use crate::store::batch::json;
use crate::store::idempotency::{Answer, Begun, Idempotency, Receipt, write_seed};
use crate::store::text::{Fit, is_plain};
use crate::store::{Created, StoreResult, row};

/// Takes a free or expired key. The row is locked either way, so that claims on one key take turns.
const TAKE: &str = "insert into idempotency (tenant, route, key, request_hash, subject, lease_until, expires_at) \
     values ($1, $2, $3, $4, $5, $6, $7) \
     on conflict (tenant, route, key) do update set request_hash = excluded.request_hash, subject = excluded.subject, \
        status = null, body = null, lease_until = excluded.lease_until, expires_at = excluded.expires_at \
     where idempotency.expires_at <= $8";

#[async_trait]
impl Idempotency for PostgresStore {
    async fn begin_receipt(&self, tenant: TenantId, receipt: Receipt, now: Timestamp) -> StoreResult<Begun> {
        receipt.fit()?;
        let pool = self.pool.clone();
        unit(async move {
            let mut open = pool.begin().await.map_err(failed)?;
            let taken = sqlx::query(TAKE)
                .bind(tenant.suffix())
                .bind(&receipt.route)
                .bind(&receipt.key)
                .bind(&receipt.request_hash)
                .bind(write_seed(receipt.seed))
                .bind(receipt.lease_until.as_millis())
                .bind(receipt.expires_at.as_millis())
                .bind(now.as_millis())
                .execute(&mut *open)
                .await
                .map_err(failed)?;
            if taken.rows_affected() > 0 {
                open.commit().await.map_err(failed)?;
                return Ok(Begun::Mine { seed: receipt.seed });
            }
            let row = sqlx::query("select * from idempotency where tenant = $1 and route = $2 and key = $3")
                .bind(tenant.suffix())
                .bind(&receipt.route)
                .bind(&receipt.key)
                .fetch_one(&mut *open)
                .await
                .map_err(failed)?;
            let begun = row::filed(&row)?.judge(&receipt, now)?;
            if let Begun::Mine { .. } = begun {
                sqlx::query("update idempotency set lease_until = $4 where tenant = $1 and route = $2 and key = $3")
                    .bind(tenant.suffix())
                    .bind(&receipt.route)
                    .bind(&receipt.key)
                    .bind(receipt.lease_until.as_millis())
                    .execute(&mut *open)
                    .await
                    .map_err(failed)?;
            }
            open.commit().await.map_err(failed)?;
            Ok(begun)
        })
        .await
    }

    async fn find_created_run(&self, tenant: TenantId, route: &str, key: &str, now: Timestamp) -> StoreResult<Option<Created>> {
        if !is_plain(route) || !is_plain(key) {
            return Ok(None);
        }
        let row = sqlx::query(
            "select i.key, i.subject, i.request_hash from idempotency i join runs r on r.id = i.subject \
             where i.tenant = $1 and i.route = $2 and i.key = $3 and i.expires_at > $4",
        )
        .bind(tenant.suffix())
        .bind(route.to_owned())
        .bind(key.to_owned())
        .bind(now.as_millis())
        .fetch_optional(&self.pool)
        .await
        .map_err(failed)?;
        row.as_ref().map(row::duplicate).transpose()
    }

    async fn file_answer(&self, tenant: TenantId, route: &str, key: &str, answer: Answer) -> StoreResult<()> {
        if !is_plain(route) || !is_plain(key) {
            return Ok(());
        }
        sqlx::query("update idempotency set status = $4, body = $5 where tenant = $1 and route = $2 and key = $3")
            .bind(tenant.suffix())
            .bind(route)
            .bind(key)
            .bind(i64::from(answer.status))
            .bind(json(&answer.body))
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(failed)
    }

    async fn drop_receipt(&self, tenant: TenantId, route: &str, key: &str) -> StoreResult<()> {
        if !is_plain(route) || !is_plain(key) {
            return Ok(());
        }
        sqlx::query("delete from idempotency where tenant = $1 and route = $2 and key = $3 and status is null")
            .bind(tenant.suffix())
            .bind(route)
            .bind(key)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(failed)
    }

    async fn purge_receipts(&self, now: Timestamp) -> StoreResult<u64> {
        sqlx::query("delete from idempotency where expires_at <= $1")
            .bind(now.as_millis())
            .execute(&self.pool)
            .await
            .map(|result| result.rows_affected())
            .map_err(failed)
    }
}
