//! Agents: saved and inline, their turns, their bounds, their pauses, and what a crash in the middle of forty turns costs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::local;
use crate::support::transcript::Transcript;
use crate::support::world::{KEY, Node, World};

on_both!(
    an_agent_speaks_of_turns_and_not_of_steps,
    a_saved_agent_is_run_by_its_id,
    versions_are_chosen_and_published,
    a_pause_ends_a_turn_and_the_next_one_goes_on,
    the_bounds_of_a_loop,
    wrong_agents_are_refused_at_the_place,
    a_step_asks_an_agent,
    an_agent_that_takes_too_long_is_cancelled,
    forty_turns_survive_their_servers,
    an_agent_looks_back_between_turns,
    releases_name_versions,
    an_agent_remembers_whom_it_spoke_to,
);

fn user(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

fn echo(tools: Value) -> Value {
    json!({ "name": "Helper", "model": "local/echo", "systemPrompt": "Be brief.", "tools": tools })
}

/// An agent whose model calls every tool so many times in a row. The tools' addresses begin with `place`.
fn eager(world: &World, place: &str, turns: u32, tools: &[&str], bounds: Value) -> Value {
    let tool = |name: &&str| {
        json!({
            "name": name, "description": "Counts.", "toolType": "external", "parametersSchema": { "type": "object", "properties": {} },
            "config": { "url": world.sink.url(&format!("/{place}/{name}")), "method": "PUT", "body": { "by": 1 } },
        })
    };
    json!({
        "name": "Eager", "model": format!("openai/fake-tools-{turns}"), "loopConfig": bounds,
        "tools": { "runtimeTools": tools.iter().map(tool).collect::<Vec<_>>(), "maxToolCalls": tools.len() },
    })
}

async fn save(node: &Node, agent: Value) -> Value {
    node.post("/v1/agents").json(&agent).ok().await
}

async fn an_agent_speaks_of_turns_and_not_of_steps(world: Arc<World>) {
    let node = world.node();
    let body = json!({ "agent": echo(json!({})), "messages": user("say hello") });
    let told = node.dispatch(&body).await;
    assert_eq!(
        told.kinds(),
        ["execution_start", "turn_start", "text_start", "text_delta", "text_complete", "turn_complete", "execution_complete"]
    );
    let start = &told.frames[0].data;
    assert_eq!((&start["kind"], &start["agentName"], &start["maxTurns"]), (&json!("agent"), &json!("Helper"), &json!(100)));
    assert_eq!((start.get("flowName"), start.get("totalSteps"), start.get("agentId")), (None, None, None));
    let turn = &told.one("turn_complete").data;
    assert_eq!((&turn["id"], &turn["iteration"], &turn["stopReason"]), (&json!("turn_1"), &json!(1), &json!("end_turn")));
    let end = &told.last().data;
    assert_eq!((&end["kind"], &end["iterations"], &end["stopReason"]), (&json!("agent"), &json!(1), &json!("end_turn")));
    assert_eq!((&end["finalOutput"], &end["success"], end.get("totalSteps")), (&json!("hello"), &json!(true), None));
    assert_eq!(end["totalTokens"], turn["tokens"]);
    let whole = node.result(&body).await;
    assert_eq!((&whole["kind"], &whole["result"], &whole["status"]), (&json!("agent"), &json!("hello"), &json!("completed")));
    let row = node.execution(&told.run()).await;
    assert_eq!((&row["kind"], &row["agentId"], &row["flowName"]), (&json!("agent"), &Value::Null, &json!("Helper")));
}

async fn a_saved_agent_is_run_by_its_id(world: Arc<World>) {
    let node = world.node();
    let saved =
        save(&node, json!({ "name": "Helper", "icon": "x", "config": { "model": "local/echo", "instructions": "Be brief." } })).await;
    let id = saved["id"].as_str().unwrap();
    assert!(id.starts_with("agent_"), "{saved}");
    assert_eq!((&saved["status"], &saved["config"]["instructions"]), (&json!("draft"), &json!("Be brief.")));
    // A flow may have the same name.
    node.post("/v1/flows").json(&json!({ "name": "Helper", "steps": [] })).ok().await;
    node.post("/v1/agents").json(&json!({ "name": "Helper", "model": "local/echo" })).refused(409, "already_exists").await;
    let by_dispatch = node.dispatch(&json!({ "agent": { "agentId": id }, "messages": user("say one") })).await;
    let by_path = node.begin(&format!("/v1/agents/{id}/execute"), &json!({ "messages": user("say two") })).await;
    for (told, text) in [(&by_dispatch, "one"), (&by_path, "two")] {
        assert_eq!((&told.frames[0].data["agentId"], &told.frames[0].data["source"]), (&json!(id), &json!("existing")));
        assert_eq!(told.last().data["finalOutput"], text);
    }
    let listed = node.get(&format!("/v1/agents/{id}/executions")).ok().await;
    let runs: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(runs, [by_path.run(), by_dispatch.run()]);
    let filtered = node.get(&format!("/v1/executions?agentId={id}")).ok().await;
    let same: Vec<&str> = filtered["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(same, runs);
    let run = by_path.run();
    assert_eq!(node.get(&format!("/v1/agents/{id}/executions/{run}")).ok().await["agentId"], id);
    // The log of the agent's path is the log, with the cursor that chat clients send along.
    let events = format!("/v1/agents/{id}/executions/{run}/events?conversationId=c&after=1");
    let rest = node.reader(node.get(&events).header("accept", "text/event-stream")).await.rest().await;
    assert_eq!(rest.frames, by_path.frames[2..]);
    let other = save(&node, json!({ "name": "Other", "model": "local/echo" })).await;
    let other = other["id"].as_str().unwrap();
    node.get(&format!("/v1/agents/{other}/executions/{run}")).refused(404, "not_found").await;
    node.get(&format!("/v1/agents/{other}/executions/{run}/events")).refused(404, "not_found").await;
    node.bare(reqwest::Method::DELETE, &format!("/v1/agents/{id}")).bearer(crate::support::world::KEY).ok().await;
    node.post(&format!("/v1/agents/{id}/execute")).json(&json!({ "messages": user("say x") })).refused(404, "not_found").await;
    let kept = node.get(&format!("/v1/agents/{id}/executions")).ok().await;
    assert_eq!(kept["data"].as_array().unwrap().len(), 2, "what ran is still told of");
}

async fn versions_are_chosen_and_published(world: Arc<World>) {
    let node = world.node();
    let first = save(&node, json!({ "name": "Helper", "model": "local/echo", "systemPrompt": "One." })).await;
    let path = format!("/v1/agents/{}", first["id"].as_str().unwrap());
    let put = node.bare(reqwest::Method::PUT, &path).bearer(crate::support::world::KEY);
    let second =
        put.json(&json!({ "config": { "model": "local/echo", "systemPrompt": "Two.", "loopConfig": { "maxTurns": 2 } } })).ok().await;
    assert_ne!(first["currentVersionId"], second["currentVersionId"]);
    let turns = async |version: Option<&Value>| {
        let body = json!({ "messages": user("say x"), "versionId": version });
        node.begin(&format!("{path}/execute"), &body).await.frames[0].data["maxTurns"].clone()
    };
    assert_eq!((turns(None).await, turns(Some(&first["currentVersionId"])).await), (json!(2), json!(100)));
    let published = json!({ "messages": user("say x"), "versionId": "published" });
    node.post(&format!("{path}/execute")).json(&published).refused(409, "flow_not_published").await;
    let done = node.post(&format!("{path}/publish")).json(&json!({ "versionId": first["currentVersionId"] })).ok().await;
    assert_eq!((&done["status"], &done["publishedVersionId"]), (&json!("draft"), &first["currentVersionId"]));
    assert_eq!(turns(Some(&json!("published"))).await, 100);
    let versions = node.get(&format!("{path}/versions")).ok().await;
    let numbers: Vec<u64> = versions["data"].as_array().unwrap().iter().map(|row| row["versionNumber"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [2, 1]);
    let one = node.get(&format!("{path}/versions/{}", first["currentVersionId"].as_str().unwrap())).ok().await;
    assert_eq!(one["agentConfig"]["systemPrompt"], "One.");
}

async fn a_pause_ends_a_turn_and_the_next_one_goes_on(world: Arc<World>) {
    let node = world.node();
    let gated = super::external("pay", &world.sink.url("/pay"), "PUT");
    let tools = json!({ "runtimeTools": [local("look"), gated], "approval": { "require": ["pay"] } });
    let saved = save(&node, echo(tools)).await;
    let path = format!("/v1/agents/{}", saved["id"].as_str().unwrap());
    let paused = node.begin(&format!("{path}/execute"), &json!({ "messages": user("call look {}\ncall pay {}") })).await;
    assert_eq!(paused.kinds()[..2], ["execution_start", "turn_start"]);
    assert_eq!(paused.all("turn_complete").count(), 0, "a pause ends the stream without completions");
    let (run, look) = (paused.run(), paused.one("await").text("toolCallId").to_owned());
    let approval = paused.one("approval_start").text("approvalId").to_owned();
    // Clients that never learnt whose approval it is say `virtual`.
    let decision = json!({ "executionId": run, "approvalId": approval, "decision": "approved", "streamResponse": true });
    let still = node.go_on("/v1/agents/virtual/approve", &decision).await;
    assert_eq!((still.one("await").text("toolCallId"), world.sink.seen("/pay").len()), (look.as_str(), 1));
    let whole = node.post(&format!("{path}/resume")).json(&json!({ "executionId": run, "toolOutputs": {}, "streamResponse": false }));
    whole.refused(422, "validation_failed").await;
    let node = world.crash().await;
    let end = node.go_on(&format!("{path}/resume"), &json!({ "executionId": run, "toolOutputs": { look: "sun" } })).await;
    let turn = &end.one("turn_start").data;
    assert_eq!((&turn["iteration"], &turn["id"]), (&json!(2), &json!("turn_2")));
    assert_eq!((&end.last().data["iterations"], &end.last().data["stopReason"]), (&json!(2), &json!("end_turn")));
    assert!(end.last().text("finalOutput").contains("look answered: sun"), "{:?}", end.last());
}

async fn the_bounds_of_a_loop(world: Arc<World>) {
    let node = world.node();
    let run = async |agent: Value| node.dispatch(&json!({ "agent": agent, "messages": user("go") })).await;
    let turns = |told: &Transcript| -> Vec<String> { told.all("turn_complete").map(|turn| turn.text("stopReason").to_owned()).collect() };
    // The model wants one round more than it may have: it is asked once more, without tools, for its answer.
    let cut = run(eager(&world, "bounds", 3, &["a", "b"], json!({ "maxTurns": 2 }))).await;
    assert_eq!(turns(&cut), ["max_tool_calls", "max_tool_calls"]);
    let end = &cut.last().data;
    assert_eq!((&end["stopReason"], &end["iterations"], &end["success"]), (&json!("max_turns"), &json!(2), &json!(true)));
    assert_eq!(cut.all("tool_complete").filter(|tool| tool.data["success"] == true).count(), 4);
    let whole = run(eager(&world, "bounds", 3, &["a", "b"], json!({ "maxTurns": 9 }))).await;
    assert_eq!(turns(&whole), ["max_tool_calls", "max_tool_calls", "max_tool_calls", "end_turn"]);
    assert_eq!(whole.last().data["finalOutput"], "word1 word2 word3 word4 word5 ");
    let poor = run(eager(&world, "bounds", 3, &["a"], json!({ "maxCost": 0.0 }))).await;
    assert_eq!((turns(&poor).len(), &poor.last().data["stopReason"]), (1, &json!("max_cost")));
    // With tool calls to spare, one turn holds them all.
    let mut roomy = eager(&world, "bounds", 3, &["a"], json!({}));
    roomy["tools"]["maxToolCalls"] = json!(10);
    let roomy = run(roomy).await;
    assert_eq!((turns(&roomy), roomy.all("tool_complete").count()), (vec!["end_turn".into()], 3));
    assert!(roomy.all("tool_start").all(|tool| tool.data["iteration"] == 1));
}

async fn wrong_agents_are_refused_at_the_place(world: Arc<World>) {
    let node = world.node();
    let pointers = async |body: Value| -> Vec<String> {
        let refused = node.post("/v1/dispatch").json(&body).refused(422, "validation_failed").await.json();
        refused["details"]["problems"].as_array().unwrap().iter().map(|problem| problem["pointer"].as_str().unwrap().to_owned()).collect()
    };
    let agent = || echo(json!({}));
    assert_eq!(pointers(json!({ "agent": agent(), "messages": user("x"), "flow": { "name": "f", "steps": [] } })).await, ["/flow"]);
    assert_eq!(pointers(json!({ "agent": agent() })).await, ["/messages"]);
    assert_eq!(
        pointers(json!({ "agent": { "agentId": "agent_01h455vb4pex5vsknk084sn02q" }, "messages": user("x") })).await,
        ["/agent/agentId"]
    );
    assert_eq!(pointers(json!({ "agent": 3, "messages": user("x") })).await, ["/agent"]);
    let mut wrong = agent();
    wrong["temperature"] = json!(3);
    wrong["loopConfig"] = json!({ "maxTurns": 101, "maxCost": -1 });
    wrong["tools"] = json!({ "runtimeTools": [{ "name": "x", "toolType": "local" }, { "name": "x", "toolType": "local" }] });
    let mut found = pointers(json!({ "agent": wrong.clone(), "messages": user("x") })).await;
    found.sort();
    assert_eq!(
        found,
        ["/agent/loopConfig/maxCost", "/agent/loopConfig/maxTurns", "/agent/temperature", "/agent/tools/runtimeTools/1/name"]
    );
    let nested = json!({ "name": "n", "config": wrong });
    let refused = node.post("/v1/agents").json(&nested).refused(422, "validation_failed").await.json();
    assert!(refused["details"]["problems"].to_string().contains("/config/loopConfig/maxTurns"), "{refused}");
    assert_eq!(node.get("/v1/agents").ok().await["data"], json!([]), "nothing half-written");
    let unknown = json!({ "agent": { "name": "x", "model": "nobody/nothing" }, "messages": user("x") });
    assert_eq!(pointers(unknown).await, ["/agent/model"]);
}

fn asking(config: Value) -> Value {
    super::flow(json!([{ "id": "ask", "type": "execute-agent", "config": config }]))
}

/// The execution that a step started.
fn child(told: &Transcript) -> String {
    let started = told.frames.iter().find(|frame| frame.custom() == Some("dispatch.child_started")).unwrap();
    started.data["value"]["executionId"].as_str().unwrap().to_owned()
}

async fn a_step_asks_an_agent(world: Arc<World>) {
    let node = world.node();
    let saved = save(&node, json!({ "name": "Writer", "model": "openai/fake-ok", "systemPrompt": "You write for {{paper}}." })).await;
    let mut body = asking(json!({
        "agentId": saved["id"], "message": "About {{topic}}", "inputs": { "paper": "the {{kind}} post" }, "outputVariable": "headline",
    }));
    body["inputs"] = json!({ "topic": "ships", "kind": "harbour" });
    let told = node.dispatch(&body).await;
    assert_eq!(told.step("ask")["result"], "word1 word2 word3 word4 word5 ");
    assert_eq!(told.last().data["finalOutput"], "word1 word2 word3 word4 word5 ");
    let asked = world.asked("fake-ok").await["messages"].clone();
    assert_eq!(asked[0]["content"], "You write for the harbour post.");
    assert_eq!((asked.as_array().unwrap().len(), &asked[1]["content"]), (2, &json!("About ships")));
    let inner = node.log(&child(&told)).await.fresh();
    assert_eq!((&inner.frames[0].data["agentId"], &inner.last().data["kind"]), (&saved["id"], &json!("agent")));
    assert_eq!(inner.last().data["totalCost"], told.last().data["totalCost"], "the parent pays for it");
    // One whose agent is gone is told so when it runs.
    let gone = node.dispatch(&asking(json!({ "agentId": "agent_01h455vb4pex5vsknk084sn02q", "message": "x" }))).await;
    assert_eq!(gone.step("ask")["code"], "agent_not_found");
}

async fn an_agent_that_takes_too_long_is_cancelled(world: Arc<World>) {
    let node = world.node();
    let agent = json!({ "name": "Slow", "model": "openai/fake-stall" });
    let mut body = asking(json!({ "agent": agent, "message": "x", "timeout": 300 }));
    body["flow"]["steps"].as_array_mut().unwrap().push(super::ask("then", "say on"));
    body["options"] = json!({ "budget": { "maxCalls": 2 } });
    let told = node.dispatch(&body).await;
    assert_eq!(told.step("ask")["code"], "child_timeout");
    // What the agent had been given and did not use is there again, and the call that it made is counted.
    assert_eq!(told.step("then")["result"]["response"], "on");
    assert_eq!(node.execution(&told.run()).await["usage"]["modelCalls"], 2);
    let inner = node.log(&child(&told)).await;
    assert_eq!((inner.last().kind.as_str(), &inner.last().data["code"]), ("execution_error", &json!("cancelled")));
    world.stats_are(|stats| stats["openRequests"] == 0).await;
}

const TOOLS: [&str; 3] = ["one", "two", "three"];

/// What came of an agent of so many turns, its servers killed after so many requests to its model.
struct Lived {
    told: Transcript,
    /// The last conversation that its model was sent.
    asked: Value,
    /// Calls of the tools, by key.
    effects: BTreeMap<String, usize>,
    journal: Vec<(String, usize)>,
}

async fn live(world: &World, place: &str, turns: u32, kills: &[u64]) -> Lived {
    let agent = eager(world, place, turns, &TOOLS, json!({ "maxTurns": turns + 1 }));
    let model = format!("fake-tools-{turns}");
    let requests = |stats: &Value| stats["requests"][&model].as_u64().unwrap_or(0);
    let before = requests(&world.stats().await);
    let body = json!({ "agent": agent, "messages": user("go"), "async": true });
    let run = world.node().post("/v1/dispatch").json(&body).ok().await["executionId"].as_str().unwrap().to_owned();
    for kill in kills {
        world.stats_are(|stats| requests(stats) - before >= *kill).await;
        world.crash().await;
    }
    let told = loop {
        let told = world.node().log(&run).await;
        if told.last().is_terminal() {
            break told;
        }
    };
    let mut effects = BTreeMap::new();
    for call in TOOLS.iter().flat_map(|name| world.sink.seen(&format!("/{place}/{name}"))) {
        *effects.entry(call.header("idempotency-key").to_owned()).or_default() += 1;
    }
    let id: dispatch::id::RunId = run.parse().unwrap();
    let node = world.node();
    let journal = node.with_state(move |state| async move {
        let tenant = state.store.list_tenants().await.unwrap()[0].id;
        state.store.read_journal(tenant, id).await.unwrap()
    });
    let journal = journal.await.into_iter().map(|entry| (entry.key, serde_json::to_string(&entry.outcome).unwrap().len())).collect();
    Lived { told, asked: world.asked(&model).await, effects, journal }
}

async fn forty_turns_survive_their_servers(world: Arc<World>) {
    let whole = live(&world, "whole", 40, &[]).await;
    let killed = live(&world, "killed", 40, &[3, 17, 18, 39]).await;
    for lived in [&whole, &killed] {
        let end = &lived.told.last().data;
        assert_eq!((&end["success"], &end["iterations"], &end["stopReason"]), (&json!(true), &json!(41), &json!("end_turn")));
        let turns: Vec<u64> = lived.told.all("turn_complete").map(|turn| turn.data["iteration"].as_u64().unwrap()).collect();
        assert_eq!(turns, (1..=41).collect::<Vec<_>>(), "each turn is told of once");
        assert_eq!(lived.told.all("turn_start").count(), 41);
        assert_eq!(lived.effects.len(), 120, "three tools in each of forty turns");
    }
    assert!(whole.effects.values().all(|times| *times == 1));
    // A call whose answer died with its server is made again under its key, and only that one.
    let again = killed.effects.values().filter(|times| **times > 1).count();
    assert!(again <= 4 * TOOLS.len(), "{again} calls were repeated");
    assert_eq!(killed.asked, whole.asked, "the model is sent the same conversation");
    let keys = |lived: &Lived| -> Vec<String> { lived.journal.iter().map(|(key, _)| key.clone()).collect() };
    assert_eq!(keys(&killed), keys(&whole));
    // Twice the turns are twice the journal: nothing in it holds what another entry holds.
    let half = live(&world, "half", 20, &[]).await;
    let size = |lived: &Lived| lived.journal.iter().map(|(key, bytes)| key.len() + bytes).sum::<usize>();
    let (long, short) = (size(&whole), size(&half));
    assert!(long <= 2 * short + short / 10, "{short} bytes for twenty turns, {long} for forty");
    assert!(whole.journal.len() <= 2 * half.journal.len(), "{} and {} entries", half.journal.len(), whole.journal.len());
}

async fn an_agent_looks_back_between_turns(world: Arc<World>) {
    let node = world.node();
    let bounds = json!({ "maxTurns": 3, "enableReflection": true, "reflectionInterval": 2 });
    let told = node.dispatch(&json!({ "agent": eager(&world, "reflect", 3, &["a"], bounds), "messages": user("go") })).await;
    let thoughts: Vec<&Value> = told.all("reasoning_complete").map(|frame| &frame.data).filter(|data| data["scope"] == "loop").collect();
    assert_eq!(thoughts.len(), 1, "after two turns of three: {:?}", told.kinds());
    assert_eq!(thoughts[0]["text"], "word1 word2 word3 word4 word5 ");
    assert_eq!(told.last().data["success"], true);
    // It stands in the conversation of the next turn, and was not shown as an answer.
    let asked = world.asked("fake-tools-3").await;
    assert!(asked["messages"].to_string().contains("Your reflection: word1"), "{asked}");
    assert_eq!(told.streamed_text(), "", "the model called tools to the end");
    let wrong = json!({ "enableReflection": true, "reflectionInterval": 51 });
    let refused = node.post("/v1/dispatch").json(&json!({ "agent": eager(&world, "x", 1, &["a"], wrong), "messages": user("go") }));
    assert_eq!(refused.refused(422, "validation_failed").await.pointers(), ["/agent/loopConfig/reflectionInterval"]);
}

async fn releases_name_versions(world: Arc<World>) {
    let node = world.node();
    let agent = |text: &str| json!({ "name": "Clerk", "config": { "model": "local/echo", "instructions": text } });
    let first = node.post("/v1/agents").json(&agent("one")).ok().await;
    let (id, old) = (first["id"].as_str().unwrap().to_owned(), first["currentVersionId"].clone());
    let put = |path: &str, body: Value| node.bare(reqwest::Method::PUT, path).bearer(KEY).json(&body);
    let changed = put(&format!("/v1/agents/{id}"), agent("two")).ok().await;
    let new = changed["currentVersionId"].clone();
    let live = format!("/v1/agents/{id}/releases/live");
    let at = put(&live, json!({ "versionId": old })).ok().await;
    assert_eq!((&at["alias"], &at["versionId"]), (&json!("live"), &old));
    // To move it one must have looked.
    assert_eq!(put(&live, json!({ "versionId": new })).refused(422, "validation_failed").await.pointers(), ["/ifMatch"]);
    put(&live, json!({ "versionId": new, "ifMatch": "7" })).refused(409, "release_moved").await;
    put(&live, json!({ "versionId": "fver_01h455vb4pex5vsknk084sn02q" })).refused(422, "validation_failed").await;
    put(&format!("/v1/agents/{id}/releases/-x"), json!({ "versionId": new })).refused(422, "invalid_alias").await;
    let writer = world.key_with(&["AGENTS:READ", "AGENTS:WRITE"]).await;
    let body = json!({ "versionId": new, "ifMatch": at["revision"] });
    node.bare(reqwest::Method::PUT, &live).bearer(&writer).json(&body).refused(403, "missing_scope").await;
    node.bare(reqwest::Method::PUT, &format!("/v1/agents/{id}/releases/next"))
        .bearer(&writer)
        .json(&json!({ "versionId": new }))
        .ok()
        .await;
    let says = async |alias: &str| {
        let told = node.dispatch(&json!({ "agent": { "agentId": id }, "alias": alias, "messages": user("hi") })).await;
        told.streamed_text()
    };
    assert!(says("live").await.contains("one") && says("next").await.contains("two"));
    let inside = json!({ "agent": { "agentId": id, "alias": "live" }, "messages": user("hi") });
    assert!(node.dispatch(&inside).await.streamed_text().contains("one"));
    let wrong = json!({ "agent": { "agentId": id, "alias": 5 }, "messages": user("hi") });
    assert_eq!(node.post("/v1/dispatch").json(&wrong).refused(422, "validation_failed").await.pointers(), ["/agent/alias"]);
    put(&live, body).ok().await;
    assert!(says("live").await.contains("two"));
    let wrong = json!({ "agent": { "agentId": id }, "alias": "none", "messages": user("hi") });
    assert_eq!(node.post("/v1/dispatch").json(&wrong).refused(422, "validation_failed").await.pointers(), ["/alias"]);
    assert_eq!(node.get(&format!("/v1/agents/{id}/releases")).ok().await["data"].as_array().unwrap().len(), 2);
    node.bare(reqwest::Method::DELETE, &live).bearer(KEY).ok().await;
    node.get(&live).refused(404, "not_found").await;
}

async fn an_agent_remembers_whom_it_spoke_to(world: Arc<World>) {
    let node = world.node();
    let ask = async |who: &str, memory: Value, said: &str| {
        let agent = json!({ "name": "Friend", "model": "openai/fake-ok", "systemPrompt": "Be kind.", "memory": memory });
        node.dispatch(&json!({ "agent": agent, "inputs": { "email": who }, "messages": user(said) })).await
    };
    let answered = async |who: &str, memory: Value, said: &str| {
        let told = ask(who, memory, said).await;
        assert_eq!(told.last().data["success"], true, "{}", told.last().data);
    };
    let memory = || json!({ "profileTemplate": "user:{{email}}" });
    let system = |asked: &Value| {
        let messages = asked["messages"].as_array().unwrap().clone();
        let system: Vec<String> = messages
            .iter()
            .filter(|message| message["role"] == "system")
            .map(|message| message["content"].as_str().unwrap().to_owned())
            .collect();
        system.join("|")
    };
    answered("ada@a.example", memory(), "My boat is called {{secrets.x}} Albatross.").await;
    assert!(!system(&world.asked("fake-ok").await).contains("earlier"), "there was nothing to remember");
    answered("ada@a.example", memory(), "What is my boat called?").await;
    let told = system(&world.asked("fake-ok").await);
    assert!(told.contains("Be kind.") && told.contains("My boat is called {{secrets.x}} Albatross."), "{told}");
    // Of nobody else, and not without being asked to.
    answered("grace@a.example", memory(), "What is my boat called?").await;
    assert!(!system(&world.asked("fake-ok").await).contains("Albatross"));
    answered("ada@a.example", json!({ "enabled": false, "profileTemplate": "user:{{email}}" }), "Which boat?").await;
    assert!(!system(&world.asked("fake-ok").await).contains("Albatross"));
    // What is not to be kept is not.
    answered("bob@a.example", json!({ "profileTemplate": "user:{{email}}", "save": false }), "I like tea.").await;
    answered("bob@a.example", memory(), "Do I like tea?").await;
    assert!(!system(&world.asked("fake-ok").await).contains("I like tea."));
    // Nobody in particular has no memory.
    for (who, profile) in [("x", "user:{{nobody}}"), ("", "user:{{email}}"), (" ", "user:{{email}}")] {
        let nobody = ask(who, json!({ "profileTemplate": profile }), "hello").await;
        assert_eq!(nobody.last().data["code"], "invalid_profile", "{who:?} {profile}");
    }
    let refused = node.post("/v1/dispatch").json(&json!({
        "agent": { "name": "Friend", "model": "local/echo", "memory": {} }, "messages": user("hello"),
    }));
    let refused = refused.refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/agent/memory/profileTemplate"]);
}
