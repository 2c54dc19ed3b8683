//! Notices on PostgreSQL.

use super::{PostgresStore, failed};
use crate::id::{RunId, TenantId};
use crate::store::notices::in_sql;
use crate::store::{StoreResult, row};

in_sql!(PostgresStore, |self| read: &self.pool, write: &self.pool);
