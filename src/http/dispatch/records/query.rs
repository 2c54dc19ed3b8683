//! The parameters of the list of records.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{RecordListRequest, filter_of};
use crate::error::{Error, Kind, Result};
use crate::http::paging::Paging;
use crate::model::filter::{Filter, Op};

/// The query of the list. Names of several words may be written as `metadata_keys`, too.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordListQuery")]
pub(super) struct Query {
    /// Only records of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Only the record with this name.
    name: Option<String>,
    /// A filter, as JSON text; see the search.
    filter: Option<String>,
    /// `{type?, where}` as JSON text: a type and a filter.
    record_filter: Option<String>,
    /// Only records whose metadata has one of these keys, separated by commas.
    #[serde(alias = "metadata_keys")]
    metadata_keys: Option<String>,
    /// Only records whose metadata has all of these keys, separated by commas.
    #[serde(alias = "metadata_keys_all")]
    metadata_keys_all: Option<String>,
    /// Only records whose metadata has so many keys at least.
    #[serde(alias = "min_fields")]
    min_fields: Option<usize>,
    /// Only records whose metadata has so many keys at most.
    #[serde(alias = "max_fields")]
    max_fields: Option<usize>,
    /// `updatedAt`, or absent.
    #[serde(alias = "sort_by")]
    sort_by: Option<String>,
    /// `desc`, or absent.
    #[serde(alias = "sort_order")]
    sort_order: Option<String>,
    /// List the keys of each record's metadata as `availableFields`.
    #[serde(alias = "include_fields")]
    include_fields: Option<bool>,
    // Spelt out rather than flattened: query strings carry numbers as text, which a flattened struct cannot read.
    /// Rows per page, 1 to 200; 50 by default.
    limit: Option<u32>,
    /// A `nextCursor` or `prevCursor` of an earlier answer.
    cursor: Option<String>,
    /// Only rows whose name contains this, whatever the case.
    search: Option<String>,
}

/// A record filter as JSON text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RecordFilter {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "where")]
    condition: Option<Value>,
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(Kind::Malformed, "invalid_query", message)
}

fn json<T: serde::de::DeserializeOwned>(name: &str, text: Option<&str>) -> Result<Option<T>> {
    text.map(serde_json::from_str).transpose().map_err(|error| refused(format!("`{name}` is not JSON of its form: {error}")))
}

/// Whether a record's metadata has these keys, one by one.
fn each_key(keys: &str) -> Vec<Filter> {
    let has = |key: &str| Filter::HasKey(key.to_owned());
    keys.split(',').map(str::trim).filter(|key| !key.is_empty()).map(has).collect()
}

impl Query {
    /// Returns which records are wanted, and the page.
    pub(super) fn read(self) -> Result<(RecordListRequest, Paging)> {
        let is_default = |given: Option<&str>, known: &[&str]| given.is_none_or(|given| known.contains(&given));
        if !is_default(self.sort_by.as_deref(), &["updatedAt", "updated_at"]) || !is_default(self.sort_order.as_deref(), &["desc"]) {
            return Err(refused("records are listed the last changed first: `sortBy` is `updatedAt` and `sortOrder` is `desc`"));
        }
        let by_record: RecordFilter = json("recordFilter", self.record_filter.as_deref())?.unwrap_or_default();
        let mut parts = vec![
            filter_of(json::<Value>("filter", self.filter.as_deref())?, "/filter")?,
            filter_of(by_record.condition, "/recordFilter/where")?,
        ];
        if let (Some(kind), Some(_)) = (&by_record.kind, &self.kind) {
            parts.push(Filter::Compare { field: vec!["type".into()], op: Op::Eq, value: kind.as_str().into() });
        }
        parts.extend(self.metadata_keys.as_deref().map(each_key).filter(|keys| !keys.is_empty()).map(Filter::Any));
        parts.extend(self.metadata_keys_all.as_deref().map(each_key).map(Filter::All));
        if self.min_fields.is_some() || self.max_fields.is_some() {
            parts.push(Filter::KeyCount { least: self.min_fields.unwrap_or(0), most: self.max_fields.unwrap_or(usize::MAX) });
        }
        parts.retain(|part| *part != Filter::everything());
        let wanted = RecordListRequest {
            kind: self.kind.or(by_record.kind),
            name: self.name,
            filter: Filter::All(parts),
            fields: self.include_fields.unwrap_or(false),
        };
        Ok((wanted, Paging { limit: self.limit, cursor: self.cursor, search: self.search }))
    }
}
