//! The one connection that writes.
//!
//! When a `commit` is refused by the disk, SQLite may end the transaction by itself; the driver, whose `rollback` then
//! finds none, goes on counting it as open and begins no other. Such a connection is of no more use and is replaced.
//!
//! It is lent only while the open file is the one at the database's path.

use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};

use super::failed;
use super::health::Health;
use super::wal::Wal;
use crate::store::StoreResult;

/// See the module.
pub(super) struct Pen {
    connection: Mutex<SqliteConnection>,
    options: SqliteConnectOptions,
    wal: Wal,
    pub health: Arc<Health>,
}

impl Pen {
    pub fn new(connection: SqliteConnection, options: SqliteConnectOptions, database: &Path, health: Arc<Health>) -> Self {
        Self { connection: Mutex::new(connection), options, wal: Wal::new(database), health }
    }

    /// The connection, for a short transaction.
    pub async fn take(&self) -> StoreResult<MutexGuard<'_, SqliteConnection>> {
        let mut connection = self.connection.lock().await;
        self.health.files.check()?;
        if connection.is_in_transaction() && !is_settled(&mut connection).await {
            tracing::warn!("a transaction could not be ended; the writer connects anew");
            let anew = self.options.connect().await.map_err(failed)?;
            self.health.files.check()?;
            *connection = anew;
        }
        self.wal.tend(&mut connection).await;
        Ok(connection)
    }
}

/// Whether the transaction that its owner dropped is rolled back, once the connection has got so far.
async fn is_settled(connection: &mut SqliteConnection) -> bool {
    connection.ping().await.is_ok() && !connection.is_in_transaction()
}
