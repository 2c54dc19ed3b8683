//! The logs of ended runs on SQLite.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::Connection;

use super::{SqliteStore, failed};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::store::logs::{Logs, SmallLog};
use crate::store::{StoreResult, row};

#[async_trait]
impl Logs for SqliteStore {
    async fn bulky_logs(&self, before: Timestamp, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        let except = row::except("tenant", except);
        let bulky = format!(
            "select tenant, id from runs where compacted = 0 and finished_at is not null and finished_at < $1{except} \
             order by finished_at, id limit $2"
        );
        let rows = sqlx::query(AssertSqlSafe(bulky))
            .bind(before.as_millis())
            .bind(i64::from(limit))
            .fetch_all(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        rows.iter().map(row::run_of_tenant).collect()
    }

    async fn shrink_logs(&self, logs: Vec<SmallLog>) -> StoreResult<u64> {
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let mut taken = 0;
        for SmallLog { tenant, run, log } in logs {
            let marked =
                sqlx::query("update runs set compacted = 1 where id = $1 and tenant = $2 and compacted = 0 and finished_at is not null")
                    .bind(run.suffix())
                    .bind(tenant.suffix())
                    .execute(&mut *open)
                    .await
                    .map_err(failed)?
                    .rows_affected();
            taken += marked;
            let Some(log) = log.filter(|_| marked > 0) else { continue };
            sqlx::query("delete from events where run = $1").bind(run.suffix()).execute(&mut *open).await.map_err(failed)?;
            for segment in log {
                sqlx::query("insert into events (run, last_seq, first_seq, rest, body) values ($1, $2, $3, $4, $5)")
                    .bind(run.suffix())
                    .bind(i64::try_from(segment.last()).unwrap_or(i64::MAX))
                    .bind(i64::try_from(segment.first()).unwrap_or(i64::MAX))
                    .bind(segment.rest.as_i64())
                    .bind(segment.encode())
                    .execute(&mut *open)
                    .await
                    .map_err(failed)?;
            }
        }
        open.commit().await.map_err(failed)?;
        Ok(taken)
    }
}
