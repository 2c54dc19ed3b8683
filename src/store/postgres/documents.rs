//! Documents on PostgreSQL.

use async_trait::async_trait;

use super::{PostgresStore, failed, unless_taken};
use crate::clock::Timestamp;
use crate::id::TenantId;
use crate::store::documents::{DocumentQuery, DocumentRow, Documents, TAKEN, in_sql};
use crate::store::text::{Fit, is_plain};
use crate::store::{StoreResult, row};

in_sql!(PostgresStore, |self| read: &self.pool, write: &self.pool);
