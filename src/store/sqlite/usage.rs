//! Usage on SQLite.

use async_trait::async_trait;

use super::{SqliteStore, failed};
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};
use crate::model::ModelUsage;
use crate::model::quota::day_of;
use crate::store::StoreResult;
use crate::store::usage::{UsageQuery, UsageTotal, Usages, column, in_sql, read_total};

in_sql!(SqliteStore, |self| read: &mut *self.reading().await?, write: &mut *self.writing().await?);
