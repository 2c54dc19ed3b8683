//! The store's traits: one per noun, one object behind them all.
//!
//! `sqlite` (the default), `postgres` (many nodes) and `memory` (simulation) implement them and pass one contract
//! suite. Every method that touches a tenant's data takes the tenant. A write is a whole fact: it succeeds or
//! fails alone on its own compare-and-set, whichever others share its transaction.
//!
//! Must not know: what a step is, who is calling, any surface. No SQL outside this folder.
//!
//! What only needs to be kept whole is a [`Document`]: a struct and its kind's name, and nothing here. To add a noun: a trait here, one file per database with the same name, a migration for each, cases in the
//! contract suite.

mod accounts;
mod batch;
mod census;
mod collection;
mod documents;
mod due_runs;
mod flows;
mod group;
mod idempotency;
mod jobs;
mod leases;
mod logs;
mod notices;
mod page_runs;
mod payload;
mod quotas;
mod records;
mod retention;
mod row;
mod runs;
mod secrets;
mod text;
mod usage;
mod vault;
mod vectors;
mod waits;

pub mod backup;
pub mod examine;
pub mod faulty;
pub mod memory;
pub mod postgres;
pub mod sealing;
pub mod sqlite;

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

pub use accounts::{Accounts, ApiKey, Tenant};
pub use census::{Census, Censuses};
pub use collection::{Collection, Document, Kept, due, forget};
pub use documents::{DocumentQuery, DocumentRow, Documents};
pub use due_runs::last_turn;
pub use flows::{FlowVersion, Flows, SavedFlow};
pub use idempotency::{Answer, Begun, Idempotency, Receipt};
pub use jobs::{Claimed, ClaimedJob, DeadFilter, Enqueued, JobClaim, JobCount, JobFilter, JobTurns, Jobs, MOST_CLAIMED, NewJob, Queue};
pub use logs::{Logs, SmallLog};
pub use notices::{NOTICE, Notices};
pub use page_runs::PageRuns;
pub use quotas::{LimitsRow, QuotaAnswer, QuotaChange, QuotaCount, QuotaSlot, QuotaTake, Quotas};
pub use records::{RecordPage, RecordQuery, Records};
pub use retention::{BLOB_GRACE, BlobSweep, EndedRun, Retention, RunDeletion};
pub use runs::{Blob, ChildEnd, Claim, Commit, Committed, Created, Lease, NewRun, Renewed, RunFilter, RunKey, RunSummary, Runs};
pub use secrets::{Secrets, StoredSecret};
pub use usage::{UsageFigures, UsageGrouping, UsageQuery, UsageTotal, Usages};
pub use vault::{Credential, Vaults};
pub use vectors::{Near, Nearest, Put, Vectors};
pub use waits::{MAX_SIGNAL_BYTES, MAX_SIGNALS, Resolve, Resolved, Signal, SignalKey, Waits, is_reserved_signal};

use crate::clock::Clock;
use crate::error::{Error, Kind};
use crate::id::RunId;

/// A store failure.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot serve now: connection lost, locked, full disk.
    #[error("the database cannot serve now: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database's server cannot be reached at the start.
    #[error("the database server at {server} cannot be reached: {why}")]
    Unreachable { server: String, why: String },
    /// A row holds what this version cannot read.
    #[error("broken row in {table}.{column} of {row}: {why}")]
    Broken { table: &'static str, column: &'static str, row: String, why: String },
    /// A unique key is taken.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// The database was written by a newer version.
    #[error("the database has schema version {found}; this binary knows {known}: use a newer binary")]
    Newer { found: i64, known: i64 },
    /// A value that no database can keep; the same call fails again.
    #[error("{what} cannot be stored: {why}")]
    Unfit { what: &'static str, why: &'static str },
    /// The database refused a statement; the same call fails again.
    #[error("the database refused a statement: {0}")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another process owns the database file.
    #[error("another server works on {0}")]
    Taken(String),
    /// What is sealed, and whose key is not here.
    #[error("the tenant's key is not here")]
    Locked,
    /// The database file is damaged.
    #[error("the database file {path} is damaged: {why}")]
    Corrupt { path: String, why: String },
    /// The database's encoding cannot represent every text.
    #[error("the database has the encoding {0}, which cannot represent every text; it must be UTF8")]
    Encoding(String),
    /// The connection's transactions run in different sessions of the database.
    #[error(
        "the database is reached through a connection pooler in transaction mode (such as PgBouncer's `pool_mode = transaction`), where prepared statements, session settings and LISTEN do not work"
    )]
    Pooled,
    /// The run has reached its limit on signals; the same call fails again.
    #[error("the run has reached its limit on signals")]
    TooManySignals,
    /// The text that names the database names none.
    #[error("not a database address: {0}; use sqlite://path or postgres://user@host/database")]
    Address(String),
}

impl StoreError {
    /// Wraps a cause that should pass by itself.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(source.into())
    }

    /// The reason that may be shown to everyone why the database is unavailable.
    pub fn public_reason(&self) -> Option<&str> {
        match self {
            Self::Unavailable(source) => source.downcast_ref::<PublicReason>().map(|reason| &*reason.0),
            _ => None,
        }
    }

    /// The same failure for one more of the callers that share it.
    fn again(&self) -> Self {
        if let Some(reason) = self.public_reason() {
            return Self::unavailable(PublicReason(reason.to_owned()));
        }
        match self {
            Self::Unavailable(source) => Self::unavailable(source.to_string()),
            Self::Locked => Self::Locked,
            other => Self::Refused(other.to_string().into()),
        }
    }
}

/// Returns whether a failure is that of a disk without space: the database's, or one below it.
pub fn is_disk_full(error: &(dyn StdError + 'static)) -> bool {
    fn below<'a>(cause: &&'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        (**cause).source()
    }
    std::iter::successors(Some(error), below).any(|cause| {
        let code = cause.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error).and_then(|cause| cause.code());
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        code.is_some_and(|code| FULL.contains(&&*code)) || matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    })
}

/// The codes of databases without space: SQLite's for its files and for the shared index of its log (`SQLITE_FULL`, `SQLITE_IOERR_SHMSIZE`), and
/// PostgreSQL's (`disk_full`).
const FULL: [&str; 3] = ["13", "4874", "53100"];

/// A reason why a database is unavailable, without paths, hosts and user names.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PublicReason(pub String);

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                Error::new(Kind::Unavailable, "store_unavailable", "the database cannot serve now; nothing was changed")
                    .retry_after(std::time::Duration::from_secs(1))
                    .because(error)
            }
            StoreError::Unreachable { .. } => Error::new(Kind::Unavailable, "database_unreachable", error.to_string())
                .next("start the database server, or correct its address with --database-url"),
            StoreError::Exists(what) => Error::new(Kind::Conflict, "already_exists", format!("{what} exists already")),
            StoreError::Locked => {
                Error::new(Kind::Unavailable, "key_unavailable", "what this tenant keeps is sealed, and its key is not here")
                    .next("begin a session at POST /api/session, which brings the key")
            }
            StoreError::Unfit { .. } => Error::new(Kind::Invalid, "unstorable", error.to_string()),
            StoreError::TooManySignals => {
                let bytes = MAX_SIGNAL_BYTES / (1024 * 1024);
                let message = format!("the execution has reached its limit of {MAX_SIGNALS} signals or {bytes} MiB of payloads");
                Error::new(Kind::Conflict, "too_many_signals", message)
                    .next("send fewer or smaller signals, for example a reference instead of the data, or use another execution")
            }
            StoreError::Address(_) => Error::new(Kind::Invalid, "database_address_invalid", error.to_string()),
            StoreError::Taken(_) => Error::new(Kind::Conflict, "database_in_use", error.to_string())
                .next("stop the other server, choose another --data folder, or use PostgreSQL for several servers"),
            StoreError::Newer { .. } => Error::new(Kind::Invalid, "database_newer", error.to_string())
                .next("start the newest binary that served this database, or restore a backup from before"),
            StoreError::Corrupt { .. } => Error::new(Kind::Invalid, "database_corrupt", error.to_string())
                .next("restore a backup, or recover what can be read into a new file: `sqlite3 dispatch.db .recover | sqlite3 new.db`"),
            StoreError::Encoding(_) => Error::new(Kind::Invalid, "database_encoding_unsupported", error.to_string()).next(
                "create another with `create database NAME encoding 'UTF8' template template0`, and move the data there with pg_dump",
            ),
            StoreError::Pooled => Error::new(Kind::Invalid, "database_pooler_unsupported", error.to_string())
                .next("set the pooler to session mode, or give the database's direct address with --database-url"),
            other => Error::internal(other),
        }
    }
}

/// The result of a store call.
pub type StoreResult<T> = Result<T, StoreError>;

/// What the bell tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    pub run: RunId,
    /// Somebody must look at the run now; otherwise only its log grew.
    pub due: bool,
}

impl Rung {
    pub const fn due(run: RunId) -> Self {
        Self { run, due: true }
    }
}

/// Everything a database must be able to do.
#[async_trait]
pub trait Store:
    Runs
    + Retention
    + PageRuns
    + Notices
    + Censuses
    + Jobs
    + Logs
    + Waits
    + Flows
    + Records
    + Documents
    + Accounts
    + Idempotency
    + Secrets
    + Quotas
    + Usages
    + Vaults
    + Vectors
    + Send
    + Sync
    + 'static
{
    /// Rings when a run became due or, where other nodes share the database, when its log grew there. A hint: it may be
    /// lost or late, so whoever listens also looks from time to time.
    fn bell(&self) -> broadcast::Receiver<Rung>;

    /// Whether the database answers, and takes writes if it refused the last one.
    async fn ping(&self) -> StoreResult<()>;

    /// Finishes what was accepted and closes.
    async fn close(&self);

    /// The name for logs and metrics: `sqlite`, `postgres`, `memory`.
    fn name(&self) -> &'static str;
}

/// A store behind a pointer, as the parts above hold it.
pub type SharedStore = Arc<dyn Store>;

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most pooled connections to PostgreSQL; SQLite has a fixed few.
    pub connections: u32,
    /// Times waits and attempts to reconnect.
    pub clock: Clock,
    /// This process advances runs. On SQLite it is then the only one: see [`sqlite::SqliteStore::open_alone`].
    pub advances: bool,
}

impl Options {
    /// The defaults, for looking and administrating beside a server.
    pub const fn new(clock: Clock) -> Self {
        Self { connections: POOL_CONNECTIONS, clock, advances: false }
    }

    /// For the process that advances runs.
    pub fn advancing(self) -> Self {
        Self { advances: true, ..self }
    }
}

/// Opens the database at `sqlite://path` or `postgres://user@host/database` and brings its schema up to date.
pub async fn open(url: &str, options: Options) -> StoreResult<SharedStore> {
    match url.split_once("://") {
        Some(("sqlite", path)) if !path.is_empty() && options.advances => {
            Ok(Arc::new(sqlite::SqliteStore::open_alone(path.as_ref()).await?))
        }
        Some(("sqlite", path)) if !path.is_empty() => Ok(Arc::new(sqlite::SqliteStore::open(path.as_ref()).await?)),
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(postgres::PostgresStore::open(url, options.connections, options.clock).await?)),
        // The text may hold a password, so only its scheme is shown.
        Some((scheme, _)) => Err(StoreError::Address(format!("{scheme}://..."))),
        None => Err(StoreError::Address("a text without a scheme".into())),
    }
}

/// Most pooled connections to PostgreSQL unless the operator sets another number.
pub const POOL_CONNECTIONS: u32 = 10;
/// How many runs one claim takes at most.
pub const MAX_CLAIM: u32 = 64;
