//! Rows to nouns, the same for both SQL databases.
//!
//! A database says how it reads a column ([`Columns`]); what the columns mean is said here once. A value that this
//! version cannot read is reported with its table, column and row.

use std::collections::HashMap;
use std::fmt::Display;

use serde::de::DeserializeOwned;

use super::group::Stand;
use super::idempotency::Filed;
use super::jobs::Gate;
use super::payload::reference;
use super::{
    ApiKey, Created, Credential, DocumentRow, FlowVersion, JobCount, Renewed, RunSummary, SavedFlow, Signal, StoreError, StoreResult,
    StoredSecret, Tenant,
};
use crate::clock::Timestamp;
use crate::id::{
    CredentialId, DeadLetterId, FlowId, FlowVersionId, JobId, KeyId, NodeId, RecordId, RunId, SecretId, TenantId, VectorId, WaitId,
};
use crate::model::event::{Rest, Segment};
use crate::model::job::{DeadLetter, Job, JobState};
use crate::model::run::Parent;
use crate::model::vector::Vector;
use crate::model::wait::WaitKind;
use crate::model::{Epoch, JournalEntry, Record, Run, RunState, Target, TargetKind, Wait};

/// SQL that leaves out the rows of some tenants. A tenant's suffix has digits and small letters only.
pub(super) fn except(column: &str, tenants: &[TenantId]) -> String {
    if tenants.is_empty() {
        return String::new();
    }
    let list: Vec<String> = tenants.iter().map(|tenant| format!("'{}'", tenant.suffix())).collect();
    format!(" and {column} not in ({})", list.join(", "))
}

/// Returns the SQL that selects ended runs by success; empty without a filter. If the success was not recorded, the state decides.
pub(super) const fn success(wanted: Option<bool>) -> &'static str {
    match wanted {
        None => "",
        Some(true) => " and state = 'completed' and coalesce(success, 1) = 1",
        Some(false) => " and (success = 0 or success is null and state in ('failed', 'cancelled'))",
    }
}

/// How a database's row gives its columns.
pub(super) trait Columns {
    fn text(&self, column: &'static str) -> StoreResult<Option<String>>;
    fn number(&self, column: &'static str) -> StoreResult<Option<i64>>;
    fn bytes(&self, column: &'static str) -> StoreResult<Option<Vec<u8>>>;
}

/// The columns that [`run`] reads, of the table under the alias `r`.
macro_rules! run_columns {
    () => {
        concat!(
            "r.id, r.tenant, r.state, r.flow_hash, r.flow_id, r.flow_name, r.sealed, r.parent_run, r.parent_wait, r.epoch, r.commit_no, ",
            "r.nudges, r.reserved, r.cancel_requested, r.recoveries, r.wake_at, r.created_at, r.finished_at, r.success, r.failure, ",
            "r.spent, ",
            $crate::store::payload::payload!("r.input"),
            " as input, ",
            $crate::store::payload::payload!("r.output"),
            " as output"
        )
    };
}
pub(super) use run_columns;

/// The columns that [`wait`] reads, of the table under the alias `w`.
macro_rules! wait_columns {
    () => {
        concat!(
            "w.id, w.run, w.tenant, w.key, w.kind, w.name, w.digest, w.deadline, w.created_at, w.resolved_at, w.resolved_after, ",
            $crate::store::payload::payload!("w.shown"),
            " as shown, ",
            $crate::store::payload::payload!("w.resolution"),
            " as resolution"
        )
    };
}
pub(super) use wait_columns;

/// Names what is broken.
pub(super) fn broken(table: &'static str, column: &'static str, row: &str, why: impl ToString) -> StoreError {
    StoreError::Broken { table, column, row: row.to_owned(), why: why.to_string() }
}

/// A row with its place, for errors.
struct Reader<'a, R> {
    row: &'a R,
    table: &'static str,
    id: String,
}

impl<'a, R: Columns> Reader<'a, R> {
    /// A row whose column `key` tells it apart.
    fn new(row: &'a R, table: &'static str, key: &'static str) -> StoreResult<Self> {
        Ok(Self { row, table, id: row.text(key)?.unwrap_or_default() })
    }

    fn broken(&self, column: &'static str, why: impl Display) -> StoreError {
        broken(self.table, column, &self.id, why)
    }

    fn present<T>(&self, column: &'static str, value: Option<T>) -> StoreResult<T> {
        value.ok_or_else(|| self.broken(column, "null"))
    }

    fn text(&self, column: &'static str) -> StoreResult<String> {
        self.present(column, self.row.text(column)?)
    }

    fn number(&self, column: &'static str) -> StoreResult<i64> {
        self.present(column, self.row.number(column)?)
    }

    fn small<T: TryFrom<i64, Error: Display>>(&self, column: &'static str) -> StoreResult<T> {
        T::try_from(self.number(column)?).map_err(|why| self.broken(column, why))
    }

    fn small_if<T: TryFrom<i64, Error: Display>>(&self, column: &'static str) -> StoreResult<Option<T>> {
        self.row.number(column)?.map(|number| T::try_from(number).map_err(|why| self.broken(column, why))).transpose()
    }

    fn time(&self, column: &'static str) -> StoreResult<Timestamp> {
        self.number(column).map(Timestamp::from_millis)
    }

    fn time_if(&self, column: &'static str) -> StoreResult<Option<Timestamp>> {
        Ok(self.row.number(column)?.map(Timestamp::from_millis))
    }

    fn parsed_if<T, E: Display>(&self, column: &'static str, parse: impl FnOnce(&str) -> Result<T, E>) -> StoreResult<Option<T>> {
        self.row.text(column)?.map(|text| parse(&text).map_err(|why| self.broken(column, why))).transpose()
    }

    fn parsed<T, E: Display>(&self, column: &'static str, parse: impl FnOnce(&str) -> Result<T, E>) -> StoreResult<T> {
        self.present(column, self.parsed_if(column, parse)?)
    }

    fn json_if<T: DeserializeOwned>(&self, column: &'static str) -> StoreResult<Option<T>> {
        self.parsed_if(column, |text| match reference(text) {
            Some(hash) => Err(format!("the blob {hash} is missing")),
            None => serde_json::from_str(text).map_err(|why| why.to_string()),
        })
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> StoreResult<T> {
        self.present(column, self.json_if(column)?)
    }

    fn target(&self) -> StoreResult<Target> {
        let column = "flow_id";
        Target::read(self.row.text(column)?.as_deref()).ok_or_else(|| self.broken(column, "neither a flow nor an agent"))
    }

    fn kind(&self) -> StoreResult<TargetKind> {
        self.parsed("kind", |text| TargetKind::parse(text).ok_or("unknown kind"))
    }

    fn state(&self) -> StoreResult<RunState> {
        self.parsed("state", |text| RunState::parse(text).ok_or("unknown state"))
    }
}

pub(super) fn run(row: &impl Columns) -> StoreResult<Run> {
    let read = Reader::new(row, "runs", "id")?;
    let parent = match (read.parsed_if("parent_run", RunId::from_suffix)?, read.parsed_if("parent_wait", WaitId::from_suffix)?) {
        (Some(run), Some(wait)) => Some(Parent { run, wait }),
        _ => None,
    };
    Ok(Run {
        id: read.parsed("id", RunId::from_suffix)?,
        tenant: read.parsed("tenant", TenantId::from_suffix)?,
        state: read.state()?,
        flow_hash: read.text("flow_hash")?,
        target: read.target()?,
        flow_name: read.text("flow_name")?,
        input: read.json("input")?,
        sealed: row.bytes("sealed")?,
        parent,
        epoch: Epoch(read.number("epoch")?),
        commit: read.number("commit_no")?,
        nudges: read.number("nudges")?,
        reserved: read.small("reserved")?,
        cancel_requested: read.number("cancel_requested")? != 0,
        recoveries: read.small("recoveries")?,
        wake_at: read.time_if("wake_at")?,
        created_at: read.time("created_at")?,
        finished_at: read.time_if("finished_at")?,
        output: read.json_if("output")?,
        success: row.number("success")?.map(|success| success != 0),
        failure: read.json_if("failure")?,
        spent: read.json("spent")?,
    })
}

pub(super) fn summary(row: &impl Columns) -> StoreResult<RunSummary> {
    let read = Reader::new(row, "runs", "id")?;
    Ok(RunSummary {
        id: read.parsed("id", RunId::from_suffix)?,
        state: read.state()?,
        target: read.target()?,
        flow_name: read.text("flow_name")?,
        created_at: read.time("created_at")?,
        finished_at: read.time_if("finished_at")?,
        success: row.number("success")?.map(|success| success != 0),
        failure: read.json_if("failure")?,
        spent: read.json("spent")?,
    })
}

/// A row of `tenant, id`.
pub(super) fn run_of_tenant(row: &impl Columns) -> StoreResult<(TenantId, RunId)> {
    let read = Reader::new(row, "runs", "id")?;
    Ok((read.parsed("tenant", TenantId::from_suffix)?, read.parsed("id", RunId::from_suffix)?))
}

/// A row of `id, state`.
pub(super) fn state(row: &impl Columns) -> StoreResult<RunState> {
    Reader::new(row, "runs", "id")?.state()
}

/// A row of `id, state, epoch, commit_no, nudges`.
pub(super) fn stand(row: &impl Columns) -> StoreResult<Stand> {
    let read = Reader::new(row, "runs", "id")?;
    Ok(Stand { state: read.state()?, epoch: read.number("epoch")?, number: read.number("commit_no")?, nudges: read.number("nudges")? })
}

/// A row of `id, cancel_requested, nudges`.
pub(super) fn renewed(row: &impl Columns) -> StoreResult<Renewed> {
    let read = Reader::new(row, "runs", "id")?;
    let run = read.parsed("id", RunId::from_suffix)?;
    Ok(Renewed { run, cancel_requested: read.number("cancel_requested")? != 0, nudges: read.number("nudges")? })
}

/// A row of `key, subject, request_hash`: the run that holds an idempotency key.
pub(super) fn duplicate(row: &impl Columns) -> StoreResult<Created> {
    let read = Reader::new(row, "idempotency", "key")?;
    Ok(Created::Duplicate { run: read.parsed("subject", RunId::from_suffix)?, request_hash: read.text("request_hash")? })
}

/// A row of the receipts.
pub(super) fn filed(row: &impl Columns) -> StoreResult<Filed> {
    let read = Reader::new(row, "idempotency", "key")?;
    let answer = row.number("status")?.zip(row.text("body")?);
    Ok(Filed { request_hash: read.text("request_hash")?, subject: read.text("subject")?, answer, lease_until: read.number("lease_until")? })
}

pub(super) fn entry(row: &impl Columns) -> StoreResult<JournalEntry> {
    let read = Reader::new(row, "journal", "key")?;
    Ok(JournalEntry { key: read.text("key")?, outcome: read.json("outcome")? })
}

pub(super) fn segment(row: &impl Columns) -> StoreResult<Segment> {
    let read = Reader::new(row, "events", "run")?;
    let rest = Rest::from_i64(read.number("rest")?);
    read.parsed("body", |text| Segment::decode(text, rest))
}

pub(super) fn wait(row: &impl Columns) -> StoreResult<Wait> {
    let read = Reader::new(row, "waits", "id")?;
    Ok(Wait {
        id: read.parsed("id", WaitId::from_suffix)?,
        run: read.parsed("run", RunId::from_suffix)?,
        tenant: read.parsed("tenant", TenantId::from_suffix)?,
        key: read.text("key")?,
        kind: read.parsed("kind", |text| WaitKind::parse(text).ok_or("unknown kind"))?,
        name: read.text("name")?,
        shown: read.json("shown")?,
        digest: row.text("digest")?,
        deadline: read.time_if("deadline")?,
        created_at: read.time("created_at")?,
        resolution: read.json_if("resolution")?,
        resolved_at: read.time_if("resolved_at")?,
        resolved_after: read.small_if("resolved_after")?,
    })
}

pub(super) fn signal(row: &impl Columns) -> StoreResult<Signal> {
    let read = Reader::new(row, "signals", "id")?;
    Ok(Signal { name: read.text("name")?, id: read.text("id")?, payload: read.json("payload")? })
}

pub(super) fn flow(row: &impl Columns) -> StoreResult<SavedFlow> {
    let read = Reader::new(row, "flows", "id")?;
    Ok(SavedFlow {
        id: read.parsed("id", FlowId::from_suffix)?,
        kind: read.kind()?,
        name: read.text("name")?,
        description: row.text("description")?,
        created_at: read.time("created_at")?,
        updated_at: read.time("updated_at")?,
        current: read.parsed("current_version", FlowVersionId::from_suffix)?,
        published: read.parsed_if("published_version", FlowVersionId::from_suffix)?,
    })
}

pub(super) fn flow_version(row: &impl Columns) -> StoreResult<FlowVersion> {
    let read = Reader::new(row, "flow_versions", "id")?;
    Ok(FlowVersion {
        id: read.parsed("id", FlowVersionId::from_suffix)?,
        flow: read.parsed("flow", FlowId::from_suffix)?,
        number: read.small("number")?,
        document: read.json("document")?,
        created_at: read.time("created_at")?,
        published_at: read.time_if("published_at")?,
    })
}

pub(super) fn record(row: &impl Columns) -> StoreResult<Record> {
    let read = Reader::new(row, "records", "id")?;
    Ok(Record {
        id: read.parsed("id", RecordId::from_suffix)?,
        kind: read.text("kind")?,
        name: read.text("name")?,
        metadata: read.json("metadata")?,
        messages: read.json("messages")?,
        created_at: read.time("created_at")?,
        updated_at: read.time("updated_at")?,
    })
}

pub(super) fn vector_id(row: &impl Columns) -> StoreResult<VectorId> {
    Reader::new(row, "vectors", "id")?.parsed("id", VectorId::from_suffix)
}

/// A vector of a collection, whose parts each database reads in its own way.
pub(super) fn vector(row: &impl Columns, collection: &str, parts: Vec<f32>) -> StoreResult<Vector> {
    let read = Reader::new(row, "vectors", "id")?;
    Ok(Vector {
        id: vector_id(row)?,
        collection: collection.to_owned(),
        name: row.text("name")?,
        parts,
        text: row.text("text")?,
        metadata: read.json("metadata")?,
    })
}

pub(super) fn job(row: &impl Columns) -> StoreResult<Job> {
    let read = Reader::new(row, "jobs", "id")?;
    Ok(Job {
        id: read.parsed("id", JobId::from_suffix)?,
        tenant: read.parsed("tenant", TenantId::from_suffix)?,
        queue: read.text("queue")?,
        priority: read.small("priority")?,
        state: read.parsed("state", |text| JobState::parse(text).ok_or("unknown state"))?,
        attempt: read.small("attempt")?,
        retry_count: read.small("retry_count")?,
        last_error: row.text("last_error")?,
        worker: read.parsed_if("worker", NodeId::from_suffix)?,
        run_at: read.time("run_at")?,
        started_at: read.time_if("started_at")?,
        completed_at: read.time_if("completed_at")?,
        heartbeat_at: read.time_if("heartbeat_at")?,
        created_at: read.time("created_at")?,
        updated_at: read.time("updated_at")?,
        order: read.json("body")?,
    })
}

pub(super) fn job_id(row: &impl Columns) -> StoreResult<JobId> {
    Reader::new(row, "jobs", "id")?.parsed("id", JobId::from_suffix)
}

pub(super) fn job_state(text: &str) -> StoreResult<JobState> {
    JobState::parse(text).ok_or_else(|| broken("jobs", "state", text, "unknown state"))
}

pub(super) fn job_count(row: &impl Columns) -> StoreResult<JobCount> {
    let read = Reader::new(row, "jobs", "queue")?;
    let state = read.parsed("state", |text| JobState::parse(text).ok_or("unknown state"))?;
    Ok(JobCount { queue: read.text("queue")?, state, count: read.small("count")? })
}

pub(super) fn run_count(row: &impl Columns) -> StoreResult<(RunState, u64)> {
    let read = Reader::new(row, "runs", "state")?;
    Ok((read.state()?, read.small("count")?))
}

/// How many jobs of a tenant, a queue and an organisation run.
pub(super) fn running(row: &impl Columns) -> StoreResult<(TenantId, String, String, u64)> {
    let read = Reader::new(row, "jobs", "queue")?;
    Ok((read.parsed("tenant", TenantId::from_suffix)?, read.text("queue")?, read.text("org")?, read.small("count")?))
}

/// A queue's rules; who runs in it is another question.
pub(super) fn gate(row: &impl Columns) -> StoreResult<(TenantId, String, Gate)> {
    let read = Reader::new(row, "job_queues", "name")?;
    let gate = Gate { rules: read.json("rules")?, buckets: read.json("buckets")?, running: HashMap::new(), changed: false };
    Ok((read.parsed("tenant", TenantId::from_suffix)?, read.text("name")?, gate))
}

pub(super) fn dead_letter(row: &impl Columns) -> StoreResult<DeadLetter> {
    let read = Reader::new(row, "dead_letters", "id")?;
    Ok(DeadLetter {
        id: read.parsed("id", DeadLetterId::from_suffix)?,
        tenant: read.parsed("tenant", TenantId::from_suffix)?,
        job: read.parsed("job", JobId::from_suffix)?,
        queue: read.text("queue")?,
        priority: read.small("priority")?,
        order: read.json("body")?,
        retry_count: read.small("retry_count")?,
        error: read.text("error")?,
        failed_at: read.time("failed_at")?,
        replayed_at: read.time_if("replayed_at")?,
        replayed_as: read.parsed_if("replayed_as", JobId::from_suffix)?,
    })
}

pub(super) fn tenant(row: &impl Columns) -> StoreResult<Tenant> {
    let read = Reader::new(row, "tenants", "id")?;
    Ok(Tenant { id: read.parsed("id", TenantId::from_suffix)?, name: read.text("name")?, created_at: read.time("created_at")? })
}

pub(super) fn key(row: &impl Columns) -> StoreResult<ApiKey> {
    let read = Reader::new(row, "api_keys", "id")?;
    Ok(ApiKey {
        id: read.parsed("id", KeyId::from_suffix)?,
        tenant: read.parsed("tenant", TenantId::from_suffix)?,
        name: read.text("name")?,
        hash: read.text("hash")?,
        hint: read.text("hint")?,
        scopes: read.json("scopes")?,
        created_at: read.time("created_at")?,
        expires_at: read.time_if("expires_at")?,
        revoked_at: read.time_if("revoked_at")?,
    })
}

pub(super) fn credential(row: &impl Columns) -> StoreResult<Credential> {
    let read = Reader::new(row, "credentials", "id")?;
    Ok(Credential {
        id: read.parsed("id", CredentialId::from_suffix)?,
        provider: read.text("provider")?,
        sealed: read.present("sealed", row.bytes("sealed")?)?,
        hint: read.text("hint")?,
        created_at: read.time("created_at")?,
        updated_at: read.time("updated_at")?,
    })
}

pub(super) fn secret(row: &impl Columns) -> StoreResult<StoredSecret> {
    let read = Reader::new(row, "secrets", "id")?;
    Ok(StoredSecret {
        id: read.parsed("id", SecretId::from_suffix)?,
        key: read.text("key")?,
        description: row.text("description")?,
        sealed: row.bytes("sealed")?,
        version: read.small("version")?,
        rotated_at: read.time_if("rotated_at")?,
        created_at: read.time("created_at")?,
        updated_at: read.time("updated_at")?,
    })
}

pub(super) fn document(row: &impl Columns) -> StoreResult<DocumentRow> {
    let read = Reader::new(row, "documents", "id")?;
    Ok(DocumentRow {
        id: read.text("id")?,
        place: row.text("place")?,
        parent: row.text("parent")?,
        due_at: read.time_if("due_at")?,
        version: read.small("version")?,
        body: read.text("body")?,
        created_at: read.time("created_at")?,
        updated_at: read.time("updated_at")?,
    })
}

pub(super) fn document_of_tenant(row: &impl Columns) -> StoreResult<(TenantId, DocumentRow)> {
    Ok((Reader::new(row, "documents", "id")?.parsed("tenant", TenantId::from_suffix)?, document(row)?))
}
