//! What can be done with stored responses: read, streamed again, cancelled, deleted, their input listed.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::ResponseId;
use super::document::ResponseDocument;
use super::events::NumberedEvent;
use super::items::input_items;
use super::output::EventEncoder;
use super::request::{ENCRYPTED_CONTENT, check_include};
use super::stored::StoredResponse;
use crate::error::{Error, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Id, InPath, Params};
use crate::http::openai::execution::{StartedExecution, with_execution_headers};
use crate::http::openai::stream::AnswerStream;
use crate::http::openai::{TAG, about, with_events};
use crate::http::scope::{FlowsExecute, Scoped};
use crate::model::Caller;
use crate::model::event::Rest;

/// How long a cancelled response may take to end before its present state is the answer.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// Items of a page of a response's input.
const MAX_ITEMS: usize = 100;
const DEFAULT_ITEMS: usize = 20;

pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/responses/{responseId}",
            get_with(read, |operation| {
                let operation = about("getResponse", TAG, "Get a response")(operation).description(
                    "A stored response as it stands. With `stream=true` its events are sent from the first one, or from the one after \
                     `starting_after`.",
                );
                with_events::<NumberedEvent>(operation.response::<200, Json<ResponseDocument>>(), "The response, or its events", "One event.")
            })
            .delete_with(delete, |operation| {
                about("deleteResponse", TAG, "Delete a response")(operation)
                    .description("The response can be neither read nor continued any more. A response that is under way is cancelled. Its execution stays.")
            }),
        )
        .api_route(
            "/v1/responses/{responseId}/cancel",
            post_with(cancel, |operation| {
                about("cancelResponse", TAG, "Cancel a response in the background")(operation)
                    .description("A response that has ended stays as it is. One that was not created with `background: true` ends with its connection.")
            }),
        )
        .api_route(
            "/v1/responses/{responseId}/input_items",
            get_with(items, |operation| {
                about("listResponseInputItems", TAG, "List the items that a response was made of")(operation)
                    .description("Newest first unless `order=asc`. Items of the responses that it continues are among them, instructions are not.")
            }),
        )
}

/// The query of `GET /v1/responses/{responseId}`.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename = "OpenAiResponseQuery")]
struct ResponseQuery {
    /// `reasoning.encrypted_content`: the data that the model wants back comes with the answer.
    #[schemars(with = "Option<Vec<String>>")]
    include: Vec<String>,
    /// `true`: the events of the response.
    #[schemars(with = "Option<bool>")]
    stream: Option<String>,
    /// Only events with a greater number.
    #[schemars(with = "Option<u64>")]
    starting_after: Option<String>,
}

/// The query of `GET /v1/responses/{responseId}/input_items`.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename = "OpenAiInputItemsQuery")]
struct ItemsQuery {
    /// Only items after the one with this id.
    after: Option<String>,
    #[schemars(with = "Option<Vec<String>>")]
    include: Vec<String>,
    /// 1 to 100; 20 when absent.
    #[schemars(with = "Option<u32>", range(min = 1, max = 100))]
    limit: Option<String>,
    /// `asc` or `desc`.
    order: Option<String>,
}

/// The parameters of a query in their order. SDKs repeat a list's name, with brackets behind it or without.
struct QueryPairs(Vec<(String, String)>);

impl QueryPairs {
    fn one(&self, name: &str) -> Option<String> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known.strip_suffix("[]").unwrap_or(known) == name).map(|(_, value)| value.clone()).collect()
    }
}

impl<'de> Deserialize<'de> for ResponseQuery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = QueryPairs(Vec::deserialize(deserializer)?);
        Ok(Self { include: pairs.all("include"), stream: pairs.one("stream"), starting_after: pairs.one("starting_after") })
    }
}

impl<'de> Deserialize<'de> for ItemsQuery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = QueryPairs(Vec::deserialize(deserializer)?);
        Ok(Self { after: pairs.one("after"), include: pairs.all("include"), limit: pairs.one("limit"), order: pairs.one("order") })
    }
}

/// Whether events are wanted, after which one, and with the data that the model wants back.
struct ReadOptions {
    stream: bool,
    after: Option<u64>,
    with_state: bool,
}

impl ResponseQuery {
    fn read(&self) -> Result<ReadOptions> {
        let mut problems = Problems::default();
        check_include(&self.include, "/include", &mut problems);
        let stream = match self.stream.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                problems.add("/stream", "expected `true` or `false`");
                false
            }
        };
        let after = self.starting_after.as_deref().map(str::parse::<u64>).transpose().unwrap_or_else(|_| {
            problems.add("/starting_after", "expected the number of an event");
            None
        });
        if after.is_some() && !stream {
            problems.add("/starting_after", "`starting_after` belongs to `stream=true`");
        }
        problems.into_result()?;
        Ok(ReadOptions { stream, after, with_state: self.include.iter().any(|name| name == ENCRYPTED_CONTENT) })
    }
}

/// A response that was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiDeletedResponse")]
struct DeletionReceipt {
    id: ResponseId,
    /// Always `response`.
    object: &'static str,
    /// Always `true`.
    deleted: bool,
}

/// A page of the items that a response was made of.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiInputItemList")]
struct InputItemList {
    /// Always `list`.
    object: &'static str,
    data: Vec<Map<String, Value>>,
    /// Empty when there is no item.
    first_id: String,
    /// The `after` of the next page; empty when there is no item.
    last_id: String,
    has_more: bool,
}

async fn find(state: &AppState, caller: &Caller, id: ResponseId) -> Result<StoredResponse> {
    StoredResponse::find(state, caller, id).await?.ok_or_else(ResponseId::missing)
}

async fn read(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    Id(id): Id<ResponseId>,
    Params(query): Params<ResponseQuery>,
) -> Result<Response> {
    let stored = find(&state, &caller, id).await?;
    let ReadOptions { stream, after, with_state } = query.read()?;
    let with_state = with_state || stored.origin.with_state;
    if !stream {
        return Ok(Json(stored.document(&state, with_state).await?).into_response());
    }
    let slot = state.limits.open_stream(caller.who)?;
    let run = id.0;
    let follower = state.feed.follow(caller.tenant, run, None);
    let followed = StartedExecution { run, is_replayed: false, reader: stored.reader(), follower, guard: None };
    let encoder = EventEncoder::new(stored.head(), with_state, after);
    Ok(with_execution_headers(AnswerStream::new(followed, encoder, &state, caller.tenant, slot).answer(), run, false))
}

async fn delete(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<ResponseId>) -> Result<Json<DeletionReceipt>> {
    let stored = find(&state, &caller, id).await?;
    if !stored.delete(&state).await? {
        return Err(ResponseId::missing());
    }
    if !stored.run.state.is_terminal() {
        state.workers.cancel(caller.tenant, id.0).await?;
    }
    Ok(Json(DeletionReceipt { id, object: "response", deleted: true }))
}

async fn cancel(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<ResponseId>) -> Result<Json<ResponseDocument>> {
    let stored = find(&state, &caller, id).await?;
    if !stored.origin.settings.background {
        let message = "only a response that was created with `background: true` can be cancelled; others end with their connection";
        return Err(Error::invalid_at("/response_id", message));
    }
    if !state.workers.cancel(caller.tenant, id.0).await?.is_terminal() {
        let mut follower = state.feed.follow(caller.tenant, id.0, None);
        let ended = async {
            while let Ok(stretch) = follower.next().await {
                if stretch.rest == Rest::End {
                    return;
                }
            }
        };
        tokio::select! {
            () = ended => {}
            () = state.clock.sleep(CANCEL_TIMEOUT) => {}
        }
    }
    let stored = find(&state, &caller, id).await?;
    Ok(Json(stored.document(&state, stored.origin.with_state).await?))
}

async fn items(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    Id(id): Id<ResponseId>,
    Params(query): Params<ItemsQuery>,
) -> Result<Json<InputItemList>> {
    let stored = find(&state, &caller, id).await?;
    let messages = stored.run.input.messages.get(usize::from(stored.origin.has_instructions)..).unwrap_or_default();
    query.page(input_items(id.0, messages)).map(Json)
}

impl ItemsQuery {
    /// The page of these items, which are the oldest first.
    fn page(&self, mut items: Vec<Value>) -> Result<InputItemList> {
        let mut problems = Problems::default();
        check_include(&self.include, "/include", &mut problems);
        let limit = match self.limit.as_deref().map(str::parse::<usize>) {
            None => DEFAULT_ITEMS,
            Some(Ok(limit)) if (1..=MAX_ITEMS).contains(&limit) => limit,
            Some(_) => {
                problems.add("/limit", format!("expected 1 to {MAX_ITEMS}"));
                DEFAULT_ITEMS
            }
        };
        match self.order.as_deref() {
            None | Some("desc") => items.reverse(),
            Some("asc") => {}
            Some(_) => problems.add("/order", "expected `asc` or `desc`"),
        }
        let begin = match &self.after {
            None => 0,
            Some(after) => items.iter().position(|item| item["id"] == **after).map_or_else(
                || {
                    problems.add("/after", "no item of this response has this id");
                    0
                },
                |place| place + 1,
            ),
        };
        problems.into_result()?;
        let has_more = items.len() > begin + limit;
        let data: Vec<Map<String, Value>> = items.into_iter().skip(begin).take(limit).filter_map(into_object).collect();
        let id = |item: Option<&Map<String, Value>>| item.and_then(|item| item.get("id")?.as_str()).unwrap_or_default().to_owned();
        Ok(InputItemList { object: "list", first_id: id(data.first()), last_id: id(data.last()), data, has_more })
    }
}

fn into_object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_of_a_query_are_read_in_both_forms() {
        for text in ["include[]=a&include[]=b", "include=a&include=b", "include%5B%5D=a&include=b"] {
            let uri: axum::http::Uri = format!("/x?{text}").parse().unwrap();
            let axum::extract::Query(query) = axum::extract::Query::<ResponseQuery>::try_from_uri(&uri).unwrap();
            assert_eq!(query.include, ["a", "b"], "{text}");
        }
    }

    #[test]
    fn pages_follow_one_another() {
        let items: Vec<Value> = (0..5).map(|number| json!({ "id": format!("i{number}") })).collect();
        let page = |after: Option<&str>| {
            let query = ItemsQuery { after: after.map(str::to_owned), limit: Some("2".into()), ..ItemsQuery::default() };
            let page = query.page(items.clone()).unwrap();
            (page.first_id, page.last_id, page.has_more)
        };
        assert_eq!(page(None), ("i4".into(), "i3".into(), true));
        assert_eq!(page(Some("i3")), ("i2".into(), "i1".into(), true));
        assert_eq!(page(Some("i1")), ("i0".into(), "i0".into(), false));
    }
}
