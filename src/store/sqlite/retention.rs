//! Deletion of what is no longer kept, on SQLite.
//!
//! Deleted rows leave free pages in the file. They are given back in steps (`incremental_vacuum`), so that no writer waits for long. A file that was made
//! without `auto_vacuum=incremental` keeps its size; its free pages are used again.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::{SqliteStore, failed};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::store::StoreResult;
use crate::store::batch::json;
use crate::store::retention::{BlobSweep, EndedRun, Retention, RunDeletion, in_sql, is_ended, run_id};

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

in_sql!(SqliteStore, SqliteConnection, list: "(select value from json_each($1))", lock: "", lock_blobs: "",
    |self| read: &mut *self.reading().await?, unit: |work| transaction!(self, work),
    release: |pages| release(&mut *self.writing().await?, pages).await.map_err(failed));

async fn release(connection: &mut SqliteConnection, pages: u32) -> Result<u64, sqlx::Error> {
    let before = free_pages(connection).await?;
    if before == 0 {
        return Ok(0);
    }
    sqlx::query(AssertSqlSafe(format!("pragma incremental_vacuum({pages})"))).execute(&mut *connection).await?;
    let released = before.saturating_sub(free_pages(connection).await?);
    if released == 0 {
        return Ok(0);
    }
    // The file becomes shorter when the log is written back.
    sqlx::query("pragma wal_checkpoint(passive)").execute(&mut *connection).await?;
    let size: i64 = sqlx::query_scalar("pragma page_size").fetch_one(connection).await?;
    Ok(released.saturating_mul(size.unsigned_abs()))
}

async fn free_pages(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let pages: i64 = sqlx::query_scalar("pragma freelist_count").fetch_one(connection).await?;
    Ok(pages.unsigned_abs())
}
