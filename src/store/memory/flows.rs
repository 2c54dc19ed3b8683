//! Saved flows in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::id::{FlowId, FlowVersionId, TenantId};
use crate::model::TargetKind;
use crate::store::text::Fit;
use crate::store::{FlowVersion, SavedFlow, StoreError, StoreResult};

/// The tables of this noun.
#[derive(Default)]
pub(super) struct Flows {
    flows: BTreeMap<FlowId, (TenantId, SavedFlow)>,
    versions: BTreeMap<FlowVersionId, FlowVersion>,
}

impl Flows {
    fn any(&self, tenant: TenantId, id: FlowId) -> Option<&SavedFlow> {
        self.flows.get(&id).filter(|(owner, _)| *owner == tenant).map(|(_, flow)| flow)
    }

    fn get(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> Option<&SavedFlow> {
        self.any(tenant, id).filter(|flow| flow.kind == kind)
    }

    fn of(&self, tenant: TenantId) -> impl DoubleEndedIterator<Item = &SavedFlow> {
        self.flows.values().filter(move |(owner, _)| *owner == tenant).map(|(_, flow)| flow)
    }

    fn unless_taken(&self, tenant: TenantId, flow: &SavedFlow) -> StoreResult<()> {
        let taken = self.of(tenant).any(|other| other.kind == flow.kind && other.name == flow.name && other.id != flow.id);
        if taken { Err(StoreError::Exists("a flow with this name")) } else { Ok(()) }
    }

    /// Adds a version under the next free number.
    fn add_version(&mut self, version: FlowVersion) {
        let number = self.versions.values().filter(|other| other.flow == version.flow).map(|other| other.number).max().unwrap_or(0) + 1;
        self.versions.insert(version.id, FlowVersion { number, ..version });
    }
}

#[async_trait]
impl crate::store::Flows for MemoryStore {
    async fn create_flow(&self, tenant: TenantId, flow: SavedFlow, version: FlowVersion) -> StoreResult<()> {
        flow.fit()?;
        let flows = &mut self.tables().flows;
        flows.unless_taken(tenant, &flow)?;
        if flows.flows.contains_key(&flow.id) {
            return Err(StoreError::Exists("a flow with this name"));
        }
        flows.flows.insert(flow.id, (tenant, flow));
        flows.add_version(version);
        Ok(())
    }

    async fn update_flow(
        &self,
        tenant: TenantId,
        flow: SavedFlow,
        version: Option<FlowVersion>,
        expected: Option<FlowVersionId>,
    ) -> StoreResult<Option<SavedFlow>> {
        flow.fit()?;
        let flows = &mut self.tables().flows;
        let Some(found) = flows.get(tenant, flow.kind, flow.id) else { return Ok(None) };
        if expected.is_some_and(|expected| expected != found.current) {
            return Ok(None);
        }
        flows.unless_taken(tenant, &flow)?;
        let current = version.as_ref().map_or(flow.current, |version| version.id);
        let saved = SavedFlow { current, published: found.published, created_at: found.created_at, ..flow };
        flows.flows.insert(saved.id, (tenant, saved.clone()));
        if let Some(version) = version {
            flows.add_version(version);
        }
        Ok(Some(saved))
    }

    async fn find_flow(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> StoreResult<Option<SavedFlow>> {
        Ok(self.tables().flows.get(tenant, kind, id).cloned())
    }

    async fn find_flow_by_name(&self, tenant: TenantId, kind: TargetKind, name: &str) -> StoreResult<Option<SavedFlow>> {
        Ok(self.tables().flows.of(tenant).find(|flow| flow.kind == kind && flow.name == name).cloned())
    }

    async fn list_flows(
        &self,
        tenant: TenantId,
        kind: TargetKind,
        before: Option<FlowId>,
        search: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<SavedFlow>> {
        let search = search.map(str::to_lowercase);
        let tables = self.tables();
        let wanted = tables.flows.of(tenant).rev().filter(|flow| {
            flow.kind == kind
                && before.is_none_or(|before| flow.id < before)
                && search.as_ref().is_none_or(|search| flow.name.to_lowercase().contains(search.as_str()))
        });
        Ok(wanted.take(limit as usize).cloned().collect())
    }

    async fn delete_flow(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> StoreResult<bool> {
        let flows = &mut self.tables().flows;
        if flows.get(tenant, kind, id).is_none() {
            return Ok(false);
        }
        flows.flows.remove(&id);
        flows.versions.retain(|_, version| version.flow != id);
        Ok(true)
    }

    async fn find_flow_version(&self, tenant: TenantId, id: FlowVersionId) -> StoreResult<Option<FlowVersion>> {
        let flows = &self.tables().flows;
        Ok(flows.versions.get(&id).filter(|version| flows.any(tenant, version.flow).is_some()).cloned())
    }

    async fn list_flow_versions(&self, tenant: TenantId, flow: FlowId) -> StoreResult<Vec<FlowVersion>> {
        let flows = &self.tables().flows;
        if flows.any(tenant, flow).is_none() {
            return Ok(Vec::new());
        }
        let mut versions: Vec<_> = flows.versions.values().filter(|version| version.flow == flow).cloned().collect();
        versions.sort_by_key(|version| std::cmp::Reverse(version.number));
        Ok(versions)
    }

    async fn delete_flow_version(&self, tenant: TenantId, flow: FlowId, version: FlowVersionId) -> StoreResult<bool> {
        let flows = &mut self.tables().flows;
        let is_free = flows.any(tenant, flow).is_some_and(|saved| saved.current != version && saved.published != Some(version));
        if !is_free || flows.versions.get(&version).is_none_or(|found| found.flow != flow) {
            return Ok(false);
        }
        flows.versions.remove(&version);
        Ok(true)
    }

    async fn publish_flow(
        &self,
        tenant: TenantId,
        kind: TargetKind,
        flow: FlowId,
        version: FlowVersionId,
        now: Timestamp,
    ) -> StoreResult<bool> {
        let flows = &mut self.tables().flows;
        let Some((_, saved)) = flows.flows.get_mut(&flow).filter(|(owner, saved)| *owner == tenant && saved.kind == kind) else {
            return Ok(false);
        };
        let Some(version) = flows.versions.get_mut(&version).filter(|version| version.flow == flow) else { return Ok(false) };
        version.published_at.get_or_insert(now);
        saved.published = Some(version.id);
        saved.updated_at = now;
        Ok(true)
    }
}
