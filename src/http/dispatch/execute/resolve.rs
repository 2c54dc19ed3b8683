//! From a request to a run's beginnings: flow and record found or saved, options read, every fault reported at once.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::document;
use super::request::{BudgetDocument, DispatchRequest, OptionsDocument, RecordDocument};
use crate::clock::Clock;
use crate::error::{Error, Kind, Problems, Result, pointer};
use crate::id::{FlowId, FlowVersionId, RecordId, TenantId};
use crate::model::run::{Budget, RunInput, RunOptions};
use crate::model::{Flow, Record};
use crate::secret::Secret;
use crate::store::{FlowVersion, SavedFlow, SharedStore, StoreError};

/// What a dispatch runs.
pub struct Resolved {
    pub flow: Flow,
    /// Where the flow's faults lie in the request.
    pub flow_at: &'static str,
    pub flow_id: Option<FlowId>,
    pub input: RunInput,
    pub secrets: BTreeMap<String, Secret>,
    pub stream: Option<bool>,
    pub respond_async: bool,
}

/// How deep flows may run within flows.
const MAX_NESTING: usize = 8;
/// Secrets of one request.
const MAX_SECRETS: usize = 100;

/// Where the parts of a request are looked up.
pub struct Lookup<'a> {
    pub store: &'a SharedStore,
    pub clock: &'a Clock,
    pub tenant: TenantId,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
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
}

impl Lookup<'_> {
    /// Resolves a request. Nothing is saved before everything in it was found to be right.
    pub async fn resolve(&self, request: DispatchRequest) -> Result<Resolved> {
        let mut problems = Problems::default();
        if request.agent.is_some() {
            problems.add("/agent", "agents are not available in this version; send a `flow`");
        }
        let options: OptionsDocument = read(request.options, "/options", &mut problems).unwrap_or_default();
        let record: Option<RecordDocument> = read(request.record, "/record", &mut problems);
        let messages = messages(request.messages, &mut problems);
        let client_tools = client_tools(request.client_tools.unwrap_or_default(), &mut problems);
        let secrets = request.secrets.unwrap_or_default();
        if secrets.len() > MAX_SECRETS {
            problems.add("/secrets", format!("a request may carry {MAX_SECRETS} secrets"));
        }
        let run_options = run_options(&options, &mut problems);
        let flow = request.flow.or_else(|| request.flow_id.map(|id| serde_json::json!({ "id": id })));
        let Some(flow) = flow else {
            if problems.0.is_empty() {
                problems.add("/flow", "expected a flow: `{name, steps}` or `{id}`");
            }
            return Err(problems.into());
        };
        let inline = flow.get("steps").is_some() || flow.get("flowSteps").is_some();
        let inferred = if inline || flow.get("id").is_none() { Mode::Virtual } else { Mode::Existing };
        let mode = Mode::read(options.flow_mode.as_deref(), "/options/flowMode", inferred, &mut problems);
        let record_mode = record_mode(&options, record.as_ref(), &mut problems);
        let timeout = options.step_timeout_ms.unwrap_or(document::STEP_TIMEOUT_MS);
        let flow = self.expand(flow, 0).await?;
        let found = match mode {
            Mode::Existing => self.saved_flow(&flow, request.version_id.as_deref(), timeout).await,
            _ => document::compile_with(&flow, timeout).map(|compiled| (compiled, None)),
        };
        let found = collect(found, "/flow", &mut problems);
        problems.into_result()?;
        let Some((compiled, flow_id)) = found else { return Err(Error::invalid_at("/flow", "expected a flow")) };
        let flow_id = match mode {
            Mode::Upsert | Mode::Create => Some(self.save_flow(flow, &options, mode).await?),
            Mode::Virtual | Mode::Existing => flow_id,
        };
        let record = self.record(record, record_mode).await?;
        let source = match mode {
            Mode::Virtual => "virtual",
            Mode::Existing => "existing",
            Mode::Upsert => "upsert",
            Mode::Create => "create",
        };
        let input = RunInput {
            inputs: request.inputs.unwrap_or_default(),
            record,
            messages,
            metadata: request.metadata,
            context: request.context,
            client_tools,
            options: RunOptions { source: source.into(), ..run_options },
        };
        let stream = options.stream_response.or(request.stream_response);
        let respond_async = request.respond_async.unwrap_or(false);
        Ok(Resolved { flow: compiled, flow_at: "/flow", flow_id, input, secrets, stream, respond_async })
    }

    async fn saved_flow(&self, flow: &Value, version: Option<&str>, timeout: u64) -> Result<(Flow, Option<FlowId>)> {
        let id = flow.get("id").and_then(Value::as_str);
        let id: FlowId = id
            .ok_or_else(|| Error::invalid_at("/id", "`flowMode: existing` needs the id of a saved flow"))?
            .parse()
            .map_err(|_| Error::missing("flow"))?;
        let saved = self.store.find_flow(self.tenant, id).await?.ok_or_else(|| Error::missing("flow"))?;
        let version = match version {
            None => saved.current,
            Some("published") => {
                saved.published.ok_or_else(|| Error::new(Kind::Conflict, "flow_not_published", "no version of this flow is published"))?
            }
            Some(version) => version.parse().map_err(|_| Error::missing("flow version"))?,
        };
        let version = self.store.find_flow_version(self.tenant, version).await?.filter(|version| version.flow == id);
        let version = version.ok_or_else(|| Error::missing("flow version"))?;
        let document = self.expand(version.document, 0).await?;
        Ok((document::compile_with(&document, timeout)?, Some(id)))
    }

    /// Puts saved flows in the place of their ids where `run-flow` steps name them. What is not found stays an id: the
    /// step says so when it runs.
    async fn expand(&self, mut flow: Value, depth: usize) -> Result<Value> {
        if depth >= MAX_NESTING {
            return Ok(flow);
        }
        for path in document::child_flows(&flow) {
            let Some(config) = flow.pointer(&path) else { continue };
            let inner = match (config.get("flow"), config.get("flowId").and_then(Value::as_str)) {
                (Some(inner), _) if inner.is_object() => inner.clone(),
                (_, Some(id)) => match self.current_document(id).await? {
                    Some(inner) => inner,
                    None => continue,
                },
                _ => continue,
            };
            let inner = Box::pin(self.expand(inner, depth + 1)).await?;
            if let Some(config) = flow.pointer_mut(&path).and_then(Value::as_object_mut) {
                config.insert("flow".into(), inner);
            }
        }
        Ok(flow)
    }

    async fn current_document(&self, id: &str) -> Result<Option<Value>> {
        let Ok(id) = id.parse::<FlowId>() else { return Ok(None) };
        let Some(saved) = self.store.find_flow(self.tenant, id).await? else { return Ok(None) };
        Ok(self.store.find_flow_version(self.tenant, saved.current).await?.map(|version| version.document))
    }

    async fn save_flow(&self, flow: Value, options: &OptionsDocument, mode: Mode) -> Result<FlowId> {
        let name = flow.get("name").and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let description = flow.get("description").and_then(Value::as_str).map(str::to_owned);
        let now = self.clock.now();
        for _ in 0..3 {
            let old = self.store.find_flow_by_name(self.tenant, &name).await?;
            let id = old.as_ref().map_or_else(|| FlowId::new(self.clock), |old| old.id);
            let version = FlowVersion {
                id: FlowVersionId::new(self.clock),
                flow: id,
                number: 0,
                document: flow.clone(),
                created_at: now,
                published_at: None,
            };
            let Some(old) = old else {
                let saved = SavedFlow {
                    id,
                    name: name.clone(),
                    description: description.clone(),
                    created_at: now,
                    updated_at: now,
                    current: version.id,
                    published: None,
                };
                match self.store.create_flow(self.tenant, saved, version).await {
                    Ok(()) => return Ok(id),
                    Err(StoreError::Exists(_)) if mode == Mode::Upsert => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            if mode == Mode::Create {
                return Err(StoreError::Exists("a flow with this name").into());
            }
            let current = self.store.find_flow_version(self.tenant, old.current).await?;
            if current.is_some_and(|current| current.document == flow) {
                return Ok(id);
            }
            let expected = (!options.allow_overwrite_external_changes.unwrap_or(false)).then_some(old.current);
            let changed = SavedFlow { description: description.clone(), updated_at: now, ..old };
            if self.store.update_flow(self.tenant, changed, Some(version), expected).await?.is_some() {
                return Ok(id);
            }
        }
        Err(Error::new(Kind::Conflict, "flow_changed", "the flow is being changed by others at the same time")
            .retry_after(std::time::Duration::from_secs(1)))
    }

    async fn record(&self, given: Option<RecordDocument>, mode: Mode) -> Result<Option<Value>> {
        let Some(given) = given else { return Ok(None) };
        let record = match mode {
            Mode::Virtual => {
                let mut shown = Map::new();
                for (key, value) in [("id", given.id), ("type", given.kind), ("name", given.name)] {
                    if let Some(value) = value {
                        shown.insert(key.into(), value.into());
                    }
                }
                shown.insert("metadata".into(), Value::Object(given.metadata.unwrap_or_default()));
                if let Some(messages) = given.messages {
                    shown.insert("messages".into(), Value::Array(messages));
                }
                return Ok(Some(Value::Object(shown)));
            }
            Mode::Existing => self.find_record(&given).await?,
            Mode::Create | Mode::Upsert => self.save_record(given, mode).await?,
        };
        Ok(Some(serde_json::to_value(record).map_err(Error::internal)?))
    }

    async fn find_record(&self, given: &RecordDocument) -> Result<Record> {
        let found = match (&given.id, &given.kind, &given.name) {
            (Some(id), _, _) => {
                let id: RecordId = id.parse().map_err(|_| Error::missing("record"))?;
                self.store.find_record(self.tenant, id).await?
            }
            (None, Some(kind), Some(name)) => self.store.find_record_by_name(self.tenant, kind, name).await?,
            _ => None,
        };
        found.ok_or_else(|| Error::missing("record"))
    }

    async fn save_record(&self, given: RecordDocument, mode: Mode) -> Result<Record> {
        let (kind, name) = (given.kind.unwrap_or_default(), given.name.unwrap_or_default());
        let metadata = given.metadata.unwrap_or_default();
        for _ in 0..10 {
            let now = self.clock.now();
            if let Some(old) = self.store.find_record_by_name(self.tenant, &kind, &name).await? {
                if mode == Mode::Create {
                    return Err(StoreError::Exists("a record with this type and name").into());
                }
                let expected = old.updated_at;
                let record = Record { metadata: metadata.clone(), updated_at: now, ..old };
                if self.store.replace_record(self.tenant, record.clone(), expected).await? {
                    return Ok(record);
                }
                continue;
            }
            let record = Record {
                id: RecordId::new(self.clock),
                kind: kind.clone(),
                name: name.clone(),
                metadata: metadata.clone(),
                messages: given.messages.clone().unwrap_or_default(),
                created_at: now,
                updated_at: now,
            };
            match self.store.create_record(self.tenant, record.clone()).await {
                Ok(()) => return Ok(record),
                Err(StoreError::Exists(_)) if mode == Mode::Upsert => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(Kind::Conflict, "record_busy", "the record is being changed by others")
            .retry_after(std::time::Duration::from_secs(1)))
    }
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
    if mode == Mode::Existing && record.id.is_none() && (record.kind.is_none() || record.name.is_none()) {
        problems.add("/record/id", "`recordMode: existing` needs the id of a record, or its type and name");
    }
    mode
}

fn read<T: DeserializeOwned>(value: Option<Value>, at: &str, problems: &mut Problems) -> Option<T> {
    let value = value.filter(|value| !value.is_null())?;
    if !value.is_object() {
        problems.add(at, "expected an object");
        return None;
    }
    serde_path_to_error::deserialize(&value)
        .map_err(|error| problems.add(format!("{at}{}", pointer(error.path())), error.into_inner().to_string()))
        .ok()
}

/// Puts the faults of a part among the others; a failure that is no fault of the document comes through as it is.
fn collect<T>(result: Result<T>, at: &str, problems: &mut Problems) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.problems().is_empty() => {
            problems.add(if error.kind() == Kind::Missing { format!("{at}/id") } else { at.to_owned() }, error.message().to_owned());
            None
        }
        Err(error) => {
            problems.0.extend(error.under(at).problems().iter().cloned());
            None
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
        if !["system", "developer", "user", "assistant", "tool"].contains(&role) {
            problems.add(format!("/messages/{index}/role"), "expected system, user, assistant or tool");
        }
        if !item.get("content").is_none_or(|content| content.is_string() || content.is_array() || content.is_null()) {
            problems.add(format!("/messages/{index}/content"), "expected a text or a list of parts");
        }
    }
    items
}

fn client_tools(tools: Vec<Value>, problems: &mut Problems) -> Vec<Value> {
    let mut named = Vec::with_capacity(tools.len());
    for (index, mut tool) in tools.into_iter().enumerate() {
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
        if let Some(map) = tool.as_object_mut() {
            map.insert("toolType".into(), "local".into());
        }
        match serde_json::from_value::<crate::tool::Definition>(tool.clone()) {
            Ok(definition) => {
                if let Err(faults) = crate::tool::Tool::compile(definition) {
                    faults.0.into_iter().for_each(|fault| problems.add(format!("{at}{}", fault.pointer), fault.message));
                }
            }
            Err(error) => problems.add(at, error.to_string()),
        }
        named.push(tool);
    }
    named
}

fn run_options(options: &OptionsDocument, problems: &mut Problems) -> RunOptions {
    let cancel_on_disconnect = match options.on_disconnect.as_deref() {
        None | Some("continue") => false,
        Some("cancel") => true,
        Some(other) => {
            problems.add("/options/onDisconnect", format!("unknown `{other}`; one of continue, cancel"));
            false
        }
    };
    if options.step_timeout_ms == Some(0) {
        problems.add("/options/stepTimeoutMs", "expected 1 or more");
    }
    RunOptions {
        auto_append_metadata: options.auto_append_metadata.unwrap_or(false),
        debug: options.debug_mode.unwrap_or(false),
        cancel_on_disconnect,
        budget: options.budget.map(|budget| budget_of(&budget, problems)).unwrap_or_default(),
        source: String::new(),
        depth: 0,
    }
}

/// Largest sum in US dollars that a budget may name.
const MOST_DOLLARS: f64 = 1e9;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
fn budget_of(budget: &BudgetDocument, problems: &mut Problems) -> Budget {
    let cost = budget.max_cost.filter(|cost| {
        let fits = (0.0..=MOST_DOLLARS).contains(cost);
        if !fits {
            problems.add("/options/budget/maxCost", "expected US dollars, 0 or more");
        }
        fits
    });
    Budget {
        cost: cost.map(|dollars| (dollars * 1e9).round() as u64),
        tokens: budget.max_tokens,
        calls: budget.max_calls,
        duration_ms: budget.max_duration_ms,
    }
}
