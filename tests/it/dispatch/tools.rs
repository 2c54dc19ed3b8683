//! Saved and built-in tools, and tools that run a flow or an agent of their own.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, ask_with, external, flow, local};
use crate::support::world::{KEY, Node, World};

on_both!(
    a_saved_tool_is_called_by_id_and_by_name,
    tools_are_judged_like_those_in_place,
    a_tool_runs_a_flow,
    a_tool_asks_an_agent_that_calls_tools,
    a_child_of_a_tool_outlives_its_server,
    tools_in_tools_end_somewhere,
    built_in_tools_work,
    a_tool_is_called_without_a_model,
);

fn put(node: &Node, path: &str, body: &Value) -> crate::support::call::Call {
    node.bare(Method::PUT, path).bearer(KEY).json(body)
}

fn custom(name: &str, code: &str) -> Value {
    json!({
        "name": name, "description": "Counts.", "toolType": "custom",
        "parametersSchema": { "type": "object", "properties": { "n": { "type": "number" } } }, "config": { "code": code },
    })
}

async fn save(node: &Node, tool: &Value) -> String {
    node.post("/v1/tools").json(tool).ok().await["id"].as_str().unwrap().into()
}

/// What a prompt with these tools says when its model calls one.
async fn says(node: &Node, call: &str, tools: Value) -> String {
    let told = node.dispatch(&flow(json!([ask_with("work", &format!("call {call}"), tools)]))).await;
    assert_eq!(told.last().data["success"], true, "{:?}", told.last());
    told.streamed_text()
}

async fn a_saved_tool_is_called_by_id_and_by_name(world: Arc<World>) {
    let node = world.node();
    let id = save(&node, &custom("double", "return n * 2;")).await;
    for named in [id.clone(), "tool:double".into()] {
        assert!(says(&node, "double {\"n\": 21}", json!({ "toolIds": [named] })).await.contains("42"));
    }
    // A saved agent names it, and takes it as it is when it is run.
    let agent = json!({ "name": "Counter", "config": { "model": "local/echo", "tools": { "toolIds": [id] } } });
    let agent = node.post("/v1/agents").json(&agent).ok().await["id"].clone();
    let at = format!("/v1/tools/{id}");
    let changed = put(&node, &at, &json!({ "config": { "code": "return n * 3;" } })).ok().await;
    assert_eq!((&changed["name"], &changed["description"]), (&json!("double"), &json!("Counts.")));
    let body = json!({ "agent": { "agentId": agent }, "messages": [{ "role": "user", "content": "call double {\"n\": 7}" }] });
    assert!(node.dispatch(&body).await.streamed_text().contains("21"));
    // Its name is its own among the tenant's.
    node.post("/v1/tools").json(&custom("double", "return 1;")).refused(409, "already_exists").await;
    assert_eq!(node.get("/v1/tools").ok().await["data"][0]["id"], id);
    node.bare(Method::DELETE, &at).bearer(KEY).ok().await;
    node.get(&at).refused(404, "not_found").await;
    let refused = node.post("/v1/dispatch").json(&body).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/agent/agentId/config/tools/toolIds/0"], "{}", refused.text());
    // Neither is it left out in silence of an agent that a flow asks.
    let asks = flow(json!([{ "id": "a", "type": "execute-agent", "config": { "agentId": agent, "message": "call double {\"n\": 1}" } }]));
    let refused = node.post("/v1/dispatch").json(&asks).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/flow/steps/0/config/agentId"], "{}", refused.text());
    assert!(refused.text().contains(&id), "{}", refused.text());
}

async fn tools_are_judged_like_those_in_place(world: Arc<World>) {
    let node = world.node();
    let wrong = json!({ "name": "a b", "toolType": "custom", "parametersSchema": { "type": "array" }, "config": { "code": "return (" } });
    let refused = node.post("/v1/tools").json(&wrong).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/name", "/parametersSchema/type", "/config/code"]);
    let verdict = node.post("/v1/tools/validate").json(&wrong).ok().await;
    assert_eq!((&verdict["valid"], &verdict["issues"][0]["pointer"]), (&json!(false), &json!("/name")));
    assert_eq!(node.post("/v1/tools/validate").json(&custom("ok", "return 1;")).ok().await, json!({ "valid": true, "issues": [] }));
    let missing = "flow_01h455vb4pex5vsknk084sn02q";
    let tool = json!({ "name": "f", "toolType": "flow", "config": { "flowId": missing } });
    assert_eq!(node.post("/v1/tools").json(&tool).refused(422, "validation_failed").await.pointers(), ["/config/flowId"]);
    // In a dispatch the fault is told where it stands.
    let step = ask_with("work", "say hi", json!({ "toolIds": ["tool:none", "builtin:none", 7], "runtimeTools": [tool] }));
    let refused = node.post("/v1/dispatch").json(&flow(json!([step.clone()]))).refused(422, "validation_failed").await;
    let at = |rest: &str| format!("/flow/steps/0/config/tools/{rest}");
    assert_eq!(refused.pointers(), [at("toolIds/0"), at("toolIds/1"), at("toolIds/2"), at("runtimeTools/0/config/flowId")]);
    let refused = node.post("/v1/flows").json(&json!({ "name": "x", "steps": [step] })).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers().len(), 4);
    let inner = json!({ "name": "inner", "steps": [{ "id": "a", "type": "no-such-step", "config": {} }] });
    let tool = json!({ "name": "f", "toolType": "flow", "config": { "flow": inner } });
    let refused = node.post("/v1/tools").json(&tool).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/config/flow/steps/0/type"], "{}", refused.text());
}

async fn a_tool_runs_a_flow(world: Arc<World>) {
    let node = world.node();
    let steps =
        json!([{ "id": "sum", "type": "transform-data", "config": { "script": "return { sum: a + b };", "outputVariable": "sum" } }]);
    let saved = node.post("/v1/flows").json(&json!({ "name": "Sum", "steps": steps })).ok().await;
    let numbers =
        json!({ "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "number" } }, "required": ["a", "b"] });
    let tool =
        |config: Value| json!({ "name": "sum", "description": "Adds.", "toolType": "flow", "parametersSchema": numbers, "config": config });
    for config in [json!({ "flowId": saved["id"] }), json!({ "flow": { "name": "Sum", "steps": steps } })] {
        let told = node
            .dispatch(&flow(json!([ask_with("work", "call sum {\"a\": 20, \"b\": 22}", json!({ "runtimeTools": [tool(config)] }))])))
            .await;
        assert!(told.streamed_text().contains("42"), "{}", told.streamed_text());
        let (start, end) = (told.one("tool_start"), told.one("tool_complete"));
        assert_eq!((start.text("toolType"), &end.data["result"]), ("flow", &json!({ "sum": 42 })));
        let child = told.custom("dispatch.child_started")["executionId"].as_str().unwrap().to_owned();
        assert_eq!(node.execution(&child).await["status"], "completed");
    }
    // What the flow cannot do is told to the model, which goes on.
    let broken = json!({ "name": "Sum", "onStepError": "stop", "steps": [{ "id": "x", "type": "transform-data", "config": { "script": "throw new Error('no')" } }] });
    let told = node
        .dispatch(&flow(json!([ask_with(
            "work",
            "call sum {\"a\": 1, \"b\": 2}",
            json!({ "runtimeTools": [tool(json!({ "flow": broken }))] })
        )])))
        .await;
    assert_eq!((&told.one("tool_complete").data["success"], &told.last().data["success"]), (&json!(false), &json!(true)));
}

async fn a_tool_asks_an_agent_that_calls_tools(world: Arc<World>) {
    let node = world.node();
    let pay = external("pay", &world.sink.url("/pay"), "POST");
    let clerk = json!({ "name": "Clerk", "config": { "model": "local/echo", "tools": { "runtimeTools": [pay], "approval": { "require": true } } } });
    let clerk = node.post("/v1/agents").json(&clerk).ok().await["id"].clone();
    let tool = json!({ "name": "clerk", "description": "Pays.", "toolType": "subagent", "config": { "agentId": clerk } });
    let body = json!({
        "agent": { "name": "Boss", "model": "local/echo", "tools": { "runtimeTools": [tool] } },
        "messages": [{ "role": "user", "content": "call clerk {\"message\": \"call pay {}\"}" }],
        "options": { "budget": { "maxCalls": 10 } },
    });
    let mut reader = node.open(&body).await;
    let child = reader.until(|frame| frame.custom() == Some("dispatch.child_started")).await.data["value"]["executionId"]
        .as_str()
        .unwrap()
        .to_owned();
    // The agent below waits for a person; the one above waits for it.
    let asked = node.events(&child, None).await.until(|frame| frame.kind == "approval_start").await;
    assert_eq!(world.sink.seen("/pay").len(), 0);
    node.approve(&child, asked.text("approvalId"), "approved").await;
    let told = reader.rest().await;
    assert_eq!(told.one("tool_complete").data["success"], true, "{:?}", told.one("tool_complete"));
    assert_eq!((told.last().data["success"].clone(), world.sink.seen("/pay").len()), (json!(true), 1));
}

async fn a_child_of_a_tool_outlives_its_server(world: Arc<World>) {
    let node = world.node();
    let child = json!({ "name": "Ask", "steps": [ask_with("inner", "call pick {}", json!({ "runtimeTools": [local("pick")] }))] });
    let tool = json!({ "name": "deep", "description": "Asks.", "toolType": "flow", "config": { "flow": child } });
    let mut reader =
        node.open(&flow(json!([ask_with("work", "call deep {}", json!({ "runtimeTools": [tool] })), ask("after", "say end")]))).await;
    let started = reader.until(|frame| frame.custom() == Some("dispatch.child_started")).await;
    let (run, child) = (started.text("executionId").to_owned(), started.data["value"]["executionId"].as_str().unwrap().to_owned());
    node.events(&child, None).await.until(|frame| frame.kind == "await").await;
    let node = world.crash().await;
    node.resume(&child, json!({ "pick": "red" })).await;
    let mut reader = node.events(&run, None).await;
    let end = reader.until(|frame| frame.is_terminal()).await;
    assert_eq!(end.data["success"], true, "{end:?}");
    let log = node.log(&run).await;
    assert_eq!(log.all("tool_start").count(), 1, "the call was begun once");
    assert!(log.one("tool_complete").data["result"].to_string().contains("red"));
}

async fn tools_in_tools_end_somewhere(world: Arc<World>) {
    let node = world.node();
    let agent = json!({ "name": "Mirror", "config": { "model": "local/echo" } });
    let id = node.post("/v1/agents").json(&agent).ok().await["id"].as_str().unwrap().to_owned();
    let tool = json!({ "name": "mirror", "description": "Asks itself.", "toolType": "subagent", "config": { "agentId": id } });
    put(&node, &format!("/v1/agents/{id}"), &json!({ "config": { "model": "local/echo", "tools": { "runtimeTools": [tool] } } }))
        .ok()
        .await;
    let mut message = "say bottom".to_owned();
    for _ in 0..12 {
        message = format!("call mirror {}", json!({ "message": message }));
    }
    let body = json!({ "agent": { "agentId": id }, "messages": [{ "role": "user", "content": message }] });
    let result = node.result(&body).await;
    assert_eq!(result["status"], "completed", "{result}");
    assert!(result["finalOutput"].as_str().unwrap().contains("nested"), "{}", result["finalOutput"]);
}

async fn built_in_tools_work(world: Arc<World>) {
    let node = world.node();
    let list = node.get("/v1/tools/builtin").ok().await;
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|tool| tool["id"].as_str().unwrap()).collect();
    let tools = json!({ "toolIds": ids });
    assert!(says(&node, "get_current_time {}", tools.clone()).await.contains("20"));
    let saved = says(&node, "runtype_record_upsert {\"type\": \"t\", \"name\": \"r\", \"metadata\": {\"size\": 7}}", tools.clone()).await;
    assert!(saved.contains("runtype_record_upsert answered"), "{saved}");
    let read = says(&node, "runtype_record_get {\"type\": \"t\", \"name\": \"r\"}", tools.clone()).await;
    assert!(read.contains("\"size\":7") || read.contains("\"size\": 7"), "{read}");
    let listed = says(&node, "runtype_record_list {\"type\": \"t\"}", tools.clone()).await;
    assert!(listed.contains("\"name\":\"r\"") || listed.contains("\"name\": \"r\""), "{listed}");
    let fetched = says(&node, &format!("fetch_url {}", json!({ "url": world.sink.url("/page") })), tools).await;
    assert!(fetched.contains("fetch_url answered"), "{fetched}");
}

async fn a_tool_is_called_without_a_model(world: Arc<World>) {
    let node = world.node();
    let id = save(&node, &custom("double", "return n * 2;")).await;
    let call = json!({ "parameters": { "n": 4 }, "streamResponse": false });
    let result = node.post(&format!("/v1/tools/{id}/execute")).json(&call).ok().await;
    assert_eq!((&result["success"], &result["finalOutput"]), (&json!(true), &json!(8)), "{result}");
    // What a caller sends is no template.
    let echo = save(&node, &json!({ "name": "echo", "description": "x", "toolType": "custom", "parametersSchema": { "type": "object" }, "config": { "code": "return text;" } })).await;
    let call = json!({ "parameters": { "text": "{{parameters.text}}", "a.b c": 1 }, "streamResponse": false });
    let result = node.post(&format!("/v1/tools/{echo}/execute")).json(&call).ok().await;
    assert_eq!(result["finalOutput"], "{{parameters.text}}", "{result}");
    let step = json!([{ "id": "d", "type": "tool-call", "config": { "toolId": id, "parameters": { "n": 5 }, "outputVariable": "d" } }]);
    assert_eq!(node.result(&flow(step)).await["finalOutput"], 10);
    let step = json!([{ "id": "d", "type": "tool-call", "config": { "toolId": "tool_01h455vb4pex5vsknk084sn02q" } }]);
    let refused = node.post("/v1/dispatch").json(&flow(step)).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/flow/steps/0/config/toolId"]);
}
