//! What clients of Runtype's API send and read that no other area is about: upserts by hash, `ensure`, options, fallbacks, shapes of answers.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, ask_with, fails, flow, refuses, set, step};
use crate::support::sink::Reply;
use crate::support::world::{KEY, Node, World};

on_both!(an_upsert_asks_with_a_hash, an_agent_is_ensured, a_flow_is_ensured, a_pinned_version_runs, records_are_merged_and_found);
on_one!(
    Sqlite: options_replace_what_the_document_says,
    what_cannot_be_honoured_is_refused,
    tools_of_a_page_are_narrowed,
    members_beside_http_are_sent,
    a_chain_of_fallbacks_is_followed,
    an_agent_has_fallbacks,
    outputs_are_told_as_they_are,
    a_pause_is_told_in_the_words_of_clients,
    an_accepted_execution_is_polled,
    tools_are_spelled_as_clients_spell_them,
    system_variables_name_the_execution,
    refusals_have_words_for_people,
);

fn upsert(flow: Value, more: Value) -> Value {
    let mut body = json!({ "flow": flow, "options": { "flowMode": "upsert" } });
    body["options"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn put(node: &Node, path: &str, body: &Value) -> crate::support::call::Call {
    node.bare(Method::PUT, path).bearer(KEY).json(body)
}

async fn an_upsert_asks_with_a_hash(world: Arc<World>) {
    let node = world.node();
    let whole = |word: &str, hash: &str| json!({ "name": "f", "contentHash": hash, "steps": [ask("a", &format!("say {word}"))] });
    let probe = |hash: &str| upsert(json!({ "name": "f", "contentHash": hash }), json!({}));
    let unknown = async |hash: &str| node.post("/v1/dispatch").json(&probe(hash)).refused(422, "FLOW_DEFINITION_REQUIRED").await;
    unknown("h1").await;
    let made = node.dispatch(&upsert(whole("one", "h1"), json!({}))).await;
    let id = made.frames[0].text("flowId").to_owned();
    let ran = node.dispatch(&probe("h1")).await;
    assert_eq!((ran.frames[0].text("flowId"), &ran.step("a")["result"]["response"]), (id.as_str(), &json!("one")));
    unknown("h2").await;
    // Somebody else changes it: the hash is not that of what is saved any more, and the change is not overwritten.
    put(&node, &format!("/v1/flows/{id}"), &json!({ "steps": [ask("a", "say theirs")] })).ok().await;
    unknown("h1").await;
    node.post("/v1/dispatch").json(&upsert(whole("two", "h2"), json!({}))).refused(409, "flow_changed").await;
    let versions = async || node.get(&format!("/v1/flow-versions/{id}")).ok().await["data"].as_array().unwrap().clone();
    assert_eq!(versions().await.len(), 2);
    let over = upsert(whole("two", "h2"), json!({ "upsertOptions": { "allowOverwriteExternalChanges": true } }));
    assert_eq!(node.dispatch(&over).await.step("a")["result"]["response"], "two");
    assert_eq!(versions().await.len(), 3);
    let unkept = upsert(whole("three", "h3"), json!({ "createVersionOnChange": false }));
    assert_eq!(node.dispatch(&unkept).await.step("a")["result"]["response"], "three");
    let kept = versions().await;
    assert_eq!(
        (kept.len(), kept[0]["flowConfig"].get("contentHash")),
        (3, None),
        "no further version, and the hash is no part of the flow"
    );
    assert_eq!(node.dispatch(&probe("h3")).await.step("a")["result"]["response"], "three");
}

async fn an_agent_is_ensured(world: Arc<World>) {
    let node = world.node();
    let definition = |prompt: &str| json!({ "name": "Helper", "config": { "model": "local/echo", "systemPrompt": prompt } });
    let ensure = |body: Value| node.post("/v1/agents/ensure").json(&body);
    // As the official client computes it.
    let hash = "634bbd07a3c89aaa19a9b1bdb23f46f2c0fc091c69dbc3cd71305b13214beafe";
    let probe = json!({ "name": "Helper", "contentHash": hash });
    assert_eq!(ensure(probe.clone()).ok().await, json!({ "result": "definitionRequired" }));
    let made = ensure(json!({ "name": "Helper", "definition": definition("Be brief.") })).ok().await;
    assert_eq!((&made["result"], &made["contentHash"]), (&json!("created"), &json!(hash)), "{made}");
    assert_eq!(ensure(probe.clone()).ok().await["result"], "unchanged");
    let kind = json!({ "name": "Helper", "definition": definition("Be kind.") });
    let mut dry = kind.clone();
    dry["dryRun"] = json!(true);
    let plan = ensure(dry).ok().await;
    assert_eq!((&plan["result"], &plan["changes"], &plan["changedKeys"]), (&json!("plan"), &json!("update"), &json!(["systemPrompt"])));
    let id = made["agentId"].as_str().unwrap();
    put(&node, &format!("/v1/agents/{id}"), &json!({ "config": { "model": "local/echo", "systemPrompt": "Theirs." } })).ok().await;
    assert_eq!(ensure(probe).ok().await["result"], "definitionRequired");
    let refused = ensure(kind.clone()).send().await;
    let told = refused.json();
    assert_eq!(
        (refused.status, &told["code"], &told["lastModifiedSource"]),
        (409, &json!("external_modification"), &json!("api")),
        "{told}"
    );
    let mut expects = kind.clone();
    expects["expectedRemoteHash"] = json!(hash);
    assert_eq!(ensure(expects).send().await.json()["code"], "remote_changed");
    let mut over = kind.clone();
    (over["onConflict"], over["deploy"]) = (json!("overwrite"), json!({ "alias": "live" }));
    let updated = ensure(over).ok().await;
    assert_eq!((&updated["result"], &updated["deployment"]["changed"]), (&json!("updated"), &json!(true)), "{updated}");
    let live = node.get(&format!("/v1/agents/{id}/releases/live")).ok().await;
    assert_eq!(live["versionId"], updated["versionId"]);
    let moves = node.get(&format!("/v1/agents/{id}/deployments")).ok().await;
    assert_eq!((&moves["data"][0]["alias"], &moves["data"][0]["versionId"]), (&json!("live"), &updated["versionId"]), "{moves}");
    let pulled = node.get("/v1/agents/pull?name=Helper").ok().await;
    assert_eq!((&pulled["definition"], &pulled["lastModifiedSource"]), (&definition("Be kind."), &json!("sdk")));
    assert_eq!(pulled["contentHash"], updated["contentHash"]);
    node.get("/v1/agents/pull?name=Nobody").refused(404, "not_found").await;
    let mut wrong = kind;
    (wrong["definition"]["name"], wrong["deploy"]) = (json!("Other"), json!({ "alias": "next" }));
    let refused = ensure(wrong).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/definition/name", "/deploy/alias"]);
}

async fn a_flow_is_ensured(world: Arc<World>) {
    let node = world.node();
    let definition = |word: &str| json!({ "name": "Notes", "steps": [ask("a", &format!("say {word}"))] });
    let ensure = |body: Value| node.post("/v1/flows/ensure").json(&body);
    let made = ensure(json!({ "name": "Notes", "definition": definition("one"), "version": { "label": "abc" } })).ok().await;
    assert_eq!(made["result"], "created", "{made}");
    let probe = json!({ "name": "Notes", "contentHash": made["contentHash"] });
    assert_eq!(ensure(probe).ok().await["result"], "unchanged");
    assert_eq!(ensure(json!({ "name": "Notes", "definition": definition("one") })).ok().await["result"], "unchanged");
    let updated = ensure(json!({ "name": "Notes", "definition": definition("two"), "release": "publish" })).ok().await;
    assert_eq!((&updated["result"], &updated["flowId"]), (&json!("updated"), &made["flowId"]));
    let id = made["flowId"].as_str().unwrap();
    assert_eq!(node.get(&format!("/v1/flows/{id}")).ok().await["publishedVersionId"], updated["versionId"]);
    let labels = node.get(&format!("/v1/flow-versions/{id}")).ok().await;
    assert_eq!((&labels["data"][1]["label"], &labels["data"][0]["label"]), (&json!("abc"), &Value::Null));
    assert_eq!(node.get("/v1/flows/pull?name=Notes").ok().await["definition"], definition("two"));
    let broken = json!({ "name": "Notes", "definition": { "name": "Notes", "steps": [{ "type": "promt" }] } });
    assert_eq!(ensure(broken).refused(422, "validation_failed").await.pointers(), ["/definition/steps/0/type"]);
}

async fn a_pinned_version_runs(world: Arc<World>) {
    let node = world.node();
    let document = |word: &str| json!({ "name": "f", "steps": [ask("a", &format!("say {word}"))] });
    let saved = node.post("/v1/flows").json(&document("one")).ok().await;
    let (id, first) = (saved["id"].as_str().unwrap(), saved["currentVersionId"].clone());
    let second = put(&node, &format!("/v1/flows/{id}"), &document("two")).ok().await["currentVersionId"].clone();
    let in_flow = json!({ "flow": { "id": id, "versionId": first } });
    let in_options = json!({ "flow": { "id": id }, "options": { "flowVersionId": first } });
    for body in [in_flow, in_options] {
        assert_eq!(node.dispatch(&body).await.step("a")["result"]["response"], "one");
    }
    let twice = json!({ "flow": { "id": id, "versionId": first }, "versionId": second });
    let refused = node.post("/v1/dispatch").json(&twice).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/flow/versionId"]);
}

async fn records_are_merged_and_found(world: Arc<World>) {
    let node = world.node();
    let save = |source: &str, strategy: Value| {
        let mut config = json!({ "recordType": "customer", "recordName": "Ada", "sourceVariable": source });
        if strategy.is_string() {
            config["mergeStrategy"] = strategy;
        }
        step(source, "upsert-record", config)
    };
    let steps = json!([
        set("one", json!({ "a": 1 })),
        set("two", json!({ "b": 2 })),
        set("three", json!({ "c": 3 })),
        save("one", Value::Null),
        save("two", json!("merge")),
    ]);
    let steps = Value::Array(
        steps
            .as_array()
            .unwrap()
            .iter()
            .cloned()
            .enumerate()
            .map(|(index, mut step)| {
                step["id"] = json!(format!("s{index}"));
                step
            })
            .collect(),
    );
    assert_eq!(node.result(&flow(steps)).await["result"]["metadata"], json!({ "a": 1, "b": 2 }));
    let mut replaced = save("three", json!("replace"));
    replaced["id"] = json!("r");
    let steps = json!([set("three", json!({ "c": 3 })), replaced]);
    assert_eq!(node.result(&flow(steps)).await["result"]["metadata"], json!({ "c": 3 }));
    let texts = ["Tea is hot", "The sea is cold"];
    let keep = |collection: &str| {
        flow(json!([
            set("texts", json!(texts)),
            step("vectors", "generate-embedding", json!({ "inputSource": "texts" })),
            step("kept", "store-vector", json!({ "vectorsSource": "vectors", "textsSource": "texts", "destination": collection })),
        ]))
    };
    for (collection, config) in [("default", json!({})), ("note", json!({ "recordType": "note" }))] {
        node.result(&keep(collection)).await;
        let mut config = config;
        (config["query"], config["limit"]) = (json!("hot tea"), json!(1));
        let found = node.result(&flow(json!([step("found", "vector-search", config)]))).await;
        assert_eq!(found["result"][0]["text"], texts[0], "{collection}: {found}");
    }
}

async fn options_replace_what_the_document_says(world: Arc<World>) {
    let node = world.node();
    let prompt = json!({ "id": "p", "type": "prompt", "config": { "model": "openai/fake-401", "userPrompt": "say hi" } });
    let mut body = flow(json!([prompt]));
    body["options"] = json!({ "modelOverride": "local/echo" });
    assert_eq!(node.dispatch(&body).await.step("p")["result"]["model"], "local/echo");
    let agent = json!({
        "agent": { "name": "A", "model": "openai/fake-401" }, "messages": [{ "role": "user", "content": "say hi" }],
        "options": { "modelOverride": "local/echo" },
    });
    assert_eq!(node.result(&agent).await["result"], "hi");
    body["options"]["modelOverride"] = json!("nobody/knows");
    assert_eq!(node.post("/v1/dispatch").json(&body).refused(422, "validation_failed").await.pointers(), ["/options/modelOverride"]);
    let mut slow = flow(json!([ask("slow", "say one two three four\nslow 200")]));
    slow["options"] = json!({ "flowTimeoutMs": 250 });
    assert_eq!(node.dispatch(&slow).await.last().text("code"), "run_timeout");
    slow["options"] = json!({ "flowTimeoutMs": 0 });
    assert_eq!(node.post("/v1/dispatch").json(&slow).refused(422, "validation_failed").await.pointers(), ["/options/flowTimeoutMs"]);
    // What is shown of a step is the step's to say, wherever it says so.
    let mut hidden = ask("a", "say unseen");
    hidden["config"]["streamOutput"] = json!(false);
    let told = node.dispatch(&flow(json!([hidden]))).await;
    assert_eq!((told.streamed_text().as_str(), &told.step("a")["result"]["response"]), ("", &json!("unseen")));
}

async fn what_cannot_be_honoured_is_refused(world: Arc<World>) {
    let node = world.node();
    let pointers = async |path: &str, body: &Value| node.post(path).json(body).refused(422, "validation_failed").await.pointers();
    let mut body = flow(json!([ask("a", "say a")]));
    body["options"] = json!({ "resumeFrom": { "executionId": "x" }, "versionLabel": "v", "loggingPolicy": "off" });
    (body["endUser"], body["credentialProxies"], body["history"]) = (json!({ "id": "u" }), json!([{}]), json!("stored"));
    assert_eq!(
        pointers("/v1/dispatch", &body).await,
        ["/credentialProxies", "/endUser", "/history", "/options/resumeFrom", "/options/versionLabel", "/options/loggingPolicy"]
    );
    let mut nothing = flow(json!([ask("a", "say a")]));
    nothing["options"] =
        json!({ "resumeFrom": null, "loggingPolicy": "on", "storeResults": false, "clientToolOutputs": {}, "createVersion": false });
    (nothing["credentialProxies"], nothing["history"]) = (json!([]), json!("inline"));
    assert_eq!(node.dispatch(&nothing).await.step("a")["success"], true, "members that ask for nothing are no fault");
    let agent = json!({
        "name": "A", "primaryFlowId": "flow_1",
        "config": {
            "model": "local/echo", "piiRedaction": { "enabled": true }, "sandbox": { "enabled": false }, "tools": { "toolSearch": { "enabled": true } },
            "errorHandling": { "onError": "continue" },
        },
    });
    assert_eq!(
        pointers("/v1/agents", &agent).await,
        ["/primaryFlowId", "/config/piiRedaction", "/config/errorHandling/onError", "/config/tools/toolSearch"]
    );
    let saved = node.post("/v1/flows").json(&json!({ "name": "s", "steps": [ask("a", "say a")] })).ok().await;
    let schedule = json!({
        "target": { "flowId": saved["id"] }, "trigger": { "type": "recurring", "cron": "0 0 * * *" },
        "executionOptions": { "timeoutMs": 1000, "chunkSize": 5 },
    });
    assert_eq!(pointers("/v1/schedules", &schedule).await, ["/executionOptions/chunkSize"]);
    let url = world.sink.url("/x");
    let prompt = json!({ "model": "local/echo", "userPrompt": "x" });
    let prompt = |more: Value| {
        let mut config = prompt.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    refuses(
        &node,
        &[
            ("fetch-url", json!({ "url": url, "fetchMethod": "firecrawl" }), &["fetchMethod"]),
            ("api-call", json!({ "http": { "url": url }, "url": "http://other.example" }), &["url"]),
            ("api-call", json!({ "http": { "url": url, "auth": { "type": "none" } }, "auth": { "type": "none" } }), &["auth"]),
            ("template", json!({ "template": "x", "asArtifact": true, "partials": { "a": "b" } }), &["asArtifact", "partials"]),
            ("transform-data", json!({ "script": "return '{{secret:KEY}}'" }), &["script"]),
            ("vector-search", json!({ "query": "x", "collection": "a", "recordType": "b" }), &["recordType"]),
            ("prompt", prompt(json!({ "tools": { "codeModeConfig": { "toolPool": [] } } })), &["tools/codeModeConfig"]),
            ("prompt", prompt(json!({ "errorHandling": { "triggers": [{ "type": "never" }] } })), &["errorHandling/triggers/0/type"]),
            (
                "prompt",
                prompt(json!({ "errorHandling": { "onError": "fallback", "fallbacks": [{ "type": "message", "message": "m" }, { "type": "retry" }] } })),
                &["fallbacks/1"],
            ),
            (
                "set-variable",
                json!({ "variableName": "x", "value": 1, "errorHandling": { "onError": "fallback", "fallbacks": [{ "type": "model", "model": "m" }] } }),
                &["errorHandling/fallbacks/0"],
            ),
        ],
    )
    .await;
}

async fn tools_of_a_page_are_narrowed(world: Arc<World>) {
    let node = world.node();
    let tool = |name: &str, origin: &str| json!({ "name": name, "description": "Does it.", "origin": origin, "parametersSchema": { "type": "object" } });
    let mut body = flow(json!([{ "id": "p", "type": "prompt", "config": { "model": "openai/fake-ok", "userPrompt": "Hi." } }]));
    body["clientTools"] = json!([tool("add_cart", "webmcp"), tool("delete_account", "webmcp"), tool("lookup", "sdk")]);
    body["clientToolsPolicy"] = json!({ "allowlist": ["add_*"] });
    node.dispatch(&body).await;
    let asked = world.asked("fake-ok").await;
    let names: Vec<&str> = asked["tools"].as_array().unwrap().iter().map(|tool| tool["function"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["add_cart", "lookup"]);
    body["clientToolsPolicy"] = json!({ "allowlist": "add_*" });
    assert_eq!(node.post("/v1/dispatch").json(&body).refused(422, "validation_failed").await.pointers(), ["/clientToolsPolicy/allowlist"]);
}

async fn members_beside_http_are_sent(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/mirror", [Reply::Mirror]);
    let config = json!({
        "http": { "url": world.sink.url("/mirror"), "method": "PUT" },
        "auth": { "type": "bearer", "token": "T" }, "headers": { "x-a": "1" }, "body": { "k": 1 },
    });
    let told = node.dispatch(&flow(json!([step("c", "api-call", config)]))).await;
    let seen = &told.step("c")["result"];
    assert_eq!(
        (&seen["headers"]["authorization"], &seen["headers"]["x-a"], &seen["body"]),
        (&json!("Bearer T"), &json!("1"), &json!("{\"k\":1}"))
    );
    let config = json!({ "http": { "url": world.sink.url("/mirror") }, "auth": { "type": "never" } });
    refuses(&node, &[("fetch-url", config, &["auth/type"])]).await;
}

async fn a_chain_of_fallbacks_is_followed(world: Arc<World>) {
    let node = world.node();
    let prompt = |model: &str, fallbacks: Value, triggers: Value| {
        let handling = json!({ "onError": "fallback", "fallbacks": fallbacks, "triggers": triggers });
        json!({ "id": "p", "type": "prompt", "config": { "model": model, "userPrompt": "Hi.", "errorHandling": handling } })
    };
    let chain = json!([{ "type": "retry", "delay": 1 }, { "type": "model", "model": "anthropic/fake-ok" }, { "type": "message", "message": "sorry" }]);
    let told = node.dispatch(&flow(json!([prompt("openai/fake-401", chain, json!([{ "type": "error" }]))]))).await;
    assert_eq!((&told.step("p")["result"]["model"], &told.step("p")["fallback"]["used"]), (&json!("anthropic/fake-ok"), &json!(true)));
    assert_eq!(told.step("p")["fallback"]["model"], "anthropic/fake-ok");
    let sorry = json!([{ "type": "model", "model": "anthropic/fake-billing" }, { "type": "message", "message": "sorry" }]);
    let told = node.dispatch(&flow(json!([prompt("openai/fake-401", sorry, Value::Null)]))).await;
    let ended = told.step("p");
    assert_eq!(
        (&ended["success"], &ended["result"]["response"], &ended["fallback"]["exhausted"]),
        (&json!(true), &json!("sorry"), &json!(true))
    );
    assert_eq!((told.streamed_text().as_str(), &told.last().data["success"]), ("sorry", &json!(true)));
    // The attempts that failed stand before the text that answered in their place.
    let attempts = ended["fallback"]["attempts"].as_array().unwrap();
    let numbers: Vec<&Value> = attempts.iter().map(|attempt| &attempt["attempt"]).collect();
    assert_eq!(json!(numbers), json!((1..=attempts.len()).collect::<Vec<_>>()));
    assert_eq!((&attempts[0]["model"], &attempts[0]["success"]), (&json!("openai/fake-401"), &json!(false)));
    assert!(attempts.iter().any(|attempt| attempt["model"] == "anthropic/fake-billing" && attempt["type"] == "model"), "{ended}");
    let message = told.customs("runtype.fallback").last().unwrap();
    assert_eq!((&attempts.last().unwrap()["type"], &message["type"]), (&json!("message"), &json!("message")));
    let other = json!([{ "type": "model", "model": "anthropic/fake-ok" }]);
    let told = node.dispatch(&flow(json!([prompt("openai/fake-blank", other, json!([{ "type": "empty-output" }]))]))).await;
    assert_eq!(told.step("p")["result"]["model"], "anthropic/fake-ok", "{}", told.step("p"));
    // A step that asks no model is tried again, and has a text in the place of its output.
    let mut broken = fails("b");
    broken["config"]["errorHandling"] = json!({ "onError": "fallback", "fallbacks": [{ "type": "message", "message": "sorry" }] });
    let told = node.dispatch(&flow(json!([broken, ask("after", "say {{b}}")]))).await;
    assert_eq!((&told.step("b")["success"], &told.step("after")["result"]["response"]), (&json!(false), &json!("sorry")));
}

async fn an_agent_has_fallbacks(world: Arc<World>) {
    let node = world.node();
    let agent = |fallbacks: Value| {
        let handling = json!({ "onError": "fallback", "fallbacks": fallbacks });
        let agent = json!({ "name": "A", "model": "openai/fake-401", "errorHandling": handling });
        json!({ "agent": agent, "messages": [{ "role": "user", "content": "Hi." }] })
    };
    let answer = node.result(&agent(json!([{ "type": "message", "message": "sorry" }]))).await;
    assert_eq!((&answer["success"], &answer["result"]), (&json!(true), &json!("sorry")), "{answer}");
    let answer = node.result(&agent(json!([{ "type": "model", "model": "anthropic/fake-chunks-3" }]))).await;
    assert_eq!(answer["result"], "word1 word2 word3 ", "{answer}");
}

async fn outputs_are_told_as_they_are(world: Arc<World>) {
    let node = world.node();
    let inner = json!({ "name": "Inner", "steps": [set("n", json!({ "a": 1 }))] });
    let steps = json!([
        step("none", "transform-data", json!({ "script": "return null;" })),
        step("rounds", "loop", json!({ "over": [1, 2], "steps": [step("x", "transform-data", json!({ "script": "return item * 2;" }))] })),
        step("child", "run-flow", json!({ "flow": inner })),
    ]);
    let answer = node.result(&flow(steps.clone())).await;
    assert_eq!(answer["results"], json!({ "none": null, "rounds": [2, 4], "child": { "a": 1 } }), "{answer}");
    assert_eq!((&answer["finalOutput"], &answer["result"]), (&json!({ "a": 1 }), &json!({ "a": 1 })));
    assert_eq!(answer["totalEvents"].as_u64(), Some(answer["events"].as_array().unwrap().len() as u64));
    let told = node.dispatch(&flow(steps)).await;
    assert_eq!((&told.step("rounds")["result"], &told.step("child")["result"]), (&json!([2, 4]), &json!({ "a": 1 })));
    assert_eq!((&told.last().data["finalOutput"], &told.last().data["result"]), (&json!("{\"a\":1}"), &json!({ "a": 1 })));
    let text = node.dispatch(&flow(json!([ask("a", "say hi")]))).await;
    assert_eq!((&text.last().data["finalOutput"], text.last().data.get("result")), (&json!("hi"), None));
}

async fn a_pause_is_told_in_the_words_of_clients(world: Arc<World>) {
    let node = world.node();
    let refund = json!({ "name": "refund", "description": "Pays.", "toolType": "custom", "parametersSchema": { "type": "object" }, "config": { "code": "return 1;" } });
    let tools = json!({ "runtimeTools": [refund], "approval": { "require": true } });
    let agent = json!({ "agent": { "name": "A", "model": "local/echo", "tools": tools }, "messages": [{ "role": "user", "content": "call refund {}" }] });
    let paused = node.result(&agent).await;
    let reason = &paused["pausedReason"];
    assert_eq!((&paused["status"], &paused["result"]), (&json!("paused"), &json!("")), "{paused}");
    assert_eq!(
        (&reason["type"], &reason["waitType"], &reason["toolId"], &reason["waits"][0]["type"]),
        (&json!("local_action"), &json!("approval"), &json!("refund"), &json!("approval"))
    );
    let decision = json!({
        "executionId": paused["executionId"], "approvalId": reason["approvalId"], "decision": "denied", "streamResponse": false,
    });
    let after = node.post("/v1/dispatch/approve").json(&decision).ok().await;
    assert_eq!((&after["decision"], &after["status"]), (&json!("denied"), &json!("completed")), "{after}");
    let opposite = json!({ "executionId": paused["executionId"], "approvalId": reason["approvalId"], "decision": "approved" });
    let refused = node.post("/v1/dispatch/approve").json(&opposite).refused(409, "APPROVAL_ALREADY_RESOLVED").await;
    assert_eq!(refused.json()["message"], refused.json()["error"]);
    let mut waits = flow(json!([step("w", "wait-for-signal", json!({ "name": "go" }))]));
    waits["streamResponse"] = json!(false);
    let sleeps = node.post("/v1/dispatch").json(&waits).ok().await;
    assert_eq!(
        (&sleeps["pausedReason"]["type"], &sleeps["pausedReason"]["waitType"]),
        (&json!("durable_poll"), &json!("signal")),
        "{sleeps}"
    );
}

async fn an_accepted_execution_is_polled(world: Arc<World>) {
    let node = world.node();
    let saved = node.post("/v1/flows").json(&json!({ "name": "s", "steps": [ask("a", "say hi")] })).ok().await;
    let answer = node.post("/v1/dispatch").json(&json!({ "flowId": saved["id"], "async": true })).send().await;
    let handle = answer.json();
    assert_eq!((answer.status, &handle["targetKind"], &handle["targetId"]), (202, &json!("flow"), &saved["id"]), "{handle}");
    let place = handle["statusUrl"].as_str().unwrap();
    let status = crate::support::world::until(&node, place, |status| status["status"] == "completed").await;
    assert_eq!(
        (&status["executionId"], &status["targetKind"], &status["result"]),
        (&handle["executionId"], &json!("flow"), &json!("hi")),
        "{status}"
    );
    node.get("/v1/executions/exec_01h455vb4pex5vsknk084sn02q/status").refused(404, "not_found").await;
}

async fn tools_are_spelled_as_clients_spell_them(world: Arc<World>) {
    let node = world.node();
    let look = json!({ "name": "look", "description": "Looks.", "tool_type": "local", "parameters_schema": { "type": "object" } });
    let told = node.dispatch(&flow(json!([ask_with("a", "call look {}", json!({ "runtime_tools": [look] }))]))).await;
    assert_eq!(told.one("await").text("toolName"), "look");
    let clock = json!({ "name": "clock", "toolType": "builtin", "config": { "toolId": "builtin:get_current_time" } });
    let told = node.dispatch(&flow(json!([ask_with("a", "call clock {}", json!({ "runtimeTools": [clock] }))]))).await;
    assert!(told.one("tool_complete").data["result"]["unixMilliseconds"].is_number(), "{:?}", told.one("tool_complete"));
    let exa = json!({ "name": "exa", "toolType": "builtin" });
    let body = flow(json!([ask_with("a", "say a", json!({ "runtimeTools": [exa] }))]));
    let refused = node.post("/v1/dispatch").json(&body).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/flow/steps/0/config/tools/runtimeTools/0"]);
}

async fn system_variables_name_the_execution(world: Arc<World>) {
    let node = world.node();
    let saved = node
        .post("/v1/flows")
        .json(&json!({ "name": "Saved", "steps": [ask("a", "say {{_flow.name}} {{_flow.id}} {{_user.id}}")] }))
        .ok()
        .await;
    let told = node.dispatch(&json!({ "flowId": saved["id"] })).await;
    let said = told.step("a")["result"]["response"].as_str().unwrap().to_owned();
    let words: Vec<&str> = said.split(' ').collect();
    assert_eq!((words[0], words[1]), ("Saved", saved["id"].as_str().unwrap()));
    assert!(words[2].starts_with("ten"), "{said}");
    let rounds =
        step("r", "loop", json!({ "times": 1, "steps": [step("x", "transform-data", json!({ "script": "return _flow.name;" }))] }));
    assert_eq!(node.result(&flow(json!([rounds]))).await["result"], json!(["Test"]), "a round is of the flow that has the loop");
    let agent = json!({
        "agent": { "name": "Ada", "model": "openai/fake-ok", "systemPrompt": "You are {{_agent.name}}." },
        "messages": [{ "role": "user", "content": "Hi." }],
    });
    node.result(&agent).await;
    assert_eq!(world.asked("fake-ok").await["messages"][0]["content"], "You are Ada.");
}

async fn refusals_have_words_for_people(world: Arc<World>) {
    let node = world.node();
    let lost = node.get("/v1/nowhere").refused(404, "route_not_found").await;
    assert!(lost.json()["message"].is_string());
    let refused = node.bare(Method::GET, "/v1/flows").bearer("dsp_live_nobody").send().await;
    assert_eq!(refused.status, 401);
    assert!(refused.json()["hint"].is_string(), "{}", refused.text());
}
