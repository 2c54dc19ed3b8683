//! Copies of an embedded database, made while a server may be using it.

use std::path::Path;

use super::{StoreError, StoreResult, sqlite};

/// Returns the file of the database at `sqlite://path`; `None` for another kind of database.
pub fn database_file(url: &str) -> Option<&Path> {
    url.strip_prefix("sqlite://").filter(|path| !path.is_empty()).map(Path::new)
}

/// Copies the embedded database at `file` to a new file that only its owner can read: one consistent state, without stopping the server that uses it.
pub async fn copy_database(file: &Path, to: &Path) -> StoreResult<()> {
    if !file.exists() {
        return Err(StoreError::Address(format!("sqlite://{}", file.display())));
    }
    sqlite::backup::copy(file, to).await
}

/// Returns whether a server uses the database file. Must not be called in that server's process.
pub fn is_in_use(file: &Path) -> bool {
    sqlite::backup::is_in_use(file)
}
