//! Taking a run in hand: a new one, or one that was claimed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::compensate::workflow_started;
use super::context::RunContext;
use super::drive::{Departure, start_event};
use super::log::{Before, Birth, RESERVE, RunLog, Start};
use super::memory::Memory;
use super::meter::Meter;
use super::node_lease::RunLease;
use super::plan::Plan;
use super::step::SIGNING_SECRET;
use super::{Engine, KEYS_FOR, party, recover, traced};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::id::{RunId, SecretId, TenantId};
use crate::model::event::{EventRecord, Rest, Segment};
use crate::model::run::{Parent, Spent};
use crate::model::{Epoch, Origin, Requester, RunInput, RunState, Target, TargetKind};
use crate::net;
use crate::provider::TenantKeys;
use crate::secret::{Redactor, Secret};
use crate::store::{Created, Lease, NewRun, RunKey, StoreResult};

/// What a new run is made of.
pub struct StartRun {
    /// Chosen by whoever tells the run's own texts of it; a new one when there is none.
    pub id: Option<RunId>,
    pub tenant: TenantId,
    pub plan: Arc<Plan>,
    pub target: Target,
    pub input: RunInput,
    /// Secrets of the request: sealed with the run until it ends.
    pub secrets: BTreeMap<String, Secret>,
    pub key: Option<RunKey>,
    pub parent: Option<Parent>,
}

/// What a run was begun with, however often it is taken up.
struct Beginning {
    target: Target,
    plan: Arc<Plan>,
    input: RunInput,
    secrets: BTreeMap<String, Secret>,
}

/// A run that was begun: known by its id, durable when `created` says so.
pub struct Started {
    pub run: RunId,
    pub active: Active,
    pub created: oneshot::Receiver<StoreResult<Created>>,
}

/// A run in this node's hands.
pub struct Active {
    pub context: Arc<RunContext>,
    birth: Option<Box<Birth>>,
    number: i64,
    wait_for_birth: bool,
    postponed: Option<Timestamp>,
    closing: Closing,
}

/// How a flow's text names a managed secret.
const MANAGED: &str = "secret:";

/// What a sealed managed secret is bound to; whoever seals one says the same.
pub fn secret_context(tenant: TenantId, id: SecretId) -> String {
    format!("secret/{tenant}/{id}")
}

/// The context that a run's sealed secrets are bound to.
fn sealed_as(tenant: TenantId, run: RunId) -> String {
    format!("run/{tenant}/{run}")
}

impl Engine {
    /// Begins a new run that is advanced here, born under this node's lease.
    pub async fn begin(&self, mut start: StartRun, lease: Arc<RunLease>) -> Result<Started> {
        let parts = self.parts();
        start.input.origin = start.input.origin.take().or_else(Origin::current);
        let run = start.id.unwrap_or_else(|| RunId::new(&parts.clock));
        let now = parts.clock.now();
        let sealed = self.seal(&start.secrets, start.tenant, run)?;
        let new = NewRun {
            id: run,
            tenant: start.tenant,
            flow: start.plan.blob.clone(),
            target: start.target,
            flow_name: start.plan.flow.name.clone(),
            input: start.input.clone(),
            sealed,
            parent: start.parent,
            key: start.key,
            lease: Some((parts.node, lease.promised())),
            created_at: now,
            reserved: RESERVE,
            journal: Vec::new(),
            segment: None,
        };
        let (told, created) = oneshot::channel();
        // With a key, nothing may go out before it is known that this run is the key's first.
        let wait_for_birth = new.key.is_some();
        let log = Start {
            run,
            tenant: start.tenant,
            epoch: Epoch(1),
            parent: start.parent,
            job: start.input.job,
            next_seq: 0,
            reserved: RESERVE,
            spent: Spent::default(),
            lease,
            before: Before::Nothing,
            compensating: false,
        };
        let memory = Memory::load(&start.plan, Vec::new(), Vec::new(), 0);
        let beginning = Beginning { target: start.target, plan: start.plan, input: start.input, secrets: start.secrets };
        let context = self.context(log, beginning, memory).await?;
        context.emit(start_event(context.target, &context.plan, &context.input.options.source, now));
        let trigger = context.input.inputs.get("trigger");
        if let Some(started) = workflow_started(&context.plan, trigger_type(trigger), trigger.and_then(|trigger| trigger.get("body")), now)
        {
            context.emit(started);
        }
        let context = Arc::new(context);
        let closing = Closing(context.clone());
        let active = Active { context, birth: Some(Box::new(Birth { new, told })), number: 0, wait_for_birth, postponed: None, closing };
        Ok(Started { run, active, created })
    }

    /// Creates a run that any node takes up, as soon as it is nudged or looks.
    pub async fn enqueue(&self, start: StartRun) -> Result<(RunId, Created)> {
        let run = start.id.unwrap_or_else(|| RunId::new(&self.parts().clock));
        let created = self.parts().store.create_run(self.queued(run, &start)?).await?;
        Ok((run, created))
    }

    /// A run that nobody holds yet; its log begins like any other.
    pub(super) fn queued(&self, run: RunId, start: &StartRun) -> Result<NewRun> {
        let now = self.parts().clock.now();
        let mut events = vec![EventRecord::new(0, &start_event(start.target, &start.plan, &start.input.options.source, now))];
        // Nothing is removed from these events, so they do not show what the run was triggered with.
        let started = workflow_started(&start.plan, trigger_type(start.input.inputs.get("trigger")), None, now);
        events.extend(started.map(|started| EventRecord::new(1, &started)));
        Ok(NewRun {
            id: run,
            tenant: start.tenant,
            flow: start.plan.blob.clone(),
            target: start.target,
            flow_name: start.plan.flow.name.clone(),
            input: RunInput { origin: start.input.origin.clone().or_else(Origin::current), ..start.input.clone() },
            sealed: self.seal(&start.secrets, start.tenant, run)?,
            parent: start.parent,
            key: start.key.clone(),
            lease: None,
            created_at: now,
            reserved: events.last().map_or(0, |last| last.seq) + 1,
            journal: Vec::new(),
            segment: Some(Segment { events, rest: Rest::None }),
        })
    }

    /// Takes up a claimed run.
    pub async fn resume(&self, taken: Lease, lease: Arc<RunLease>) -> Result<Active> {
        let plan = self.plan(&taken.run.flow_hash, &taken.flow)?;
        let run = taken.run;
        let secrets = self.unseal(run.sealed.as_deref(), run.tenant, run.id)?;
        let ends = run.cancel_requested || self.is_orphan(run.tenant, run.parent).await?;
        let log = Start {
            run: run.id,
            tenant: run.tenant,
            epoch: run.epoch,
            parent: run.parent,
            job: run.input.job,
            next_seq: run.reserved,
            reserved: run.reserved,
            spent: run.spent,
            lease,
            before: if run.state == RunState::Paused { Before::Rested } else { Before::CutShort },
            compensating: run.state == RunState::Compensating,
        };
        let memory = Memory::load(&plan, taken.journal, taken.waits, run.nudges);
        let context = self.context(log, Beginning { target: run.target, plan, input: run.input, secrets }, memory).await?;
        if ends {
            context.cancel.cancel();
        }
        if taken.recovered {
            failpoint::hit("run.recover.before");
            recover::discard(&context, &taken.tail, run.recoveries);
            failpoint::hit("run.recover.after");
        }
        let context = Arc::new(context);
        let closing = Closing(context.clone());
        Ok(Active { context, birth: None, number: run.commit, wait_for_birth: false, postponed: None, closing })
    }

    /// Whether a child's parent has ended. It was created while the parent was ending, and nobody waits for it.
    async fn is_orphan(&self, tenant: TenantId, parent: Option<Parent>) -> Result<bool> {
        let Some(parent) = parent else { return Ok(false) };
        let found = self.parts().store.find_run(tenant, parent.run).await?;
        Ok(found.is_none_or(|run| run.state.is_terminal()))
    }

    async fn context(&self, log: Start, beginning: Beginning, memory: Memory) -> Result<RunContext> {
        let Beginning { target, plan, input, secrets } = beginning;
        let requester = Requester { tenant: log.tenant, is_visitor: input.is_by_visitor() };
        let parts = self.parts();
        let keys = self.tenant_keys(log.tenant).await?;
        let mut known_secrets = self.managed_secrets(log.tenant, &plan).await?;
        known_secrets.extend(secrets.clone());
        // From here on nothing may fail: whoever has the context closes the ring.
        let ring = parts.feed.open(log.run, log.next_seq);
        let redactor = Redactor::new(known_secrets.values().cloned()).on_behalf_of(party(requester));
        let mut base = base(&input);
        if plan.workflow.is_none() {
            // The rounds of a loop are of the flow that has the loop.
            let is_part = target == Target::Flow(None) && input.options.depth > 0;
            for (name, value) in identity(target, &plan.flow.name, log.tenant) {
                if is_part && name == FLOW {
                    base.entry(name).or_insert(value);
                } else {
                    base.insert(name, value);
                }
            }
        }
        Ok(RunContext {
            engine: self.0.clone(),
            run: log.run,
            tenant: log.tenant,
            target,
            plan,
            base,
            input,
            secrets,
            known_secrets,
            redactor,
            keys,
            log: RunLog::new(log, parts.store.clone(), parts.listeners.clone(), ring, parts.clock.clone()),
            meter: Meter::new(parts.clock.clone()),
            memory: parking_lot::Mutex::new(memory),
            cancel: CancellationToken::new(),
            poke: Arc::new(Notify::new()),
        })
    }

    pub(super) fn seal(&self, secrets: &BTreeMap<String, Secret>, tenant: TenantId, run: RunId) -> Result<Option<Vec<u8>>> {
        if secrets.is_empty() {
            return Ok(None);
        }
        let plain: BTreeMap<&str, &str> = secrets.iter().map(|(name, secret)| (name.as_str(), secret.expose())).collect();
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(&plain).map_err(Error::internal)?);
        self.parts().vault.seal(&plain, &sealed_as(tenant, run)).map(Some)
    }

    fn unseal(&self, sealed: Option<&[u8]>, tenant: TenantId, run: RunId) -> Result<BTreeMap<String, Secret>> {
        let Some(sealed) = sealed else { return Ok(BTreeMap::new()) };
        let plain = self.parts().vault.open(sealed, &sealed_as(tenant, run))?;
        serde_json::from_slice(&plain).map_err(Error::internal)
    }

    /// The managed secrets that a plan names, as they are now; also one whose key merely stands in its text, which does no harm. One that cannot be
    /// opened is an error, for another server may have the key.
    async fn managed_secrets(&self, tenant: TenantId, plan: &Plan) -> Result<BTreeMap<String, Secret>> {
        let text = &plan.blob.body;
        if plan.workflow.is_none() && !text.contains(MANAGED) {
            return Ok(BTreeMap::new());
        }
        let kept = self.parts().store.list_secrets(tenant).await?;
        let signs = |key: &str| plan.workflow.is_some() && key == SIGNING_SECRET;
        let named = kept.into_iter().filter(|secret| text.contains(&secret.key) || signs(&secret.key));
        let opened = named.filter_map(|secret| Some((secret.id, secret.key, secret.sealed?)));
        opened
            .map(|(id, key, sealed)| {
                let plain = self.parts().vault.open(&sealed, &secret_context(tenant, id))?;
                Ok((key, Secret::new(String::from_utf8_lossy(&plain).into_owned())))
            })
            .collect()
    }

    /// The tenant's own provider keys. One that cannot be opened is left out: the environment's may serve.
    pub async fn tenant_keys(&self, tenant: TenantId) -> Result<TenantKeys> {
        let now = self.parts().clock.now();
        if let Some((read, keys)) = self.0.keys.get(&tenant)
            && now.since(read) < KEYS_FOR
        {
            return Ok(keys);
        }
        let mut keys = TenantKeys::default();
        for credential in self.parts().store.list_credentials(tenant).await? {
            let context = format!("credential/{tenant}/{}", credential.provider);
            match self.parts().vault.open(&credential.sealed, &context) {
                Ok(plain) => keys.set(credential.provider, Secret::new(String::from_utf8_lossy(&plain).into_owned())),
                Err(error) => tracing::warn!(%tenant, provider = credential.provider, %error, "a credential cannot be opened"),
            }
        }
        self.0.keys.insert(tenant, (now, keys.clone()));
        Ok(keys)
    }
}

/// How a workflow's run was triggered.
fn trigger_type(trigger: Option<&Value>) -> &str {
    trigger.and_then(|trigger| trigger.get("type")).and_then(Value::as_str).unwrap_or("http")
}

/// The variables that every step sees: the inputs at the root, the record, the conversation.
fn base(input: &RunInput) -> Map<String, Value> {
    let mut base = input.inputs.clone();
    if let Some(record) = &input.record {
        base.insert("_record".into(), record.clone());
    }
    if let Some(metadata) = &input.metadata {
        base.entry("metadata").or_insert_with(|| metadata.clone());
    }
    if let Some(context) = &input.context {
        base.entry("context").or_insert_with(|| context.clone());
    }
    base.insert("messages".into(), Value::Array(input.messages.clone()));
    let last = input.messages.iter().rev().find(|message| message.get("role").and_then(Value::as_str) == Some("user"));
    if let Some(text) = last.map(message_text) {
        base.entry("user_message").or_insert(Value::String(text));
    }
    base
}

/// The variable that names the flow that is executed.
pub const FLOW: &str = "_flow";

/// Whose execution of what it is, as templates see it: `_flow` or `_agent`, and `_user`, the tenant on whose behalf it runs.
fn identity(target: Target, name: &str, tenant: TenantId) -> [(String, Value); 2] {
    let (variable, id) = match target.kind() {
        TargetKind::Flow => (FLOW, target.flow_id().map(|id| id.to_string())),
        TargetKind::Agent => ("_agent", target.agent_id().map(|id| id.to_string())),
    };
    [(variable.into(), json!({ "id": id, "name": name })), ("_user".into(), json!({ "id": tenant }))]
}

/// The text of a message whose content is a string or a list of parts; pages of the AI SDK and Gemini's format call the list `parts`.
fn message_text(message: &Value) -> String {
    let parts = message.get("parts").filter(|parts| parts.as_array().is_some_and(|parts| !parts.is_empty()));
    match parts.or_else(|| message.get("content")) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

impl Active {
    /// The run is given back at once, to be taken up again at that time: its owners went away one after the other.
    #[must_use]
    pub fn postponed(self, until: Timestamp) -> Self {
        Self { postponed: Some(until), ..self }
    }

    /// Advances the run until it has ended, paused or was lost. `leave` asks to hand it back.
    pub async fn drive(self, leave: CancellationToken) -> Departure {
        let Self { context, birth, number, wait_for_birth, postponed, closing: _closing } = self;
        // Boxed, because the layers around them would each hold room for the whole of them again.
        let walk = Box::pin(async {
            if wait_for_birth {
                context.log.commit().await;
            }
            match postponed {
                Some(until) => context.postpone(until).await,
                None => context.walk(&leave).await,
            }
        });
        let walk = net::on_behalf_of(context.party(), walk);
        let span = context.span();
        let walk = context.log.lease().under(walk).instrument(span.clone());
        let committing = Box::pin(context.log.keep_committing(birth, number).instrument(span.clone()));
        let departure = tokio::select! {
            biased;
            departure = walk => departure,
            lost = committing => Departure::Lost(lost),
        };
        traced::left(&span, departure);
        context.meter.left();
        departure
    }
}

/// Closes the ring however the drive ends, also when its task is aborted, before it was first polled even.
struct Closing(Arc<RunContext>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.parts().feed.close(self.0.run, self.0.log.ring());
    }
}
