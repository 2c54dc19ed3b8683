//! Durable memory: one JSON file for each namespace, and the actions of the `memory` module over it.

mod actions;
mod folder;

pub use folder::{MemoryFolder, NamespaceFile, PrefixListing};

use std::path::Path;

use serde_json::Value;

use super::action::MemoryVerb;
use super::call::{ActionFault, ActionOutcome};

/// Performs an action of the `memory` module.
pub(super) async fn perform(verb: MemoryVerb, home: &Path, payload: Value) -> Result<ActionOutcome, ActionFault> {
    let folder = MemoryFolder::new(home);
    let work = move || actions::perform(verb, &folder, &payload);
    tokio::task::spawn_blocking(work).await.map_err(|error| ActionFault::new(format!("the memory action did not finish: {error}")))?
}
