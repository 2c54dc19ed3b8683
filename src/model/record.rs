//! A record: a named thing with metadata that flows read and write.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::id::RecordId;

/// One record. `(type, name)` is unique in a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub id: RecordId,
    /// 1 to 255 characters.
    #[serde(rename = "type")]
    pub kind: String,
    /// 1 to 500 characters.
    pub name: String,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// A conversation kept with the record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Value>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}
