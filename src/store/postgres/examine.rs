//! Diagnoses a PostgreSQL database.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::{ENCODING, MIGRATIONS, plain_if_near, pooler, session};
use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::examine::{ANSWER_TIMEOUT, Finding, no_address};

/// The oldest tested version, as `server_version_num`.
const MIN_VERSION: i64 = 150_000;
/// Nodes compare leases with their own clocks: from this difference on they take over each other's runs too early or too late.
const LARGE_DIFFERENCE: Duration = Duration::from_secs(5);
const SMALL_DIFFERENCE: Duration = Duration::from_secs(1);
/// The channel of the test notification.
const CHANNEL: &str = "dispatch_examine";

/// Checks the database at a URL.
pub(in crate::store) async fn examine(url: &str, clock: &Clock) -> Vec<Finding> {
    let Ok(options) = url.parse::<PgConnectOptions>() else {
        return vec![no_address("a postgres:// address that cannot be read".into())];
    };
    let options = plain_if_near(options.application_name("dispatch doctor")).disable_statement_logging();
    let connected = tokio::select! {
        connected = options.connect() => connected.map_err(|error| error.to_string()),
        () = clock.sleep(ANSWER_TIMEOUT) => Err("it does not answer".to_owned()),
    };
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(why) => {
            let next = "check host, port, database, user and password in --database-url, and that the server accepts connections from here";
            return vec![Finding::bad("reachable", format!("the database cannot be reached: {why}"), next)];
        }
    };
    let mut findings = vec![Finding::good("reachable", "the database answers")];
    match pooler::refuse_shared_sessions(&mut connection, &options, clock).await {
        Ok(()) => findings.push(Finding::good("pooler", "each connection has a session of its own")),
        Err(error @ StoreError::Pooled) => {
            let next = "set the pooler to session mode, or give the database's direct address with --database-url";
            // Further queries would go to arbitrary sessions.
            findings.push(Finding::bad("pooler", error.to_string(), next));
            return findings;
        }
        Err(error) => findings.push(Finding::warning("pooler", error.to_string(), "try again")),
    }
    findings.extend([
        or_unanswered("version", version(&mut connection).await),
        or_unanswered("encoding", encoding(&mut connection).await),
        or_unanswered("isolation", isolation(&mut connection).await),
        or_unanswered("writes", writes(&mut connection).await),
        or_unanswered("migrations", migrations(&mut connection).await),
        or_unanswered("clock", clocks(&mut connection, clock).await),
        or_unanswered("notifications", notifications(&mut connection, &options, clock).await),
    ]);
    let _ = connection.close().await;
    findings
}

fn or_unanswered(check: &'static str, found: Result<Finding, sqlx::Error>) -> Finding {
    found.unwrap_or_else(|error| Finding::bad(check, format!("the query failed: {error}"), "see the database's log"))
}

async fn version(connection: &mut PgConnection) -> Result<Finding, sqlx::Error> {
    let (number, text): (i64, String) =
        sqlx::query_as("select current_setting('server_version_num')::bigint, current_setting('server_version')")
            .fetch_one(connection)
            .await?;
    Ok(if number < MIN_VERSION {
        Finding::bad("version", format!("PostgreSQL {text} is older than 15"), "use PostgreSQL 15 or newer")
    } else {
        Finding::good("version", format!("PostgreSQL {text}"))
    })
}

async fn encoding(connection: &mut PgConnection) -> Result<Finding, sqlx::Error> {
    let found: String = sqlx::query_scalar("select current_setting('server_encoding')").fetch_one(connection).await?;
    Ok(if found == ENCODING {
        Finding::good("encoding", found)
    } else {
        let next = "create another with `create database NAME encoding 'UTF8' template template0`, and move the data there with pg_dump";
        Finding::bad("encoding", StoreError::Encoding(found).to_string(), next)
    })
}

async fn isolation(connection: &mut PgConnection) -> Result<Finding, sqlx::Error> {
    let found: String = sqlx::query_scalar("select current_setting('default_transaction_isolation')").fetch_one(connection).await?;
    Ok(Finding::good(
        "isolation",
        if found == "read committed" { found } else { format!("{found} by default; Dispatch's sessions set read committed") },
    ))
}

async fn writes(connection: &mut PgConnection) -> Result<Finding, sqlx::Error> {
    Ok(if session::is_read_only(connection).await? {
        Finding::bad(
            "writes",
            "the server is read-only: it is a standby, or `default_transaction_read_only` is on",
            "give the primary's address with --database-url, or turn the setting off",
        )
    } else {
        Finding::good("writes", "the server accepts writes")
    })
}

async fn migrations(connection: &mut PgConnection) -> Result<Finding, sqlx::Error> {
    let there: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(&mut *connection).await?;
    let found: Option<i64> =
        if there { sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(connection).await? } else { None };
    Ok(Finding::of_migrations(found, MIGRATIONS.last().map_or(0, |(version, _, _)| *version)))
}

async fn clocks(connection: &mut PgConnection, clock: &Clock) -> Result<Finding, sqlx::Error> {
    let before = clock.now();
    let theirs: i64 = sqlx::query_scalar("select (extract(epoch from clock_timestamp()) * 1000)::bigint").fetch_one(connection).await?;
    let after = clock.now();
    // The smallest difference that the round trip allows.
    let ours = theirs.max(before.as_millis()).min(after.max(before).as_millis());
    let difference = Duration::from_millis(theirs.abs_diff(ours));
    let message = format!("this machine's clock and the database's differ by {} ms", difference.as_millis());
    let next = "synchronise both clocks with NTP";
    Ok(if difference >= LARGE_DIFFERENCE {
        Finding::bad("clock", message, next)
    } else if difference >= SMALL_DIFFERENCE {
        Finding::warning("clock", message, next)
    } else {
        Finding::good("clock", message)
    })
}

async fn notifications(connection: &mut PgConnection, options: &PgConnectOptions, clock: &Clock) -> Result<Finding, sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    sqlx::query("select pg_notify($1, '')").bind(CHANNEL).execute(connection).await?;
    let heard = tokio::select! {
        heard = listener.recv() => heard.is_ok(),
        () = clock.sleep(ANSWER_TIMEOUT) => false,
    };
    Ok(if heard {
        Finding::good("notifications", "LISTEN receives notifications")
    } else {
        let next = "remove the pooler or proxy between Dispatch and the database that drops notifications";
        Finding::warning("notifications", "LISTEN receives no notifications: nodes notice each other's runs only by polling", next)
    })
}
