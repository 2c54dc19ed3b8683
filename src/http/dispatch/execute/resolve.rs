//! From a request to a run's beginnings: flow and record found or saved, options read, every fault reported at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::agent_document;
use super::super::bounds::NO_CONTROLS;
use super::super::document;
use super::super::embed::Embed;
use super::super::provenance;
use super::super::releases::released;
use super::options::{OptionOverrides, refuse_unavailable, run_options};
use super::request::{ClientToolsPolicy, DispatchRequest, OptionsDocument, RecordDocument};
use super::upsert;
use crate::clock::Clock;
use crate::engine::plan::Plan;
use crate::engine::step::check_messages;
use crate::engine::{Engine, StartRun};
use crate::error::{Error, Kind, Problem, Problems, Result};
use crate::http::AppState;
use crate::id::{AgentId, FlowId, RecordId, TenantId};
use crate::model::run::{RunInput, RunOptions};
use crate::model::{Flow, Record, Requester, Target, TargetKind};
use crate::secret::Secret;
use crate::store::{FlowVersion, RunKey, SavedFlow, SharedStore, StoreError};
use crate::tool::MAX_TOOLS;

/// What a dispatch runs.
pub struct Resolved {
    pub plan: Arc<Plan>,
    pub target: Target,
    pub input: RunInput,
    pub secrets: BTreeMap<String, Secret>,
    pub stream: Option<bool>,
    pub respond_async: bool,
}

impl Resolved {
    /// What the engine starts.
    pub fn start(self, tenant: TenantId, key: Option<RunKey>) -> StartRun {
        let Self { plan, target, input, secrets, .. } = self;
        StartRun { id: None, tenant, plan, target, input, secrets, key, parent: None }
    }
}

/// What is to run, and its plan if it has one; what is in the way if it is no fault of the document.
type Planned = (Result<Option<Arc<Plan>>>, Target);

/// Which version of something saved is wanted.
enum Wanted {
    Current,
    Published,
    Version(String),
    /// The one that a release names.
    Alias(String),
}

impl Wanted {
    fn of(version: Option<String>, alias: Option<String>) -> Self {
        match (version, alias) {
            (Some(version), _) if version == "published" => Self::Published,
            (Some(version), _) => Self::Version(version),
            (None, Some(alias)) => Self::Alias(alias),
            (None, None) => Self::Current,
        }
    }

    /// The field that says so.
    const fn field(&self) -> &'static str {
        if matches!(self, Self::Alias(_)) { "/alias" } else { "/versionId" }
    }
}

/// Most secrets of one request.
const MAX_SECRETS: usize = 100;

/// Where the parts of a request are looked up.
pub struct Lookup<'a> {
    pub engine: &'a Engine,
    pub store: &'a SharedStore,
    pub clock: &'a Clock,
    pub tenant: TenantId,
    /// A visitor of a page asks.
    pub is_visitor: bool,
    /// The same for every call with the same key and body: what such a call saves is saved once.
    pub seed: Option<u128>,
}

/// How a flow or a record is found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Virtual,
    Existing,
    Upsert,
    Create,
}

impl Mode {
    fn read(given: Option<&str>, at: &str, inferred: Self, problems: &mut Problems) -> Self {
        match given {
            None => inferred,
            Some("virtual") => Self::Virtual,
            Some("existing") => Self::Existing,
            Some("upsert") => Self::Upsert,
            Some("create") => Self::Create,
            Some(other) => {
                problems.add(at, format!("unknown mode `{other}`; one of virtual, existing, upsert, create"));
                inferred
            }
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::Existing => "existing",
            Self::Upsert => "upsert",
            Self::Create => "create",
        }
    }

    const fn saves(self) -> bool {
        matches!(self, Self::Upsert | Self::Create)
    }
}

impl<'a> Lookup<'a> {
    /// Looks up for a caller who gave no key.
    pub fn of(state: &'a AppState, tenant: TenantId) -> Self {
        Self { engine: &state.engine, store: &state.store, clock: &state.clock, tenant, is_visitor: false, seed: None }
    }
}

impl Lookup<'_> {
    const fn requester(&self) -> Requester {
        Requester { tenant: self.tenant, is_visitor: self.is_visitor }
    }

    /// Resolves a request. Nothing is saved before everything in it was found to be right.
    pub async fn resolve(&self, request: DispatchRequest) -> Result<Resolved> {
        let mut problems = Problems::default();
        request.refuse_unavailable(&mut problems);
        let options = request.options.take("/options", &mut problems);
        if let Some(options) = &options {
            refuse_unavailable(options, &mut problems);
        }
        let options: OptionsDocument = read(options, "/options", &mut problems).unwrap_or_default();
        let record: Option<RecordDocument> = read(request.record.take("/record", &mut problems), "/record", &mut problems);
        let messages = messages(request.messages, &mut problems);
        let given_tools = request.client_tools.take("/clientTools", &mut problems).unwrap_or_default();
        let mut policy = request.client_tools_policy.take("/clientToolsPolicy", &mut problems).unwrap_or_default();
        let tools_read = self.engine.read(self.requester(), || client_tools(&given_tools)).await;
        let (mut client_tools, faults) = tools_read.map_err(|error| error.under("/clientTools"))?;
        problems.0.extend(faults.0);
        policy.check("/clientToolsPolicy", &mut problems);
        client_tools.retain(|tool| may_be_seen(tool, &policy));
        let secrets = request.secrets.take("/secrets", &mut problems).unwrap_or_default();
        if secrets.len() > MAX_SECRETS {
            problems.add("/secrets", format!("a request may carry {MAX_SECRETS} secrets"));
        }
        let inputs = request.inputs.take("/inputs", &mut problems).unwrap_or_default();
        let respond_async = request.respond_async.take("/async", &mut problems).unwrap_or(false);
        let stream = request.stream_response.take("/streamResponse", &mut problems);
        // Both also stand beside `agentId`.
        let mut named = |name: &str| match request.agent.as_ref().and_then(|agent| agent.get("agentId").and_then(|_| agent.get(name))) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => {
                problems.add(format!("/agent/{name}"), "expected a text");
                None
            }
        };
        let (its_version, its_alias) = (named("versionId"), named("alias"));
        let version = request.version_id.take("/versionId", &mut problems).or(its_version);
        let version = pinned(version, request.flow.as_ref(), &options, &mut problems);
        let alias = request.alias.take("/alias", &mut problems).or(its_alias);
        if alias.is_some() && version.is_some() {
            problems.add("/alias", "`versionId` says which version; give one of them");
        }
        let version = Wanted::of(version, alias);
        let run_options = run_options(&options, &mut problems);
        let flow_id = request.flow_id.take("/flowId", &mut problems);
        let flow = request.flow.or_else(|| flow_id.map(|id| serde_json::json!({ "id": id })));
        let agent = request.agent.filter(|agent| !agent.is_null());
        let mode = flow_mode(&options, flow.as_ref(), &mut problems);
        let record_mode = record_mode(&options, record.as_ref(), &mut problems);
        let saved_agent = agent.as_ref().is_some_and(|agent| agent.get("agentId").is_some_and(|id| !id.is_null()));
        if !matches!(version, Wanted::Current) && mode != Mode::Existing && !saved_agent {
            problems.add(version.field(), "versions are of saved flows and agents; this one is sent along");
        }
        let overrides = OptionOverrides::read(&options, &mut problems);
        let is_probe = agent.is_none() && mode == Mode::Upsert && flow.as_ref().is_some_and(upsert::is_probe);
        let hash = flow.as_ref().and_then(|flow| provenance::given_hash(flow.get("contentHash"), "/flow/contentHash", &mut problems));
        let (plan, target) = match (&agent, &flow, mode) {
            (Some(agent), _, _) => {
                if flow.is_some() {
                    problems.add("/flow", "expected either a flow or an agent");
                }
                if messages.iter().all(|message| message.get("role").and_then(Value::as_str) == Some("system")) {
                    problems.add("/messages", "an agent needs at least one message of its user");
                }
                self.agent(agent, &version, &overrides, &mut problems).await?
            }
            (None, None, _) => {
                problems.add("/flow", "expected a flow: `{name, steps}` or `{id}`, or an agent");
                (Ok(None), Target::default())
            }
            (None, Some(flow), Mode::Existing) => {
                let found = self.saved_flow(flow, &version, &overrides, &mut problems).await?;
                self.plan(found, "/flow", &mut problems).await?
            }
            (None, Some(flow), _) if is_probe => {
                let (saved, version) = self.probed(flow, hash.as_deref()).await?;
                let found = self.compiled(version.document, Target::Flow(Some(saved.id)), &overrides, &mut problems).await?;
                self.plan(found, "/flow", &mut problems).await?
            }
            (None, Some(flow), _) => {
                let compiled = match noted(self.whole(TargetKind::Flow, flow.clone()).await, "/flow", &mut problems)? {
                    Some(whole) => {
                        let whole = overrides.apply(TargetKind::Flow, whole);
                        noted(document::compile_with(&whole, overrides.step_timeout), "/flow", &mut problems)?
                    }
                    None => None,
                };
                self.plan(compiled.map(|flow| (flow, Target::Flow(None))), "/flow", &mut problems).await?
            }
        };
        let found_record = match record_mode {
            Mode::Existing => self.find_record(record.as_ref(), &mut problems).await?,
            _ => None,
        };
        if let Ok(Some(plan)) = &plan
            && let Some(model) = self.engine.unpriced_model(plan, &run_options.budget, self.tenant).await?
        {
            problems.add("/options/budget/maxCost", crate::engine::unpriced_message(&model));
        }
        let is_sent = agent.is_some() || plan.as_ref().is_ok_and(|plan| plan.as_ref().is_some_and(|plan| sends_messages(&plan.flow)));
        if is_sent && !problems.0.iter().any(|problem| problem.pointer.starts_with("/messages")) {
            note_unsendable(&messages, &mut problems);
        }
        overrides.place(&mut problems);
        problems.into_result()?;
        let Some(plan) = plan? else { return Err(Error::invalid_at("/flow", "expected a flow")) };
        let target = match flow.filter(|_| mode.saves() && !is_probe) {
            Some(flow) => Target::Flow(Some(self.save_flow(&flow, hash, &options, mode).await?)),
            None => target,
        };
        let record = match (record, found_record) {
            (Some(given), None) => Some(self.record(given, record_mode).await?),
            (_, found) => found.map(|record| shown(&record)).transpose()?,
        };
        let input = RunInput {
            inputs,
            record,
            messages,
            metadata: request.metadata,
            context: request.context,
            client_tools,
            session: None,
            key_id: None,
            job: None,
            origin: None,
            options: RunOptions { source: if saved_agent { Mode::Existing } else { mode }.as_str().into(), ..run_options },
        };
        let stream = options.stream_response.or(stream);
        Ok(Resolved { plan, target, input, secrets, stream, respond_async })
    }

    async fn whole(&self, kind: TargetKind, document: Value) -> Result<Value> {
        Embed::whole(self.store, self.tenant, kind, document).await
    }

    async fn saved_flow(
        &self,
        flow: &Value,
        version: &Wanted,
        overrides: &OptionOverrides,
        problems: &mut Problems,
    ) -> Result<Option<(Flow, Target)>> {
        let Some(id) = flow.get("id").and_then(Value::as_str) else {
            problems.add("/flow/id", "`flowMode: existing` needs the id of a saved flow");
            return Ok(None);
        };
        let found = match id.parse() {
            Ok(id) => self.saved(TargetKind::Flow, id, version, problems).await?,
            Err(_) => None,
        };
        let Some((saved, version)) = found else {
            problems.add("/flow/id", "no such flow");
            return Ok(None);
        };
        let Some(version) = version else { return Ok(None) };
        self.compiled(version.document, Target::Flow(Some(saved.id)), overrides, problems).await
    }

    /// A saved flow's document, compiled.
    async fn compiled(
        &self,
        document: Value,
        target: Target,
        overrides: &OptionOverrides,
        problems: &mut Problems,
    ) -> Result<Option<(Flow, Target)>> {
        let Some(whole) = noted(self.whole(TargetKind::Flow, document).await, "/flow", problems)? else { return Ok(None) };
        let whole = overrides.apply(TargetKind::Flow, whole);
        Ok(noted(document::compile_with(&whole, overrides.step_timeout), "/flow", problems)?.map(|flow| (flow, target)))
    }

    /// A saved flow or agent with the wanted version; without one, its fault is noted.
    async fn saved(
        &self,
        kind: TargetKind,
        id: FlowId,
        version: &Wanted,
        problems: &mut Problems,
    ) -> Result<Option<(SavedFlow, Option<FlowVersion>)>> {
        let Some(saved) = self.store.find_flow(self.tenant, kind, id).await? else { return Ok(None) };
        let what = kind.as_str();
        let wanted = match version {
            Wanted::Current => Some(saved.current),
            Wanted::Published => {
                let none = || Error::new(Kind::Conflict, "flow_not_published", format!("no version of this {what} is published"));
                Some(saved.published.ok_or_else(none)?)
            }
            Wanted::Version(version) => version.parse().ok(),
            Wanted::Alias(alias) => released(self.store, self.tenant, saved.id, alias).await?,
        };
        let found = match wanted {
            Some(version) => self.store.find_flow_version(self.tenant, version).await?.filter(|version| version.flow == saved.id),
            None => None,
        };
        if found.is_none() {
            problems.add(version.field(), format!("no such version of this {what}"));
        }
        Ok(Some((saved, found)))
    }

    async fn agent(&self, agent: &Value, version: &Wanted, overrides: &OptionOverrides, problems: &mut Problems) -> Result<Planned> {
        let Some(id) = agent.get("agentId").filter(|id| !id.is_null()) else {
            let Some(whole) = noted(self.whole(TargetKind::Agent, agent.clone()).await, "/agent", problems)? else {
                return Ok((Ok(None), Target::default()));
            };
            let compiled = noted(agent_document::compile(&overrides.apply(TargetKind::Agent, whole)), "/agent", problems)?;
            return self.agent_plan(compiled.map(|flow| (flow, Target::Agent(None))), agent, "/agent", problems).await;
        };
        let found = match id.as_str().and_then(|id| id.parse::<AgentId>().ok()) {
            Some(id) => self.saved(TargetKind::Agent, id.as_flow(), version, problems).await?,
            None => None,
        };
        let Some((saved, version)) = found else {
            problems.add("/agent/agentId", "no such agent");
            return Ok((Ok(None), Target::default()));
        };
        let Some(version) = version else { return Ok((Ok(None), Target::default())) };
        let target = Target::Agent(Some(AgentId::of_flow(saved.id)));
        let Some(whole) = noted(self.whole(TargetKind::Agent, version.document.clone()).await, "/agent/agentId", problems)? else {
            return Ok((Ok(None), Target::default()));
        };
        let compiled = noted(agent_document::compile(&overrides.apply(TargetKind::Agent, whole)), "/agent/agentId", problems)?;
        self.agent_plan(compiled.map(|flow| (flow, target)), &version.document, "/agent/agentId", problems).await
    }

    async fn agent_plan(&self, found: Option<(Flow, Target)>, document: &Value, at: &str, problems: &mut Problems) -> Result<Planned> {
        let mut own = Problems::default();
        let planned = self.plan(found, "", &mut own).await?;
        if let Err(error) = own.into_result() {
            problems.0.extend(agent_document::placed(error, document).under(at).problems().iter().cloned());
        }
        Ok(planned)
    }

    /// Plans what was found. What is right in itself may still lack a key; its other faults come first.
    async fn plan(&self, found: Option<(Flow, Target)>, at: &str, problems: &mut Problems) -> Result<Planned> {
        let Some((flow, target)) = found else { return Ok((Ok(None), Target::default())) };
        match self.engine.admit(&flow, self.requester()).await {
            Err(error) if error.problems().is_empty() => Ok((Err(error), target)),
            plan => Ok((Ok(noted(plan, at, problems)?), target)),
        }
    }

    /// The record as templates see it, saved first if that is asked for.
    async fn record(&self, given: RecordDocument, mode: Mode) -> Result<Value> {
        if mode.saves() {
            return shown(&self.save_record(given, mode).await?);
        }
        let mut record = Map::new();
        for (key, value) in [("id", given.id), ("type", given.kind), ("name", given.name)] {
            if let Some(value) = value {
                record.insert(key.into(), value.into());
            }
        }
        record.insert("metadata".into(), Value::Object(given.metadata.unwrap_or_default()));
        if let Some(messages) = given.messages {
            record.insert("messages".into(), Value::Array(messages));
        }
        Ok(Value::Object(record))
    }

    async fn find_record(&self, given: Option<&RecordDocument>, problems: &mut Problems) -> Result<Option<Record>> {
        let found = match given.map(|given| (&given.id, &given.kind, &given.name)) {
            Some((Some(id), _, _)) => match id.parse() {
                Ok(id) => self.store.find_record(self.tenant, id).await?,
                Err(_) => None,
            },
            Some((None, Some(kind), Some(name))) => self.store.find_record_by_name(self.tenant, kind, name).await?,
            // Said already.
            _ => return Ok(None),
        };
        if found.is_none() {
            problems.add("/record/id", "no such record");
        }
        Ok(found)
    }

    async fn save_record(&self, given: RecordDocument, mode: Mode) -> Result<Record> {
        let (kind, name) = (given.kind.unwrap_or_default(), given.name.unwrap_or_default());
        let metadata = given.metadata.unwrap_or_default();
        for _ in 0..10 {
            let now = self.clock.now();
            if let Some(old) = self.store.find_record_by_name(self.tenant, &kind, &name).await? {
                if mode == Mode::Create {
                    let made_by_this_call = self.seed.map(RecordId::from_u128) == Some(old.id);
                    return if made_by_this_call { Ok(old) } else { Err(StoreError::Exists("a record with this type and name").into()) };
                }
                let expected = old.updated_at;
                let record = Record { metadata: metadata.clone(), updated_at: now, ..old };
                if self.store.replace_record(self.tenant, record.clone(), expected).await? {
                    return Ok(record);
                }
                continue;
            }
            let record = Record {
                id: self.seed.map_or_else(|| RecordId::new(self.clock), RecordId::from_u128),
                kind: kind.clone(),
                name: name.clone(),
                metadata: metadata.clone(),
                messages: given.messages.clone().unwrap_or_default(),
                created_at: now,
                updated_at: now,
            };
            match self.store.create_record(self.tenant, record.clone()).await {
                Ok(()) => return Ok(record),
                Err(StoreError::Exists(_)) if mode == Mode::Upsert || self.seed.is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(Kind::Conflict, "record_busy", "the record is being changed by others")
            .retry_after(std::time::Duration::from_secs(1)))
    }
}

fn shown(record: &Record) -> Result<Value> {
    serde_json::to_value(record).map_err(Error::internal)
}

/// How the flow is found: as the options say, else by its form.
fn flow_mode(options: &OptionsDocument, flow: Option<&Value>, problems: &mut Problems) -> Mode {
    let has = |key: &str| flow.is_some_and(|flow| flow.get(key).is_some_and(|value| !value.is_null()));
    let inline = has("steps") || has("flowSteps") || !has("id");
    let inferred = if inline { Mode::Virtual } else { Mode::Existing };
    Mode::read(options.flow_mode.as_deref(), "/options/flowMode", inferred, problems)
}

fn record_mode(options: &OptionsDocument, record: Option<&RecordDocument>, problems: &mut Problems) -> Mode {
    let by_id = record.is_some_and(|record| record.id.is_some() && record.metadata.is_none());
    let inferred = if by_id { Mode::Existing } else { Mode::Virtual };
    let mode = Mode::read(options.record_mode.as_deref(), "/options/recordMode", inferred, problems);
    let Some(record) = record else { return mode };
    let named = |text: &Option<String>, most: usize| text.as_ref().is_some_and(|text| (1..=most).contains(&text.chars().count()));
    if matches!(mode, Mode::Create | Mode::Upsert) {
        if !named(&record.kind, 255) {
            problems.add("/record/type", "a record that is saved needs a type of 1 to 255 characters");
        }
        if !named(&record.name, 500) {
            problems.add("/record/name", "a record that is saved needs a name of 1 to 500 characters");
        }
    }
    for (at, text) in [("/record/type", &record.kind), ("/record/name", &record.name)] {
        if text.as_deref().is_some_and(|text| text.contains(char::is_control)) {
            problems.add(at, NO_CONTROLS);
        }
    }
    if mode == Mode::Existing && record.id.is_none() && (record.kind.is_none() || record.name.is_none()) {
        problems.add("/record/id", "`recordMode: existing` needs the id of a record, or its type and name");
    }
    mode
}

fn read<T: DeserializeOwned>(part: Option<Map<String, Value>>, at: &str, problems: &mut Problems) -> Option<T> {
    serde_path_to_error::deserialize(Value::Object(part?)).map_err(|error| problems.0.push(Problem::misfit(&error).under(at))).ok()
}

/// Puts the faults of a part among the others; a failure that is no fault of the document comes through as it is.
fn noted<T>(result: Result<T>, at: &str, problems: &mut Problems) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.problems().is_empty() => Err(error),
        Err(error) => {
            problems.0.extend(error.under(at).problems().iter().cloned());
            Ok(None)
        }
    }
}

/// Most messages of one request.
const MAX_MESSAGES: usize = 10_000;

fn messages(value: Option<Value>, problems: &mut Problems) -> Vec<Value> {
    let items = match value {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) if items.len() <= MAX_MESSAGES => items,
        Some(_) => {
            problems.add("/messages", format!("expected a list of at most {MAX_MESSAGES} messages"));
            return Vec::new();
        }
    };
    for (index, item) in items.iter().enumerate() {
        let role = item.get("role").and_then(Value::as_str).unwrap_or_default();
        if !["system", "developer", "user", "assistant", "model", "tool", "function"].contains(&role) {
            problems.add(format!("/messages/{index}/role"), "expected system, user, assistant or tool");
        }
        if !item.get("content").is_none_or(|content| content.is_string() || content.is_array() || content.is_null()) {
            problems.add(format!("/messages/{index}/content"), "expected a text or a list of parts");
        }
    }
    items
}

/// Notes every message, and every part of one, that cannot be sent to a model.
fn note_unsendable(messages: &[Value], problems: &mut Problems) {
    if let Err(found) = check_messages(messages) {
        problems.0.extend(found.0.into_iter().map(|problem| problem.under("/messages")));
    }
}

/// Whether a prompt of the flow is sent the request's messages as they are.
fn sends_messages(flow: &Flow) -> bool {
    let names_messages = |text: &str| {
        let inner = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
        inner.is_some_and(|inner| inner.trim() == "messages")
    };
    flow.steps.iter().any(|step| step.config.get("previousMessages").and_then(Value::as_str).is_some_and(names_messages))
}

/// Whether a policy lets the model see a tool of the request.
fn may_be_seen(tool: &Value, policy: &ClientToolsPolicy) -> bool {
    let is_of_page = tool.get("origin").and_then(Value::as_str) == Some("webmcp");
    !is_of_page || tool.get("name").and_then(Value::as_str).is_none_or(|name| policy.allows(name))
}

/// The version that is wanted, wherever the request names it.
fn pinned(given: Option<String>, flow: Option<&Value>, options: &OptionsDocument, problems: &mut Problems) -> Option<String> {
    let in_flow = match flow.and_then(|flow| flow.get("versionId")) {
        None | Some(Value::Null) => None,
        Some(Value::String(version)) => Some(version.clone()),
        Some(_) => {
            problems.add("/flow/versionId", "expected a text");
            None
        }
    };
    let mut wanted = given;
    for (at, version) in [("/flow/versionId", in_flow), ("/options/flowVersionId", options.flow_version_id.clone())] {
        match (&wanted, version) {
            (Some(wanted), Some(version)) if *wanted != version => problems.add(at, "another version is named, too; give one of them"),
            (None, Some(version)) => wanted = Some(version),
            _ => {}
        }
    }
    wanted
}

/// Returns the tools by name, and their faults.
fn client_tools(tools: &[Value]) -> (Vec<Value>, Problems) {
    let mut problems = Problems::default();
    if tools.len() > MAX_TOOLS {
        problems.add("/clientTools", format!("expected at most {MAX_TOOLS} tools"));
        return (Vec::new(), problems);
    }
    let mut named = Vec::with_capacity(tools.len());
    for (index, mut tool) in tools.iter().cloned().enumerate() {
        let at = format!("/clientTools/{index}");
        match tool.get("origin").and_then(Value::as_str) {
            None | Some("sdk") => {}
            // Tools of a page live in their own namespace, apart from the flow's.
            Some("webmcp") => {
                let name = tool.get("name").and_then(Value::as_str).unwrap_or_default();
                let name = format!("webmcp:{}", name.strip_prefix("webmcp:").unwrap_or(name));
                if let Some(map) = tool.as_object_mut() {
                    map.insert("name".into(), name.into());
                }
            }
            Some(_) => problems.add(format!("{at}/origin"), "expected webmcp or sdk"),
        }
        // Whatever type it names: one of a request runs in the caller. What is no name is a fault.
        if let Some(map) = tool.as_object_mut()
            && map.get("toolType").is_none_or(Value::is_string)
        {
            map.insert("toolType".into(), "local".into());
        }
        match serde_path_to_error::deserialize::<_, crate::tool::Definition>(&tool) {
            Ok(definition) => {
                if let Err(faults) = crate::tool::Tool::compile(definition) {
                    faults.0.into_iter().for_each(|fault| problems.add(format!("{at}{}", fault.pointer), fault.message));
                }
            }
            Err(error) => problems.0.push(Problem::misfit(&error).under(&at)),
        }
        named.push(tool);
    }
    (named, problems)
}
