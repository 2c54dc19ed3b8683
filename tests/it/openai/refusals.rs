//! What is refused, and how failures of models are told: in OpenAI's form, with its status and code.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{asks, function, with};
use crate::support::world::World;

on_both!(failures_have_openai_s_status_and_code);
on_one!(Sqlite: parameters_at_fault_are_named, keys_and_scopes, budgets_bind);

async fn parameters_at_fault_are_named(world: Arc<World>) {
    let node = world.node();
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": { "type": 7 } } });
    let text = json!([{ "role": "user", "content": [{ "type": "video", "video": 1 }] }]);
    for (more, param) in [
        (json!({ "n": 2 }), "n"),
        (json!({ "logprobs": true }), "logprobs"),
        (json!({ "audio": { "voice": "alloy" } }), "audio"),
        (json!({ "functions": [] }), "functions"),
        (json!({ "made_up": true }), "made_up"),
        (json!({ "temperature": 3 }), "temperature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "max_tokens": 0 }), "max_completion_tokens"),
        (json!({ "reasoning_effort": "extreme" }), "reasoning_effort"),
        (json!({ "response_format": schema }), "response_format.json_schema.schema"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": text }), "messages[0].content[0]"),
        (json!({ "messages": null }), "messages"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tools": [function("a b")] }), "tools[0].function.name"),
        (json!({ "tools": vec![function("f"); 1_001] }), "tools"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "dispatch": { "fallbacks": vec!["local/echo"; 21] } }), "dispatch.fallbacks"),
        (json!({ "dispatch": { "fallbacks": ["nobody/knows"] } }), "dispatch.fallbacks[0]"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
    ] {
        let refused = node.post("/v1/chat/completions").json(&with(asks("local/echo", "hi"), more.clone()));
        let error = refused.refused(400, "validation_failed").await.json()["error"].clone();
        assert!(error["param"].as_str().is_some_and(|found| found.starts_with(param)), "{more}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

async fn keys_and_scopes(world: Arc<World>) {
    let node = world.node();
    let body = asks("local/echo", "hi");
    let call = || node.bare(Method::POST, "/v1/chat/completions").json(&body);
    call().refused(401, "missing_api_key").await;
    let error = call().bearer("dsp_live_0123456789012345678901234567890123456789012").refused(401, "invalid_api_key").await.json();
    assert_eq!(error["error"]["type"], "invalid_request_error");
    let reads = world.key_with(&["FLOWS:READ"]).await;
    assert_eq!(call().bearer(&reads).refused(403, "missing_scope").await.json()["error"]["type"], "permission_error");
    let runs = world.key_with(&["FLOWS:EXECUTE"]).await;
    call().bearer(&runs).ok().await;
}

async fn failures_have_openai_s_status_and_code(world: Arc<World>) {
    let node = world.node();
    for (model, status, kind, code) in [
        ("nobody/knows", 404, "invalid_request_error", "model_not_found"),
        ("agent:nobody", 404, "invalid_request_error", "model_not_found"),
        ("openai/fake-404", 404, "invalid_request_error", "model_not_found"),
        ("openai/fake-context", 400, "invalid_request_error", "context_length_exceeded"),
        ("openai/fake-filter", 400, "invalid_request_error", "content_filter"),
        ("openai/fake-billing", 429, "insufficient_quota", "insufficient_quota"),
        ("openai/fake-401", 402, "invalid_request_error", "provider_auth_failed"),
    ] {
        for stream in [false, true] {
            let call = node.post("/v1/chat/completions").json(&with(asks(model, "hi"), json!({ "stream": stream })));
            let error = call.refused(status, code).await.json()["error"].clone();
            assert_eq!(error["type"], kind, "{model}");
            assert_eq!(error["param"], if code == "model_not_found" && model != "openai/fake-404" { json!("model") } else { Value::Null });
        }
    }
}

async fn budgets_bind(world: Arc<World>) {
    let node = world.node();
    let body = with(asks("local/echo", "hi"), json!({ "dispatch": { "budget": { "maxTokens": 1 } } }));
    node.post("/v1/chat/completions").json(&body).refused(429, "insufficient_quota").await;
    let unpriced = with(asks("openai/fake-ok", "hi"), json!({ "dispatch": { "budget": { "maxCost": 1 } } }));
    let refused = node.post("/v1/chat/completions").json(&unpriced).refused(400, "validation_failed").await;
    assert_eq!(refused.json()["error"]["param"], "dispatch.budget.maxCost");
}
