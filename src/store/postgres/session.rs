//! Settings that the store requires of a session, and when open sessions are checked.
//!
//! After a fail-over a connection may lead to a read-only server, which answers a ping and refuses every write. So
//! the query that tests an idle connection asks for that, too. A failure that indicates a
//! fail-over makes all connections suspect: for a short time each is checked before it is used. A connection
//! that met such a failure is reused either within that time, or after being idle for so long that it is checked anyway.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use crate::clock::Clock;

/// A connection that was idle for longer is checked before it is used.
const MAX_IDLE: Duration = Duration::from_secs(1);
/// How long every connection is checked after a failure that indicates a fail-over; longer than [`MAX_IDLE`].
const DOUBT_TTL: Duration = Duration::from_secs(2);
/// A younger read-only connection is kept for reading: a new one would be read-only as well.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

const IS_READ_ONLY: &str = "select pg_is_in_recovery() or current_setting('transaction_read_only')::bool";
/// An accepted call must be durable, whatever the server's default is; a stronger setting is left alone. Every write is a
/// compare-and-set under its row's lock, so stricter isolation would only make statements fail.
const SETTINGS: &str = "select case when current_setting('synchronous_commit') = 'off' then set_config('synchronous_commit', 'on', false) end, \
     set_config('default_transaction_isolation', 'read committed', false)";

/// Number of failures in this process that indicate a fail-over or a lost server.
static DOUBTS: AtomicU64 = AtomicU64::new(0);

/// Applies the settings that the store requires to a new session.
pub(super) async fn configure(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(SETTINGS).execute(connection).await.map(drop)
}

/// Returns whether a session refuses writes: on a standby, or if it began while writes were turned off.
pub(super) async fn is_read_only(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_READ_ONLY).fetch_one(connection).await
}

/// Records a failure; one that indicates a fail-over makes every open session suspect.
pub(super) fn note(error: &sqlx::Error) {
    let doubtful = match error {
        // A read-only transaction; a server that shuts down, crashed, or is starting.
        sqlx::Error::Database(cause) => cause.code().is_some_and(|code| matches!(&*code, "25006" | "57P01" | "57P02" | "57P03")),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        _ => false,
    };
    if doubtful {
        DOUBTS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Decides which pooled connections are checked before they are used.
pub(super) struct SessionCheck {
    clock: Clock,
    doubt: Mutex<Doubt>,
}

struct Doubt {
    /// The last value read from [`DOUBTS`].
    count: u64,
    until: Option<Instant>,
}

impl SessionCheck {
    pub fn new(clock: Clock) -> Self {
        Self { clock, doubt: Mutex::new(Doubt { count: DOUBTS.load(Ordering::Relaxed), until: None }) }
    }

    /// Returns whether a connection that was idle for this long must be checked.
    pub fn is_due(&self, idle_for: Duration) -> bool {
        let (now, count) = (self.clock.instant(), DOUBTS.load(Ordering::Relaxed));
        let mut doubt = self.doubt.lock();
        if doubt.count != count {
            *doubt = Doubt { count, until: Some(now + DOUBT_TTL) };
        }
        idle_for > MAX_IDLE || doubt.until.is_some_and(|until| now < until)
    }
}

/// Returns whether a connection of this age may be used; an error means that it is lost.
pub(super) async fn is_usable(connection: &mut PgConnection, age: Duration) -> Result<bool, sqlx::Error> {
    Ok(!is_read_only(connection).await? || age < RENEWAL_INTERVAL)
}
