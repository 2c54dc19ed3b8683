//! Queues: how much may happen in them at once.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{call, called, enqueue, until};
use crate::support::sink::Reply;
use crate::support::world::{Kind, World};

on_both!(a_queue_does_no_more_at_once_than_it_may, a_paused_queue_waits, wrong_rules_are_refused, everything_is_counted);

async fn put(world: &World, name: &str, rules: Value) -> Value {
    call(&world.node(), Method::PUT, &format!("/v1/queues/{name}")).json(&rules).ok().await
}

async fn a_queue_does_no_more_at_once_than_it_may(world: Arc<World>) {
    let rules = put(&world, "narrow", json!({ "max_concurrency": 2 })).await;
    assert_eq!((&rules["max_concurrency"], &rules["paused"]), (&json!(2), &json!(false)), "{rules}");
    // Two servers over one database keep one limit.
    if world.kind == Kind::Postgres {
        world.start().await;
    }
    let node = world.node();
    let gate = Arc::new(Notify::new());
    for _ in 0..6 {
        world.sink.on("/narrow", [Reply::Gate(gate.clone())]);
    }
    for _ in 0..6 {
        let mut body = called(world.sink.url("/narrow"));
        body["queue"] = "narrow".into();
        enqueue(&node, body).await;
    }
    for done in 0..6 {
        world.sink.reached("/narrow", (done + 2).min(6)).await;
        let counts = node.get("/v1/jobs/counts").ok().await;
        assert!(counts["running"].as_u64().unwrap() <= 2, "{counts}");
        gate.notify_one();
        until(&node, "/v1/jobs/counts", |counts| counts["completed"] == done + 1).await;
    }
}

async fn a_paused_queue_waits(world: Arc<World>) {
    put(&world, "mail", json!({ "paused": true })).await;
    let node = world.node();
    let mut body = called(world.sink.url("/mail"));
    body["queue"] = "mail".into();
    let waits = enqueue(&node, body).await;
    let passes = enqueue(&node, called(world.sink.url("/other"))).await;
    super::job_is(&node, &passes, "completed").await;
    assert_eq!(node.get(&format!("/v1/jobs/{waits}")).ok().await["state"], "pending");
    let queues = node.get("/v1/queues").ok().await;
    let names: Vec<&str> = queues.as_array().unwrap().iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    assert_eq!(
        (names, &queues[1]["jobs"]["pending"], &queues[1]["paused"]),
        (vec!["default", "mail"], &json!(1), &json!(true)),
        "{queues}"
    );
    assert_eq!(call(&node, Method::DELETE, "/v1/queues/mail").send().await.status, 204);
    super::job_is(&node, &waits, "completed").await;
    call(&node, Method::DELETE, "/v1/queues/mail").refused(404, "not_found").await;
}

async fn wrong_rules_are_refused(world: Arc<World>) {
    let node = world.node();
    let put = |body: Value| call(&node, Method::PUT, "/v1/queues/q").json(&body);
    let refused = put(json!({ "rate_limit": -1, "orgs": { "a/b": { "rate_limit": 1e9 } } })).refused(400, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/rate_limit", "/orgs/a~1b/rate_limit"]);
    put(json!({ "max_concurrency": -1 })).refused(400, "validation_failed").await;
    assert_eq!(node.get("/v1/queues").ok().await, json!([]));
}

async fn everything_is_counted(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(Notify::new());
    world.sink.on("/gate", [Reply::Gate(gate.clone())]);
    enqueue(&node, called(world.sink.url("/gate"))).await;
    enqueue(&node, json!({ "name": "nobody" })).await;
    world.sink.reached("/gate", 1).await;
    let stats = until(&node, "/v1/stats", |stats| stats["dlq_count"] == 1 && stats["jobs"]["failed"] == 1).await;
    assert_eq!(
        (&stats["jobs"]["running"], &stats["jobs"]["failed"], &stats["workflows"]["running"]),
        (&json!(1), &json!(1), &json!(1)),
        "{stats}"
    );
    let workers = node.get("/v1/workers").ok().await;
    assert_eq!((&workers[0]["jobs"], &workers[0]["queues"]), (&json!(1), &json!(["default"])), "{workers}");
    assert!(workers[0]["id"].as_str().unwrap().starts_with("wkr_"), "{workers}");
    gate.notify_one();
    until(&node, "/v1/stats", |stats| stats["workflows"] == json!({ "running": 0, "completed": 1, "failed": 0 })).await;
    assert_eq!(node.get("/v1/workers").ok().await, json!([]));
}
