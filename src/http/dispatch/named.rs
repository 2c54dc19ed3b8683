//! Saved flows and agents by their names, for the queues and for other surfaces.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::execute::{DispatchRequest, Lookup};
use crate::clock::Clock;
use crate::engine::{Engine, StartRun};
use crate::error::Result;
use crate::http::saved::{SavedTarget, SavedTargets};
use crate::id::{AgentId, FlowId, TenantId};
use crate::model::TargetKind;
use crate::model::flow::OnError;
use crate::queue::jobs::NamedFlows;
use crate::store::{SavedFlow, SharedStore};

/// See the module.
pub struct SavedFlows {
    engine: Engine,
    store: SharedStore,
    clock: Clock,
}

impl SavedFlows {
    pub fn new(engine: Engine, store: SharedStore, clock: Clock) -> Self {
        Self { engine, store, clock }
    }

    /// Finds a flow or an agent by its id, else by its name.
    async fn find(&self, tenant: TenantId, kind: TargetKind, name: &str) -> Result<Option<SavedFlow>> {
        let id = match kind {
            TargetKind::Flow => name.parse::<FlowId>().ok(),
            TargetKind::Agent => name.parse().ok().map(AgentId::as_flow),
        };
        if let Some(id) = id
            && let Some(found) = self.store.find_flow(tenant, kind, id).await?
        {
            return Ok(Some(found));
        }
        Ok(self.store.find_flow_by_name(tenant, kind, name).await?)
    }
}

#[async_trait]
impl NamedFlows for SavedFlows {
    async fn run_of(&self, tenant: TenantId, name: &str, inputs: Map<String, Value>) -> Result<Option<StartRun>> {
        let Some(saved) = self.store.find_flow_by_name(tenant, TargetKind::Flow, name).await? else { return Ok(None) };
        let request = DispatchRequest { flow: Some(json!({ "id": saved.id })), inputs: Some(inputs).into(), ..DispatchRequest::default() };
        let lookup = Lookup { engine: &self.engine, store: &self.store, clock: &self.clock, tenant, is_visitor: false, seed: None };
        let mut start = lookup.resolve(request).await?.start(tenant, None);
        let mut flow = start.plan.flow.clone();
        flow.on_step_error = OnError::Stop;
        start.plan = self.engine.check(&flow)?;
        Ok(Some(start))
    }
}

#[async_trait]
impl SavedTargets for SavedFlows {
    async fn start_of(&self, tenant: TenantId, target: SavedTarget) -> Result<Option<StartRun>> {
        let SavedTarget { kind, name, messages, client_tools } = target;
        let Some(saved) = self.find(tenant, kind, &name).await? else { return Ok(None) };
        let mut request =
            DispatchRequest { messages: Some(messages.into()), client_tools: Some(client_tools).into(), ..DispatchRequest::default() };
        match kind {
            TargetKind::Flow => request.flow = Some(json!({ "id": saved.id })),
            TargetKind::Agent => request.agent = Some(json!({ "agentId": AgentId::of_flow(saved.id) })),
        }
        let lookup = Lookup { engine: &self.engine, store: &self.store, clock: &self.clock, tenant, is_visitor: false, seed: None };
        Ok(Some(lookup.resolve(request).await?.start(tenant, None)))
    }
}
