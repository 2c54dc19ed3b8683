//! The database's files: creates them for their owner only, and checks that the open files are still in place.
//!
//! A file that is deleted or replaced stays open and accepts writes that are lost. So each
//! write first compares the open file with the one at the path.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::{PublicReason, StoreError, StoreResult};

/// Mode of files that only their owner may read and write.
const PRIVATE: u32 = 0o600;
/// The permission bits of everyone else.
const OTHERS: u32 = 0o077;
/// The suffixes of a database's files.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", LOCK_SUFFIX];
pub(super) const LOCK_SUFFIX: &str = ".lock";

/// Options that create a missing file with private permissions.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(PRIVATE);
    options
}

/// Creates the database file if it is missing. SQLite gives the log beside it the same mode.
pub(super) fn create(database: &Path) -> io::Result<()> {
    // Do not open an existing file: closing it would release this process's locks on it, SQLite's among them.
    if database.exists() { Ok(()) } else { private().open(database).map(drop) }
}

/// Returns the path of a file that belongs to a database.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

/// Returns the database's files that are accessible to others than their owner, with their modes.
pub(super) fn open_to_others(database: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |path: PathBuf| fs::metadata(&path).ok().map(|file| (path, file.permissions().mode() & 0o777));
    SUFFIXES.iter().filter_map(|suffix| mode(beside(database, suffix))).filter(|(_, mode)| mode & OTHERS != 0).collect()
}

/// Removes the permissions of others.
pub(super) fn tighten(database: &Path) {
    for (path, mode) in open_to_others(database) {
        match fs::set_permissions(&path, Permissions::from_mode(mode & !OTHERS)) {
            Ok(()) => {
                tracing::info!(file = %path.display(), before = format!("{mode:o}"), "removed the permissions of other users from a database file")
            }
            Err(error) => tracing::warn!(file = %path.display(), %error, "users other than the owner can access a database file"),
        }
    }
}

/// A file's device and inode number, which are the same under every name.
type FileId = (u64, u64);

fn id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The files that a store has open, and their paths.
pub(super) struct OpenFiles {
    database: PathBuf,
    files: Vec<(PathBuf, FileId)>,
    /// Whether it was logged that they are missing.
    reported: AtomicBool,
}

impl OpenFiles {
    /// Records the files of a database that has just been opened: the database and its log.
    pub fn new(database: &Path) -> Self {
        // The current folder may change later.
        let database = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
        let real = database.canonicalize().unwrap_or_else(|_| database.clone());
        let paths = [database.clone(), beside(&real, "-wal")];
        let files = paths.into_iter().filter_map(|path| id(&path).map(|id| (path, id))).collect();
        Self { database, files, reported: AtomicBool::new(false) }
    }

    /// Returns [`StoreError::Unavailable`] if an open file was deleted or replaced.
    pub fn check(&self) -> StoreResult<()> {
        let there = self.files.iter().all(|(path, opened)| id(path) == Some(*opened));
        if there {
            self.reported.store(false, Ordering::Relaxed);
            return Ok(());
        }
        if !self.reported.swap(true, Ordering::Relaxed) {
            tracing::error!(
                database = %self.database.display(),
                "the database file was deleted or replaced; refusing writes until it is back or the server is restarted"
            );
        }
        Err(StoreError::unavailable(PublicReason("the database file was deleted or replaced while the server was running".into())))
    }
}
