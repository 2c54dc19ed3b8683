//! Events between runs: published, waited for, matched, each taken once.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::call;
use crate::dispatch::{flow, step};
use crate::support::app::within;
use crate::support::world::{Node, World, until};

on_both!(
    an_event_is_taken_by_the_run_that_it_fits,
    an_early_event_is_kept_and_taken_once,
    the_first_of_several_is_taken_and_the_others_are_left,
    one_of_each_is_taken_also_over_a_crash,
    a_run_hears_of_an_event_after_a_crash,
    a_flow_publishes_to_others,
    wrong_events_are_refused,
);

fn waits(config: Value) -> Value {
    flow(json!([step("got", "wait-for-event", config)]))
}

/// Begins a run; its id.
async fn begin(node: &Node, mut body: Value, inputs: Value) -> String {
    body["inputs"] = inputs;
    let answer = node.post("/v1/dispatch").header("prefer", "respond-async").json(&body).ok().await;
    answer["executionId"].as_str().unwrap().to_owned()
}

async fn publish(node: &Node, name: &str, payload: Value) -> Value {
    node.post("/v1/events").json(&json!({ "name": name, "payload": payload })).ok().await
}

async fn is(node: &Node, run: &str, status: &str) -> Value {
    until(node, &format!("/v1/executions/{run}"), |execution| execution["status"] == status).await
}

/// What the step `got` came to.
async fn got(node: &Node, run: &str) -> Value {
    is(node, run, "completed").await;
    node.log(run).await.step("got")["result"].clone()
}

async fn an_event_is_taken_by_the_run_that_it_fits(world: Arc<World>) {
    let node = world.node();
    let config = json!({ "name": "order.{{ kind }}", "match": "event.payload.order === order" });
    let mut runs = Vec::new();
    for order in [1, 2, 3] {
        let run = begin(&node, waits(config.clone()), json!({ "kind": "paid", "order": order })).await;
        is(&node, &run, "paused").await;
        runs.push(run);
    }
    publish(&node, "order.sent", json!({ "order": 1 })).await;
    publish(&node, "order.paid", json!({ "order": 9 })).await;
    let published = publish(&node, "order.paid", json!({ "order": 2, "by": "card" })).await;
    let second = got(&node, &runs[1]).await;
    assert_eq!((&second["id"], &second["payload"]), (&published["id"], &json!({ "order": 2, "by": "card" })), "{second}");
    for run in [&runs[0], &runs[2]] {
        // Each is woken to look at the event, and finds that it is not its own.
        is(&node, run, "paused").await;
    }
    publish(&node, "order.paid", json!({ "order": 3 })).await;
    assert_eq!(got(&node, &runs[2]).await["payload"]["order"], 3);
}

async fn an_early_event_is_kept_and_taken_once(world: Arc<World>) {
    let node = world.node();
    let first = publish(&node, "early", json!(1)).await;
    publish(&node, "early", json!(2)).await;
    let config = json!({ "name": "early", "timeoutMs": 400, "onTimeout": "continue" });
    let one = begin(&node, waits(config.clone()), json!({})).await;
    assert_eq!(got(&node, &one).await["id"], first["id"], "the oldest first");
    let two = begin(&node, waits(config.clone()), json!({})).await;
    assert_eq!(got(&node, &two).await["payload"], 2);
    let three = begin(&node, waits(config), json!({})).await;
    assert_eq!(got(&node, &three).await, Value::Null, "each was taken");
    let fails = begin(&node, waits(json!({ "name": "early", "timeoutMs": 200 })), json!({})).await;
    is(&node, &fails, "completed").await;
    assert_eq!(node.log(&fails).await.step("got")["code"], "event_timeout");
    // Many at once, and as many runs: each takes one.
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push(begin(&node, waits(json!({ "name": "many" })), json!({})).await);
    }
    let published = futures_util::future::join_all((0..10).map(|n| publish(&node, "many", json!(n)))).await;
    assert_eq!(published.len(), 10);
    let mut taken = Vec::new();
    for run in &runs {
        taken.push(got(&node, run).await["payload"].as_i64().unwrap());
    }
    taken.sort_unstable();
    assert_eq!(taken, (0..10).collect::<Vec<_>>());
}

async fn the_first_of_several_is_taken_and_the_others_are_left(world: Arc<World>) {
    let node = world.node();
    let any = |timeout: Value| waits(json!({ "any": ["paid", "refused"], "timeoutMs": timeout, "onTimeout": "continue" }));
    let run = begin(&node, any(json!(60_000)), json!({})).await;
    is(&node, &run, "paused").await;
    let refused = publish(&node, "refused", json!(1)).await;
    let taken = got(&node, &run).await;
    assert_eq!((&taken["id"], &taken["name"]), (&refused["id"], &json!("refused")));
    // Of those that were there before, the oldest.
    let (refused, paid) = (publish(&node, "refused", json!(2)).await, publish(&node, "paid", json!(3)).await);
    for expected in [refused, paid] {
        let run = begin(&node, any(json!(60_000)), json!({})).await;
        assert_eq!(got(&node, &run).await["id"], expected["id"]);
    }
    let run = begin(&node, any(json!(200)), json!({})).await;
    assert_eq!(got(&node, &run).await, Value::Null);
}

async fn one_of_each_is_taken_also_over_a_crash(world: Arc<World>) {
    let node = world.node();
    let all = json!({ "all": ["paid", "{{ second }}"] });
    let run = begin(&node, waits(all.clone()), json!({ "second": "packed" })).await;
    is(&node, &run, "paused").await;
    publish(&node, "packed", json!(1)).await;
    publish(&node, "packed", json!(2)).await;
    let node = world.crash().await;
    is(&node, &run, "paused").await;
    publish(&node, "paid", json!(3)).await;
    let taken = got(&node, &run).await;
    assert_eq!((&taken["packed"]["payload"], &taken["paid"]["payload"]), (&json!(1), &json!(3)), "{taken}");
    // The second was left to others; what is wanted and does not come fails the step, or leaves what came.
    let late = |on: &str| waits(json!({ "all": ["packed", "paid"], "timeoutMs": 300, "onTimeout": on }));
    let run = begin(&node, late("continue"), json!({})).await;
    let came = got(&node, &run).await;
    assert_eq!((came.as_object().unwrap().len(), &came["packed"]["payload"]), (1, &json!(2)), "{came}");
    let run = begin(&node, late("fail"), json!({})).await;
    is(&node, &run, "completed").await;
    let failed = node.log(&run).await.step("got").clone();
    assert_eq!(failed["code"], "event_timeout");
    assert!(failed["error"].as_str().unwrap().contains("`packed`, `paid`"), "{failed}");
    // What it had, and could not use, is there for others.
    publish(&node, "packed", json!(4)).await;
    let run = begin(&node, late("fail"), json!({})).await;
    is(&node, &run, "completed").await;
    assert!(node.log(&run).await.step("got")["error"].as_str().unwrap().contains("`paid` was"), "only that was missing");
    let run = begin(&node, waits(json!({ "name": "packed", "timeoutMs": 5_000 })), json!({})).await;
    assert_eq!(got(&node, &run).await["payload"], 4);
    // What came out as one name is an error of the run, not of the document.
    let run = begin(&node, waits(all), json!({ "second": "paid" })).await;
    is(&node, &run, "completed").await;
    assert_eq!(node.log(&run).await.step("got")["code"], "invalid_event_name");
}

async fn a_run_hears_of_an_event_after_a_crash(world: Arc<World>) {
    let node = world.node();
    let run = begin(&node, waits(json!({ "name": "later" })), json!({})).await;
    is(&node, &run, "paused").await;
    let node = world.crash().await;
    publish(&node, "later", json!("word")).await;
    assert_eq!(got(&node, &run).await["payload"], "word");
}

async fn a_flow_publishes_to_others(world: Arc<World>) {
    let node = world.node();
    let steps = json!({ "a": { "request": { "method": "POST", "url": world.sink.url("/triggered"), "body": "{{ trigger.body }}" } } });
    let document =
        json!({ "name": "heard", "version": 1, "triggers": [{ "type": "event", "event": "done", "filter": { "n": 1 } }], "steps": steps });
    call(&node, Method::PUT, "/api/workflows/heard").json(&document).ok().await;
    let waiting = begin(&node, waits(json!({ "name": "done" })), json!({})).await;
    is(&node, &waiting, "paused").await;
    let publishes = flow(json!([step("tell", "publish-event", json!({ "name": "done", "payload": { "n": 1, "who": "{{ who }}" } }))]));
    let publisher = begin(&node, publishes, json!({ "who": "Ada" })).await;
    is(&node, &publisher, "completed").await;
    assert_eq!(got(&node, &waiting).await["payload"], json!({ "n": 1, "who": "Ada" }));
    world.sink.reached("/triggered", 1).await;
    assert_eq!(world.sink.seen("/triggered")[0].json(), json!({ "n": 1, "who": "Ada" }));
    // By either route, and once.
    publish(&node, "done", json!({ "n": 1, "who": "api" })).await;
    within(async {
        while world.sink.seen("/triggered").len() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    publish(&node, "done", json!({ "n": 2 })).await;
    assert_eq!(world.sink.seen("/triggered").len(), 2);
}

async fn wrong_events_are_refused(world: Arc<World>) {
    let node = world.node();
    for (body, pointer) in [(json!({}), "/name"), (json!({ "name": "" }), "/name"), (json!({ "name": "a\u{1}b" }), "/name")] {
        assert_eq!(node.post("/v1/events").json(&body).refused(400, "validation_failed").await.pointers(), [pointer], "{body}");
    }
    let keyed = |body: Value| node.post("/v1/events").header("idempotency-key", "one").json(&body);
    let first = keyed(json!({ "name": "once", "payload": 1 })).ok().await;
    assert_eq!(keyed(json!({ "name": "once", "payload": 1 })).ok().await["id"], first["id"]);
    keyed(json!({ "name": "once", "payload": 2 })).refused(400, "idempotency_key_reused").await;
    for (config, pointer) in [
        (json!({}), "/flow/steps/0/config/name"),
        (json!({ "name": "" }), "/flow/steps/0/config/name"),
        (json!({ "name": "x", "any": ["y"] }), "/flow/steps/0/config/name"),
        (json!({ "any": [] }), "/flow/steps/0/config/any"),
        (json!({ "all": ["x", ""] }), "/flow/steps/0/config/all/1"),
        (json!({ "any": ["x", "y", "x"] }), "/flow/steps/0/config/any/2"),
        (json!({ "name": "x", "match": "((" }), "/flow/steps/0/config/match"),
        (json!({ "name": "x", "match": "secrets.a" }), "/flow/steps/0/config/match"),
        (json!({ "name": "x", "timeoutMs": 2_592_000_001_u64 }), "/flow/steps/0/config/timeoutMs"),
        (json!({ "name": "x", "onTimeout": "wait" }), "/flow/steps/0/config/onTimeout"),
    ] {
        let refused = node.post("/v1/dispatch").json(&waits(config.clone())).refused(422, "validation_failed").await;
        assert_eq!(refused.pointers(), [pointer], "{config}");
    }
}
