//! What every database can keep in a text or number column.
//!
//! PostgreSQL has no NUL character in text, and SQLite's JSON functions stop at one. So names and keys that hold
//! one are refused before they reach any database, with the same words everywhere. Documents are JSON texts, in
//! which a NUL is written `\u0000`: they are kept as they are.

use serde_json::Value;

use super::{
    ApiKey, Commit, Credential, DocumentRow, NewJob, NewRun, Queue, Receipt, SavedFlow, Signal, StoreError, StoreResult, StoredSecret,
    Tenant,
};
use crate::model::event::Segment;
use crate::model::job::Job;
use crate::model::vector::Vector;
use crate::model::{JournalEntry, Record, Wait};

/// Something that is checked before it is written.
pub(super) trait Fit {
    /// `Unfit` when no database could keep it.
    fn fit(&self) -> StoreResult<()>;
}

/// Whether a text can be in a column at all.
pub(super) fn is_plain(text: &str) -> bool {
    !text.contains('\0')
}

fn plain(what: &'static str, text: &str) -> StoreResult<()> {
    if is_plain(text) { Ok(()) } else { Err(StoreError::Unfit { what, why: "it holds a NUL character" }) }
}

fn number(what: &'static str, value: u64) -> StoreResult<()> {
    i64::try_from(value).map(drop).map_err(|_| StoreError::Unfit { what, why: "it is too large" })
}

fn facts(journal: &[JournalEntry], segment: Option<&Segment>) -> StoreResult<()> {
    journal.iter().try_for_each(|entry| plain("a journal key", &entry.key))?;
    segment.map_or(Ok(()), |segment| number("a sequence number", segment.last()))
}

impl Fit for NewRun {
    fn fit(&self) -> StoreResult<()> {
        plain("a run's flow name", &self.flow_name)?;
        plain("a flow", &self.flow.body)?;
        number("a sequence number", self.reserved)?;
        if let Some(key) = &self.key {
            plain("an idempotency key", &key.key)?;
            plain("a route", &key.route)?;
            plain("a request's hash", &key.request_hash)?;
        }
        facts(&self.journal, self.segment.as_ref())
    }
}

impl Fit for Commit {
    fn fit(&self) -> StoreResult<()> {
        number("a sequence number", self.reserved)?;
        self.waits.iter().try_for_each(Fit::fit)?;
        facts(&self.journal, self.segment.as_ref())
    }
}

impl Fit for Wait {
    fn fit(&self) -> StoreResult<()> {
        plain("a wait's key", &self.key)?;
        plain("a wait's name", &self.name)?;
        plain("a wait's digest", self.digest.as_deref().unwrap_or_default())
    }
}

impl Fit for Signal {
    fn fit(&self) -> StoreResult<()> {
        plain("a signal's name", &self.name)?;
        plain("a signal's id", &self.id)
    }
}

impl Fit for SavedFlow {
    fn fit(&self) -> StoreResult<()> {
        plain("a flow's name", &self.name)?;
        plain("a flow's description", self.description.as_deref().unwrap_or_default())
    }
}

impl Fit for Record {
    fn fit(&self) -> StoreResult<()> {
        plain("a record's type", &self.kind)?;
        plain("a record's name", &self.name)
    }
}

impl Fit for Tenant {
    fn fit(&self) -> StoreResult<()> {
        plain("a tenant's name", &self.name)
    }
}

impl Fit for ApiKey {
    fn fit(&self) -> StoreResult<()> {
        plain("a key's name", &self.name)?;
        plain("a key's hint", &self.hint)?;
        plain("a key's hash", &self.hash)
    }
}

impl Fit for Credential {
    fn fit(&self) -> StoreResult<()> {
        plain("a provider's name", &self.provider)?;
        plain("a credential's hint", &self.hint)
    }
}

impl Fit for StoredSecret {
    fn fit(&self) -> StoreResult<()> {
        plain("a secret's key", &self.key)?;
        plain("a secret's description", self.description.as_deref().unwrap_or_default())
    }
}

impl Fit for Receipt {
    fn fit(&self) -> StoreResult<()> {
        plain("an idempotency key", &self.key)?;
        plain("a route", &self.route)?;
        plain("a request's hash", &self.request_hash)
    }
}

impl Fit for DocumentRow {
    fn fit(&self) -> StoreResult<()> {
        plain("a document's place", self.place.as_deref().unwrap_or_default())?;
        plain("a document's parent", self.parent.as_deref().unwrap_or_default())
    }
}

impl Fit for Job {
    fn fit(&self) -> StoreResult<()> {
        plain("a job's queue", &self.queue)?;
        plain("a job's name", &self.order.name)?;
        plain("a job's organisation", &self.order.scope.org)
    }
}

impl Fit for NewJob {
    fn fit(&self) -> StoreResult<()> {
        self.job.fit()?;
        plain("a job's key", self.key.as_deref().unwrap_or_default())
    }
}

impl Fit for Queue {
    fn fit(&self) -> StoreResult<()> {
        plain("a queue's name", &self.name)
    }
}

impl Fit for Vector {
    fn fit(&self) -> StoreResult<()> {
        plain("a vector's collection", &self.collection)?;
        plain("a vector's name", self.name.as_deref().unwrap_or_default())?;
        plain("a vector's text", self.text.as_deref().unwrap_or_default())?;
        // Databases look into it, and PostgreSQL's `jsonb` has no NUL either.
        if self.metadata.iter().any(|(name, value)| !is_plain(name) || holds_nul(value)) {
            return Err(StoreError::Unfit { what: "a vector's metadata", why: "it holds a NUL character" });
        }
        Ok(())
    }
}

/// Whether a NUL is in any of a value's texts and names.
pub(super) fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => !is_plain(text),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members.iter().any(|(name, value)| !is_plain(name) || holds_nul(value)),
        _ => false,
    }
}
