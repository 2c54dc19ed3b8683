//! The answer to a deletion.

use schemars::JsonSchema;
use serde::Serialize;

use crate::http::extract::InPath;

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Deletion{I}")]
pub(super) struct Deletion<I> {
    /// Always true.
    success: bool,
    id: I,
    /// Same as `id`.
    deleted_id: I,
    /// Always true.
    deleted: bool,
    /// For people.
    message: String,
}

impl<I: InPath + Copy> Deletion<I> {
    pub fn of(id: I) -> Self {
        Self { success: true, id, deleted_id: id, deleted: true, message: format!("the {} was deleted", I::NOUN) }
    }
}
