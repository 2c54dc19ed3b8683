//! `/v1/records`: named data that flows read and write.
//!
//! `query` reads the list's parameters, `bulk` changes many records at once, `fields` says what records have, `csv_text` reads and writes them as
//! CSV, `runs` lists what was executed for one.

mod bulk;
mod csv_text;
mod fields;
mod query;
mod runs;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::query::Query;
use super::about;
use super::bounds::NO_CONTROLS;
use super::deletion::Deletion;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{RecordsRead, RecordsWrite, Scoped};
use crate::id::{RecordId, TenantId};
use crate::model::Record;
use crate::model::filter::{Filter, Op};
use crate::store::{RecordQuery, SharedStore, StoreError};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/records",
            get_with(list, about("listRecords", "Records", "List records, last changed first"))
                .post_with(create, about("createRecord", "Records", "Save a new record")),
        )
        .api_route(
            "/v1/records/{recordId}",
            get_with(read, about("getRecord", "Records", "Read a record"))
                .put_with(update, about("updateRecord", "Records", "Change a record"))
                .patch_with(update, about("patchRecord", "Records", "Change a record"))
                .delete_with(delete, about("deleteRecord", "Records", "Delete a record")),
        )
        .api_route("/v1/records/search", post_with(search, about("searchRecords", "Records", "List records that pass a filter")))
        .merge(bulk::routes())
        .merge(fields::routes())
        .merge(csv_text::routes())
        .merge(runs::routes())
}

/// A record as answers show it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Record")]
struct Row {
    #[serde(flatten)]
    record: Record,
    /// The tenant, which owns it.
    user_id: TenantId,
    /// The keys of its metadata, in lists that asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    available_fields: Option<Vec<String>>,
}

impl Row {
    fn new(tenant: TenantId, record: Record) -> Self {
        Self { record, user_id: tenant, available_fields: None }
    }

    /// With the keys of its metadata.
    fn with_fields(mut self) -> Self {
        self.available_fields = Some(self.record.metadata.keys().cloned().collect());
        self
    }
}

/// A new record.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "RecordInput")]
struct Input {
    /// 1 to 255 characters.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$"))]
    kind: String,
    /// 1 to 500 characters; unique among the records of its type.
    #[schemars(length(min = 1, max = 500), regex(pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$"))]
    name: String,
    #[serde(default)]
    metadata: Map<String, Value>,
    /// A conversation kept with the record.
    #[serde(default)]
    messages: Vec<Value>,
}

/// What to change; absent fields stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "RecordChange")]
struct Change {
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 255))]
    kind: Option<String>,
    #[schemars(length(min = 1, max = 500))]
    name: Option<String>,
    /// Replaces all metadata.
    metadata: Option<Map<String, Value>>,
    /// Replaces the conversation.
    messages: Option<Vec<Value>>,
}

/// A search.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordSearch")]
struct Search {
    /// Only records of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// `{field, op, value}`, or groups `{"and": [...]}`, `{"or": [...]}`, `{"not": ...}`. A field is a column (`id`, `name`, `type`,
    /// `createdAt`, `updatedAt`) or a metadata key, as a dot path.
    filter: Option<Value>,
    #[serde(flatten)]
    paging: Paging,
}

/// Most characters of a type and of a name.
const LONGEST_TYPE: usize = 255;
const LONGEST_NAME: usize = 500;
/// How often a change is tried when others change the record meanwhile.
const TRIES: usize = 5;

/// The records of a type, page by page, the last changed first.
pub(super) struct Pages {
    next: Option<RecordQuery>,
}

impl Pages {
    /// Records read at once.
    const SIZE: u32 = 200;

    pub fn of(kind: String, filter: Filter) -> Self {
        Self { next: Some(RecordQuery { kind: Some(kind), name: None, filter, after: None, limit: Self::SIZE }) }
    }

    /// The next page; `None` after the last one.
    pub async fn next(&mut self, store: &SharedStore, tenant: TenantId) -> Result<Option<Vec<Record>>> {
        let Some(query) = self.next.take() else { return Ok(None) };
        let page = store.list_records(tenant, query.clone()).await?;
        let after = page.records.last().map(|record| (record.updated_at, record.id));
        self.next = page.more.then_some(RecordQuery { after, ..query });
        Ok(Some(page.records))
    }
}

/// Which records a list has.
struct RecordListRequest {
    kind: Option<String>,
    name: Option<String>,
    filter: Filter,
    /// Whether each record's keys are listed with it.
    fields: bool,
}

/// Reads a filter as callers write it; absent, everything passes.
fn filter_of(given: Option<Value>, at: &str) -> Result<Filter> {
    let given = given.filter(|filter| !filter.is_null());
    given.map_or(Ok(Filter::everything()), |filter| Filter::parse(&filter)).map_err(|error| error.under(at))
}

async fn list(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, Params(query): Params<Query>) -> Result<Json<Page<Row>>> {
    let (wanted, paging) = query.read()?;
    page(&store, caller.tenant, wanted, paging).await
}

async fn search(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, body: Body<Search>) -> Result<Json<Page<Row>>> {
    let Search { kind, filter, paging } = body.value;
    let wanted = RecordListRequest { kind, name: None, filter: filter_of(filter, "/filter")?, fields: false };
    page(&store, caller.tenant, wanted, paging).await
}

async fn page(store: &SharedStore, tenant: TenantId, wanted: RecordListRequest, paging: Paging) -> Result<Json<Page<Row>>> {
    let RecordListRequest { kind, name, mut filter, fields } = wanted;
    if let Some(text) = paging.search() {
        let named = Filter::Compare { field: vec!["name".into()], op: Op::Contains, value: text.into() };
        filter = Filter::All(vec![filter, named]);
    }
    let trail = paging.trail::<(Timestamp, RecordId)>()?;
    let limit = paging.limit();
    let found = store.list_records(tenant, RecordQuery { kind, name, filter, after: trail.after(), limit }).await?;
    let page = trail.page(found.records, limit, found.more, |record| (record.updated_at, record.id));
    let row = |record| if fields { Row::new(tenant, record).with_fields() } else { Row::new(tenant, record) };
    Ok(Json(Page { data: page.data.into_iter().map(row).collect(), pagination: page.pagination }))
}

async fn create(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/records", key, request: fingerprint(&body.raw), secret: false };
    let Input { kind, name, metadata, messages } = body.value;
    receipts
        .once(call, move |seed| async move {
            let now = clock.now();
            let record = Record { id: RecordId::from_u128(seed), kind, name, metadata, messages, created_at: now, updated_at: now };
            check(&record)?;
            match store.create_record(tenant, record.clone()).await {
                Ok(()) => Ok(Row::new(tenant, record)),
                // Taken by ourselves, in a try whose answer was lost.
                Err(StoreError::Exists(what)) => {
                    let known = store.find_record(tenant, record.id).await?.ok_or(StoreError::Exists(what))?;
                    Ok(Row::new(tenant, known))
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
}

async fn read(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, Id(id): Id<RecordId>) -> Result<Json<Row>> {
    let record = store.find_record(caller.tenant, id).await?.ok_or_else(RecordId::missing)?;
    Ok(Json(Row::new(caller.tenant, record)))
}

async fn update(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Id(id): Id<RecordId>,
    body: Body<Change>,
) -> Result<Json<Row>> {
    let change = body.value;
    let apply = |record: &mut Record| {
        change.kind.clone_into_some(&mut record.kind);
        change.name.clone_into_some(&mut record.name);
        change.metadata.clone_into_some(&mut record.metadata);
        change.messages.clone_into_some(&mut record.messages);
    };
    match alter(&store, &clock, caller.tenant, id, apply).await? {
        Altered::Done(record) => Ok(Json(Row::new(caller.tenant, record))),
        Altered::Missing => Err(RecordId::missing()),
        Altered::Contended => {
            Err(Error::new(Kind::Conflict, "record_changed", "others kept changing this record")
                .retry_after(std::time::Duration::from_secs(1)))
        }
    }
}

async fn delete(caller: Scoped<RecordsWrite>, State(store): State<SharedStore>, Id(id): Id<RecordId>) -> Result<Json<Deletion<RecordId>>> {
    if store.delete_records(caller.tenant, &[id]).await? == 0 {
        return Err(RecordId::missing());
    }
    Ok(Json(Deletion::of(id)))
}

/// A change that is written over a field only when it is there.
trait CloneIntoSome<T> {
    fn clone_into_some(&self, field: &mut T);
}

impl<T: Clone> CloneIntoSome<T> for Option<T> {
    fn clone_into_some(&self, field: &mut T) {
        if let Some(value) = self {
            field.clone_from(value);
        }
    }
}

enum Altered {
    Done(Record),
    Missing,
    /// Somebody else was faster, [`TRIES`] times.
    Contended,
}

/// Reads, changes and writes a record; again when it was changed in between.
async fn alter(store: &SharedStore, clock: &Clock, tenant: TenantId, id: RecordId, apply: impl Fn(&mut Record)) -> Result<Altered> {
    for _ in 0..TRIES {
        let Some(before) = store.find_record(tenant, id).await? else { return Ok(Altered::Missing) };
        let mut record = before.clone();
        apply(&mut record);
        check(&record)?;
        record.updated_at = clock.now();
        if store.replace_record(tenant, record, before.updated_at).await? {
            // Read back: the store keeps `updatedAt` rising.
            return Ok(store.find_record(tenant, id).await?.map_or(Altered::Missing, Altered::Done));
        }
    }
    Ok(Altered::Contended)
}

fn check(record: &Record) -> Result<()> {
    let mut problems = Problems::default();
    for (pointer, text, longest) in [("/type", &record.kind, LONGEST_TYPE), ("/name", &record.name, LONGEST_NAME)] {
        if text.trim().is_empty() || text.chars().count() > longest {
            problems.add(pointer, format!("expected 1 to {longest} characters"));
        } else if text.contains(char::is_control) {
            problems.add(pointer, NO_CONTROLS);
        }
    }
    for (index, message) in record.messages.iter().enumerate().filter(|(_, message)| !message.is_object()) {
        problems.add(format!("/messages/{index}"), format!("expected an object {{role, content}}, found {message}"));
    }
    problems.into_result()
}
