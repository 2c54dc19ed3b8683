//! Crons: entries that put jobs in their queues, once for each slot.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{call, flow, job_is, until};
use crate::dispatch::step;
use crate::support::world::{Kind, Node, World};

on_both!(
    an_entry_is_kept_changed_and_deleted,
    a_slot_becomes_one_job_whoever_sees_it,
    missed_slots_are_caught_up_with,
    times_of_a_disabled_entry_are_skipped,
    a_slot_is_passed_over_while_the_job_before_runs,
    wrong_entries_are_refused,
);

async fn create(node: &Node, body: Value) -> Value {
    node.post("/v1/crons").json(&body).ok().await
}

fn at(entry: &Value, what: &str) -> String {
    format!("/v1/crons/{}{what}", entry["id"].as_str().unwrap())
}

async fn an_entry_is_kept_changed_and_deleted(world: Arc<World>) {
    let node = world.node();
    let entry =
        create(&node, json!({ "name": "daily-cleanup", "schedule": "0 3 * * *", "payload": { "deep": true }, "queue": "night" })).await;
    for (field, value) in [
        ("enabled", json!(true)),
        ("job_name", json!("daily-cleanup")),
        ("queue", json!("night")),
        ("catch_up", json!("last")),
        ("overlap", json!("allow")),
        ("last_fired_at", Value::Null),
        ("scope_org_id", json!("")),
    ] {
        assert_eq!(entry[field], value, "{field}: {entry}");
    }
    assert!(entry["next_run_at"].as_str().unwrap().ends_with("T03:00:00Z"), "{entry}");
    let midnight = create(&node, json!({ "name": "midnight", "schedule": "@midnight" })).await;
    assert!(midnight["next_run_at"].as_str().unwrap().ends_with("T00:00:00Z"), "{midnight}");
    let gone = call(&node, Method::DELETE, &at(&midnight, "")).send().await;
    assert_eq!((gone.status, gone.header("content-length")), (204, None));
    node.post("/v1/crons").json(&json!({ "name": "daily-cleanup", "schedule": "@daily" })).refused(409, "already_exists").await;
    assert_eq!(node.get(&at(&entry, "")).ok().await, entry);
    assert_eq!(node.get("/v1/crons").ok().await, json!([entry]));
    let off = call(&node, Method::POST, &at(&entry, "/disable")).ok().await;
    assert_eq!((&off["enabled"], &off["next_run_at"]), (&json!(false), &entry["next_run_at"]));
    assert_eq!(call(&node, Method::POST, &at(&entry, "/enable")).ok().await["enabled"], true);
    let changed = call(&node, Method::PUT, &at(&entry, "")).json(&json!({ "schedule": "30 4 * * *", "timezone": "Asia/Tokyo" })).ok().await;
    assert_eq!((&changed["queue"], &changed["payload"]), (&json!("night"), &json!({ "deep": true })), "the rest stays: {changed}");
    assert!(changed["next_run_at"].as_str().unwrap().ends_with("T19:30:00Z"), "{changed}");
    let preview = node.get(&at(&entry, "/preview")).ok().await;
    assert_eq!((preview["next"].as_array().unwrap().len(), &preview["next"][0]), (10, &changed["next_run_at"]));
    let stranger = world.strangers_key().await;
    node.bare(Method::GET, &at(&entry, "")).bearer(&stranger).refused(404, "not_found").await;
    node.bare(Method::DELETE, &at(&entry, "")).bearer(&stranger).refused(404, "not_found").await;
    assert_eq!(call(&node, Method::DELETE, &at(&entry, "")).send().await.status, 204);
    node.get(&at(&entry, "")).refused(404, "not_found").await;
    node.get("/v1/crons/sched_01h455vb4pex5vsknk084sn02q").refused(400, "invalid_id").await;
}

/// Makes an entry due since a time, as if nobody had looked.
async fn due_since(world: &World, entry: &Value, millis: i64) {
    next_is(world, entry, millis, true).await;
}

/// Sets when an entry is due, and whether it fires.
async fn next_is(world: &World, entry: &Value, millis: i64, enabled: bool) {
    let text = dispatch::clock::Timestamp::from_millis(millis).to_string();
    let node = world.node();
    let id: dispatch::id::CronId = entry["id"].as_str().unwrap().parse().unwrap();
    node.with_state(move |state| async move {
        let tenant = state.store.list_tenants().await.unwrap()[0].id;
        let all = dispatch::store::Collection::<dispatch::queue::crons::Cron>::of(&*state.store, tenant);
        let kept = all.find(id).await.unwrap().unwrap();
        let next = Some(serde_json::from_value(json!(text)).unwrap());
        let body = dispatch::queue::crons::Cron { next, enabled, ..kept.body.clone() };
        assert!(all.change(&kept, body, state.clock.now()).await.unwrap().is_some());
    })
    .await;
}

fn minutes_ago(minutes: i64) -> i64 {
    let now = dispatch::clock::Clock::system().now().as_millis();
    now.div_euclid(60_000) * 60_000 - minutes * 60_000
}

async fn a_slot_becomes_one_job_whoever_sees_it(world: Arc<World>) {
    let node = world.node();
    if world.kind == Kind::Postgres {
        world.start().await;
    }
    flow(&node, "tick", json!([step("s", "set-variable", json!({ "variableName": "x", "value": "{{payload}}" }))])).await;
    let entry = create(&node, json!({ "name": "every-hour", "schedule": "0 * * * *", "job_name": "tick", "payload": 7, "enabled": false, "scope_org_id": "org_1" })).await;
    due_since(&world, &entry, minutes_ago(60 * 3)).await;
    let jobs = until(&node, "/v1/jobs?name=tick", |jobs| jobs[0]["state"] == "completed").await;
    assert_eq!(jobs.as_array().unwrap().len(), 1, "three slots passed; the last one is done: {jobs}");
    assert_eq!((&jobs[0]["cron_id"], &jobs[0]["payload"], &jobs[0]["scope_org_id"]), (&entry["id"], &json!(7), &json!("org_1")));
    let fired = until(&node, &at(&entry, ""), |entry| entry["last_fired_at"].is_string()).await;
    assert_eq!((&fired["last_job_id"], &fired["last_run_at"]), (&jobs[0]["id"], &fired["last_fired_at"]));
    // The same slot again, as a server sees it that was late: it is the same job.
    due_since(&world, &entry, minutes_ago(60 * 3)).await;
    until(&node, &at(&entry, ""), |entry| entry["next_run_at"] == fired["next_run_at"]).await;
    assert_eq!(node.get("/v1/jobs?name=tick").ok().await.as_array().unwrap().len(), 1);
    let fire = |key: &'static str| call(&node, Method::POST, &at(&entry, "/fire")).header("idempotency-key", key);
    let now = fire("one").ok().await;
    job_is(&node, now["id"].as_str().unwrap(), "completed").await;
    assert_eq!(fire("one").ok().await["id"], now["id"], "the same call is the same job");
    assert_ne!(fire("two").ok().await["id"], now["id"]);
}

async fn missed_slots_are_caught_up_with(world: Arc<World>) {
    let node = world.node();
    for (name, policy, max, wanted) in [("all", "all", 3, 3), ("skip", "skip", 3, 0), ("last", "last", 3, 1)] {
        let body =
            json!({ "name": name, "schedule": "0 0 * * *", "catch_up": policy, "catch_up_max": max, "enabled": false, "queue": name });
        let entry = create(&node, body).await;
        let next = entry["next_run_at"].clone();
        due_since(&world, &entry, minutes_ago(60 * 24 * 30)).await;
        until(&node, &at(&entry, ""), |entry| entry["next_run_at"] == next).await;
        let jobs = node.get(&format!("/v1/jobs?queue={name}")).ok().await;
        assert_eq!(jobs.as_array().unwrap().len(), wanted, "{policy}: {jobs}");
    }
}

async fn times_of_a_disabled_entry_are_skipped(world: Arc<World>) {
    let node = world.node();
    for policy in ["all", "last", "skip"] {
        let body = json!({ "name": policy, "schedule": "0 0 * * *", "catch_up": policy, "enabled": false, "queue": "q" });
        let entry = create(&node, body).await;
        let next = entry["next_run_at"].clone();
        for by_route in [true, false] {
            next_is(&world, &entry, minutes_ago(60 * 24 * 30), false).await;
            let on = if by_route {
                call(&node, Method::POST, &at(&entry, "/enable")).ok().await
            } else {
                call(&node, Method::PUT, &at(&entry, "")).json(&json!({ "enabled": true })).ok().await
            };
            assert_eq!((&on["enabled"], &on["next_run_at"]), (&json!(true), &next), "{policy} {by_route}: {on}");
            call(&node, Method::POST, &at(&entry, "/disable")).ok().await;
        }
    }
    assert_eq!(node.get("/v1/jobs?queue=q").ok().await, json!([]));
}

async fn a_slot_is_passed_over_while_the_job_before_runs(world: Arc<World>) {
    let node = world.node();
    call(&node, Method::PUT, "/v1/queues/held").json(&json!({ "paused": true })).ok().await;
    let body = json!({ "name": "held", "schedule": "* * * * *", "overlap": "skip", "catch_up": "all", "queue": "held", "enabled": false });
    let entry = create(&node, body).await;
    due_since(&world, &entry, minutes_ago(5)).await;
    let fired = until(&node, &at(&entry, ""), |entry| entry["last_job_id"].is_string()).await;
    let jobs = node.get("/v1/jobs?queue=held").ok().await;
    assert_eq!((jobs.as_array().unwrap().len(), &jobs[0]["id"]), (1, &fired["last_job_id"]), "{jobs}");
}

async fn wrong_entries_are_refused(world: Arc<World>) {
    let node = world.node();
    for (body, pointers) in [
        (json!({}), vec!["/name", "/schedule"]),
        (json!({ "name": "x", "schedule": "@daily", "job_name": "" }), vec!["/job_name"]),
        (json!({ "name": "x", "schedule": "61 * * * *" }), vec!["/schedule"]),
        (json!({ "name": "x", "schedule": "61 * * * *", "timezone": "Mars/Olympus" }), vec!["/schedule", "/timezone"]),
        (json!({ "name": "x", "schedule": "*/90 * * * *" }), vec!["/schedule"]),
        (json!({ "name": "x", "schedule": "@every 1ms" }), vec!["/schedule"]),
        (json!({ "name": "x", "schedule": "0 0 30 2 *" }), vec!["/schedule"]),
        (json!({ "name": "x", "schedule": "@daily", "timezone": "Mars/Olympus" }), vec!["/timezone"]),
        (json!({ "name": "x", "schedule": "TZ=Mars/Olympus 0 0 * * *" }), vec!["/schedule"]),
        (json!({ "name": "x", "schedule": "@daily", "jitter_ms": 3_600_001, "catch_up_max": 0 }), vec!["/jitter_ms", "/catch_up_max"]),
        (json!({ "name": "x", "schedule": "@daily", "callback": { "url": "" } }), vec!["/callback/url"]),
        (json!({ "name": "workflow:zz/0", "schedule": "@daily" }), vec!["/name"]),
    ] {
        let refused = node.post("/v1/crons").json(&body).refused(400, "validation_failed").await;
        assert_eq!(refused.pointers(), pointers, "{body}");
    }
    assert_eq!(node.get("/v1/crons").ok().await, json!([]));
    let entry = create(&node, json!({ "name": "x", "schedule": "@daily", "job_name": "workflow:zz" })).await;
    let renamed =
        call(&node, Method::PUT, &at(&entry, "")).json(&json!({ "name": "workflow:zz/0" })).refused(400, "validation_failed").await;
    assert_eq!(renamed.pointers(), ["/name"]);
}
