//! Diagnoses a database without a server, for the person who set it up.
//!
//! Nothing is created or changed.

use std::time::Duration;

use serde::Serialize;

use super::{StoreError, postgres, sqlite};
use crate::clock::Clock;

/// Time limit for one query.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// A server can use the database, but the finding needs attention.
    Warning,
    /// A server cannot use the database.
    Bad,
}

/// The finding of one check.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The name of the check, for programs.
    pub check: &'static str,
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Finding {
    pub(super) fn good(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Good, message: message.into(), next: None }
    }

    pub(super) fn warning(check: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, message: message.into(), next: Some(next.into()) }
    }

    pub(super) fn bad(check: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Bad, message: message.into(), next: Some(next.into()) }
    }

    /// Compares the schema version of the database with this binary's.
    pub(super) fn of_migrations(found: Option<i64>, known: i64) -> Self {
        match found {
            None => Self::good("migrations", "the database is empty; the first server creates the tables"),
            Some(found) if found > known => Self::bad(
                "migrations",
                format!("the database has schema version {found}; this binary knows {known}"),
                "use the newest binary that served this database, or restore a backup from before",
            ),
            Some(found) if found < known => Self::good(
                "migrations",
                format!("{} migrations are pending (version {found} of {known}); the next server applies them at its start", known - found),
            ),
            Some(found) => Self::good("migrations", format!("the schema is up to date (version {found})")),
        }
    }
}

/// Checks the database at `sqlite://path` or `postgres://user@host/database`; the most important checks come first.
pub async fn examine(url: &str, clock: &Clock) -> Vec<Finding> {
    match url.split_once("://") {
        Some(("sqlite", path)) if !path.is_empty() => sqlite::examine::examine(path.as_ref()).await,
        Some(("postgres" | "postgresql", _)) => postgres::examine::examine(url, clock).await,
        // The text may contain a password, so only its scheme is shown.
        Some((scheme, _)) => vec![no_address(format!("{scheme}://..."))],
        None => vec![no_address("an address without a scheme".into())],
    }
}

pub(super) fn no_address(shown: String) -> Finding {
    Finding::bad("address", StoreError::Address(shown).to_string(), "correct --database-url")
}
