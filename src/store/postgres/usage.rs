//! Usage on PostgreSQL.

use async_trait::async_trait;

use super::{PostgresStore, failed};
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};
use crate::model::ModelUsage;
use crate::model::quota::day_of;
use crate::store::StoreResult;
use crate::store::usage::{UsageQuery, UsageTotal, Usages, column, in_sql, read_total};

in_sql!(PostgresStore, |self| read: &self.pool, write: &self.pool);
