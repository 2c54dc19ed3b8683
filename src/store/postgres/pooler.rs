//! Detects a connection pooler that gives each transaction another session of the database (PgBouncer's transaction mode).
//!
//! Prepared statements, session settings and LISTEN belong to a session, so the store cannot work there. A pooler does not
//! identify itself: one connection sets a mark in its session, and the pooler is detected if a second connection sees the mark, or
//! the first one no longer does. All statements here are sent without preparing them.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};

use super::failed;
use crate::clock::Clock;
use crate::store::{StoreError, StoreResult};

/// Time limit for the detection. A pooler with a single session never gives a second one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

const READ: &str = "select coalesce(current_setting('dispatch.session', true), '') || ' ' || pg_backend_pid()";

/// Returns [`StoreError::Pooled`] if the connection's transactions run in different sessions.
pub(super) async fn refuse_shared_sessions(connection: &mut PgConnection, options: &PgConnectOptions, clock: &Clock) -> StoreResult<()> {
    let shared = tokio::select! {
        shared = shares_sessions(connection, options, clock) => shared.map_err(failed)?,
        () = clock.sleep(PROBE_TIMEOUT) => {
            tracing::warn!("cannot check for a connection pooler: a second connection to the database does not answer");
            false
        }
    };
    if shared { Err(StoreError::Pooled) } else { Ok(()) }
}

async fn shares_sessions(first: &mut PgConnection, options: &PgConnectOptions, clock: &Clock) -> Result<bool, sqlx::Error> {
    let mark = clock.below(u64::MAX);
    let set = format!("select set_config('dispatch.session', '{mark}', false) || ' ' || pg_backend_pid()");
    let own = text(&first.fetch_one(sqlx::raw_sql(AssertSqlSafe(set))).await?)?;
    // A pooler that rotates its sessions gives another one at once.
    if read(first).await? != own {
        return Ok(true);
    }
    // The server itself may have no second connection to give; then there is no pooler that shares sessions either.
    let Ok(mut second) = options.connect().await else { return Ok(false) };
    // Holds a session. A pooler that prefers the most recently used one gives it the first one's.
    second.execute("begin").await?;
    let shared = read(&mut second).await?.starts_with(&format!("{mark} ")) || read(first).await? != own;
    second.execute("rollback").await?;
    second.close().await?;
    Ok(shared)
}

/// Returns the mark of a connection's session, and its backend process.
async fn read(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    text(&connection.fetch_one(sqlx::raw_sql(READ)).await?)
}

fn text(row: &PgRow) -> Result<String, sqlx::Error> {
    row.try_get(0)
}
