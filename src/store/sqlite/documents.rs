//! Documents on SQLite.

use async_trait::async_trait;

use super::{SqliteStore, failed, unless_taken};
use crate::clock::Timestamp;
use crate::id::TenantId;
use crate::store::documents::{DocumentQuery, DocumentRow, Documents, TAKEN, in_sql};
use crate::store::text::{Fit, is_plain};
use crate::store::{StoreResult, row};

in_sql!(SqliteStore, |self| read: &mut *self.reading().await?, write: &mut *self.writing().await?);
