//! `/mcp`, word for word: tools that are published, calls that answer, fail, progress and wait for a person.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::external;
use crate::support::app::within;
use crate::support::call::Answer;
use crate::support::world::{KEY, Node, World};

on_both!(
    what_is_published_is_a_tool,
    a_call_runs_the_published_version,
    wrong_calls_are_refused,
    an_approval_is_asked_through_the_client,
    progress_is_told_to_those_who_ask,
    keys_see_what_they_may_execute,
);

const NEW: &str = "2026-07-28";
const OLD: &str = "2025-06-18";

async fn post(node: &Node, key: &str, version: &str, body: &Value) -> Answer {
    let call = node.bare(Method::POST, "/mcp").bearer(key).header("accept", "application/json, text/event-stream");
    let call = call.header("mcp-protocol-version", version).header("mcp-method", body["method"].as_str().unwrap());
    let call = match body["params"]["name"].as_str() {
        Some(name) => call.header("mcp-name", name),
        None => call,
    };
    within(call.json(body).send()).await
}

/// One call of a method. What every call says of its client stands in `_meta`, as the newer revision has it.
async fn rpc(node: &Node, key: &str, version: &str, method: &str, mut params: Value) -> Value {
    let about = json!({
        "io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": { "elicitation": {} },
    });
    let meta = params["_meta"].as_object().cloned().unwrap_or_default();
    let mut about = about.as_object().unwrap().clone();
    about.extend(meta);
    params["_meta"] = Value::Object(about);
    let answer = post(node, key, version, &json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let last = text.lines().rev().find_map(|line| line.strip_prefix("data: ").filter(|data| data.contains("\"id\":1")));
    serde_json::from_str(last.unwrap_or(&text)).unwrap_or_else(|_| panic!("{text}"))
}

async fn call(node: &Node, version: &str, name: &str, arguments: Value) -> Value {
    rpc(node, KEY, version, "tools/call", json!({ "name": name, "arguments": arguments })).await
}

async fn names(node: &Node, key: &str) -> Vec<String> {
    let list = rpc(node, key, NEW, "tools/list", json!({})).await;
    list["result"]["tools"]
        .as_array()
        .unwrap_or_else(|| panic!("{list}"))
        .iter()
        .map(|tool| tool["name"].as_str().unwrap().into())
        .collect()
}

async fn publish(node: &Node, noun: &str, document: Value) -> String {
    let id = node.post(&format!("/v1/{noun}")).json(&document).ok().await["id"].as_str().unwrap().to_owned();
    node.post(&format!("/v1/{noun}/{id}/publish")).ok().await;
    id
}

fn say(text: &str) -> Value {
    json!([{ "id": "a", "type": "prompt", "config": { "model": "local/echo", "userPrompt": text } }])
}

async fn what_is_published_is_a_tool(world: Arc<World>) {
    let node = world.node();
    node.post("/v1/flows").json(&json!({ "name": "Draft", "steps": say("say no") })).ok().await;
    let schema = json!({ "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] });
    publish(
        &node,
        "flows",
        json!({ "name": "Greet someone", "description": "Greets.", "inputSchema": schema, "steps": say("say hi {{name}}") }),
    )
    .await;
    publish(&node, "flows", json!({ "name": "Greet/someone", "steps": say("say other") })).await;
    publish(&node, "agents", json!({ "name": "Clerk", "config": { "model": "local/echo" } })).await;
    let names = names(&node, KEY).await;
    assert_eq!((names.len(), &names[0][..]), (3, "clerk"));
    assert!(names.contains(&"greet_someone".to_owned()) && names.iter().any(|name| name.starts_with("greet_someone_")), "{names:?}");
    let list = rpc(&node, KEY, OLD, "tools/list", json!({})).await;
    let tools = list["result"]["tools"].as_array().unwrap();
    let described = tools.iter().find(|tool| tool["description"] == "Greets.").unwrap();
    assert_eq!(described["inputSchema"], schema);
    assert_eq!(tools[0]["inputSchema"]["required"], json!(["message"]));
    let info = rpc(
        &node,
        KEY,
        OLD,
        "initialize",
        json!({ "protocolVersion": OLD, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } }),
    )
    .await;
    assert_eq!((&info["result"]["serverInfo"]["name"], &info["result"]["protocolVersion"]), (&json!("dispatch"), &json!(OLD)));
}

async fn a_call_runs_the_published_version(world: Arc<World>) {
    let node = world.node();
    let id = publish(&node, "flows", json!({ "name": "Greet", "steps": say("say hi {{name}}") })).await;
    node.bare(Method::PUT, &format!("/v1/flows/{id}")).bearer(KEY).json(&json!({ "steps": say("say later") })).ok().await;
    publish(&node, "agents", json!({ "name": "Clerk", "config": { "model": "local/echo" } })).await;
    for version in [OLD, NEW] {
        let answer = call(&node, version, "greet", json!({ "name": "Ada" })).await;
        assert_eq!((&answer["result"]["content"][0]["text"], &answer["result"]["isError"]), (&json!("hi Ada"), &json!(false)), "{answer}");
        let answer = call(&node, version, "clerk", json!({ "message": "say at your service" })).await;
        assert_eq!(answer["result"]["content"][0]["text"], "at your service", "{answer}");
    }
    let sum = json!([{ "id": "s", "type": "transform-data", "config": { "script": "return { sum: a + b };" } }]);
    publish(&node, "flows", json!({ "name": "Sum", "steps": sum })).await;
    assert_eq!(call(&node, NEW, "sum", json!({ "a": 1, "b": 2 })).await["result"]["structuredContent"], json!({ "sum": 3 }));
    let broken = json!([{ "id": "s", "type": "transform-data", "config": { "script": "throw new Error('no sum');" }, "onError": "fail" }]);
    publish(&node, "flows", json!({ "name": "Broken", "onStepError": "stop", "steps": broken })).await;
    let answer = call(&node, NEW, "broken", json!({})).await;
    assert_eq!(
        (&answer["result"]["isError"], &answer["result"]["structuredContent"]["status"]),
        (&json!(true), &json!("failed")),
        "{answer}"
    );
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("no sum"), "{answer}");
}

async fn wrong_calls_are_refused(world: Arc<World>) {
    let node = world.node();
    publish(&node, "agents", json!({ "name": "Clerk", "config": { "model": "local/echo" } })).await;
    let answer = call(&node, NEW, "none", json!({})).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["data"]["code"]), (&json!(-32602), &json!("not_found")), "{answer}");
    let answer = call(&node, NEW, "clerk", json!({ "message": 7 })).await;
    assert_eq!(answer["error"]["data"]["details"]["problems"][0]["pointer"], "/arguments/message", "{answer}");
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
    let bare = node.bare(Method::POST, "/mcp").header("accept", "application/json, text/event-stream").json(&body);
    bare.refused(401, "missing_api_key").await;
    let stale = rpc(&node, KEY, NEW, "tools/call", json!({ "name": "clerk", "requestState": "AAAA", "inputResponses": {} })).await;
    assert_eq!(stale["error"]["data"]["code"], "invalid_request_state", "{stale}");
}

async fn an_approval_is_asked_through_the_client(world: Arc<World>) {
    let node = world.node();
    let tools = json!({ "runtimeTools": [external("pay", &world.sink.url("/pay"), "POST")], "approval": { "require": true } });
    publish(&node, "agents", json!({ "name": "Payer", "config": { "model": "local/echo", "tools": tools } })).await;
    let ask = json!({ "message": "call pay {}" });
    let stranger = world.strangers_key().await;
    for (action, paid) in [(json!({ "action": "accept", "content": { "decision": "approved" } }), 1), (json!({ "action": "decline" }), 1)] {
        let node = world.node();
        let waiting = call(&node, NEW, "payer", ask.clone()).await["result"].clone();
        assert_eq!(waiting["resultType"], "input_required", "{waiting}");
        let question = &waiting["inputRequests"]["approval"];
        assert!(question["params"]["message"].as_str().unwrap().contains("`pay`"), "{question}");
        // Somebody else's key does not open what this one was given.
        let mut params = json!({ "name": "payer", "requestState": waiting["requestState"], "inputResponses": { "approval": action } });
        let refused = rpc(&node, &stranger, NEW, "tools/call", params.clone()).await;
        assert_eq!(refused["error"]["data"]["code"], "invalid_request_state", "{refused}");
        params["arguments"] = ask.clone();
        // Another server takes it up.
        let node = world.crash().await;
        let answer = rpc(&node, KEY, NEW, "tools/call", params.clone()).await;
        assert_eq!(answer["result"]["isError"], false, "{answer}");
        assert_eq!(world.sink.seen("/pay").len(), paid);
        // The same word again is answered alike, and does nothing.
        let again = rpc(&node, KEY, NEW, "tools/call", params).await;
        assert_eq!((&again["result"]["content"], world.sink.seen("/pay").len()), (&answer["result"]["content"], paid));
    }
    // Who does not know the question is told where it is answered.
    let answer = call(&world.node(), OLD, "payer", ask).await;
    assert_eq!(
        (&answer["result"]["isError"], &answer["result"]["structuredContent"]["status"]),
        (&json!(true), &json!("paused")),
        "{answer}"
    );
}

async fn progress_is_told_to_those_who_ask(world: Arc<World>) {
    let node = world.node();
    let steps = json!([
        { "id": "one", "type": "set-variable", "config": { "variableName": "x", "value": 1 } },
        { "id": "two", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "slow 50\nsay done" } },
    ]);
    publish(&node, "flows", json!({ "name": "Long", "steps": steps })).await;
    let params = json!({ "name": "long", "arguments": {}, "_meta": { "progressToken": "p1", "io.modelcontextprotocol/protocolVersion": NEW,
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" }, "io.modelcontextprotocol/clientCapabilities": {} } });
    let answer = post(&node, KEY, NEW, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params })).await;
    let told: Vec<Value> = answer.text().lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    assert!(told.len() >= 2, "{}", answer.text());
    assert_eq!((&told[0]["method"], &told[0]["params"]["progressToken"]), (&json!("notifications/progress"), &json!("p1")));
    assert_eq!(told.last().unwrap()["result"]["content"][0]["text"], "done");
}

async fn keys_see_what_they_may_execute(world: Arc<World>) {
    let node = world.node();
    publish(&node, "flows", json!({ "name": "Greet", "steps": say("say hi") })).await;
    publish(&node, "agents", json!({ "name": "Clerk", "config": { "model": "local/echo" } })).await;
    for (scope, seen) in [("FLOWS:EXECUTE", vec!["greet"]), ("AGENTS:EXECUTE", vec!["clerk"]), ("FLOWS:READ", vec![])] {
        assert_eq!(names(&node, &world.key_with(&[scope]).await).await, seen, "{scope}");
    }
    assert!(names(&node, &world.strangers_key().await).await.is_empty());
}
