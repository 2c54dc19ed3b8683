//! What streams look like, event by event.

use std::sync::Arc;

use insta::assert_snapshot;
use serde_json::{Value, json};

use super::{ask, ask_with, fails, flow, local, set};
use crate::support::redact::{show, show_json};
use crate::support::transcript::Transcript;
use crate::support::world::{KEY, World};

on_one!(Sqlite:
    the_first_request_of_the_documentation,
    a_prompt,
    two_steps,
    steps_that_are_skipped_or_disabled,
    failing_steps,
    tools_run_in_the_loop,
    an_approval,
    a_local_tool,
    text_sent_in_the_middle,
    branches,
    a_graph,
);

/// The request that the API's own page shows.
fn documented() -> Value {
    json!({
        "flow": {
            "name": "Sales Analysis",
            "steps": [{
                "config": {
                    "model": "gpt-4",
                    "outputVariable": "sales_analysis",
                    "responseFormat": "markdown",
                    "userPrompt": "Analyze the sales performance for {{_record.metadata.quarter}} in {{_record.metadata.region}}."
                },
                "enabled": true, "id": "analyze-sales", "name": "Analyze Sales Performance", "order": 1, "type": "prompt"
            }]
        },
        "options": { "autoAppendMetadata": true, "flowMode": "virtual", "recordMode": "virtual", "streamResponse": true },
        "record": {
            "metadata": {
                "growth_rate": "18%", "quarter": "Q4 2024", "region": "North America", "sales_team": "Team Alpha",
                "top_products": ["Product A", "Product B", "Product C"], "total_revenue": "$2.5M"
            },
            "name": "Q4 Sales Report", "type": "report"
        }
    })
}

async fn the_first_request_of_the_documentation(world: Arc<World>) {
    let node = world.node();
    // The key stands bare, as in the documentation.
    let answer = node.bare(reqwest::Method::POST, "/v1/dispatch").header("authorization", KEY).json(&documented()).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let streamed = Transcript::parse(answer.text().as_bytes()).fresh();
    assert_snapshot!(show(&streamed));
    let asked = world.asked("gpt-4").await;
    let prompt = asked["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
    assert_snapshot!(prompt);

    let mut body = documented();
    body["options"]["streamResponse"] = json!(false);
    let whole = node.bare(reqwest::Method::POST, "/v1/dispatch").header("authorization", KEY).json(&body).ok().await;
    assert_snapshot!(show_json(&whole));
    let told = Transcript::of_events(&whole["events"]).fresh();
    assert_eq!(show(&told), show(&streamed), "both forms tell the same");
}

async fn a_prompt(world: Arc<World>) {
    let transcript = world.node().dispatch(&flow(json!([ask("greet", "think It is a greeting.\nsay Hello, dear world!")]))).await;
    assert_snapshot!(show(&transcript));
    assert_eq!(transcript.streamed_text(), "Hello, dear world!");
}

async fn two_steps(world: Arc<World>) {
    let steps = json!([ask("first", "say one two"), ask("second", "say got {{first}} and {{nothing}}")]);
    assert_snapshot!(show(&world.node().dispatch(&flow(steps)).await));
}

async fn steps_that_are_skipped_or_disabled(world: Arc<World>) {
    let mut skipped = ask("skipped", "say never");
    skipped["when"] = json!("n > 5");
    let mut off = ask("off", "say never");
    off["enabled"] = json!(false);
    let mut on = ask("on", "say n is {{n}}");
    on["when"] = json!("n < 5");
    let mut body = flow(json!([skipped, off, on]));
    body["inputs"] = json!({ "n": 3 });
    assert_snapshot!(show(&world.node().dispatch(&body).await));
}

async fn failing_steps(world: Arc<World>) {
    let node = world.node();
    let policy = |handling: Value| {
        let mut step = fails("bad");
        step["config"]["errorHandling"] = handling;
        flow(json!([step, ask("next", "say bad was {{bad}}.")]))
    };
    let goes_on = flow(json!([fails("bad"), ask("next", "say bad was {{bad}}.")]));
    assert_snapshot!("goes_on_by_default", show(&node.dispatch(&goes_on).await));
    assert_snapshot!("goes_on_when_told", show(&node.dispatch(&policy(json!({ "onError": "continue" }))).await));
    assert_snapshot!("goes_on_with_a_default", show(&node.dispatch(&policy(json!({ "defaultValue": "a default" }))).await));
    assert_snapshot!("stops", show(&node.dispatch(&policy(json!({ "onError": "fail" }))).await));
    assert_snapshot!("stops_as_one_answer", show_json(&node.result(&policy(json!({ "onError": "fail" }))).await));
}

async fn tools_run_in_the_loop(world: Arc<World>) {
    let double = json!({
        "name": "double", "description": "Doubles.", "toolType": "custom",
        "parametersSchema": { "type": "object", "properties": { "n": { "type": "number" } }, "required": ["n"] },
        "config": { "code": "return n * 2" },
    });
    let step = ask_with("work", "call double {\"n\": 21}\ncall double {\"n\": \"many\"}", json!({ "runtimeTools": [double] }));
    let transcript = world.node().dispatch(&flow(json!([step]))).await;
    // The calls of one turn run side by side.
    let results: Vec<_> =
        transcript.all("tool_complete").map(|frame| (frame.data["success"].clone(), frame.data["result"].clone())).collect();
    assert!(results.contains(&(json!(true), json!(42))) && results.contains(&(json!(false), Value::Null)), "{results:?}");
    let once = ask_with("work", "call double {\"n\": 21}", json!({ "runtimeTools": [transcript_tool()] }));
    assert_snapshot!(show(&world.node().dispatch(&flow(json!([once]))).await));
}

fn transcript_tool() -> Value {
    json!({
        "name": "double", "description": "Doubles.", "toolType": "custom",
        "parametersSchema": { "type": "object", "properties": { "n": { "type": "number" } }, "required": ["n"] },
        "config": { "code": "return n * 2" },
    })
}

async fn an_approval(world: Arc<World>) {
    let node = world.node();
    let gated = |timeout: Option<u64>| {
        let approval = timeout.map_or(json!({ "require": ["double"] }), |timeout| json!({ "require": true, "timeout": timeout }));
        let prompt = "say So be it.\ncall double {\"n\": 4, \"_approvalReason\": \"It is needed.\"}";
        flow(json!([ask_with("work", prompt, json!({ "runtimeTools": [transcript_tool()], "approval": approval }))]))
    };
    for decision in ["approved", "denied"] {
        let paused = node.dispatch(&gated(None)).await;
        let approval = paused.one("approval_start").text("approvalId").to_owned();
        let body = json!({ "executionId": paused.run(), "approvalId": approval, "decision": decision, "reason": "because" });
        let then = node.go_on("/v1/dispatch/approve", &body).await;
        assert!(then.frames[0].id > paused.last().id, "numbers go on");
        assert_snapshot!(decision, format!("{}--- {decision}\n{}", show(&paused), show(&then)));
    }
    let paused = node.dispatch(&gated(Some(1))).await;
    // Nobody answers: the run goes on by itself, and whoever follows it sees the end.
    let end = node.after(&paused.run(), paused.last().id).await;
    assert_snapshot!("timeout", show(&end));
    assert_snapshot!("as_one_answer", show_json(&node.result(&gated(None)).await));
}

async fn a_local_tool(world: Arc<World>) {
    let node = world.node();
    let body = flow(json!([ask_with("work", "call look {\"at\": \"sky\"}", json!({ "runtimeTools": [local("look")] }))]));
    let paused = node.dispatch(&body).await;
    let call = paused.last().text("toolCallId").to_owned();
    let then = node.resume(&paused.run(), json!({ call: "blue" })).await;
    assert_snapshot!(format!("{}--- resume\n{}", show(&paused), show(&then)));
    assert_snapshot!("a_local_tool_as_one_answer", show_json(&node.result(&body).await));
}

async fn text_sent_in_the_middle(world: Arc<World>) {
    let steps = json!([
        set("found", json!({ "n": 2 })),
        { "id": "tell", "type": "send-stream", "config": { "message": "Found {{found.n}}." } },
        { "id": "show", "type": "send-stream", "config": { "sourceVariable": "found", "streamType": "event" } },
        ask("end", "say Done."),
    ]);
    assert_snapshot!(show(&world.node().dispatch(&flow(steps)).await));
}

async fn branches(world: Arc<World>) {
    let steps = json!([
        { "id": "outer", "type": "conditional", "config": {
            "condition": "n > 1",
            "trueSteps": [{ "id": "inner", "type": "conditional", "config": {
                "condition": "n > 10",
                "trueSteps": [set("size", json!("large"))],
                "falseSteps": [set("size_small", json!("small")), ask("speak", "say {{size_small}}")],
            } }],
            "falseSteps": [ask("never", "say never")],
        } },
        ask("end", "say the end"),
    ]);
    let mut body = flow(steps);
    body["inputs"] = json!({ "n": 5 });
    assert_snapshot!(show(&world.node().dispatch(&body).await));
}

async fn a_graph(world: Arc<World>) {
    let gate = |id: &str, after: Value| json!({ "id": id, "type": "fetch-url", "after": after, "config": { "url": world.sink.url("/"), "outputVariable": id } });
    let mut body = flow(json!([
        gate("a", json!([])), gate("b", json!([])), gate("c", json!([])),
        { "id": "join", "type": "set-variable", "after": ["a", "b", "c"], "config": { "variableName": "all", "value": ["{{a.ok}}", "{{b.ok}}", "{{c.ok}}"] } },
    ]));
    body["flow"]["maxParallel"] = json!(2);
    let transcript = world.node().dispatch(&body).await;
    let (mut running, mut most) = (0, 0);
    for frame in &transcript.frames {
        match frame.kind.as_str() {
            "step_start" => running += 1,
            "step_complete" => running -= 1,
            _ => {}
        }
        most = most.max(running);
    }
    assert_eq!(most, 2, "two at once, no more");
    assert_eq!(transcript.step("join")["result"], json!([true, true, true]));
    assert_eq!(transcript.all("step_start").last().unwrap().text("id"), "join");
    assert_eq!(transcript.last().data["successfulSteps"], 4);
}
