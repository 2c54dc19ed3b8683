//! Connections that only read: a few, each lent to one reader at a time.
//!
//! The driver's own pool asks a connection whether it is alive each time that it is lent and each time that it comes back; each is a hand-over to the
//! connection's thread and back, as costly as most of our reads. A connection to a file does not die while it lies idle.
//!
//! One is made only while the database's path leads to the file that was opened: a connection to another file would be lent for ever after, also when the
//! right file is back.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::failed;
use super::health::Health;
use crate::store::{StoreError, StoreResult};

/// So many read at once.
const READERS: u32 = 4;

/// See the module.
pub(super) struct Readers {
    options: SqliteConnectOptions,
    health: Arc<Health>,
    idle: Mutex<Vec<SqliteConnection>>,
    places: Semaphore,
}

/// A connection that is lent; it goes back when this is dropped. What was begun and not read to its end ends by itself before the next reader's turn.
pub(super) struct Reading<'r> {
    /// Taken only by the drop.
    connection: Option<SqliteConnection>,
    home: &'r Readers,
    _place: SemaphorePermit<'r>,
}

impl Readers {
    /// Connects when somebody reads.
    pub fn new(options: SqliteConnectOptions, health: Arc<Health>) -> Self {
        Self { options: options.read_only(true), health, idle: Mutex::default(), places: Semaphore::new(READERS as usize) }
    }

    /// A connection, as soon as one is free.
    pub async fn take(&self) -> StoreResult<Reading<'_>> {
        let place = self.places.acquire().await.map_err(|_| StoreError::unavailable("the store is closed"))?;
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Reading { connection: Some(connection), home: self, _place: place })
    }

    async fn connect(&self) -> StoreResult<SqliteConnection> {
        self.health.files.check()?;
        let connection = self.options.connect().await.map_err(failed)?;
        self.health.files.check()?;
        Ok(connection)
    }

    /// How many connections are lent, and how many are not.
    pub fn lent(&self) -> (u64, u64) {
        let free = (self.places.available_permits() as u64).min(u64::from(READERS));
        (u64::from(READERS) - free, free)
    }

    /// Waits for whoever reads, and lends nothing any more.
    pub async fn close(&self) {
        // Fails if it was closed before.
        let all = self.places.acquire_many(READERS).await;
        self.places.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle.lock());
        for connection in idle {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "a connection that reads did not close well");
            }
        }
    }
}

impl Deref for Reading<'_> {
    type Target = SqliteConnection;

    #[expect(clippy::expect_used, reason = "it is there until the drop")]
    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("a lent connection")
    }
}

impl DerefMut for Reading<'_> {
    #[expect(clippy::expect_used, reason = "it is there until the drop")]
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("a lent connection")
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.home.idle.lock().extend(self.connection.take());
    }
}
