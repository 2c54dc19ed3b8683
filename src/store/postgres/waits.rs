//! Waits and signals on PostgreSQL. Answers go through the group writer.

use async_trait::async_trait;
use sqlx::PgExecutor;
use sqlx::postgres::{PgPool, PgRow};

use super::{PostgresStore, failed};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId, WaitId};
use crate::model::wait::Wait;
use crate::store::batch::json;
use crate::store::row::wait_columns;
use crate::store::text::Fit;
use crate::store::waits::{MAX_SIGNAL_BYTES, MAX_SIGNALS, Resolve, Resolved, Signal, SignalKey, Waits};
use crate::store::{Rung, StoreError, StoreResult, row};

pub(super) async fn of_runs(pool: &PgPool, runs: &[String]) -> StoreResult<Vec<PgRow>> {
    sqlx::query(concat!("select ", wait_columns!(), " from waits w where w.run = any($1) order by w.id"))
        .bind(runs)
        .fetch_all(pool)
        .await
        .map_err(failed)
}

pub(super) async fn find(database: impl PgExecutor<'_>, tenant: TenantId, wait: WaitId) -> StoreResult<Option<Wait>> {
    let row = sqlx::query(concat!("select ", wait_columns!(), " from waits w where w.id = $1 and w.tenant = $2"))
        .bind(wait.suffix())
        .bind(tenant.suffix())
        .fetch_optional(database)
        .await
        .map_err(failed)?;
    row.as_ref().map(row::wait).transpose()
}

#[async_trait]
impl Waits for PostgresStore {
    async fn resolve_waits(&self, answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>> {
        self.writer()?.resolve(answers).await
    }

    async fn run_waits(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<Wait>> {
        let rows = of_runs(&self.pool, &[run.suffix()]).await?;
        let waits: Vec<Wait> = rows.iter().map(row::wait).collect::<StoreResult<_>>()?;
        Ok(waits.into_iter().filter(|wait| wait.tenant == tenant).collect())
    }

    async fn find_wait(&self, tenant: TenantId, wait: WaitId) -> StoreResult<Option<Wait>> {
        find(&self.pool, tenant, wait).await
    }

    async fn open_waits(&self, tenant: TenantId, after: Option<WaitId>, limit: u32) -> StoreResult<Vec<Wait>> {
        let rows = sqlx::query(concat!(
            "select ",
            wait_columns!(),
            " from waits w where w.tenant = $1 and w.state = 'open' and ($2 is null or w.id > $2) order by w.id limit $3"
        ))
        .bind(tenant.suffix())
        .bind(after.map(|id| id.suffix()))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(failed)?;
        rows.iter().map(row::wait).collect()
    }

    async fn send_signal(&self, tenant: TenantId, run: RunId, signal: Signal, now: Timestamp) -> StoreResult<bool> {
        signal.fit()?;
        let payload = json(&signal.payload);
        let bytes = payload.len() as i64;
        // Concurrent signals do not count each other, so a run may exceed its limit by as many signals as there are connections.
        let (kept, is_full): (i64, bool) = sqlx::query_as(
            "with held as ( \
                select count(*) as number, coalesce(sum(octet_length(payload)), 0) as bytes, coalesce(bool_or(name = $4 and id = $5), false) as known \
                from signals where run = $1 and left(name, 1) <> '$'), \
             room as (select known or left($4, 1) = '$' or (number < $7 and bytes + $8 <= $9) as free from held), \
             due as ( \
                update runs set nudges = nudges + 1, \
                    wake_at = case when state = 'paused' then least(coalesce(wake_at, $3), $3) else wake_at end \
                where id = $1 and tenant = $2 and state in ('queued', 'running', 'paused') and (select free from room) \
                returning id, nudges, dispatch_ring(array[id])), \
             kept as ( \
                insert into signals (run, name, id, payload, place, created_at) select due.id, $4, $5, $6, due.nudges, $3 from due \
                on conflict do nothing) \
             select (select count(*) from due), not (select free from room) and exists ( \
                select 1 from runs where id = $1 and tenant = $2 and state in ('queued', 'running', 'paused'))",
        )
        .bind(run.suffix())
        .bind(tenant.suffix())
        .bind(now.as_millis())
        .bind(signal.name)
        .bind(signal.id)
        .bind(payload)
        .bind(MAX_SIGNALS as i64)
        .bind(bytes)
        .bind(MAX_SIGNAL_BYTES as i64)
        .fetch_one(&self.pool)
        .await
        .map_err(failed)?;
        if is_full {
            return Err(StoreError::TooManySignals);
        }
        if kept > 0 {
            let _ = self.bell.send(Rung::due(run));
        }
        Ok(kept > 0)
    }

    async fn list_signals(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<SignalKey>> {
        let list = "select s.name, s.id from signals s join runs r on r.id = s.run where s.run = $1 and r.tenant = $2 order by s.place";
        let keys: Vec<(String, String)> =
            sqlx::query_as(list).bind(run.suffix()).bind(tenant.suffix()).fetch_all(&self.pool).await.map_err(failed)?;
        Ok(keys.into_iter().map(|(name, id)| SignalKey { name, id }).collect())
    }

    async fn find_signal(&self, tenant: TenantId, run: RunId, key: &SignalKey) -> StoreResult<Option<Signal>> {
        let find = "select s.* from signals s join runs r on r.id = s.run where s.run = $1 and r.tenant = $2 and s.name = $3 and s.id = $4";
        let row = sqlx::query(find)
            .bind(run.suffix())
            .bind(tenant.suffix())
            .bind(key.name.clone())
            .bind(key.id.clone())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::signal).transpose()
    }
}
