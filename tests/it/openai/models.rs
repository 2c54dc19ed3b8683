//! The list of models.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::world::{Node, World};

on_both!(models_and_saved_ones_are_listed);

async fn ids(node: &Node, key: &str) -> Vec<String> {
    let list = node.bare(Method::GET, "/v1/models").bearer(key).ok().await;
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().unwrap();
    assert!(models.iter().all(|model| model["object"] == "model" && model["created"].is_i64() && model["owned_by"].is_string()), "{list}");
    models.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

async fn models_and_saved_ones_are_listed(world: Arc<World>) {
    let node = world.node();
    node.post("/v1/agents").json(&json!({ "name": "Clerk", "model": "local/echo" })).ok().await;
    node.post("/v1/flows").json(&json!({ "name": "Says", "steps": [] })).ok().await;
    let has = |ids: &[String], id: &str| ids.iter().any(|known| known == id);
    let all = ids(&node, crate::support::world::KEY).await;
    for id in ["local/echo", "local/words", "agent:Clerk", "flow:Says"] {
        assert!(has(&all, id), "{id}: {all:?}");
    }
    assert!(all.iter().any(|id| id.starts_with("openai/")), "the server has a key: {all:?}");
    assert!(!all.iter().any(|id| id.starts_with("mistral/")), "it has none");
    // Names of what is saved are for keys that may read it, and for its tenant.
    let runs = world.key_with(&["FLOWS:EXECUTE", "FLOWS:READ"]).await;
    let some = ids(&node, &runs).await;
    assert!(has(&some, "flow:Says") && !has(&some, "agent:Clerk") && has(&some, "local/echo"), "{some:?}");
    let stranger = world.strangers_key().await;
    assert!(!has(&ids(&node, &stranger).await, "flow:Says"));
    for path in ["/v1/models/local%2Fecho", "/v1/models/local/echo"] {
        let found = node.get(path).ok().await;
        assert_eq!(found, json!({ "id": "local/echo", "object": "model", "created": 0, "owned_by": "local" }), "{path}");
    }
    let found: Value = node.get("/v1/models/agent%3AClerk").ok().await;
    assert_eq!((&found["id"], &found["owned_by"]), (&json!("agent:Clerk"), &json!("dispatch")));
    for path in ["/v1/models/nobody", "/v1/models/nobody/knows", "/v1/models/agent:nobody"] {
        let refused = node.get(path).refused(404, "model_not_found").await;
        assert_eq!(refused.json()["error"]["param"], "model");
    }
    node.bare(Method::GET, "/v1/models/nobody/knows").refused(401, "missing_api_key").await;
}
