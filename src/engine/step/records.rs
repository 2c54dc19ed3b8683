//! Record steps: `get-record`, `list-records`, `retrieve-record`, `upsert-record`, `update-record`.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Fields, StepBody, StepOutput, StepType, config, text};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::bounds::Misfit;
use crate::expr::{Template, TemplateTree};
use crate::id::RecordId;
use crate::model::filter::Filter;
use crate::model::{Record, Step};
use crate::store::{RecordQuery, StoreError};

pub const GET: StepType = StepType {
    action: "get-record",
    summary: "Reads one record, by id, by type and name, or by filter.",
    schema: || schemars::schema_for!(FindConfig),
    compile: |step| compile_find(step, Shape::One),
};

pub const LIST: StepType = StepType {
    action: "list-records",
    summary: "Reads records by filter; the output is always a list.",
    schema: || schemars::schema_for!(FindConfig),
    compile: |step| compile_find(step, Shape::List),
};

pub const RETRIEVE: StepType = StepType {
    action: "retrieve-record",
    summary: "Reads one record by name, else a list by type and filter.",
    schema: || schemars::schema_for!(FindConfig),
    compile: |step| compile_find(step, Shape::Either),
};

pub const UPSERT: StepType = StepType {
    action: "upsert-record",
    summary: "Creates or replaces the record of a type and name with a variable's value as its metadata.",
    schema: || schemars::schema_for!(UpsertConfig),
    compile: compile_upsert,
};

pub const UPDATE: StepType = StepType {
    action: "update-record",
    summary: "Changes the metadata of one record.",
    schema: || schemars::schema_for!(UpdateConfig),
    compile: compile_update,
};

/// Records that one step reads at most.
const MOST_RECORDS: u32 = 1_000;
/// Records that a step reads unless it says otherwise.
const RECORDS: u32 = 100;
/// Tries of a change that meets another change.
const TRIES: u32 = 10;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
#[schemars(rename = "FindRecordConfig")]
struct FindConfig {
    #[serde(alias = "id")]
    record_id: Option<String>,
    #[serde(alias = "type")]
    record_type: Option<String>,
    #[serde(alias = "name")]
    record_name: Option<String>,
    record_filter: Option<FilterConfig>,
    limit: Option<u32>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default, Clone)]
struct FilterConfig {
    #[serde(rename = "type", alias = "recordType")]
    kind: Option<String>,
    /// A condition `{field, op, value}` or a group `{and: [...]}`, `{or: [...]}`; values are templates.
    #[serde(rename = "where", alias = "filter")]
    conditions: Option<Value>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "UpsertRecordConfig")]
struct UpsertConfig {
    record_type: String,
    /// Without a name, each run makes a new record named by its time and run.
    #[serde(default)]
    record_name: Option<String>,
    /// The variable that holds the metadata, an object.
    source_variable: String,
    /// What becomes of the metadata of a record that is there: `replace` when absent.
    #[serde(default = "replace")]
    merge_strategy: Strategy,
}

const fn replace() -> Strategy {
    Strategy::Replace
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "UpdateRecordConfig")]
struct UpdateConfig {
    #[serde(default)]
    record_id: Option<String>,
    /// The first match, newest `updatedAt` first.
    #[serde(default)]
    record_filter: Option<FilterConfig>,
    /// New metadata; strings in it are templates.
    updates: Value,
    #[serde(default)]
    merge_strategy: Strategy,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Merge")]
enum Strategy {
    #[default]
    Merge,
    Replace,
    DeepMerge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    List,
    Either,
}

struct Target {
    id: Option<Template>,
    kind: Option<Template>,
    name: Option<Template>,
    conditions: Option<TemplateTree>,
}

struct Find {
    target: Target,
    shape: Shape,
    limit: u32,
}

fn compile_find(step: &Step, shape: Shape) -> Result<Box<dyn StepBody>, Problems> {
    let config: FindConfig = config(step)?;
    let mut fields = Fields::default();
    let filter = config.record_filter.unwrap_or_default();
    let limit = config.limit.unwrap_or(RECORDS);
    if limit == 0 || limit > MOST_RECORDS {
        fields.problem("limit", format!("expected 1 to {MOST_RECORDS}"));
    }
    let nothing = config.record_id.is_none() && config.record_type.is_none() && filter.kind.is_none() && filter.conditions.is_none();
    if nothing {
        fields.problem("", "expected `recordId`, `recordType` or `recordFilter`");
    }
    let target = target(&mut fields, config.record_id, config.record_type, config.record_name, filter);
    fields.finish(Some(Find { target, shape, limit }))
}

fn target(fields: &mut Fields, id: Option<String>, kind: Option<String>, name: Option<String>, filter: FilterConfig) -> Target {
    let kind = kind.or(filter.kind);
    let conditions = filter.conditions.and_then(|conditions| {
        // Templates stand only in values, so the form can be judged before they are filled in.
        if let Err(error) = Filter::parse(&conditions) {
            error.problems().iter().for_each(|fault| fields.0.add(format!("/recordFilter/where{}", fault.pointer), fault.message.clone()));
        }
        fields.tree("recordFilter/where", &conditions)
    });
    Target {
        id: id.and_then(|text| fields.template("recordId", &text)),
        kind: kind.and_then(|text| fields.template("recordType", &text)),
        name: name.and_then(|text| fields.template("recordName", &text)),
        conditions,
    }
}

impl Target {
    async fn find(&self, context: &StepContext<'_>, limit: u32) -> StepResult<Vec<Record>> {
        let (store, tenant) = (&context.parts().store, context.run.tenant);
        let text = |template: &Option<Template>| template.as_ref().map(|template| text(context, template)).transpose();
        if let Some(id) = text(&self.id)? {
            let id: RecordId = id.parse().map_err(|_| StepFailure::new("record_not_found", format!("no record `{id}`")))?;
            return Ok(context.run.patiently(|| store.find_record(tenant, id)).await?.into_iter().collect());
        }
        let filter = match &self.conditions {
            Some(conditions) => Filter::parse(&context.fill_tree(conditions)?)?,
            None => Filter::everything(),
        };
        let query = RecordQuery { kind: text(&self.kind)?, name: text(&self.name)?, filter, after: None, limit };
        Ok(context.run.patiently(|| store.list_records(tenant, query.clone())).await?.records)
    }
}

#[async_trait]
impl StepBody for Find {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let one = match self.shape {
            Shape::One => true,
            Shape::List => false,
            Shape::Either => self.target.id.is_some() || self.target.name.is_some(),
        };
        let found = self.target.find(context, if one { 1 } else { self.limit }).await?;
        let mut values = found.iter().map(|record| serde_json::to_value(record).unwrap_or_default());
        if one {
            let value = values.next().ok_or_else(|| StepFailure::new("record_not_found", "no record matches"))?;
            return Ok(StepOutput::of(value));
        }
        Ok(StepOutput::of(Value::Array(values.collect())))
    }
}

struct Upsert {
    kind: Template,
    name: Option<Template>,
    source: String,
    merge: Strategy,
}

fn compile_upsert(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: UpsertConfig = config(step)?;
    let mut fields = Fields::default();
    let kind = fields.template("recordType", &config.record_type);
    let name = config.record_name.and_then(|name| fields.template("recordName", &name));
    fields.finish(kind.map(|kind| Upsert { kind, name, source: config.source_variable, merge: config.merge_strategy }))
}

#[async_trait]
impl StepBody for Upsert {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let scope = context.scope();
        let kind = self.kind.render_text(&scope)?;
        let name = match &self.name {
            Some(name) => name.render_text(&scope)?,
            // The same on every attempt, or a crash would leave two records.
            None => format!("{kind} {}/{}", context.run.run, context.step_id()),
        };
        let metadata = match context.variable(&self.source) {
            Some(Value::Object(map)) => map.clone(),
            other => {
                let found = if other.is_none() { "missing" } else { "not an object" };
                let message = format!("the variable `{}` is {found}; it must hold the record's metadata as an object", self.source);
                return Err(StepFailure::new("invalid_record_source", message).into());
            }
        };
        check_names(&kind, &name)?;
        context.settle().await;
        let record = put(context, kind, name, metadata, self.merge).await?;
        Ok(StepOutput::of(serde_json::to_value(record).unwrap_or_default()))
    }
}

fn check_names(kind: &str, name: &str) -> StepResult<()> {
    let length = |text: &str| text.chars().count();
    if !(1..=255).contains(&length(kind)) || !(1..=500).contains(&length(name)) {
        return Err(StepFailure::new("invalid_record_name", "a record needs a type of 1 to 255 and a name of 1 to 500 characters").into());
    }
    Ok(())
}

/// Creates or changes. Doing it again with the same metadata leaves the same record.
async fn put(context: &StepContext<'_>, kind: String, name: String, metadata: Map<String, Value>, how: Strategy) -> StepResult<Record> {
    let (store, tenant) = (&context.parts().store, context.run.tenant);
    for _ in 0..TRIES {
        if let Some(old) = context.run.patiently(|| store.find_record_by_name(tenant, &kind, &name)).await? {
            let expected = old.updated_at;
            let mut record = Record { updated_at: context.now(), ..old };
            merge(&mut record.metadata, metadata.clone(), how);
            if context.run.patiently(|| store.replace_record(tenant, record.clone(), expected)).await? {
                return Ok(record);
            }
            continue;
        }
        let now = context.now();
        let id = RecordId::new(&context.parts().clock);
        let record = Record {
            id,
            kind: kind.clone(),
            name: name.clone(),
            metadata: metadata.clone(),
            messages: Vec::new(),
            created_at: now,
            updated_at: now,
        };
        match context.run.patiently(|| store.create_record(tenant, record.clone())).await {
            Ok(()) => return Ok(record),
            Err(StoreError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(busy())
}

fn busy() -> crate::engine::context::Interrupt {
    StepFailure::transient("record_busy", "the record is being changed by others all the time").into()
}

struct Update {
    target: Target,
    updates: TemplateTree,
    merge: Strategy,
}

fn compile_update(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: UpdateConfig = config(step)?;
    let mut fields = Fields::default();
    if config.record_id.is_none() && config.record_filter.is_none() {
        fields.problem("recordId", "expected `recordId` or `recordFilter`");
    }
    if !config.updates.is_object() && !config.updates.is_string() {
        fields.problem("updates", "expected an object, or a template that gives one");
    }
    let updates = fields.tree("updates", &config.updates);
    let target = target(&mut fields, config.record_id, None, None, config.record_filter.unwrap_or_default());
    fields.finish(updates.map(|updates| Update { target, updates, merge: config.merge_strategy }))
}

#[async_trait]
impl StepBody for Update {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let updates = context.fill_tree(&self.updates)?;
        if let Some(misfit) = Misfit::of(&updates, context.limits().max_result_bytes) {
            return Err(StepFailure::new(misfit.code(), format!("`updates`: {misfit}")).into());
        }
        let Value::Object(updates) = updates else {
            return Err(StepFailure::new("invalid_updates", "`updates` is not an object").into());
        };
        context.settle().await;
        for _ in 0..TRIES {
            let found = self.target.find(context, 1).await?.pop();
            let Some(old) = found else {
                return Err(StepFailure::new("record_not_found", "no record matches; nothing was changed").into());
            };
            let expected = old.updated_at;
            let mut record = Record { updated_at: context.now(), ..old };
            merge(&mut record.metadata, updates.clone(), self.merge);
            let (store, tenant) = (&context.parts().store, context.run.tenant);
            if context.run.patiently(|| store.replace_record(tenant, record.clone(), expected)).await? {
                return Ok(StepOutput::of(serde_json::to_value(record).unwrap_or_default()));
            }
        }
        Err(busy())
    }
}

fn merge(metadata: &mut Map<String, Value>, updates: Map<String, Value>, how: Strategy) {
    match how {
        Strategy::Replace => *metadata = updates,
        Strategy::Merge => metadata.extend(updates),
        Strategy::DeepMerge => {
            for (key, value) in updates {
                match (metadata.get_mut(&key), value) {
                    (Some(Value::Object(old)), Value::Object(new)) => merge(old, new, how),
                    (_, value) => drop(metadata.insert(key, value)),
                }
            }
        }
    }
}
