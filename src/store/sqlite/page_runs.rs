//! Runs of pages on SQLite.

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::{SqliteStore, failed};
use crate::id::{ClientTokenId, RunId, TenantId};
use crate::store::StoreResult;
use crate::store::page_runs::{MAX_WEIGHED, PageRuns, in_sql};

/// A transaction on the one connection that writes.
macro_rules! transaction {
    ($store:ident, $work:ident) => {{
        let mut connection = $store.writing().await?;
        let mut tx = connection.begin_with("begin immediate").await.map_err(failed)?;
        let done = $work(&mut *tx).await?;
        tx.commit().await.map_err(failed)?;
        Ok(done)
    }};
}

in_sql!(SqliteStore, SqliteConnection, |self| write: &mut *self.writing().await?, unit: |work| transaction!(self, work));
