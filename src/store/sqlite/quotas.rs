//! Limits and their counters on SQLite.

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::{SqliteStore, failed};
use crate::clock::Timestamp;
use crate::id::{KeyId, RunId, TenantId};
use crate::store::StoreResult;
use crate::store::batch::json;
use crate::store::quotas::{
    LimitsRow, QuotaAnswer, QuotaChange, QuotaCount, QuotaSlot, QuotaTake, Quotas, SLOTS, in_sql, read_count, read_limits, suffix,
};
use crate::store::usage::column;

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

in_sql!(SqliteStore, SqliteConnection, |self| read: &mut *self.reading().await?, write: &mut *self.writing().await?,
    unit: |work| transaction!(self, work));
