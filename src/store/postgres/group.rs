//! The group statement: one call of the function `dispatch_group`, one round trip, one transaction.
//!
//! The function holds the same statements as the group on SQLite. Sent one by one inside a transaction they would
//! cost a dozen round trips while run locks are held, and one statement of many parts could not see its own
//! effects. The function lives in the migrations, so poolers and several nodes share it.
//!
//! The connection is the writer's own. When it is lost, nobody knows whether the group was committed: it is sent
//! again, and its compare-and-sets tell what the first try did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::sync::broadcast;

use super::{failed, jobs, runs, session, waits};
use crate::clock::Clock;
use crate::id::RunId;
use crate::model::Wait;
use crate::store::batch::{Batch, TABLES, Won};
use crate::store::group::{Apply, PROBE_BYTES};
use crate::store::{Commit, Committed, Created, Enqueued, NewJob, NewRun, Resolve, Resolved, Rung, StoreError, StoreResult};

/// Flows whose blob is known to be stored.
const KNOWN_FLOWS: u64 = 10_000;
/// Kept shorter than the age at which an unused blob may be collected.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// A group that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a group waits for the database to come back before its callers are told.
const OUTAGE: Duration = Duration::from_secs(5);
/// Between attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Tries of one group after a deadlock or a lost connection, the first included.
const TRIES: u32 = 3;

const GROUP: &str = "select tag, id from dispatch_group($1::json, $2::json, $3::json, $4::json, $5::json, $6::json, $7::json, $8::json)";
/// With what is about jobs, which comes behind.
const GROUP_WITH_JOBS: &str = "select tag, id from dispatch_group($1::json, $2::json, $3::json, $4::json, $5::json, $6::json, $7::json, $8::json) \
     union all select tag, id from dispatch_jobs($9::json, $10::json)";
const PROBE: &str = "insert into write_probe (id, body) values (1, convert_to(repeat('0', $1::int), 'UTF8')) \
     on conflict (id) do update set body = excluded.body";
/// With what was used. The group tells which commits were applied; only those count.
const GROUP_WITH_USAGE: &str = "with written as materialized (select tag, id from dispatch_group($1::json, $2::json, $3::json, $4::json, \
        $5::json, $6::json, $7::json, $8::json)) \
     select tag, id from written \
     union all select tag, id from dispatch_usage($9::json, array(select w.id from written w where w.tag = 'committed'))";
const GROUP_WITH_ALL: &str = "with written as materialized (select tag, id from dispatch_group($1::json, $2::json, $3::json, $4::json, \
        $5::json, $6::json, $7::json, $8::json)) \
     select tag, id from written \
     union all select tag, id from dispatch_jobs($9::json, $10::json) \
     union all select tag, id from dispatch_usage($11::json, array(select w.id from written w where w.tag = 'committed'))";
/// How many arguments are about runs, jobs and usage.
const OF_RUNS: usize = 8;
const OF_JOBS: usize = 2;

/// The writer's driver on PostgreSQL.
pub(super) struct Driver {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    flows: Cache<String, ()>,
    bell: broadcast::Sender<Rung>,
    own: Arc<AtomicU32>,
    clock: Clock,
    /// The last group was sent more than once, so an answer that stands may be its own.
    repeated: bool,
    /// The database was away when last asked.
    away: bool,
}

/// How a try went wrong.
enum Fault {
    /// Nothing was written; the same group may win the next time.
    Conflict(StoreError),
    /// The connection is gone, and with it the knowledge of what was written.
    Lost(StoreError),
    /// The database refused it.
    Refused(StoreError),
}

impl Fault {
    fn of(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|cause| cause.code()).map(|code| code.into_owned());
        let error = failed(error);
        match (code.as_deref(), &error) {
            (Some("40P01" | "40001"), _) => Self::Conflict(error),
            (_, StoreError::Unavailable(_)) => Self::Lost(error),
            _ => Self::Refused(error),
        }
    }
}

impl Driver {
    pub fn new(options: PgConnectOptions, bell: broadcast::Sender<Rung>, own: Arc<AtomicU32>, clock: Clock) -> Self {
        let flows = Cache::builder().max_capacity(KNOWN_FLOWS).time_to_live(KNOWN_FOR).build();
        Self { options, connection: None, flows, bell, own, clock, repeated: false, away: false }
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        session::configure(&mut connection).await?;
        let process: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
        self.own.store(process.unsigned_abs(), Ordering::Relaxed);
        Ok(connection)
    }

    /// The connection, made again if need be; waits for a database that was there a moment ago.
    async fn connected(&mut self) -> StoreResult<PgConnection> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let since = self.clock.instant();
        loop {
            let error = match within(&self.clock, OUTAGE, self.connect()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Ok(connection) => {
                    self.away = false;
                    return Ok(connection);
                }
                Err(error) => error,
            };
            if self.away || since.elapsed() >= OUTAGE {
                self.away = true;
                return Err(StoreError::unavailable(error));
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    /// Keeps a connection for the next group, unless it may be broken: what the server had not committed on it is
    /// rolled back when it is dropped.
    fn keep<T>(&mut self, connection: PgConnection, result: &StoreResult<T>) {
        if !matches!(result, Err(StoreError::Unavailable(_))) {
            self.connection = Some(connection);
        }
    }

    async fn send(&mut self, arguments: &[Option<String>; TABLES]) -> Result<Vec<PgRow>, Fault> {
        let mut connection = self.connected().await.map_err(Fault::Refused)?;
        let of_runs = arguments.iter().take(OF_RUNS);
        let of_jobs = arguments.iter().skip(OF_RUNS).take(OF_JOBS);
        let of_usage = arguments.iter().skip(OF_RUNS + OF_JOBS);
        let (with_jobs, with_usage) = (of_jobs.clone().any(Option::is_some), of_usage.clone().any(Option::is_some));
        let text = match (with_jobs, with_usage) {
            (false, false) => GROUP,
            (true, false) => GROUP_WITH_JOBS,
            (false, true) => GROUP_WITH_USAGE,
            (true, true) => GROUP_WITH_ALL,
        };
        let chosen = of_runs.chain(of_jobs.filter(|_| with_jobs)).chain(of_usage.filter(|_| with_usage));
        let query = chosen.fold(sqlx::query(text), |query, argument| query.bind(argument.as_deref().unwrap_or("[]")));
        let Some(sent) = within(&self.clock, PATIENCE, query.fetch_all(&mut connection)).await else {
            return Err(Fault::Lost(StoreError::unavailable("the database did not answer in time")));
        };
        let sent = sent.map_err(Fault::of);
        if !matches!(sent, Err(Fault::Lost(_))) {
            self.connection = Some(connection);
        }
        sent
    }
}

/// Asks something on the writer's connection; once more on a new one when it was lost.
macro_rules! ask {
    ($driver:ident, $connection:ident => $question:expr) => {{
        let mut asked = false;
        loop {
            let mut held = $driver.connected().await?;
            let $connection = &mut held;
            let answer = $question.await;
            $driver.keep(held, &answer);
            if asked || !matches!(answer, Err(StoreError::Unavailable(_))) {
                break answer;
            }
            asked = true;
        }
    }};
}

/// What a future gives, if it does so in time.
async fn within<T>(clock: &Clock, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        value = future => Some(value),
        () = clock.sleep(time) => None,
    }
}

#[async_trait]
impl Apply for Driver {
    async fn apply(&mut self, batch: &Batch) -> StoreResult<Won> {
        let arguments = batch.arguments();
        self.repeated = false;
        let mut tries = 1;
        let rows = loop {
            match self.send(&arguments).await {
                Ok(rows) => break rows,
                Err(Fault::Conflict(_)) if tries < TRIES => {}
                Err(Fault::Lost(_)) if tries < TRIES => self.repeated = true,
                Err(Fault::Conflict(error) | Fault::Lost(error) | Fault::Refused(error)) => return Err(error),
            }
            tries += 1;
        };
        let mut won = Won::default();
        for row in rows {
            won.note(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        }
        Ok(won)
    }

    async fn probe(&mut self) -> StoreResult<()> {
        ask!(self, connection => probe(connection))
    }

    async fn explain_create(&mut self, new: &NewRun) -> StoreResult<Created> {
        ask!(self, connection => runs::explain_create(connection, new))
    }

    async fn explain_commit(&mut self, commit: &Commit) -> StoreResult<Committed> {
        ask!(self, connection => runs::explain_commit(connection, commit))
    }

    async fn explain_resolve(&mut self, answer: &Resolve) -> StoreResult<Resolved> {
        let found: Option<Wait> = ask!(self, connection => waits::find(connection, answer.tenant, answer.wait))?;
        let Some(wait) = found else { return Ok(Resolved::Closed) };
        let ours = self.repeated && wait.resolved_at == Some(answer.now) && wait.resolution.as_ref() == Some(&answer.resolution);
        Ok(if ours { Resolved::First } else { wait.resolution.map_or(Resolved::Closed, Resolved::Before) })
    }

    async fn explain_enqueue(&mut self, new: &NewJob) -> StoreResult<Enqueued> {
        ask!(self, connection => jobs::explain_enqueue(connection, new))
    }

    fn knows_flow(&self, hash: &str) -> bool {
        self.flows.contains_key(hash)
    }

    fn note_flow(&mut self, hash: &str) {
        self.flows.insert(hash.to_owned(), ());
    }

    fn ring(&self, run: RunId) {
        let _ = self.bell.send(Rung::due(run));
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.close().await;
        }
    }
}

async fn probe(connection: &mut PgConnection) -> StoreResult<()> {
    sqlx::query(PROBE).bind(PROBE_BYTES).execute(connection).await.map(drop).map_err(failed)
}
