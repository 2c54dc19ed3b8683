//! Jobs on PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;

use super::{PostgresStore, failed, unit};
use crate::clock::Timestamp;
use crate::id::{DeadLetterId, JobId, TenantId};
use crate::model::job::{DeadLetter, Job, JobEnd, JobState};
use crate::store::batch::{JobRow, json};
use crate::store::jobs::sql::{dead_where, explain, in_sql, readable};
use crate::store::jobs::{
    Claimed, ClaimedJob, DeadFilter, Enqueued, Gates, JobClaim, JobCount, JobFilter, Jobs, MOST_CLAIMED, MOST_LOOKS, NewJob, Place, Queue,
    Turns,
};
use crate::store::text::{Fit, is_plain};
use crate::store::{StoreError, StoreResult, row};

/// A transaction that no other of its kind runs beside: two claims at once would both find room for a queue's last job.
macro_rules! transaction {
    ($store:ident, $work:ident) => {{
        let pool = $store.pool.clone();
        unit(async move {
            let mut open = pool.begin().await.map_err(failed)?;
            sqlx::query("select pg_advisory_xact_lock(hashtextextended('dispatch jobs ' || current_schema(), 0))")
                .execute(&mut *open)
                .await
                .map_err(failed)?;
            let done = $work(&mut *open).await?;
            open.commit().await.map_err(failed)?;
            Ok(done)
        })
        .await
    }};
}

in_sql!(PostgresStore, PgConnection, list: "(select json_array_elements_text($1::json))",
    |self| read: &self.pool, write: &self.pool, unit: |work| transaction!(self, work));

/// Why a job that did not win was not put in its queue.
pub(super) async fn explain_enqueue(connection: &mut PgConnection, new: &NewJob) -> StoreResult<Enqueued> {
    explain!(connection, new)
}
