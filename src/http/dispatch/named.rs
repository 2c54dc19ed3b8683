//! Saved flows by their names, for the queues.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::execute::{DispatchRequest, Lookup};
use crate::clock::Clock;
use crate::engine::{Engine, StartRun};
use crate::error::Result;
use crate::id::TenantId;
use crate::model::TargetKind;
use crate::model::flow::OnError;
use crate::queue::jobs::NamedFlows;
use crate::store::SharedStore;

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
}

#[async_trait]
impl NamedFlows for SavedFlows {
    async fn run_of(&self, tenant: TenantId, name: &str, inputs: Map<String, Value>) -> Result<Option<StartRun>> {
        let Some(saved) = self.store.find_flow_by_name(tenant, TargetKind::Flow, name).await? else { return Ok(None) };
        let request = DispatchRequest { flow: Some(json!({ "id": saved.id })), inputs: Some(inputs).into(), ..DispatchRequest::default() };
        let lookup = Lookup { engine: &self.engine, store: &self.store, clock: &self.clock, tenant, seed: None };
        let mut start = lookup.resolve(request).await?.start(tenant, None);
        let mut flow = start.plan.flow.clone();
        flow.on_step_error = OnError::Stop;
        start.plan = self.engine.check(&flow)?;
        Ok(Some(start))
    }
}
