//! The workflows surface: documents, runs, strategies, signals, undoing, sessions.

mod documents;
mod drawn;
mod expressions;
mod orders;
mod replies;
mod sealing;
mod sessions;
mod strategies;
mod triggers;
mod undoing;
mod waits;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::call::{Answer, Call};
use crate::support::world::{KEY, Node, World, until};

/// A call with the first tenant's key.
fn call(node: &Node, method: Method, path: &str) -> Call {
    node.bare(method, path).bearer(KEY)
}

/// Registers a workflow of these steps.
async fn register(node: &Node, name: &str, steps: Value) {
    register_whole(node, json!({ "name": name, "version": 1, "steps": steps })).await;
}

async fn register_whole(node: &Node, document: Value) {
    let path = format!("/api/workflows/{}", document["name"].as_str().unwrap());
    let answer = call(node, Method::PUT, &path).json(&document).send().await;
    assert!([200, 201].contains(&answer.status), "{}", answer.text());
}

/// Starts a run and waits for its end.
async fn run(node: &Node, name: &str, body: &Value) -> Answer {
    call(node, Method::POST, &format!("/workflows/{name}")).json(body).send().await
}

/// Starts a run; its id.
async fn begin(node: &Node, name: &str, body: &Value) -> String {
    let answer = call(node, Method::POST, &format!("/workflows/{name}")).header("prefer", "respond-async").json(body).send().await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["run_id"].as_str().unwrap().to_owned()
}

/// A run, once it is there.
async fn run_is(node: &Node, id: &str, status: &str) -> Value {
    until(node, &format!("/api/runs/{id}"), |run| run["status"] == status).await
}

async fn signal(node: &Node, run: &str, name: &str, body: &Value) -> Answer {
    call(node, Method::POST, &format!("/api/runs/{run}/signal/{name}")).json(body).send().await
}

/// The types of a run's events.
async fn told(node: &Node, run: &str) -> Vec<String> {
    let page = node.get(&format!("/api/runs/{run}/events")).ok().await;
    page["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

/// A step that gets a path of the sink.
fn get(world: &World, path: &str) -> Value {
    json!({ "request": { "url": world.sink.url(path) } })
}

/// A step that posts a body to a path of the sink, after others.
fn post(world: &World, path: &str, body: &Value, after: &[&str]) -> Value {
    json!({ "after": after, "request": { "method": "POST", "url": world.sink.url(path), "body": body } })
}
