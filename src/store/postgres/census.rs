//! Backlog counts on PostgreSQL.

use super::{PostgresStore, failed};
use crate::store::census::in_sql;
use crate::store::{Census, StoreResult};

in_sql!(PostgresStore, |self| read: &self.pool, connections: {
    let (all, idle) = (u64::from(self.pool.size()), self.pool.num_idle() as u64);
    (all.saturating_sub(idle), idle)
});
