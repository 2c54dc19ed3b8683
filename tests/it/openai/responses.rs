//! Responses, whole: items, tools, schemas, reasoning, and what is refused.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::with;
use crate::support::app::within;
use crate::support::world::{Node, World};

on_both!(a_text_is_a_message, calls_are_items_and_their_outputs_continue_them, a_repeated_call_gives_the_first_response);
on_one!(Sqlite: an_answer_takes_the_form_of_a_schema, reasoning_goes_back_to_its_model, settings_reach_the_model, agents_answer_like_models,
    parameters_at_fault_are_named, failures_have_openai_s_status_and_code, keys_and_scopes);

/// A request for a response.
pub fn asks(model: &str, input: impl Into<Value>) -> Value {
    let input: Value = input.into();
    json!({ "model": model, "input": input })
}

/// The whole response, with what holds for every one.
pub async fn respond(node: &Node, body: &Value) -> Value {
    let answer = within(node.post("/v1/responses").json(body).send()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let response = answer.json();
    assert_eq!(response["id"], answer.header("x-execution-id").unwrap().replace("exec_", "resp_"));
    assert_eq!((&response["object"], &response["error"]), (&json!("response"), &Value::Null), "{response}");
    assert!(response["created_at"].as_i64().unwrap() > 1_700_000_000, "{response}");
    response
}

/// The text of a response's messages.
pub fn text_of(response: &Value) -> String {
    let items = response["output"].as_array().unwrap().iter().filter(|item| item["type"] == "message");
    items.filter_map(|item| item["content"][0]["text"].as_str()).collect()
}

fn weather() -> Value {
    json!({
        "type": "function", "name": "get_weather", "description": "The weather.", "strict": true,
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] },
    })
}

async fn a_text_is_a_message(world: Arc<World>) {
    let node = world.node();
    let body = with(asks("local/echo", "say Hello there"), json!({ "metadata": { "of": "Ada" }, "instructions": "Be brief." }));
    let response = respond(&node, &body).await;
    let run = response["id"].as_str().unwrap().strip_prefix("resp_").unwrap().to_owned();
    let part = json!({ "type": "output_text", "text": "Hello there", "annotations": [], "logprobs": [] });
    let message = json!({ "id": format!("msg_{run}"), "type": "message", "role": "assistant", "status": "completed", "content": [part] });
    assert_eq!(response["output"], json!([message]));
    assert_eq!(
        (&response["status"], &response["model"], &response["metadata"]),
        (&json!("completed"), &json!("local/echo"), &json!({ "of": "Ada" }))
    );
    let usage = &response["usage"];
    assert!(usage["input_tokens"].as_u64().unwrap() > 0, "{usage}");
    assert_eq!(usage["total_tokens"].as_u64(), Some(usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap()));
    assert_eq!(
        (&response["instructions"], &response["store"], &response["parallel_tool_calls"]),
        (&json!("Be brief."), &json!(true), &json!(true))
    );
    assert!(response["completed_at"].is_i64() && response["incomplete_details"].is_null(), "{response}");
    let shown = node.execution(&format!("exec_{run}")).await;
    assert_eq!(
        (&shown["status"], &shown["flowName"], &shown["metadata"]),
        (&json!("completed"), &json!("Response"), &json!({ "of": "Ada" }))
    );
}

async fn calls_are_items_and_their_outputs_continue_them(world: Arc<World>) {
    let node = world.node();
    let user = json!({ "role": "user", "content": [{ "type": "input_text", "text": "call get_weather {\"city\":\"Oslo\"}\ncall get_weather {\"city\":\"Rome\"}" }] });
    let body = with(asks("local/echo", json!([user])), json!({ "tools": [weather()] }));
    let asked = respond(&node, &body).await;
    let calls = asked["output"].as_array().unwrap().clone();
    let told: Vec<_> = calls
        .iter()
        .map(|call| (call["type"].as_str().unwrap(), call["name"].as_str().unwrap(), call["arguments"].as_str().unwrap()))
        .collect();
    let expected = |arguments| ("function_call", "get_weather", arguments);
    assert_eq!(told, [expected("{\"city\":\"Oslo\"}"), expected("{\"city\":\"Rome\"}")]);
    assert_ne!(calls[0]["call_id"], calls[1]["call_id"]);
    assert_eq!((&asked["status"], &asked["tools"][0]["name"]), (&json!("completed"), &json!("get_weather")));
    let output = |call: &Value, text: &str| json!({ "type": "function_call_output", "call_id": call["call_id"], "output": text });
    let outputs = [output(&calls[0], "rain"), output(&calls[1], "sun")];
    let whole: Vec<Value> = [user].into_iter().chain(calls.clone()).chain(outputs.clone()).collect();
    // Either the whole conversation comes again, or only what is new of it.
    for next in [
        with(body.clone(), json!({ "input": whole })),
        with(body.clone(), json!({ "input": outputs, "previous_response_id": asked["id"] })),
    ] {
        let told = respond(&node, &next).await;
        assert_eq!(text_of(&told), "get_weather answered: rain\nget_weather answered: sun", "{told}");
    }
    let one = respond(&node, &with(body, json!({ "parallel_tool_calls": false }))).await;
    assert_eq!(one["output"].as_array().unwrap().len(), 1);
}

async fn an_answer_takes_the_form_of_a_schema(world: Arc<World>) {
    let node = world.node();
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer", "minimum": 3 } }, "required": ["n"] });
    let format = json!({ "type": "json_schema", "name": "answer", "strict": true, "schema": schema });
    let response = respond(&node, &with(asks("local/echo", "a number"), json!({ "text": { "format": format } }))).await;
    assert_eq!((text_of(&response).as_str(), &response["text"]["format"]), ("{\"n\":3}", &format));
    let body = with(asks("local/echo", "json {\"a\":1}"), json!({ "text": { "format": { "type": "json_object" } } }));
    assert_eq!(text_of(&respond(&node, &body).await), "{\"a\":1}");
}

async fn reasoning_goes_back_to_its_model(world: Arc<World>) {
    let node = world.node();
    let body = asks("openai/fake-reasoning", "think");
    let plain = respond(&node, &body).await;
    let item = &plain["output"][0];
    assert_eq!((&item["type"], &item["summary"][0]["text"]), (&json!("reasoning"), &json!("Let me think.")), "{plain}");
    assert!(item.get("encrypted_content").is_none() && plain["output"][1]["type"] == "message", "{plain}");
    let details = (&plain["usage"]["input_tokens_details"]["cached_tokens"], &plain["usage"]["output_tokens_details"]["reasoning_tokens"]);
    assert_eq!(details, (&json!(40), &json!(7)));
    let sealed = with(body.clone(), json!({ "include": ["reasoning.encrypted_content"], "store": false }));
    let first = respond(&node, &sealed).await;
    assert!(first["output"][0]["encrypted_content"].as_str().is_some_and(|text| text.starts_with("dsp1.")), "{first}");
    let mut input = vec![json!({ "role": "user", "content": "think" })];
    input.extend(first["output"].as_array().unwrap().clone());
    input.push(json!({ "role": "user", "content": "and now?" }));
    respond(&node, &with(sealed, json!({ "input": input }))).await;
    let sent = world.asked("fake-reasoning").await;
    assert_eq!(sent["messages"][1]["reasoning_content"], "Let me think.", "{sent}");
    // By its id the same comes without being sent.
    respond(&node, &json!({ "model": "openai/fake-reasoning", "input": "by id", "previous_response_id": plain["id"] })).await;
    let sent = world.asked("fake-reasoning").await;
    let messages = sent["messages"].as_array().unwrap();
    assert_eq!(
        (messages.len(), &messages[1]["reasoning_content"], &messages[2]["content"]),
        (3, &json!("Let me think."), &json!("by id")),
        "{sent}"
    );
    // Another model gets none of it.
    respond(&node, &json!({ "model": "openai/fake-ok", "input": "by id", "previous_response_id": plain["id"] })).await;
    assert!(world.asked("fake-ok").await["messages"][1].get("reasoning_content").is_none());
}

async fn settings_reach_the_model(world: Arc<World>) {
    let node = world.node();
    let picture = json!([{ "type": "input_text", "text": "What is it?" }, { "type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low" }]);
    let more = json!({ "temperature": 0.5, "top_p": 0.25, "max_output_tokens": 77, "instructions": "Be brief.", "user": "ada", "truncation": "disabled" });
    let response =
        respond(&node, &with(asks("openai/fake-ok", json!([{ "type": "message", "role": "user", "content": picture }])), more)).await;
    let sent = world.asked("fake-ok").await;
    assert_eq!(
        (&sent["temperature"], &sent["top_p"], &sent["messages"][0]["content"]),
        (&json!(0.5), &json!(0.25), &json!("Be brief.")),
        "{sent}"
    );
    let limit = sent.get("max_tokens").or(sent.get("max_completion_tokens"));
    assert_eq!(limit, Some(&json!(77)), "{sent}");
    assert_eq!(sent["messages"][1]["content"][1]["image_url"]["detail"], "low", "{sent}");
    assert_eq!((&response["temperature"], &response["max_output_tokens"], &response["user"]), (&json!(0.5), &json!(77), &json!("ada")));
}

async fn agents_answer_like_models(world: Arc<World>) {
    let node = world.node();
    node.post("/v1/agents").json(&json!({ "name": "Desk", "model": "local/echo", "systemPrompt": "Be brief." })).ok().await;
    let response = respond(&node, &asks("agent:Desk", "say at your service")).await;
    assert_eq!((text_of(&response).as_str(), &response["model"]), ("at your service", &json!("agent:Desk")));
    let refused = node.post("/v1/responses").json(&with(asks("agent:Desk", "x"), json!({ "temperature": 1 })));
    assert_eq!(refused.refused(400, "validation_failed").await.json()["error"]["param"], "temperature");
}

async fn a_repeated_call_gives_the_first_response(world: Arc<World>) {
    let node = world.node();
    let ask = async |text: &str| {
        let call = node.post("/v1/responses").header("idempotency-key", "once").json(&asks("openai/fake-ok", text));
        within(call.send()).await
    };
    let (first, again) = (ask("go on").await, ask("go on").await);
    assert_eq!((first.status, first.json()), (200, again.json()), "{}", again.text());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    ask("something else").await.refused(400, "idempotency_key_reused");
}

async fn parameters_at_fault_are_named(world: Arc<World>) {
    let node = world.node();
    let schema = json!({ "format": { "type": "json_schema", "name": "x", "schema": { "type": 7 } } });
    let function = |name: &str, more: Value| with(json!({ "type": "function", "name": name }), more);
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    let call = json!({ "type": "function_call", "call_id": "c1", "name": "act", "arguments": "{}" });
    for (more, param) in [
        (json!({ "input": null }), "input"),
        (json!({ "input": 7 }), "input"),
        (json!({ "input": user(json!([{ "type": "video", "video": 1 }])) }), "input[0].content[0]"),
        (json!({ "input": user(json!([{ "type": "input_file", "file_id": "file-1" }])) }), "input[0].content[0].file_id"),
        (json!({ "input": [{ "type": "item_reference", "id": "msg_1" }] }), "input[0].type"),
        (json!({ "input": [call] }), "input[0]"),
        (json!({ "input": [{ "type": "function_call_output", "call_id": "c9", "output": "x" }] }), "input[0].call_id"),
        (json!({ "temperature": 3 }), "temperature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "max_output_tokens": 0 }), "max_output_tokens"),
        (json!({ "reasoning": { "effort": "extreme" } }), "reasoning.effort"),
        (json!({ "text": schema }), "text.format.schema"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tools": [function("a b", json!({}))] }), "tools[0].name"),
        (json!({ "tools": [function("a", json!({ "parameters": { "type": "string" } }))] }), "tools[0].parameters"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "truncation": "auto" }), "truncation"),
        (json!({ "conversation": "conv_1" }), "conversation"),
        (json!({ "include": ["message.output_text.logprobs"] }), "include[0]"),
        (json!({ "background": true, "store": false }), "background"),
        (json!({ "made_up": true }), "made_up"),
        (json!({ "dispatch": { "fallbacks": ["nobody/knows"] } }), "dispatch.fallbacks[0]"),
    ] {
        let refused = node.post("/v1/responses").json(&with(asks("local/echo", "hi"), more.clone()));
        let error = refused.refused(400, "validation_failed").await.json()["error"].clone();
        assert!(error["param"].as_str().is_some_and(|found| found.starts_with(param)), "{more}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

async fn failures_have_openai_s_status_and_code(world: Arc<World>) {
    let node = world.node();
    for (model, status, kind, code, retry) in [
        ("nobody/knows", 404, "invalid_request_error", "model_not_found", "false"),
        ("openai/fake-context", 400, "invalid_request_error", "context_length_exceeded", "false"),
        ("openai/fake-billing", 429, "insufficient_quota", "insufficient_quota", "false"),
    ] {
        for stream in [false, true] {
            let call = node.post("/v1/responses").json(&with(asks(model, "hi"), json!({ "stream": stream })));
            let refused = call.refused(status, code).await;
            // Clients of OpenAI repeat a 429 unless they are told not to.
            assert_eq!((&refused.json()["error"]["type"], refused.header("x-should-retry")), (&json!(kind), Some(retry)), "{model}");
        }
    }
}

async fn keys_and_scopes(world: Arc<World>) {
    let node = world.node();
    let body = asks("local/echo", "hi");
    let call = || node.bare(Method::POST, "/v1/responses").json(&body);
    call().refused(401, "missing_api_key").await;
    let reads = world.key_with(&["FLOWS:READ"]).await;
    call().bearer(&reads).refused(403, "missing_scope").await;
    let runs = world.key_with(&["FLOWS:EXECUTE"]).await;
    call().bearer(&runs).ok().await;
}
