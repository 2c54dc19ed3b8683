//! Deletion of executions, and how long data is kept.

use std::sync::Arc;
use std::time::Duration;

use dispatch::http::AppState;
use dispatch::model::{RetentionKind, RetentionPolicy};
use dispatch::queue::retention::RetentionSweeper;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{flow, set};
use crate::support::app::within;
use crate::support::call::Call;
use crate::support::world::{KEY, Node, World, until};

on_both!(
    an_ended_execution_is_deleted_by_its_owner,
    one_that_goes_on_is_not_deleted,
    many_are_deleted_by_filter,
    retention_is_set_by_each_tenant,
    a_sweep_deletes_what_is_old_and_nothing_else,
    one_server_does_a_sweep,
    deletion_under_load_loses_nothing,
);

fn delete(node: &Node, run: &str) -> Call {
    node.bare(Method::DELETE, &format!("/v1/executions/{run}")).bearer(KEY)
}

fn get(node: &Node, run: &str) -> Call {
    node.get(&format!("/v1/executions/{run}"))
}

/// Runs a flow of one step to its end and returns the execution's id.
async fn ended(node: &Node) -> String {
    let result = node.result(&flow(json!([set("a", json!(1))]))).await;
    assert_eq!(result["success"], true, "{result}");
    result["executionId"].as_str().unwrap().to_owned()
}

/// Starts an execution that waits for the signal `go`.
async fn waiting(node: &Node) -> String {
    let mut body = flow(json!([{ "id": "w", "type": "wait-for-signal", "config": { "name": "go" } }]));
    body["async"] = json!(true);
    let started = node.post("/v1/dispatch").json(&body).ok().await;
    let run = started["executionId"].as_str().unwrap().to_owned();
    until(node, &format!("/v1/executions/{run}"), |run| run["status"] == "paused").await;
    run
}

async fn an_ended_execution_is_deleted_by_its_owner(world: Arc<World>) {
    let node = world.node();
    let (run, kept) = (ended(&node).await, ended(&node).await);
    let stranger = world.strangers_key().await;
    node.bare(Method::DELETE, &format!("/v1/executions/{run}")).bearer(&stranger).refused(404, "not_found").await;
    get(&node, &run).ok().await;
    let reader = world.key_with(&["FLOWS:READ", "FLOWS:EXECUTE"]).await;
    node.bare(Method::DELETE, &format!("/v1/executions/{run}")).bearer(&reader).refused(403, "missing_scope").await;
    assert_eq!(delete(&node, &run).ok().await, json!({ "id": run, "deleted": true, "executions": 1 }));
    get(&node, &run).refused(404, "not_found").await;
    node.get(&format!("/v1/executions/{run}/events")).refused(404, "not_found").await;
    delete(&node, &run).refused(404, "not_found").await;
    let list = node.get("/v1/executions").ok().await;
    assert_eq!(list["data"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect::<Vec<_>>(), [json!(kept)]);
}

async fn one_that_goes_on_is_not_deleted(world: Arc<World>) {
    let node = world.node();
    let run = waiting(&node).await;
    let refused = delete(&node, &run).refused(409, "execution_active").await.json();
    assert!(refused["next"].as_str().unwrap().contains(&format!("/v1/executions/{run}/cancel")), "{refused}");
    node.post(&format!("/v1/executions/{run}/cancel")).ok().await;
    until(&node, &format!("/v1/executions/{run}"), |run| run["status"] == "cancelled").await;
    delete(&node, &run).ok().await;
    get(&node, &run).refused(404, "not_found").await;
}

async fn many_are_deleted_by_filter(world: Arc<World>) {
    let node = world.node();
    for _ in 0..3 {
        ended(&node).await;
    }
    let waits = waiting(&node).await;
    let bulk = |body: Value| node.post("/v1/executions/bulk-delete").json(&body);
    bulk(json!({})).refused(422, "validation_failed").await;
    bulk(json!({ "untill": "2020-01-01T00:00:00Z" })).refused(422, "validation_failed").await;
    assert_eq!(bulk(json!({ "status": "paused" })).refused(422, "validation_failed").await.pointers(), ["/status"]);
    assert_eq!(bulk(json!({ "until": "2020-01-01T00:00:00Z" })).ok().await["deleted"], 0);
    let first = bulk(json!({ "since": "2020-01-01T00:00:00Z", "limit": 2 })).ok().await;
    assert_eq!((&first["deleted"], &first["kept"], &first["pagination"]["hasMore"]), (&json!(2), &json!([]), &json!(true)));
    let cursor = &first["pagination"]["nextCursor"];
    let second = bulk(json!({ "since": "2020-01-01T00:00:00Z", "limit": 2, "cursor": cursor })).ok().await;
    assert_eq!((&second["deleted"], &second["pagination"]["hasMore"]), (&json!(1), &json!(false)));
    let list = node.get("/v1/executions").ok().await;
    assert_eq!(list["data"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect::<Vec<_>>(), [json!(waits)]);
}

async fn retention_is_set_by_each_tenant(world: Arc<World>) {
    let node = world.node();
    let none = node.get("/v1/retention").ok().await;
    assert_eq!((&none["executions"], &none["defaults"]["jobs"]), (&Value::Null, &Value::Null));
    let put = |body: Value| node.bare(Method::PUT, "/v1/retention").bearer(KEY).json(&body);
    let set = put(json!({ "executions": "30d", "jobs": "12h", "events": null })).ok().await;
    assert_eq!((&set["executions"], &set["jobs"], &set["events"]), (&json!("30d"), &json!("12h"), &Value::Null));
    assert_eq!(node.get("/v1/retention").ok().await, set);
    let wrong = put(json!({ "executions": "30 days", "events": "5m", "deliveries": "1d" })).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/executions", "/events"]);
    put(json!({ "execution": "30d" })).refused(422, "validation_failed").await;
    assert_eq!(node.get("/v1/retention").ok().await, set, "nothing was changed");
    let stranger = world.strangers_key().await;
    assert_eq!(node.bare(Method::GET, "/v1/retention").bearer(&stranger).ok().await["executions"], Value::Null);
    assert_eq!(put(json!({})).ok().await["executions"], Value::Null, "all settings are replaced");
}

/// A sweeper that keeps ended executions for a millisecond.
fn hasty(state: &AppState) -> RetentionSweeper {
    let mut policy = RetentionPolicy::default();
    policy.set(RetentionKind::Executions, Some(Duration::from_millis(1)));
    RetentionSweeper::new(state.store.clone(), state.clock.clone(), policy)
}

async fn is_gone(node: &Node, run: &str) -> bool {
    get(node, run).send().await.status == 404
}

async fn a_sweep_deletes_what_is_old_and_nothing_else(world: Arc<World>) {
    let node = world.node();
    let (run, waits) = (ended(&node).await, waiting(&node).await);
    let sweep = || {
        node.with_state(|state| async move {
            let tenant = state.store.list_tenants().await.unwrap()[0].id;
            hasty(&state).sweep_tenant(tenant).await.unwrap();
        })
    };
    let swept = async {
        while !is_gone(&node, &run).await {
            sweep().await;
        }
    };
    within(swept).await;
    assert_eq!(get(&node, &waits).ok().await["status"], "paused");
    // What the tenant itself wants comes before the server's defaults.
    node.bare(Method::PUT, "/v1/retention").bearer(KEY).json(&json!({ "executions": null })).ok().await;
    let kept = ended(&node).await;
    sweep().await;
    get(&node, &kept).ok().await;
    node.post(&format!("/v1/executions/{waits}/signals/go")).json(&json!({ "paid": true })).ok().await;
    until(&node, &format!("/v1/executions/{waits}"), |run| run["status"] == "completed").await;
}

async fn one_server_does_a_sweep(world: Arc<World>) {
    let node = world.node();
    let sweep = || node.with_state(|state| async move { hasty(&state).sweep_due().await.unwrap() });
    sweep().await;
    let run = ended(&node).await;
    sweep().await;
    sweep().await;
    get(&node, &run).ok().await;
}

async fn deletion_under_load_loses_nothing(world: Arc<World>) {
    let node = world.node();
    let waits = waiting(&node).await;
    let one = |turn: usize| {
        let node = &node;
        async move {
            let run = ended(node).await;
            let deletes = turn.is_multiple_of(2);
            if deletes {
                delete(node, &run).ok().await;
            }
            (deletes, run)
        }
    };
    let runs = within(join_all((0..24).map(one))).await;
    for (is_deleted, run) in runs {
        assert_eq!(is_gone(&node, &run).await, is_deleted, "{run}");
    }
    node.post(&format!("/v1/executions/{waits}/signals/go")).json(&json!({ "paid": true })).ok().await;
    until(&node, &format!("/v1/executions/{waits}"), |run| run["status"] == "completed").await;
}
