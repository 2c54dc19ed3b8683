//! Jobs on SQLite.

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::{SqliteStore, failed};
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

/// A transaction on the one connection that writes.
macro_rules! transaction {
    ($store:ident, $work:ident) => {{
        let mut connection = $store.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let done = $work(&mut *open).await?;
        open.commit().await.map_err(failed)?;
        Ok(done)
    }};
}

in_sql!(SqliteStore, SqliteConnection, list: "(select value from json_each($1))",
    |self| read: &mut *self.reading().await?, write: &mut *self.writing().await?, unit: |work| transaction!(self, work));

/// Why a job that did not win was not put in its queue.
pub(super) async fn explain_enqueue(connection: &mut SqliteConnection, new: &NewJob) -> StoreResult<Enqueued> {
    explain!(connection, new)
}
