//! The engine: the only place where a run moves.
//!
//! A run is driven by walking its [`plan::Plan`]: steps whose predecessors are settled run concurrently, every
//! step is an ordinary async function that performs its outside effects through the journal, and a pause is a
//! return value, never a parked future. Whatever a step records leaves in one commit per run at a time ([`log`]).
//!
//! - [`Engine::accept`] compiles a new flow and reports all its faults; [`Engine::check`] compiles one that was accepted before.
//! - [`Engine::begin`] makes a new run that is advanced here, [`Engine::resume`] takes one up under a lease; both
//!   give an [`Active`] whose [`Active::drive`] returns when the run has ended, paused or was lost.
//! - [`Engine::approve`], [`Engine::deliver`], [`Engine::signal`], [`Engine::settle`] and [`Engine::cancel`] are what the outside may do to a run: they write and ring, and the
//!   owner of the run does the rest.
//!
//! Must not know: HTTP, surfaces, who is calling, how workers are scheduled. To add a step type: a folder or file
//! under [`step`], and one line in its list.

mod begin;
mod budget;
pub mod bus;
mod compensate;
mod context;
mod decide;
mod drive;
mod embedding;
mod limits;
mod log;
mod memory;
mod meter;
mod node_lease;
pub mod notice;
mod patience;
pub mod plan;
mod quotas;
mod recover;
mod replay;
mod run_step;
pub mod step;
mod traced;
mod verbs;

use std::collections::HashMap;
use std::sync::Arc;

use moka::sync::Cache;
use serde_json::Value;

pub use crate::expr::{RUN_SESSION, is_lua};
pub use begin::{Active, StartRun, Started, secret_context};
pub use compensate::{Compensation, UNDO_WHEN_CANCELLED};
pub use context::{Interrupt, RunContext, StepContext, StepFailure, StepResult};
pub use drive::Departure;
pub use limits::{EventLimits, RunLimits, SharedLimits};
pub use log::Lost;
pub use memory::{COMPENSATION, Inquiry, StepRecord};
pub use meter::{describe, register};
pub use node_lease::{NodeLease, RunLease};
pub use quotas::{Admission, BudgetUse, LIMITS_TTL, Quotas, RequestRate};
pub use verbs::{Answered, Decision, Fate, LONGEST_SIGNAL, Verdict, failing_commit, is_signal_name, no_paused_run};

use crate::asset::Assets;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Problems, Result};
use crate::expr::script::schema::Faults;
use crate::expr::script::{self, Sandbox};
use crate::fair::Party;
use crate::feed::Feed;
use crate::html::Printer;
use crate::id::{NodeId, TenantId};
use crate::model::run::Budget;
use crate::model::{Flow, Requester};
use crate::net::{Egress, Mailer};
use crate::provider::{Models, TenantKeys};
use crate::secret::Vault;
use crate::store::{Blob, SharedStore};
use crate::tool::mcp::Clients;
use crate::tool::services::Services;
use notice::Listeners;
use plan::Plan;
use step::StepType;

pub use step::{CachedAnswer, unpriced_message};

/// Compiled flows kept ready.
const PLANS: u64 = 2_000;
/// How long a tenant's keys are believed without reading them again.
const KEYS_FOR: std::time::Duration = std::time::Duration::from_secs(2);

/// Everything the engine works with, handed in by the composition root.
pub struct Parts {
    pub store: SharedStore,
    pub feed: Feed,
    pub models: Models,
    pub egress: Egress,
    pub mcp: Clients,
    pub services: Services,
    pub mail: Mailing,
    pub assets: Assets,
    pub sandbox: Sandbox,
    pub printer: Printer,
    pub limits: SharedLimits,
    pub listeners: Listeners,
    pub vault: Vault,
    pub clock: Clock,
    pub node: NodeId,
}

/// How mail leaves.
#[derive(Debug, Clone, Default)]
pub struct Mailing {
    /// The operator's own server.
    pub server: Option<Mailer>,
    /// The address that mail comes from; when there is one, other senders must be of its host.
    pub from: Option<String>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

pub(crate) struct Inner {
    pub parts: Parts,
    types: HashMap<&'static str, StepType>,
    plans: Cache<String, Arc<Plan>>,
    /// Tenants' own provider keys, read again after a moment.
    keys: Cache<TenantId, (Timestamp, TenantKeys)>,
    quotas: Arc<Quotas>,
}

impl Engine {
    pub fn new(parts: Parts) -> Self {
        let types = step::ALL.iter().map(|kind| (kind.action, *kind)).collect();
        let quotas = Arc::new(Quotas::new(parts.store.clone(), parts.clock.clone()));
        Self(Arc::new(Inner { parts, types, plans: Cache::new(PLANS), keys: Cache::new(PLANS), quotas }))
    }

    pub fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// The budgets and rates of keys and tenants.
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.0.quotas
    }

    /// Compiles a flow that was accepted before, or that contains no scripts and schemas: these are not parsed again. Reports all faults at once,
    /// each with a pointer into the caller's document.
    pub fn check(&self, flow: &Flow) -> Result<Arc<Plan>> {
        let blob = flow.blob();
        if let Some(plan) = self.0.plans.get(&blob.hash) {
            return Ok(plan);
        }
        script::accepted(|| self.examine(flow, blob)).whole(&self.0.plans)
    }

    /// Like [`Engine::check`], for a new flow, which `make` creates from a document.
    pub async fn accept(&self, tenant: TenantId, make: impl Fn() -> Result<Flow>) -> Result<Arc<Plan>> {
        let examined = self.read(tenant, || make().map(|flow| self.examined(&flow))).await??;
        examined.whole(&self.0.plans)
    }

    /// Compiles a new document. Its scripts and schemas are parsed in a worker; if that finds a fault, `compile` is called again to report it at its place.
    pub async fn read<T>(&self, requester: impl Into<Requester>, compile: impl Fn() -> T) -> Result<T> {
        self.sandbox(requester.into()).compile(compile).await
    }

    /// Compiles a document that was accepted before, without parsing its scripts and schemas again.
    pub fn accepted<T>(compile: impl FnOnce() -> T) -> T {
        script::accepted(compile)
    }

    /// Like [`Engine::accept`]; also checks that every model of the flow is known and that the first model of each step has a key.
    pub async fn admit(&self, flow: &Flow, requester: impl Into<Requester>) -> Result<Arc<Plan>> {
        let requester = requester.into();
        let Examined { plan, children, mut problems } = self.read(requester, || self.examined(flow)).await?;
        let keys = self.tenant_keys(requester.tenant).await?;
        let models = &self.parts().models;
        let mut refused = None;
        for planned in &plan.steps {
            for (number, name) in planned.body.models().iter().enumerate() {
                let at = if number == 0 { planned.body.model_field().to_owned() } else { format!("fallbacks/{}", number - 1) };
                match models.resolve(name) {
                    Err(error) => problems.add(format!("{}/config/{at}", planned.step.pointer), error.message().to_owned()),
                    Ok(model) if number == 0 => match models.check(&model, &keys) {
                        Err(error) => refused = refused.or(Some(error)),
                        Ok(resolved) => {
                            for (field, message) in planned.body.check_model(&resolved) {
                                problems.add(format!("{}/config/{field}", planned.step.pointer), message);
                            }
                        }
                    },
                    Ok(_) => {}
                }
            }
        }
        // A step that does not compile has no place in the plan, but its models are told at once as well.
        for step in plan.flow.steps.iter().filter(|step| !plan.steps.iter().any(|planned| planned.step.id == step.id)) {
            for (at, name) in step::named_models(step) {
                if let Err(error) = models.resolve(name) {
                    problems.add(format!("{}/config/{at}", step.pointer), error.message().to_owned());
                }
            }
        }
        let plan = Examined { plan, children, problems }.whole(&self.0.plans)?;
        refused.map_or(Ok(plan), Err)
    }

    /// A model of the plan that makes a budget's cap in money one that cannot bind: its price is not known, and no cap in tokens stands
    /// beside.
    pub async fn unpriced_model(&self, plan: &Plan, budget: &Budget, tenant: TenantId) -> Result<Option<String>> {
        if budget.cost.is_none() || budget.tokens.is_some() {
            return Ok(None);
        }
        let keys = self.tenant_keys(tenant).await?;
        let models = &self.parts().models;
        let names = plan.steps.iter().flat_map(|planned| planned.body.models());
        let mut resolved = names.filter_map(|name| models.resolve(name).and_then(|model| models.check(&model, &keys)).ok());
        Ok(resolved.find(|model| model.price.is_none()).map(|model| model.name().to_string()))
    }

    /// Validates a value against a schema from outside; returns pointers and messages. A schema that may be expensive is evaluated in a
    /// subprocess that can be killed.
    pub async fn judge(&self, tenant: TenantId, schema: &Value, value: &Value) -> Result<Faults> {
        let schema = script::accepted(|| crate::tool::schema::compile(schema)).map_err(|fault| Error::invalid_at("", fault))?;
        schema.judge(value, &self.sandbox(tenant.into())).await
    }

    /// Returns the sandbox that runs somebody's scripts.
    fn sandbox(&self, requester: Requester) -> Sandbox {
        self.parts().sandbox.on_behalf_of(party(requester))
    }

    fn examined(&self, flow: &Flow) -> Examined {
        self.examine(flow, flow.blob())
    }

    /// Compiles a flow and the flows that it runs, as far as possible.
    fn examine(&self, flow: &Flow, blob: Blob) -> Examined {
        let (plan, mut problems) = match self.0.plans.get(&blob.hash) {
            Some(plan) => (plan, Problems::default()),
            None => {
                let (plan, problems) = Plan::examine(flow.clone(), blob, &self.0.types);
                (Arc::new(plan), problems)
            }
        };
        let mut children = Vec::new();
        self.check_children(&plan, &mut problems, &mut children);
        Examined { plan, children, problems }
    }

    /// Checks the flows and agents that steps run. Faults of a saved one have no place in the caller's document but its id.
    fn check_children(&self, plan: &Plan, problems: &mut Problems, children: &mut Vec<Arc<Plan>>) {
        for planned in &plan.steps {
            for (place, child) in planned.body.children() {
                let examined = self.examined(child);
                children.extend(examined.children);
                children.push(examined.plan);
                let Err(error) = examined.problems.into_result() else { continue };
                let at = format!("{}/config{place}", planned.step.pointer);
                if planned.step.config.pointer(&format!("{place}Id")).is_some_and(|id| !id.is_null()) {
                    problems.add(format!("{at}Id"), error.message());
                } else if error.problems().is_empty() || !(place.is_empty() || place.ends_with("/flow")) {
                    // Only a flow's steps know where they stand in the document.
                    problems.add(at, error.message());
                } else {
                    problems.0.extend(error.under(&at).problems().iter().cloned());
                }
            }
        }
    }

    /// The plan of a stored flow.
    fn plan(&self, hash: &str, text: &str) -> Result<Arc<Plan>> {
        if let Some(plan) = self.0.plans.get(hash) {
            return Ok(plan);
        }
        let flow: Flow = serde_json::from_str(text).map_err(Error::internal)?;
        let blob = Blob { hash: hash.to_owned(), body: text.to_owned() };
        script::accepted(|| self.examine(&flow, blob)).whole(&self.0.plans)
    }
}

/// A flow, and the flows that it runs, as far as they could be compiled.
struct Examined {
    plan: Arc<Plan>,
    children: Vec<Arc<Plan>>,
    problems: Problems,
}

impl Examined {
    /// Returns the plan and caches it, if there are no faults.
    fn whole(self, plans: &Cache<String, Arc<Plan>>) -> Result<Arc<Plan>> {
        self.problems.into_result()?;
        for plan in self.children.iter().chain([&self.plan]) {
            plans.insert(plan.blob.hash.clone(), plan.clone());
        }
        Ok(self.plan)
    }
}

/// The party in fair queues.
fn party(requester: Requester) -> Party {
    let party = Party::new(requester.tenant.as_u128());
    if requester.is_visitor { party.for_visitors() } else { party }
}

impl Flow {
    /// The flow as it is stored: its JSON under its content hash.
    pub fn blob(&self) -> Blob {
        Blob::new(serde_json::to_string(self).unwrap_or_default())
    }
}
