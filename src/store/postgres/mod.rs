//! The store on PostgreSQL (15 or newer): for many nodes over one database.
//!
//! Runs go through one group writer per node, on a connection of its own; everything else is one statement on a
//! pooled connection, or a unit of work in a task of its own. Isolation is `read committed`: every write is a
//! compare-and-set on its row, and whatever belongs to a run is changed under the run's row lock. Nodes wake each
//! other by NOTIFY; a lost notification only causes a delay. A session that cannot write is not reused
//! (`session`).

mod accounts;
mod census;
mod documents;
pub(in crate::store) mod examine;
mod flows;
mod group;
mod idempotency;
mod jobs;
mod listen;
mod logs;
mod notices;
mod page_runs;
mod pooler;
mod quotas;
mod records;
mod retention;
mod runs;
pub mod schema;
mod secrets;
mod session;
mod usage;
mod vault;
mod vectors;
mod waits;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow, PgSslMode};
use sqlx::{ConnectOptions, Connection, Row, SqlStr};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::session::SessionCheck;
use super::group::Writer;
use super::row::Columns;
use super::{Rung, Store, StoreError, StoreResult};
use crate::clock::Clock;

/// How long a caller waits for a pooled connection.
const ACQUIRE: Duration = Duration::from_secs(10);
/// The encoding that can represent every text.
const ENCODING: &str = "UTF8";
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 200;

/// Every migration, oldest first.
pub const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "init", include_str!("../../../migrations/postgres/0001_init.sql")),
    (2, "compaction", include_str!("../../../migrations/postgres/0002_compaction.sql")),
    (3, "agents", include_str!("../../../migrations/postgres/0003_agents.sql")),
    (4, "secrets", include_str!("../../../migrations/postgres/0004_secrets.sql")),
    (5, "documents", include_str!("../../../migrations/postgres/0005_documents.sql")),
    (6, "vectors", include_str!("../../../migrations/postgres/0006_vectors.sql")),
    (7, "jobs", include_str!("../../../migrations/postgres/0007_jobs.sql")),
    (8, "runs_of_records", include_str!("../../../migrations/postgres/0008_runs_of_records.sql")),
    (9, "notices", include_str!("../../../migrations/postgres/0009_notices.sql")),
    (10, "untold_jobs", include_str!("../../../migrations/postgres/0010_untold_jobs.sql")),
    (11, "write_probe", include_str!("../../../migrations/postgres/0011_write_probe.sql")),
    (12, "success", include_str!("../../../migrations/postgres/0012_success.sql")),
    (13, "turns_of_jobs", include_str!("../../../migrations/postgres/0013_turns_of_jobs.sql")),
    (17, "usage", include_str!("../../../migrations/postgres/0017_usage.sql")),
    (18, "retention", include_str!("../../../migrations/postgres/0018_retention.sql")),
    (19, "turns_of_runs", include_str!("../../../migrations/postgres/0019_turns_of_runs.sql")),
];

/// See the module.
pub struct PostgresStore {
    pool: PgPool,
    writer: Mutex<Option<Writer>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    bell: broadcast::Sender<Rung>,
    /// The schema of pgvector, where the database has it.
    pgvector: Option<String>,
}

impl PostgresStore {
    /// Connects to `postgres://user:password@host:port/database` and brings its schema up to date. Holds up to
    /// `connections` connections, one more to write groups and one more to listen.
    pub async fn open(url: &str, connections: u32, clock: Clock) -> StoreResult<Self> {
        let options: PgConnectOptions = url.parse().map_err(|_| StoreError::Address("a postgres:// address that cannot be read".into()))?;
        let named = options.get_application_name().is_some();
        let options = if named { options } else { options.application_name("dispatch") };
        let options = plain_if_near(options).statement_cache_capacity(STATEMENTS).disable_statement_logging();
        let pgvector = migrate(&options, &clock).await?;

        let (bell, _) = broadcast::channel(1_024);
        let (stop, own) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let ears = listen::Ears { options: options.clone(), bell: bell.clone(), own: own.clone(), clock: clock.clone() };
        let listener = ears.start(stop.clone()).await?;
        let pool = pool(options.clone(), connections, clock.clone());
        let (writer, task) = Writer::start(group::Driver::new(options, bell.clone(), own, clock.clone()), clock);
        Ok(Self { pool, writer: Mutex::new(Some(writer)), tasks: Mutex::new(vec![task, listener]), stop, bell, pgvector })
    }

    fn writer(&self) -> StoreResult<Writer> {
        self.writer.lock().clone().ok_or_else(|| StoreError::unavailable("the store is closed"))
    }
}

/// No encryption to a server on this machine, unless the address asks for it. It would protect from nobody, and it would cost much: the driver
/// does not set `TCP_NODELAY`, so whatever is longer than one TLS record waits for the delayed acknowledgement of its first one, 40 ms.
fn plain_if_near(options: PgConnectOptions) -> PgConnectOptions {
    let host = options.get_host();
    let near = host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let undecided = matches!(options.get_ssl_mode(), PgSslMode::Prefer | PgSslMode::Allow);
    if near && undecided { options.ssl_mode(PgSslMode::Disable) } else { options }
}

fn pool(options: PgConnectOptions, connections: u32, clock: Clock) -> PgPool {
    let check = SessionCheck::new(clock);
    PgPoolOptions::new()
        .max_connections(connections.max(1))
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .before_acquire(move |connection, metadata| {
            let due = check.is_due(metadata.idle_for);
            Box::pin(async move { if due { session::is_usable(connection, metadata.age).await } else { Ok(true) } })
        })
        .after_connect(|connection, _| Box::pin(session::configure(connection)))
        .connect_lazy_with(options)
}

/// Brings the schema up to date; the schema of pgvector, where there is one.
async fn migrate(options: &PgConnectOptions, clock: &Clock) -> StoreResult<Option<String>> {
    let mut connection = options.connect().await.map_err(|error| unreachable(options, error))?;
    // Check this before statements are prepared: behind a pooler that fails without naming the reason.
    pooler::refuse_shared_sessions(&mut connection, options, clock).await?;
    session::configure(&mut connection).await.map_err(failed)?;
    let encoding: String =
        sqlx::query_scalar("select current_setting('server_encoding')").fetch_one(&mut connection).await.map_err(failed)?;
    if encoding != ENCODING {
        return Err(StoreError::Encoding(encoding));
    }
    let known = MIGRATIONS.last().map_or(0, |(version, _, _)| *version);
    let there: bool =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(&mut connection).await.map_err(failed)?;
    if there {
        let found: Option<i64> =
            sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(&mut connection).await.map_err(failed)?;
        if let Some(found) = found.filter(|found| *found > known) {
            return Err(StoreError::Newer { found, known });
        }
    }
    let list = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| Migration::new(*version, (*name).into(), MigrationType::Simple, SqlStr::from_static(sql), false));
    // Under an advisory lock: nodes that start together take turns.
    let done = Migrator::with_migrations(list.collect()).run_direct(None, &mut connection, false).await;
    done.map_err(|error| match error {
        MigrateError::VersionMissing(found) if found > known => StoreError::Newer { found, known },
        other => StoreError::unavailable(other),
    })?;
    let pgvector = vectors::extension(&mut connection).await?;
    connection.close().await.map_err(failed)?;
    Ok(pgvector)
}

/// Whether the server, not the statement, is at fault: connection, resources, shutdown, conflict with others, standby.
fn passes(code: &str) -> bool {
    ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class)) || code == "55P03" || code == "25006"
}

/// The error code for a text that no column can store: it contains a NUL character.
const NUL_IN_TEXT: &str = "22021";

fn failed(error: sqlx::Error) -> StoreError {
    session::note(&error);
    // Writes and lookups check their texts first (`store/text`); this is for a path that does not.
    if error.as_database_error().and_then(|cause| cause.code()).is_some_and(|code| code == NUL_IN_TEXT) {
        return StoreError::Unfit { what: "a text", why: "it holds a NUL character" };
    }
    let refused = match &error {
        sqlx::Error::Database(cause) => !cause.code().is_some_and(|code| passes(&code)),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Encode(_) => true,
        _ => false,
    };
    if refused { StoreError::Refused(error.into()) } else { StoreError::unavailable(error) }
}

/// Like [`failed`], for the first connection: names the server that does not answer, but neither the user nor the password.
fn unreachable(options: &PgConnectOptions, error: sqlx::Error) -> StoreError {
    if matches!(error, sqlx::Error::Database(_)) {
        return failed(error);
    }
    StoreError::Unreachable { server: format!("{}:{}", options.get_host(), options.get_port()), why: error.to_string() }
}

/// A taken unique key is an answer; everything else is a failure.
fn unless_taken(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match &error {
        sqlx::Error::Database(cause) if cause.is_unique_violation() => StoreError::Exists(what),
        _ => failed(error),
    }
}

/// Runs a unit of several statements to its end, even when its caller goes away: a transaction whose `begin` was
/// cut short would return to the pool still open (sqlx issue 4385).
async fn unit<T: Send + 'static>(work: impl Future<Output = StoreResult<T>> + Send + 'static) -> StoreResult<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(StoreError::unavailable(error)))
}

impl Columns for PgRow {
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

#[async_trait]
impl Store for PostgresStore {
    fn bell(&self) -> broadcast::Receiver<Rung> {
        self.bell.subscribe()
    }

    async fn ping(&self) -> StoreResult<()> {
        sqlx::query("select 1").fetch_one(&self.pool).await.map(drop).map_err(failed)?;
        self.writer()?.probe().await
    }

    async fn close(&self) {
        self.writer.lock().take();
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            let _ = task.await;
        }
        self.pool.close().await;
    }

    fn name(&self) -> &'static str {
        "postgres"
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_on_this_machine_is_spoken_to_in_the_clear() {
        let mode = |address: &str| format!("{:?}", plain_if_near(format!("postgres://u@{address}").parse().unwrap()).get_ssl_mode());
        for near in ["127.0.0.1/d", "localhost:5433/d", "[::1]/d", "127.8.8.8/d?sslmode=prefer"] {
            assert_eq!(mode(near), "Disable", "{near}");
        }
        for far in ["db.example/d", "10.0.0.7/d", "localhost.example/d"] {
            assert_eq!(mode(far), "Prefer", "{far}");
        }
        assert_eq!(mode("127.0.0.1/d?sslmode=require"), "Require");
    }
}
