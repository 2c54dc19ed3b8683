//! The one process that advances the runs of a file.
//!
//! The operating system holds the lock and drops it with the process, however it dies. So whoever gets it knows
//! that the owner before is gone, and need not wait for its leases to end.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnection;

use super::failed;
use crate::store::{StoreError, StoreResult};

/// The lock, held until it is dropped.
pub(super) struct Owner(#[expect(dead_code, reason = "dropping the file drops the lock")] File);

impl Owner {
    /// Takes the lock in the file `<database>.lock`, which stays there.
    pub fn take(database: &Path) -> StoreResult<Self> {
        let path = lock_file(database);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(StoreError::unavailable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Taken(database.display().to_string())),
            Err(TryLockError::Error(error)) => Err(StoreError::unavailable(error)),
        }
    }
}

fn lock_file(database: &Path) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(".lock");
    name.into()
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
