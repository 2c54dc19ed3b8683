//! Requests that are wrong: told in full, pointed at, and without a trace in the server.

use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::{ask, flow, set};
use crate::support::call::Answer;
use crate::support::world::{Node, World};

on_one!(Sqlite:
    what_is_not_json,
    wrong_types_everywhere,
    wrong_types_in_steps,
    messages_speak_of_documents,
    graphs_that_are_none,
    templates_that_do_not_parse,
    unknown_things_are_named_with_the_nearest,
    all_faults_at_once,
    what_is_too_large,
    programs_that_never_end,
    models_nobody_configured,
    other_people_s_things,
    continuations_that_are_wrong,
);

/// Nothing was begun or saved, and the next dispatch works.
async fn untouched(node: &Node) {
    for path in ["/v1/executions", "/v1/flows", "/v1/records"] {
        assert_eq!(node.get(path).ok().await["data"], json!([]), "{path}");
    }
    assert_eq!(node.result(&flow(json!([set("a", json!(1))]))).await["success"], true);
}

async fn invalid(node: &Node, body: &Value) -> Answer {
    node.post("/v1/dispatch").json(body).refused(422, "validation_failed").await
}

async fn pointers(node: &Node, body: &Value) -> Vec<String> {
    invalid(node, body).await.pointers()
}

fn messages(answer: &Answer) -> String {
    answer.json()["details"]["problems"].to_string()
}

async fn what_is_not_json(world: Arc<World>) {
    let node = world.node();
    for path in ["", "/resume", "/approve", "/continue"] {
        let post = || node.post(&format!("/v1/dispatch{path}"));
        for text in ["", "{", "{\"flow\": }", "nul"] {
            post().body("application/json", text).refused(400, "invalid_json").await;
        }
        assert_eq!(post().body("application/json", "[]").refused(422, "validation_failed").await.pointers(), [""]);
        post().body("text/plain", "{}").refused(415, "unsupported_media_type").await;
        // It is unclear which of two members of one name was meant.
        let twice = r#"{"flow":{"name":"f","steps":[{"id":"a","type":"set-variable","config":{"value":1,"value":2}}]},"messages":[{"role":"user","role":"user"}]}"#;
        if path.is_empty() {
            assert_eq!(
                post().body("application/json", twice).refused(422, "validation_failed").await.pointers(),
                ["/flow/steps/0/config/value"]
            );
        }
        node.bare(reqwest::Method::POST, &format!("/v1/dispatch{path}")).json(&json!({})).refused(401, "missing_api_key").await;
        node.bare(reqwest::Method::POST, &format!("/v1/dispatch{path}"))
            .bearer("wrong")
            .json(&json!({}))
            .refused(401, "invalid_api_key")
            .await;
    }
    untouched(&node).await;
}

async fn wrong_types_everywhere(world: Arc<World>) {
    let node = world.node();
    let good = flow(json!([ask("a", "say a")]));
    let wrong = [
        ("flow", json!("text"), "/flow"),
        ("flow", json!([]), "/flow"),
        ("flow", json!({ "name": "x", "steps": {} }), "/flow/steps"),
        ("flow", json!({ "name": 5, "steps": [] }), "/flow/name"),
        ("flow", json!({ "name": "a\0b", "steps": [] }), "/flow/name"),
        ("flow", json!({ "name": "a\nb", "steps": [] }), "/flow/name"),
        ("flow", json!({ "name": "x" }), "/flow/steps"),
        ("flow", json!({ "name": "x", "steps": [], "maxParallel": "two" }), "/flow/maxParallel"),
        ("flow", json!({ "name": "x", "steps": [], "timeoutMs": -1 }), "/flow/timeoutMs"),
        ("flow", json!({ "name": "x", "steps": [], "onStepError": 5 }), "/flow/onStepError"),
        ("flow", json!({ "id": 5 }), "/flow/id"),
        ("record", json!("text"), "/record"),
        ("record", json!({ "metadata": [] }), "/record/metadata"),
        ("record", json!({ "id": 5 }), "/record/id"),
        ("record", json!({ "type": "a\0b", "name": "x", "metadata": {} }), "/record/type"),
        ("record", json!({ "type": "x", "name": "a\0b", "metadata": {} }), "/record/name"),
        ("messages", json!({}), "/messages"),
        ("messages", json!([5]), "/messages/0/role"),
        ("messages", json!([{ "role": "user", "content": 5 }]), "/messages/0/content"),
        ("inputs", json!([]), "/inputs"),
        ("inputs", json!("x"), "/inputs"),
        ("clientTools", json!({}), "/clientTools"),
        ("clientTools", json!([5]), "/clientTools/0"),
        ("clientTools", json!([{ "name": "a", "origin": "mars" }]), "/clientTools/0/origin"),
        ("clientTools", json!([{ "name": "a b" }]), "/clientTools/0/name"),
        ("clientTools", vec![json!({ "name": "a" }); 1_001].into(), "/clientTools"),
        ("clientToolsPolicy", json!({ "allowlist": vec!["a"; 1_001] }), "/clientToolsPolicy/allowlist"),
        ("clientToolsPolicy", json!({ "allowlist": ["a", "a".repeat(201)] }), "/clientToolsPolicy/allowlist/1"),
        ("secrets", json!([]), "/secrets"),
        ("secrets", json!({ "a": 5 }), "/secrets/a"),
        ("options", json!("text"), "/options"),
        ("options", json!({ "streamResponse": "yes" }), "/options/streamResponse"),
        ("options", json!({ "stepTimeoutMs": -5 }), "/options/stepTimeoutMs"),
        ("options", json!({ "stepTimeoutMs": 0 }), "/options/stepTimeoutMs"),
        ("options", json!({ "budget": { "maxCost": -1 } }), "/options/budget/maxCost"),
        ("options", json!({ "budget": { "maxCalls": 1.5 } }), "/options/budget/maxCalls"),
        ("async", json!("yes"), "/async"),
        ("streamResponse", json!(1), "/streamResponse"),
        ("versionId", json!(5), "/versionId"),
        ("flowId", json!(5), "/flowId"),
        ("agent", json!({ "agentId": "agent_1" }), "/agent/agentId"),
        ("agent", json!({ "name": " ", "model": "gpt-4" }), "/agent/name"),
        ("agent", json!([]), "/agent"),
    ];
    for (key, value, at) in wrong {
        let mut body = good.clone();
        body[key] = value;
        let found = pointers(&node, &body).await;
        assert!(found.iter().any(|found| found == at), "{key}: {} points at {found:?}, not at {at}", body[key]);
    }
    assert_eq!(pointers(&node, &json!({})).await, ["/flow"]);
    assert_eq!(pointers(&node, &json!({ "agent": { "agentId": "x" }, "messages": [] })).await, ["/messages", "/agent/agentId"]);
    // Null is absent, and unknown keys are somebody's extension.
    let mut null = good.clone();
    for key in [
        "record",
        "messages",
        "inputs",
        "clientTools",
        "secrets",
        "options",
        "async",
        "streamResponse",
        "versionId",
        "flowId",
        "agent",
        "metadata",
        "context",
    ] {
        null[key] = Value::Null;
    }
    null["somethingNew"] = json!({ "x": 1 });
    assert_eq!(node.result(&null).await["success"], true);
}

async fn wrong_types_in_steps(world: Arc<World>) {
    let node = world.node();
    let wrong = [
        ("id", json!(5), "/id"),
        ("id", json!("a/b"), "/id"),
        ("id", json!("a\0b"), "/id"),
        ("id", json!("a\u{7f}"), "/id"),
        ("name", json!(5), "/name"),
        ("type", json!(5), "/type"),
        ("type", Value::Null, "/type"),
        ("config", json!([]), "/config"),
        ("config", json!("x"), "/config"),
        ("when", json!(5), "/when"),
        ("when", json!(true), "/when"),
        ("after", json!(5), "/after"),
        ("after", json!([5]), "/after"),
        ("enabled", json!("no"), "/enabled"),
        ("order", json!("first"), "/order"),
        ("outputVariable", json!(5), "/outputVariable"),
        ("outputVariable", json!("_record"), "/config/outputVariable"),
        ("streamOutput", json!("no"), "/streamOutput"),
        ("timeoutMs", json!("long"), "/timeoutMs"),
        ("retry", json!(3), "/retry"),
        ("retry", json!({ "maxAttempts": 6 }), "/retry/maxAttempts"),
        ("retry", json!({ "maxAttempts": "three" }), "/retry/maxAttempts"),
        ("retry", json!({ "delayMs": -1 }), "/retry/delayMs"),
        ("retry", json!({ "backoff": "random" }), "/retry/backoff"),
        ("onError", json!("panic"), "/onError"),
        ("onError", json!(5), "/onError"),
        ("when", json!("true); while(1){} (1"), "/when"),
        ("config", json!({ "variableName": "x", "value": 1, "outputVariable": [] }), "/config/outputVariable"),
        ("config", json!({ "variableName": "x", "value": 1, "errorHandling": "stop" }), "/config/errorHandling"),
        (
            "config",
            json!({ "variableName": "x", "value": 1, "errorHandling": { "retry": { "maxAttempts": 6 } } }),
            "/config/errorHandling/retry/maxAttempts",
        ),
        ("config", json!({ "variableName": "x", "value": 1, "errorHandling": { "fallbacks": "x" } }), "/config/errorHandling/fallbacks"),
    ];
    for (key, value, at) in wrong {
        let mut body = flow(json!([set("first", json!(1)), set("a", json!(1))]));
        body["flow"]["steps"][1][key] = value;
        let found = pointers(&node, &body).await;
        assert_eq!(found, [format!("/flow/steps/1{at}")], "{key}: {}", body["flow"]["steps"][1][key]);
    }
    // One that is disabled is held to the same forms; what it would do is not looked at.
    for (key, value) in [
        ("type", json!(5)),
        ("type", Value::Null),
        ("when", json!(5)),
        ("config", json!("x")),
        ("after", json!([5])),
        ("streamOutput", json!("no")),
        ("timeoutMs", json!("long")),
        ("retry", json!(3)),
        ("onError", json!(5)),
    ] {
        let mut body = flow(json!([set("first", json!(1)), set("a", json!(1))]));
        body["flow"]["steps"][1]["enabled"] = json!(false);
        body["flow"]["steps"][1][key] = value;
        assert_eq!(pointers(&node, &body).await, [format!("/flow/steps/1/{key}")], "{key}");
    }
    let configs = [
        ("prompt", json!({ "model": 5 }), "/model"),
        ("prompt", json!({ "userPrompt": "x" }), "/model"),
        ("prompt", json!({ "model": "local/echo" }), "/userPrompt"),
        ("prompt", json!({ "model": "local/echo", "userPrompt": "x", "temperature": 9 }), "/temperature"),
        ("prompt", json!({ "model": "local/echo", "userPrompt": "x", "tools": { "maxToolCalls": "many" } }), "/tools/maxToolCalls"),
        ("prompt", json!({ "model": "local/echo", "userPrompt": "x", "tools": { "toolIds": ["builtin:x"] } }), "/tools/toolIds/0"),
        ("prompt", json!({ "model": "local/echo", "userPrompt": "x", "tools": { "toolIds": vec!["builtin:x"; 1_001] } }), "/tools/toolIds"),
        ("prompt", json!({ "model": "local/echo", "userPrompt": "x", "fallbacks": vec!["local/echo"; 21] }), "/fallbacks"),
        (
            "prompt",
            json!({ "model": "local/echo", "userPrompt": "x", "tools": { "runtimeTools": [{ "name": "t", "toolType": "magic" }] } }),
            "/tools/runtimeTools/0/toolType",
        ),
        ("prompt", json!({ "model": "local/echo", "userPrompt": "x", "responseFormat": "yaml" }), "/responseFormat"),
        ("set-variable", json!({ "value": 1 }), "/variableName"),
        ("set-variable", json!({ "variableName": "_x" }), "/variableName"),
        ("conditional", json!({}), "/condition"),
        ("execute-agent", json!({ "message": "x" }), "/agentId"),
        ("execute-agent", json!({ "agentId": "agent_x" }), "/message"),
        ("execute-agent", json!({ "agent": { "name": "a" }, "message": "x" }), "/agent/model"),
        ("execute-agent", json!({ "agent": { "name": "a", "model": "local/echo", "temperature": 3 }, "message": "x" }), "/agent"),
        ("execute-agent", json!({ "agent": { "name": "a", "model": "local/echo" }, "message": "{{" }), "/message"),
        ("conditional", json!({ "condition": "1", "trueSteps": "x" }), "/trueSteps"),
        ("transform-data", json!({ "script": "return (" }), "/script"),
        ("transform-data", json!({ "script": "1", "language": "python" }), "/language"),
        ("fetch-url", json!({}), "/url"),
        ("fetch-url", json!({ "http": { "url": "http://x", "method": "BREW" } }), "/http/method"),
        ("fetch-url", json!({ "url": "http://x", "headers": { "a": [] } }), "/headers/a"),
        ("api-call", json!({ "url": "http://x", "auth": { "type": "magic" } }), "/auth/type"),
        ("wait-until", json!({}), ""),
        ("wait-for-signal", json!({ "name": "" }), "/name"),
        ("wait-for-signal", json!({ "name": "x".repeat(201) }), "/name"),
        ("transform-data", json!({ "script": "return 1 })(); while(true){} (function(){" }), "/script"),
        (
            "prompt",
            json!({ "model": "local/echo", "userPrompt": "x", "tools": { "approval": { "require": true, "timeout": 2_592_000_001_u64 } } }),
            "/tools/approval/timeout",
        ),
        (
            "tool-call",
            json!({ "tool": { "name": "t", "toolType": "local" }, "approval": { "timeout": 2_592_000_001_u64 } }),
            "/approval/timeout",
        ),
        ("run-flow", json!({ "flow": { "name": "x", "steps": [set("a", json!("{{"))] } }), "/flow/steps/0/config/value"),
        ("run-flow", json!({ "flow": { "name": "x", "steps": [{ "type": "promt" }] } }), "/flow/steps/0/type"),
        ("conditional", json!({ "condition": "1", "trueSteps": [{ "id": "a\0", "type": "prompt" }] }), "/trueSteps/0/id"),
        ("wait-until", json!({ "delayMs": 99_999_999_999_u64 }), "/delayMs"),
        ("send-stream", json!({}), ""),
        ("tool-call", json!({}), "/tool"),
        ("tool-call", json!({ "toolId": "tool_x" }), "/toolId"),
        ("get-record", json!({}), ""),
        ("list-records", json!({ "recordType": "x", "limit": 0 }), "/limit"),
        ("list-records", json!({ "recordFilter": { "where": { "field": "a", "op": "like?" } } }), "/recordFilter/where/op"),
        ("update-record", json!({ "recordId": "x", "updates": 5 }), "/updates"),
        ("upsert-record", json!({ "recordType": "x" }), "/sourceVariable"),
    ];
    let mut elsewhere = Vec::new();
    for (kind, config, at) in configs {
        let body = flow(json!([{ "id": "a", "type": kind, "config": config }]));
        let found = pointers(&node, &body).await;
        if !found.contains(&format!("/flow/steps/0/config{at}")) {
            elsewhere.push(format!("{kind} {}: {found:?}", body["flow"]["steps"][0]["config"]));
        }
    }
    assert_eq!(elsewhere, [] as [String; 0]);
}

async fn messages_speak_of_documents(world: Arc<World>) {
    let node = world.node();
    let schema = |schema: Value| json!([{ "name": "t", "toolType": "local", "parametersSchema": schema }]);
    let prompt = |tools: Value| flow(json!([{ "type": "prompt", "config": { "model": "local/echo", "userPrompt": "x", "tools": tools } }]));
    for (body, says) in [
        (prompt(json!({ "approval": { "require": [5] } })), "a list of tool names"),
        (prompt(json!({ "approval": 5 })), "expected an object"),
        (prompt(json!({ "runtimeTools": schema(json!({ "type": "object", "$ref": "http://127.0.0.1:9/x" })) })), "not followed"),
        (flow(json!([{ "type": "tool-call", "config": { "approval": "x" } }])), "true, false or {timeout, approver}"),
        (flow(json!([{ "type": "prompt", "config": { "model": "local/echo", "userPrompt": "x", "fallbacks": [5] } }])), "{model}"),
        (flow(json!([{ "type": "prompt", "config": { "userPrompt": "x" } }])), "`model`"),
    ] {
        let told = messages(&invalid(&node, &body).await);
        assert!(told.contains(says), "{body}: {told}");
        for word in ["untagged", "struct ", "enum ", "variant", "feature"] {
            assert!(!told.contains(word), "{body}: {told}");
        }
    }
    for path in ["resume", "approve", "continue"] {
        let told = node.post(&format!("/v1/dispatch/{path}")).json(&json!([])).refused(422, "validation_failed").await;
        assert!(!told.text().contains("struct"), "{}", told.text());
    }
}

async fn graphs_that_are_none(world: Arc<World>) {
    let node = world.node();
    let step =
        |id: &str, after: Value| json!({ "id": id, "type": "set-variable", "after": after, "config": { "variableName": "x", "value": 1 } });
    let cycle = invalid(&node, &flow(json!([step("a", json!(["c"])), step("b", json!(["a"])), step("c", json!(["b"]))]))).await;
    assert!(["a", "b", "c"].iter().all(|id| messages(&cycle).contains(id)), "{}", cycle.text());
    assert_eq!(pointers(&node, &flow(json!([step("a", json!([])), step("a", json!([]))]))).await, ["/flow/steps/1/id"]);
    assert_eq!(pointers(&node, &flow(json!([step("a", json!([])), step("b", json!(["a", "nobody"]))]))).await, ["/flow/steps/1/after/1"]);
    assert_eq!(pointers(&node, &flow(json!([step("a", json!(["a"]))]))).await, ["/flow/steps/0/after"]);
    // A step of a branch cannot be waited for by the step that chooses the branch.
    let inside = json!({ "id": "if", "type": "conditional", "after": ["inner"], "config": { "condition": "true", "trueSteps": [step("inner", json!([]))] } });
    assert_eq!(pointers(&node, &flow(json!([inside]))).await, ["/flow/steps/0/after"]);
    let deep = (0..12).fold(
        set("x", json!(1)),
        |inner, n| json!({ "id": format!("c{n}"), "type": "conditional", "config": { "condition": "true", "trueSteps": [inner] } }),
    );
    invalid(&node, &flow(json!([deep]))).await;
    let many: Vec<Value> = (0..501).map(|n| set(&format!("s{n}"), json!(1))).collect();
    assert_eq!(pointers(&node, &flow(json!(many))).await, ["/flow/steps"]);
    untouched(&node).await;
}

async fn templates_that_do_not_parse(world: Arc<World>) {
    let node = world.node();
    for template in ["{{", "{{a", "{{a + }}", "{{secrets:X}}", "{{a b}}", "{{#if x}}"] {
        let found = pointers(&node, &flow(json!([ask("a", template)]))).await;
        assert_eq!(found, ["/flow/steps/0/config/userPrompt"], "{template}");
    }
    let mut when = flow(json!([set("a", json!(1))]));
    for condition in ["n >", "((", "secrets.x == 1"] {
        when["flow"]["steps"][0]["when"] = json!(condition);
        assert_eq!(pointers(&node, &when).await, ["/flow/steps/0/when"], "{condition}");
    }
    for document in ["{% for %}", "{{ a | nosuchfilter }}", "{% if a %}"] {
        let body = flow(json!([{ "id": "t", "type": "template", "config": { "template": document } }]));
        assert_eq!(pointers(&node, &body).await, ["/flow/steps/0/config/template"], "{document}");
    }
    untouched(&node).await;
}

async fn unknown_things_are_named_with_the_nearest(world: Arc<World>) {
    let node = world.node();
    let kind = invalid(&node, &flow(json!([{ "id": "greet", "type": "promt", "config": {} }]))).await;
    assert!(messages(&kind).contains("`greet`") && messages(&kind).contains("`prompt`"), "{}", kind.text());
    let mut step = ask("a", "x");
    step["config"]["model"] = json!("openai/../x");
    invalid(&node, &flow(json!([step.clone()]))).await;
    step["config"]["model"] = json!("gpt-5.4-mni");
    let model = invalid(&node, &flow(json!([step.clone()]))).await;
    assert_eq!(model.pointers(), ["/flow/steps/0/config/model"]);
    assert!(messages(&model).contains("gpt-5.4-mini"), "{}", model.text());
    step["config"]["model"] = json!("local/echo");
    step["config"]["fallbacks"] = json!(["local/echo", { "model": "claud-sonet" }]);
    assert_eq!(pointers(&node, &flow(json!([step]))).await, ["/flow/steps/0/config/fallbacks/1"]);
    let several = json!({ "id": "a", "type": "prompt", "config": { "model": "gpt-5.4-mni", "fallbacks": ["claud-sonet"] } });
    let found = pointers(&node, &flow(json!([several]))).await;
    for at in ["userPrompt", "model", "fallbacks/0"] {
        assert!(found.contains(&format!("/flow/steps/0/config/{at}")), "{at} is not among {found:?}");
    }
    untouched(&node).await;
}

async fn all_faults_at_once(world: Arc<World>) {
    let node = world.node();
    let mut no_model = ask("m", "x");
    no_model["config"]["model"] = json!("gpt-5.4-mni");
    let body = json!({
        "flow": { "name": "x", "steps": [{ "id": "a", "type": "promt" }, ask("b", "{{"), no_model, { "id": "c", "type": "wait-until", "config": {} }] },
        "record": { "metadata": 5 }, "messages": 5, "inputs": 5, "options": { "flowMode": "sometimes" }, "secrets": [], "clientTools": [{ "name": "" }],
    });
    let found = pointers(&node, &body).await;
    for at in [
        "/flow/steps/0/type",
        "/flow/steps/1/config/userPrompt",
        "/flow/steps/2/config/model",
        "/flow/steps/3/config",
        "/record/metadata",
        "/messages",
        "/inputs",
        "/options/flowMode",
        "/secrets",
        "/clientTools/0/name",
    ] {
        assert!(found.iter().any(|found| found == at), "{at} is not among {found:?}");
    }
    untouched(&node).await;
}

async fn what_is_too_large(world: Arc<World>) {
    let node = world.node();
    let post = || node.post("/v1/dispatch");
    let mut large = flow(json!([set("a", json!(1))]));
    large["inputs"] = json!({ "x": "a".repeat(2 * 1024 * 1024) });
    post().json(&large).refused(413, "body_too_large").await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![b' '; 64 * 1024 * 1024]).unwrap();
    let bomb = encoder.finish().unwrap();
    post().header("content-encoding", "gzip").body("application/json", bomb).refused(413, "body_too_large").await;
    let deep = format!("{{\"inputs\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    post().body("application/json", deep).refused(413, "body_too_deep").await;
    let mut many = flow(json!([set("a", json!(1))]));
    many["messages"] = json!(vec![json!({ "role": "user", "content": "x" }); 10_001]);
    assert_eq!(pointers(&node, &many).await, ["/messages"]);
    untouched(&node).await;
}

async fn programs_that_never_end(world: Arc<World>) {
    let node = world.node();
    let script = |id: &str, script: &str| json!({ "id": id, "type": "transform-data", "after": [], "config": { "script": script } });
    let document = |id: &str, text: &str| json!({ "id": id, "type": "template", "after": [], "config": { "template": text } });
    let mut body = flow(json!([
        script("loops", "while (true) {}"),
        script("eats", "let a = []; while (true) a.push(new Array(1000).fill('x'))"),
        script("digs", "const f = () => f(); return f()"),
        script("waits", "return await new Promise(() => {})"),
        document("burns", "{% for a in many %}{% for b in many %}{% for c in many %}x{% endfor %}{% endfor %}{% endfor %}"),
        document("swells", "{% assign s = 'xxxxxxxxxxxxxxxx' %}{% for a in many %}{% assign s = s | append: s %}{% endfor %}{{ s }}"),
        { "id": "asks", "type": "set-variable", "after": [], "when": "(() => { while (true) {} })()", "config": { "variableName": "x", "value": 1 } },
        { "id": "fine", "type": "set-variable", "after": [], "config": { "variableName": "x", "value": "still here" } },
    ]));
    body["inputs"] = json!({ "many": vec![1; 300] });
    let end = node.dispatch(&body).await;
    for id in ["loops", "eats", "digs", "waits", "burns", "swells", "asks"] {
        assert_eq!(end.step(id)["success"], false, "{}", end.step(id));
    }
    assert_eq!(end.step("fine")["result"], "still here");
    assert_eq!(node.result(&flow(json!([set("a", json!(1))]))).await["success"], true, "the server is well");
}

async fn models_nobody_configured(world: Arc<World>) {
    let node = world.node();
    let mut step = ask("a", "x");
    step["config"]["model"] = json!("groq/llama-3.3-70b-versatile");
    let body = flow(json!([step]));
    let refused = node.post("/v1/dispatch").json(&body).refused(402, "provider_not_configured").await;
    assert!(refused.json()["next"].as_str().unwrap().contains("GROQ_API_KEY"), "{}", refused.text());
    untouched(&node).await;
    // In development the echo plays it, and says so.
    world.configure(|config| config.dev = true);
    let end = world.crash().await.dispatch(&body).await;
    let told = end.custom("dispatch.model_substituted");
    assert_eq!((&told["wanted"], &told["used"]), (&json!("groq/llama-3.3-70b-versatile"), &json!("local/echo")));
    assert_eq!(end.step("a")["success"], true);
}

async fn other_people_s_things(world: Arc<World>) {
    let node = world.node();
    let stranger = world.strangers_key().await;
    let theirs = |path: &str| node.bare(reqwest::Method::POST, path).bearer(&stranger);
    let saved = theirs("/v1/flows").json(&json!({ "name": "f", "steps": [set("a", json!(1))] })).ok().await;
    let record = theirs("/v1/records").json(&json!({ "type": "t", "name": "n" })).ok().await;
    let flow_of_theirs = json!({ "flow": { "id": saved["id"] } });
    assert_eq!(pointers(&node, &flow_of_theirs).await, ["/flow/id"]);
    let nobodys = json!({ "flow": { "id": "flow_00000000000000000000000001" } });
    assert_eq!(invalid(&node, &nobodys).await.json(), invalid(&node, &flow_of_theirs).await.json(), "both look the same");
    let mut body = flow(json!([set("a", json!(1))]));
    body["record"] = json!({ "id": record["id"] });
    assert_eq!(pointers(&node, &body).await, ["/record/id"]);
    let mine = node.post("/v1/flows").json(&json!({ "name": "f", "steps": [set("a", json!(1))] })).ok().await;
    let version = json!({ "flow": { "id": mine["id"] }, "versionId": saved["currentVersionId"] });
    assert_eq!(pointers(&node, &version).await, ["/versionId"]);
    let read = json!({ "id": "r", "type": "get-record", "config": { "recordId": record["id"] } });
    let end = node.dispatch(&flow(json!([read]))).await;
    assert_eq!(end.step("r")["code"], "record_not_found");
    let limited = world.key_with(&["FLOWS:READ"]).await;
    node.bare(reqwest::Method::POST, "/v1/dispatch").bearer(&limited).json(&flow(json!([]))).refused(403, "missing_scope").await;
}

async fn continuations_that_are_wrong(world: Arc<World>) {
    let node = world.node();
    let wrong = [
        ("resume", json!({}), "/executionId"),
        ("resume", json!({ "executionId": 5 }), "/executionId"),
        ("resume", json!({ "executionId": "exec_00000000000000000000000001", "toolOutputs": [] }), "/toolOutputs"),
        ("approve", json!({ "executionId": "exec_00000000000000000000000001" }), "/approvalId"),
        (
            "approve",
            json!({ "executionId": "exec_00000000000000000000000001", "approvalId": "wait_00000000000000000000000001", "decision": "maybe" }),
            "/decision",
        ),
        ("continue", json!({ "executionId": "exec_00000000000000000000000001" }), "/continuation"),
        ("continue", json!({ "executionId": "exec_00000000000000000000000001", "continuation": {} }), "/continuation"),
    ];
    for (path, body, at) in wrong {
        let refused = node.post(&format!("/v1/dispatch/{path}")).json(&body).refused(422, "validation_failed").await;
        let known = refused.pointers();
        assert!(
            known.iter().any(|known| known == at) || known == [""] && refused.text().contains(&at[1..]),
            "{path} {body}: {}",
            refused.text()
        );
    }
    for path in [
        "/v1/executions/nonsense",
        "/v1/executions/exec_00000000000000000000000001/events",
        "/v1/executions/flow_00000000000000000000000001/steps",
    ] {
        node.get(path).refused(404, "not_found").await;
    }
    untouched(&node).await;
}
