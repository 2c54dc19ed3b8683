//! Deletes what is no longer kept: ended runs with all of their rows, logs, jobs, documents, and texts that nothing refers to.
//!
//! A run is deleted with every run that it began, in one transaction. Nothing is deleted while one of them has not ended, or while a webhook
//! notification of one has not been queued. Every deletion may be repeated, so two nodes that delete the same rows do no harm.

use async_trait::async_trait;

use super::StoreResult;
use super::row::broken;
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::model::RunState;

/// The result of deleting a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunDeletion {
    /// The run and the runs that it began are deleted: this many in all.
    Deleted(u64),
    /// The tenant has no such run.
    Missing,
    /// This run has not ended: the run itself, one that it began, or the one that began it.
    Active(RunId),
    /// A webhook notification of this run has not been queued yet.
    Unannounced(RunId),
}

/// A position in the list of ended runs.
pub type EndedRun = (Timestamp, RunId);

/// The result of looking at a page of blobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlobSweep {
    pub deleted: u64,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<String>,
}

/// Deletes rows that are no longer kept.
#[async_trait]
pub trait Retention {
    /// Deletes ended runs of a tenant, all in one transaction; the results are in the order of `runs`.
    async fn delete_runs(&self, tenant: TenantId, runs: &[RunId]) -> StoreResult<Vec<RunDeletion>>;

    /// Returns runs that ended before a time and that nothing keeps, the earliest first, after a position.
    async fn ended_runs(&self, tenant: TenantId, before: Timestamp, after: Option<EndedRun>, limit: u32) -> StoreResult<Vec<EndedRun>>;

    /// Deletes the logs of runs that ended before a time, up to `limit` of them; the last segment stays, which has the run's end. Returns how
    /// many logs were deleted.
    async fn delete_logs(&self, tenant: TenantId, before: Timestamp, limit: u32) -> StoreResult<u64>;

    /// Deletes up to `limit` jobs that ended before a time, unless webhooks are still to be notified of them.
    async fn delete_jobs(&self, tenant: TenantId, before: Timestamp, limit: u32) -> StoreResult<u64>;

    /// Returns the ids of documents that changed last before a time and are not due before `due_after`.
    async fn stale_documents(
        &self,
        tenant: TenantId,
        kind: &str,
        before: Timestamp,
        due_after: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<String>>;

    /// Looks at a page of blobs after a hash, and deletes those that nothing refers to and that were written last before a time. The time must lie
    /// more than [`BLOB_GRACE`] back: a writer does not write again what it wrote shortly before.
    async fn collect_blobs(&self, before: Timestamp, after: Option<String>, limit: u32) -> StoreResult<BlobSweep>;

    /// Gives up to `pages` free pages of the database file back to the file system, where the database does not do that itself. Returns how
    /// many bytes were given back.
    async fn release_space(&self, pages: u32) -> StoreResult<u64>;
}

/// How long an unused blob is kept at least: an hour during which it is not written again, and the time that a node knows a flow to be stored.
pub const BLOB_GRACE: std::time::Duration = std::time::Duration::from_secs(2 * 3_600);

/// Reads a run's id.
pub(super) fn run_id(text: &str) -> StoreResult<RunId> {
    RunId::from_suffix(text).map_err(|why| broken("runs", "id", text, why))
}

/// Returns whether a state is one of ended runs.
pub(super) fn is_ended(state: &str) -> StoreResult<bool> {
    RunState::parse(state).map(RunState::is_terminal).ok_or_else(|| broken("runs", "state", state, "unknown state"))
}

/// The condition that no row refers to the row of `blobs`.
macro_rules! unreferenced {
    () => {
        "not exists (select 1 from runs r where r.flow_hash = blobs.hash) \
         and not exists (select 1 from runs r where substr(r.input, 1, 1) = '@' and r.input = '@' || blobs.hash) \
         and not exists (select 1 from runs r where substr(r.output, 1, 1) = '@' and r.output = '@' || blobs.hash) \
         and not exists (select 1 from journal j where substr(j.outcome, 1, 1) = '@' and j.outcome = '@' || blobs.hash) \
         and not exists (select 1 from waits w where substr(w.shown, 1, 1) = '@' and w.shown = '@' || blobs.hash) \
         and not exists (select 1 from waits w where substr(w.resolution, 1, 1) = '@' and w.resolution = '@' || blobs.hash)"
    };
}
pub(super) use unreferenced;

/// Implements [`Retention`] for a SQL database. `list` is how the database reads the JSON array of its first argument, `lock` and `lock_blobs` how
/// it keeps others from changing rows that were read; `release` implements [`Retention::release_space`].
macro_rules! in_sql {
    ($store:ty, $connection:ty, list: $list:literal, lock: $lock:literal, lock_blobs: $lock_blobs:literal,
        |$this:ident| read: $read:expr, unit: |$work:ident| $unit:expr, release: |$pages:ident| $release:expr) => {
        /// Deletes one run with its descendants.
        async fn delete_run(tx: &mut $connection, tenant: TenantId, run: RunId) -> StoreResult<RunDeletion> {
            let found: Vec<(String, String, i64)> = sqlx::query_as(concat!(
                "with recursive tree (id) as ( \
                    select r.id from runs r where r.id = $1 and r.tenant = $2 \
                    union select c.id from runs c join tree t on c.parent_run = t.id) \
                 select r.id, r.state, \
                    cast(case when exists (select 1 from journal j where j.run = r.id and j.key = 'notice') then 1 else 0 end as bigint) \
                 from runs r join tree t on t.id = r.id order by r.id", $lock
            ))
            .bind(run.suffix())
            .bind(tenant.suffix())
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
            if found.is_empty() {
                return Ok(RunDeletion::Missing);
            }
            let parent: Option<(String, String)> =
                sqlx::query_as("select p.id, p.state from runs r join runs p on p.id = r.parent_run where r.id = $1")
                    .bind(run.suffix())
                    .fetch_optional(&mut *tx)
                    .await
                    .map_err(failed)?;
            let own = found.iter().map(|(id, state, _)| (id, state));
            for (id, state) in own.chain(parent.iter().map(|(id, state)| (id, state))) {
                if !is_ended(state)? {
                    return Ok(RunDeletion::Active(run_id(id)?));
                }
            }
            if let Some((id, ..)) = found.iter().find(|(_, _, noticed)| *noticed != 0) {
                return Ok(RunDeletion::Unannounced(run_id(id)?));
            }
            let ids = json(&found.iter().map(|(id, ..)| id).collect::<Vec<_>>());
            for statement in [
                concat!("delete from events where run in ", $list),
                concat!("delete from journal where run in ", $list),
                concat!("delete from waits where run in ", $list),
                concat!("delete from signals where run in ", $list),
                concat!("delete from idempotency where subject in ", $list),
                concat!("delete from page_runs where run in ", $list),
                concat!("delete from runs where id in ", $list),
            ] {
                sqlx::query(statement).bind(ids.clone()).execute(&mut *tx).await.map_err(failed)?;
            }
            Ok(RunDeletion::Deleted(found.len() as u64))
        }

        #[async_trait]
        impl Retention for $store {
            async fn delete_runs(&$this, tenant: TenantId, runs: &[RunId]) -> StoreResult<Vec<RunDeletion>> {
                let runs = runs.to_vec();
                let $work = async move |tx: &mut $connection| {
                    let mut results = Vec::with_capacity(runs.len());
                    for run in runs {
                        results.push(delete_run(&mut *tx, tenant, run).await?);
                    }
                    Ok(results)
                };
                $unit
            }

            async fn ended_runs(
                &$this,
                tenant: TenantId,
                before: Timestamp,
                after: Option<EndedRun>,
                limit: u32,
            ) -> StoreResult<Vec<EndedRun>> {
                let (time, id) = after.map_or((i64::MIN, String::new()), |(time, run)| (time.as_millis(), run.suffix()));
                let found: Vec<(i64, String)> = sqlx::query_as(
                    "select r.finished_at, r.id from runs r \
                     where r.tenant = $1 and r.finished_at is not null and r.finished_at < $2 and (r.finished_at, r.id) > ($3, $4) \
                        and not exists (select 1 from journal j where j.run = r.id and j.key = 'notice') \
                        and (r.parent_run is null or not exists (select 1 from runs p where p.id = r.parent_run and p.finished_at is null)) \
                     order by r.finished_at, r.id limit $5",
                )
                .bind(tenant.suffix())
                .bind(before.as_millis())
                .bind(time)
                .bind(id)
                .bind(i64::from(limit))
                .fetch_all($read)
                .await
                .map_err(failed)?;
                found.into_iter().map(|(time, id)| Ok((Timestamp::from_millis(time), run_id(&id)?))).collect()
            }

            async fn delete_logs(&$this, tenant: TenantId, before: Timestamp, limit: u32) -> StoreResult<u64> {
                let $work = async move |tx: &mut $connection| {
                    let runs: Vec<String> = sqlx::query_scalar(
                        "select id from runs where tenant = $1 and finished_at is not null and compacted < 2 and finished_at < $2 \
                         order by finished_at, id limit $3",
                    )
                    .bind(tenant.suffix())
                    .bind(before.as_millis())
                    .bind(i64::from(limit))
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(failed)?;
                    for statement in [
                        concat!(
                            "delete from events where run in ", $list,
                            " and last_seq < (select max(e.last_seq) from events e where e.run = events.run)"
                        ),
                        concat!("update runs set compacted = 2 where id in ", $list),
                        concat!("update page_runs set weighed = 0 where run in ", $list),
                    ] {
                        sqlx::query(statement).bind(json(&runs)).execute(&mut *tx).await.map_err(failed)?;
                    }
                    Ok(runs.len() as u64)
                };
                $unit
            }

            async fn delete_jobs(&$this, tenant: TenantId, before: Timestamp, limit: u32) -> StoreResult<u64> {
                let $work = async move |tx: &mut $connection| {
                    sqlx::query(
                        "delete from jobs where id in ( \
                            select id from jobs where tenant = $1 and completed_at is not null and completed_at < $2 and untold = 0 \
                                and state in ('completed', 'failed', 'cancelled') \
                            order by completed_at, id limit $3)",
                    )
                    .bind(tenant.suffix())
                    .bind(before.as_millis())
                    .bind(i64::from(limit))
                    .execute(&mut *tx)
                    .await
                    .map(|result| result.rows_affected())
                    .map_err(failed)
                };
                $unit
            }

            async fn stale_documents(
                &$this,
                tenant: TenantId,
                kind: &str,
                before: Timestamp,
                due_after: Timestamp,
                limit: u32,
            ) -> StoreResult<Vec<String>> {
                sqlx::query_scalar(
                    "select id from documents where tenant = $1 and kind = $2 and updated_at < $3 and (due_at is null or due_at > $4) \
                     order by id limit $5",
                )
                .bind(tenant.suffix())
                .bind(kind.to_owned())
                .bind(before.as_millis())
                .bind(due_after.as_millis())
                .bind(i64::from(limit))
                .fetch_all($read)
                .await
                .map_err(failed)
            }

            async fn collect_blobs(&$this, before: Timestamp, after: Option<String>, limit: u32) -> StoreResult<BlobSweep> {
                let page: Vec<String> = sqlx::query_scalar("select hash from blobs where hash > $1 order by hash limit $2")
                    .bind(after.unwrap_or_default())
                    .bind(i64::from(limit))
                    .fetch_all($read)
                    .await
                    .map_err(failed)?;
                let next = if page.len() < limit as usize { None } else { page.last().cloned() };
                let unused: Vec<String> = sqlx::query_scalar(concat!(
                    "select hash from blobs where hash in ", $list, " and touched_at < $2 and ", $crate::store::retention::unreferenced!()
                ))
                .bind(json(&page))
                .bind(before.as_millis())
                .fetch_all($read)
                .await
                .map_err(failed)?;
                if unused.is_empty() {
                    return Ok(BlobSweep { deleted: 0, next });
                }
                let $work = async move |tx: &mut $connection| {
                    // Whoever is writing one of them again is waited for; the deletion then sees that it was touched.
                    sqlx::query(concat!("select hash from blobs where hash in ", $list, " order by hash", $lock_blobs))
                        .bind(json(&unused))
                        .fetch_all(&mut *tx)
                        .await
                        .map_err(failed)?;
                    sqlx::query(concat!("delete from blobs where hash in ", $list, " and touched_at < $2 and ", $crate::store::retention::unreferenced!()))
                        .bind(json(&unused))
                        .bind(before.as_millis())
                        .execute(&mut *tx)
                        .await
                        .map(|result| result.rows_affected())
                        .map_err(failed)
                };
                let deleted: StoreResult<u64> = $unit;
                Ok(BlobSweep { deleted: deleted?, next })
            }

            async fn release_space(&$this, $pages: u32) -> StoreResult<u64> {
                $release
            }
        }
    };
}
pub(super) use in_sql;
