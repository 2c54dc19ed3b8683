//! Notices on SQLite.

use super::{SqliteStore, failed};
use crate::id::{RunId, TenantId};
use crate::store::notices::in_sql;
use crate::store::{StoreResult, row};

in_sql!(SqliteStore, |self| read: &mut *self.reading().await?, write: &mut *self.writing().await?);
