//! The dispatch surface from end to end: a real server on the loopback interface, real databases, a provider and a sink
//! that answer as told.
//!
//! What a case shows of a stream is judged by [`crate::support::transcript`]; where state matters, the same case runs on
//! both databases.

use serde_json::{Value, json};

use crate::support::world::Node;

/// Runs each case on SQLite and on PostgreSQL.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::support::world::World::run(crate::support::world::Kind::Sqlite, super::$case).await;
                }
            )*
        }
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::support::world::World::run(crate::support::world::Kind::Postgres, super::$case).await;
                }
            )*
        }
    };
}

/// Runs each case on one kind of database.
macro_rules! on_one {
    ($kind:ident: $($case:ident),* $(,)?) => {
        mod on_one {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::support::world::World::run(crate::support::world::Kind::$kind, super::$case).await;
                }
            )*
        }
    };
}

mod agents;
mod approvals;
mod batches;
mod client;
mod contract;
mod conversations;
mod disconnects;
mod edges;
mod effects;
mod evals;
mod events;
mod faults;
mod files;
mod growth;
mod idempotency;
mod limits;
mod loops;
mod mcp;
mod mcp_tools;
mod metrics;
mod options;
mod outbox;
mod pauses;
mod providers;
mod quotas;
mod reading;
mod refusals;
mod resources;
mod retention;
mod schedules;
mod secrets;
mod steps;
mod submissions;
mod tools;
mod transcripts;
mod truths;
mod vectors;

/// An inline flow of these steps.
pub fn flow(steps: Value) -> Value {
    json!({ "flow": { "name": "Test", "steps": steps } })
}

/// A prompt of the model that does what it is told.
fn ask(id: &str, prompt: &str) -> Value {
    json!({ "id": id, "type": "prompt", "config": { "model": "local/echo", "userPrompt": prompt, "outputVariable": id } })
}

/// A prompt with these tools.
fn ask_with(id: &str, prompt: &str, tools: Value) -> Value {
    let mut step = ask(id, prompt);
    step["config"]["tools"] = tools;
    step
}

/// A tool of the caller.
fn local(name: &str) -> Value {
    json!({ "name": name, "description": "Does it.", "toolType": "local", "parametersSchema": { "type": "object", "properties": {} } })
}

/// A tool that calls an address.
fn external(name: &str, url: &str, method: &str) -> Value {
    json!({
        "name": name, "description": "Calls.", "toolType": "external", "parametersSchema": { "type": "object", "properties": {} },
        "config": { "url": url, "method": method, "body": { "amount": "{{amount}}" } },
    })
}

/// A step of a type, with its id as its output's name.
pub fn step(id: &str, kind: &str, config: Value) -> Value {
    json!({ "id": id, "type": kind, "config": config, "outputVariable": id })
}

/// A set-variable step.
fn set(name: &str, value: Value) -> Value {
    json!({ "id": name, "type": "set-variable", "config": { "variableName": name, "value": value } })
}

/// A step that always fails: its script throws.
fn fails(id: &str) -> Value {
    json!({ "id": id, "type": "transform-data", "config": { "script": "throw new Error('broken on purpose')", "outputVariable": id } })
}

/// Every one of these configurations is refused, each field of it that is wrong by its name.
async fn refuses(node: &Node, wrong: &[(&str, Value, &[&str])]) {
    for (kind, config, fields) in wrong {
        let body = flow(json!([step("out", kind, config.clone())]));
        let refused = node.post("/v1/dispatch").json(&body).refused(422, "validation_failed").await;
        let pointers: Vec<String> = fields.iter().map(|field| format!("/flow/steps/0/config/{field}")).collect();
        assert_eq!(refused.pointers(), pointers, "{}", refused.text());
    }
}
