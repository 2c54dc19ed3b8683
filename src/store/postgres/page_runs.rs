//! Runs of pages on PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;

use super::{PostgresStore, failed, unit};
use crate::id::{ClientTokenId, RunId, TenantId};
use crate::store::StoreResult;
use crate::store::page_runs::{MAX_WEIGHED, PageRuns, in_sql};

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

in_sql!(PostgresStore, PgConnection, |self| write: &self.pool, unit: |work| transaction!(self, work));
