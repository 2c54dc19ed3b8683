//! Saved flows and agents, and their versions. An agent is kept like a flow, under ids and names of its own kind.

use async_trait::async_trait;
use serde_json::Value;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{FlowId, FlowVersionId, TenantId};
use crate::model::TargetKind;

/// A saved flow or agent.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedFlow {
    /// An agent's is [`crate::id::AgentId::as_flow`].
    pub id: FlowId,
    pub kind: TargetKind,
    pub name: String,
    pub description: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The version that an unpinned dispatch runs.
    pub current: FlowVersionId,
    /// The version that was published last.
    pub published: Option<FlowVersionId>,
}

/// One immutable version of a flow: the caller's document, kept as it was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowVersion {
    pub id: FlowVersionId,
    pub flow: FlowId,
    /// 1, 2, 3, ... within the flow.
    pub number: u32,
    /// The source document.
    pub document: Value,
    pub created_at: Timestamp,
    pub published_at: Option<Timestamp>,
}

/// The store of flows.
#[async_trait]
pub trait Flows {
    /// Saves a new flow with its first version. A name is unique among the tenant's of its kind: `Exists("a flow with this name")`.
    async fn create_flow(&self, tenant: TenantId, flow: SavedFlow, version: FlowVersion) -> StoreResult<()>;

    /// Adds a version (its number is set by the store) and makes it the current one; only if the flow's
    /// current version is still `expected` when that is given. `None`: no such flow, or it moved on.
    async fn update_flow(
        &self,
        tenant: TenantId,
        flow: SavedFlow,
        version: Option<FlowVersion>,
        expected: Option<FlowVersionId>,
    ) -> StoreResult<Option<SavedFlow>>;

    async fn find_flow(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> StoreResult<Option<SavedFlow>>;

    async fn find_flow_by_name(&self, tenant: TenantId, kind: TargetKind, name: &str) -> StoreResult<Option<SavedFlow>>;

    /// Flows by id, newest first; `search` is a case-insensitive part of the name.
    async fn list_flows(
        &self,
        tenant: TenantId,
        kind: TargetKind,
        before: Option<FlowId>,
        search: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<SavedFlow>>;

    /// Deletes a flow and its versions; runs keep what they pinned. Whether it was there.
    async fn delete_flow(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> StoreResult<bool>;

    async fn find_flow_version(&self, tenant: TenantId, id: FlowVersionId) -> StoreResult<Option<FlowVersion>>;

    /// A flow's versions, newest first.
    async fn list_flow_versions(&self, tenant: TenantId, flow: FlowId) -> StoreResult<Vec<FlowVersion>>;

    /// Deletes a version of a flow, unless it is the current or the published one. Whether it was deleted.
    async fn delete_flow_version(&self, tenant: TenantId, flow: FlowId, version: FlowVersionId) -> StoreResult<bool>;

    /// Marks a version as published. Whether flow and version were there.
    async fn publish_flow(
        &self,
        tenant: TenantId,
        kind: TargetKind,
        flow: FlowId,
        version: FlowVersionId,
        now: Timestamp,
    ) -> StoreResult<bool>;
}
