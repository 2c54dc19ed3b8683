//! Dead letters: looked at, replayed, purged.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{call, enqueue, flow, job_is, until};
use crate::dispatch::step;
use crate::support::world::{Node, World};

on_both!(letters_become_jobs_again, all_open_letters_are_replayed, old_letters_are_purged, letters_are_listed_in_windows);

/// Jobs that nobody does; their letters, the first one at the head.
async fn dead(node: &Node, count: usize) -> Vec<Value> {
    for number in 0..count {
        let body = json!({ "name": "nobody", "payload": number, "queue": if number == 0 { "mail" } else { "default" }, "priority": 4, "timeout_ms": 1_234 });
        let id = enqueue(node, body).await;
        job_is(node, &id, "failed").await;
    }
    let letters = node.get("/v1/dlq").ok().await;
    letters.as_array().unwrap().clone()
}

fn at(letter: &Value, what: &str) -> String {
    format!("/v1/dlq/{}{what}", letter["id"].as_str().unwrap())
}

async fn letters_become_jobs_again(world: Arc<World>) {
    let node = world.node();
    let letters = dead(&node, 1).await;
    let letter = &letters[0];
    assert_eq!(node.get(&at(letter, "")).ok().await, *letter);
    flow(&node, "nobody", json!([step("s", "set-variable", json!({ "variableName": "x", "value": 1 }))])).await;
    let replayed = call(&node, Method::POST, &at(letter, "/replay")).send().await;
    assert_eq!((replayed.status, replayed.header("dispatch-earlier-job")), (201, None), "{}", replayed.text());
    let job = replayed.json();
    assert_ne!(job["id"], letter["job_id"]);
    for (field, value) in
        [("queue", json!("mail")), ("priority", json!(4)), ("timeout_ms", json!(1_234)), ("replay_of", letter["id"].clone())]
    {
        assert_eq!(job[field], value, "{field}: {job}");
    }
    job_is(&node, job["id"].as_str().unwrap(), "completed").await;
    let noted = node.get(&at(letter, "")).ok().await;
    assert!(noted["replayed_at"].is_string() && noted["replayed_as"] == job["id"], "{noted}");
    assert_eq!(node.get("/v1/dlq/count").ok().await["count"], 1, "it stays");
    let again = call(&node, Method::POST, &at(letter, "/replay")).send().await;
    assert_eq!((again.status, again.header("dispatch-earlier-job")), (201, job["id"].as_str()));
    node.get("/v1/dlq/dlq_01h455vb4pex5vsknk084sn02q").refused(404, "not_found").await;
    call(&node, Method::POST, "/v1/dlq/dlq_01h455vb4pex5vsknk084sn02q/replay").refused(404, "not_found").await;
    node.get("/v1/dlq/job_01h455vb4pex5vsknk084sn02q").refused(400, "invalid_id").await;
    let stranger = world.strangers_key().await;
    node.bare(Method::GET, &at(letter, "")).bearer(&stranger).refused(404, "not_found").await;
}

async fn all_open_letters_are_replayed(world: Arc<World>) {
    let node = world.node();
    let letters = dead(&node, 3).await;
    flow(&node, "nobody", json!([step("s", "set-variable", json!({ "variableName": "x", "value": 1 }))])).await;
    call(&node, Method::POST, &at(&letters[1], "/replay")).ok().await;
    let all = |body: Value| node.post("/v1/dlq/replay-all").json(&body).ok();
    assert_eq!(all(json!({ "dry_run": true })).await, json!({ "replayed": 2, "errors": 0 }));
    assert_eq!(all(json!({ "queue": "mail" })).await, json!({ "replayed": 1, "errors": 0 }));
    let rest = call(&node, Method::POST, "/v1/dlq/replay-all").ok().await;
    assert_eq!(rest, json!({ "replayed": 1, "errors": 0 }), "a body may be left out");
    until(&node, "/v1/jobs/counts", |counts| counts["completed"] == 3).await;
}

async fn old_letters_are_purged(world: Arc<World>) {
    let node = world.node();
    let letters = dead(&node, 2).await;
    let purge = |body: Value| node.post("/v1/dlq/purge").json(&body);
    assert_eq!(call(&node, Method::POST, "/v1/dlq/purge").ok().await, json!({ "purged": 0 }), "none is thirty days old");
    world.meddle("update dead_letters set failed_at = 0 where id = $1", letters[1]["id"].as_str().unwrap()).await;
    assert_eq!(purge(json!({ "dry_run": true })).ok().await, json!({ "purged": 1, "dry_run": true }));
    assert_eq!(purge(json!({})).ok().await, json!({ "purged": 1 }));
    assert_eq!(purge(json!({ "older_than": "0s", "queue": "default" })).ok().await, json!({ "purged": 0 }));
    assert_eq!(purge(json!({ "older_than": "0s" })).ok().await, json!({ "purged": 1 }));
    assert_eq!(purge(json!({ "older_than": "a while" })).refused(400, "validation_failed").await.pointers(), ["/older_than"]);
}

async fn letters_are_listed_in_windows(world: Arc<World>) {
    let node = world.node();
    let letters = dead(&node, 3).await;
    let list = async |query: String| node.get(&format!("/v1/dlq{query}")).ok().await.as_array().unwrap().clone();
    assert_eq!(list("?limit=1&offset=1".into()).await, letters[1..2]);
    assert_eq!(list(format!("?after={}", letters[0]["id"].as_str().unwrap())).await, letters[1..]);
    assert_eq!(list("?queue=mail".into()).await, letters[..1]);
    assert_eq!(list("?queue=nowhere".into()).await, [] as [Value; 0]);
}
