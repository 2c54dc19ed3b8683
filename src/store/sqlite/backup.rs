//! Online copies of a SQLite database file.
//!
//! `VACUUM INTO` reads one snapshot, so writers go on meanwhile; the copy has no free pages and no log beside it.

use std::fs::File;
use std::path::Path;

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::{failed, files, owner, unless_damaged};
use crate::store::{StoreError, StoreResult};

/// Copies the database to a new file with mode 0600.
pub(in crate::store) async fn copy(file: &Path, to: &Path) -> StoreResult<()> {
    // SQLite writes into an empty file and keeps its mode.
    files::private().open(to).map_err(StoreError::unavailable)?;
    let options = SqliteConnectOptions::new().filename(file).read_only(true).disable_statement_logging();
    let mut connection = options.connect().await.map_err(|error| unless_damaged(file, error))?;
    sqlx::query("vacuum into $1").bind(to.display().to_string()).execute(&mut connection).await.map_err(failed)?;
    File::open(to).and_then(|copy| copy.sync_all()).map_err(StoreError::unavailable)
}

/// Returns whether a server uses the file.
pub(in crate::store) fn is_in_use(file: &Path) -> bool {
    owner::is_held(file)
}
