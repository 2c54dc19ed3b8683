//! Saved and built-in tools, and tools that run a flow or an agent of their own.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, ask_with, external, flow, local};
use crate::support::sink::Reply;
use crate::support::world::{KEY, Node, World, until};

on_both!(
    a_saved_tool_is_called_by_id_and_by_name,
    tools_are_judged_like_those_in_place,
    a_tool_runs_a_flow,
    a_tool_asks_an_agent_that_calls_tools,
    a_child_of_a_tool_outlives_its_server,
    tools_in_tools_end_somewhere,
    built_in_tools_work,
    a_tool_is_called_without_a_model,
    a_graphql_operation_is_a_tool,
    some_calls_need_a_persons_word,
    artifacts_are_shown_beside_the_answer,
    an_agent_and_its_reader_share_a_state,
    an_agent_hands_tasks_to_others,
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
    assert!(result["result"].as_str().unwrap().contains("nested"), "{}", result["result"]);
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
    assert_eq!((&result["success"], &result["result"]), (&json!(true), &json!(8)), "{result}");
    // What a caller sends is no template.
    let echo = save(&node, &json!({ "name": "echo", "description": "x", "toolType": "custom", "parametersSchema": { "type": "object" }, "config": { "code": "return text;" } })).await;
    let call = json!({ "parameters": { "text": "{{parameters.text}}", "a.b c": 1 }, "streamResponse": false });
    let result = node.post(&format!("/v1/tools/{echo}/execute")).json(&call).ok().await;
    assert_eq!(result["result"], "{{parameters.text}}", "{result}");
    let step = json!([{ "id": "d", "type": "tool-call", "config": { "toolId": id, "parameters": { "n": 5 }, "outputVariable": "d" } }]);
    assert_eq!(node.result(&flow(step)).await["result"], 10);
    let step = json!([{ "id": "d", "type": "tool-call", "config": { "toolId": "tool_01h455vb4pex5vsknk084sn02q" } }]);
    let refused = node.post("/v1/dispatch").json(&flow(step)).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/flow/steps/0/config/toolId"]);
}

async fn a_graphql_operation_is_a_tool(world: Arc<World>) {
    let node = world.node();
    let query = "query Order($id: ID!) { order(id: $id) { id lines { name } } }";
    let tool = json!({
        "name": "order", "toolType": "graphql", "config": { "endpoint": world.sink.url("/graphql"), "query": query, "headers": { "x-shop": "7" } },
        "parametersSchema": { "type": "object", "properties": { "id": { "type": "string" } }, "required": ["id"] },
    });
    let (data, errors) = (json!({ "order": { "id": "{{x}}" } }), json!([{ "message": "no such order" }, { "message": "really" }]));
    world.sink.on(
        "/graphql",
        [
            Reply::json(json!({ "data": data })),
            Reply::json(json!({ "data": null, "errors": errors })),
            Reply::json(json!({ "data": data, "errors": errors })),
        ],
    );
    let told =
        node.dispatch(&flow(json!([ask_with("work", "call order {\"id\": \"a \\\"b\\\"\"}", json!({ "runtimeTools": [tool] }))]))).await;
    assert_eq!(told.one("tool_complete").data["result"], data, "{:?}", told.last());
    let seen = &world.sink.seen("/graphql")[0];
    assert_eq!((seen.json(), seen.header("x-shop")), (json!({ "query": query, "variables": { "id": "a \"b\"" } }), "7"));
    let call = json!({ "id": "c", "type": "tool-call", "config": { "tool": tool, "parameters": { "id": "1" } } });
    let told = node.dispatch(&flow(json!([call]))).await;
    assert_eq!(
        (&told.step("c")["code"], told.step("c")["error"].as_str().unwrap()),
        (&json!("tool_failed"), "the GraphQL server refused: no such order; really")
    );
    assert_eq!(node.dispatch(&flow(json!([call]))).await.step("c")["result"], json!({ "data": data, "errors": "no such order; really" }));
    let wrong = json!({ "name": "x", "toolType": "graphql", "config": { "url": "http://h/", "query": " " } });
    assert_eq!(node.post("/v1/tools").json(&wrong).refused(422, "validation_failed").await.pointers(), ["/config/query"]);
}

async fn some_calls_need_a_persons_word(world: Arc<World>) {
    let node = world.node();
    let refund = json!({
        "name": "refund", "toolType": "custom", "config": { "code": "return amount;" },
        "parametersSchema": { "type": "object", "properties": { "amount": { "type": "number" } } },
    });
    let tools = |when: &str| json!({ "runtimeTools": [refund], "approval": { "require": [{ "tool": "ref*", "when": when }] } });
    let ask = |amount: Value, when: &str| flow(json!([ask_with("work", &format!("call refund {{\"amount\": {amount}}}"), tools(when))]));
    let told = node.dispatch(&ask(json!(99), "amount > 100")).await;
    assert_eq!((told.all("approval_start").count(), &told.one("tool_complete").data["result"]), (0, &json!(99)));
    let told = node.begin("/v1/dispatch", &ask(json!(101), "amount > 100")).await;
    assert_eq!((told.last().kind.as_str(), &told.last().data["parameters"]), ("approval_start", &json!({ "amount": 101 })));
    for (when, at) in [("amount >", "/when"), ("amount.toFixed() === '1'", "/when")] {
        let refused = node.post("/v1/dispatch").json(&ask(json!(1), when)).refused(422, "validation_failed").await;
        assert_eq!(refused.pointers(), [format!("/flow/steps/0/config/tools/approval/require/0{at}")], "{when}");
    }
}

async fn artifacts_are_shown_beside_the_answer(world: Arc<World>) {
    let node = world.node();
    let agent = |artifacts: Value| json!({ "name": "Writer", "model": "local/echo", "artifacts": artifacts });
    let asked = |agent: Value, call: &str| json!({ "agent": agent, "messages": [{ "role": "user", "content": format!("call {call}") }] });
    let call = "emit_artifact_markdown {\"title\": \"Letter\", \"content\": \"# Dear {{secrets.x}}\"}\ncall emit_artifact_component {\"component\": \"Chart\", \"props\": {\"n\": 1}}";
    let told = node.dispatch(&asked(agent(json!({ "enabled": true })), call)).await;
    let kinds: Vec<&str> = told.kinds().into_iter().filter(|kind| kind.starts_with("artifact_")).collect();
    assert_eq!(kinds, ["artifact_start", "artifact_delta", "artifact_complete", "artifact_start", "artifact_update", "artifact_complete"]);
    let starts: Vec<&Value> = told.all("artifact_start").map(|frame| &frame.data).collect();
    assert_eq!(
        (&starts[0]["artifactType"], &starts[0]["title"], &starts[1]["component"]),
        (&json!("markdown"), &json!("Letter"), &json!("Chart"))
    );
    assert_eq!(told.one("artifact_delta").data["delta"], "# Dear {{secrets.x}}", "what a model says is no template");
    assert_eq!(told.one("artifact_update").data["props"], json!({ "n": 1 }));
    // Only what is switched on.
    let told = node.dispatch(&asked(agent(json!({ "enabled": true, "types": ["component"] })), call)).await;
    assert_eq!(told.all("artifact_start").count(), 1);
    let told = node.dispatch(&asked(agent(json!({ "enabled": false })), call)).await;
    assert_eq!(told.all("artifact_start").count(), 0);
}

async fn an_agent_and_its_reader_share_a_state(world: Arc<World>) {
    let node = world.node();
    let set = |set: Value| format!("call set_state {}", json!({ "set": set }));
    let asked = |calls: &[String]| {
        json!({
            "agent": { "name": "Planner", "model": "local/echo", "tools": { "toolIds": ["builtin:set_state"] } },
            "messages": [{ "role": "user", "content": calls.join("\n") }],
        })
    };
    let calls = [set(json!({ "plan": ["buy", "paint"], "a/b~c": 1 })), set(json!({ "done": true, "a/b~c": null, "never": null }))];
    let told = node.dispatch(&asked(&calls)).await;
    assert_eq!(told.one("state_snapshot").data["state"], json!({ "plan": ["buy", "paint"], "a/b~c": 1 }));
    let patch = &told.one("state_delta").data["patch"];
    assert_eq!(patch, &json!([{ "op": "add", "path": "/done", "value": true }, { "op": "remove", "path": "/a~1b~0c" }]));
    // What is too large changes nothing, and the model is told.
    let told = node.dispatch(&asked(&[set(json!({ "x": "y".repeat(70_000) }))])).await;
    assert_eq!(told.all("state_snapshot").count(), 0);
    assert_eq!(told.one("tool_complete").data["success"], false);
}

async fn an_agent_hands_tasks_to_others(world: Arc<World>) {
    let node = world.node();
    let tools = json!({
        "runtimeTools": [custom("double", "return n * 2;"), local("look")],
        "subagentConfig": { "toolPool": ["double"], "maxSpawnsPerRun": 1, "defaultMaxTurns": 3 },
    });
    let spawn = |task: &str| format!("call spawn_subagent {}", json!({ "task": task, "name": "helper", "instructions": "Be {{brief}}." }));
    let asked = json!({ "agent": { "name": "Chief", "model": "local/echo", "tools": tools }, "messages": [{ "role": "user", "content": format!("{}\n{}", spawn("call double {\"n\": 21}"), spawn("say no")) }] });
    let told = node.dispatch(&asked).await;
    let ends: Vec<&Value> = told.all("tool_complete").map(|frame| &frame.data).collect();
    assert!(
        ends[0]["result"].as_str().unwrap_or_default().contains("42") || ends[1]["result"].as_str().unwrap_or_default().contains("42"),
        "{ends:?}"
    );
    assert!(
        ends.iter().any(|end| end["error"].as_str().is_some_and(|error| error.contains("the limit of 1 calls of `spawn_subagent`"))),
        "{ends:?}"
    );
    let child = told.custom("dispatch.child_started")["executionId"].as_str().unwrap().to_owned();
    let execution = node.execution(&child).await;
    assert_eq!(
        (&execution["kind"], &execution["flowName"], &execution["status"]),
        (&json!("agent"), &json!("helper"), &json!("completed"))
    );
    // It was lent one tool, and none to spawn with; what a model wrote for it is no template.
    let log = node.log(&child).await;
    assert_eq!(log.one("tool_start").data["toolName"], "double");
    // What a person must approve they must approve there, too.
    let tools = json!({
        "runtimeTools": [custom("double", "return n * 2;")],
        "approval": { "require": [{ "tool": "double", "when": "n > 20" }] },
        "subagentConfig": { "defaultMaxTurns": 3 },
    });
    let task = spawn("call double {\"n\": 21}");
    let asked = json!({ "agent": { "name": "Chief", "model": "local/echo", "tools": tools }, "messages": [{ "role": "user", "content": task }], "async": true });
    node.post("/v1/dispatch").json(&asked).ok().await;
    let waits = |run: &Value| run["flowName"] == "helper" && run["status"] == "paused";
    let runs = until(&node, "/v1/executions", |runs| runs["data"].as_array().unwrap().iter().any(waits)).await;
    let child = runs["data"].as_array().unwrap().iter().find(|run| waits(run)).unwrap()["id"].as_str().unwrap().to_owned();
    let log = node.log(&child).await;
    assert_eq!((log.one("approval_start").data["toolName"].as_str(), log.all("tool_start").count()), (Some("double"), 0));
    let wrong = json!({ "subagentConfig": { "toolPool": ["none"], "maxTurnsLimit": 101 } });
    let refused = node.post("/v1/dispatch").json(&flow(json!([ask_with("a", "say", wrong)]))).refused(422, "validation_failed").await;
    let at = |rest: &str| format!("/flow/steps/0/config/tools/subagentConfig/{rest}");
    assert_eq!(refused.pointers(), [at("maxTurnsLimit"), at("toolPool/0")]);
}
