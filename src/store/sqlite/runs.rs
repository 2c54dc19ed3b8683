//! Runs on SQLite. Creations and commits go through the group writer.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{SqliteStore, failed, waits};
use crate::clock::Timestamp;
use crate::id::{NodeId, RunId, TenantId};
use crate::model::event::Segment;
use crate::model::{Epoch, JournalEntry, Run, RunState, Target};
use crate::store::batch::json;
use crate::store::due_runs::{Shares, due_tenants, is_due, next_wake};
use crate::store::leases::{Claimed, ids};
use crate::store::payload::payload;
use crate::store::row::run_columns;
use crate::store::runs::Runs;
use crate::store::{
    Claim, Commit, Committed, Created, Lease, MAX_CLAIM, NewRun, Renewed, RunFilter, RunSummary, Rung, StoreError, StoreResult, row,
};

const FOUND: &str = concat!(
    "select ",
    run_columns!(),
    ", (select body from blobs where hash = r.flow_hash) as flow from runs r \
     where r.id in (select value from json_each($1)) order by r.wake_at, r.id"
);

pub(super) async fn explain_create(connection: &mut SqliteConnection, new: &NewRun) -> StoreResult<Created> {
    let known =
        sqlx::query("select 1 from runs where id = $1").bind(new.id.suffix()).fetch_optional(&mut *connection).await.map_err(failed)?;
    if known.is_some() {
        // An earlier try of this very call was committed and its answer lost.
        return Ok(Created::New);
    }
    let row = match &new.key {
        None => None,
        Some(key) => sqlx::query("select key, subject, request_hash from idempotency where tenant = $1 and route = $2 and key = $3")
            .bind(new.tenant.suffix())
            .bind(key.route.clone())
            .bind(key.key.clone())
            .fetch_optional(connection)
            .await
            .map_err(failed)?,
    };
    row::duplicate(&row.ok_or_else(|| StoreError::unavailable("the run was not created"))?)
}

pub(super) async fn explain_commit(connection: &mut SqliteConnection, commit: &Commit) -> StoreResult<Committed> {
    let row = sqlx::query("select id, state, epoch, commit_no, nudges from runs where id = $1")
        .bind(commit.run.suffix())
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.map_or(Ok(Committed::Fenced), |row| Ok(row::stand(&row)?.judge(commit)))
}

/// The journals of runs, given as a JSON array of ids.
async fn journals(connection: &mut SqliteConnection, runs: &str) -> StoreResult<Vec<SqliteRow>> {
    sqlx::query(concat!(
        "select j.run, j.key, ",
        payload!("j.outcome"),
        " as outcome from journal j where j.run in (select value from json_each($1)) order by j.run, j.key"
    ))
    .bind(runs.to_owned())
    .fetch_all(connection)
    .await
    .map_err(failed)
}

/// The whole logs of runs, given as a JSON array of ids.
async fn logs(connection: &mut SqliteConnection, runs: &str) -> StoreResult<Vec<SqliteRow>> {
    sqlx::query("select run, rest, body from events where run in (select value from json_each($1)) order by run, last_seq")
        .bind(runs.to_owned())
        .fetch_all(connection)
        .await
        .map_err(failed)
}

/// The runs that a claim takes.
async fn due_ids(open: &mut SqliteConnection, claim: &Claim) -> StoreResult<Vec<String>> {
    let (now, max) = (claim.now.as_millis(), claim.max.min(MAX_CLAIM));
    if let Some(run) = claim.only {
        let except = row::except("tenant", &claim.except);
        let one = format!("select id from runs where id = $2 and {}{except} limit $3", is_due!());
        let query = sqlx::query_scalar(AssertSqlSafe(one)).bind(now).bind(run.suffix()).bind(i64::from(max));
        return query.fetch_all(open).await.map_err(failed);
    }
    if claim.except.is_empty() {
        let oldest = concat!("select id from runs where ", is_due!(), " order by wake_at, id limit $2");
        let ids: Vec<String> = sqlx::query_scalar(oldest).bind(now).bind(i64::from(max) + 1).fetch_all(&mut *open).await.map_err(failed)?;
        if ids.len() <= max as usize {
            return Ok(ids);
        }
    }
    let due: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(due_tenants(&claim.except))).bind(now).fetch_all(&mut *open).await.map_err(failed)?;
    let due = due.iter().filter_map(|tenant| TenantId::from_suffix(tenant).ok()).collect();
    let Shares { tenants, each } = Shares::new(due, claim.after, max as usize);
    let mut ids = Vec::new();
    for tenant in tenants {
        let oldest = concat!("select id from runs where tenant = $2 and ", is_due!(), " order by wake_at, id limit $3");
        let query = sqlx::query_scalar(oldest).bind(now).bind(tenant.suffix()).bind(i64::try_from(each).unwrap_or(i64::MAX));
        let of_tenant: Vec<String> = query.fetch_all(&mut *open).await.map_err(failed)?;
        ids.extend(of_tenant);
    }
    Ok(ids)
}

impl SqliteStore {
    /// Takes the due runs over and returns their rows as they were found.
    async fn take_due(&self, claim: &Claim) -> StoreResult<Vec<SqliteRow>> {
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let due = due_ids(&mut open, claim).await?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let due = json(&due);
        let runs = sqlx::query(FOUND).bind(due.clone()).fetch_all(&mut *open).await.map_err(failed)?;
        sqlx::query(
            "update runs set epoch = epoch + 1, recoveries = recoveries + (state in ('running', 'compensating')), \
                state = case when state = 'compensating' then state else 'running' end, owner = $1, wake_at = $2 \
             where id in (select value from json_each($3))",
        )
        .bind(claim.node.suffix())
        .bind(claim.until.as_millis())
        .bind(due)
        .execute(&mut *open)
        .await
        .map_err(failed)?;
        open.commit().await.map_err(failed)?;
        Ok(runs)
    }
}

#[async_trait]
impl Runs for SqliteStore {
    async fn create_run(&self, new: NewRun) -> StoreResult<Created> {
        self.writer()?.create(new).await
    }

    async fn commit_run(&self, commit: Commit) -> StoreResult<Committed> {
        self.writer()?.commit(commit).await
    }

    async fn claim_runs(&self, claim: Claim) -> StoreResult<Vec<Lease>> {
        let runs = self.take_due(&claim).await?;
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        // Nobody else may commit to these runs now, so the rest is read without holding up the writer.
        let (all, recovered) = ids(&runs)?;
        let (all, recovered) = (json(&all), json(&recovered));
        let mut connection = self.reading().await?;
        let journal = journals(&mut connection, &all).await?;
        let waits = waits::of_runs(&mut connection, &all).await?;
        let log = logs(&mut connection, &recovered).await?;
        Claimed { runs, journal, waits, log }.leases()
    }

    async fn renew_runs(&self, node: NodeId, held: &[(RunId, Epoch)], until: Timestamp) -> StoreResult<Vec<Renewed>> {
        let held: Vec<(String, i64)> = held.iter().map(|(run, epoch)| (run.suffix(), epoch.0)).collect();
        let rows = sqlx::query(
            "update runs set wake_at = $3 from json_each($2) as h \
             where runs.id = h.value->>0 and runs.epoch = h.value->>1 and runs.owner = $1 and runs.state in ('running', 'compensating') \
             returning runs.id, cancel_requested, nudges",
        )
        .bind(node.suffix())
        .bind(json(&held))
        .bind(until.as_millis())
        .fetch_all(&mut *self.writing().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(row::renewed).collect()
    }

    async fn next_wake(&self, except: &[TenantId]) -> StoreResult<Option<Timestamp>> {
        let next = next_wake(except);
        let at: Option<i64> = sqlx::query_scalar(AssertSqlSafe(next)).fetch_one(&mut *self.reading().await?).await.map_err(failed)?;
        Ok(at.map(Timestamp::from_millis))
    }

    async fn request_cancel(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<Option<RunState>> {
        let mut connection = self.writing().await?;
        let asked = sqlx::query(
            "update runs set cancel_requested = 1, nudges = nudges + 1, \
                wake_at = case when state in ('queued', 'paused') then $3 else wake_at end \
             where id = $1 and tenant = $2 and state in ('queued', 'running', 'paused', 'compensating') returning id, state",
        )
        .bind(run.suffix())
        .bind(tenant.suffix())
        .bind(now.as_millis())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
        drop(connection);
        if let Some(asked) = asked {
            let _ = self.bell.send(Rung::due(run));
            return row::state(&asked).map(Some);
        }
        let ended = sqlx::query("select id, state from runs where id = $1 and tenant = $2")
            .bind(run.suffix())
            .bind(tenant.suffix())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        ended.as_ref().map(row::state).transpose()
    }

    async fn find_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<Run>> {
        let row = sqlx::query(concat!("select ", run_columns!(), " from runs r where r.id = $1 and r.tenant = $2"))
            .bind(run.suffix())
            .bind(tenant.suffix())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::run).transpose()
    }

    async fn list_runs(&self, tenant: TenantId, filter: RunFilter) -> StoreResult<Vec<RunSummary>> {
        // A plain condition: an index is of no use to one that may be none.
        let record = if filter.record.is_some() { " and record_id = $8" } else { " and cast($8 as text) is null" };
        let order = if filter.oldest_first { "asc" } else { "desc" };
        let workflows = if filter.workflows { " and substr(flow_id, 1, 3) = 'wf_'" } else { "" };
        let success = row::success(filter.success);
        let rows = sqlx::query(AssertSqlSafe(format!(
            "select id, state, flow_id, flow_name, created_at, finished_at, success, failure, spent from runs \
             where tenant = $1 and (cast($2 as text) is null or state in (select value from json_each($2))) and ($3 is null or flow_id = $3) \
                and ($4 is null or id < $4) and ($5 is null or id > $5){record}{workflows}{success} \
                and (cast($9 as text) is null or flow_name = $9) and (cast($10 as bigint) is null or created_at >= $10) \
                and (cast($11 as bigint) is null or created_at < $11) \
                and (cast($12 as text) is null or api_key = $12) order by id {order} limit $6 offset $7"
        )))
        .bind(tenant.suffix())
        .bind((!filter.states.is_empty()).then(|| json(&RunState::words(&filter.states))))
        .bind(filter.target.and_then(Target::stored))
        .bind(filter.before.map(|id| id.suffix()))
        .bind(filter.after.map(|id| id.suffix()))
        .bind(i64::from(filter.limit))
        .bind(i64::from(filter.offset))
        .bind(filter.record.map(|id| id.suffix()))
        .bind(filter.flow_name)
        .bind(filter.since.map(Timestamp::as_millis))
        .bind(filter.until.map(Timestamp::as_millis))
        .bind(filter.key.map(|id| id.suffix()))
        .fetch_all(&mut *self.reading().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(row::summary).collect()
    }

    async fn flow_of_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<String>> {
        sqlx::query_scalar("select b.body from runs r join blobs b on b.hash = r.flow_hash where r.id = $1 and r.tenant = $2")
            .bind(run.suffix())
            .bind(tenant.suffix())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)
    }

    async fn count_runs(&self, tenant: TenantId) -> StoreResult<Vec<(RunState, u64)>> {
        let rows = sqlx::query("select state, count(*) as count from runs where tenant = $1 group by state order by state")
            .bind(tenant.suffix())
            .fetch_all(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        rows.iter().map(row::run_count).collect()
    }

    async fn read_log(&self, tenant: TenantId, run: RunId, after: Option<u64>, limit: u32) -> StoreResult<Vec<Segment>> {
        let rows = sqlx::query(
            "select run, rest, body from events where run = $1 and last_seq > $2 \
                and exists (select 1 from runs r where r.id = $1 and r.tenant = $4) order by last_seq limit $3",
        )
        .bind(run.suffix())
        .bind(after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX)))
        .bind(i64::from(limit))
        .bind(tenant.suffix())
        .fetch_all(&mut *self.reading().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(row::segment).collect()
    }

    async fn read_journal(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<JournalEntry>> {
        let rows = sqlx::query(concat!(
            "select j.run, j.key, ",
            payload!("j.outcome"),
            " as outcome from journal j join runs r on r.id = j.run where j.run = $1 and r.tenant = $2 order by j.key"
        ))
        .bind(run.suffix())
        .bind(tenant.suffix())
        .fetch_all(&mut *self.reading().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(row::entry).collect()
    }

    async fn stuck_runs(&self, limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        let rows = sqlx::query(
            "select tenant, id from runs r where state in ('queued', 'paused') and wake_at is null \
                and not exists (select 1 from waits w where w.run = r.id and w.state = 'open') order by id limit $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&mut *self.reading().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(row::run_of_tenant).collect()
    }

    async fn wake_run(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<()> {
        let woken = sqlx::query(
            "update runs set nudges = nudges + 1, wake_at = case when state = 'running' then wake_at else $3 end \
             where id = $1 and tenant = $2 and state in ('queued', 'running', 'paused')",
        )
        .bind(run.suffix())
        .bind(tenant.suffix())
        .bind(now.as_millis())
        .execute(&mut *self.writing().await?)
        .await
        .map_err(failed)?;
        if woken.rows_affected() > 0 {
            let _ = self.bell.send(Rung::due(run));
        }
        Ok(())
    }
}
