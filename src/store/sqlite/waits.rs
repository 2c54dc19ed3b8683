//! Waits and signals on SQLite. Answers go through the group writer.

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{SqliteStore, failed};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId, WaitId};
use crate::model::wait::Wait;
use crate::store::batch::json;
use crate::store::row::wait_columns;
use crate::store::text::Fit;
use crate::store::waits::{MAX_SIGNAL_BYTES, MAX_SIGNALS, Resolve, Resolved, Signal, SignalKey, Waits, is_reserved_signal};
use crate::store::{Rung, StoreError, StoreResult, row};

/// The waits of runs, given as a JSON array of ids.
pub(super) async fn of_runs(connection: &mut SqliteConnection, runs: &str) -> StoreResult<Vec<SqliteRow>> {
    sqlx::query(concat!("select ", wait_columns!(), " from waits w where w.run in (select value from json_each($1)) order by w.id"))
        .bind(runs.to_owned())
        .fetch_all(connection)
        .await
        .map_err(failed)
}

async fn find(connection: &mut SqliteConnection, tenant: TenantId, wait: WaitId) -> StoreResult<Option<Wait>> {
    let row = sqlx::query(concat!("select ", wait_columns!(), " from waits w where w.id = $1 and w.tenant = $2"))
        .bind(wait.suffix())
        .bind(tenant.suffix())
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.as_ref().map(row::wait).transpose()
}

pub(super) async fn explain_resolve(connection: &mut SqliteConnection, answer: &Resolve) -> StoreResult<Resolved> {
    let wait = find(connection, answer.tenant, answer.wait).await?;
    Ok(wait.and_then(|wait| wait.resolution).map_or(Resolved::Closed, Resolved::Before))
}

/// Returns whether a run may store one more signal with a payload of this size; a signal that it has already is always accepted.
async fn has_room(connection: &mut SqliteConnection, run: RunId, signal: &Signal, bytes: usize) -> StoreResult<bool> {
    let (known, signals, kept): (i64, i64, i64) = sqlx::query_as(
        "select coalesce(max(name = $2 and id = $3), 0), count(*), coalesce(sum(octet_length(payload)), 0) from signals \
         where run = $1 and substr(name, 1, 1) <> '$'",
    )
    .bind(run.suffix())
    .bind(signal.name.clone())
    .bind(signal.id.clone())
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    Ok(known > 0 || signals < MAX_SIGNALS as i64 && kept.saturating_add(bytes as i64) <= MAX_SIGNAL_BYTES as i64)
}

#[async_trait]
impl Waits for SqliteStore {
    async fn resolve_waits(&self, answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>> {
        self.writer()?.resolve(answers).await
    }

    async fn run_waits(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<Wait>> {
        let mut connection = self.reading().await?;
        let rows = of_runs(&mut connection, &json(&[run.suffix()])).await?;
        let waits: Vec<Wait> = rows.iter().map(row::wait).collect::<StoreResult<_>>()?;
        Ok(waits.into_iter().filter(|wait| wait.tenant == tenant).collect())
    }

    async fn find_wait(&self, tenant: TenantId, wait: WaitId) -> StoreResult<Option<Wait>> {
        find(&mut *self.reading().await?, tenant, wait).await
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
        .fetch_all(&mut *self.reading().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(row::wait).collect()
    }

    async fn send_signal(&self, tenant: TenantId, run: RunId, signal: Signal, now: Timestamp) -> StoreResult<bool> {
        signal.fit()?;
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let place: Option<i64> = sqlx::query_scalar(
            "update runs set nudges = nudges + 1, wake_at = case when state = 'paused' then min(coalesce(wake_at, $3), $3) else wake_at end \
             where id = $1 and tenant = $2 and state in ('queued', 'running', 'paused') returning nudges",
        )
        .bind(run.suffix())
        .bind(tenant.suffix())
        .bind(now.as_millis())
        .fetch_optional(&mut *open)
        .await
        .map_err(failed)?;
        let Some(place) = place else { return Ok(false) };
        let payload = json(&signal.payload);
        if !is_reserved_signal(&signal.name) && !has_room(&mut open, run, &signal, payload.len()).await? {
            return Err(StoreError::TooManySignals);
        }
        sqlx::query(
            "insert into signals (run, name, id, payload, place, created_at) values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        )
        .bind(run.suffix())
        .bind(signal.name)
        .bind(signal.id)
        .bind(payload)
        .bind(place)
        .bind(now.as_millis())
        .execute(&mut *open)
        .await
        .map_err(failed)?;
        open.commit().await.map_err(failed)?;
        let _ = self.bell.send(Rung::due(run));
        Ok(true)
    }

    async fn list_signals(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<SignalKey>> {
        let list = "select s.name, s.id from signals s join runs r on r.id = s.run where s.run = $1 and r.tenant = $2 order by s.place";
        let keys: Vec<(String, String)> =
            sqlx::query_as(list).bind(run.suffix()).bind(tenant.suffix()).fetch_all(&mut *self.reading().await?).await.map_err(failed)?;
        Ok(keys.into_iter().map(|(name, id)| SignalKey { name, id }).collect())
    }

    async fn find_signal(&self, tenant: TenantId, run: RunId, key: &SignalKey) -> StoreResult<Option<Signal>> {
        let find = "select s.* from signals s join runs r on r.id = s.run where s.run = $1 and r.tenant = $2 and s.name = $3 and s.id = $4";
        let row = sqlx::query(find)
            .bind(run.suffix())
            .bind(tenant.suffix())
            .bind(key.name.clone())
            .bind(key.id.clone())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::signal).transpose()
    }
}
