//! What begins runs besides a call: schemas of calls, times, events.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{call, post, register_whole, run};
use crate::support::world::{World, until};

on_both!(a_body_keeps_to_its_schema, events_begin_runs, times_begin_runs, all_cron_entries_of_a_workflow_are_deleted);

async fn a_body_keeps_to_its_schema(world: Arc<World>) {
    let node = world.node();
    let document = json!({
        "name": "typed", "version": 1,
        "schemas": { "Order": { "type": "object", "required": ["id"], "properties": { "id": { "type": "string" } } } },
        "triggers": [{ "type": "http", "schema": "Order" }],
        "steps": { "a": post(&world, "/typed", &json!("{{ trigger.body }}"), &[]) },
    });
    register_whole(&node, document).await;
    let refused = run(&node, "typed", &json!({ "id": 4 })).await.refused(422, "validation_failed");
    assert_eq!(refused.pointers(), ["/id"]);
    assert_eq!(run(&node, "typed", &json!({ "id": "x" })).await.status, 200);
    let text = call(&node, Method::POST, "/workflows/typed").body("text/plain", "hello").send().await;
    assert_eq!(text.status, 422, "a text is no object");
    // A schema that would take longer than anybody lives is stopped, and others are judged meanwhile.
    let every = |most: u32| json!({ "type": "array", "items": { "$ref": "#" }, "minItems": most });
    let slow = json!({ "anyOf": [{ "type": "array", "items": { "$ref": "#" } }, every(99), every(98)] });
    let document = json!({
        "name": "slow", "version": 1, "schemas": { "s": slow }, "triggers": [{ "type": "http", "schema": "s" }],
        "steps": { "a": post(&world, "/slow", &json!({}), &[]) },
    });
    register_whole(&node, document).await;
    let nested = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let stopped = call(&node, Method::POST, "/workflows/slow").body("application/json", nested).send();
    let quick = json!({ "id": "y" });
    let other = run(&node, "typed", &quick);
    let (stopped, other) = tokio::join!(stopped, other);
    assert!(["script_timeout", "script_memory"].contains(&stopped.json()["code"].as_str().unwrap()), "{}", stopped.text());
    assert_eq!(other.status, 200);
    let deep = format!("{}1{}", "[".repeat(80), "]".repeat(80));
    call(&node, Method::POST, "/workflows/typed").body("application/json", deep).refused(413, "body_too_deep").await;
}

async fn events_begin_runs(world: Arc<World>) {
    let node = world.node();
    let document = |name: &str, filter: Value| {
        json!({
            "name": name, "version": 1, "triggers": [{ "type": "event", "event": "order.paid", "filter": filter }],
            "steps": { "a": post(&world, &format!("/{name}"), &json!({ "type": "{{ trigger.type }}", "event": "{{ trigger.event }}", "body": "{{ trigger.body }}" }), &[]) },
        })
    };
    register_whole(&node, document("all-orders", json!({}))).await;
    register_whole(&node, document("large-orders", json!({ "size": "large" }))).await;
    let publish = |key: &'static str, body: Value| {
        call(&node, Method::POST, "/api/events").header("idempotency-key", key).json(&json!({ "event": "order.paid", "body": body }))
    };
    let small = publish("1", json!({ "size": "small" })).ok().await;
    assert_eq!(small["workflows"], json!(["all-orders"]), "{small}");
    let mut large = publish("2", json!({ "size": "large" })).ok().await;
    assert_eq!(publish("2", json!({ "size": "large" })).ok().await["jobs"], large["jobs"], "once for each key");
    large["workflows"].as_array_mut().unwrap().sort_by_key(ToString::to_string);
    assert_eq!(large["workflows"], json!(["all-orders", "large-orders"]));
    world.sink.reached("/all-orders", 2).await;
    world.sink.reached("/large-orders", 1).await;
    let seen = world.sink.seen("/large-orders")[0].json();
    assert_eq!(seen, json!({ "type": "event", "event": "order.paid", "body": { "size": "large" } }));
    let other = call(&node, Method::POST, "/api/events").json(&json!({ "event": "order.sent" })).ok().await;
    assert_eq!((&other["workflows"], &other["jobs"]), (&json!([]), &json!([])));
    let reused = call(&node, Method::POST, "/api/events").header("idempotency-key", "1").json(&json!({ "event": "order.paid", "body": 1 }));
    reused.refused(422, "idempotency_key_reused").await;
    register_whole(&node, document("tens", json!({ "amount": 10, "of": [{ "n": 1 }] }))).await;
    let mut tens = publish("3", json!({ "amount": 10.0, "of": [{ "n": 1.0 }] })).ok().await;
    tens["workflows"].as_array_mut().unwrap().sort_by_key(ToString::to_string);
    assert_eq!(tens["workflows"], json!(["all-orders", "tens"]), "numbers are equal by value");
    let eleven = publish("4", json!({ "amount": 10.5, "of": [{ "n": 1 }] })).ok().await;
    assert_eq!(eleven["workflows"], json!(["all-orders"]));
    let runs = until(&node, "/api/runs?status=completed", |runs| runs["runs"].as_array().unwrap().len() == 6).await;
    assert!(runs["runs"].as_array().unwrap().iter().all(|run| run["id"].as_str().unwrap().starts_with("run_")));
    call(&node, Method::POST, "/api/events").json(&json!({ "event": "" })).refused(422, "validation_failed").await;
}

async fn times_begin_runs(world: Arc<World>) {
    let node = world.node();
    let document = |version: u32, triggers: Value| json!({ "name": "timed", "version": version, "triggers": triggers, "steps": { "a": post(&world, "/timed", &json!("{{ trigger.body }}"), &[]) } });
    let every = |zone: &str| json!([{ "type": "cron", "schedule": "*/5 * * * *", "timezone": zone, "body": { "n": 1 } }]);
    register_whole(&node, document(1, every("Europe/Berlin"))).await;
    let crons = node.get("/v1/crons").ok().await;
    assert_eq!((crons[0]["schedule"].clone(), crons[0]["timezone"].clone()), (json!("*/5 * * * *"), json!("Europe/Berlin")), "{crons}");
    let path = format!("/v1/crons/{}/fire", crons[0]["id"].as_str().unwrap());
    call(&node, Method::POST, &path).ok().await;
    world.sink.reached("/timed", 1).await;
    assert_eq!(world.sink.seen("/timed")[0].json(), json!({ "n": 1 }));
    register_whole(&node, document(2, every("UTC"))).await;
    let crons = node.get("/v1/crons").ok().await;
    assert_eq!((crons.as_array().unwrap().len(), &crons[0]["timezone"]), (1, &json!("UTC")));
    register_whole(&node, document(3, json!([]))).await;
    assert_eq!(node.get("/v1/crons").ok().await, json!([]));
    register_whole(&node, document(4, every("UTC"))).await;
    assert_eq!(call(&node, Method::DELETE, "/api/workflows/timed").send().await.status, 204);
    assert_eq!(node.get("/v1/crons").ok().await, json!([]));
}

async fn all_cron_entries_of_a_workflow_are_deleted(world: Arc<World>) {
    let node = world.node();
    let document = |version: u32, times: usize| {
        let trigger = json!({ "type": "cron", "schedule": "0 0 1 1 *" });
        json!({ "name": "gap", "version": version, "triggers": vec![trigger; times], "steps": { "a": post(&world, "/gap", &json!({}), &[]) } })
    };
    let names = async || {
        let crons = node.get("/v1/crons").ok().await;
        let mut names: Vec<String> = crons.as_array().unwrap().iter().map(|cron| cron["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let delete = async |name: &str| {
        let crons = node.get("/v1/crons").ok().await;
        let cron = crons.as_array().unwrap().iter().find(|cron| cron["name"] == name).unwrap();
        let path = format!("/v1/crons/{}", cron["id"].as_str().unwrap());
        assert_eq!(call(&node, Method::DELETE, &path).send().await.status, 204);
    };
    register_whole(&node, document(1, 3)).await;
    delete("workflow:gap/0").await;
    register_whole(&node, document(2, 0)).await;
    assert!(names().await.is_empty(), "{:?}", names().await);
    register_whole(&node, document(3, 3)).await;
    delete("workflow:gap/1").await;
    register_whole(&node, document(4, 1)).await;
    assert_eq!(names().await, ["workflow:gap/0"]);
    register_whole(&node, document(5, 3)).await;
    delete("workflow:gap/0").await;
    assert_eq!(call(&node, Method::DELETE, "/api/workflows/gap").send().await.status, 204);
    assert!(names().await.is_empty(), "{:?}", names().await);
}
