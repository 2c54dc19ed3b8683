//! Flows that a dispatch saves, and the hash that an upsert asks with.
//!
//! Clients that upsert send the hash of their flow first; the steps follow only when the saved flow is another one.

use std::time::Duration;

use serde_json::Value;

use super::super::provenance;
use super::request::OptionsDocument;
use super::resolve::{Lookup, Mode};
use crate::error::{Error, Kind, Result};
use crate::id::{FlowId, FlowVersionId};
use crate::model::TargetKind;
use crate::store::{FlowVersion, SavedFlow, StoreError};

/// Whether a flow is named by its hash alone.
pub(super) fn is_probe(flow: &Value) -> bool {
    let has = |name: &str| flow.get(name).is_some_and(|value| !value.is_null());
    has("contentHash") && !has("steps") && !has("flowSteps")
}

fn name_of(flow: &Value) -> String {
    flow.get("name").and_then(Value::as_str).unwrap_or_default().trim().to_owned()
}

/// What another call changed meanwhile.
fn changed(message: &str) -> Error {
    Error::new(Kind::Conflict, "flow_changed", message)
}

impl Lookup<'_> {
    /// The saved flow that a hash names. Error: the hash is not that of the flow that is saved under the name.
    pub(super) async fn probed(&self, flow: &Value, hash: Option<&str>) -> Result<(SavedFlow, FlowVersion)> {
        if let (Some(hash), Some(saved)) = (hash, self.store.find_flow_by_name(self.tenant, TargetKind::Flow, &name_of(flow)).await?)
            && let Some(version) = self.store.find_flow_version(self.tenant, saved.current).await?
            && provenance::hash(&version.document) == Some(hash)
        {
            return Ok((saved, version));
        }
        let message = "no flow of this name is saved with this `contentHash`";
        Err(Error::new(Kind::Invalid, "FLOW_DEFINITION_REQUIRED", message).next("send the flow with its `steps`"))
    }

    /// Saves the flow of a dispatch under its name.
    pub(super) async fn save_flow(&self, flow: &Value, hash: Option<String>, options: &OptionsDocument, mode: Mode) -> Result<FlowId> {
        let name = name_of(flow);
        let description = flow.get("description").and_then(Value::as_str).map(str::to_owned);
        let hash = hash.unwrap_or_else(|| provenance::flow_hash(flow));
        let now = self.clock.now();
        for _ in 0..3 {
            let old = self.store.find_flow_by_name(self.tenant, TargetKind::Flow, &name).await?;
            let fresh = self.seed.map_or_else(|| FlowId::new(self.clock), FlowId::from_u128);
            let id = old.as_ref().map_or(fresh, |old| old.id);
            let version = FlowVersion {
                id: FlowVersionId::new(self.clock),
                flow: id,
                number: 0,
                document: provenance::converged(flow, &hash),
                created_at: now,
                published_at: None,
            };
            let Some(old) = old else {
                let saved = SavedFlow {
                    id,
                    kind: TargetKind::Flow,
                    name: name.clone(),
                    description: description.clone(),
                    created_at: now,
                    updated_at: now,
                    current: version.id,
                    published: None,
                };
                match self.store.create_flow(self.tenant, saved, version).await {
                    Ok(()) => return Ok(id),
                    Err(StoreError::Exists(_)) if mode == Mode::Upsert || self.seed.is_some() => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            if mode == Mode::Create {
                let made_by_this_call = self.seed.map(FlowId::from_u128) == Some(old.id);
                return if made_by_this_call { Ok(id) } else { Err(StoreError::Exists("a flow with this name").into()) };
            }
            let current = self.store.find_flow_version(self.tenant, old.current).await?.map(|current| current.document);
            let is_edited = current.as_ref().is_some_and(provenance::is_edited);
            let is_same = current.as_ref().is_some_and(|current| provenance::content(current) == provenance::content(flow));
            let is_known = current.as_ref().and_then(provenance::hash) == Some(hash.as_str());
            // The same content under another hash takes its predecessor's place, or every probe with that hash would miss. A published version stays.
            if is_same && (is_known || old.published == Some(old.current)) {
                return Ok(id);
            }
            if is_edited && !is_same && !options.overwrites() {
                return Err(changed("the flow was changed in another way since the last upsert")
                    .next("read it at GET /v1/flows/{flowId}; `allowOverwriteExternalChanges` replaces it"));
            }
            let (expected, before) = ((!options.overwrites()).then_some(old.current), old.current);
            let next = SavedFlow { description: description.clone(), updated_at: now, ..old };
            if self.store.update_flow(self.tenant, next, Some(version), expected).await?.is_some() {
                if is_same || !options.keeps_versions() {
                    self.store.delete_flow_version(self.tenant, id, before).await?;
                }
                return Ok(id);
            }
        }
        Err(changed("the flow is being changed by others at the same time").retry_after(Duration::from_secs(1)))
    }
}
