//! The steps of a saved flow as rows, and one more of them.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::document::StepDocument;
use super::flows::{shelf, steps, version};
use super::{about, provenance};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey};
use crate::http::idempotency::{Call, Receipts, Repeatable, fingerprint};
use crate::http::scope::{FlowsRead, FlowsWrite, Scoped};
use crate::id::{FlowId, FlowVersionId, TenantId};
use crate::store::SharedStore;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/flow-steps/flow/{flowId}", get_with(list, about("listFlowSteps", "Flows", "List the steps of a flow")))
        .api_route(
            "/v1/flows/{flowId}/steps",
            get_with(list, about("listStepsOfFlow", "Flows", "List the steps of a flow"))
                .post_with(add, about("addFlowStep", "Flows", "Save a new version of a flow with one more step")),
        )
}

/// A step of a saved flow.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FlowStep")]
struct Row {
    flow_id: FlowId,
    /// The tenant, which owns the flow.
    user_id: TenantId,
    #[serde(flatten)]
    #[schemars(with = "StepDocument")]
    step: Map<String, Value>,
}

/// The steps of a flow.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FlowStepList")]
struct Rows {
    data: Vec<Row>,
    flow_id: FlowId,
    flow_name: String,
}

/// A step to add, as it stands in a flow. `order` is its place, from 0; absent, it becomes the last one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Input(#[schemars(with = "StepDocument")] Map<String, Value>);

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<FlowId>) -> Result<Json<Rows>> {
    let (flow, version) = shelf(&store, caller.tenant).current(id).await?;
    let row = |step| Row { flow_id: id, user_id: caller.tenant, step };
    Ok(Json(Rows { data: steps(&version.document).into_iter().map(row).collect(), flow_id: id, flow_name: flow.name }))
}

async fn add(
    caller: Scoped<FlowsWrite>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    Id(id): Id<FlowId>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Repeatable<Row>> {
    let tenant = caller.tenant;
    let request = format!("{id}:{}", fingerprint(&body.raw));
    let call = Call { tenant, route: "POST /v1/flows/{flowId}/steps", key, request, secret: false };
    let step = body.value.0;
    receipts
        .once_for_all(call, move |seed| async move {
            let (shelf, version_id) = (shelf(&state.store, tenant), FlowVersionId::from_u128(seed));
            let row = |step: Map<String, Value>| Row { flow_id: id, user_id: tenant, step };
            // Saved by ourselves, in a try whose answer was lost.
            if let Some(saved) = state.store.find_flow_version(tenant, version_id).await? {
                return Ok(row(same_step(&saved.document, &step).unwrap_or(step)));
            }
            let current = shelf.current(id).await?;
            let (document, place) = with_step(&current.1.document, step)?;
            let mut next = version(&shelf, &state.engine, &state.clock, id, provenance::edited(&document)).await?;
            next.id = version_id;
            let (_, saved) = shelf.change(current, next).await?;
            Ok(row(steps(&saved.document).into_iter().nth(place).unwrap_or_default()))
        })
        .await
}

/// The last step of a document that has all that a step says, wherever it is placed.
fn same_step(document: &Value, step: &Map<String, Value>) -> Option<Map<String, Value>> {
    let has =
        |row: &Map<String, Value>, (name, value): (&String, &Value)| value.is_null() || name == "order" || row.get(name) == Some(value);
    steps(document).into_iter().rev().find(|row| step.iter().all(|member| has(row, member)))
}

/// The document with one more step, and the step's index in it.
fn with_step(document: &Value, mut step: Map<String, Value>) -> Result<(Value, usize)> {
    let mut document = document.as_object().cloned().unwrap_or_default();
    let of_flow_steps = document.shift_remove("flowSteps");
    let listed = document.get("steps").filter(|steps| steps.is_array()).cloned().or(of_flow_steps);
    let Some(Value::Array(items)) = listed else { return Err(Error::invalid_at("", "the flow has no list of steps")) };
    let order = match step.shift_remove("order") {
        None | Some(Value::Null) => None,
        Some(order) => Some(order.as_i64().ok_or_else(|| Error::invalid_at("/order", "expected a whole number"))?),
    };
    // As they run: by their own `order`, else by their place.
    let place_of =
        |index: usize, item: &Value| item.get("order").and_then(Value::as_i64).unwrap_or(i64::try_from(index).unwrap_or(i64::MAX));
    let mut placed: Vec<(i64, Value)> = items.into_iter().enumerate().map(|(index, item)| (place_of(index, &item), item)).collect();
    placed.sort_by_key(|(place, _)| *place);
    let place = order.map_or(placed.len(), |order| placed.partition_point(|(place, _)| *place < order));
    let mut items: Vec<Value> = placed.into_iter().map(|(_, item)| item).collect();
    items.insert(place, Value::Object(step));
    if items.iter().any(|item| item.get("order").is_some()) {
        for (index, item) in items.iter_mut().enumerate() {
            item["order"] = json!(index);
        }
    }
    document.insert("steps".into(), Value::Array(items));
    Ok((Value::Object(document), place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(document: &Value, step: Value) -> Vec<String> {
        let (document, place) = with_step(document, step.as_object().cloned().unwrap()).unwrap();
        let items = document["steps"].as_array().unwrap();
        assert_eq!(items[place]["id"], "new");
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_step_is_added_at_its_place() {
        let plain = json!({ "name": "f", "flowSteps": [{ "id": "a" }, { "id": "b" }] });
        assert_eq!(ids(&plain, json!({ "id": "new" })), ["a", "b", "new"]);
        assert_eq!(ids(&plain, json!({ "id": "new", "order": 1 })), ["a", "new", "b"]);
        let ordered = json!({ "name": "f", "steps": [{ "id": "b", "order": 20 }, { "id": "a", "order": 10 }] });
        assert_eq!(ids(&ordered, json!({ "id": "new", "order": 15 })), ["a", "new", "b"]);
        let (document, _) = with_step(&ordered, Map::new()).unwrap();
        assert_eq!(document["steps"][2]["order"], 2, "places are numbered anew");
    }
}
