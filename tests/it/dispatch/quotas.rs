//! Budgets and rates of keys and tenants, on one server and on two, and the usage that is read from the database.

use std::sync::Arc;

use dispatch::model::event::Rest;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, fails, flow, set};
use crate::support::app::{within, within_minutes};
use crate::support::call::{Answer, Call};
use crate::support::world::{Node, World, until};

on_both!(
    fifty_at_once_stay_below_a_budget,
    usage_is_the_sum_of_the_executions,
    a_killed_server_neither_loses_nor_doubles_usage,
    executions_at_the_same_time_are_limited,
    a_budget_of_the_tenant_holds_for_every_key,
    executions_are_found_by_their_key,
    a_key_pays_for_what_it_starts_of_others,
);
on_one!(Postgres: two_servers_share_a_budget, two_servers_share_a_rate);

/// Tokens that a call of this model uses at the fake provider.
const TOKENS_OF_A_CALL: u64 = 105;
const MODEL: &str = "gpt-5.4-mini";

fn priced(id: &str) -> Value {
    json!({ "id": id, "type": "prompt", "config": { "model": format!("openai/{MODEL}"), "userPrompt": "x", "maxTokens": 100 } })
}

/// A key with these limits: its id and its text.
async fn limited_key(node: &Node, limits: Value) -> (String, String) {
    let mut body = json!({ "name": "limited", "scopes": ["*"] });
    body.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    let made = node.post("/v1/api-keys").json(&body).ok().await;
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

fn call(node: &Node, key: &str, body: &Value) -> Call {
    let mut body = body.clone();
    body["streamResponse"] = json!(false);
    node.bare(Method::POST, "/v1/dispatch").bearer(key).json(&body)
}

async fn calls_made(world: &World) -> u64 {
    world.stats().await["requests"][MODEL].as_u64().unwrap_or(0)
}

async fn used_tokens(node: &Node, id: &str) -> u64 {
    let status = node.get(&format!("/v1/api-keys/{id}/limits")).ok().await;
    status["budgets"][0]["usedTokens"].as_u64().unwrap()
}

/// Sends fifty calls at once to these servers in turn; none may bring the key above its cap.
async fn race(world: &World, nodes: &[Arc<Node>]) {
    let cap = 1_500;
    let (id, key) = limited_key(&nodes[0], json!({ "budgets": [{ "period": "total", "maxTokens": cap }] })).await;
    let body = flow(json!([priced("a")]));
    let sent = (0..50).map(|turn| call(&nodes[turn % nodes.len()], &key, &body).send());
    let answers: Vec<Answer> = within_minutes(join_all(sent)).await;
    let mut done = 0;
    for answer in answers {
        if answer.status == 402 {
            let refused = answer.refused(402, "budget_exceeded");
            assert!(refused.json()["next"].as_str().unwrap().contains("raise it"), "{}", refused.text());
            continue;
        }
        let told = answer.json();
        assert_eq!(answer.status, 200, "{told}");
        match told["success"].as_bool() {
            Some(true) => done += 1,
            _ => assert!(told.to_string().contains("budget_exceeded"), "{told}"),
        }
    }
    let calls = calls_made(world).await;
    assert_eq!(calls, done, "each call that was made came out well");
    assert!(calls > 0 && calls * TOKENS_OF_A_CALL <= cap, "{calls} calls under a cap of {cap} tokens");
    assert_eq!(used_tokens(&nodes[0], &id).await, calls * TOKENS_OF_A_CALL, "what was set aside and not used came back");
}

async fn fifty_at_once_stay_below_a_budget(world: Arc<World>) {
    race(&world, &[world.node()]).await;
}

async fn two_servers_share_a_budget(world: Arc<World>) {
    let other = world.start().await;
    race(&world, &[world.node(), other]).await;
}

async fn two_servers_share_a_rate(world: Arc<World>) {
    let nodes = [world.node(), world.start().await];
    let (_, key) = limited_key(&nodes[0], json!({ "rateLimit": { "requestsPerMinute": 10 } })).await;
    let body = flow(json!([set("a", json!(1))]));
    let sent = (0..30).map(|turn| call(&nodes[turn % 2], &key, &body).send());
    let answers: Vec<Answer> = within_minutes(join_all(sent)).await;
    let accepted = answers.iter().filter(|answer| answer.status == 200).count();
    // The calls may lie in two minutes of the clock, not in three.
    assert!((10..=20).contains(&accepted), "{accepted} accepted");
    for answer in answers {
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("10"));
        if answer.status != 200 {
            let refused = answer.refused(429, "rate_limited");
            assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
            assert!(refused.header("retry-after").is_some() && refused.header("x-ratelimit-reset-requests").is_some());
        }
    }
}

async fn usage(node: &Node, query: &str) -> Vec<Value> {
    let page = node.get(&format!("/v1/usage?{query}")).ok().await;
    page["data"].as_array().unwrap().clone()
}

fn near(value: &Value, wanted: f64) -> bool {
    (value.as_f64().unwrap() - wanted).abs() < 1e-12
}

async fn usage_is_the_sum_of_the_executions(world: Arc<World>) {
    let node = world.node();
    let (id, key) = limited_key(&node, json!({})).await;
    for body in [flow(json!([priced("a"), priced("b")])), flow(json!([priced("a"), fails("bad")])), flow(json!([set("x", json!(1))]))] {
        call(&node, &key, &body).ok().await;
    }
    let rows = usage(&node, &format!("groupBy=key,model&keyId={id}")).await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    let (of_runs, of_model) = (&rows[0], &rows[1]);
    assert!(rows.iter().all(|row| row["keyId"] == id.as_str() && row["day"].is_null()), "{rows:?}");
    assert_eq!((&of_runs["model"], &of_runs["executions"], &of_runs["failures"]), (&Value::Null, &json!(3), &json!(1)));
    assert_eq!((&of_model["model"], &of_model["requests"]), (&json!(format!("openai/{MODEL}")), &json!(3)));
    assert_eq!((&of_model["inputTokens"], &of_model["cachedTokens"], &of_model["outputTokens"]), (&json!(300), &json!(120), &json!(15)));
    let list = node.get(&format!("/v1/executions?keyId={id}")).ok().await;
    let costs: f64 = list["data"].as_array().unwrap().iter().map(|run| run["usage"]["cost"].as_f64().unwrap()).sum();
    assert!(costs > 0.0 && near(&of_model["cost"], costs), "{of_model} is not {costs}");
    // All of it in one group, as a table, and in pages.
    let all = usage(&node, &format!("groupBy=&keyId={id}")).await;
    assert_eq!((all.len(), &all[0]["requests"], &all[0]["executions"]), (1, &json!(3), &json!(3)));
    let table = node.get(&format!("/v1/usage?groupBy=model&keyId={id}")).header("accept", "text/csv").send().await;
    assert_eq!((table.status, table.header("content-type")), (200, Some("text/csv; charset=utf-8")));
    assert_eq!(table.text().lines().count(), 3, "{}", table.text());
    assert!(table.text().starts_with("day,keyId,flowId,"), "{}", table.text());
    let first = node.get(&format!("/v1/usage?groupBy=model&keyId={id}&limit=1")).ok().await;
    let cursor = first["pagination"]["nextCursor"].as_str().unwrap();
    let second = node.get(&format!("/v1/usage?groupBy=model&keyId={id}&limit=1&cursor={cursor}")).ok().await;
    assert_eq!((&second["data"][0]["model"], &second["pagination"]["hasMore"]), (&of_model["model"], &json!(false)));
}

async fn a_killed_server_neither_loses_nor_doubles_usage(world: Arc<World>) {
    let node = world.node();
    let body = flow(json!([priced("a"), ask("slow", "repeat 60 tick\nslow 20")]));
    let mut reader = node.open(&body).await;
    let frame =
        reader.until(|frame| frame.kind == "text_delta" && frame.data["delta"].as_str().is_some_and(|text| text.contains("tick"))).await;
    let run = frame.data["executionId"].as_str().unwrap().to_owned();
    let node = world.crash().await;
    assert_eq!(node.rests(&run).await, Rest::End);
    let shown = node.execution(&run).await;
    assert_eq!(shown["success"], true, "{shown}");
    let rows = usage(&node, "groupBy=").await;
    let own = &shown["usage"];
    assert_eq!(
        (&rows[0]["inputTokens"], &rows[0]["outputTokens"], &rows[0]["requests"], &rows[0]["executions"]),
        (&own["inputTokens"], &own["outputTokens"], &own["modelCalls"], &json!(1))
    );
    assert!(near(&rows[0]["cost"], own["cost"].as_f64().unwrap()), "{} is not {own}", rows[0]);
}

async fn executions_at_the_same_time_are_limited(world: Arc<World>) {
    let node = world.node();
    let (_, key) = limited_key(&node, json!({ "rateLimit": { "concurrent": 2 } })).await;
    let slow = flow(json!([ask("slow", "repeat 1000 word\nslow 100")]));
    let open = async || node.reader(node.bare(Method::POST, "/v1/dispatch").bearer(&key).json(&slow)).await;
    let (first, second) = (open().await, open().await);
    assert_eq!((first.status, second.status), (200, 200));
    let quick = flow(json!([set("a", json!(1))]));
    let refused = call(&node, &key, &quick).refused(429, "too_many_executions").await;
    assert!(refused.header("retry-after").is_some());
    // Another key has its own room.
    node.dispatch(&quick).await;
    let list = node.get("/v1/executions?status=running").ok().await;
    let run = list["data"][0]["id"].as_str().unwrap().to_owned();
    node.post(&format!("/v1/executions/{run}/cancel")).ok().await;
    until(&node, &format!("/v1/executions/{run}"), |run| run["status"] == "cancelled").await;
    call(&node, &key, &quick).ok().await;
}

async fn a_budget_of_the_tenant_holds_for_every_key(world: Arc<World>) {
    let node = world.node();
    let put = |limits: Value| node.bare(Method::PUT, "/v1/limits").bearer(crate::support::world::KEY).json(&limits);
    let body = flow(json!([priced("a")]));
    node.dispatch(&body).await;
    // What was used before counts.
    let status = put(json!({ "budgets": [{ "period": "month", "maxTokens": TOKENS_OF_A_CALL }] })).ok().await;
    assert_eq!((&status["keyId"], &status["budgets"][0]["usedTokens"]), (&Value::Null, &json!(TOKENS_OF_A_CALL)));
    assert!(status["budgets"][0]["resetsAt"].is_string(), "{status}");
    let (_, other) = limited_key(&node, json!({})).await;
    for refused in [node.post("/v1/dispatch").json(&body), call(&node, &other, &body)] {
        let refused = refused.refused(402, "budget_exceeded").await;
        assert!(refused.header("retry-after").is_some(), "{}", refused.text());
    }
    assert_eq!(calls_made(&world).await, 1, "no second call was made");
    // One that covers the start, and not the second call.
    put(json!({ "budgets": [{ "period": "month", "maxTokens": 600 }] })).ok().await;
    let told = within(call(&node, &other, &flow(json!([priced("a"), priced("b"), priced("c"), priced("d"), priced("e")]))).ok()).await;
    assert!(told["success"] == false && told.to_string().contains("budget_exceeded"), "{told}");
    assert!(calls_made(&world).await * TOKENS_OF_A_CALL <= 600);
    put(json!({})).ok().await;
    node.dispatch(&body).await;
}

async fn executions_are_found_by_their_key(world: Arc<World>) {
    let node = world.node();
    let (id, key) = limited_key(&node, json!({})).await;
    let quick = flow(json!([set("a", json!(1))]));
    node.dispatch(&quick).await;
    let own = call(&node, &key, &quick).ok().await;
    let list = node.get(&format!("/v1/executions?keyId={id}")).ok().await;
    let ids: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|run| &run["id"]).collect();
    assert_eq!(ids, [&own["executionId"]]);
    let shown = node.execution(own["executionId"].as_str().unwrap()).await;
    assert_eq!(shown["keyId"], id.as_str(), "{shown}");
}

async fn a_key_pays_for_what_it_starts_of_others(world: Arc<World>) {
    let node = world.node();
    let saved = node.post("/v1/flows").json(&json!({ "name": "priced", "steps": [priced("a")] })).ok().await;
    let trigger = json!({ "type": "recurring", "cron": "0 0 1 1 *" });
    let schedule = node.post("/v1/schedules").json(&json!({ "target": { "flowId": saved["id"] }, "trigger": trigger })).ok().await;
    let cron = json!({ "name": "yearly", "schedule": "@yearly", "job_name": "priced", "max_retries": 0 });
    let cron = node.post("/v1/crons").json(&cron).ok().await;
    let run = node.post("/v1/workflows/priced/runs").json(&json!({ "input": {} })).ok().await;
    let run = run["id"].as_str().unwrap();
    until(&node, &format!("/v1/workflows/runs/{run}"), |run| run["state"] == "completed").await;
    assert_eq!(calls_made(&world).await, 1);

    let (id, key) = limited_key(&node, json!({ "budgets": [{ "period": "total", "maxTokens": 0 }] })).await;
    let post = |path: String| node.bare(Method::POST, &path).bearer(&key);
    let again = json!({ "from_step": "a" });
    post(format!("/v1/workflows/runs/{run}/replay")).json(&again).refused(402, "budget_exceeded").await;
    post(format!("/v1/schedules/{}/run", schedule["id"].as_str().unwrap())).ok().await;
    post(format!("/v1/crons/{}/fire", cron["id"].as_str().unwrap())).ok().await;
    let both_failed = |list: &Value| list["data"].as_array().is_some_and(|runs| runs.len() == 2);
    until(&node, &format!("/v1/executions?keyId={id}&status=failed"), both_failed).await;
    assert_eq!(calls_made(&world).await, 1, "no model was asked");
}
