//! Records as CSV (RFC 4180): `POST /v1/records/import` and `/upload-csv`, and `GET /v1/records/export`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use aide::openapi::{MediaType, ReferenceOr, Response as ApiResponse, SchemaObject, StatusCode};
use aide::transform::TransformOperation;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Altered, Pages, alter, check};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Body, IdempotencyKey, Params};
use crate::http::idempotency::{Call, Receipts, Repeatable, fingerprint};
use crate::http::scope::{RecordsRead, RecordsWrite, Scoped};
use crate::id::RecordId;
use crate::model::Record;
use crate::model::filter::Filter;
use crate::offload::give_way;
use crate::store::{SharedStore, StoreError};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/records/import", post_with(import, about("importRecords", "Records", "Save the rows of a CSV as records")))
        .api_route("/v1/records/upload-csv", post_with(upload, about("uploadRecords", "Records", "Save the rows of a CSV as records")))
        .api_route("/v1/records/export", get_with(export, |op| documented(about("exportRecords", "Records", "Read records as CSV")(op))))
}

/// Rows of one import, and of one export.
const MOST_IMPORTED: usize = 2_000;
const MOST_EXPORTED: usize = 10_000;
const MOST_COLUMNS: usize = 1_000;
/// Columns of an export that are a record's own; its name is another.
const OWN: [&str; 3] = ["id", "createdAt", "updatedAt"];
/// What the column of a key begins with that has the name of another column.
const PREFIX: &str = "metadata.";
/// Failures that are told.
const TOLD: usize = 100;

/// A CSV to import.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordImport")]
struct Import {
    /// The type of the records; `typeValue` is another name. Without it, `typeColumn` says each record's.
    #[serde(rename = "type", alias = "typeValue", default)]
    #[schemars(length(min = 1, max = 255))]
    kind: Option<String>,
    /// The column of the records' types, when `type` is absent.
    #[serde(default)]
    type_column: Option<String>,
    /// The text: a line of names, then a line a record; 2,000 at most. Columns become metadata, `metadata.x` under the name `x`; the columns `id`,
    /// `createdAt` and `updatedAt` of an export are left out.
    /// `file` is another name.
    #[serde(alias = "file")]
    csv: String,
    /// The column of the records' names; `name` when absent.
    #[serde(default)]
    name_column: Option<String>,
    /// Read numbers, `true`, `false` and `null` as what they are; texts stay texts otherwise, as do integers of more than 64 bits.
    #[serde(default)]
    parse_values: bool,
    /// What becomes of a record that is there: `replace` its metadata (the default), `merge` into it, or `skip`.
    #[serde(default)]
    existing: Existing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ImportExisting")]
enum Existing {
    #[default]
    Replace,
    Merge,
    Skip,
}

/// What became of an import. Each row succeeds or fails alone.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordsImported")]
struct Imported {
    created: usize,
    updated: usize,
    skipped: usize,
    failed: usize,
    /// The first hundred failures.
    errors: Vec<RowError>,
}

/// What became of an upload. Each row succeeds or fails alone.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordsUploaded")]
struct UploadOutcome {
    /// Whether every row was saved.
    success: bool,
    message: String,
    created: usize,
    updated: usize,
    skipped: usize,
    /// How many rows were not saved.
    errors: usize,
    /// The first hundred failures.
    error_details: Vec<String>,
    /// The records that were created or changed.
    records: Vec<UploadedRecord>,
}

/// A record of an upload.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "UploadedRecord")]
struct UploadedRecord {
    id: RecordId,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    metadata: Map<String, Value>,
}

/// A row that was not saved.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ImportError")]
struct RowError {
    /// The row's number; the line of names is 1.
    row: usize,
    error: String,
}

/// Which records to export.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "RecordExportQuery")]
struct Export {
    #[serde(rename = "type")]
    kind: String,
}

fn unreadable(error: &csv::Error) -> Error {
    Error::invalid_at("/csv", format!("the CSV cannot be read: {error}"))
}

async fn import(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Import>,
) -> Result<Repeatable<Imported>> {
    let request = fingerprint(&body.raw);
    let call = Call { tenant: caller.tenant, route: "POST /v1/records/import", key, request, secret: false };
    let input = body.value;
    let work = move |_| async move { import_rows(&caller, &store, &clock, input).await.map(|(imported, _)| imported) };
    receipts.once_for_all(call, work).await
}

async fn upload(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Import>,
) -> Result<Repeatable<UploadOutcome>> {
    let request = fingerprint(&body.raw);
    let call = Call { tenant: caller.tenant, route: "POST /v1/records/upload-csv", key, request, secret: false };
    let input = body.value;
    let work = move |_| async move { import_rows(&caller, &store, &clock, input).await.map(UploadOutcome::of) };
    receipts.once_for_all(call, work).await
}

impl UploadOutcome {
    fn of((imported, saved): (Imported, Vec<Record>)) -> Self {
        let Imported { created, updated, skipped, failed, errors } = imported;
        let row = |record: Record| UploadedRecord { id: record.id, kind: record.kind, name: record.name, metadata: record.metadata };
        Self {
            success: failed == 0,
            message: format!("{created} records were created, {updated} changed, {failed} rows failed"),
            created,
            updated,
            skipped,
            errors: failed,
            error_details: errors.into_iter().map(|error| format!("row {}: {}", error.row, error.error)).collect(),
            records: saved.into_iter().map(row).collect(),
        }
    }
}

/// Saves the rows of a CSV; also gives the records as they were saved. Done again after a crash, it finds the rows that it saved before.
async fn import_rows(caller: &crate::model::Caller, store: &SharedStore, clock: &Clock, input: Import) -> Result<(Imported, Vec<Record>)> {
    let mut reader = csv::ReaderBuilder::new().from_reader(input.csv.trim_start_matches('\u{feff}').as_bytes());
    let names: Vec<String> = reader.headers().map_err(|error| unreadable(&error))?.iter().map(|name| name.trim().to_owned()).collect();
    let column = input.name_column.as_deref().unwrap_or("name");
    let place = names.iter().position(|name| name == column);
    let place =
        place.ok_or_else(|| Error::invalid_at("/nameColumn", format!("the CSV has no column `{column}`; it has {}", names.join(", "))))?;
    let of_type = match (&input.kind, &input.type_column) {
        (Some(_), _) => None,
        (None, Some(column)) => {
            let place = names.iter().position(|name| name == column);
            Some(place.ok_or_else(|| {
                Error::invalid_at("/typeColumn", format!("the CSV has no column `{column}`; it has {}", names.join(", ")))
            })?)
        }
        (None, None) => return Err(Error::invalid_at("/type", "expected the type of the records, or its column as `typeColumn`")),
    };
    let mut keys = keys(&names, place);
    if let Some(key) = of_type.and_then(|place| keys.get_mut(place)) {
        *key = None;
    }
    let told: Vec<&str> = keys.iter().flatten().copied().collect();
    if names.iter().collect::<BTreeSet<_>>().len() != names.len() || told.iter().collect::<BTreeSet<_>>().len() != told.len() {
        return Err(Error::invalid_at("/csv", "two columns have the same name"));
    }
    // All of it is read before anything is saved.
    let read = give_way(input.csv.len(), || reader.records().collect::<std::result::Result<Vec<csv::StringRecord>, csv::Error>>());
    let rows = read.map_err(|error| unreadable(&error))?;
    if rows.len() > MOST_IMPORTED {
        return Err(Error::invalid_at("/csv", format!("one import takes {MOST_IMPORTED} rows at most; it has {}", rows.len())));
    }
    let (mut outcome, mut saved) = (Imported::default(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        let cells = keys.iter().zip(row).filter_map(|(key, cell)| Some(((*key)?, cell)));
        let metadata: Map<String, Value> = cells.map(|(key, cell)| (key.to_owned(), cell_value(cell, input.parse_values))).collect();
        let now = clock.now();
        let record = Record {
            id: RecordId::new(clock),
            kind: of_type.and_then(|place| row.get(place)).map(str::trim).or(input.kind.as_deref()).unwrap_or_default().to_owned(),
            name: row.get(place).unwrap_or_default().trim().to_owned(),
            metadata,
            messages: Vec::new(),
            created_at: now,
            updated_at: now,
        };
        match save(store, clock, caller, record, input.existing).await {
            Ok(Saved::Created(record)) => {
                outcome.created += 1;
                saved.push(record);
            }
            Ok(Saved::Updated(record)) => {
                outcome.updated += 1;
                saved.push(record);
            }
            Ok(Saved::Skipped) => outcome.skipped += 1,
            Err(error) if matches!(error.kind(), Kind::Invalid | Kind::Conflict) => {
                outcome.failed += 1;
                if outcome.errors.len() < TOLD {
                    outcome.errors.push(RowError { row: index + 2, error: error.message().to_owned() });
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok((outcome, saved))
}

/// The keys that columns stand for; `None`: a column is no metadata. `name`: the column of the records' names.
fn keys(columns: &[String], name: usize) -> Vec<Option<&str>> {
    let exported = OWN.iter().all(|own| columns.iter().any(|column| column == own));
    let is_own = |(at, column): (usize, &String)| at == name || (exported && OWN.contains(&column.as_str()));
    columns.iter().enumerate().map(|entry| (!is_own(entry)).then(|| entry.1.strip_prefix(PREFIX).unwrap_or(entry.1))).collect()
}

/// The column that a key stands in.
fn column(key: &str) -> Cow<'_, str> {
    let taken = OWN.contains(&key) || key == "name" || key.starts_with(PREFIX);
    if taken { format!("{PREFIX}{key}").into() } else { key.into() }
}

fn cell_value(cell: &str, parse: bool) -> Value {
    let cell_as_it_is = || cell.into();
    if !parse {
        return cell_as_it_is();
    }
    // An integer that would come back as another one stays a text.
    let is_exact = |value: &Value| !value.is_f64() || cell.contains(['.', 'e', 'E']);
    let literal = serde_json::from_str::<Value>(cell.trim()).ok();
    literal.filter(|value| (value.is_number() && is_exact(value)) || value.is_boolean() || value.is_null()).unwrap_or_else(cell_as_it_is)
}

enum Saved {
    Created(Record),
    Updated(Record),
    Skipped,
}

async fn save(store: &SharedStore, clock: &Clock, caller: &crate::model::Caller, record: Record, existing: Existing) -> Result<Saved> {
    check(&record)?;
    let (kind, name, metadata) = (record.kind.clone(), record.name.clone(), record.metadata.clone());
    match store.create_record(caller.tenant, record.clone()).await {
        Ok(()) => return Ok(Saved::Created(record)),
        Err(StoreError::Exists(_)) if existing == Existing::Skip => return Ok(Saved::Skipped),
        Err(StoreError::Exists(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = || Error::new(Kind::Conflict, "record_changed", "others kept changing this record");
    let known = store.find_record_by_name(caller.tenant, &kind, &name).await?.ok_or_else(gone)?;
    let apply = |record: &mut Record| match existing {
        Existing::Merge => record.metadata.extend(metadata.clone()),
        Existing::Replace | Existing::Skip => record.metadata.clone_from(&metadata),
    };
    match alter(store, clock, caller.tenant, known.id, apply).await? {
        Altered::Done(record) => Ok(Saved::Updated(record)),
        Altered::Missing | Altered::Contended => Err(gone()),
    }
}

/// All records of a type, the last changed first: id, name, times, and a column for each key of their metadata.
async fn export(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, Params(query): Params<Export>) -> Result<Response> {
    let (mut records, mut pages) = (Vec::new(), Pages::of(query.kind, Filter::everything()));
    while let Some(page) = pages.next(&store, caller.tenant).await? {
        records.extend(page);
        if records.len() > MOST_EXPORTED {
            return Err(Error::new(Kind::Conflict, "too_many_records", format!("one export has {MOST_EXPORTED} records at most"))
                .next("page through GET /v1/records"));
        }
    }
    let keys: BTreeSet<&String> = records.iter().flat_map(|record| record.metadata.keys()).collect();
    if keys.len() > MOST_COLUMNS {
        return Err(Error::new(
            Kind::Conflict,
            "too_many_columns",
            format!("the records have {} keys; one export has {MOST_COLUMNS} columns at most", keys.len()),
        )
        .next("page through GET /v1/records"));
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let heads = ["id", "name", "createdAt", "updatedAt"].map(Cow::from).into_iter().chain(keys.iter().map(|key| column(key)));
    writer.write_record(heads.map(|head| head.as_bytes().to_vec())).map_err(Error::internal)?;
    for record in &records {
        let own = [record.id.to_string(), record.name.clone(), record.created_at.to_string(), record.updated_at.to_string()];
        let cells = keys.iter().map(|key| match record.metadata.get(*key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        });
        writer.write_record(own.into_iter().chain(cells)).map_err(Error::internal)?;
    }
    let text = writer.into_inner().map_err(|error| Error::internal(error.to_string()))?;
    let headers = [(CONTENT_TYPE, "text/csv; charset=utf-8"), (CONTENT_DISPOSITION, "attachment; filename=\"records.csv\"")];
    Ok((headers, text).into_response())
}

/// Says that the answer is CSV.
fn documented(mut operation: TransformOperation<'_>) -> TransformOperation<'_> {
    let schema = SchemaObject { json_schema: schemars::json_schema!({ "type": "string" }), external_docs: None, example: None };
    let csv = MediaType { schema: Some(schema), ..MediaType::default() };
    let answer = ApiResponse {
        description: "A line of names, then a line a record".into(),
        content: [("text/csv".to_owned(), csv)].into_iter().collect(),
        ..ApiResponse::default()
    };
    operation.inner_mut().responses.get_or_insert_default().responses.insert(StatusCode::Code(200), ReferenceOr::Item(answer));
    operation
}
