//! Whether the file can be trusted: checked when a server opens it, and doubted when SQLite says that it is damaged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::task::JoinHandle;

use super::files::OpenFiles;
use super::primary_code;
use crate::store::{PublicReason, StoreError, StoreResult};

/// Files up to this size are checked before anything is served: that takes less than a second.
const MAX_CHECKED_FIRST: u64 = 128 * 1024 * 1024;
/// Primary result codes: the file is damaged; it is not a database.
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

    /// Refuses ([`StoreError::Unavailable`]) when the file is not the one that was opened, or is damaged.
    pub fn check(&self) -> StoreResult<()> {
        self.files.check()?;
        if self.damaged.load(Ordering::Relaxed) {
            let reason = "the database's file is damaged; stop the server and restore a backup, or recover it with sqlite3's `.recover`";
            return Err(StoreError::unavailable(PublicReason(reason.into())));
        }
        Ok(())
    }

    /// Takes note of a failure.
    pub fn note(&self, error: &sqlx::Error) {
        if is_damage(error) {
            self.note_damage(&error.to_string());
        }
    }

    fn note_damage(&self, why: &str) {
        if !self.damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(%why, "the database's file is damaged; the server is not ready until it is restarted on a sound one");
        }
    }
}

pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    primary_code(error).is_some_and(|code| DAMAGED.contains(&code))
}

/// Whether a file of this path is checked before it is served.
pub(super) fn is_checked_first(database: &Path) -> bool {
    std::fs::metadata(database).is_ok_and(|file| file.len() <= MAX_CHECKED_FIRST)
}

/// The first fault of the file, if it has one.
pub(super) async fn first_fault(connection: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
    let found: Result<String, sqlx::Error> = sqlx::query_scalar("pragma quick_check(1)").fetch_one(connection).await;
    match found {
        Ok(text) => Ok((text != "ok").then_some(text)),
        Err(error) if is_damage(&error) => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Checks a large file while it is served.
pub(super) fn check_in_background(options: SqliteConnectOptions, health: Arc<Health>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let found = async { first_fault(&mut options.read_only(true).connect().await?).await }.await;
        match found {
            Ok(None) => tracing::info!("the database's file is sound"),
            Ok(Some(why)) => health.note_damage(&why),
            Err(error) => tracing::warn!(%error, "the database's file could not be checked"),
        }
    })
}
