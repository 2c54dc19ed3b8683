//! Callers that hang up: the run goes on, or ends with its provider's connection, as the caller chose. And cancelling.

use std::sync::Arc;

use dispatch::model::event::Rest;
use serde_json::{Value, json};

use super::{ask, ask_with, flow, local};
use crate::support::app::within;
use crate::support::world::{Kind, World};

on_both!(
    a_run_outlives_its_caller,
    a_run_ends_with_its_caller,
    cancelling_closes_the_provider_s_socket,
    what_sleeps_is_cancelled,
    a_sleeping_run_ends_with_its_caller
);
on_one!(Postgres: another_node_cancels);
mod more {
    use super::*;
    on_one!(Sqlite: every_phase_of_every_provider, a_caller_that_waits_for_json_hangs_up, hanging_up_before_the_first_token, streams_give_their_place_back, cancelled_streams_leave_no_task);
}

/// Words without an end from a model with a price.
fn endless() -> Value {
    json!({ "id": "talk", "type": "prompt", "config": { "model": "openai/fake-chunks-1000-slow-20", "userPrompt": "talk" } })
}

fn cancelling(mut body: Value) -> Value {
    body["options"] = json!({ "onDisconnect": "cancel" });
    body
}

async fn a_run_outlives_its_caller(world: Arc<World>) {
    let node = world.node();
    let mut reader = node
        .open(&flow(json!([{ "id": "talk", "type": "prompt", "config": { "model": "openai/fake-chunks-30-slow-10", "userPrompt": "x" } }])))
        .await;
    let run = reader.until(|frame| frame.kind == "text_delta").await.text("executionId").to_owned();
    drop(reader);
    let end = node.log(&run).await.fresh();
    assert_eq!((end.last().kind.as_str(), &end.last().data["success"]), ("execution_complete", &json!(true)));
    assert_eq!(world.stats().await["aborted"], 0);
}

async fn a_run_ends_with_its_caller(world: Arc<World>) {
    let node = world.node();
    let mut reader = node.open(&cancelling(flow(json!([endless()])))).await;
    let run = reader.until(|frame| frame.kind == "text_delta").await.text("executionId").to_owned();
    let clock = dispatch::clock::Clock::system();
    let hung_up = clock.instant();
    drop(reader);
    world.stats_are(|stats| stats["aborted"] == 1 && stats["openRequests"] == 0).await;
    assert!(hung_up.elapsed().as_millis() < 1_000, "the provider's connection is closed within a second");
    let log = node.log(&run).await.fresh();
    assert_eq!((log.last().kind.as_str(), log.last().text("code")), ("execution_error", "cancelled"));
    assert_eq!(log.customs("dispatch.attempt_discarded").count(), 1, "the half text does not end as if it were whole");
    let shown = node.execution(&run).await;
    assert_eq!(shown["status"], "cancelled");
    assert!(shown["usage"]["outputTokens"].as_u64().unwrap() > 0 && shown["usage"]["modelCalls"] == 1, "what was used is booked: {shown}");
    assert_eq!(shown["usage"]["estimated"], true);
}

async fn cancelling_closes_the_provider_s_socket(world: Arc<World>) {
    let node = world.node();
    let mut reader = node.open(&flow(json!([endless(), ask("never", "say never")]))).await;
    let run = reader.until(|frame| frame.kind == "text_delta").await.text("executionId").to_owned();
    let path = format!("/v1/executions/{run}/cancel");
    assert_eq!(node.post(&path).ok().await["status"], "cancelled");
    let told = reader.rest().await.fresh();
    assert_eq!(told.last().text("code"), "cancelled");
    assert!(told.all("step_start").all(|frame| frame.data["id"] != "never"));
    world.stats_are(|stats| stats["aborted"] == 1).await;
    assert_eq!(node.post(&path).ok().await["status"], "cancelled", "once more changes nothing");
    let done = node.dispatch(&flow(json!([ask("a", "say a")]))).await.run();
    assert_eq!(node.post(&format!("/v1/executions/{done}/cancel")).ok().await["status"], "completed");
    let steps = node.get(&format!("/v1/executions/{run}/steps")).ok().await;
    assert_eq!(steps["data"][0]["status"], "cancelled", "{steps}");
}

async fn what_sleeps_is_cancelled(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&flow(json!([ask_with("w", "call look {}", json!({ "runtimeTools": [local("look")] }))]))).await;
    assert_eq!(node.post(&format!("/v1/executions/{}/cancel", paused.run())).ok().await["status"], "cancelled");
    let body = json!({ "executionId": paused.run(), "toolOutputs": { "look": 1 } });
    let late = node.post("/v1/dispatch/resume").json(&body).send().await;
    assert_eq!((late.status, &late.json()["code"]), (404, &json!("execution_not_paused")), "{}", late.text());
    let whole = node.get(&format!("/v1/executions/{}", paused.run())).ok().await;
    assert_eq!((&whole["status"], &whole["waits"]), (&json!("cancelled"), &json!([])));
}

async fn another_node_cancels(world: Arc<World>) {
    assert_eq!(world.kind, Kind::Postgres);
    let (one, other) = (world.node(), world.start().await);
    let mut reader = one.open(&flow(json!([endless()]))).await;
    let run = reader.until(|frame| frame.kind == "text_delta").await.text("executionId").to_owned();
    other.post(&format!("/v1/executions/{run}/cancel")).ok().await;
    world.stats_are(|stats| stats["aborted"] == 1).await;
    let told = reader.rest().await.fresh();
    assert_eq!(told.last().text("code"), "cancelled");
    assert_eq!(other.log(&run).await.frames, told.frames);
}

/// However and whenever a run is ended, its provider's connection closes within a second, and what was used is booked.
async fn every_phase_of_every_provider(world: Arc<World>) {
    let node = world.node();
    let clock = dispatch::clock::Clock::system();
    let mut ended = 0;
    // Before the head of the answer, before its first word, and in its middle.
    let phases = [("fake-stall", 0), ("fake-stall-after-0", 0), ("fake-stall-after-3", 3)];
    for (wire, (model, words)) in ["openai", "anthropic", "gemini"].into_iter().flat_map(|wire| phases.map(|phase| (wire, phase))) {
        for hangs_up in [true, false] {
            let cell = format!("{wire}/{model}, {}", if hangs_up { "hung up" } else { "cancelled" });
            let step = json!({ "id": "talk", "type": "prompt", "config": { "model": format!("{wire}/{model}"), "userPrompt": "talk" } });
            let body = flow(json!([step]));
            let mut reader = node.open(&if hangs_up { cancelling(body) } else { body }).await;
            let run = reader.until(|frame| frame.kind == "step_start").await.text("executionId").to_owned();
            world.stats_are(|stats| stats["openRequests"] == 1).await;
            if words > 0 {
                reader.until(|frame| frame.kind == "text_delta" && frame.text("delta").contains("word3")).await;
            }
            let begun = clock.instant();
            if hangs_up {
                drop(reader);
            } else {
                assert_eq!(node.post(&format!("/v1/executions/{run}/cancel")).ok().await["status"], "cancelled", "{cell}");
            }
            ended += 1;
            world.stats_are(|stats| stats["aborted"] == ended && stats["openRequests"] == 0).await;
            assert!(begun.elapsed().as_millis() < 1_000, "{cell}: {:?}", begun.elapsed());
            assert_eq!(node.log(&run).await.fresh().last().text("code"), "cancelled", "{cell}");
            let usage = &node.execution(&run).await["usage"];
            assert_eq!(usage["modelCalls"], 1, "{cell}: {usage}");
            assert_eq!(usage["outputTokens"].as_u64().unwrap() > 0, words > 0, "{cell}: {usage}");
            assert!(words == 0 || usage["estimated"] == true, "{cell}: {usage}");
        }
    }
}

async fn a_caller_that_waits_for_json_hangs_up(world: Arc<World>) {
    let node = world.node();
    let mut body = cancelling(flow(json!([endless()])));
    body["streamResponse"] = json!(false);
    let call = tokio::spawn(node.post("/v1/dispatch").json(&body).send());
    world.stats_are(|stats| stats["openRequests"] == 1).await;
    call.abort();
    world.stats_are(|stats| stats["aborted"] == 1).await;
    let runs = node.get("/v1/executions").ok().await;
    let log = node.log(runs["data"][0]["id"].as_str().unwrap()).await;
    assert_eq!(log.last().text("code"), "cancelled");
}

async fn hanging_up_before_the_first_token(world: Arc<World>) {
    let node = world.node();
    let stalls = json!({ "id": "talk", "type": "prompt", "config": { "model": "openai/fake-stall", "userPrompt": "talk" } });
    let mut reader = node.open(&cancelling(flow(json!([stalls])))).await;
    let run = reader.until(|frame| frame.kind == "step_start").await.text("executionId").to_owned();
    world.stats_are(|stats| stats["openRequests"] == 1).await;
    drop(reader);
    world.stats_are(|stats| stats["aborted"] == 1).await;
    assert_eq!(node.log(&run).await.fresh().last().text("code"), "cancelled");
}

async fn a_sleeping_run_ends_with_its_caller(world: Arc<World>) {
    let node = world.node();
    let sleeps = json!({ "id": "sleep", "type": "wait-until", "config": { "delayMs": 3_600_000 } });
    let mut reader = node.open(&cancelling(flow(json!([sleeps])))).await;
    let run = reader.until(|frame| frame.kind == "step_start").await.text("executionId").to_owned();
    assert_eq!(node.rests(&run).await, Rest::Later);
    drop(reader);
    assert_eq!(node.log(&run).await.fresh().last().text("code"), "cancelled");
    // A run that waits for its caller is another matter: its stream came to its own end.
    let asks = cancelling(flow(json!([ask_with("w", "call look {}", json!({ "runtimeTools": [local("look")] }))])));
    let paused = node.dispatch(&asks).await;
    assert_eq!(node.resume(&paused.run(), json!({ "look": 1 })).await.last().kind, "execution_complete");
}

async fn streams_give_their_place_back(world: Arc<World>) {
    world.configure(|config| config.limits.http.streams_per_key = 2);
    let node = world.crash().await;
    let body = flow(json!([endless()]));
    let (mut one, mut two) = (node.open(&body).await, node.open(&body).await);
    let run = one.until(|frame| frame.kind == "text_delta").await.text("executionId").to_owned();
    two.until(|frame| frame.kind == "text_delta").await;
    node.post("/v1/dispatch").json(&body).refused(429, "too_many_streams").await;
    node.get(&format!("/v1/executions/{run}/events")).header("accept", "text/event-stream").refused(429, "too_many_streams").await;
    assert_eq!(node.get("/v1/executions").ok().await["data"].as_array().unwrap().len(), 2, "what was refused did not begin");
    let handed_over = node.post("/v1/dispatch").header("prefer", "respond-async").json(&body).send().await;
    assert_eq!(handed_over.status, 202, "a handle is no stream: {}", handed_over.text());
    drop(two);
    let free = async {
        while node.reader(node.get(&format!("/v1/executions/{run}/events")).header("accept", "text/event-stream")).await.status != 200 {}
    };
    within(free).await;
}

async fn cancelled_streams_leave_no_task(world: Arc<World>) {
    let node = world.node();
    let tasks = || node.with_state(|_| async { tokio::runtime::Handle::current().metrics().num_alive_tasks() });
    let round = async |streams: u64, before: u64| {
        let body = cancelling(flow(json!([endless(), ask("never", "say never")])));
        let mut readers = futures_util::future::join_all((0..streams).map(|_| node.open(&body))).await;
        for reader in &mut readers {
            reader.until(|frame| frame.kind == "text_delta").await;
        }
        let busy = tasks().await;
        drop(readers);
        world.stats_are(|stats| stats["aborted"] == before + streams && stats["openRequests"] == 0).await;
        busy
    };
    // What a server keeps for itself, connections that may be used again included, is there after the first of them.
    round(1, 0).await;
    let idle = async { while node.get("/v1/executions?status=running").ok().await["data"] != json!([]) {} };
    within(idle).await;
    let baseline = tasks().await;
    let busy = round(40, 1).await;
    assert!(busy >= baseline + 40, "{busy} tasks at work, {baseline} at rest");
    let settled = async { while tasks().await > baseline {} };
    within(settled).await;
}
