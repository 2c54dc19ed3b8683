//! Undoing what was done when a later step fails, or when the run is cancelled.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{begin, call, post, register, run, run_is, told};
use crate::support::sink::Reply;
use crate::support::world::{World, until};

on_both!(
    a_later_failure_undoes_what_was_done,
    undoing_goes_back_once_what_runs_has_ended,
    a_failed_undo_is_seen_and_tried_again,
    cancelling_undoes_when_it_says_so,
    undoing_goes_on_after_a_crash,
    a_cancelled_run_undoes_what_was_under_way,
    what_was_under_way_at_a_crash_is_undone_too,
    what_waits_for_a_signal_is_undone_too,
    siblings_are_tried_again_before_anything_is_undone,
);

/// A step with an undo.
fn undone(world: &World, path: &str, after: &[&str]) -> Value {
    let mut step = post(world, path, &json!({}), after);
    let body = json!({ "id": "{{ self.response.body.id }}", "why": "{{ error.step }}: {{ error.code }}" });
    step["compensate"] = json!({ "method": "POST", "url": world.sink.url(&format!("/undo{path}")), "body": body });
    step
}

async fn a_later_failure_undoes_what_was_done(world: Arc<World>) {
    let node = world.node();
    let steps = json!({
        "first": post(&world, "/first", &json!({}), &[]), "second": undone(&world, "/second", &["first"]), "third": post(&world, "/third", &json!({}), &["second"]),
    });
    register(&node, "undoes", steps).await;
    world.sink.on("/second", [Reply::json(json!({ "id": "ch_1" }))]);
    world.sink.on("/third", [Reply::status(400, json!({}))]);
    let failed = run(&node, "undoes", &json!({})).await;
    assert_eq!((failed.status, &failed.json()["details"]["step"]), (502, &json!("third")), "{}", failed.text());
    let id = failed.json()["details"]["run_id"].as_str().unwrap().to_owned();
    let undo = world.sink.seen("/undo/second");
    assert_eq!((undo.len(), undo[0].json()), (1, json!({ "id": "ch_1", "why": "third: http_status" })));
    assert_eq!(
        (undo[0].header("idempotency-key"), undo[0].header("dispatched-step")),
        (format!("{id}/second/compensate").as_str(), "second")
    );
    let view = node.get(&format!("/api/runs/{id}")).ok().await;
    let statuses = ["first", "second", "third"].map(|step| view["steps"][step]["status"].as_str().unwrap());
    assert_eq!((statuses, &view["compensation"]), (["completed", "compensated", "failed"], &json!("completed")), "{view}");
    let events: Vec<String> = told(&node, &id).await.into_iter().filter(|kind| kind.starts_with("compensation")).collect();
    assert_eq!(events, ["compensation.started", "compensation.request", "compensation.step_completed", "compensation.completed"]);
}

async fn undoing_goes_back_once_what_runs_has_ended(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/slow", [Reply::Gate(gate.clone())]);
    world.sink.on("/bad", [Reply::status(400, json!({}))]);
    let steps = json!({
        "one": undone(&world, "/one", &[]), "two": undone(&world, "/two", &["one"]), "slow": undone(&world, "/slow", &["two"]),
        "bad": post(&world, "/bad", &json!({}), &["two"]), "never": undone(&world, "/never", &["slow"]),
    });
    register(&node, "goes-back", steps).await;
    let id = begin(&node, "goes-back", &json!({})).await;
    world.sink.reached("/slow", 1).await;
    until(&node, &format!("/api/runs/{id}"), |run| run["steps"]["bad"]["status"] == "failed").await;
    assert!(world.sink.seen("/undo/two").is_empty(), "a sibling still runs");
    gate.notify_one();
    let view = run_is(&node, &id, "failed").await;
    assert_eq!((&view["error"]["step"], &view["compensation"]), (&json!("bad"), &json!("completed")), "{view}");
    let undos: Vec<String> = world.sink.all().into_iter().filter(|path| path.starts_with("/undo")).collect();
    assert_eq!(undos, ["/undo/slow", "/undo/two", "/undo/one"]);
    assert!(world.sink.seen("/never").is_empty(), "nothing new begins");
}

async fn a_failed_undo_is_seen_and_tried_again(world: Arc<World>) {
    let node = world.node();
    let mut first = undone(&world, "/first", &[]);
    first["retry"] = json!({ "on": [500], "max": 1, "delay": "1ms" });
    let steps =
        json!({ "first": first, "second": undone(&world, "/second", &["first"]), "bad": post(&world, "/bad", &json!({}), &["second"]) });
    register(&node, "partial", steps).await;
    world.sink.on("/bad", [Reply::status(400, json!({}))]);
    world.sink.on("/undo/first", [Reply::status(500, json!({})), Reply::status(500, json!({})), Reply::json(json!({}))]);
    let id = begin(&node, "partial", &json!({})).await;
    let view = run_is(&node, &id, "failed").await;
    assert_eq!(
        (&view["compensation"], &view["steps"]["first"]["undo_error"]["code"]),
        (&json!("partial"), &json!("http_status")),
        "{view}"
    );
    assert_eq!((&view["steps"]["first"]["status"], &view["steps"]["second"]["status"]), (&json!("completed"), &json!("compensated")));
    let again = call(&node, Method::POST, &format!("/api/runs/{id}/compensation")).send().await;
    assert_eq!(again.status, 202, "{}", again.text());
    let same = call(&node, Method::POST, &format!("/api/runs/{id}/compensation")).send().await;
    assert_eq!(same.json()["run_id"], again.json()["run_id"]);
    let second = again.json()["run_id"].as_str().unwrap().to_owned();
    let view = run_is(&node, &second, "failed").await;
    assert_eq!((&view["compensation"], &view["steps"]["first"]["status"]), (&json!("completed"), &json!("compensated")), "{view}");
    assert_eq!((world.sink.seen("/undo/first").len(), world.sink.seen("/undo/second").len(), world.sink.seen("/bad").len()), (3, 1, 1));
    let keys: Vec<String> = world.sink.seen("/undo/first").iter().map(|seen| seen.header("idempotency-key").to_owned()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    call(&node, Method::POST, &format!("/api/runs/{second}/compensation")).refused(409, "nothing_to_undo").await;
}

async fn cancelling_undoes_when_it_says_so(world: Arc<World>) {
    let node = world.node();
    register(&node, "cancelled", json!({ "a": undone(&world, "/a", &[]), "w": { "after": ["a"], "wait": { "signal": "never" } } })).await;
    for (query, undos) in [("", 0), ("?compensate=true", 1)] {
        let id = begin(&node, "cancelled", &json!({})).await;
        run_is(&node, &id, "waiting").await;
        let asked = call(&node, Method::DELETE, &format!("/api/runs/{id}{query}")).send().await;
        assert_eq!((asked.status, asked.json()["status"].clone()), (202, json!("cancelling")), "{}", asked.text());
        let view = run_is(&node, &id, "cancelled").await;
        assert_eq!(world.sink.seen("/undo/a").len(), undos, "{view}");
        assert_eq!(view["steps"]["w"]["status"], "cancelled", "{view}");
        assert_eq!(call(&node, Method::DELETE, &format!("/api/runs/{id}")).send().await.status, 200, "it is cancelled already");
        assert!(told(&node, &id).await.contains(&"run.cancelled".to_owned()));
    }
    register(&node, "done", json!({ "a": post(&world, "/b", &json!({}), &[]) })).await;
    let id = run(&node, "done", &json!({})).await.json()["id"].as_str().unwrap().to_owned();
    call(&node, Method::DELETE, &format!("/api/runs/{id}")).refused(409, "run_ended").await;
}

async fn undoing_goes_on_after_a_crash(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/undo/one", [Reply::Gate(gate), Reply::json(json!({}))]);
    world.sink.on("/bad", [Reply::status(400, json!({}))]);
    let steps = json!({ "one": undone(&world, "/one", &[]), "two": undone(&world, "/two", &["one"]), "bad": post(&world, "/bad", &json!({}), &["two"]) });
    register(&node, "crashes", steps).await;
    let id = begin(&node, "crashes", &json!({})).await;
    world.sink.reached("/undo/one", 1).await;
    assert_eq!(node.get(&format!("/api/runs/{id}")).ok().await["status"], "compensating");
    let node = world.crash().await;
    let view = run_is(&node, &id, "failed").await;
    assert_eq!(view["compensation"], "completed", "{view}");
    assert_eq!((world.sink.seen("/undo/two").len(), world.sink.seen("/undo/one").len(), world.sink.seen("/bad").len()), (1, 2, 1));
}

async fn a_cancelled_run_undoes_what_was_under_way(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/slow", [Reply::Gate(gate.clone())]);
    register(&node, "cut", json!({ "a": undone(&world, "/a", &[]), "slow": undone(&world, "/slow", &["a"]) })).await;
    let id = begin(&node, "cut", &json!({})).await;
    world.sink.reached("/slow", 1).await;
    call(&node, Method::DELETE, &format!("/api/runs/{id}?compensate=true")).ok().await;
    gate.notify_one();
    let view = run_is(&node, &id, "cancelled").await;
    assert_eq!((&view["compensation"], &view["steps"]["slow"]["status"]), (&json!("completed"), &json!("compensated")), "{view}");
    assert_eq!((world.sink.seen("/undo/slow").len(), world.sink.seen("/undo/a").len()), (1, 1));
}

async fn what_was_under_way_at_a_crash_is_undone_too(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/slow", [Reply::Gate(gate), Reply::json(json!({}))]);
    world.sink.on("/bad", [Reply::status(400, json!({}))]);
    register(&node, "cut", json!({ "slow": undone(&world, "/slow", &[]), "bad": post(&world, "/bad", &json!({}), &[]) })).await;
    let id = begin(&node, "cut", &json!({})).await;
    world.sink.reached("/slow", 1).await;
    until(&node, &format!("/api/runs/{id}"), |run| run["steps"]["bad"]["status"] == "failed").await;
    let node = world.crash().await;
    let view = run_is(&node, &id, "failed").await;
    assert_eq!((&view["compensation"], &view["steps"]["slow"]["status"]), (&json!("completed"), &json!("compensated")), "{view}");
    assert_eq!((world.sink.seen("/slow").len(), world.sink.seen("/undo/slow").len(), world.sink.seen("/bad").len()), (2, 1, 1));
}

async fn what_waits_for_a_signal_is_undone_too(world: Arc<World>) {
    let node = world.node();
    let mut asks = undone(&world, "/asks", &[]);
    asks["wait"] = json!({ "signal": "never" });
    world.sink.on("/asks", [Reply::json(json!({ "id": "q_1" }))]);
    register(&node, "asks", json!({ "asks": asks })).await;
    let id = begin(&node, "asks", &json!({})).await;
    run_is(&node, &id, "waiting").await;
    call(&node, Method::DELETE, &format!("/api/runs/{id}?compensate=true")).ok().await;
    let view = run_is(&node, &id, "cancelled").await;
    assert_eq!(view["steps"]["asks"]["status"], "compensated", "{view}");
    assert_eq!(world.sink.seen("/undo/asks")[0].json(), json!({ "id": "q_1", "why": ": cancelled" }));
}

async fn siblings_are_tried_again_before_anything_is_undone(world: Arc<World>) {
    let node = world.node();
    let mut later = undone(&world, "/later", &[]);
    later["retry"] = json!({ "max": 2 });
    world.sink.on("/later", [Reply::later(429, 3), Reply::json(json!({}))]);
    world.sink.on("/bad", [Reply::status(400, json!({}))]);
    let mut bad = post(&world, "/bad", &json!({}), &["first"]);
    bad["compensate"] = json!({ "method": "POST", "url": world.sink.url("/never") });
    register(&node, "later", json!({ "later": later, "first": undone(&world, "/first", &[]), "bad": bad })).await;
    let id = begin(&node, "later", &json!({})).await;
    let view = run_is(&node, &id, "failed").await;
    assert_eq!((&view["steps"]["later"]["status"], &view["compensation"]), (&json!("compensated"), &json!("completed")), "{view}");
    assert_eq!((world.sink.seen("/later").len(), world.sink.seen("/undo/later").len(), world.sink.seen("/never").len()), (2, 1, 0));
    // What services know by this run's id is not done again under the same keys.
    let replay = format!("/v1/workflows/runs/{id}/replay");
    call(&node, Method::POST, &replay).json(&json!({ "from_step": "bad" })).refused(409, "not_replayable").await;
}
