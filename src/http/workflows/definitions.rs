//! `/api/workflows`: documents registered under their names.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, put_with};
use aide::openapi::{MediaType, ReferenceOr, RequestBody, SchemaObject};
use aide::transform::TransformOperation;
use axum::Json;
use axum::body::Body as Raw;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, NoContent, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::document::{self, Document, Trigger};
use super::{Name, about, id_of, order};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::{Id, InPath, as_sent, is_untyped, media_type, not_deeper, parse_document};
use crate::http::problem::Problem;
use crate::http::scope::{FlowsRead, FlowsWrite, Scoped};
use crate::id::{CronId, TenantId, WorkflowId};
use crate::model::job::WORKFLOW_PREFIX;
use crate::offload::give_way;
use crate::queue::crons::{CatchUp, Cron, Overlap};
use crate::store::{self, Collection, Kept, SharedStore, StoreError};

const TAG: &str = "HTTP workflows";
/// Workflows of a list.
const PAGE: u32 = 500;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route("/api/workflows", get_with(list, about("listHttpWorkflows", TAG, "List workflows, by name"))).api_route(
        "/api/workflows/{workflow}",
        put_with(put, |op| {
            written(about("putHttpWorkflow", TAG, "Register a workflow, or replace it")(op))
                .response::<200, Json<Registered>>()
                .response::<201, Json<Registered>>()
        })
        .get_with(read, about("getHttpWorkflow", TAG, "Read a workflow's document"))
        .delete_with(delete, about("deleteHttpWorkflow", TAG, "Delete a workflow; its runs go on")),
    )
}

/// Says that the body is a document, as JSON or as YAML.
fn written(mut operation: TransformOperation<'_>) -> TransformOperation<'_> {
    let json_schema = aide::generate::in_context(|context| context.schema.subschema_for::<Document>());
    let media = || MediaType {
        schema: Some(SchemaObject { json_schema: json_schema.clone(), external_docs: None, example: None }),
        ..MediaType::default()
    };
    let content = [("application/json".to_owned(), media())].into_iter().collect();
    let body = RequestBody {
        content,
        required: true,
        description: Some("The document, as JSON or YAML by its content type. Without a content type it is JSON if it begins with `{`, and YAML otherwise.".into()),
        ..RequestBody::default()
    };
    operation.inner_mut().request_body = Some(ReferenceOr::Item(body));
    operation
}

/// A workflow as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub document: Document,
}

impl store::Document for Stored {
    const KIND: &'static str = "workflow";
    const TAKEN: &'static str = "a workflow with this name";
    type Id = WorkflowId;

    fn place(&self) -> Option<String> {
        Some(self.document.name.clone())
    }
}

/// A workflow in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpWorkflowRow")]
struct Row {
    name: String,
    version: u32,
    updated_at: Timestamp,
}

/// All workflows.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpWorkflows")]
struct Rows {
    workflows: Vec<Row>,
}

/// What was registered.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpWorkflowRegistered")]
struct Registered {
    name: String,
    version: u32,
    /// Whether anything is other than before.
    changed: bool,
    /// What works and should be written otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

pub(super) fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Stored> {
    Collection::of(&**store, tenant)
}

pub(super) async fn find(store: &SharedStore, tenant: TenantId, name: &Name) -> Result<Kept<Stored>> {
    all(store, tenant).find(name.id()).await?.ok_or_else(Name::missing)
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>) -> Result<Json<Rows>> {
    let mut workflows: Vec<Row> = everyone(&store, caller.tenant)
        .await?
        .into_iter()
        .map(|kept| Row { name: kept.body.document.name, version: kept.body.document.version, updated_at: kept.updated_at })
        .collect();
    workflows.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Json(Rows { workflows }))
}

/// All workflows of a tenant.
pub(super) async fn everyone(store: &SharedStore, tenant: TenantId) -> Result<Vec<Kept<Stored>>> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = all(store, tenant).list(None, before, PAGE).await?;
        before = page.last().map(|kept| kept.id);
        let last = page.len() < PAGE as usize;
        found.extend(page);
        if last {
            return Ok(found);
        }
    }
}

async fn read(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(name): Id<Name>) -> Result<Json<Document>> {
    Ok(Json(find(&store, caller.tenant, &name).await?.body.document))
}

/// Whether a document is YAML, by its content type, or by how it begins when that says nothing; 415 when the type is neither that nor JSON.
fn is_yaml(headers: &HeaderMap, text: &[u8]) -> Result<bool, Problem> {
    if is_untyped(headers) {
        return Ok(!text.trim_ascii_start().starts_with(b"{"));
    }
    match media_type(headers).as_str() {
        "application/json" => Ok(false),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(true),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(false),
        _ => {
            let error = Error::new(Kind::Malformed, "unsupported_media_type", "a workflow's document is JSON or YAML")
                .next("send `Content-Type: application/json` or `application/yaml`");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
        }
    }
}

/// The name under which a document is registered.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct NewName(#[schemars(length(min = 1, max = 100), regex(pattern = "^[a-z][a-z0-9]*(-[a-z0-9]+)*$"))] String);

impl std::str::FromStr for NewName {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        text.parse::<Name>().map(|name| Self(name.0))
    }
}

impl InPath for NewName {
    const PARAM: &'static str = Name::PARAM;
    const NOUN: &'static str = Name::NOUN;

    fn malformed() -> Error {
        Error::invalid_at("/name", "expected lower-case words with hyphens between them, 100 characters at most")
    }
}

async fn put(
    caller: Scoped<FlowsWrite>,
    State(state): State<AppState>,
    Id(NewName(name)): Id<NewName>,
    headers: HeaderMap,
    body: Raw,
) -> Result<Response, Problem> {
    let name = Name(name);
    // A type that is neither is refused before the body is read.
    is_yaml(&headers, b"")?;
    let text = as_sent(&headers, body, &state).await?;
    let yaml = is_yaml(&headers, &text)?;
    let value = if yaml { give_way(text.len(), || document::yaml(&text))? } else { parse_document(&text, state.limits.body().depth)? };
    not_deeper(value.to_string().as_bytes(), state.limits.body().depth)?;
    let document = document::read(value)?;
    if document.name != name.0 {
        return Err(Error::invalid_at("/name", format!("the document is called `{}`, the address says `{}`", document.name, name.0)).into());
    }
    state.engine.accept(caller.tenant, || document.compile_new()).await?;
    Ok(register(&state, caller.tenant, &name, document).await?)
}

async fn register(state: &AppState, tenant: TenantId, name: &Name, document: Document) -> Result<Response> {
    let now = state.clock.now();
    let warnings = document
        .steps
        .keys()
        .filter(|id| id.contains('-'))
        .map(|id| format!("the step `{id}` has a hyphen in its id; write `{}`", id.replace('-', "_")))
        .collect();
    let (status, changed) = loop {
        let Some(old) = all(&state.store, tenant).find(name.id()).await? else {
            match all(&state.store, tenant).create(name.id(), Stored { document: document.clone() }, now).await {
                Ok(_) => break (StatusCode::CREATED, true),
                // Somebody else registered it just now.
                Err(StoreError::Exists(_)) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        if document.version < old.body.document.version {
            let message = format!("version {} is kept, which is higher than {}", old.body.document.version, document.version);
            return Err(Error::new(Kind::Conflict, "version_lower", message).next("raise `version` in the document"));
        }
        if old.body.document == document {
            break (StatusCode::OK, false);
        }
        if all(&state.store, tenant).change(&old, Stored { document: document.clone() }, now).await?.is_some() {
            break (StatusCode::OK, true);
        }
    };
    // Whoever registers another document meanwhile sets the times of that; the last one counts.
    let mut stands = Some(document.clone());
    while let Some(current) = stands {
        fire_at(state, tenant, &name.0, Some(&current)).await?;
        let now = all(&state.store, tenant).find(name.id()).await?.map(|kept| kept.body.document);
        if now.as_ref() == Some(&current) {
            break;
        }
        if now.is_none() {
            fire_at(state, tenant, &name.0, None).await?;
        }
        stands = now;
    }
    let registered = Registered { name: document.name, version: document.version, changed, warnings };
    Ok((status, Json(registered)).into_response())
}

/// The cron entry of one of a workflow's triggers.
fn entry(name: &str, index: usize) -> (CronId, String) {
    let called = format!("{WORKFLOW_PREFIX}{name}/{index}");
    (CronId::from_u128(id_of(&called)), called)
}

/// Triggers of one workflow that are cron entries, at most.
pub(super) const MOST_CRONS: usize = 20;

/// Makes the cron entries be those that the document says; none when there is no document.
async fn fire_at(state: &AppState, tenant: TenantId, name: &str, document: Option<&Document>) -> Result<()> {
    let crons: Collection<'_, Cron> = Collection::of(&*state.store, tenant);
    let now = state.clock.now();
    let triggers = document.map(|document| document.triggers.as_slice()).unwrap_or_default();
    let wanted = triggers.iter().filter_map(|trigger| match trigger {
        Trigger::Cron { schedule, timezone, body } => Some((schedule, timezone, body)),
        _ => None,
    });
    let mut wanted = wanted.take(MOST_CRONS);
    for index in 0..MOST_CRONS {
        let (id, called) = entry(name, index);
        let old = crons.find(id).await?;
        let Some((schedule, timezone, body)) = wanted.next() else {
            // Do not stop at a gap: one in the middle may have been deleted by hand.
            if old.is_some() {
                crons.delete(id).await?;
            }
            continue;
        };
        let payload = serde_json::json!({ "type": "cron", "body": body });
        let mut cron = Cron {
            name: called,
            schedule: schedule.clone(),
            timezone: timezone.clone().unwrap_or_else(|| "UTC".into()),
            enabled: true,
            placed: order(name, payload),
            catch_up: CatchUp::Last,
            catch_up_max: 1,
            overlap: Overlap::Allow,
            jitter_ms: 0,
            next: None,
            last: None,
            last_job: None,
        };
        let next = cron.cadence().ok().and_then(|cadence| cadence.next(now));
        match old {
            None => {
                cron.next = next;
                crons.create_once(id, cron, now).await?;
            }
            Some(old) => {
                let edit = |kept: &mut Cron| -> Result<(), StoreError> {
                    if kept.schedule != cron.schedule || kept.timezone != cron.timezone {
                        kept.next = next;
                    }
                    kept.schedule.clone_from(&cron.schedule);
                    kept.timezone.clone_from(&cron.timezone);
                    kept.placed = cron.placed.clone();
                    Ok(())
                };
                crons.amend(old, now, edit).await?;
            }
        }
    }
    Ok(())
}

async fn delete(caller: Scoped<FlowsWrite>, State(state): State<AppState>, Id(name): Id<Name>) -> Result<NoContent> {
    let there = all(&state.store, caller.tenant).delete(name.id()).await?;
    // Also after a try that got no further.
    fire_at(&state, caller.tenant, &name.0, None).await?;
    if there { Ok(NoContent) } else { Err(Name::missing()) }
}
