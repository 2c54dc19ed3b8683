//! Backups of a data folder, and their restoration.
//!
//! A backup is a folder with the database as one file, the files that flows made and, on request, the master key. It is written under another name
//! and renamed when it is complete, and so is a restored data folder: neither is ever there in part.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::master_key;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::store::backup::{copy_database, database_file, is_in_use};
use crate::store::examine::{Verdict, examine};

const DATABASE: &str = "dispatch.db";
const ASSETS: &str = "assets";
const MANIFEST: &str = "backup.json";
/// Version of the form of a backup folder.
const FORMAT: u32 = 1;

/// The contents of a backup or of a restored folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupContents {
    pub folder: PathBuf,
    pub database_bytes: u64,
    /// Number of files that flows made.
    pub assets: u64,
    /// The bucket that has the files instead; it is not copied.
    pub bucket: Option<String>,
    pub master_key: bool,
}

/// Writes a backup of the embedded database and of the data folder to `to`, which must not exist. A server may be using them.
pub async fn back_up(config: &Config, clock: &Clock, to: &Path, include_master_key: bool) -> Result<BackupContents> {
    let url = super::database(config);
    let database = database_file(&url).ok_or_else(use_own_tools)?;
    if to.symlink_metadata().is_ok() {
        return Err(Error::new(Kind::Conflict, "backup_exists", format!("{} exists already", to.display()))
            .next("choose another place; one folder for each backup, for example with the date in its name"));
    }
    let partial = beside(to)?;
    let written = write_backup(config, clock, database, &partial, include_master_key).await;
    let contents = written.and_then(|contents| publish(&partial, to).map(|()| contents));
    let contents = contents.inspect_err(|_| discard(&partial))?;
    Ok(BackupContents { folder: to.to_owned(), ..contents })
}

async fn write_backup(config: &Config, clock: &Clock, database: &Path, to: &Path, include_master_key: bool) -> Result<BackupContents> {
    create_folder(to)?;
    let copy = to.join(DATABASE);
    // The files come after the database: a file is kept before its row, so every row of the copy has its file.
    copy_database(database, &copy).await?;
    let database_bytes = fs::metadata(&copy).map_err(|error| failed(&copy, &error))?.len();
    let place = config.assets.clone().unwrap_or_else(|| config.data.join(ASSETS).display().to_string());
    let bucket = place.starts_with("s3://").then(|| place.clone());
    let folder = Path::new(place.strip_prefix("file://").unwrap_or(&place));
    let assets = if bucket.is_none() { copy_folder(folder, &to.join(ASSETS))? } else { 0 };
    let key = config.data.join(master_key::FILE);
    let has_key = include_master_key && key.exists();
    if has_key {
        copy_file(&key, &to.join(master_key::FILE))?;
    }
    let manifest = json!({
        "format": FORMAT, "version": env!("CARGO_PKG_VERSION"), "createdAt": clock.now(), "assets": assets, "bucket": bucket, "masterKey": has_key,
    });
    let path = to.join(MANIFEST);
    fs::write(&path, format!("{manifest}\n")).map_err(|error| failed(&path, &error))?;
    make_private(&path)?;
    Ok(BackupContents { folder: to.to_owned(), database_bytes, assets, bucket, master_key: has_key })
}

/// Restores a backup as the data folder of `config`, which must be empty or not exist. The database is checked before the folder is there.
pub async fn restore(config: &Config, clock: &Clock, from: &Path) -> Result<BackupContents> {
    if config.database_url.is_some() {
        return Err(use_own_tools());
    }
    let (source, target) = (from.join(DATABASE), config.data.as_path());
    if !source.is_file() {
        return Err(Error::new(Kind::Missing, "backup_not_found", format!("there is no {DATABASE} in {}", from.display()))
            .next("name a folder that `dispatch backup` wrote"));
    }
    if is_in_use(&source) {
        return Err(Error::new(Kind::Conflict, "database_in_use", format!("a server uses {}", source.display()))
            .next("make a backup with `dispatch backup` and restore that"));
    }
    if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) || target.is_file() {
        return Err(Error::new(Kind::Conflict, "data_folder_not_empty", format!("{} is not an empty folder", target.display()))
            .next("name another folder with --data, or move this one away; a server must not be using it"));
    }
    let partial = beside(target)?;
    let written = write_restored(from, clock, &partial).await;
    let contents = written.and_then(|contents| publish(&partial, target).map(|()| contents));
    let contents = contents.inspect_err(|_| discard(&partial))?;
    Ok(BackupContents { folder: target.to_owned(), ..contents })
}

async fn write_restored(from: &Path, clock: &Clock, to: &Path) -> Result<BackupContents> {
    create_folder(to)?;
    let copy = to.join(DATABASE);
    copy_file(&from.join(DATABASE), &copy)?;
    // A folder that was copied by other means may have a log beside its database.
    let log = format!("{DATABASE}-wal");
    if from.join(&log).exists() {
        copy_file(&from.join(&log), &to.join(&log))?;
    }
    let findings = examine(&format!("sqlite://{}", copy.display()), clock).await;
    if let Some(bad) = findings.into_iter().find(|finding| finding.verdict == Verdict::Bad) {
        return Err(Error::new(Kind::Invalid, "backup_faulty", format!("{}: {}", bad.check, bad.message))
            .next(bad.next.unwrap_or_else(|| "restore another backup".to_owned())));
    }
    let database_bytes = fs::metadata(&copy).map_err(|error| failed(&copy, &error))?.len();
    let assets = copy_folder(&from.join(ASSETS), &to.join(ASSETS))?;
    let has_key = from.join(master_key::FILE).exists();
    if has_key {
        copy_file(&from.join(master_key::FILE), &to.join(master_key::FILE))?;
    }
    Ok(BackupContents { folder: to.to_owned(), database_bytes, assets, bucket: None, master_key: has_key })
}

fn use_own_tools() -> Error {
    Error::new(Kind::Invalid, "backup_unsupported", "only the embedded database in a data folder is backed up and restored here")
        .next("for PostgreSQL use pg_dump and pg_restore, or its continuous archiving; keep the assets folder and the master key with them")
}

/// Returns the path at which a folder is written before it is complete.
fn beside(folder: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(folder).map_err(|error| failed(folder, &error))?;
    let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.ok_or_else(|| Error::new(Kind::Invalid, "backup_failed", format!("{} has no name", folder.display())))?;
    Ok(absolute.with_file_name(format!(".{name}.partial-{}", std::process::id())))
}

fn create_folder(folder: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| failed(folder, &error))
}

/// Gives a complete folder its name, durably.
fn publish(partial: &Path, folder: &Path) -> Result<()> {
    let done = sync(partial).and_then(|()| fs::rename(partial, folder)).and_then(|()| {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(parent)
    });
    done.map_err(|error| failed(folder, &error))
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn discard(partial: &Path) {
    if let Err(error) = fs::remove_dir_all(partial)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %partial.display(), %error, "failed to remove an incomplete folder");
    }
}

/// Copies a file durably; the copy is readable by its owner only.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let copied = File::open(from).and_then(|mut source| {
        let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        io::copy(&mut source, &mut target)?;
        target.sync_all()
    });
    copied.map_err(|error| failed(from, &error))
}

fn make_private(path: &Path) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|error| failed(path, &error))
}

/// Copies a folder, if it is there; returns the number of files. A file that a server deletes meanwhile is left out.
fn copy_folder(from: &Path, to: &Path) -> Result<u64> {
    if !from.is_dir() {
        return Ok(0);
    }
    create_folder(to)?;
    let mut copied = 0;
    for entry in fs::read_dir(from).map_err(|error| failed(from, &error))? {
        let entry = entry.map_err(|error| failed(from, &error))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copied += copy_folder(&source, &target)?;
        } else if source.exists() {
            match copy_file(&source, &target) {
                Err(_) if !source.exists() => {}
                done => {
                    done?;
                    copied += 1;
                }
            }
        }
    }
    Ok(copied)
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Invalid, "backup_failed", format!("{}: {error}", path.display()))
        .next("check the free space and the permissions, then repeat the command")
}
