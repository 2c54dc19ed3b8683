//! Webhooks: what happens is told, signed, until it is taken.

use std::sync::Arc;

use dispatch::auth::hook;
use dispatch::clock::{Clock, Timestamp};
use dispatch::secret::Secret;
use reqwest::Method;
use serde_json::{Value, json};

use super::{call, enqueue, flow, job_is};
use crate::dispatch::{flow as inline, step};
use crate::support::app::within;
use crate::support::sink::{Reply, Seen};
use crate::support::world::{Node, World, until};

on_both!(
    what_happens_is_told_signed_and_once,
    a_delivery_is_tried_again_over_a_crash,
    an_address_that_is_gone_is_told_nothing_more,
    a_slow_address_keeps_nobody_waiting,
    a_secret_is_replaced_with_an_overlap,
    a_repeated_call_makes_one_webhook,
    wrong_webhooks_are_refused,
);

async fn create(node: &Node, body: Value) -> Value {
    node.post("/v1/webhooks").json(&body).ok().await
}

/// Whether a receiver that has the secret believes what came, as Standard Webhooks has it.
fn believed(seen: &Seen, secret: &str) -> bool {
    let header = |name: &str| seen.headers.get(name).map(String::as_str);
    let now: Timestamp = Clock::system().now();
    hook::scheme("standard").unwrap().read(&Secret::new(secret), header, seen.body.as_bytes(), now).is_ok()
}

fn hmac(secret: &str, text: &str) -> String {
    use ::hmac::{Hmac, KeyInit as _, Mac as _};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The events that came to a path, each with what it is about.
fn told(world: &World, path: &str) -> Vec<(String, String)> {
    let told = world.sink.seen(path).into_iter().map(|seen| seen.json());
    let id = |body: &Value| body["data"]["run"]["id"].as_str().or(body["data"]["job"]["job_id"].as_str()).unwrap_or_default().to_owned();
    told.map(|body| (body["type"].as_str().unwrap().to_owned(), id(&body))).collect()
}

async fn came(world: &World, path: &str, event: &str, of: &str) {
    let look = async {
        while !told(world, path).contains(&(event.to_owned(), of.to_owned())) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within(look).await;
}

async fn a_repeated_call_makes_one_webhook(world: Arc<World>) {
    let node = world.node();
    let make = |path: &str| node.post("/v1/webhooks").header("idempotency-key", "one").json(&json!({ "url": world.sink.url(path) }));
    let first = make("/once").send().await;
    let again = make("/once").send().await;
    assert_eq!((first.status, again.status), (201, 201), "{}", again.text());
    assert!(first.json()["secret"].is_string(), "{}", first.text());
    assert_eq!(first.json(), again.json(), "the secret included");
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), (None, Some("true")));
    make("/other").refused(400, "idempotency_key_reused").await;
    assert_eq!(node.get("/v1/webhooks").ok().await.as_array().unwrap().len(), 1);
}

async fn what_happens_is_told_signed_and_once(world: Arc<World>) {
    let node = world.node();
    let hook = create(&node, json!({ "url": world.sink.url("/all") })).await;
    create(&node, json!({ "url": world.sink.url("/failures"), "events": ["job.failed", "run.paused"] })).await;
    let secret = hook["secret"].as_str().unwrap().to_owned();
    let done = node.dispatch(&inline(json!([step("a", "set-variable", json!({ "variableName": "a", "value": "out" }))]))).await;
    let run = done.run().to_owned();
    came(&world, "/all", "run.completed", &run).await;
    let seen = world.sink.seen("/all")[0].clone();
    assert!(believed(&seen, &secret) && !believed(&seen, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
    assert_eq!(seen.header("x-dispatch-signature"), hmac(&secret, &seen.body));
    let stamped = format!("{}.{}", seen.header("x-dispatch-timestamp"), seen.body);
    assert_eq!(seen.header("x-dispatch-signature-v2"), hmac(&secret, &stamped));
    let body = seen.json();
    assert_eq!((seen.header("x-dispatch-event"), seen.header("webhook-id")), ("run.completed", body["id"].as_str().unwrap()));
    assert_eq!((&body["data"]["run"]["status"], &body["data"]["run"]["output"]), (&json!("completed"), &json!("out")), "{body}");
    // A pause for a person, a failure, jobs.
    let ask = inline(json!([{
        "id": "ask", "type": "prompt",
        "config": { "model": "local/echo", "userPrompt": "call look {}",
            "tools": { "runtimeTools": [{ "name": "look", "toolType": "local", "parametersSchema": { "type": "object" } }] } },
    }]));
    let paused = node.dispatch(&ask).await.run().to_owned();
    came(&world, "/failures", "run.paused", &paused).await;
    flow(&node, "ok", json!([step("a", "set-variable", json!({ "variableName": "a", "value": 1 }))])).await;
    let ok = enqueue(&node, json!({ "name": "ok" })).await;
    came(&world, "/all", "job.completed", &ok).await;
    world.sink.on("/broken", [Reply::Answer(400, vec![], String::new())]);
    let broken = json!({ "name": "call", "max_retries": 1, "callback": { "url": world.sink.url("/broken") } });
    let broken = enqueue(&node, broken).await;
    job_is(&node, &broken, "failed").await;
    came(&world, "/failures", "job.failed", &broken).await;
    came(&world, "/all", "job.failed", &broken).await;
    // Also of jobs that no run did.
    let nobody_s = enqueue(&node, json!({ "name": "nobody" })).await;
    came(&world, "/failures", "job.failed", &nobody_s).await;
    for path in ["/v1/jobs/{}/cancel", "/v1/jobs/cancel-all"] {
        let waiting = enqueue(&node, json!({ "name": "later", "run_at": "2099-01-01T00:00:00Z" })).await;
        node.post(&path.replace("{}", &waiting)).json(&json!({ "name": "later" })).send().await;
        came(&world, "/all", "job.cancelled", &waiting).await;
    }
    let all = told(&world, "/all");
    assert_eq!(all.iter().filter(|(event, of)| event == "job.retrying" && *of == broken).count(), 1);
    let distinct: std::collections::HashSet<_> = world.sink.seen("/all").iter().map(|seen| seen.header("webhook-id").to_owned()).collect();
    assert_eq!(distinct.len(), all.len(), "each delivery came once");
    let things: std::collections::HashSet<_> = all.iter().filter(|(event, _)| event != "run.failed").collect();
    assert_eq!(things.len(), all.iter().filter(|(event, _)| event != "run.failed").count(), "each thing was told once: {all:?}");
    assert!(told(&world, "/failures").iter().all(|(event, _)| ["job.failed", "run.paused"].contains(&event.as_str())));
    // Nobody else's affair.
    let stranger = world.strangers_key().await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    node.bare(Method::GET, &path).bearer(&stranger).refused(404, "not_found").await;
    node.bare(Method::GET, &format!("{path}/deliveries")).bearer(&stranger).refused(404, "not_found").await;
    let listed = node.get("/v1/webhooks").ok().await;
    assert!(listed[1].get("secret").is_none() && listed[1]["secrets"] == 1, "{listed}");
}

async fn a_delivery_is_tried_again_over_a_crash(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/flaky", [Reply::Answer(503, vec![], String::new()), Reply::Answer(204, vec![], String::new())]);
    let hook = create(&node, json!({ "url": world.sink.url("/flaky") })).await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    let test = node.post(&format!("{path}/test")).ok().await;
    assert_eq!((&test["event"], &test["state"]), (&json!("webhook.test"), &json!("pending")));
    let delivery = format!("{path}/deliveries/{}", test["id"].as_str().unwrap());
    let tried = until(&node, &delivery, |delivery| delivery["attempts"].as_array().is_some_and(|attempts| attempts.len() == 1)).await;
    assert_eq!((&tried["state"], &tried["attempts"][0]["status"]), (&json!("pending"), &json!(503)));
    let node = world.crash().await;
    let taken = until(&node, &delivery, |delivery| delivery["state"] == "delivered").await;
    assert_eq!(taken["attempts"][1]["status"], 204);
    // Asked for once more, it is the same delivery.
    let again = node.post(&format!("{delivery}/redeliver")).ok().await;
    assert_eq!((&again["id"], &again["state"]), (&test["id"], &json!("pending")));
    until(&node, &delivery, |delivery| delivery["state"] == "delivered").await;
    let ids: Vec<_> = world.sink.seen("/flaky").iter().map(|seen| seen.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, [test["id"].as_str().unwrap(); 3]);
    assert_eq!(node.get(&format!("{path}/deliveries")).ok().await["data"].as_array().unwrap().len(), 1);
    call(&node, Method::DELETE, &path).send().await;
    call(&node, Method::GET, &delivery).refused(404, "not_found").await;
}

async fn an_address_that_is_gone_is_told_nothing_more(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/gone", [Reply::Answer(410, vec![], String::new()), Reply::Answer(200, vec![], String::new())]);
    let hook = create(&node, json!({ "url": world.sink.url("/gone") })).await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    let test = node.post(&format!("{path}/test")).ok().await;
    let disabled = until(&node, &path, |hook| hook["enabled"] == false).await;
    assert!(disabled["disabled_because"].as_str().unwrap().contains("410"));
    let delivery = format!("{path}/deliveries/{}", test["id"].as_str().unwrap());
    assert_eq!(node.get(&delivery).ok().await["state"], "failed");
    node.post(&format!("{path}/test")).refused(409, "webhook_disabled").await;
    let enabled = call(&node, Method::PUT, &path).json(&json!({ "enabled": true })).ok().await;
    assert!(enabled["enabled"] == true && enabled.get("disabled_because").is_none(), "{enabled}");
    node.post(&format!("{delivery}/redeliver")).ok().await;
    until(&node, &delivery, |delivery| delivery["state"] == "delivered").await;
    // What it leads to is judged, as everywhere.
    let inner = "http://169.254.169.254/latest";
    world.sink.on("/leads-in", [Reply::Answer(307, vec![("location", inner.to_owned())], String::new())]);
    let leads = create(&node, json!({ "url": world.sink.url("/leads-in") })).await;
    let path = format!("/v1/webhooks/{}", leads["id"].as_str().unwrap());
    let test = node.post(&format!("{path}/test")).ok().await;
    let delivery = format!("{path}/deliveries/{}", test["id"].as_str().unwrap());
    let tried = until(&node, &delivery, |delivery| delivery["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty())).await;
    assert_eq!((&tried["state"], &tried["attempts"][0]["status"]), (&json!("pending"), &json!(307)), "{tried}");
    let moved = call(&node, Method::PUT, &path).json(&json!({ "url": inner }));
    assert_eq!(moved.refused(400, "validation_failed").await.pointers(), ["/url"]);
}

async fn a_slow_address_keeps_nobody_waiting(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/slow", [Reply::Gate(Arc::new(tokio::sync::Notify::new()))]);
    let slow = create(&node, json!({ "url": world.sink.url("/slow") })).await;
    let slow = format!("/v1/webhooks/{}", slow["id"].as_str().unwrap());
    for _ in 0..20 {
        node.post(&format!("{slow}/test")).ok().await;
    }
    world.sink.reached("/slow", 4).await;
    let fast = create(&node, json!({ "url": world.sink.url("/fast") })).await;
    node.post(&format!("/v1/webhooks/{}/test", fast["id"].as_str().unwrap())).ok().await;
    world.sink.reached("/fast", 1).await;
    let told = node.get(&format!("{slow}/deliveries?limit=50")).ok().await;
    let attempts = |delivery: &Value| delivery["attempts"].as_array().unwrap().len();
    assert_eq!(told["data"].as_array().unwrap().iter().map(attempts).sum::<usize>(), 0, "none of the slow ones has ended");
    assert_eq!(world.sink.seen("/slow").len(), 4, "so many at once, and no more");
}

async fn a_secret_is_replaced_with_an_overlap(world: Arc<World>) {
    let node = world.node();
    let hook = create(&node, json!({ "url": world.sink.url("/rotated") })).await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    let rotate = async |body: Value| {
        let rotated = node.post(&format!("{path}/rotate")).json(&body).ok().await;
        (rotated["secret"].as_str().unwrap().to_owned(), rotated["secrets"].as_u64().unwrap())
    };
    let first = hook["secret"].as_str().unwrap().to_owned();
    let (second, signing) = rotate(json!({})).await;
    assert!(first != second && signing == 2);
    node.post(&format!("{path}/test")).ok().await;
    world.sink.reached("/rotated", 1).await;
    let seen = world.sink.seen("/rotated")[0].clone();
    assert!(believed(&seen, &first) && believed(&seen, &second));
    let (third, signing) = rotate(json!({ "overlap_hours": 0 })).await;
    assert_eq!(signing, 1);
    node.post(&format!("{path}/test")).ok().await;
    world.sink.reached("/rotated", 2).await;
    let seen = world.sink.seen("/rotated")[1].clone();
    assert!(believed(&seen, &third) && !believed(&seen, &second) && !believed(&seen, &first));
    assert_eq!(seen.header("x-dispatch-signature"), hmac(&third, &seen.body));
}

async fn wrong_webhooks_are_refused(world: Arc<World>) {
    let node = world.node();
    for (body, pointer) in [
        (json!({}), "/url"),
        (json!({ "url": "ftp://a.example" }), "/url"),
        (json!({ "url": "no address" }), "/url"),
        (json!({ "url": "http://169.254.169.254/latest" }), "/url"),
        (json!({ "url": "http://[::ffff:10.0.0.1]/" }), "/url"),
        (json!({ "url": "http://user:word@a.example" }), "/url"),
        (json!({ "url": "http://a.example", "events": ["run.begun"] }), "/events/0"),
        (json!({ "url": "http://a.example", "events": ["webhook.test"] }), "/events"),
        (json!({ "url": "http://a.example", "description": "x".repeat(501) }), "/description"),
    ] {
        assert_eq!(node.post("/v1/webhooks").json(&body).refused(400, "validation_failed").await.pointers(), [pointer], "{body}");
    }
    assert_eq!(node.get("/v1/webhooks").ok().await, json!([]));
    let hook = create(&node, json!({ "url": world.sink.url("/x") })).await;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    let refused = node.post(&format!("{path}/rotate")).json(&json!({ "overlap_hours": 169 })).refused(400, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/overlap_hours"]);
    node.get("/v1/webhooks/x").refused(400, "invalid_id").await;
    node.get("/v1/webhooks/hook_01h455vb4pex5vsknk084sn02q").refused(404, "not_found").await;
    node.get(&format!("{path}/deliveries/msg_01h455vb4pex5vsknk084sn02q")).refused(404, "not_found").await;
}
