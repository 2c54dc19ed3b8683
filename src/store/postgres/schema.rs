//! Schemas of their own inside one database, for tests that must not touch what is there.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use url::Url;

use super::failed;
use crate::store::{StoreError, StoreResult};

/// Makes an empty schema; `name` holds lower-case letters, digits and `_` only.
pub async fn create(server: &str, name: &str) -> StoreResult<()> {
    run(server, name, "create schema").await
}

/// Drops a schema and everything in it.
pub async fn drop(server: &str, name: &str) -> StoreResult<()> {
    run(server, name, "drop schema if exists").await
}

/// The address under which a schema is all that is seen of the database; its connections carry the schema's name.
pub fn address(server: &str, name: &str) -> StoreResult<String> {
    let mut url = Url::parse(server).map_err(|_| StoreError::Address("a postgres:// address that cannot be read".into()))?;
    url.query_pairs_mut().append_pair("options[search_path]", name).append_pair("application_name", name);
    Ok(url.into())
}

/// Cuts the connections on which servers over a schema listen for notifications.
pub async fn deafen(server: &str, name: &str) -> StoreResult<()> {
    let mut connection = PgConnection::connect(server).await.map_err(failed)?;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and query ilike 'listen%'";
    sqlx::query(cut).bind(name).execute(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)
}

async fn run(server: &str, name: &str, verb: &str) -> StoreResult<()> {
    if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_') {
        return Err(StoreError::Unfit { what: "a schema's name", why: "expected lower-case letters, digits and `_`" });
    }
    let mut connection = PgConnection::connect(server).await.map_err(failed)?;
    let cascade = if verb.starts_with("drop") { " cascade" } else { "" };
    connection.execute(AssertSqlSafe(format!("{verb} {name}{cascade}"))).await.map_err(failed)?;
    connection.close().await.map_err(failed)
}
