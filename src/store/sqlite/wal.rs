//! Keeps the write-ahead log small.
//!
//! SQLite starts the log anew only in a moment when no reader is in it. Readers that overlap without a gap deny it
//! that moment, and the log grows. So when the file has grown large, the writer stops for a moment, lets the
//! present readers leave, and empties it; readers that come meanwhile read the database file and are not in the
//! way. A reader that stays for longer, such as a backup by another program, is waited for in vain: that is
//! told to the log, and tried again when the file has grown on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::sqlite::SqliteConnection;

/// From this size on the log is emptied; below it, SQLite's own checkpoints do.
const LARGE: u64 = 32 * 1024 * 1024;
/// After a try in vain, the growth until the next one.
const STEP: u64 = 16 * 1024 * 1024;
/// How long readers are given to leave, and what other waits for locks take.
const PATIENCE: &str = "pragma busy_timeout = 1000";
const USUAL: &str = "pragma busy_timeout = 5000";

/// The log of one database.
pub(super) struct Wal {
    path: PathBuf,
    /// The size from which it is worth trying.
    next: AtomicU64,
}

impl Wal {
    pub fn new(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), next: AtomicU64::new(LARGE) }
    }

    /// Empties the log if it is large. To be called by the writer between transactions.
    pub async fn tend(&self, connection: &mut SqliteConnection) {
        let size = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        if size < self.next.load(Ordering::Relaxed) {
            return;
        }
        let next = match empty(connection).await {
            Ok(true) => LARGE,
            Ok(false) => {
                tracing::warn!(bytes = size, "a reader that does not leave keeps the write-ahead log from being emptied");
                size + STEP
            }
            Err(error) => {
                tracing::warn!(%error, bytes = size, "the write-ahead log cannot be emptied");
                size + STEP
            }
        };
        self.next.store(next, Ordering::Relaxed);
    }
}

/// Whether the log could be emptied.
async fn empty(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query(PATIENCE).execute(&mut *connection).await?;
    let done = sqlx::query_as::<_, (i64, i64, i64)>("pragma wal_checkpoint(truncate)").fetch_one(&mut *connection).await;
    sqlx::query(USUAL).execute(connection).await?;
    done.map(|(busy, _, _)| busy == 0)
}
