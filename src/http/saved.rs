//! Saved flows and agents for surfaces that do not know the language of their documents.
//!
//! The surface whose language it is implements [`SavedTargets`]; the composition root hands it to the others.

use async_trait::async_trait;
use serde_json::Value;

use crate::engine::StartRun;
use crate::error::Result;
use crate::id::TenantId;
use crate::model::TargetKind;

/// A saved flow or agent, and what it is asked.
#[derive(Debug, Clone)]
pub struct SavedTarget {
    pub kind: TargetKind,
    /// The name or the id.
    pub name: String,
    /// The conversation so far, oldest message first.
    pub messages: Vec<Value>,
    /// Definitions of tools that run in the caller.
    pub client_tools: Vec<Value>,
}

/// What knows the documents of saved flows and agents.
#[async_trait]
pub trait SavedTargets: Send + Sync + 'static {
    /// Prepares an execution of the current version; `None` when there is no such flow or agent. Problems of the request have the pointers
    /// `/messages/…` and `/clientTools/…`, all others are the document's.
    async fn start_of(&self, tenant: TenantId, target: SavedTarget) -> Result<Option<StartRun>>;
}
