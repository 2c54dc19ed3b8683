//! The database's files: made for their owner alone, and still the ones that are open.
//!
//! A file that is deleted, or replaced by another, stays open and takes writes that nobody will ever read. So a
//! write first compares the file that is open with the one that the path leads to.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::{PublicReason, StoreError, StoreResult};

/// Readable and writable by its owner alone.
const PRIVATE: u32 = 0o600;
/// The rights of everyone else.
const OTHERS: u32 = 0o077;
/// The names of a database's files, behind its own.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", LOCK_SUFFIX];
pub(super) const LOCK_SUFFIX: &str = ".lock";

/// Options that make a missing file private to its owner.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(PRIVATE);
    options
}

/// Makes the database's file if it is missing. SQLite gives the log beside it the same mode.
pub(super) fn create(database: &Path) -> io::Result<()> {
    // A file that is there is not opened: closing it would end this process's locks on it, SQLite's among them.
    if database.exists() { Ok(()) } else { private().open(database).map(drop) }
}

/// The name of a file that belongs to a database.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

/// The database's files that others than their owner have rights to, with their modes.
pub(super) fn open_to_others(database: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |path: PathBuf| fs::metadata(&path).ok().map(|file| (path, file.permissions().mode() & 0o777));
    SUFFIXES.iter().filter_map(|suffix| mode(beside(database, suffix))).filter(|(_, mode)| mode & OTHERS != 0).collect()
}

/// Takes the rights of others away.
pub(super) fn tighten(database: &Path) {
    for (path, mode) in open_to_others(database) {
        match fs::set_permissions(&path, Permissions::from_mode(mode & !OTHERS)) {
            Ok(()) => tracing::info!(file = %path.display(), before = format!("{mode:o}"), "the database's file is now its owner's alone"),
            Err(error) => tracing::warn!(file = %path.display(), %error, "others than its owner have rights to a file of the database"),
        }
    }
}

/// A file's device and number, which stay the same under whatever name.
type FileId = (u64, u64);

fn id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The files that a store has open, and where they were.
pub(super) struct OpenFiles {
    database: PathBuf,
    files: Vec<(PathBuf, FileId)>,
    /// The log was told that they are not there any more.
    reported: AtomicBool,
}

impl OpenFiles {
    /// Notes the files of a database that has just been opened: itself, and its log.
    pub fn new(database: &Path) -> Self {
        // The current folder may change.
        let database = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
        let real = database.canonicalize().unwrap_or_else(|_| database.clone());
        let paths = [database.clone(), beside(&real, "-wal")];
        let files = paths.into_iter().filter_map(|path| id(&path).map(|id| (path, id))).collect();
        Self { database, files, reported: AtomicBool::new(false) }
    }

    /// Refuses ([`StoreError::Unavailable`]) when another file, or none, has taken the place of an open one.
    pub fn check(&self) -> StoreResult<()> {
        let there = self.files.iter().all(|(path, opened)| id(path) == Some(*opened));
        if there {
            self.reported.store(false, Ordering::Relaxed);
            return Ok(());
        }
        if !self.reported.swap(true, Ordering::Relaxed) {
            tracing::error!(
                database = %self.database.display(),
                "the database's file was deleted or replaced; nothing is accepted until it is back, or the server is restarted"
            );
        }
        Err(StoreError::unavailable(PublicReason("the database's file was deleted or replaced under the server".into())))
    }
}
