//! Waits and signals on SQLite. Answers go through the group writer.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::runs::{broken, load};
use super::{SqliteStore, failed};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId, WaitId};
use crate::model::wait::{Wait, WaitKind};
use crate::store::waits::{Resolve, Resolved, Signal, Waits};
use crate::store::{StoreResult, batch::json};

async fn decode(connection: &mut SqliteConnection, row: &SqliteRow) -> StoreResult<Wait> {
    let id: String = row.try_get("id").map_err(failed)?;
    let bad = |column: &'static str, why: &dyn std::fmt::Display| broken("waits", column, &id, why);
    let run: String = row.try_get("run").map_err(failed)?;
    let tenant: String = row.try_get("tenant").map_err(failed)?;
    let kind: String = row.try_get("kind").map_err(failed)?;
    let shown = load(connection, row.try_get("shown").map_err(failed)?).await?;
    let resolution = match row.try_get::<Option<String>, _>("resolution").map_err(failed)? {
        Some(text) => Some(load(connection, text).await?),
        None => None,
    };
    Ok(Wait {
        id: WaitId::from_suffix(&id).map_err(|why| bad("id", &why))?,
        run: RunId::from_suffix(&run).map_err(|why| bad("run", &why))?,
        tenant: TenantId::from_suffix(&tenant).map_err(|why| bad("tenant", &why))?,
        key: row.try_get("key").map_err(failed)?,
        kind: WaitKind::parse(&kind).ok_or_else(|| bad("kind", &"unknown kind"))?,
        name: row.try_get("name").map_err(failed)?,
        shown: serde_json::from_str(&shown).map_err(|why| bad("shown", &why))?,
        digest: row.try_get("digest").map_err(failed)?,
        deadline: row.try_get::<Option<i64>, _>("deadline").map_err(failed)?.map(Timestamp::from_millis),
        created_at: Timestamp::from_millis(row.try_get("created_at").map_err(failed)?),
        resolution: resolution.map(|text| serde_json::from_str(&text)).transpose().map_err(|why| bad("resolution", &why))?,
        resolved_at: row.try_get::<Option<i64>, _>("resolved_at").map_err(failed)?.map(Timestamp::from_millis),
    })
}

async fn decode_all(connection: &mut SqliteConnection, rows: Vec<SqliteRow>) -> StoreResult<Vec<Wait>> {
    let mut waits = Vec::with_capacity(rows.len());
    for row in &rows {
        waits.push(decode(connection, row).await?);
    }
    Ok(waits)
}

pub(super) async fn of_run(connection: &mut SqliteConnection, run: &str) -> StoreResult<Vec<Wait>> {
    let rows = sqlx::query("select * from waits where run = $1 order by id")
        .bind(run.to_owned())
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    decode_all(connection, rows).await
}

pub(super) async fn explain_resolve(connection: &mut SqliteConnection, answer: &Resolve) -> StoreResult<Resolved> {
    let row = sqlx::query("select * from waits where id = $1 and tenant = $2")
        .bind(answer.wait.suffix())
        .bind(answer.tenant.suffix())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(Resolved::Closed) };
    Ok(decode(connection, &row).await?.resolution.map_or(Resolved::Closed, Resolved::Before))
}

#[async_trait]
impl Waits for SqliteStore {
    async fn resolve_waits(&self, answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>> {
        self.writer()?.resolve(answers).await
    }

    async fn run_waits(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<Wait>> {
        let mut connection = self.read.acquire().await.map_err(failed)?;
        let waits = of_run(&mut connection, &run.suffix()).await?;
        Ok(waits.into_iter().filter(|wait| wait.tenant == tenant).collect())
    }

    async fn find_wait(&self, tenant: TenantId, wait: WaitId) -> StoreResult<Option<Wait>> {
        let mut connection = self.read.acquire().await.map_err(failed)?;
        let row = sqlx::query("select * from waits where id = $1 and tenant = $2")
            .bind(wait.suffix())
            .bind(tenant.suffix())
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
        match row {
            Some(row) => decode(&mut connection, &row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn open_waits(&self, tenant: TenantId, after: Option<WaitId>, limit: u32) -> StoreResult<Vec<Wait>> {
        let mut connection = self.read.acquire().await.map_err(failed)?;
        let rows = sqlx::query("select * from waits where tenant = $1 and state = 'open' and ($2 is null or id > $2) order by id limit $3")
            .bind(tenant.suffix())
            .bind(after.map(|id| id.suffix()))
            .bind(i64::from(limit))
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        decode_all(&mut connection, rows).await
    }

    async fn send_signal(&self, tenant: TenantId, run: RunId, signal: Signal, now: Timestamp) -> StoreResult<bool> {
        let mut connection = self.writing().await;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let due = sqlx::query(
            "update runs set nudges = nudges + 1, wake_at = case when state = 'paused' then $3 else wake_at end \
             where id = $1 and tenant = $2 and state in ('queued', 'running', 'paused')",
        )
        .bind(run.suffix())
        .bind(tenant.suffix())
        .bind(now.as_millis())
        .execute(&mut *open)
        .await
        .map_err(failed)?;
        if due.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("insert into signals (run, name, id, payload, created_at) values ($1, $2, $3, $4, $5) on conflict do nothing")
            .bind(run.suffix())
            .bind(signal.name)
            .bind(signal.id)
            .bind(json(&signal.payload))
            .bind(now.as_millis())
            .execute(&mut *open)
            .await
            .map_err(failed)?;
        open.commit().await.map_err(failed)?;
        let _ = self.bell.send(run);
        Ok(true)
    }

    async fn kept_signals(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<Signal>> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "select s.name, s.id, s.payload from signals s join runs r on r.id = s.run \
             where s.run = $1 and r.tenant = $2 order by s.created_at, s.id",
        )
        .bind(run.suffix())
        .bind(tenant.suffix())
        .fetch_all(&self.read)
        .await
        .map_err(failed)?;
        rows.into_iter()
            .map(|(name, id, payload)| {
                let payload = serde_json::from_str(&payload).map_err(|why| broken("signals", "payload", &id, why))?;
                Ok(Signal { name, id, payload })
            })
            .collect()
    }
}
