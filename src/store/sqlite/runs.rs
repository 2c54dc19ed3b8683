//! Runs on SQLite. Creations and commits go through the group writer.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::{SqliteStore, failed, waits};
use crate::clock::Timestamp;
use crate::id::{FlowId, NodeId, RunId, TenantId, WaitId};
use crate::model::event::{Rest, Segment};
use crate::model::run::Parent;
use crate::model::{Epoch, JournalEntry, Run, RunState};
use crate::store::batch::json;
use crate::store::payload::reference;
use crate::store::runs::Runs;
use crate::store::{Claim, Commit, Committed, Created, Lease, MAX_CLAIM, NewRun, Renewed, RunFilter, RunSummary, StoreError, StoreResult};

const COLUMNS: &str = "id, tenant, state, flow_hash, flow_id, flow_name, input, sealed, parent_run, parent_wait, epoch, commit_no, \
    nudges, reserved, cancel_requested, recoveries, wake_at, created_at, finished_at, output, failure, spent";

/// Reads one column, naming it when it is broken.
pub(in crate::store) fn broken(table: &'static str, column: &'static str, row: &str, why: impl ToString) -> StoreError {
    StoreError::Broken { table, column, row: row.to_owned(), why: why.to_string() }
}

/// The text itself, or what it refers to.
pub(super) async fn load(connection: &mut SqliteConnection, text: String) -> StoreResult<String> {
    match reference(&text) {
        None => Ok(text),
        Some(hash) => sqlx::query_scalar("select body from blobs where hash = $1")
            .bind(hash.to_owned())
            .fetch_optional(connection)
            .await
            .map_err(failed)?
            .ok_or_else(|| broken("blobs", "body", hash, "missing")),
    }
}

async fn decode_run(connection: &mut SqliteConnection, row: &SqliteRow) -> StoreResult<Run> {
    let id: String = row.try_get("id").map_err(failed)?;
    let bad = |column: &'static str| {
        let id = id.clone();
        move |why: &dyn std::fmt::Display| broken("runs", column, &id, why)
    };
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(failed);
    let optional = |column: &'static str| row.try_get::<Option<String>, _>(column).map_err(failed);
    let number = |column: &'static str| row.try_get::<i64, _>(column).map_err(failed);
    let time = |column: &'static str| row.try_get::<Option<i64>, _>(column).map(|at| at.map(Timestamp::from_millis)).map_err(failed);
    let input = load(&mut *connection, text("input")?).await?;
    let output = match optional("output")? {
        Some(output) => Some(load(&mut *connection, output).await?),
        None => None,
    };
    let parent = match (optional("parent_run")?, optional("parent_wait")?) {
        (Some(run), Some(wait)) => Some(Parent {
            run: RunId::from_suffix(&run).map_err(|why| bad("parent_run")(&why))?,
            wait: WaitId::from_suffix(&wait).map_err(|why| bad("parent_wait")(&why))?,
        }),
        _ => None,
    };
    let flow_id = optional("flow_id")?.map(|flow| FlowId::from_suffix(&flow)).transpose().map_err(|why| bad("flow_id")(&why))?;
    Ok(Run {
        id: RunId::from_suffix(&id).map_err(|why| bad("id")(&why))?,
        tenant: TenantId::from_suffix(&text("tenant")?).map_err(|why| bad("tenant")(&why))?,
        state: RunState::parse(&text("state")?).ok_or_else(|| bad("state")(&"unknown state"))?,
        flow_hash: text("flow_hash")?,
        flow_id,
        flow_name: text("flow_name")?,
        input: serde_json::from_str(&input).map_err(|why| bad("input")(&why))?,
        sealed: row.try_get("sealed").map_err(failed)?,
        parent,
        epoch: Epoch(number("epoch")?),
        commit: number("commit_no")?,
        nudges: number("nudges")?,
        reserved: u64::try_from(number("reserved")?).map_err(|why| bad("reserved")(&why))?,
        cancel_requested: number("cancel_requested")? != 0,
        recoveries: u32::try_from(number("recoveries")?).map_err(|why| bad("recoveries")(&why))?,
        wake_at: time("wake_at")?,
        created_at: Timestamp::from_millis(number("created_at")?),
        finished_at: time("finished_at")?,
        output: output.map(|output| serde_json::from_str(&output)).transpose().map_err(|why| bad("output")(&why))?,
        failure: optional("failure")?.map(|text| serde_json::from_str(&text)).transpose().map_err(|why| bad("failure")(&why))?,
        spent: serde_json::from_str(&text("spent")?).map_err(|why| bad("spent")(&why))?,
    })
}

pub(super) async fn explain_create(connection: &mut SqliteConnection, new: &NewRun) -> StoreResult<Created> {
    let known: Option<i64> = sqlx::query_scalar("select 1 from runs where id = $1")
        .bind(new.id.suffix())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    if known.is_some() {
        // An earlier try of this very call was committed and its answer lost.
        return Ok(Created::New);
    }
    let Some(key) = &new.key else {
        return Err(StoreError::unavailable("the run was not created"));
    };
    let row: Option<(String, String)> =
        sqlx::query_as("select subject, request_hash from idempotency where tenant = $1 and route = $2 and key = $3")
            .bind(new.tenant.suffix())
            .bind(key.route.clone())
            .bind(key.key.clone())
            .fetch_optional(connection)
            .await
            .map_err(failed)?;
    let (subject, request_hash) = row.ok_or_else(|| StoreError::unavailable("the run was not created"))?;
    let run = RunId::from_suffix(&subject).map_err(|why| broken("idempotency", "subject", &key.key, why))?;
    Ok(Created::Duplicate { run, request_hash })
}

async fn journal(connection: &mut SqliteConnection, run: &str) -> StoreResult<Vec<JournalEntry>> {
    let rows: Vec<(String, String)> = sqlx::query_as("select key, outcome from journal where run = $1 order by key")
        .bind(run.to_owned())
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let mut entries = Vec::with_capacity(rows.len());
    for (key, outcome) in rows {
        let text = load(&mut *connection, outcome).await?;
        let outcome = serde_json::from_str(&text).map_err(|why| broken("journal", "outcome", &format!("{run} {key}"), why))?;
        entries.push(JournalEntry { key, outcome });
    }
    Ok(entries)
}

async fn log(connection: &mut SqliteConnection, run: &str, after: Option<u64>, limit: u32) -> StoreResult<Vec<Segment>> {
    let after = after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
    let rows: Vec<(i64, String)> =
        sqlx::query_as("select rest, body from events where run = $1 and last_seq > $2 order by last_seq limit $3")
            .bind(run.to_owned())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await
            .map_err(failed)?;
    rows.into_iter()
        .map(|(rest, body)| Segment::decode(&body, Rest::from_i64(rest)).map_err(|why| broken("events", "body", run, why)))
        .collect()
}

/// Whole log of a run, to tell what a crash left unfinished.
const WHOLE_LOG: u32 = u32::MAX;

async fn lease(connection: &mut SqliteConnection, row: &SqliteRow) -> StoreResult<Lease> {
    let run = decode_run(connection, row).await?;
    let id = run.id.suffix();
    let recovered = run.state == RunState::Running;
    let flow = load(connection, format!("@{}", run.flow_hash)).await?;
    let journal = journal(connection, &id).await?;
    let waits = waits::of_run(connection, &id).await?;
    let tail = if recovered { log(connection, &id, None, WHOLE_LOG).await? } else { Vec::new() };
    Ok(Lease { run, flow, journal, waits, tail, recovered })
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
        let mut connection = self.writing().await;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        // Read before the update: the lease carries the state that the run was found in.
        let sql = const_format_claim();
        let rows = sqlx::query(sql)
            .bind(claim.now.as_millis())
            .bind(claim.only.map(|run| run.suffix()))
            .bind(i64::from(claim.max.min(MAX_CLAIM)))
            .fetch_all(&mut *open)
            .await
            .map_err(failed)?;
        let mut leases = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut lease = lease(&mut open, row).await?;
            lease.run.epoch = Epoch(lease.run.epoch.0 + 1);
            lease.run.recoveries += u32::from(lease.recovered);
            leases.push(lease);
        }
        let ids: Vec<String> = leases.iter().map(|lease| lease.run.id.suffix()).collect();
        sqlx::query(
            "update runs set epoch = epoch + 1, recoveries = recoveries + (state = 'running'), state = 'running', owner = $1, wake_at = $2 \
             where id in (select value from json_each($3))",
        )
        .bind(claim.node.suffix())
        .bind(claim.until.as_millis())
        .bind(json(&ids))
        .execute(&mut *open)
        .await
        .map_err(failed)?;
        open.commit().await.map_err(failed)?;
        Ok(leases)
    }

    async fn renew_runs(&self, node: NodeId, held: &[(RunId, Epoch)], until: Timestamp) -> StoreResult<Vec<Renewed>> {
        let held: Vec<(String, i64)> = held.iter().map(|(run, epoch)| (run.suffix(), epoch.0)).collect();
        let rows: Vec<(String, bool, i64)> = sqlx::query_as(
            "update runs set wake_at = $3 from json_each($2) as h \
             where runs.id = h.value->>0 and runs.epoch = h.value->>1 and runs.owner = $1 and runs.state in ('running', 'compensating') \
             returning runs.id, cancel_requested, nudges",
        )
        .bind(node.suffix())
        .bind(json(&held))
        .bind(until.as_millis())
        .fetch_all(&mut *self.writing().await)
        .await
        .map_err(failed)?;
        rows.into_iter()
            .map(|(id, cancel_requested, nudges)| {
                let run = RunId::from_suffix(&id).map_err(|why| broken("runs", "id", &id, why))?;
                Ok(Renewed { run, cancel_requested, nudges })
            })
            .collect()
    }

    async fn next_wake(&self) -> StoreResult<Option<Timestamp>> {
        let at: Option<i64> =
            sqlx::query_scalar("select min(wake_at) from runs where wake_at is not null").fetch_one(&self.read).await.map_err(failed)?;
        Ok(at.map(Timestamp::from_millis))
    }

    async fn request_cancel(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<Option<RunState>> {
        let mut connection = self.writing().await;
        let state: Option<String> = sqlx::query_scalar(
            "update runs set cancel_requested = 1, nudges = nudges + 1, \
                wake_at = case when state in ('queued', 'paused') then $3 else wake_at end \
             where id = $1 and tenant = $2 and state in ('queued', 'running', 'paused', 'compensating') returning state",
        )
        .bind(run.suffix())
        .bind(tenant.suffix())
        .bind(now.as_millis())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
        let state = match state {
            Some(state) => Some(state),
            None => sqlx::query_scalar("select state from runs where id = $1 and tenant = $2")
                .bind(run.suffix())
                .bind(tenant.suffix())
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed)?,
        };
        drop(connection);
        let _ = self.bell.send(run);
        state.map(|state| RunState::parse(&state).ok_or_else(|| broken("runs", "state", &run.suffix(), "unknown state"))).transpose()
    }

    async fn find_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<Run>> {
        let mut connection = self.read.acquire().await.map_err(failed)?;
        let row = sqlx::query(const_format_find())
            .bind(run.suffix())
            .bind(tenant.suffix())
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
        match row {
            Some(row) => decode_run(&mut connection, &row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list_runs(&self, tenant: TenantId, filter: RunFilter) -> StoreResult<Vec<RunSummary>> {
        let rows = sqlx::query(
            "select id, state, flow_id, flow_name, created_at, finished_at, failure, spent from runs \
             where tenant = $1 and ($2 is null or state = $2) and ($3 is null or flow_id = $3) \
                and ($4 is null or id < $4) and ($5 is null or id > $5) order by id desc limit $6",
        )
        .bind(tenant.suffix())
        .bind(filter.state.map(RunState::as_str))
        .bind(filter.flow.map(|id| id.suffix()))
        .bind(filter.before.map(|id| id.suffix()))
        .bind(filter.after.map(|id| id.suffix()))
        .bind(i64::from(filter.limit))
        .fetch_all(&self.read)
        .await
        .map_err(failed)?;
        rows.iter().map(summary).collect()
    }

    async fn read_log(&self, tenant: TenantId, run: RunId, after: Option<u64>, limit: u32) -> StoreResult<Vec<Segment>> {
        let mut connection = self.read.acquire().await.map_err(failed)?;
        if !owns(&mut connection, tenant, run).await? {
            return Ok(Vec::new());
        }
        log(&mut connection, &run.suffix(), after, limit).await
    }

    async fn read_journal(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<JournalEntry>> {
        let mut connection = self.read.acquire().await.map_err(failed)?;
        if !owns(&mut connection, tenant, run).await? {
            return Ok(Vec::new());
        }
        journal(&mut connection, &run.suffix()).await
    }

    async fn stuck_runs(&self, limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "select tenant, id from runs r where state in ('queued', 'paused') and wake_at is null \
                and not exists (select 1 from waits w where w.run = r.id and w.state = 'open') limit $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await
        .map_err(failed)?;
        rows.into_iter()
            .map(|(tenant, run)| {
                let tenant = TenantId::from_suffix(&tenant).map_err(|why| broken("runs", "tenant", &run, why))?;
                Ok((tenant, RunId::from_suffix(&run).map_err(|why| broken("runs", "id", &run, why))?))
            })
            .collect()
    }

    async fn wake_run(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<()> {
        sqlx::query("update runs set nudges = nudges + 1, wake_at = $3 where id = $1 and tenant = $2 and state in ('queued', 'paused')")
            .bind(run.suffix())
            .bind(tenant.suffix())
            .bind(now.as_millis())
            .execute(&mut *self.writing().await)
            .await
            .map_err(failed)?;
        let _ = self.bell.send(run);
        Ok(())
    }
}

fn const_format_claim() -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("select {COLUMNS} from runs where wake_at <= $1 and ($2 is null or id = $2) order by wake_at limit $3"))
}

fn const_format_find() -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("select {COLUMNS} from runs where id = $1 and tenant = $2"))
}

async fn owns(connection: &mut SqliteConnection, tenant: TenantId, run: RunId) -> StoreResult<bool> {
    sqlx::query("select 1 from runs where id = $1 and tenant = $2")
        .bind(run.suffix())
        .bind(tenant.suffix())
        .fetch_optional(connection)
        .await
        .map(|row| row.is_some())
        .map_err(failed)
}

fn summary(row: &SqliteRow) -> StoreResult<RunSummary> {
    let id: String = row.try_get("id").map_err(failed)?;
    let state: String = row.try_get("state").map_err(failed)?;
    let flow_id: Option<String> = row.try_get("flow_id").map_err(failed)?;
    let failure: Option<String> = row.try_get("failure").map_err(failed)?;
    let spent: String = row.try_get("spent").map_err(failed)?;
    Ok(RunSummary {
        id: RunId::from_suffix(&id).map_err(|why| broken("runs", "id", &id, why))?,
        state: RunState::parse(&state).ok_or_else(|| broken("runs", "state", &id, "unknown state"))?,
        flow_id: flow_id.map(|flow| FlowId::from_suffix(&flow)).transpose().map_err(|why| broken("runs", "flow_id", &id, why))?,
        flow_name: row.try_get("flow_name").map_err(failed)?,
        created_at: Timestamp::from_millis(row.try_get("created_at").map_err(failed)?),
        finished_at: row.try_get::<Option<i64>, _>("finished_at").map_err(failed)?.map(Timestamp::from_millis),
        failure: failure.map(|text| serde_json::from_str(&text)).transpose().map_err(|why| broken("runs", "failure", &id, why))?,
        spent: serde_json::from_str(&spent).map_err(|why| broken("runs", "spent", &id, why))?,
    })
}
