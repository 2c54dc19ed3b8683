//! What a session must be for the store to work on it, and when an open one is checked.
//!
//! After a fail-over a connection may lead to a server that only reads: it answers a ping and refuses every write. So
//! the statement that finds out whether an idle connection lives asks for that too. A failure that tells of a
//! fail-over puts the other connections in doubt: for a short time each is checked before it is used. A connection
//! that met such a failure is used again either within that time, or after so long an idle time that it is checked anyway.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use crate::clock::Clock;

/// A connection that was idle for longer is checked before it is used.
const MAX_IDLE: Duration = Duration::from_secs(1);
/// How long every connection is checked after a failure that tells of a fail-over; longer than [`MAX_IDLE`].
const DOUBT_TTL: Duration = Duration::from_secs(2);
/// A read-only connection that is younger is kept for reading: a new one would be read-only as well.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

const IS_READ_ONLY: &str = "select pg_is_in_recovery() or current_setting('transaction_read_only')::bool";
/// Accepted means durable, whatever the server's default is; a stronger setting is left alone. Every write is a
/// compare-and-set under its row's lock, so stricter isolation would only make statements fail.
const SETTINGS: &str = "select case when current_setting('synchronous_commit') = 'off' then set_config('synchronous_commit', 'on', false) end, \
     set_config('default_transaction_isolation', 'read committed', false)";

/// Failures of this process's sessions, so far, that tell of a fail-over or a lost server.
static DOUBTS: AtomicU64 = AtomicU64::new(0);

/// Brings a new session's settings to what the store relies on.
pub(super) async fn configure(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(SETTINGS).execute(connection).await.map(drop)
}

/// Whether a session refuses writes: a standby's, or one that began while writes were turned off.
pub(super) async fn is_read_only(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_READ_ONLY).fetch_one(connection).await
}

/// Takes note of a failure; one that tells of a fail-over puts every open session in doubt.
pub(super) fn note(error: &sqlx::Error) {
    let doubtful = match error {
        // A read-only transaction; the server shuts down, crashed, or starts.
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
    /// [`DOUBTS`] as last read.
    count: u64,
    until: Option<Instant>,
}

impl SessionCheck {
    pub fn new(clock: Clock) -> Self {
        Self { clock, doubt: Mutex::new(Doubt { count: DOUBTS.load(Ordering::Relaxed), until: None }) }
    }

    /// Whether a connection that was idle for so long is to be checked.
    pub fn is_due(&self, idle_for: Duration) -> bool {
        let (now, count) = (self.clock.instant(), DOUBTS.load(Ordering::Relaxed));
        let mut doubt = self.doubt.lock();
        if doubt.count != count {
            *doubt = Doubt { count, until: Some(now + DOUBT_TTL) };
        }
        idle_for > MAX_IDLE || doubt.until.is_some_and(|until| now < until)
    }
}

/// Whether a connection of this age may be used; an error says that it is lost.
pub(super) async fn is_usable(connection: &mut PgConnection, age: Duration) -> Result<bool, sqlx::Error> {
    Ok(!is_read_only(connection).await? || age < RENEWAL_INTERVAL)
}
