//! Answers whole and in chunks: text, thoughts, JSON, usage, and what the execution shows of them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{asks, chunks, complete, finish, joined, message, with};
use crate::support::app::within;
use crate::support::world::World;

on_both!(
    a_text_is_the_same_whole_and_streamed,
    a_completion_is_an_execution,
    an_answer_that_takes_the_form_of_a_schema,
    usage_and_thoughts_are_told,
    a_repeated_call_is_answered_from_the_first,
    other_models_take_over,
);
on_one!(Sqlite: a_cut_stream_ends_with_an_error, settings_reach_the_model);

async fn a_text_is_the_same_whole_and_streamed(world: Arc<World>) {
    let node = world.node();
    let body = asks("local/echo", "say Hello there");
    let whole = complete(&node, &body).await;
    assert_eq!((&message(&whole)["role"], &message(&whole)["content"]), (&json!("assistant"), &json!("Hello there")));
    assert_eq!((&whole["choices"][0]["finish_reason"], &whole["model"]), (&json!("stop"), &json!("local/echo")));
    let streamed = chunks(&node, &body).await;
    assert_eq!(joined(&streamed, "content"), "Hello there");
    assert!(streamed.len() > 2, "word by word: {streamed:?}");
    assert_eq!(finish(&streamed), "stop");
    assert!(streamed.iter().all(|chunk| chunk.get("usage").is_none()), "nobody asked for it");
}

async fn a_completion_is_an_execution(world: Arc<World>) {
    let node = world.node();
    let body = with(asks("local/echo", "say hi"), json!({ "metadata": { "of": "Ada" } }));
    let completion = complete(&node, &body).await;
    let run = completion["id"].as_str().unwrap().strip_prefix("chatcmpl-").unwrap();
    let shown = node.execution(run).await;
    assert_eq!((&shown["status"], &shown["success"]), (&json!("completed"), &json!(true)), "{shown}");
    let log = node.log(run).await.fresh();
    assert_eq!(log.custom("dispatch.completion")["model"], "local/echo");
    // Everybody else's log has no such report.
    let told = node
        .dispatch(&crate::dispatch::flow(json!([crate::dispatch::step(
            "a",
            "prompt",
            json!({ "model": "local/echo", "userPrompt": "say hi" })
        )])))
        .await;
    assert_eq!(told.customs("dispatch.completion").count(), 0);
}

async fn an_answer_that_takes_the_form_of_a_schema(world: Arc<World>) {
    let node = world.node();
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer", "minimum": 3 } }, "required": ["n"] });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "answer", "strict": true, "schema": schema } });
    let body = with(asks("local/echo", "a number"), json!({ "response_format": format }));
    assert_eq!(message(&complete(&node, &body).await)["content"], "{\"n\":3}");
    assert_eq!(joined(&chunks(&node, &body).await, "content"), "{\"n\":3}");
    let body = with(asks("local/echo", "json {\"a\":1}"), json!({ "response_format": { "type": "json_object" } }));
    assert_eq!(message(&complete(&node, &body).await)["content"], "{\"a\":1}");
}

async fn usage_and_thoughts_are_told(world: Arc<World>) {
    let node = world.node();
    let body = asks("openai/fake-reasoning", "think");
    let whole = complete(&node, &body).await;
    let usage = json!({
        "prompt_tokens": 100, "completion_tokens": 12, "total_tokens": 112,
        "prompt_tokens_details": { "cached_tokens": 40, "cache_write_tokens": 0 }, "completion_tokens_details": { "reasoning_tokens": 7 },
    });
    assert_eq!((&whole["usage"], &message(&whole)["reasoning_content"]), (&usage, &json!("Let me think.")));
    let streamed = chunks(&node, &with(body, json!({ "stream_options": { "include_usage": true } }))).await;
    assert_eq!(joined(&streamed, "reasoning_content"), "Let me think.");
    let (last, before) = streamed.split_last().unwrap();
    assert_eq!((&last["usage"], &last["choices"]), (&usage, &json!([])));
    assert!(before.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()), "{before:?}");
}

async fn a_repeated_call_is_answered_from_the_first(world: Arc<World>) {
    let node = world.node();
    let ask = async |text: &str| {
        let call = node.post("/v1/chat/completions").header("idempotency-key", "once").json(&asks("openai/fake-ok", text));
        within(call.send()).await
    };
    let (first, again) = (ask("go on").await, ask("go on").await);
    assert_eq!((first.status, first.json()), (200, again.json()), "{}", again.text());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    ask("something else").await.refused(400, "idempotency_key_reused");
}

async fn other_models_take_over(world: Arc<World>) {
    let node = world.node();
    let body = with(asks("openai/fake-401", "say hi"), json!({ "dispatch": { "fallbacks": ["local/echo"] } }));
    let whole = complete(&node, &body).await;
    assert_eq!((&message(&whole)["content"], &whole["model"]), (&json!("hi"), &json!("local/echo")));
    assert_eq!(joined(&chunks(&node, &body).await, "content"), "hi");
}

async fn a_cut_stream_ends_with_an_error(world: Arc<World>) {
    let node = world.node();
    let body = with(asks("openai/fake-chunks-6-cut-after-3", "go on"), json!({ "stream": true }));
    let answer = within(node.post("/v1/chat/completions").json(&body).send()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let events = super::events(&answer);
    assert!(events.len() > 1 && events.iter().all(|event| event != "[DONE]"), "{events:?}");
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!((&last["error"]["type"], &last["error"]["code"]), (&json!("server_error"), &json!("provider_cut")), "{last}");
}

async fn settings_reach_the_model(world: Arc<World>) {
    let node = world.node();
    let more = json!({ "temperature": 0.5, "top_p": 0.25, "max_completion_tokens": 77, "stop": "END", "seed": 7, "user": "ada", "n": 1 });
    complete(&node, &with(asks("openai/fake-ok", "go on"), more)).await;
    let sent = world.asked("fake-ok").await;
    assert_eq!((&sent["temperature"], &sent["top_p"], &sent["seed"]), (&json!(0.5), &json!(0.25), &json!(7)), "{sent}");
    let limit = sent.get("max_tokens").or(sent.get("max_completion_tokens"));
    assert_eq!((limit, &sent["stop"]), (Some(&json!(77)), &json!(["END"])), "{sent}");
}
