//! Signals, and what happens without them.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{begin, post, register, run_is, signal, told};
use crate::support::sink::Reply;
use crate::support::world::World;

on_both!(
    a_wait_ends_by_a_signal,
    the_first_of_several_or_all_of_them,
    a_wait_ends_by_itself,
    a_signal_before_its_wait_is_kept,
    a_run_s_own_session
);

async fn a_wait_ends_by_a_signal(world: Arc<World>) {
    let node = world.node();
    let steps = json!({
        "ask": { "request": { "method": "POST", "url": world.sink.url("/ask") }, "wait": { "signal": "approved", "timeout": "1h" } },
        "after": post(&world, "/after", &json!({ "by": "{{ steps.ask.signal.body.by }}", "asked": "{{ steps.ask.response.status }}" }), &["ask"]),
    });
    register(&node, "waits", steps).await;
    let id = begin(&node, "waits", &json!({})).await;
    let waiting = run_is(&node, &id, "waiting").await;
    assert_eq!((&waiting["current_steps"], &waiting["steps"]["ask"]["status"]), (&json!(["ask"]), &json!("waiting")), "{waiting}");
    signal(&node, &id, "other", &json!({})).await;
    let node = world.crash().await;
    let answer = signal(&node, &id, "approved", &json!({ "by": "eva" })).await;
    assert_eq!((answer.status, answer.json()), (202, json!({ "run_id": id, "signal": "approved" })));
    run_is(&node, &id, "completed").await;
    assert_eq!(world.sink.seen("/after")[0].json(), json!({ "by": "eva", "asked": 200 }));
    assert_eq!(world.sink.seen("/ask").len(), 1);
    signal(&node, &id, "approved", &json!({})).await.refused(409, "run_ended");
    signal(&node, "run_01h455vb4pex5vsknk084sn02q", "approved", &json!({})).await.refused(404, "not_found");
    let events = told(&node, &id).await;
    assert_eq!(events.iter().filter(|kind| *kind == "step.waiting" || *kind == "signal.received").count(), 2, "{events:?}");
}

async fn the_first_of_several_or_all_of_them(world: Arc<World>) {
    let node = world.node();
    register(&node, "any", json!({ "w": { "wait": { "any": ["yes", "no"] } } })).await;
    register(&node, "all", json!({ "w": { "wait": { "all": ["one", "two"] } } })).await;
    let any = begin(&node, "any", &json!({})).await;
    run_is(&node, &any, "waiting").await;
    signal(&node, &any, "no", &json!(1)).await;
    let done = run_is(&node, &any, "completed").await;
    assert_eq!((&done["steps"]["w"]["signal"]["name"], &done["steps"]["w"]["signal"]["body"]), (&json!("no"), &json!(1)), "{done}");
    let all = begin(&node, "all", &json!({})).await;
    run_is(&node, &all, "waiting").await;
    signal(&node, &all, "two", &json!("b")).await;
    signal(&node, &all, "two", &json!("again")).await;
    assert_eq!(node.get(&format!("/api/runs/{all}")).ok().await["completed_at"], Value::Null);
    signal(&node, &all, "one", &json!("a")).await;
    let signals = run_is(&node, &all, "completed").await["steps"]["w"]["signals"].clone();
    assert_eq!((&signals["one"]["body"], &signals["two"]["body"]), (&json!("a"), &json!("b")), "{signals}");
}

async fn a_wait_ends_by_itself(world: Arc<World>) {
    let node = world.node();
    let wait = |on_timeout: &str| json!({ "w": { "wait": { "signal": "never", "timeout": "20ms", "on_timeout": on_timeout } }, "after": post(&world, "/after", &json!({ "got": "{{ steps.w.signal }}" }), &["w"]) });
    for (policy, status, code) in [
        ("fail", "failed", "signal_timeout"),
        ("reject", "failed", "signal_rejected"),
        ("continue", "completed", ""),
        ("skip", "completed", ""),
    ] {
        let name = format!("times-out-{policy}");
        register(&node, &name, wait(policy)).await;
        let id = begin(&node, &name, &json!({})).await;
        let done = run_is(&node, &id, status).await;
        assert_eq!(done["error"]["code"].as_str().unwrap_or_default(), code, "{done}");
        assert!(told(&node, &id).await.contains(&"step.timeout".to_owned()));
    }
    assert_eq!(world.sink.seen("/after").len(), 2);
    assert_eq!(world.sink.seen("/after")[0].json(), json!({ "got": null }));
}

async fn a_signal_before_its_wait_is_kept(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/slow", [Reply::Gate(gate.clone())]);
    register(&node, "early", json!({ "a": post(&world, "/slow", &json!({}), &[]), "w": { "after": ["a"], "wait": { "signal": "go" } } }))
        .await;
    let id = begin(&node, "early", &json!({})).await;
    world.sink.reached("/slow", 1).await;
    assert_eq!(signal(&node, &id, "go", &json!("early")).await.status, 202);
    gate.notify_one();
    let done = run_is(&node, &id, "completed").await;
    assert_eq!(done["steps"]["w"]["signal"]["body"], "early", "{done}");
}

async fn a_run_s_own_session(world: Arc<World>) {
    let node = world.node();
    let steps = json!({
        "ask": { "request": { "method": "POST", "url": world.sink.url("/ask"), "body": { "run": "{{ run.id }}", "token": "{{ run.session }}" } }, "wait": { "signal": "go" } },
    });
    register(&node, "hands-out", steps).await;
    let id = begin(&node, "hands-out", &json!({})).await;
    let other = begin(&node, "hands-out", &json!({})).await;
    world.sink.reached("/ask", 2).await;
    let seen = world.sink.seen("/ask").into_iter().map(|seen| seen.json()).find(|body| body["run"] == json!(id)).unwrap();
    let token = seen["token"].as_str().unwrap();
    assert!(token.starts_with("dst_run_"));
    let with = |method: Method, path: String| node.bare(method, &path).header("dispatched-session", token);
    assert_eq!(with(Method::GET, format!("/api/runs/{id}")).ok().await["id"], json!(id));
    let events = with(Method::GET, format!("/api/runs/{id}/events")).ok().await.to_string();
    assert!(!events.contains(token), "the log does not tell it");
    with(Method::GET, format!("/api/runs/{other}")).refused(403, "run_session").await;
    with(Method::GET, "/api/runs".into()).refused(403, "missing_scope").await;
    with(Method::GET, "/api/secrets".into()).refused(403, "missing_scope").await;
    with(Method::DELETE, format!("/api/runs/{id}")).refused(403, "missing_scope").await;
    node.bare(Method::GET, "/v1/flows").header("dispatched-session", token).refused(401, "missing_api_key").await;
    let begun = node
        .bare(Method::POST, &format!("/workflows/hands-out?session={token}"))
        .header("prefer", "respond-async")
        .json(&json!({}))
        .send()
        .await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    run_is(&node, &id, "waiting").await;
    with(Method::POST, format!("/api/runs/{id}/signal/go")).json(&json!({})).ok().await;
    run_is(&node, &id, "completed").await;
    with(Method::GET, format!("/api/runs/{id}")).refused(401, "invalid_session").await;
    let forged = format!("{}x", &token[..token.len() - 1]);
    node.bare(Method::GET, &format!("/api/runs/{other}")).header("dispatched-session", &forged).refused(401, "invalid_session").await;
}
