//! Integrity of the file: checked when a server opens it, and in doubt once SQLite reports damage.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::task::JoinHandle;

use super::files::OpenFiles;
use super::primary_code;
use crate::store::{PublicReason, StoreError, StoreResult};

/// Files up to this size are checked before the server accepts calls, which takes less than a second.
const MAX_CHECKED_FIRST: u64 = 128 * 1024 * 1024;
/// Primary result codes for a damaged file (11) and for a file that is not a database (26).
const DAMAGED: [i64; 2] = [11, 26];

/// See the module.
pub(super) struct Health {
    pub files: OpenFiles,
    damaged: AtomicBool,
}

impl Health {
    pub fn new(database: &Path) -> Self {
        Self { files: OpenFiles::new(database), damaged: AtomicBool::new(false) }
    }

    /// Returns [`StoreError::Unavailable`] if the file was deleted, replaced or damaged.
    pub fn check(&self) -> StoreResult<()> {
        self.files.check()?;
        if self.damaged.load(Ordering::Relaxed) {
            let reason = "the database file is damaged; stop the server and restore a backup, or recover it with sqlite3's `.recover`";
            return Err(StoreError::unavailable(PublicReason(reason.into())));
        }
        Ok(())
    }

    /// Records a failure.
    pub fn note(&self, error: &sqlx::Error) {
        if is_damage(error) {
            self.note_damage(&error.to_string());
        }
    }

    fn note_damage(&self, why: &str) {
        if !self.damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(%why, "the database file is damaged; refusing writes until the server is restarted with an intact file");
        }
    }
}

pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    primary_code(error).is_some_and(|code| DAMAGED.contains(&code))
}

/// Returns whether a file is checked before the server accepts calls.
pub(super) fn is_checked_first(database: &Path) -> bool {
    std::fs::metadata(database).is_ok_and(|file| file.len() <= MAX_CHECKED_FIRST)
}

/// Returns the first fault of the file, if it has one.
pub(super) async fn first_fault(connection: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
    let found: Result<String, sqlx::Error> = sqlx::query_scalar("pragma quick_check(1)").fetch_one(connection).await;
    match found {
        Ok(text) => Ok((text != "ok").then_some(text)),
        Err(error) if is_damage(&error) => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Checks a large file in the background.
pub(super) fn check_in_background(options: SqliteConnectOptions, health: Arc<Health>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let found = async { first_fault(&mut options.read_only(true).connect().await?).await }.await;
        match found {
            Ok(None) => tracing::info!("the database file passed the integrity check"),
            Ok(Some(why)) => health.note_damage(&why),
            Err(error) => tracing::warn!(%error, "failed to check the database file"),
        }
    })
}
