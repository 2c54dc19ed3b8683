//! Limits and their counters on PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;

use super::{PostgresStore, failed, unit};
use crate::clock::Timestamp;
use crate::id::{KeyId, RunId, TenantId};
use crate::store::StoreResult;
use crate::store::batch::json;
use crate::store::quotas::{
    LimitsRow, QuotaAnswer, QuotaChange, QuotaCount, QuotaSlot, QuotaTake, Quotas, SLOTS, in_sql, read_count, read_limits, suffix,
};
use crate::store::usage::column;

/// A transaction in a task of its own. Each of its statements sees what others committed before it, and a row that it has changed is its
/// own until its end.
macro_rules! transaction {
    ($store:ident, $work:ident) => {{
        let pool = $store.pool.clone();
        unit(async move {
            let mut open = pool.begin().await.map_err(failed)?;
            let done = $work(&mut *open).await?;
            open.commit().await.map_err(failed)?;
            Ok(done)
        })
        .await
    }};
}

in_sql!(PostgresStore, PgConnection, |self| read: &self.pool, write: &self.pool, unit: |work| transaction!(self, work));
