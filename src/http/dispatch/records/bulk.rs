//! `/v1/records/bulk-edit` and `/v1/records/bulk-delete`: many records in one call.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Altered, CloneIntoSome, Pages, alter, filter_of};
use crate::clock::Clock;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::Body;
use crate::http::scope::{RecordsWrite, Scoped};
use crate::id::{RecordId, TenantId};
use crate::model::Record;
use crate::store::SharedStore;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/records/bulk-edit", post_with(edit, about("editRecords", "Records", "Change many records at once")))
        .api_route("/v1/records/bulk-delete", post_with(delete, about("deleteRecords", "Records", "Delete many records at once")))
}

/// A change of many records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BulkEdit")]
struct BulkEdit {
    /// At most 1,000; without them `recordFilter` says which records. `recordIds` is another name.
    #[serde(default, alias = "recordIds")]
    ids: Option<Vec<RecordId>>,
    /// `{type, where?}`: the records of a type that pass a filter; at most 1,000.
    #[serde(default)]
    record_filter: Option<RecordFilter>,
    /// Keys to set in each record's metadata; null removes a key. `updates` is another name.
    #[serde(default, alias = "updates")]
    metadata: Map<String, Value>,
    /// Keys to remove from each record's metadata.
    #[serde(default)]
    delete_fields: Vec<String>,
    /// The new type, if it shall change.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Change nothing; the answer says what would change.
    #[serde(default)]
    dry_run: bool,
    /// Not available: `recordFilter` says which records.
    #[serde(default)]
    conditions: Option<Value>,
    /// Not available: `recordFilter` says which records.
    #[serde(default)]
    apply_to_all: bool,
}

/// Records of a type that pass a filter.
#[derive(Debug, Deserialize, JsonSchema)]
struct RecordFilter {
    #[serde(rename = "type")]
    kind: String,
    /// As `filter` of the search.
    #[serde(rename = "where", default)]
    condition: Option<Value>,
}

/// What became of a bulk edit. Each record succeeds or fails alone.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BulkEdited")]
struct EditOutcome {
    updated: usize,
    /// Not there, or not yours.
    missing: Vec<RecordId>,
    /// Their new type and name are taken, or somebody kept changing them.
    conflicts: Vec<RecordId>,
    /// The records that were changed.
    record_ids: Vec<RecordId>,
    /// Their metadata before and after.
    data: Vec<RecordDiff>,
}

/// A record's metadata before and after a change.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RecordDiff")]
struct RecordDiff {
    id: RecordId,
    before: Map<String, Value>,
    after: Map<String, Value>,
}

/// Records to delete.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "BulkDelete")]
struct BulkDelete {
    /// At most 1,000.
    ids: Vec<RecordId>,
}

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BulkDeleted")]
struct DeleteOutcome {
    /// Always true.
    success: bool,
    deleted: u64,
    deleted_ids: Vec<RecordId>,
    /// Not there, or not yours.
    not_found_ids: Vec<RecordId>,
}

/// Records of one bulk call.
const MAX_BULK: usize = 1_000;

impl BulkEdit {
    /// The records that it is about.
    async fn records(&self, store: &SharedStore, tenant: TenantId) -> Result<Vec<RecordId>> {
        let mut problems = Problems::default();
        if self.conditions.is_some() {
            problems.add("/conditions", "not available; `recordFilter` says which records");
        }
        if self.apply_to_all {
            problems.add("/applyToAll", "not available; `recordFilter` says which records");
        }
        if self.ids.is_some() == self.record_filter.is_some() {
            problems.add("/ids", "expected either `ids` or `recordFilter`");
        }
        problems.into_result()?;
        if let Some(ids) = &self.ids {
            check(ids.len(), "/ids")?;
            return Ok(ids.clone());
        }
        let Some(filter) = &self.record_filter else { return Ok(Vec::new()) };
        let mut pages = Pages::of(filter.kind.clone(), filter_of(filter.condition.clone(), "/recordFilter/where")?);
        let mut ids = Vec::new();
        while let Some(page) = pages.next(store, tenant).await? {
            ids.extend(page.iter().map(|record| record.id));
            check(ids.len(), "/recordFilter")?;
        }
        Ok(ids)
    }

    fn apply(&self, record: &mut Record) {
        self.kind.clone_into_some(&mut record.kind);
        record.metadata.extend(self.metadata.clone());
        let goes = |key: &String| self.metadata.get(key).is_some_and(Value::is_null) || self.delete_fields.contains(key);
        record.metadata.retain(|key, _| !goes(key));
    }
}

fn check(count: usize, at: &str) -> Result<()> {
    if count > MAX_BULK {
        return Err(Error::invalid_at(at, format!("one call takes at most {MAX_BULK} records")));
    }
    Ok(())
}

async fn edit(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    body: Body<BulkEdit>,
) -> Result<Json<EditOutcome>> {
    let (tenant, change) = (caller.tenant, body.value);
    let mut outcome = EditOutcome::default();
    for id in change.records(&store, tenant).await? {
        let Some(before) = store.find_record(tenant, id).await? else {
            outcome.missing.push(id);
            continue;
        };
        let altered = if change.dry_run {
            let mut record = before.clone();
            change.apply(&mut record);
            super::check(&record).map(|()| Altered::Done(record))
        } else {
            alter(&store, &clock, tenant, id, |record: &mut Record| change.apply(record)).await
        };
        match altered {
            Ok(Altered::Done(record)) => {
                outcome.updated += usize::from(!change.dry_run);
                outcome.record_ids.push(id);
                outcome.data.push(RecordDiff { id, before: before.metadata, after: record.metadata });
            }
            Ok(Altered::Missing) => outcome.missing.push(id),
            Ok(Altered::Contended) => outcome.conflicts.push(id),
            Err(error) if error.kind() == Kind::Conflict => outcome.conflicts.push(id),
            Err(error) => return Err(error),
        }
    }
    Ok(Json(outcome))
}

async fn delete(caller: Scoped<RecordsWrite>, State(store): State<SharedStore>, body: Body<BulkDelete>) -> Result<Json<DeleteOutcome>> {
    let ids = body.value.ids;
    check(ids.len(), "/ids")?;
    let (mut there, mut not_found_ids): (Vec<RecordId>, Vec<RecordId>) = (Vec::new(), Vec::new());
    for id in ids {
        if there.contains(&id) || not_found_ids.contains(&id) {
            continue;
        }
        let found = store.find_record(caller.tenant, id).await?.is_some();
        if found { there.push(id) } else { not_found_ids.push(id) }
    }
    let deleted = store.delete_records(caller.tenant, &there).await?;
    Ok(Json(DeleteOutcome { success: true, deleted, deleted_ids: there, not_found_ids }))
}
