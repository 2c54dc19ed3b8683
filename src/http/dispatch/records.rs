//! `/v1/records`: named data that flows read and write.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::about;
use super::bounds::NO_CONTROLS;
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
                .delete_with(delete, about("deleteRecord", "Records", "Delete a record")),
        )
        .api_route("/v1/records/search", post_with(search, about("searchRecords", "Records", "List records that pass a filter")))
        .api_route("/v1/records/bulk-edit", post_with(bulk_edit, about("editRecords", "Records", "Change many records at once")))
        .api_route("/v1/records/bulk-delete", post_with(bulk_delete, about("deleteRecords", "Records", "Delete many records at once")))
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

/// The query of the list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordListQuery")]
struct Query {
    /// Only records of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Only the record with this name.
    name: Option<String>,
    /// A filter, as JSON text; see the search.
    filter: Option<String>,
    // Spelt out rather than flattened: query strings carry numbers as text, which a flattened struct cannot read.
    /// Rows per page, 1 to 200; 50 by default.
    limit: Option<u32>,
    /// A `nextCursor` or `prevCursor` of an earlier answer.
    cursor: Option<String>,
    /// Only rows whose name contains this, whatever the case.
    search: Option<String>,
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

/// A change of many records.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "BulkEdit")]
struct BulkEdit {
    /// At most 1,000.
    ids: Vec<RecordId>,
    /// Keys to set in each record's metadata; null removes a key.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// The new type, if it shall change.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// What became of a bulk edit. Each record succeeds or fails alone.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "BulkEdited")]
struct BulkEdited {
    updated: usize,
    /// Not there, or not yours.
    missing: Vec<RecordId>,
    /// Their new type and name are taken, or somebody kept changing them.
    conflicts: Vec<RecordId>,
}

/// Records to delete.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "BulkDelete")]
struct BulkDelete {
    /// At most 1,000.
    ids: Vec<RecordId>,
}

/// How many records were deleted.
#[derive(Debug, Serialize, JsonSchema)]
struct BulkDeleted {
    deleted: u64,
}

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedRecord")]
struct Deleted {
    id: RecordId,
    /// Always true.
    deleted: bool,
}

/// Most characters of a type and of a name.
const LONGEST_TYPE: usize = 255;
const LONGEST_NAME: usize = 500;
/// Most ids of one bulk call.
const MAX_BULK: usize = 1_000;
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

async fn list(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, Params(query): Params<Query>) -> Result<Json<Page<Record>>> {
    let not_json = |error| Error::new(Kind::Malformed, "invalid_query", format!("`filter` is not JSON: {error}"));
    let filter = query.filter.as_deref().map(serde_json::from_str).transpose().map_err(not_json)?;
    let paging = Paging { limit: query.limit, cursor: query.cursor, search: query.search };
    page(&store, caller.tenant, query.kind, query.name, filter, paging).await
}

async fn search(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, body: Body<Search>) -> Result<Json<Page<Record>>> {
    let Search { kind, filter, paging } = body.value;
    page(&store, caller.tenant, kind, None, filter, paging).await
}

async fn page(
    store: &SharedStore,
    tenant: TenantId,
    kind: Option<String>,
    name: Option<String>,
    filter: Option<Value>,
    paging: Paging,
) -> Result<Json<Page<Record>>> {
    let mut filter = filter
        .filter(|filter| !filter.is_null())
        .map_or(Ok(Filter::everything()), |filter| Filter::parse(&filter))
        .map_err(|error| error.under("/filter"))?;
    if let Some(text) = paging.search() {
        let named = Filter::Compare { field: vec!["name".into()], op: Op::Contains, value: text.into() };
        filter = Filter::All(vec![filter, named]);
    }
    let trail = paging.trail::<(Timestamp, RecordId)>()?;
    let limit = paging.limit();
    let found = store.list_records(tenant, RecordQuery { kind, name, filter, after: trail.after(), limit }).await?;
    Ok(Json(trail.page(found.records, limit, found.more, |record| (record.updated_at, record.id))))
}

async fn create(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Record>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/records", key, request: fingerprint(&body.raw), secret: false };
    let Input { kind, name, metadata, messages } = body.value;
    receipts
        .once(call, move |seed| async move {
            let now = clock.now();
            let record = Record { id: RecordId::from_u128(seed), kind, name, metadata, messages, created_at: now, updated_at: now };
            check(&record)?;
            match store.create_record(tenant, record.clone()).await {
                Ok(()) => Ok(record),
                // Taken by ourselves, in a try whose answer was lost.
                Err(StoreError::Exists(what)) => store.find_record(tenant, record.id).await?.ok_or_else(|| StoreError::Exists(what).into()),
                Err(error) => Err(error.into()),
            }
        })
        .await
}

async fn read(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, Id(id): Id<RecordId>) -> Result<Json<Record>> {
    store.find_record(caller.tenant, id).await?.map(Json).ok_or_else(RecordId::missing)
}

async fn update(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Id(id): Id<RecordId>,
    body: Body<Change>,
) -> Result<Json<Record>> {
    let change = body.value;
    let apply = |record: &mut Record| {
        change.kind.clone_into_some(&mut record.kind);
        change.name.clone_into_some(&mut record.name);
        change.metadata.clone_into_some(&mut record.metadata);
        change.messages.clone_into_some(&mut record.messages);
    };
    match alter(&store, &clock, caller.tenant, id, apply).await? {
        Altered::Done(record) => Ok(Json(record)),
        Altered::Missing => Err(RecordId::missing()),
        Altered::Contended => {
            Err(Error::new(Kind::Conflict, "record_changed", "others kept changing this record")
                .retry_after(std::time::Duration::from_secs(1)))
        }
    }
}

async fn delete(caller: Scoped<RecordsWrite>, State(store): State<SharedStore>, Id(id): Id<RecordId>) -> Result<Json<Deleted>> {
    if store.delete_records(caller.tenant, &[id]).await? == 0 {
        return Err(RecordId::missing());
    }
    Ok(Json(Deleted { id, deleted: true }))
}

async fn bulk_edit(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    body: Body<BulkEdit>,
) -> Result<Json<BulkEdited>> {
    let BulkEdit { ids, metadata, kind } = body.value;
    check_bulk(&ids)?;
    let mut outcome = BulkEdited::default();
    for id in ids {
        let apply = |record: &mut Record| {
            kind.clone_into_some(&mut record.kind);
            record.metadata.extend(metadata.clone());
            record.metadata.retain(|key, _| !metadata.get(key).is_some_and(Value::is_null));
        };
        match alter(&store, &clock, caller.tenant, id, apply).await {
            Ok(Altered::Done(_)) => outcome.updated += 1,
            Ok(Altered::Missing) => outcome.missing.push(id),
            Ok(Altered::Contended) => outcome.conflicts.push(id),
            Err(error) if error.kind() == Kind::Conflict => outcome.conflicts.push(id),
            Err(error) => return Err(error),
        }
    }
    Ok(Json(outcome))
}

async fn bulk_delete(caller: Scoped<RecordsWrite>, State(store): State<SharedStore>, body: Body<BulkDelete>) -> Result<Json<BulkDeleted>> {
    check_bulk(&body.value.ids)?;
    let deleted = store.delete_records(caller.tenant, &body.value.ids).await?;
    Ok(Json(BulkDeleted { deleted }))
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

pub(super) enum Altered {
    Done(Record),
    Missing,
    /// Somebody else was faster, [`TRIES`] times.
    Contended,
}

/// Reads, changes and writes a record; again when it was changed in between.
pub(super) async fn alter(
    store: &SharedStore,
    clock: &Clock,
    tenant: TenantId,
    id: RecordId,
    apply: impl Fn(&mut Record),
) -> Result<Altered> {
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

pub(super) fn check(record: &Record) -> Result<()> {
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

fn check_bulk(ids: &[RecordId]) -> Result<()> {
    if ids.len() > MAX_BULK {
        return Err(Error::invalid_at("/ids", format!("one call takes at most {MAX_BULK} ids")));
    }
    Ok(())
}
