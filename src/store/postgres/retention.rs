//! Deletion of what is no longer kept, on PostgreSQL. Autovacuum makes the space of deleted rows usable again.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;

use super::{PostgresStore, failed, unit};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::store::StoreResult;
use crate::store::batch::json;
use crate::store::retention::{BlobSweep, EndedRun, Retention, RunDeletion, in_sql, is_ended, run_id};

/// A transaction that is carried to its end.
macro_rules! transaction {
    ($store:ident, $work:ident) => {{
        let pool = $store.pool.clone();
        unit(async move {
            let mut tx = pool.begin().await.map_err(failed)?;
            let done = $work(&mut *tx).await?;
            tx.commit().await.map_err(failed)?;
            Ok(done)
        })
        .await
    }};
}

in_sql!(PostgresStore, PgConnection, list: "(select json_array_elements_text($1::json))", lock: " for update of r",
    lock_blobs: " for update",
    |self| read: &self.pool, unit: |work| transaction!(self, work), release: |_pages| Ok(0));
