//! Runs: in order, at once, again, with what services are told and with what they say.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{begin, call, get, post, register, register_whole, run, run_is, told};
use crate::support::sink::Reply;
use crate::support::world::{World, until};

on_both!(
    the_published_order_runs_as_printed,
    a_failed_attempt_is_made_again_under_the_same_key,
    a_run_is_waited_for_or_not,
    repeated_headers_of_a_call_all_count,
    responses_respect_status_and_reserved_headers,
    the_same_key_is_the_same_run,
    a_crash_does_not_repeat_what_is_done,
    services_steer_the_run,
    calls_are_signed,
    replies_are_judged,
    services_continue_the_caller_s_trace,
    a_run_tells_everything_in_order
);

/// The seed's own document, its hosts in this world.
fn order(world: &World) -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/workflows/process-order.json")).unwrap();
    let text = text.replace("https://api.example.com", &world.sink.url("")).replace("https://api.stripe.com", &world.sink.url("/stripe"));
    serde_json::from_str(&text).unwrap()
}

async fn the_published_order_runs_as_printed(world: Arc<World>) {
    let node = world.node();
    let put = |value: &'static str| call(&node, Method::PUT, "/api/secrets/STRIPE_KEY").json(&json!({ "value": value }));
    assert_eq!(put("sk_canary_stripe_1").send().await.status, 201);
    assert_eq!(put("sk_canary_stripe_2").send().await.status, 200);
    register_whole(&node, order(&world)).await;
    world.sink.on("/validate", [Reply::json(json!({ "amount": 1_200, "said": "sk_canary_stripe_2" }))]);
    world.sink.on("/stripe/v1/charges", [Reply::json(json!({ "id": "ch_1" }))]);
    let answer = run(&node, "process-order", &json!({ "id": "o-7", "items": [1, 2] })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let view = answer.json();
    assert_eq!((&view["status"], &view["workflow"], &view["version"]), (&json!("completed"), &json!("process-order"), &json!(1)), "{view}");
    let statuses: Vec<&Value> = ["validate", "charge", "notify"].iter().map(|step| &view["steps"][step]["status"]).collect();
    assert_eq!(statuses, ["completed"; 3]);
    let id = view["id"].as_str().unwrap();
    assert_eq!(answer.header("dispatched-run"), Some(id));
    assert_eq!(world.sink.seen("/validate")[0].json(), json!({ "id": "o-7", "items": [1, 2] }), "a bare template keeps its type");
    let charge = &world.sink.seen("/stripe/v1/charges")[0];
    assert_eq!(charge.json(), json!({ "amount": 1_200 }));
    assert_eq!(charge.header("authorization"), "Bearer sk_canary_stripe_2");
    for (name, wanted) in [
        ("dispatched-run", id.to_owned()),
        ("dispatched-step", "charge".into()),
        ("dispatched-attempt", "1".into()),
        ("idempotency-key", format!("{id}/charge")),
        ("dispatched-workflow", "process-order".into()),
    ] {
        assert_eq!(charge.header(name), wanted, "{name}");
    }
    assert_eq!(world.sink.seen("/notify")[0].json(), json!({ "order_id": "o-7", "charge_id": "ch_1" }));
    assert!(world.sink.seen("/stripe/v1/refunds").is_empty());
    let events = node.get(&format!("/api/runs/{id}/events")).ok().await.to_string();
    assert!(!events.contains("canary") && !view.to_string().contains("canary"), "{view} {events}");
    let names = node.get("/api/secrets").ok().await;
    assert_eq!(names, json!({ "secrets": [{ "name": "STRIPE_KEY" }] }));
    assert_eq!(call(&node, Method::DELETE, "/api/secrets/STRIPE_KEY").send().await.status, 204);
    call(&node, Method::DELETE, "/api/secrets/STRIPE_KEY").refused(404, "not_found").await;
    call(&node, Method::PUT, "/api/secrets/lower").json(&json!({ "value": "x" })).refused(400, "invalid_name").await;
    let without = run(&node, "process-order", &json!({ "id": "o-8" })).await;
    assert_eq!((without.status, without.json()["code"].clone()), (502, json!("secret_missing")), "{}", without.text());
}

async fn a_failed_attempt_is_made_again_under_the_same_key(world: Arc<World>) {
    let node = world.node();
    let mut step = post(&world, "/flaky", &json!({ "n": 1 }), &[]);
    step["retry"] = json!({ "on": [500], "max": 3, "delay": "1ms" });
    register(&node, "retries", json!({ "call": step })).await;
    world.sink.on("/flaky", [Reply::status(500, json!({})), Reply::json(json!({ "ok": 1 }))]);
    let view = run(&node, "retries", &json!({})).await.json();
    assert_eq!((&view["status"], &view["steps"]["call"]["attempts"]), (&json!("completed"), &json!(2)), "{view}");
    let seen = world.sink.seen("/flaky");
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    assert_eq!([seen[0].header("dispatched-attempt"), seen[1].header("dispatched-attempt")], ["1", "2"]);
    // Statuses that the policy does not name are final, and so is the last attempt.
    world.sink.on("/flaky", [Reply::status(503, json!({}))]);
    let failed = run(&node, "retries", &json!({})).await;
    assert_eq!((failed.status, failed.json()["details"]["step"].clone()), (502, json!("call")), "{}", failed.text());
    assert_eq!(world.sink.seen("/flaky").len(), 3);
    world.sink.on("/flaky", [Reply::status(500, json!({}))]);
    assert_eq!(run(&node, "retries", &json!({})).await.status, 502);
    assert_eq!(world.sink.seen("/flaky").len(), 7, "one attempt and three more");
    // Waits that are longer than a moment pause the run, and it goes on by itself.
    world.sink.on("/flaky", [Reply::later(429, 3), Reply::json(json!({}))]);
    let view = run(&node, "retries", &json!({})).await.json();
    assert_eq!((&view["status"], &view["steps"]["call"]["attempts"]), (&json!("completed"), &json!(2)), "{view}");
}

async fn a_run_is_waited_for_or_not(world: Arc<World>) {
    let node = world.node();
    let document = json!({
        "name": "answers", "version": 3, "steps": { "a": get(&world, "/a") },
        "response": { "status": 201, "headers": { "x-said": "{{ steps.a.response.body.said }}" }, "body": { "got": "{{ trigger.query.q }}", "n": "{{ trigger.body.n }}" } },
    });
    register_whole(&node, document).await;
    world.sink.on("/a", [Reply::json(json!({ "said": "hello" }))]);
    let answer = call(&node, Method::POST, "/workflows/answers?q=x%20y").json(&json!({ "n": 4 })).send().await;
    assert_eq!((answer.status, answer.header("x-said")), (201, Some("hello")), "{}", answer.text());
    assert_eq!(answer.json(), json!({ "got": "x y", "n": 4 }));
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/a", [Reply::Gate(gate.clone())]);
    let early = call(&node, Method::POST, "/workflows/answers").header("prefer", "wait=0").json(&json!({})).send().await;
    assert_eq!(early.status, 202, "{}", early.text());
    let asked = call(&node, Method::POST, "/workflows/answers").header("prefer", "respond-async").json(&json!({})).send().await;
    assert_eq!((asked.status, asked.header("preference-applied")), (202, Some("respond-async")));
    let id = asked.json()["run_id"].as_str().unwrap().to_owned();
    assert_eq!(asked.header("location").unwrap(), format!("/api/runs/{id}"));
    world.sink.reached("/a", 3).await;
    let running = until(&node, &format!("/api/runs/{id}"), |run| run["current_steps"] == json!(["a"])).await;
    assert_eq!((&running["status"], &running["steps"]["a"]["status"]), (&json!("running"), &json!("running")), "{running}");
    gate.notify_one();
    gate.notify_one();
    let done = run_is(&node, &id, "completed").await;
    assert_eq!(done["result"]["status"], 201, "{done}");
    let list = node.get("/api/runs?workflow=answers&limit=2").ok().await;
    assert_eq!((list["runs"].as_array().unwrap().len(), &list["runs"][0]["id"]), (2, &json!(id)), "{list}");
    let rest = node.get(&format!("/api/runs?workflow=answers&cursor={}", list["next"].as_str().unwrap())).ok().await;
    assert_eq!((rest["runs"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null), "{rest}");
    assert_eq!(node.get("/api/runs?workflow=other").ok().await["runs"], json!([]));
    assert_eq!(node.get("/api/runs?status=failed").ok().await["runs"], json!([]));
    call(&node, Method::POST, "/workflows/nowhere").json(&json!({})).refused(404, "not_found").await;
    call(&node, Method::POST, "/workflows/answers").body("application/json", "{").refused(400, "invalid_json").await;
}

async fn repeated_headers_of_a_call_all_count(world: Arc<World>) {
    let node = world.node();
    let document = json!({
        "name": "headed", "version": 1, "steps": { "a": get(&world, "/a") },
        "response": { "body": { "tag": "{{ trigger.headers.xtag }}", "all": "{{ trigger.headers }}" } },
    });
    register_whole(&node, document).await;
    world.sink.on("/a", [Reply::json(json!({}))]);
    let call = call(&node, Method::POST, "/workflows/headed").header("xtag", "one").header("xtag", "two, three").header("xtag", "fünf");
    let answer = call.header("set-cookie", "a=1").header("cookie", "b=2").json(&json!({})).ok().await;
    assert_eq!(answer["tag"], "one, two, three, fünf", "{answer}");
    for hidden in ["set-cookie", "cookie", "authorization"] {
        assert_eq!(answer["all"].get(hidden), None, "{answer}");
    }
}

async fn responses_respect_status_and_reserved_headers(world: Arc<World>) {
    let node = world.node();
    let document = json!({
        "name": "empty", "version": 1, "steps": { "a": get(&world, "/a") },
        "response": {
            "status": "{{ trigger.body.status }}", "body": { "a": 1 },
            "headers": { "expr": "return { ['set-cookie'] = 'a=1', ['x-said'] = 'yes', ['content-security-policy'] = '*' }", "lang": "lua" },
        },
    });
    register_whole(&node, document).await;
    for (status, body) in [(204_u16, ""), (304, ""), (200, r#"{"a":1}"#)] {
        let answer = run(&node, "empty", &json!({ "status": status })).await;
        assert_eq!((answer.status, answer.text()), (status, body.to_owned()));
        assert_eq!(answer.header("content-length").is_some(), status == 200, "{status}");
        assert_eq!((answer.header("x-said"), answer.header("set-cookie")), (Some("yes"), None), "{status}");
        assert!(answer.header("content-security-policy").is_some_and(|policy| policy != "*"), "{status}");
    }
}

async fn the_same_key_is_the_same_run(world: Arc<World>) {
    let node = world.node();
    register(&node, "once", json!({ "a": post(&world, "/once", &json!({}), &[]) })).await;
    let start =
        |key: &'static str, n: u32| call(&node, Method::POST, "/workflows/once").header("idempotency-key", key).json(&json!({ "n": n }));
    let first = start("k", 1).send().await;
    let again = start("k", 1).send().await;
    assert_eq!((first.json()["id"].clone(), again.header("idempotency-replayed")), (again.json()["id"].clone(), Some("true")));
    start("k", 2).refused(422, "idempotency_key_reused").await;
    assert_ne!(start("l", 1).send().await.json()["id"], first.json()["id"]);
    assert_eq!(world.sink.seen("/once").len(), 2);
}

async fn a_crash_does_not_repeat_what_is_done(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/two", [Reply::Gate(gate.clone()), Reply::json(json!({ "ok": 2 }))]);
    let steps = json!({
        "one": post(&world, "/one", &json!({}), &[]), "two": post(&world, "/two", &json!({}), &["one"]), "three": post(&world, "/three", &json!({}), &["two"]),
    });
    register(&node, "crashes", steps).await;
    let id = begin(&node, "crashes", &json!({})).await;
    world.sink.reached("/two", 1).await;
    let node = world.crash().await;
    let done = run_is(&node, &id, "completed").await;
    assert_eq!(done["error"], Value::Null, "{done}");
    assert_eq!((world.sink.seen("/one").len(), world.sink.seen("/two").len(), world.sink.seen("/three").len()), (1, 2, 1));
    let two = world.sink.seen("/two");
    assert_eq!(two[0].header("idempotency-key"), two[1].header("idempotency-key"), "services tell the attempts of one step by it");
}

fn saying(headers: Vec<(&'static str, &str)>) -> Reply {
    Reply::Answer(200, headers.into_iter().map(|(name, value)| (name, value.to_owned())).collect(), "{}".into())
}

async fn services_steer_the_run(world: Arc<World>) {
    let node = world.node();
    let steps = json!({
        "a": post(&world, "/a", &json!({}), &[]), "b": post(&world, "/b", &json!({}), &["a"]), "c": post(&world, "/c", &json!({}), &["b"]),
    });
    register(&node, "steered", steps).await;
    let statuses = |view: &Value| ["a", "b", "c"].map(|step| view["steps"][step]["status"].as_str().unwrap().to_owned());
    world.sink.on("/a", [saying(vec![("dispatched-skip", "b, nowhere"), ("dispatched-log", "hm"), ("dispatched-other", "x")])]);
    let view = run(&node, "steered", &json!({})).await.json();
    assert_eq!(statuses(&view), ["completed", "skipped", "completed"], "{view}");
    let events = node.get(&format!("/api/runs/{}/events", view["id"].as_str().unwrap())).ok().await;
    let directive = events["events"].as_array().unwrap().iter().find(|event| event["type"] == "step.directive").unwrap().clone();
    assert_eq!(directive["data"], json!({ "skip": ["b", "nowhere"], "log": "hm", "ignored": ["dispatched-other"] }));
    world.sink.on("/a", [saying(vec![("dispatched-complete", "")])]);
    let view = run(&node, "steered", &json!({})).await.json();
    assert_eq!((&view["status"], statuses(&view)), (&json!("completed"), ["completed", "pending", "pending"].map(str::to_owned)), "{view}");
    world.sink.on("/a", [saying(vec![("dispatched-fail", "not today")])]);
    let failed = run(&node, "steered", &json!({})).await;
    assert_eq!((failed.status, &failed.json()["error"], &failed.json()["code"]), (502, &json!("not today"), &json!("failed_by_service")));
    world.sink.on("/a", [saying(vec![("dispatched-retry", "0")]), Reply::json(json!({}))]);
    let view = run(&node, "steered", &json!({})).await.json();
    assert_eq!((&view["status"], &view["steps"]["a"]["attempts"]), (&json!("completed"), &json!(2)), "{view}");
    world.sink.on("/a", [saying(vec![("dispatched-cancel", "")])]);
    let before = world.sink.seen("/b").len();
    let cancelled = run(&node, "steered", &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.json()["code"]), (502, &json!("cancelled")));
    assert_eq!(world.sink.seen("/b").len(), before, "nothing begins after that word");
    world
        .sink
        .on("/a", [Reply::Answer(503, vec![("dispatched-complete", String::new()), ("dispatched-wait", "paid".into())], String::new())]);
    let view = run(&node, "steered", &json!({})).await.json();
    assert_eq!(view["status"], "completed", "the stronger word counts, whatever the status: {view}");
    world.sink.on("/a", [saying(vec![("dispatched-wait", "paid; timeout=1h")])]);
    let waits = run(&node, "steered", &json!({})).await;
    assert_eq!(waits.status, 202, "{}", waits.text());
    let id = waits.json()["run_id"].as_str().unwrap().to_owned();
    assert_eq!(super::signal(&node, &id, "paid", &json!({ "by": "card" })).await.status, 202);
    let done = run_is(&node, &id, "completed").await;
    assert_eq!(done["steps"]["a"]["signal"]["body"], json!({ "by": "card" }), "{done}");
}

async fn calls_are_signed(world: Arc<World>) {
    let node = world.node();
    let secret = "signing-secret-of-a-tenant";
    call(&node, Method::PUT, "/api/secrets/DISPATCHED_SIGNING_SECRET").json(&json!({ "value": secret })).ok().await;
    register(&node, "signed", json!({ "a": post(&world, "/signed?x=1", &json!({ "n": 1 }), &[]) })).await;
    assert_eq!(run(&node, "signed", &json!({})).await.status, 200);
    let seen = &world.sink.seen("/signed")[0];
    let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(seen.body.as_bytes())));
    assert_eq!(seen.header("content-digest"), digest);
    let params = seen.header("signature-input").strip_prefix("dispatched=").unwrap();
    assert!(params.contains(";created=") && params.contains(";alg=\"hmac-sha256\"") && params.contains(";keyid=\""), "{params}");
    let names = params.trim_start_matches('(').split(')').next().unwrap();
    assert_eq!(names, r#""@method" "@target-uri" "content-digest" "content-type" "idempotency-key" "dispatched-run""#);
    let base = names
        .split(' ')
        .map(|name| name.trim_matches('"'))
        .map(|name| match name {
            "@method" => "\"@method\": POST\n".to_owned(),
            "@target-uri" => format!("\"@target-uri\": {}\n", world.sink.url("/signed?x=1")),
            name => format!("\"{name}\": {}\n", seen.header(name)),
        })
        .collect::<String>()
        + &format!("\"@signature-params\": {params}");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(base.as_bytes());
    assert_eq!(seen.header("signature"), format!("dispatched=:{}:", STANDARD.encode(mac.finalize().into_bytes())));
}

async fn replies_are_judged(world: Arc<World>) {
    let node = world.node();
    let document = json!({
        "name": "judged", "version": 1, "schemas": { "Reply": { "type": "object", "required": ["id"] } },
        "steps": { "a": { "request": { "url": world.sink.url("/judged") }, "response": { "schema": "Reply" }, "retry": { "max": 2, "delay": "1ms" } } },
    });
    register_whole(&node, document).await;
    let code = async || run(&node, "judged", &json!({})).await.json()["code"].clone();
    world.sink.on("/judged", [Reply::json(json!({ "name": 1 }))]);
    assert_eq!(code().await, "response_schema");
    assert_eq!(world.sink.seen("/judged").len(), 1, "it is not asked again");
    world.sink.on("/judged", [Reply::Answer(302, vec![("location", "/elsewhere".into())], String::new())]);
    assert_eq!(code().await, "http_status");
    assert!(world.sink.seen("/elsewhere").is_empty(), "redirects are not followed");
    world.sink.on("/judged", [Reply::Drop, Reply::status(408, json!({})), Reply::json(json!({ "id": 1 }))]);
    let view = run(&node, "judged", &json!({})).await.json();
    assert_eq!(view["steps"]["a"]["attempts"], 3, "{view}");
    world.sink.on("/judged", [Reply::status(400, json!({}))]);
    assert_eq!(code().await, "http_status");
    register(&node, "forbidden", json!({ "a": { "request": { "url": "http://10.1.2.3/x" } } })).await;
    assert_eq!(run(&node, "forbidden", &json!({})).await.json()["code"], "egress_blocked");
    register(&node, "texts", json!({ "a": get(&world, "/text"), "b": post(&world, "/echo", &json!("say {{ steps.a.response.body }} {{ steps.a.nothing }}!"), &["a"]) })).await;
    world.sink.on("/text", [Reply::text("{{ 1 }}")]);
    assert_eq!(run(&node, "texts", &json!({})).await.status, 200);
    let seen = &world.sink.seen("/echo")[0];
    assert_eq!(
        (seen.body.as_str(), seen.header("content-type")),
        ("say {{ 1 }} !", "text/plain; charset=utf-8"),
        "data is never a template"
    );
}

async fn services_continue_the_caller_s_trace(world: Arc<World>) {
    let node = world.node();
    let mut own = post(&world, "/own", &json!({}), &[]);
    own["request"]["headers"] = json!({ "traceparent": "the-document-s-own" });
    register(&node, "traced", json!({ "a": post(&world, "/traced", &json!({}), &[]), "b": own })).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    call(&node, Method::POST, "/workflows/traced").header("traceparent", parent).json(&json!({})).ok().await;
    let seen = world.sink.seen("/traced")[0].header("traceparent").to_owned();
    assert!(seen.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{seen}");
    assert_eq!(world.sink.seen("/own")[0].header("traceparent"), "the-document-s-own");
}

async fn a_run_tells_everything_in_order(world: Arc<World>) {
    let node = world.node();
    let mut flaky = post(&world, "/flaky", &json!({}), &["a"]);
    flaky["retry"] = json!({ "max": 1, "delay": "1ms" });
    flaky["request"]["headers"] = json!({ "authorization": "Bearer plain-text-canary", "x-other": "shown" });
    register(&node, "tells", json!({ "a": get(&world, "/a"), "b": flaky })).await;
    world.sink.on("/flaky", [Reply::status(503, json!({})), Reply::json(json!({}))]);
    let view = run(&node, "tells", &json!({ "id": 7 })).await.json();
    assert_eq!((&view["result"], &view["error"], &view["compensation"]), (&Value::Null, &Value::Null, &Value::Null), "{view}");
    assert!(["result", "error", "compensation", "completed_at", "last_event"].iter().all(|name| view.get(name).is_some()), "{view}");
    let id = view["id"].as_str().unwrap().to_owned();
    let wanted = [
        "run.created",
        "run.started",
        "step.started",
        "step.completed",
        "step.started",
        "step.failed",
        "step.retrying",
        "step.started",
        "step.completed",
        "run.completed",
    ];
    assert_eq!(told(&node, &id).await, wanted);
    let all = node.get(&format!("/api/runs/{id}/events")).ok().await;
    assert!(!all.to_string().contains("canary") && all.to_string().contains("shown"), "{all}");
    let events = all["events"].as_array().unwrap();
    assert_eq!(events[0]["seq"], 1);
    assert!(events.iter().all(|event| event["at"].is_string()), "{all}");
    assert_eq!(events[0]["data"], json!({ "trigger": "http" }));
    assert_eq!(events[1]["data"], json!({ "trigger": "http", "input": { "id": 7 } }));
    let called = &events[4];
    assert_eq!((&called["step"], &called["attempt"], &called["data"]["method"]), (&json!("b"), &json!(1), &json!("POST")), "{called}");
    assert_eq!((&called["data"]["url"], &called["data"]["body"]), (&json!(world.sink.url("/flaky")), &json!({})), "{called}");
    let (failed, retrying) = (&events[5], &events[6]);
    assert_eq!((&failed["attempt"], &failed["data"]["status"], &failed["data"]["will_retry"]), (&json!(1), &json!(503), &json!(true)));
    assert_eq!((&retrying["attempt"], &retrying["data"]["next_attempt"]), (&json!(1), &json!(2)), "{retrying}");
    assert!(retrying["data"]["delay_ms"].is_u64() && retrying["data"].get("retryAt").is_none(), "{retrying}");
    let completed = &events[8]["data"];
    assert_eq!((&completed["status"], &completed["body"], &completed["attempts"]), (&json!(200), &json!({}), &json!(2)), "{completed}");
    assert!(completed["headers"].is_object() && completed["duration_ms"].is_u64(), "{completed}");
    let view = node.get(&format!("/api/runs/{id}")).ok().await;
    assert_eq!(view["last_event"], events.last().unwrap()["seq"], "{view}");
    // Read one after the other, nothing is missing and nothing comes twice.
    let (mut after, mut joined) = (0, Vec::new());
    loop {
        let page = node.get(&format!("/api/runs/{id}/events?after={after}&wait=1")).ok().await;
        let first = page["events"].as_array().unwrap().first().cloned();
        let Some(first) = first else { break };
        after = first["seq"].as_u64().unwrap();
        joined.push(first);
    }
    assert_eq!(&joined, events);
    let stream =
        node.get(&format!("/api/runs/{id}/events")).header("accept", "text/event-stream").header("last-event-id", "1").send().await;
    let streamed: Vec<Value> = stream.text().lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    assert_eq!(streamed, events[1..]);
    node.get(&format!("/api/runs/{id}/events")).header("last-event-id", "x").refused(400, "invalid_cursor").await;
}
