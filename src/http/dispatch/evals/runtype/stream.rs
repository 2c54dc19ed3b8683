//! `POST /v1/eval/stream`: begins evals and streams what their executions say, each execution's events when it has ended.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use aide::openapi::{MediaType, ReferenceOr, SchemaObject, StatusCode};
use aide::transform::TransformOperation;
use axum::Json;
use axum::body::Body as Frames;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::super::Eval;
use super::super::routes::{Row, TAG, find};
use super::submit::{SubmissionBody, begin};
use crate::error::Result;
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::batches::Status;
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::headers::event_stream;
use crate::http::idempotency::{Call, REPLAYED, Receipts, fingerprint};
use crate::http::limits::StreamSlot;
use crate::http::scope::{FlowsExecute, Scoped};
use crate::id::{EvalId, RunId, TenantId};
use crate::store::Kept;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/eval/stream",
        post_with(begin_and_follow, |op| documented(about("streamEval", TAG, "Begin an eval and stream it")(op))),
    )
}

/// How often evals are looked at.
const LOOK: Duration = Duration::from_millis(300);

fn documented(operation: TransformOperation<'_>) -> TransformOperation<'_> {
    let mut operation = operation.response::<200, Json<Row>>();
    let responses = operation.inner_mut().responses.get_or_insert_default();
    if let Some(ReferenceOr::Item(response)) = responses.responses.get_mut(&StatusCode::Code(200)) {
        response.description = "The eval as events: `custom` ones of its own, and those of its executions".into();
        response.content.clear();
        let json_schema =
            schemars::json_schema!({ "type": "object", "required": ["data"], "properties": { "data": { "type": "string" } } });
        let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
        response.content.insert("text/event-stream".into(), MediaType { schema, ..MediaType::default() });
    }
    operation
}

/// What one stream carries along.
struct EvalStream {
    state: AppState,
    tenant: TenantId,
    evals: Vec<EvalId>,
    /// Executions whose events were sent.
    sent: BTreeSet<RunId>,
    /// Evals whose end was sent.
    ended: BTreeSet<EvalId>,
    /// Sent first.
    opening: Option<String>,
    /// The stream ends then; the evals go on.
    ends_at: tokio::time::Instant,
    slot: StreamSlot,
}

async fn begin_and_follow(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<SubmissionBody>,
) -> Result<Response> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let slot = state.limits.open_stream(caller.who)?;
    let call = Call { tenant, route: "POST /v1/eval/stream", key, request: fingerprint(&body.raw), secret: false };
    let (wanted, worker) = (body.value.read()?, state.clone());
    let begun = receipts.once(call, move |seed| async move {
        let kept = begin(&worker, (tenant, key_id), seed, wanted).await?;
        Ok(kept.iter().map(|kept| kept.id).collect::<Vec<_>>())
    });
    let (evals, is_repeated): (Vec<EvalId>, bool) = begun.await?.read()?;
    let mut opening = String::new();
    for id in &evals {
        opening.push_str(&frame("dispatch.eval_started", &find(&state.store, tenant, *id).await?, &[]));
    }
    let following = EvalStream {
        ends_at: state.clock.instant() + slot.stream_time(),
        evals,
        sent: BTreeSet::new(),
        ended: BTreeSet::new(),
        opening: Some(opening),
        state,
        tenant,
        slot,
    };
    let mut response = event_stream(Frames::from_stream(stream::unfold(following, |mut following| async move {
        let text = following.next().await?;
        Some((Ok::<Bytes, Infallible>(text.into()), following))
    })));
    if is_repeated {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// One `custom` event about an eval.
fn frame(name: &str, kept: &Kept<Eval>, more: &[(&str, Value)]) -> String {
    let mut value = json!({
        "evalGroupId": kept.body.group.unwrap_or(kept.id), "batchExecutionId": kept.id, "evalName": kept.body.name,
        "status": kept.body.progress.status, "totalRecords": kept.body.items.len(),
    });
    for (name, part) in more {
        value[*name] = part.clone();
    }
    let event = json!({ "type": "custom", "name": name, "value": value });
    format!("event: custom\ndata: {event}\n\n")
}

impl EvalStream {
    /// The next frames; `None` when every eval has ended.
    async fn next(&mut self) -> Option<String> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        let quiet_until = self.state.clock.instant() + self.slot.keep_alive();
        loop {
            let now = self.state.clock.instant();
            if self.ended.len() == self.evals.len() || now >= self.ends_at {
                return None;
            }
            match self.look().await {
                // A comment keeps proxies from closing a stream in which nothing happens.
                Ok(text) if text.is_empty() && now >= quiet_until => return Some(": keep-alive\n\n".to_owned()),
                Ok(text) if text.is_empty() => self.state.clock.sleep(LOOK).await,
                Ok(text) => return Some(text),
                Err(error) => {
                    tracing::warn!(?error, "the stream of an eval broke off");
                    return None;
                }
            }
        }
    }

    /// What happened since the last look.
    async fn look(&mut self) -> Result<String> {
        let mut text = String::new();
        for id in self.evals.clone() {
            if self.ended.contains(&id) {
                continue;
            }
            let kept = find(&self.state.store, self.tenant, id).await?;
            for (trial, item) in kept.body.trials.iter().zip(&kept.body.items) {
                let Some(run) = item.run.filter(|run| item.ended.is_some() && !self.sent.contains(run)) else { continue };
                for event in self.state.store.read_log(self.tenant, run, None, u32::MAX).await?.iter().flat_map(|segment| &segment.events) {
                    let _ = write!(text, "id: {}\nevent: {}\ndata: ", event.seq, event.kind());
                    event.write_public(run, &mut text);
                    text.push_str("\n\n");
                }
                let success = item.ended.as_ref().map(|ended| ended.success);
                let record = kept.body.record_key(trial.case);
                let more = [("recordId", Value::from(record)), ("executionId", json!(run)), ("success", json!(success))];
                text.push_str(&frame("dispatch.eval_record_completed", &kept, &more));
                self.sent.insert(run);
            }
            if kept.body.progress.status != Status::Running {
                text.push_str(&frame("dispatch.eval_completed", &kept, &[]));
                self.ended.insert(id);
            }
        }
        Ok(text)
    }
}
