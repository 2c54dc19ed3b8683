//! Webhooks of others: believed, taken in once, and done as jobs.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{call, flow, job_is};
use crate::dispatch::step;
use crate::support::call::{Answer, Call};
use crate::support::world::{Node, World};

on_both!(
    a_signed_delivery_is_one_job,
    what_is_not_believed_is_no_job,
    an_address_alone_vouches_until_it_is_rotated,
    a_sender_that_asks_is_answered,
    forms_are_decoded_and_invalid_bodies_refused,
    a_repeated_call_makes_one_trigger,
    wrong_triggers_are_refused,
);

const SECRET: &str = "canary-of-the-sender";

fn signature(text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn create(node: &Node, body: Value) -> Value {
    node.post("/v1/triggers").json(&body).ok().await
}

fn post(node: &Node, trigger: &Value, body: &str) -> Call {
    node.bare(Method::POST, trigger["path"].as_str().unwrap()).body("application/json", body.to_owned())
}

fn github(node: &Node, trigger: &Value, delivery: &str, body: &str) -> Call {
    github_as("application/json", node, trigger, delivery, body)
}

fn github_as(kind: &str, node: &Node, trigger: &Value, delivery: &str, body: &str) -> Call {
    let call = node.bare(Method::POST, trigger["path"].as_str().unwrap()).body(kind, body.to_owned());
    let call = call.header("x-hub-signature-256", format!("sha256={}", signature(body)));
    call.header("x-github-delivery", delivery).header("x-github-event", "push")
}

fn accepted(answer: &Answer) -> (String, bool) {
    assert_eq!(answer.status, 202, "{}", answer.text());
    let body = answer.json();
    (body["job_id"].as_str().unwrap().to_owned(), body["duplicate"].as_bool().unwrap())
}

async fn a_signed_delivery_is_one_job(world: Arc<World>) {
    let node = world.node();
    let script = "return [payload.event, payload.delivery, payload.body.ref];";
    flow(&node, "on-push", json!([step("s", "transform-data", json!({ "script": script }))])).await;
    let trigger =
        create(&node, json!({ "name": "repo", "scheme": "github", "secret": SECRET, "job_name": "on-push", "queue": "hooks" })).await;
    assert!(trigger["path"].as_str().unwrap().starts_with("/hooks/hook_") && trigger["has_secret"] == true, "{trigger}");
    let body = json!({ "ref": "main" }).to_string();
    let twenty = (0..20).map(|_| github(&node, &trigger, "one", &body).send());
    let answers: Vec<(String, bool)> = futures_util::future::join_all(twenty).await.iter().map(accepted).collect();
    assert_eq!(answers.iter().filter(|(_, duplicate)| !duplicate).count(), 1);
    assert!(answers.iter().all(|(job, _)| *job == answers[0].0), "{answers:?}");
    let done = job_is(&node, &answers[0].0, "completed").await;
    assert_eq!(done["queue"], "hooks");
    let execution = node.execution(done["execution_id"].as_str().unwrap()).await;
    assert_eq!(execution["output"], json!(["push", "one", "main"]), "{execution}");
    let (other, duplicate) = accepted(&github(&node, &trigger, "two", &body).send().await);
    assert!(!duplicate && other != answers[0].0);
    let shown = node.get(&format!("/v1/triggers/{}", trigger["id"].as_str().unwrap())).ok().await;
    assert!(!shown.to_string().contains(SECRET) && shown.get("path").is_none(), "{shown}");
    let stranger = world.strangers_key().await;
    node.bare(Method::GET, &format!("/v1/triggers/{}", trigger["id"].as_str().unwrap())).bearer(&stranger).refused(404, "not_found").await;
}

async fn what_is_not_believed_is_no_job(world: Arc<World>) {
    let node = world.node();
    let trigger = create(&node, json!({ "name": "repo", "scheme": "github", "secret": SECRET })).await;
    let signed = |body: &str| github(&node, &trigger, "one", body);
    post(&node, &trigger, "{}").refused(401, "webhook_not_believed").await;
    post(&node, &trigger, "{}")
        .header("x-hub-signature-256", "sha256=00")
        .header("x-github-delivery", "one")
        .refused(401, "webhook_not_believed")
        .await;
    let other = create(&node, json!({ "name": "other", "scheme": "github", "secret": "another-secret" })).await;
    github(&node, &other, "one", "{}").refused(401, "webhook_not_believed").await;
    let mut elsewhere = trigger.clone();
    let path = trigger["path"].as_str().unwrap();
    for wrong in ["/hooks/x", "/hooks/hook_x", &path[..path.len() - 1], &path.replace("hook_", "sess_")] {
        elsewhere["path"] = wrong.into();
        github(&node, &elsewhere, "one", "{}").refused(404, "not_found").await;
    }
    let at = format!("/v1/triggers/{}", trigger["id"].as_str().unwrap());
    call(&node, Method::PUT, &at).json(&json!({ "enabled": false })).ok().await;
    signed("{}").refused(404, "not_found").await;
    call(&node, Method::PUT, &at).json(&json!({ "enabled": true })).ok().await;
    let large = "x".repeat(2 * 1024 * 1024 + 1);
    signed(&large).refused(413, "body_too_large").await;
    signed(&format!("{}{}", "[".repeat(100), "]".repeat(100))).refused(413, "body_too_deep").await;
    assert_eq!(node.get("/v1/jobs").ok().await, json!([]), "nothing came of any of it");
    signed("not JSON").refused(400, "invalid_json").await;
    assert_eq!(node.get("/v1/jobs").ok().await, json!([]), "nothing came of any of it");
    assert_eq!(github_as("text/plain", &node, &trigger, "one", "not JSON").send().await.status, 202);
    assert_eq!(node.get("/v1/jobs").ok().await[0]["payload"]["body"], "not JSON");
    assert_eq!(call(&node, Method::DELETE, &at).send().await.status, 204);
    signed("{}").refused(404, "not_found").await;
}

async fn an_address_alone_vouches_until_it_is_rotated(world: Arc<World>) {
    let node = world.node();
    let trigger = create(&node, json!({ "name": "open" })).await;
    assert_eq!((&trigger["scheme"], &trigger["has_secret"]), (&json!("none"), &json!(false)));
    let (first, _) = accepted(&post(&node, &trigger, "{}").send().await);
    let (second, duplicate) = accepted(&post(&node, &trigger, "{}").send().await);
    assert!(first != second && !duplicate, "nothing tells them apart, so they are two");
    let keyed = || post(&node, &trigger, "{}").header("idempotency-key", "one");
    let (one, _) = accepted(&keyed().send().await);
    assert_eq!(accepted(&keyed().send().await), (one, true));
    let rotated = call(&node, Method::POST, &format!("/v1/triggers/{}/rotate", trigger["id"].as_str().unwrap())).ok().await;
    post(&node, &trigger, "{}").refused(404, "not_found").await;
    accepted(&post(&node, &rotated, "{}").send().await);
}

async fn a_sender_that_asks_is_answered(world: Arc<World>) {
    let node = world.node();
    let trigger = create(&node, json!({ "name": "slack", "scheme": "slack", "secret": SECRET })).await;
    let now = dispatch::clock::Clock::system().now().as_millis() / 1_000;
    let send = |time: i64, body: &str| {
        let signature = format!("v0={}", signature(&format!("v0:{time}:{body}")));
        post(&node, &trigger, body).header("x-slack-signature", signature).header("x-slack-request-timestamp", time.to_string())
    };
    let asked = send(now, r#"{"type":"url_verification","challenge":"say this"}"#).ok().await;
    assert_eq!(asked, json!({ "challenge": "say this" }));
    let event = r#"{"event_id":"Ev1","event":{"type":"message"}}"#;
    let (job, _) = accepted(&send(now, event).send().await);
    assert_eq!(accepted(&send(now, event).send().await), (job, true), "its id stands in the body");
    send(now - 400, event).refused(401, "webhook_not_believed").await;
}

async fn forms_are_decoded_and_invalid_bodies_refused(world: Arc<World>) {
    const FORM: &str = "application/x-www-form-urlencoded";
    let node = world.node();
    let body_of = async |call: Call| {
        let (job, _) = accepted(&call.send().await);
        node.get(&format!("/v1/jobs/{job}")).ok().await["payload"]["body"].clone()
    };
    let repo = create(&node, json!({ "name": "repo", "scheme": "github", "secret": SECRET })).await;
    let issue = "payload=%7B%22action%22%3A%22opened%22%2C%22number%22%3A7%7D";
    let read = body_of(github_as(FORM, &node, &repo, "one", issue)).await;
    assert_eq!(read, json!({ "action": "opened", "number": 7 }));
    let unsigned = node.bare(Method::POST, repo["path"].as_str().unwrap()).body(FORM, issue);
    unsigned.header("x-github-delivery", "two").refused(401, "webhook_not_believed").await;
    github_as(FORM, &node, &repo, "two", "payload=%7B").refused(400, "invalid_json").await;
    let deep = format!("payload={}{}", "%5B".repeat(100), "%5D".repeat(100));
    github_as(FORM, &node, &repo, "two", &deep).refused(413, "body_too_deep").await;
    let marked = body_of(github(&node, &repo, "two", "\u{feff}{\"ref\":\"main\"}")).await;
    assert_eq!(marked, json!({ "ref": "main" }));
    let slack = create(&node, json!({ "name": "slack", "scheme": "slack", "secret": SECRET })).await;
    let now = dispatch::clock::Clock::system().now().as_millis() / 1_000;
    let send = |body: &str| {
        let signature = format!("v0={}", signature(&format!("v0:{now}:{body}")));
        let call = node.bare(Method::POST, slack["path"].as_str().unwrap()).body(FORM, body.to_owned());
        call.header("x-slack-signature", signature).header("x-slack-request-timestamp", now.to_string())
    };
    let command = body_of(send("command=%2Fdeploy&text=to+production&user_id=U1")).await;
    assert_eq!(command, json!({ "command": "/deploy", "text": "to production", "user_id": "U1" }));
    let pressed = body_of(send("payload=%7B%22type%22%3A%22block_actions%22%7D")).await;
    assert_eq!(pressed, json!({ "payload": { "type": "block_actions" } }));
    let open = create(&node, json!({ "name": "open" })).await;
    let form = body_of(node.bare(Method::POST, open["path"].as_str().unwrap()).body(FORM, "a=1&a=2&b=x%20y")).await;
    assert_eq!(form, json!({ "a": ["1", "2"], "b": "x y" }));
    post(&node, &open, "{\"a\":").refused(400, "invalid_json").await;
}

async fn a_repeated_call_makes_one_trigger(world: Arc<World>) {
    let node = world.node();
    let make = |name: &str| node.post("/v1/triggers").header("idempotency-key", "one").json(&json!({ "name": name }));
    let first = make("open").send().await;
    let again = make("open").send().await;
    assert_eq!((first.status, again.status), (201, 201), "{}", again.text());
    assert_eq!(first.json(), again.json(), "the address included");
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), (None, Some("true")));
    accepted(&post(&node, &again.json(), "{}").send().await);
    make("other").refused(400, "idempotency_key_reused").await;
    assert_eq!(node.get("/v1/triggers").ok().await.as_array().unwrap().len(), 1);
}

async fn wrong_triggers_are_refused(world: Arc<World>) {
    let node = world.node();
    for (body, pointers) in [
        (json!({}), vec!["/name"]),
        (json!({ "name": "x", "scheme": "github" }), vec!["/secret"]),
        (json!({ "name": "x", "scheme": "morse" }), vec!["/scheme"]),
        (json!({ "name": "x", "scheme": "standard", "secret": "whsec_!!!!!!" }), vec!["/secret"]),
        (json!({ "name": "x", "scheme": "github", "secret": "short" }), vec!["/secret"]),
        (json!({ "name": "x", "queue": "", "max_retries": 1_000 }), vec!["/queue", "/max_retries"]),
    ] {
        let refused = node.post("/v1/triggers").json(&body).refused(400, "validation_failed").await;
        assert_eq!(refused.pointers(), pointers, "{body}");
    }
    create(&node, json!({ "name": "x" })).await;
    node.post("/v1/triggers").json(&json!({ "name": "x" })).refused(409, "already_exists").await;
}
