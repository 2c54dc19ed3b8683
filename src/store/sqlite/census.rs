//! Backlog counts on SQLite.

use super::{SqliteStore, failed};
use crate::store::census::in_sql;
use crate::store::{Census, StoreResult};

in_sql!(SqliteStore, |self| read: &mut *self.reading().await?, connections: self.readers.lent());
