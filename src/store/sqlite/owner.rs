//! The one process that advances the runs of a file.
//!
//! The operating system holds the locks and releases them with the process, however it ends. So a process that gets them knows
//! that the owner before is gone, and need not wait for its leases to end.
//!
//! There are two locks. The lock file stands beside the real file, whatever link leads there. The second lock is on the
//! database file itself, and holds also if the lock file was deleted, or another hard link was opened. On Linux
//! `flock` is independent of the locks that SQLite takes (`fcntl`); elsewhere they may be the same, so only the
//! lock file is used there.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnection;

use super::{failed, files};
use crate::store::{StoreError, StoreResult};

/// The locks, held until they are dropped. The database's lock is dropped first, so that whoever gets the lock file gets both.
pub(super) struct Owner(#[expect(dead_code, reason = "dropping a file drops its lock")] (Option<File>, File));

impl Owner {
    /// Takes both locks; the file `<database>.lock` stays. Call this before SQLite opens the database in this
    /// process: closing any descriptor of a file releases all of the process's `fcntl` locks on it.
    pub fn take(database: &Path) -> StoreResult<Self> {
        files::create(database).map_err(StoreError::unavailable)?;
        let real = database.canonicalize().map_err(StoreError::unavailable)?;
        let lock = files::private().open(lock_file(&real)).map_err(StoreError::unavailable)?;
        take_lock(&lock, database)?;
        if !cfg!(target_os = "linux") {
            return Ok(Self((None, lock)));
        }
        let file = OpenOptions::new().read(true).write(true).open(&real).map_err(StoreError::unavailable)?;
        if let Err(error) = take_lock(&file, database) {
            // This process may serve the file under another name: closing it would release SQLite's locks.
            std::mem::forget(file);
            return Err(error);
        }
        Ok(Self((Some(file), lock)))
    }
}

/// Returns whether a server uses the database file. Must not be called in the server's own process.
pub(super) fn is_held(database: &Path) -> bool {
    let Ok(real) = database.canonicalize() else { return false };
    let held = |path: &Path| File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
    held(&lock_file(&real)) || (cfg!(target_os = "linux") && held(&real))
}

fn take_lock(file: &File, database: &Path) -> StoreResult<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::Taken(database.display().to_string()),
        TryLockError::Error(error) => StoreError::unavailable(error),
    })
}

fn lock_file(real: &Path) -> PathBuf {
    files::beside(real, files::LOCK_SUFFIX)
}

/// Makes due what the owner before held: its runs, and its claims on keys whose answer was never filed.
pub(super) async fn inherit(connection: &mut SqliteConnection) -> StoreResult<()> {
    for left_behind in [
        "update runs set wake_at = 0 where state in ('running', 'compensating')",
        "update idempotency set lease_until = 0 where status is null",
    ] {
        sqlx::query(left_behind).execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}
