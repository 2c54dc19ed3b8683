//! Diagnoses a SQLite database file.

use std::path::Path;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::{MIGRATIONS, files, health, owner};
use crate::store::examine::{Finding, Verdict};

/// Below this much free space a disk counts as full: the write-ahead log alone grows to half of it.
const MIN_FREE_BYTES: u64 = 64 * 1024 * 1024;
/// Below this much free space a disk will soon be full.
const LOW_FREE_BYTES: u64 = 1024 * 1024 * 1024;

/// Checks the database at `path`.
pub(in crate::store) async fn examine(path: &Path) -> Vec<Finding> {
    if !path.exists() {
        let next = "set its folder with --data, or start `dispatch serve` once to create it";
        return vec![Finding::bad("file", format!("there is no database {}", path.display()), next)];
    }
    let mut findings = vec![Finding::good("file", format!("{} is there", path.display())), server(path), modes(path), free_space(path)];
    // Open the database only after the locks were checked: closing a descriptor releases this process's locks on the file.
    let options = SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
    match options.connect().await {
        Ok(mut connection) => {
            let soundness = soundness(&mut connection).await;
            // The contents of a damaged file are not reliable.
            let is_sound = soundness.verdict == Verdict::Good;
            findings.push(soundness);
            if is_sound {
                findings.push(migrations(&mut connection).await);
            }
        }
        Err(error) if health::is_damage(&error) => findings.push(damaged(&error.to_string())),
        Err(error) => findings.push(Finding::bad(
            "reachable",
            format!("the database cannot be opened: {error}"),
            "check that this user may read the file and write its folder",
        )),
    }
    findings
}

fn server(path: &Path) -> Finding {
    let found = if owner::is_held(path) { "a server uses it; a second one would be refused" } else { "no server uses it" };
    Finding::good("server", found)
}

fn modes(path: &Path) -> Finding {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let open: Vec<String> = files::open_to_others(&real).iter().map(|(file, mode)| format!("{} ({mode:o})", file.display())).collect();
    if open.is_empty() {
        return Finding::good("modes", "only their owner can access the files");
    }
    let message = format!("users other than the owner can access {}", open.join(", "));
    Finding::warning("modes", message, "the next start of a server corrects this, or run `chmod 600` now")
}

fn free_space(path: &Path) -> Finding {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let free = match rustix::fs::statvfs(folder) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => return Finding::warning("disk", format!("the free space cannot be determined: {error}"), "check it with `df`"),
    };
    let message = format!("{} MiB are free", free / (1024 * 1024));
    match free {
        0..MIN_FREE_BYTES => Finding::bad("disk", message, "free some space: writes are refused on a full disk"),
        MIN_FREE_BYTES..LOW_FREE_BYTES => Finding::warning("disk", message, "free some space soon"),
        _ => Finding::good("disk", message),
    }
}

async fn soundness(connection: &mut SqliteConnection) -> Finding {
    match health::first_fault(connection).await {
        Ok(None) => Finding::good("integrity", "`pragma quick_check` finds nothing wrong"),
        Ok(Some(why)) => damaged(&why),
        Err(error) => Finding::bad("integrity", format!("the file cannot be checked: {error}"), "try again, and check the disk"),
    }
}

fn damaged(why: &str) -> Finding {
    Finding::bad(
        "integrity",
        format!("the file is damaged: {why}"),
        "restore a backup, or recover what can be read into a new file: `sqlite3 dispatch.db .recover | sqlite3 new.db`",
    )
}

async fn migrations(connection: &mut SqliteConnection) -> Finding {
    let there: Result<Option<String>, sqlx::Error> =
        sqlx::query_scalar("select name from sqlite_schema where name = '_sqlx_migrations'").fetch_optional(&mut *connection).await;
    let found: Result<Option<i64>, sqlx::Error> = match there {
        Ok(Some(_)) => sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(connection).await,
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    match found {
        Ok(found) => Finding::of_migrations(found, MIGRATIONS.last().map_or(0, |(version, _, _)| *version)),
        Err(error) => {
            Finding::bad("migrations", format!("the schema's version cannot be read: {error}"), "see the check of the file itself")
        }
    }
}
