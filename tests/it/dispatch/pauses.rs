//! Tools that run in the caller: one answer or many, partial ones, late ones, wrong ones, across crashes and nodes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask, ask_with, external, flow, local, set};
use crate::support::app::within;
use crate::support::transcript::Transcript;
use crate::support::world::{Kind, Node, World};

on_both!(
    two_calls_are_answered_at_once,
    partial_answers_ask_again,
    outputs_are_found_by_tool_name,
    tools_of_a_page_have_their_own_names,
    a_pause_outlives_a_crash,
    many_pauses_in_one_run,
    wrong_outputs_are_refused,
    two_answers_at_the_same_time,
    another_node_goes_on,
    a_step_that_pauses_twice_goes_on_where_it_was,
    two_answers_to_one_call_leave_the_others_open,
    ids_that_a_provider_repeats_are_told_apart,
    an_answer_makes_no_execution,
    a_signal_before_its_wait_is_taken,
    a_run_that_nothing_can_wake_is_entered_again,
);

/// Two local calls in one turn.
fn two_calls() -> Value {
    let tools = json!({ "runtimeTools": [local("left"), local("right")] });
    flow(json!([ask_with("work", "call left {\"n\": 1}\ncall right {\"n\": 2}", tools), ask("end", "say then {{work}}")]))
}

fn call_of(frames: &crate::support::transcript::Transcript, tool: &str) -> String {
    frames.all("await").find(|frame| frame.data["toolName"] == tool).unwrap().text("toolCallId").to_owned()
}

async fn two_calls_are_answered_at_once(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&two_calls()).await;
    assert_eq!(paused.all("await").count(), 2);
    let waits = node.execution(&paused.run()).await;
    assert_eq!((&waits["status"], waits["waits"].as_array().unwrap().len()), (&json!("paused"), 2));
    let outputs = json!({ call_of(&paused, "left"): { "a": 1 }, call_of(&paused, "right"): "two" });
    let body =
        json!({ "executionId": paused.run(), "toolOutputs": outputs.clone(), "messages": [{ "role": "user", "content": "say thanks" }] });
    let then = node.go_on("/v1/dispatch/resume", &body).await;
    assert_eq!(then.last().kind, "execution_complete");
    assert_eq!(then.all("tool_complete").count(), 2);
    assert_eq!(then.step("work")["result"]["response"], "thanks", "new words of the user reach the model");
    assert_eq!(then.step("end")["result"]["response"], "then thanks");
    // The same once more is answered from the log, and nothing runs again.
    let again = node.go_on("/v1/dispatch/resume", &body).await;
    assert_eq!(again.frames, then.frames);
}

async fn partial_answers_ask_again(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&two_calls()).await;
    let (left, right) = (call_of(&paused, "left"), call_of(&paused, "right"));
    let again = node.resume(&paused.run(), json!({ left.clone(): "one" })).await;
    let asked = again.one("await");
    assert_eq!((asked.text("toolCallId"), again.last()), (right.as_str(), asked));
    let end = node.resume(&paused.run(), json!({ right: "two" })).await;
    assert_eq!(end.step("work")["result"]["response"], "left answered: one\nright answered: two");
    assert_eq!(end.last().kind, "execution_complete");
    // What was used before the pauses is told with the step, too.
    let used = |step| end.step(step)["tokensUsed"].as_u64().unwrap();
    let usage = &node.execution(&paused.run()).await["usage"];
    let all = usage["inputTokens"].as_u64().unwrap() + usage["outputTokens"].as_u64().unwrap();
    assert_eq!(used("work") + used("end"), all);
}

async fn outputs_are_found_by_tool_name(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&two_calls()).await;
    let end = node.resume(&paused.run(), json!({ "left": "one", "right": null })).await;
    assert_eq!(end.step("work")["result"]["response"], "left answered: one\nright answered: null");
}

async fn tools_of_a_page_have_their_own_names(world: Arc<World>) {
    let node = world.node();
    for key in ["add_to_cart", "webmcp:add_to_cart"] {
        let mut body = flow(json!([ask("shop", "call add_to_cart {\"sku\": \"A1\"}")]));
        body["clientTools"] = json!([{
            "name": "add_to_cart", "description": "Adds.", "origin": "webmcp", "pageOrigin": "https://shop.example",
            "parametersSchema": { "type": "object", "properties": { "sku": { "type": "string" } } },
        }]);
        let paused = node.dispatch(&body).await;
        let asked = paused.last();
        assert_eq!((asked.text("toolName"), asked.text("origin")), ("add_to_cart", "webmcp"), "the page's bare name");
        assert_eq!(asked.data["parameters"], json!({ "sku": "A1" }));
        let output = json!({ "content": [{ "type": "text", "text": "added" }] });
        let end = node.resume(&paused.run(), json!({ key: output })).await;
        assert_eq!(end.step("shop")["result"]["response"], "add_to_cart answered: added");
    }
    let mut failing = flow(json!([ask("shop", "call f {}")]));
    failing["clientTools"] = json!([{ "name": "f", "description": "Fails.", "origin": "sdk", "parametersSchema": { "type": "object" } }]);
    let paused = node.dispatch(&failing).await;
    let output = json!({ "content": [{ "type": "text", "text": "out of stock" }], "isError": true });
    let end = node.resume(&paused.run(), json!({ "f": output })).await;
    assert_eq!(end.one("tool_complete").data["success"], false);
    assert_eq!(end.step("shop")["success"], true, "a failed tool is told to the model");
}

async fn a_pause_outlives_a_crash(world: Arc<World>) {
    let paused = world.node().dispatch(&two_calls()).await;
    let node = world.crash().await;
    assert_eq!(node.log(&paused.run()).await.frames, paused.frames, "the log is what was streamed");
    let first = node.resume(&paused.run(), json!({ "left": "one" })).await;
    assert!(first.frames[0].id > paused.last().id);
    let node = world.crash().await;
    let end = node.resume(&paused.run(), json!({ "right": "two" })).await;
    assert_eq!(end.step("work")["result"]["response"], "left answered: one\nright answered: two");
    let all = node.log(&paused.run()).await;
    let parts: Vec<_> = [&paused, &first, &end].into_iter().flat_map(|part| part.frames.clone()).collect();
    assert_eq!(all.frames, parts);
}

async fn many_pauses_in_one_run(world: Arc<World>) {
    let node = world.node();
    let tools = json!({ "runtimeTools": [local("next")] });
    let steps: Vec<Value> = (1..=5).map(|n| ask_with(&format!("s{n}"), "call next {}", tools.clone())).collect();
    let mut part = node.dispatch(&flow(json!(steps))).await;
    let run = part.run();
    for n in 1..=5 {
        let call = part.last().text("toolCallId").to_owned();
        part = node.resume(&run, json!({ call: n })).await;
        assert_eq!(part.step(&format!("s{n}"))["result"]["response"], format!("next answered: {n}"), "each answer finds its own call");
    }
    assert_eq!(part.last().kind, "execution_complete");
}

async fn wrong_outputs_are_refused(world: Arc<World>) {
    let node = world.node();
    let resume = |body: Value| node.post("/v1/dispatch/resume").json(&body);
    let paused = node.dispatch(&two_calls()).await;
    let (run, left) = (paused.run(), call_of(&paused, "left"));
    let unknown =
        resume(json!({ "executionId": run, "toolOutputs": { "left": 1, "nobody/asked": 2 } })).refused(422, "validation_failed").await;
    assert_eq!(unknown.pointers(), ["/toolOutputs/nobody~1asked"]);
    assert_eq!(node.execution(&run).await["waits"].as_array().unwrap().len(), 2, "nothing of a refused call is taken");
    resume(json!({ "executionId": run, "toolOutputs": {} })).refused(422, "validation_failed").await;
    node.resume(&run, json!({ left.clone(): "one" })).await;
    resume(json!({ "executionId": run, "toolOutputs": { left: "another" } })).refused(409, "tool_output_already_delivered").await;
    node.resume(&run, json!({ "right": "two" })).await;

    let not_paused = "No paused execution found for this executionId";
    let finished = node.dispatch(&flow(json!([ask("a", "say a")]))).await.run();
    for run in [finished.as_str(), "exec_00000000000000000000000001", &run] {
        let answer = resume(json!({ "executionId": run, "toolOutputs": { "other": 1 } })).send().await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (404, Some(not_paused)), "{}", answer.text());
    }
}

async fn two_answers_at_the_same_time(world: Arc<World>) {
    let node = world.node();
    let tools = json!({ "runtimeTools": [local("left"), local("right")] });
    let paused = node.dispatch(&flow(json!([ask_with("work", "call left {}\ncall right {}", tools)]))).await;
    let run = paused.run();
    // Each carries one of the two: whoever comes second must not find the run asleep.
    let (one, two) = tokio::join!(
        node.post("/v1/dispatch/resume").json(&json!({ "executionId": run, "toolOutputs": { "left": 1 } })).send(),
        node.post("/v1/dispatch/resume").json(&json!({ "executionId": run, "toolOutputs": { "right": 2 } })).send(),
    );
    assert_eq!((one.status, two.status), (200, 200), "{} {}", one.text(), two.text());
    // Whichever came last went on to the end: it is not told to wait for what it has just answered.
    let ends = [&one, &two].into_iter().filter(|reply| reply.text().contains("execution_complete")).count();
    assert!(ends > 0, "{} {}", one.text(), two.text());
    let log = node.log(&run).await;
    assert_eq!(log.last().kind, "execution_complete");
    assert_eq!(log.all("tool_complete").count(), 2);
}

async fn another_node_goes_on(world: Arc<World>) {
    if world.kind == Kind::Sqlite {
        // One file, one process: the other node comes after the first.
        world.node().stop().await;
    }
    let (one, two) = match world.kind {
        Kind::Sqlite => (world.crash().await, None),
        Kind::Postgres => (world.node(), Some(world.start().await)),
    };
    let paused = one.dispatch(&two_calls()).await;
    let other = two.unwrap_or_else(|| one.clone());
    assert_eq!(one.events(&paused.run(), Some(paused.last().id)).await.rest().await.frames, []);
    let first = other.resume(&paused.run(), json!({ "left": 1 })).await;
    let end = one.resume(&paused.run(), json!({ "right": 2 })).await;
    assert_eq!(end.last().kind, "execution_complete");
    assert_eq!(one.after(&paused.run(), paused.last().id).await.frames[..first.frames.len()], first.frames[..]);
    assert_eq!(other.log(&paused.run()).await.frames, one.log(&paused.run()).await.frames);
}

/// Delivers outputs, with more words of the user.
async fn resume_with(node: &Node, run: &str, outputs: Value, words: &str) -> Transcript {
    let body = json!({ "executionId": run, "toolOutputs": outputs, "messages": [{ "role": "user", "content": words }] });
    node.go_on("/v1/dispatch/resume", &body).await
}

async fn a_step_that_pauses_twice_goes_on_where_it_was(world: Arc<World>) {
    let node = world.node();
    let tools = json!({ "runtimeTools": [external("hit", &world.sink.url("/hit"), "PUT"), local("next")] });
    let words = "call hit {}\ncall next {}";
    let first = node.dispatch(&flow(json!([ask_with("work", words, tools)]))).await;
    let run = first.run();
    let second = resume_with(&node, &run, json!({ call_of(&first, "next"): 1 }), words).await;
    assert_ne!(call_of(&second, "next"), call_of(&first, "next"));
    let node = world.crash().await;
    let end = node.resume(&run, json!({ call_of(&second, "next"): 2 })).await;
    assert_eq!(end.step("work")["result"]["response"], "hit answered: {\"ok\":true}\nnext answered: 2");
    assert_eq!(world.sink.seen("/hit").len(), 2, "once in each turn, however often the step was entered");
    assert_eq!(node.execution(&run).await["usage"]["modelCalls"], 3);
    assert_eq!(node.log(&run).await.all("tool_complete").count(), 4);
}

async fn two_answers_to_one_call_leave_the_others_open(world: Arc<World>) {
    let node = world.node();
    let tools = json!({ "runtimeTools": [local("left"), local("right")] });
    let first = node.dispatch(&flow(json!([ask_with("work", "call left {}", tools)]))).await;
    let (run, before) = (first.run(), call_of(&first, "left"));
    let second = resume_with(&node, &run, json!({ before.clone(): "one" }), "call left {}\ncall right {}").await;
    let (left, right) = (call_of(&second, "left"), call_of(&second, "right"));
    let resume =
        |call: &str, output: &str| node.post("/v1/dispatch/resume").json(&json!({ "executionId": run, "toolOutputs": { call: output } }));
    let open = async || {
        let waits = node.execution(&run).await["waits"].as_array().unwrap().len();
        (waits, node.log(&run).await.all("tool_complete").count())
    };
    // An answer of the turn before comes late: it is not the answer to what is asked now.
    resume(&before, "two").refused(409, "tool_output_already_delivered").await;
    assert_eq!(open().await, (2, 1));
    let (one, two) = within(async { tokio::join!(resume(&left, "two").send(), resume(&left, "two").send()) }).await;
    assert_eq!((one.status, two.status), (200, 200), "{} {}", one.text(), two.text());
    assert_eq!(open().await, (1, 2), "the second one is not taken for the other call");
    resume(&left, "three").refused(409, "tool_output_already_delivered").await;
    let end = node.resume(&run, json!({ right: "three" })).await;
    assert_eq!(end.step("work")["result"]["response"], "left answered: two\nright answered: three");
}

async fn ids_that_a_provider_repeats_are_told_apart(world: Arc<World>) {
    let node = world.node();
    // This provider numbers the calls of each answer from zero.
    let step = |id: &str| {
        let config = json!({ "model": "openai/fake-tools", "userPrompt": "Go on.", "tools": { "runtimeTools": [local("look")] } });
        json!({ "id": id, "type": "prompt", "after": ["start"], "config": config })
    };
    let paused = node.dispatch(&flow(json!([set("start", json!(1)), step("one"), step("two")]))).await;
    let run = paused.run();
    let calls: Vec<String> = paused.all("await").map(|frame| frame.text("toolCallId").to_owned()).collect();
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0], calls[1]);
    let resume = async |call: &str, output: &str| {
        let body = json!({ "executionId": run, "toolOutputs": { call: output } });
        within(node.post("/v1/dispatch/resume").json(&body).send()).await.status
    };
    for _ in 0..2 {
        assert_eq!(resume(&calls[0], "first").await, 200);
        assert_eq!(node.execution(&run).await["waits"].as_array().unwrap().len(), 1, "sent again, it answers nothing else");
    }
    assert_eq!(resume(&calls[1], "second").await, 200);
    let log = node.log(&run).await.fresh();
    let told: Vec<(&str, &Value)> = log.all("tool_complete").map(|frame| (frame.text("toolCallId"), &frame.data["result"])).collect();
    assert_eq!(told, [(calls[0].as_str(), &json!("first")), (calls[1].as_str(), &json!("second"))]);
    assert_eq!(log.last().data["success"], true);
}

async fn an_answer_makes_no_execution(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&two_calls()).await;
    let run = paused.run();
    let (left, right) = (call_of(&paused, "left"), call_of(&paused, "right"));
    let ways = [
        ("/v1/dispatch/resume", json!({ "executionId": run, "toolOutputs": { left: 1 } })),
        ("/v1/dispatch/continue", json!({ "executionId": run, "continuation": { "toolOutputs": { right: 2 } } })),
    ];
    let mut runs = Vec::new();
    for (path, body) in ways.iter().chain(&ways) {
        for streamed in [true, false] {
            let mut body = body.clone();
            body["streamResponse"] = json!(streamed);
            let call = || node.post(path).header("idempotency-key", format!("{path}-{streamed}")).json(&body);
            let (one, two) = within(async { tokio::join!(call().send(), call().send()) }).await;
            runs.extend([one, two].map(|answer| answer.header("x-execution-id").map(str::to_owned)));
        }
    }
    assert!(runs.iter().flatten().all(|other| *other == run), "{runs:?}");
    assert_eq!(node.log(&run).await.fresh().last().data["success"], true);
    assert_eq!(node.get("/v1/executions").ok().await["data"].as_array().unwrap().len(), 1);
}

async fn a_signal_before_its_wait_is_taken(world: Arc<World>) {
    let node = world.node();
    let wait = |id: &str| json!({ "id": id, "type": "wait-for-signal", "config": { "name": "paid" }, "outputVariable": id });
    let tools = json!({ "runtimeTools": [local("look")] });
    let paused = node.dispatch(&flow(json!([ask_with("before", "call look {}", tools), wait("one"), wait("two")]))).await;
    let run = paused.run();
    let send = async |id: &str| {
        let call = node.post(&format!("/v1/executions/{run}/signals/paid")).header("idempotency-key", id);
        call.json(&json!({ "number": id })).ok().await;
    };
    // Delivered twice, it is one signal: the second step waits for another.
    send("1").await;
    send("1").await;
    let call = node.post("/v1/dispatch/resume").json(&json!({ "executionId": run, "toolOutputs": { "look": 1 } }));
    let mut reader = node.reader(call).await;
    let one = reader.until(|frame| frame.kind == "step_complete" && frame.data["id"] == "one").await;
    assert_eq!(one.data["result"], json!({ "number": "1" }));
    let waits = async { while node.execution(&run).await["status"] != "paused" {} };
    within(waits).await;
    send("2").await;
    let two = reader.until(|frame| frame.kind == "step_complete" && frame.data["id"] == "two").await;
    assert_eq!(two.data["result"], json!({ "number": "2" }));
    assert_eq!(reader.rest().await.last().data["success"], true);
}

/// Takes what a run waits for, and its timer, out of the database, as no part of the server does.
async fn lose_waits(world: &World, run: &str) {
    for statement in ["delete from waits where run = $1", "update runs set wake_at = null where id = $1"] {
        assert_eq!(world.meddle(statement, run).await, 1, "{statement}");
    }
}

async fn a_run_that_nothing_can_wake_is_entered_again(world: Arc<World>) {
    world.configure(|config| config.limits.workers.sweep = std::time::Duration::from_millis(100));
    let node = world.crash().await;
    let paused = node.dispatch(&flow(json!([ask_with("w", "call look {}", json!({ "runtimeTools": [local("look")] }))]))).await;
    let run = paused.run();
    lose_waits(&world, &run).await;
    let asks_again = async { while node.execution(&run).await["waits"].as_array().unwrap().is_empty() {} };
    within(asks_again).await;
    let metrics = node.bare(reqwest::Method::GET, "/metrics").send().await.text();
    assert!(metrics.lines().any(|line| line == "dispatch_runs_stuck_total 1"), "{metrics}");
    let end = node.resume(&run, json!({ "look": 1 })).await;
    assert_eq!(end.last().data["success"], true);
}
