//! Vectors of texts.

use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::world::{Node, World};

on_both!(texts_become_vectors);
on_one!(Sqlite: what_is_no_text_is_refused);

async fn embed(node: &Node, body: Value) -> Value {
    node.post("/v1/embeddings").json(&body).ok().await
}

async fn texts_become_vectors(world: Arc<World>) {
    let node = world.node();
    let list = embed(&node, json!({ "model": "local/words", "input": ["red wine", "the sea"] })).await;
    assert_eq!((&list["object"], &list["model"], list["data"].as_array().unwrap().len()), (&json!("list"), &json!("local/words"), 2));
    assert!(list["usage"]["prompt_tokens"].as_u64().unwrap() > 0 && list["usage"]["prompt_tokens"] == list["usage"]["total_tokens"]);
    let second = &list["data"][1];
    assert_eq!((&second["object"], &second["index"]), (&json!("embedding"), &json!(1)));
    let numbers: Vec<f32> = serde_json::from_value(second["embedding"].clone()).unwrap();
    assert_eq!(numbers.len(), 256);
    // As bytes they are the same numbers.
    let packed = embed(&node, json!({ "model": "local/words", "input": "the sea", "encoding_format": "base64" })).await;
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let (parts, rest) = bytes.as_chunks::<4>();
    assert_eq!((parts.iter().map(|part| f32::from_le_bytes(*part)).collect::<Vec<_>>(), rest.len()), (numbers, 0));
    // More than one request to the model takes.
    let many: Vec<String> = (0..600).map(|number| format!("text {number}")).collect();
    let list = embed(&node, json!({ "model": "text-embedding-3-small", "input": many })).await;
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][599]["index"]), (600, &json!(599)));
    assert_eq!(list["model"], "openai/text-embedding-3-small");
}

async fn what_is_no_text_is_refused(world: Arc<World>) {
    let node = world.node();
    for (body, param) in [
        (json!({ "model": "local/words", "input": [] }), "input"),
        (json!({ "model": "local/words", "input": [[1, 2]] }), "input[0]"),
        (json!({ "model": "local/words", "input": "" }), "input"),
        (json!({ "model": "local/words", "input": "x", "dimensions": 3 }), "dimensions"),
        (json!({ "model": "local/words", "input": "x", "made_up": 3 }), "made_up"),
    ] {
        let refused = node.post("/v1/embeddings").json(&body).refused(400, "validation_failed").await;
        assert_eq!(refused.json()["error"]["param"], param, "{}", refused.text());
    }
    for model in ["nobody/knows", "agent:nobody"] {
        let refused = node.post("/v1/embeddings").json(&json!({ "model": model, "input": "x" }));
        assert_eq!(refused.refused(404, "model_not_found").await.json()["error"]["param"], "model");
    }
}
