//! The admin surface: jobs, dead letters, crons, queues, runs; and the wire protocol, which does the same.

mod crons;
mod dlq;
mod dwp;
mod events;
mod jobs;
mod queues;
mod triggers;
mod webhooks;
mod workflows;

use serde_json::{Value, json};

use crate::support::call::Call;
use crate::support::world::{KEY, Node, until};

/// A call with a method that has no short form.
fn call(node: &Node, method: reqwest::Method, path: &str) -> Call {
    node.bare(method, path).bearer(KEY)
}

/// Saves a flow under a name.
async fn flow(node: &Node, name: &str, steps: Value) {
    node.post("/v1/flows").json(&json!({ "name": name, "steps": steps })).ok().await;
}

/// Puts a job in its queue; its id.
async fn enqueue(node: &Node, body: Value) -> String {
    node.post("/v1/jobs").json(&body).ok().await["id"].as_str().unwrap().to_owned()
}

/// A job that the sink does.
fn called(url: String) -> Value {
    json!({ "name": "call", "payload": { "n": 1 }, "callback": { "url": url } })
}

/// A job, once it is as wanted.
async fn job_is(node: &Node, id: &str, state: &str) -> Value {
    until(node, &format!("/v1/jobs/{id}"), |job| job["state"] == state).await
}
