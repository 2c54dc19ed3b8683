//! The store on SQLite: one file, one writer connection, a few readers. The default.
//!
//! WAL with `synchronous=FULL`: a commit that was answered survives power loss. Runs go through the group
//! writer; everything else takes the same connection for a short transaction.

mod accounts;
pub(in crate::store) mod backup;
mod census;
mod documents;
pub(in crate::store) mod examine;
mod files;
mod flows;
mod group;
mod health;
mod idempotency;
mod jobs;
mod logs;
mod notices;
mod owner;
mod page_runs;
mod pen;
mod quotas;
mod readers;
mod records;
mod retention;
mod runs;
mod secrets;
mod usage;
mod vault;
mod vectors;
mod waits;
mod wal;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex as SyncMutex;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Row, SqlStr};
use tokio::sync::{MutexGuard, broadcast};

use super::group::Writer;
use super::row::Columns;
use super::{Rung, Store, StoreError, StoreResult};
use crate::clock::Clock;

/// WAL pages between checkpoints (4 KiB each): keeps the file at a few megabytes.
const CHECKPOINT_PAGES: u32 = 1_000;
/// The WAL file is truncated to this size after a checkpoint that emptied it.
const WAL_LIMIT: u32 = 16 * 1024 * 1024;

/// See the module.
pub struct SqliteStore {
    readers: readers::Readers,
    pen: Arc<pen::Pen>,
    writer: SyncMutex<Option<Writer>>,
    task: SyncMutex<Option<tokio::task::JoinHandle<()>>>,
    bell: broadcast::Sender<Rung>,
    /// The task that checks a large file.
    check: SyncMutex<Option<tokio::task::JoinHandle<()>>>,
    /// Held until the store is closed by the process that advances runs.
    owner: SyncMutex<Option<owner::Owner>>,
}

pub(super) fn migrations(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let list = files
        .iter()
        .map(|(version, name, sql)| Migration::new(*version, (*name).into(), MigrationType::Simple, SqlStr::from_static(sql), false));
    Migrator::with_migrations(list.collect())
}

/// Every migration, oldest first.
pub const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "init", include_str!("../../../migrations/sqlite/0001_init.sql")),
    (2, "compaction", include_str!("../../../migrations/sqlite/0002_compaction.sql")),
    (3, "agents", include_str!("../../../migrations/sqlite/0003_agents.sql")),
    (4, "secrets", include_str!("../../../migrations/sqlite/0004_secrets.sql")),
    (5, "documents", include_str!("../../../migrations/sqlite/0005_documents.sql")),
    (6, "vectors", include_str!("../../../migrations/sqlite/0006_vectors.sql")),
    (7, "jobs", include_str!("../../../migrations/sqlite/0007_jobs.sql")),
    (8, "runs_of_records", include_str!("../../../migrations/sqlite/0008_runs_of_records.sql")),
    (9, "notices", include_str!("../../../migrations/sqlite/0009_notices.sql")),
    (10, "untold_jobs", include_str!("../../../migrations/sqlite/0010_untold_jobs.sql")),
    (11, "write_probe", include_str!("../../../migrations/sqlite/0011_write_probe.sql")),
    (12, "success", include_str!("../../../migrations/sqlite/0012_success.sql")),
    (13, "turns_of_jobs", include_str!("../../../migrations/sqlite/0013_turns_of_jobs.sql")),
    (17, "usage", include_str!("../../../migrations/sqlite/0017_usage.sql")),
    (18, "retention", include_str!("../../../migrations/sqlite/0018_retention.sql")),
    (19, "turns_of_runs", include_str!("../../../migrations/sqlite/0019_turns_of_runs.sql")),
];

/// Primary result codes (sqlite.org/rescode.html) of faults that may pass: busy, locked, out of memory, read-only,
/// interrupted, input or output error, corrupt, full, cannot open, protocol, not a database.
const PASSING: [i64; 11] = [5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 26];

/// Returns the failure's primary SQLite result code, if it has one.
fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code = error.as_database_error()?.code()?.parse::<i64>().ok()?;
    Some(code & 0xff)
}

fn failed(error: sqlx::Error) -> StoreError {
    let refused = match &error {
        sqlx::Error::Database(_) => !primary_code(&error).is_some_and(|code| PASSING.contains(&code)),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Encode(_) => true,
        _ => false,
    };
    if refused { StoreError::Refused(error.into()) } else { StoreError::unavailable(error) }
}

/// A taken unique key is an answer; everything else is a failure.
fn unless_taken(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match &error {
        sqlx::Error::Database(cause) if cause.is_unique_violation() => StoreError::Exists(what),
        _ => failed(error),
    }
}

impl Columns for SqliteRow {
    fn text(&self, column: &'static str) -> StoreResult<Option<String>> {
        self.try_get(column).map_err(failed)
    }

    fn number(&self, column: &'static str) -> StoreResult<Option<i64>> {
        self.try_get(column).map_err(failed)
    }

    fn bytes(&self, column: &'static str) -> StoreResult<Option<Vec<u8>>> {
        self.try_get(column).map_err(failed)
    }
}

impl SqliteStore {
    /// Opens, or creates, the database in `path` and brings its schema up to date. For looking and administrating
    /// beside the server that owns the file.
    pub async fn open(path: &Path) -> StoreResult<Self> {
        Self::open_as(path, None).await
    }

    /// [`SqliteStore::open`] as the one process that advances the file's runs: a second one is refused
    /// ([`StoreError::Taken`]), a damaged file is refused ([`StoreError::Corrupt`]), and the runs of an owner that died
    /// are due at once.
    pub async fn open_alone(path: &Path) -> StoreResult<Self> {
        let owner = owner::Owner::take(path)?;
        files::tighten(&path.canonicalize().map_err(StoreError::unavailable)?);
        Self::open_as(path, Some(owner)).await
    }

    async fn open_as(path: &Path, owner: Option<owner::Owner>) -> StoreResult<Self> {
        files::create(path).map_err(StoreError::unavailable)?;
        let shared = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .pragma("cache_size", "-16384")
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        let options = shared
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
            .pragma("journal_size_limit", WAL_LIMIT.to_string());
        let mut write = options.connect().await.map_err(|error| unless_damaged(path, error))?;
        let checks_first = owner.is_some() && health::is_checked_first(path);
        if checks_first && let Some(why) = health::first_fault(&mut write).await.map_err(failed)? {
            return Err(StoreError::Corrupt { path: path.display().to_string(), why });
        }
        migrate(&mut write).await?;
        if owner.is_some() {
            owner::inherit(&mut write).await?;
        }
        let health = Arc::new(health::Health::new(path));
        let checks_later = owner.is_some() && !checks_first;
        let check = checks_later.then(|| health::check_in_background(shared.clone(), health.clone()));
        let readers = readers::Readers::new(shared, health.clone());
        let (bell, _) = broadcast::channel(1_024);
        let pen = Arc::new(pen::Pen::new(write, options, path, health));
        let (writer, task) = Writer::start(group::Driver::new(pen.clone(), bell.clone()), Clock::system());
        Ok(Self {
            readers,
            pen,
            writer: SyncMutex::new(Some(writer)),
            task: SyncMutex::new(Some(task)),
            bell,
            check: SyncMutex::new(check),
            owner: SyncMutex::new(owner),
        })
    }

    fn writer(&self) -> StoreResult<Writer> {
        self.writer.lock().clone().ok_or_else(|| StoreError::unavailable("the store is closed"))
    }

    /// A connection that only reads.
    async fn reading(&self) -> StoreResult<readers::Reading<'_>> {
        self.readers.take().await
    }

    /// The writer connection, for a short transaction.
    async fn writing(&self) -> StoreResult<MutexGuard<'_, SqliteConnection>> {
        self.pen.take().await
    }
}

/// Returns why a file cannot be opened.
fn unless_damaged(path: &Path, error: sqlx::Error) -> StoreError {
    if health::is_damage(&error) {
        return StoreError::Corrupt { path: path.display().to_string(), why: error.to_string() };
    }
    failed(error)
}

async fn migrate(connection: &mut SqliteConnection) -> StoreResult<()> {
    let known = MIGRATIONS.last().map_or(0, |(version, _, _)| *version);
    let found = sqlx::query_scalar::<_, Option<i64>>("select max(version) from _sqlx_migrations").fetch_one(&mut *connection).await;
    if let Ok(Some(found)) = found
        && found > known
    {
        return Err(StoreError::Newer { found, known });
    }
    migrations(MIGRATIONS).run_direct(None, connection, false).await.map_err(StoreError::unavailable)
}

#[async_trait]
impl Store for SqliteStore {
    fn bell(&self) -> broadcast::Receiver<Rung> {
        self.bell.subscribe()
    }

    async fn ping(&self) -> StoreResult<()> {
        self.pen.health.check()?;
        // A row of a table, so that pages are read, too.
        let read = sqlx::query("select count(*) from write_probe").fetch_one(&mut *self.reading().await?).await;
        if let Err(error) = &read {
            self.pen.health.note(error);
        }
        read.map(drop).map_err(failed)?;
        self.writer()?.probe().await
    }

    async fn close(&self) {
        self.writer.lock().take();
        if let Some(check) = self.check.lock().take() {
            check.abort();
        }
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
        self.readers.close().await;
        if let Ok(mut write) = self.writing().await {
            let _ = sqlx::query("pragma wal_checkpoint(truncate)").execute(&mut *write).await;
        }
        self.owner.lock().take();
    }

    fn name(&self) -> &'static str {
        "sqlite"
    }
}
