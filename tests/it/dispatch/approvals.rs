//! Approvals: decided once, bound to the exact call, across crashes and nodes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask_with, external, flow, set};
use crate::support::app::within;
use crate::support::world::{KEY, Kind, Node, World};

on_both!(
    the_first_decision_is_final,
    a_decision_is_bound_to_what_was_shown,
    what_was_approved_runs_once,
    a_decision_outlives_a_crash,
    a_decision_outlives_the_server_that_took_it,
    approvals_are_nobody_elses,
    fifty_decisions_at_once,
    two_gates_of_one_turn,
    the_other_node_decides,
    continue_is_either,
);

/// A gated call of the sink with an amount.
fn refund(world: &World) -> Value {
    let tool = json!({
        "name": "refund", "description": "Pays back.", "toolType": "external",
        "parametersSchema": { "type": "object", "properties": { "amount": { "type": "number" } }, "required": ["amount"] },
        "config": { "url": world.sink.url("/refund"), "method": "POST", "body": { "amount": "{{amount}}" } },
    });
    flow(json!([ask_with("work", "call refund {\"amount\": 12.5}", json!({ "runtimeTools": [tool], "approval": { "require": true } }))]))
}

async fn pause(node: &Node, body: &Value) -> (String, String, String) {
    let paused = node.dispatch(body).await;
    let asked = paused.one("approval_start");
    (paused.run(), asked.text("approvalId").into(), asked.text("digest").into())
}

async fn the_first_decision_is_final(world: Arc<World>) {
    let node = world.node();
    let (run, approval, _) = pause(&node, &refund(&world)).await;
    let approve = |decision: &str| json!({ "executionId": run, "approvalId": approval, "decision": decision });
    let first = node.go_on("/v1/dispatch/approve", &approve("approved")).await;
    let again = node.go_on("/v1/dispatch/approve", &approve("approved")).await;
    assert_eq!(first.frames, again.frames, "the same word again is answered with what came of the first");
    let other = node.post("/v1/dispatch/approve").json(&approve("denied")).refused(409, "APPROVAL_ALREADY_RESOLVED").await;
    assert_eq!(other.json()["error"], "Decision approved is in force.");
    assert_eq!(world.sink.seen("/refund").len(), 1);
    // One JSON says the same.
    let mut whole = approve("approved");
    whole["streamResponse"] = json!(false);
    let whole = node.post("/v1/dispatch/approve").json(&whole).ok().await;
    assert_eq!((&whole["status"], &whole["success"]), (&json!("completed"), &json!(true)));
}

async fn a_decision_is_bound_to_what_was_shown(world: Arc<World>) {
    let node = world.node();
    let (run, approval, digest) = pause(&node, &refund(&world)).await;
    let approve = |digest: &str| json!({ "executionId": run, "approvalId": approval, "decision": "approved", "digest": digest });
    node.post("/v1/dispatch/approve").json(&approve("of another call")).refused(409, "approval_digest_mismatch").await;
    assert_eq!(world.sink.seen("/refund").len(), 0);
    let (_, _, same) = pause(&node, &refund(&world)).await;
    assert_eq!(same, digest, "the same call of the same flow has the same digest");
    node.go_on("/v1/dispatch/approve", &approve(&digest)).await;
    assert_eq!(world.sink.seen("/refund")[0].json(), json!({ "amount": 12.5 }));
}

async fn what_was_approved_runs_once(world: Arc<World>) {
    let node = world.node();
    // The arguments are shown, then the variable they came from changes beside them.
    let tool = external("pay", &world.sink.url("/pay"), "POST");
    let body = flow(json!([
        set("amount", json!(5)),
        { "id": "pay", "type": "tool-call", "after": ["amount"], "config": {
            "tool": { "name": "pay", "toolType": "external", "config": tool["config"].clone(), "parametersSchema": { "type": "object" } },
            "parameters": { "amount": "{{amount}}" }, "approval": true } },
        { "id": "raise", "type": "set-variable", "after": ["amount"], "config": { "variableName": "amount", "value": 5000 } },
    ]));
    let paused = node.dispatch(&body).await;
    assert_eq!(paused.one("approval_start").data["parameters"], json!({ "amount": 5 }));
    assert_eq!(paused.step("raise")["success"], true);
    let end = node.approve(&paused.run(), paused.one("approval_start").text("approvalId"), "approved").await;
    assert_eq!(end.last().data["success"], true, "{:?}", end.last());
    let calls = world.sink.seen("/pay");
    assert_eq!((calls.len(), calls[0].json()), (1, json!({ "amount": 5 })));
    assert!(calls[0].header("idempotency-key").starts_with(&paused.run()));
}

async fn a_decision_outlives_a_crash(world: Arc<World>) {
    let (run, approval, digest) = pause(&world.node(), &refund(&world)).await;
    let node = world.crash().await;
    let shown = node.execution(&run).await;
    assert_eq!((&shown["waits"][0]["id"], &shown["waits"][0]["digest"]), (&json!(approval), &json!(digest)));
    assert_eq!(shown["waits"][0]["shown"]["parameters"], json!({ "amount": 12.5 }), "{shown}");
    let end = node.approve(&run, &approval, "approved").await;
    assert_eq!(end.last().kind, "execution_complete");
    let node = world.crash().await;
    node.approve(&run, &approval, "approved").await;
    assert_eq!(world.sink.seen("/refund").len(), 1);
}

async fn a_decision_outlives_the_server_that_took_it(world: Arc<World>) {
    let (run, approval, _) = pause(&world.node(), &refund(&world)).await;
    let asked = world.node().log(&run).await.last().id;
    // This server takes the decision and gets no further: it may advance nothing.
    world.configure(|config| config.limits.workers.max_active = 0);
    let node = world.crash().await;
    let body = json!({ "executionId": run, "approvalId": approval, "decision": "approved" });
    let reader = node.reader(node.post("/v1/dispatch/approve").json(&body)).await;
    assert_eq!((reader.status, world.sink.seen("/refund").len()), (200, 0));
    world.configure(|_| {});
    let node = world.crash().await;
    // Nobody says it again.
    let end = node.after(&run, asked).await;
    assert_eq!(end.last().data["success"], true);
    assert_eq!(world.sink.seen("/refund").len(), 1);
}

async fn approvals_are_nobody_elses(world: Arc<World>) {
    let node = world.node();
    let (run, approval, _) = pause(&node, &refund(&world)).await;
    let (other, _, _) = pause(&node, &refund(&world)).await;
    let body = |run: &str| json!({ "executionId": run, "approvalId": approval, "decision": "approved" });
    node.post("/v1/dispatch/approve").json(&body(&other)).refused(404, "not_found").await;
    let unknown = node.post("/v1/dispatch/approve").json(&body("exec_00000000000000000000000001")).send().await;
    assert_eq!((unknown.status, &unknown.json()["error"]), (404, &json!("No paused execution found for this executionId")));

    let stranger = world.strangers_key().await;
    let call = |path: &str| node.bare(reqwest::Method::POST, path).bearer(&stranger);
    let told = call("/v1/dispatch/approve").json(&body(&run)).send().await;
    assert_eq!((told.status, told.json()), (404, unknown.json()), "another tenant's run looks like none");
    let resume = json!({ "executionId": run, "toolOutputs": { "refund": 1 } });
    assert_eq!(call("/v1/dispatch/resume").json(&resume).send().await.status, 404);
    let get = |path: &str| node.bare(reqwest::Method::GET, path).bearer(&stranger);
    for path in ["", "/events", "/steps", "/events?after=0"] {
        get(&format!("/v1/executions/{run}{path}")).refused(404, "not_found").await;
    }
    for cursor in ["0", "1", "18446744073709551615", "seven"] {
        let call = get(&format!("/v1/executions/{run}/events")).header("accept", "text/event-stream").header("last-event-id", cursor);
        let status = call.send().await.status;
        assert!(status == 404 || status == 400 && cursor == "seven", "a cursor opens nothing: {status}");
    }
    call(&format!("/v1/executions/{run}/cancel")).refused(404, "not_found").await;
    let settle = json!({ "waitId": approval, "outcome": "succeeded" });
    call(&format!("/v1/executions/{run}/settle")).json(&settle).refused(404, "not_found").await;
    assert_eq!(world.sink.seen("/refund").len(), 0);
    let (reader, _) = (node.bare(reqwest::Method::POST, "/v1/dispatch/approve").bearer(&world.key_with(&["FLOWS:READ"]).await), KEY);
    reader.json(&body(&run)).refused(403, "missing_scope").await;
}

async fn fifty_decisions_at_once(world: Arc<World>) {
    let node = world.node();
    let (run, approval, _) = pause(&node, &refund(&world)).await;
    let calls = (0..50).map(|n| {
        let decision = if n % 2 == 0 { "approved" } else { "denied" };
        let body = json!({ "executionId": run, "approvalId": approval, "decision": decision, "streamResponse": n % 3 == 0 });
        let call = node.post("/v1/dispatch/approve").json(&body);
        async move { (decision, call.send().await) }
    });
    let answers = within(futures_util::future::join_all(calls)).await;
    let won: std::collections::BTreeSet<&str> =
        answers.iter().filter(|(_, answer)| answer.status == 200).map(|(decision, _)| *decision).collect();
    assert_eq!(won.len(), 1, "one decision is in force");
    for (decision, answer) in answers.iter().filter(|(decision, _)| !won.contains(decision)) {
        assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("APPROVAL_ALREADY_RESOLVED")), "{decision}");
    }
    let log = node.log(&run).await;
    assert_eq!(log.all("approval_complete").count(), 1);
    assert_eq!(world.sink.seen("/refund").len(), usize::from(won.contains("approved")));
}

async fn two_gates_of_one_turn(world: Arc<World>) {
    let node = world.node();
    let tool = |name: &str| {
        json!({
            "name": name, "description": "Does.", "toolType": "external", "parametersSchema": { "type": "object" },
            "config": { "url": world.sink.url(&format!("/{name}")), "method": "POST" },
        })
    };
    let tools = json!({ "runtimeTools": [tool("first"), tool("second")], "approval": { "require": ["*"] } });
    let paused = node.dispatch(&flow(json!([ask_with("work", "call first {}\ncall second {}", tools)]))).await;
    let of = |name: &str| paused.all("approval_start").find(|frame| frame.data["toolName"] == name).unwrap().text("approvalId").to_owned();
    let again = node.approve(&paused.run(), &of("second"), "denied").await;
    assert_eq!(again.last().text("approvalId"), of("first"), "the open one is asked for again under the same id");
    let end = node.approve(&paused.run(), &of("first"), "approved").await;
    assert_eq!(end.last().kind, "execution_complete");
    assert_eq!((world.sink.seen("/first").len(), world.sink.seen("/second").len()), (1, 0));
}

async fn the_other_node_decides(world: Arc<World>) {
    let one = world.node();
    let other = if world.kind == Kind::Postgres { world.start().await } else { one.clone() };
    let (run, approval, _) = pause(&one, &refund(&world)).await;
    let end = other.approve(&run, &approval, "approved").await;
    assert_eq!(end.last().kind, "execution_complete");
    assert_eq!(one.log(&run).await.last(), end.last());
    assert_eq!(world.sink.seen("/refund").len(), 1);
}

async fn continue_is_either(world: Arc<World>) {
    let node = world.node();
    let (run, approval, _) = pause(&node, &refund(&world)).await;
    let both = json!({ "executionId": run, "continuation": { "approvalId": approval, "decision": "denied", "toolOutputs": {} } });
    let refused = node.post("/v1/dispatch/continue").json(&both).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/continuation"]);
    let denied = json!({ "executionId": run, "continuation": { "type": "approval", "approvalId": approval, "decision": "denied", "reason": "too much" } });
    let end = node.go_on("/v1/dispatch/continue", &denied).await;
    assert!(end.step("work")["result"]["response"].as_str().unwrap().contains("too much"), "the model is told why");
    assert_eq!(world.sink.seen("/refund").len(), 0);

    let paused = node.dispatch(&flow(json!([ask_with("work", "call look {}", json!({ "runtimeTools": [super::local("look")] }))]))).await;
    let outputs = json!({ "executionId": paused.run(), "continuation": { "toolOutputs": { "look": "seen" } } });
    assert_eq!(node.go_on("/v1/dispatch/continue", &outputs).await.last().kind, "execution_complete");
}
