//! What a caller may choose: modes, versions, time, budgets, the form of the answer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask, flow, set};
use crate::support::world::World;

on_both!(flows_are_saved_with_the_dispatch, a_version_is_chosen, a_run_is_handed_over);
on_one!(Sqlite: modes_that_clash_are_refused, metadata_follows_the_prompt, a_step_has_its_time, calls_are_counted_beforehand, tokens_are_counted_beforehand, money_is_counted_beforehand, a_hundred_race_on_one_budget, time_is_a_budget_too, the_form_of_the_answer);

fn with(mut body: Value, options: Value) -> Value {
    body["options"] = options;
    body
}

async fn flows_are_saved_with_the_dispatch(world: Arc<World>) {
    let node = world.node();
    let named = |name: &str, word: &str| json!({ "flow": { "name": name, "steps": [ask("a", &format!("say {word}"))] } });
    node.dispatch(&with(named("v", "one"), json!({ "flowMode": "virtual" }))).await;
    assert_eq!(node.get("/v1/flows").ok().await["data"], json!([]));
    let made = node.dispatch(&with(named("f", "one"), json!({ "flowMode": "create" }))).await;
    let id = made.frames[0].text("flowId").to_owned();
    assert_eq!(made.frames[0].text("source"), "create");
    node.post("/v1/dispatch").json(&with(named("f", "two"), json!({ "flowMode": "create" }))).refused(409, "already_exists").await;
    let same = node.dispatch(&with(named("f", "one"), json!({ "flowMode": "upsert" }))).await;
    assert_eq!(same.frames[0].text("flowId"), id);
    let versions = async || node.get(&format!("/v1/flow-versions/{id}")).ok().await["data"].as_array().unwrap().len();
    assert_eq!(versions().await, 1, "nothing changed");
    let changed = node.dispatch(&with(named("f", "two"), json!({ "flowMode": "upsert" }))).await;
    assert_eq!((changed.frames[0].text("flowId"), versions().await), (id.as_str(), 2));
    for body in
        [json!({ "flow": { "id": id } }), json!({ "flowId": id }), with(json!({ "flow": { "id": id } }), json!({ "flowMode": "existing" }))]
    {
        let ran = node.dispatch(&body).await;
        assert_eq!(ran.step("a")["result"]["response"], "two", "the saved definition runs");
    }
}

async fn a_version_is_chosen(world: Arc<World>) {
    let node = world.node();
    let document = |word: &str| json!({ "name": "f", "steps": [ask("a", &format!("say {word}"))] });
    let saved = node.post("/v1/flows").json(&document("one")).ok().await;
    let (id, first) = (saved["id"].as_str().unwrap(), saved["currentVersionId"].clone());
    let run = |version: Value| json!({ "flow": { "id": id }, "versionId": version });
    node.post("/v1/dispatch").json(&run(json!("published"))).refused(409, "flow_not_published").await;
    node.post(&format!("/v1/flows/{id}/publish")).ok().await;
    node.bare(reqwest::Method::PUT, &format!("/v1/flows/{id}")).bearer(crate::support::world::KEY).json(&document("two")).ok().await;
    assert_eq!(node.dispatch(&run(json!("published"))).await.step("a")["result"]["response"], "one");
    assert_eq!(node.dispatch(&run(first)).await.step("a")["result"]["response"], "one");
    assert_eq!(node.dispatch(&run(Value::Null)).await.step("a")["result"]["response"], "two");
    let refused = node.post("/v1/dispatch").json(&run(json!("fver_nonsense"))).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/versionId"]);
    // A run keeps the version that it began with, whatever becomes of the flow.
    let paused = json!({ "name": "p", "steps": [super::ask_with("w", "call look {}", json!({ "runtimeTools": [super::local("look")] })), ask("b", "say old")] });
    let other = node.post("/v1/flows").json(&paused).ok().await["id"].as_str().unwrap().to_owned();
    let paused = node.dispatch(&json!({ "flowId": other })).await;
    node.bare(reqwest::Method::DELETE, &format!("/v1/flows/{other}")).bearer(crate::support::world::KEY).ok().await;
    let node = world.crash().await;
    assert_eq!(node.resume(&paused.run(), json!({ "look": 1 })).await.step("b")["result"]["response"], "old");
}

async fn modes_that_clash_are_refused(world: Arc<World>) {
    let node = world.node();
    let inline = flow(json!([ask("a", "say a")]));
    let refused = async |body: Value| node.post("/v1/dispatch").json(&body).refused(422, "validation_failed").await.pointers();
    assert_eq!(refused(with(inline.clone(), json!({ "flowMode": "existing" }))).await, ["/flow/id"]);
    assert_eq!(
        refused(with(inline.clone(), json!({ "flowMode": "sometimes", "recordMode": "never", "onDisconnect": "dance" }))).await,
        ["/options/onDisconnect", "/options/flowMode", "/options/recordMode"]
    );
    assert_eq!(
        refused(with(json!({ "flow": { "id": "flow_00000000000000000000000001" } }), json!({ "flowMode": "virtual" }))).await,
        ["/flow/name", "/flow/steps"]
    );
    assert_eq!(refused(json!({ "flow": { "id": "flow_00000000000000000000000001" } })).await, ["/flow/id"]);
    let mut record = inline.clone();
    record["record"] = json!({ "metadata": {} });
    assert_eq!(refused(with(record.clone(), json!({ "recordMode": "create" }))).await, ["/record/type", "/record/name"]);
    assert_eq!(refused(with(record, json!({ "recordMode": "existing" }))).await, ["/record/id"]);
    let mut version = inline.clone();
    version["versionId"] = json!("published");
    assert_eq!(refused(version).await, ["/versionId"]);
    // A refused request saves nothing, also when it asks to.
    let mut bad = json!({ "flow": { "name": "kept?", "steps": [{ "id": "a", "type": "promt", "config": {} }] }, "record": { "type": "t", "name": "n" } });
    bad["options"] = json!({ "flowMode": "upsert", "recordMode": "create" });
    assert_eq!(refused(bad).await, ["/flow/steps/0/type"]);
    let mut gone =
        json!({ "flow": { "name": "kept?", "steps": [ask("a", "say a")] }, "record": { "id": "record_00000000000000000000000001" } });
    gone["options"] = json!({ "flowMode": "upsert" });
    assert_eq!(refused(gone).await, ["/record/id"]);
    assert_eq!(node.get("/v1/flows").ok().await["data"], json!([]));
    assert_eq!(node.get("/v1/records").ok().await["data"], json!([]));
    assert_eq!(node.get("/v1/executions").ok().await["data"], json!([]));
}

async fn metadata_follows_the_prompt(world: Arc<World>) {
    let node = world.node();
    let mut body = flow(json!([{ "id": "a", "type": "prompt", "config": { "model": "openai/fake-ok", "userPrompt": "Hi." } }]));
    body["record"] = json!({ "metadata": { "region": "North", "tags": ["x"] } });
    for (append, wanted) in [(true, "Hi.\n\nRecord metadata:\n- region: North\n- tags: [\"x\"]"), (false, "Hi.")] {
        node.dispatch(&with(body.clone(), json!({ "autoAppendMetadata": append }))).await;
        assert_eq!(world.asked("fake-ok").await["messages"][0]["content"], wanted);
    }
}

async fn a_step_has_its_time(world: Arc<World>) {
    let node = world.node();
    let slow = || ask("slow", "say one two three four\nslow 200");
    let end = node.dispatch(&with(flow(json!([slow(), ask("next", "say on")])), json!({ "stepTimeoutMs": 300 }))).await;
    assert_eq!((&end.step("slow")["success"], &end.step("slow")["code"]), (&json!(false), &json!("step_timeout")));
    assert_eq!(end.custom("dispatch.attempt_discarded")["stepId"], "slow", "the half text is taken back");
    assert_eq!((end.step("next")["success"].clone(), end.streamed_text()), (json!(true), "on".to_owned()));
    let mut own = slow();
    own["timeoutMs"] = json!(60_000);
    let end = node.dispatch(&with(flow(json!([own])), json!({ "stepTimeoutMs": 100 }))).await;
    assert_eq!(end.step("slow")["success"], true, "a step's own time counts");
    let mut whole = flow(json!([slow(), ask("next", "say on")]));
    whole["flow"]["timeoutMs"] = json!(250);
    let end = node.dispatch(&whole).await;
    assert_eq!((end.last().kind.as_str(), end.last().text("code")), ("execution_error", "run_timeout"));
}

/// The end of a run that a budget stopped.
async fn exhausted(world: &World, budget: Value, steps: Value) -> Value {
    let node = world.node();
    let end = node.dispatch(&with(flow(steps), json!({ "budget": budget }))).await;
    assert_eq!((end.last().kind.as_str(), end.last().text("code")), ("execution_error", "budget_exhausted"), "{:?}", end.last());
    let shown = node.execution(&end.run()).await;
    assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("failed"), &json!("budget_exhausted")));
    shown
}

fn priced(id: &str) -> Value {
    json!({ "id": id, "type": "prompt", "config": { "model": "openai/gpt-5.4-mini", "userPrompt": "x", "maxTokens": 100 } })
}

async fn calls_are_counted_beforehand(world: Arc<World>) {
    let shown = exhausted(&world, json!({ "maxCalls": 2 }), json!([priced("a"), priced("b"), priced("c")])).await;
    assert_eq!((&shown["usage"]["modelCalls"], &shown["error"]["step"]), (&json!(2), &json!("c")));
    assert_eq!(world.stats().await["requests"]["gpt-5.4-mini"], 2, "the third call never left");
    // Side by side they share it.
    let mut steps = json!([priced("a"), priced("b"), priced("c"), priced("d")]);
    steps.as_array_mut().unwrap().iter_mut().for_each(|step| step["after"] = json!([]));
    exhausted(&world, json!({ "maxCalls": 2 }), steps).await;
    assert!(world.stats().await["requests"]["gpt-5.4-mini"].as_u64().unwrap() <= 4);
    let none = world.node().dispatch(&with(flow(json!([priced("a")])), json!({ "budget": { "maxCalls": 0 } }))).await;
    assert_eq!(none.last().text("code"), "budget_exhausted");
}

async fn tokens_are_counted_beforehand(world: Arc<World>) {
    // Each call uses 105 tokens, and sets 100 and the length of its question aside.
    let shown = exhausted(&world, json!({ "maxTokens": 350 }), json!([priced("a"), priced("b"), priced("c"), priced("d")])).await;
    let used = shown["usage"]["inputTokens"].as_u64().unwrap() + shown["usage"]["outputTokens"].as_u64().unwrap();
    assert!(used > 0 && used <= 350, "{shown}");
}

async fn money_is_counted_beforehand(world: Arc<World>) {
    // 0.75 and 4.5 dollars a million: one call costs less than 0.0001, its worst case 0.0005.
    let shown = exhausted(&world, json!({ "maxCost": 0.0006 }), json!([priced("a"), priced("b"), priced("c"), priced("d")])).await;
    let cost = shown["usage"]["cost"].as_f64().unwrap();
    assert!(cost > 0.0 && cost <= 0.0006, "{shown}");
}

/// A hundred calls at once, made by the run's own steps and by its children: what they spend together is never above the budget.
async fn a_hundred_race_on_one_budget(world: Arc<World>) {
    let cap = 0.002;
    // One after the other within a tenth of a second, so that calls are on their way when others begin.
    let at_once = |step: &dyn Fn(usize) -> Value| {
        let steps = (0..100).flat_map(|n| {
            let wait = json!({ "id": format!("w{n}"), "type": "wait-until", "after": [], "config": { "delayMs": n } });
            let mut step = step(n);
            step["after"] = json!([format!("w{n}")]);
            [wait, step]
        });
        let steps: Vec<Value> = steps.collect();
        let mut body = with(flow(json!(steps)), json!({ "budget": { "maxCost": cap } }));
        body["flow"]["maxParallel"] = json!(100);
        body
    };
    let steps = at_once(&|n| priced(&format!("s{n}")));
    let children = at_once(
        &|n| json!({ "id": format!("s{n}"), "type": "run-flow", "config": { "flow": { "name": "child", "steps": [priced("p")] } } }),
    );
    for (name, body) in [("steps", steps), ("children", children)] {
        let node = world.node();
        let before = world.stats().await["requests"]["gpt-5.4-mini"].as_u64().unwrap_or(0);
        let end = node.dispatch(&body).await;
        // A step that the budget stops ends the run; a child that it stops fails its step.
        let last = &end.last().data;
        assert!(last["code"] == "budget_exhausted" || last["failedSteps"].as_u64() > Some(0), "{name}: {last}");
        let calls = world.stats().await["requests"]["gpt-5.4-mini"].as_u64().unwrap_or(0) - before;
        // What one call costs at these prices: 60 new, 40 cached and 5 output tokens.
        let spent = 0.000_070_5 * f64::from(u32::try_from(calls).unwrap());
        assert!(spent <= cap, "{name}: {calls} calls for {spent}");
        let booked = node.execution(&end.run()).await["usage"]["cost"].as_f64().unwrap();
        assert!(booked <= cap, "{name}: {booked} is booked");
    }
}

async fn time_is_a_budget_too(world: Arc<World>) {
    let slow = ask("slow", "repeat 100 word\nslow 50");
    let shown = exhausted(&world, json!({ "maxDurationMs": 200 }), json!([slow])).await;
    assert!(shown["error"]["message"].as_str().unwrap().contains("duration"), "{shown}");
}

async fn the_form_of_the_answer(world: Arc<World>) {
    let node = world.node();
    let body = flow(json!([set("a", json!(1))]));
    let kind = async |body: &Value, accept: Option<&str>| {
        let call = node.post("/v1/dispatch").json(body);
        let call = if let Some(accept) = accept { call.header("accept", accept) } else { call };
        call.send().await.header("content-type").unwrap().to_owned()
    };
    let (stream, json) = ("text/event-stream; charset=utf-8", "application/json");
    assert_eq!(kind(&body, None).await, stream);
    assert_eq!(kind(&body, Some("application/json")).await, json);
    assert_eq!(kind(&body, Some("text/event-stream, application/json")).await, stream);
    let mut top = body.clone();
    top["streamResponse"] = json!(false);
    assert_eq!(kind(&top, None).await, json);
    let option = with(body.clone(), json!({ "streamResponse": true }));
    assert_eq!(kind(&option, Some("application/json")).await, stream, "what the body says counts");
}

async fn a_run_is_handed_over(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/gate", [crate::support::sink::Reply::Gate(gate.clone())]);
    let body = flow(json!([{ "id": "g", "type": "fetch-url", "config": { "url": world.sink.url("/gate") } }]));
    let mut flagged = body.clone();
    flagged["async"] = json!(true);
    for call in [node.post("/v1/dispatch").header("prefer", "respond-async").json(&body), node.post("/v1/dispatch").json(&flagged)] {
        let answer = call.send().await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let handle = answer.json();
        let run = handle["executionId"].as_str().unwrap();
        assert_eq!((answer.header("location"), answer.header("x-execution-id")), (handle["url"].as_str(), Some(run)));
        assert_eq!(node.get(handle["url"].as_str().unwrap()).ok().await["status"], "running");
        let mut reader = node.events(run, None).await;
        reader.until(|frame| frame.kind == "step_start").await;
        gate.notify_one();
        assert_eq!(reader.rest().await.fresh().last().kind, "execution_complete");
        assert_eq!(node.get(handle["url"].as_str().unwrap()).ok().await["status"], "completed");
    }
}
