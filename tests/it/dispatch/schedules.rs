//! Schedules: times that come, records that are run for, servers that die around a slot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::within;
use crate::support::world::{KEY, Kind, Node, World};

on_both!(
    a_schedule_fires_at_its_times,
    a_schedule_fires_once_at_a_time,
    every_record_of_a_type_has_its_execution,
    a_schedule_is_paused_resumed_and_fired_by_hand,
    a_slot_is_fired_once_whoever_sees_it,
    times_that_passed_are_one,
    wrong_schedules_are_refused_at_the_place,
    what_cannot_be_run_is_told,
);

fn call(node: &Node, method: Method, path: &str) -> crate::support::call::Call {
    node.bare(method, path).bearer(KEY)
}

async fn flow(node: &Node, prompt: &str) -> Value {
    let step = json!({ "id": "a", "type": "prompt", "config": { "model": "local/echo", "userPrompt": prompt } });
    node.post("/v1/flows").json(&json!({ "name": "Nightly", "steps": [step] })).ok().await["id"].clone()
}

async fn create(node: &Node, body: Value) -> Value {
    node.post("/v1/schedules").json(&body).ok().await
}

fn every_second() -> Value {
    json!({ "type": "recurring", "cron": "* * * * * *" })
}

fn in_a_year() -> Value {
    json!({ "type": "one_time", "runAt": "2099-01-01T00:00:00Z" })
}

/// The schedule's firings, newest first, as soon as there are so many.
async fn firings(node: &Node, id: &Value, count: usize) -> Vec<Value> {
    let wait = async {
        loop {
            let found = call(node, Method::GET, &format!("/v1/schedules/{}/runs", id.as_str().unwrap())).ok().await;
            let found = found["data"].as_array().unwrap().clone();
            if found.len() >= count {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    within(wait).await
}

fn runs(firing: &Value) -> Vec<String> {
    firing["executionIds"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// What an execution said, once it has ended.
async fn said(node: &Node, run: &str) -> String {
    let mut reader = node.events(run, None).await;
    let end = within(reader.until(|frame| frame.is_terminal())).await;
    assert_eq!(end.data["success"], true, "{end:?}");
    end.data["finalOutput"].as_str().unwrap_or_default().to_owned()
}

async fn a_schedule_fires_at_its_times(world: Arc<World>) {
    let node = world.node();
    let flow = flow(&node, "say {{_schedule.cron}} {{_schedule.timezone}} {{greeting}}").await;
    let made =
        create(&node, json!({ "name": "Often", "target": { "flowId": flow }, "trigger": every_second(), "inputs": { "greeting": "hi" } }))
            .await;
    assert_eq!((&made["status"], &made["trigger"]["timezone"]), (&json!("active"), &json!("UTC")));
    let fired = firings(&node, &made["id"], 2).await;
    let stats = call(&node, Method::GET, &format!("/v1/schedules/{}/stats", made["id"].as_str().unwrap())).ok().await;
    assert!(stats["runs"].as_u64() >= Some(2) && stats["executions"] == stats["runs"] && stats["failedRuns"] == 0, "{stats}");
    let slots: Vec<&str> = fired.iter().map(|firing| firing["slot"].as_str().unwrap()).collect();
    assert!(slots.windows(2).all(|pair| pair[0] > pair[1]) && slots.iter().all(|slot| slot.ends_with(".000Z")), "{slots:?}");
    assert_eq!(said(&node, &runs(&fired[0])[0]).await, "* * * * * * UTC hi");
    // Firings are forgotten after a month.
    let swept = node.with_state(|state| async move {
        let month = state.clock.now().after(Duration::from_secs(31 * 24 * 3_600));
        dispatch::http::dispatch::tidy(&state.store, month).await.unwrap()
    });
    assert!(swept.await >= 2);
    let read = call(&node, Method::GET, &format!("/v1/schedules/{}", made["id"].as_str().unwrap())).ok().await;
    assert!(read["lastRunAt"].as_str().is_some() && read["nextRunAt"].as_str() > read["lastRunAt"].as_str(), "{read}");
    let preview = call(&node, Method::GET, &format!("/v1/schedules/{}/preview", made["id"].as_str().unwrap())).ok().await;
    assert_eq!(preview["data"].as_array().unwrap().len(), 10);
}

async fn a_schedule_fires_once_at_a_time(world: Arc<World>) {
    let node = world.node();
    let agent = json!({ "name": "Clerk", "config": { "model": "local/echo" } });
    let agent = node.post("/v1/agents").json(&agent).ok().await["id"].clone();
    let soon = node.with_state(|state| async move { state.clock.now().after(Duration::from_millis(300)).to_string() }).await;
    let ask = json!([{ "role": "user", "content": "say once" }]);
    let made =
        create(&node, json!({ "target": { "agentId": agent }, "trigger": { "type": "one_time", "runAt": soon }, "messages": ask })).await;
    let fired = firings(&node, &made["id"], 1).await;
    assert_eq!((fired.len(), &fired[0]["slot"]), (1, &made["nextRunAt"]));
    assert_eq!(said(&node, &runs(&fired[0])[0]).await, "once");
    let read = async || call(&node, Method::GET, &format!("/v1/schedules/{}", made["id"].as_str().unwrap())).ok().await;
    let done = async {
        while read().await["status"] != "completed" {
            tokio::task::yield_now().await;
        }
    };
    within(done).await;
    assert_eq!(read().await["nextRunAt"], Value::Null);
}

async fn every_record_of_a_type_has_its_execution(world: Arc<World>) {
    let node = world.node();
    let flow = flow(&node, "say {{_record.name}} {{_record.metadata.size}}").await;
    for name in ["a", "b", "c"] {
        node.post("/v1/records").json(&json!({ "type": "shop", "name": name, "metadata": { "size": name.len() } })).ok().await;
    }
    node.post("/v1/records").json(&json!({ "type": "other", "name": "x" })).ok().await;
    let made = create(&node, json!({ "target": { "flowId": flow, "recordType": "shop" }, "trigger": in_a_year() })).await;
    let fired = node.post(&format!("/v1/schedules/{}/run", made["id"].as_str().unwrap())).ok().await;
    assert_eq!((&fired["executionCount"], &fired["slot"], &fired["error"]), (&json!(3), &Value::Null, &Value::Null));
    let mut told = BTreeSet::new();
    for run in runs(&fired) {
        told.insert(said(&node, &run).await);
    }
    assert_eq!(told, ["a 1", "b 1", "c 1"].map(str::to_owned).into());
}

async fn a_schedule_is_paused_resumed_and_fired_by_hand(world: Arc<World>) {
    let node = world.node();
    let flow = flow(&node, "say hi").await;
    let made = create(&node, json!({ "target": { "flowId": flow }, "trigger": every_second() })).await;
    let at = format!("/v1/schedules/{}", made["id"].as_str().unwrap());
    firings(&node, &made["id"], 1).await;
    // It may fire in the very moment; then the change is repeated, as the refusal says.
    let pause = async {
        loop {
            let answer = node.post(&format!("{at}/pause")).send().await;
            if answer.status == 200 {
                return answer.json();
            }
            answer.refused(409, "schedule_changed");
        }
    };
    let paused = within(pause).await;
    assert_eq!((&paused["status"], &paused["nextRunAt"]), (&json!("paused"), &Value::Null));
    let before = firings(&node, &made["id"], 1).await.len();
    node.post(&format!("{at}/run")).ok().await;
    let due = node.with_state(|state| async move {
        state.store.due_documents("schedule", state.clock.now().after(Duration::from_secs(3_600)), &[], 10).await.unwrap().len()
    });
    assert_eq!(due.await, 0, "a paused schedule is never due");
    let resumed = node.post(&format!("{at}/resume")).ok().await;
    assert_eq!(resumed["status"], "active");
    firings(&node, &made["id"], before + 2).await;
    let changed = json!({ "trigger": in_a_year(), "name": "Later" });
    let change = async {
        loop {
            let answer = call(&node, Method::PUT, &at).json(&changed).send().await;
            if answer.status == 200 {
                return answer.json();
            }
            answer.refused(409, "schedule_changed");
        }
    };
    let changed = within(change).await;
    assert_eq!(
        (&changed["nextRunAt"], &changed["name"], &changed["target"]["flowId"]),
        (&json!("2099-01-01T00:00:00.000Z"), &json!("Later"), &flow)
    );
    call(&node, Method::DELETE, &at).ok().await;
    call(&node, Method::GET, &at).refused(404, "not_found").await;
}

async fn a_slot_is_fired_once_whoever_sees_it(world: Arc<World>) {
    let node = world.node();
    let flow = flow(&node, "say hi").await;
    let other = if world.kind == Kind::Postgres { Some(world.start().await) } else { None };
    let made = create(&node, json!({ "target": { "flowId": flow }, "trigger": every_second() })).await;
    let fired = firings(&node, &made["id"], 4).await;
    let slots: BTreeSet<&str> = fired.iter().map(|firing| firing["slot"].as_str().unwrap()).collect();
    assert_eq!(slots.len(), fired.len(), "no slot twice");
    // The server dies; whatever it was doing about the slot is done once.
    if let Some(other) = other {
        other.kill().await;
    }
    let node = world.crash().await;
    let fired = firings(&node, &made["id"], fired.len() + 2).await;
    let slots: BTreeSet<&str> = fired.iter().map(|firing| firing["slot"].as_str().unwrap()).collect();
    assert_eq!(slots.len(), fired.len(), "no slot twice");
    let all: Vec<String> = fired.iter().flat_map(runs).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "no execution of two slots");
    let kept = call(&node, Method::GET, "/v1/executions?limit=200").ok().await["data"].as_array().unwrap().len();
    let now = firings(&node, &made["id"], fired.len()).await.len();
    assert!(kept <= now + 1, "{kept} executions of {now} firings: one slot may be between the two");
}

async fn times_that_passed_are_one(world: Arc<World>) {
    let node = world.node();
    let flow = flow(&node, "say hi").await;
    let made = create(&node, json!({ "target": { "flowId": flow }, "trigger": { "type": "recurring", "cron": "0 0 * * *" } })).await;
    // As if every server had been away for days.
    let id = made["id"].as_str().unwrap().strip_prefix("sched_").unwrap().to_owned();
    node.with_state(|state| async move {
        let tenant = state.store.list_tenants().await.unwrap()[0].id;
        let row = state.store.find_document(tenant, "schedule", &id).await.unwrap().unwrap();
        let mut body: Value = serde_json::from_str(&row.body).unwrap();
        let long_ago = dispatch::clock::Timestamp::from_millis(1_700_000_000_000);
        body["next"] = json!(long_ago);
        let row = dispatch::store::DocumentRow { version: row.version + 1, due_at: Some(long_ago), body: body.to_string(), ..row };
        assert!(state.store.replace_document(tenant, "schedule", row).await.unwrap());
    })
    .await;
    let fired = firings(&node, &made["id"], 1).await;
    assert_eq!(fired[0]["slot"], "2023-11-14T22:13:20.000Z");
    let after = async {
        loop {
            let read = call(&node, Method::GET, &format!("/v1/schedules/{}", made["id"].as_str().unwrap())).ok().await;
            if read["lastRunAt"] == fired[0]["slot"] {
                return read;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(within(after).await["nextRunAt"], made["nextRunAt"], "the next time is in the future");
    assert_eq!(firings(&node, &made["id"], 1).await.len(), 1);
}

async fn wrong_schedules_are_refused_at_the_place(world: Arc<World>) {
    let node = world.node();
    let flow = flow(&node, "say hi").await;
    let refused = async |body: Value| node.post("/v1/schedules").json(&body).refused(422, "validation_failed").await.pointers();
    assert_eq!(refused(json!({})).await, ["/target", "/trigger"]);
    let target = json!({ "flowId": flow });
    for (trigger, at) in [
        (json!({ "type": "recurring", "cron": "61 * * * *" }), "/trigger/cron"),
        (json!({ "type": "recurring", "cron": "0 0 30 2 *" }), "/trigger/cron"),
        (json!({ "type": "recurring", "cron": "* * * * *", "timezone": "Mars/Olympus" }), "/trigger/timezone"),
        (json!({ "type": "one_time", "runAt": "2001-01-01T00:00:00Z" }), "/trigger/runAt"),
        (json!({ "type": "sometimes" }), "/trigger"),
        (json!({ "type": "recurring" }), "/trigger"),
    ] {
        let pointers = refused(json!({ "target": target, "trigger": trigger })).await;
        assert!(pointers[0].starts_with(at), "{trigger}: {pointers:?}");
    }
    let both = json!({ "type": "recurring", "cron": "61 * * * *", "timezone": "Mars/Olympus" });
    assert_eq!(refused(json!({ "target": target, "trigger": both })).await, ["/trigger/cron", "/trigger/timezone"]);
    assert_eq!(refused(json!({ "target": {}, "trigger": every_second() })).await, ["/target"]);
    let missing = json!({ "target": { "flowId": "flow_01h455vb4pex5vsknk084sn02q" }, "trigger": every_second() });
    assert_eq!(refused(missing).await, ["/target/flowId"]);
    let agent = node.post("/v1/agents").json(&json!({ "name": "a", "model": "local/echo" })).ok().await["id"].clone();
    assert_eq!(refused(json!({ "target": { "agentId": agent }, "trigger": every_second() })).await, ["/messages"]);
    assert_eq!(refused(json!({ "name": "", "target": target, "trigger": every_second() })).await, ["/name"]);
}

async fn what_cannot_be_run_is_told(world: Arc<World>) {
    let node = world.node();
    let flow = flow(&node, "say hi").await;
    let made = create(&node, json!({ "target": { "flowId": flow }, "trigger": in_a_year() })).await;
    call(&node, Method::DELETE, &format!("/v1/flows/{}", flow.as_str().unwrap())).ok().await;
    let fired = node.post(&format!("/v1/schedules/{}/run", made["id"].as_str().unwrap())).ok().await;
    assert_eq!(fired["executionCount"], 0);
    assert!(fired["error"].as_str().unwrap().contains("no such flow"), "{fired}");
}
