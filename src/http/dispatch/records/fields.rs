//! What the records of a type have: their keys, the values of one key, and how many pass a filter.

use std::collections::{BTreeMap, BTreeSet};

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Pages, filter_of};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Body, Params};
use crate::http::scope::{RecordsRead, Scoped};
use crate::id::{RecordId, TenantId};
use crate::model::Record;
use crate::model::filter::Filter;
use crate::store::SharedStore;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/records/schema",
            get_with(schema, about("getRecordSchema", "Records", "List the keys that records of a type have in their metadata")),
        )
        .api_route(
            "/v1/records/field-values",
            get_with(values, about("listFieldValues", "Records", "Count the values that records of a type have under a key")),
        )
        .api_route(
            "/v1/records/preview-filter",
            post_with(preview, about("previewRecordFilter", "Records", "Count the records of a type that pass a filter, and show a few")),
        )
}

/// Records that are looked at.
const MAX_RECORDS: usize = 10_000;
/// Records that are looked at for a schema when the call does not say.
const SAMPLE: usize = 1_000;
/// Records that a preview shows.
const SHOWN: usize = 5;
/// Values of a key, when the call does not say and at most.
const VALUES: usize = 50;
const MAX_VALUES: usize = 500;

/// Whose keys are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "RecordSchemaQuery")]
struct SchemaQuery {
    #[serde(rename = "type")]
    kind: String,
    /// How many records are looked at, the last changed first: 1 to 10,000; 1,000 when absent.
    sample: Option<usize>,
}

/// Which key's values are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "FieldValuesQuery")]
struct ValuesQuery {
    #[serde(rename = "type")]
    kind: String,
    /// A key of the metadata.
    field: String,
    /// 1 to 500; 50 when absent.
    limit: Option<usize>,
}

/// A filter to try.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "FilterPreviewInput")]
struct PreviewInput {
    #[serde(rename = "type")]
    kind: String,
    /// As `filter` of the search; everything passes when absent. `filter` is another name.
    #[serde(rename = "where", alias = "filter", default)]
    condition: Option<Value>,
}

/// The keys of the records of a type.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordSchema")]
struct RecordSchema {
    #[serde(rename = "type")]
    kind: String,
    /// By name.
    fields: Vec<RecordField>,
    sampled_at: Timestamp,
    sampled_records: usize,
    /// Records of the type; the first 10,000 are counted.
    total_records: usize,
    /// There are more than 10,000.
    truncated: bool,
}

/// A key of records' metadata.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RecordField")]
struct RecordField {
    name: String,
    /// The JSON type of its values; `mixed` when they have several.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Every JSON type of its values.
    types: BTreeSet<&'static str>,
    /// How many of the sampled records have it.
    count: usize,
}

/// How often a key has which value.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FieldValues")]
struct FieldValues {
    #[serde(rename = "type")]
    kind: String,
    field: String,
    /// The most frequent first.
    values: Vec<ValueCount>,
    /// There are more values, or more than 10,000 records.
    truncated: bool,
}

/// A value, and how many records have it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CountedValue")]
struct ValueCount {
    value: Value,
    count: usize,
}

/// What passes a filter.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FilterPreview")]
struct FilterPreview {
    #[serde(rename = "type")]
    kind: String,
    matched_count: usize,
    /// The first five, the last changed first.
    samples: Vec<FilterSample>,
    /// More than 10,000 pass.
    truncated: bool,
}

/// A record that passes.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FilterSample")]
struct FilterSample {
    id: RecordId,
    name: String,
    metadata: Map<String, Value>,
}

/// Looks at the records of a type that pass a filter, the last changed first. Returns how many there were, and whether there are more than 10,000.
async fn each(store: &SharedStore, tenant: TenantId, kind: &str, filter: Filter, mut look: impl FnMut(Record)) -> Result<(usize, bool)> {
    let (mut count, mut pages) = (0, Pages::of(kind.to_owned(), filter));
    while let Some(page) = pages.next(store, tenant).await? {
        for record in page {
            if count == MAX_RECORDS {
                return Ok((count, true));
            }
            count += 1;
            look(record);
        }
    }
    Ok((count, false))
}

fn within(name: &str, given: Option<usize>, default: usize, most: usize) -> Result<usize> {
    let given = given.unwrap_or(default);
    if (1..=most).contains(&given) {
        return Ok(given);
    }
    Err(Error::new(Kind::Malformed, "invalid_query", format!("expected a `{name}` of 1 to {most}")))
}

const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

async fn schema(
    caller: Scoped<RecordsRead>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Params(query): Params<SchemaQuery>,
) -> Result<Json<RecordSchema>> {
    let sample = within("sample", query.sample, SAMPLE, MAX_RECORDS)?;
    let mut fields: BTreeMap<String, (BTreeSet<&'static str>, usize)> = BTreeMap::new();
    let mut seen = 0;
    let look = |record: Record| {
        if seen == sample {
            return;
        }
        seen += 1;
        for (key, value) in record.metadata {
            let (types, count) = fields.entry(key).or_default();
            types.insert(type_of(&value));
            *count += 1;
        }
    };
    let (total_records, truncated) = each(&store, caller.tenant, &query.kind, Filter::everything(), look).await?;
    let field = |(name, (types, count)): (String, (BTreeSet<&'static str>, usize))| {
        let only = types.first().copied().filter(|_| types.len() == 1);
        RecordField { name, kind: only.unwrap_or("mixed"), types, count }
    };
    Ok(Json(RecordSchema {
        kind: query.kind,
        fields: fields.into_iter().map(field).collect(),
        sampled_at: clock.now(),
        sampled_records: seen,
        total_records,
        truncated,
    }))
}

async fn values(
    caller: Scoped<RecordsRead>,
    State(store): State<SharedStore>,
    Params(query): Params<ValuesQuery>,
) -> Result<Json<FieldValues>> {
    let limit = within("limit", query.limit, VALUES, MAX_VALUES)?;
    let mut counts: BTreeMap<String, ValueCount> = BTreeMap::new();
    let look = |mut record: Record| {
        if let Some(value) = record.metadata.remove(&query.field) {
            counts.entry(value.to_string()).or_insert(ValueCount { value, count: 0 }).count += 1;
        }
    };
    let (_, more) = each(&store, caller.tenant, &query.kind, Filter::HasKey(query.field.clone()), look).await?;
    let mut values: Vec<ValueCount> = counts.into_values().collect();
    values.sort_by_key(|counted| std::cmp::Reverse(counted.count));
    let truncated = more || values.len() > limit;
    values.truncate(limit);
    Ok(Json(FieldValues { kind: query.kind, field: query.field, values, truncated }))
}

async fn preview(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, body: Body<PreviewInput>) -> Result<Json<FilterPreview>> {
    let PreviewInput { kind, condition } = body.value;
    let filter = filter_of(condition, "/where")?;
    let mut samples = Vec::new();
    let look = |record: Record| {
        if samples.len() < SHOWN {
            samples.push(FilterSample { id: record.id, name: record.name, metadata: record.metadata });
        }
    };
    let (matched_count, truncated) = each(&store, caller.tenant, &kind, filter, look).await?;
    Ok(Json(FilterPreview { kind, matched_count, samples, truncated }))
}
