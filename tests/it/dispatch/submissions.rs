//! Batches and evals as Runtype's clients begin and read them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask, step};
use crate::support::world::{Node, World, until};

on_both!(
    a_batch_is_made_and_read_under_both_names,
    a_batch_of_chosen_records,
    an_eval_of_records_is_submitted,
    evals_of_a_group_are_compared,
    an_eval_is_streamed,
);

async fn saved(node: &Node, steps: Value) -> Value {
    node.post("/v1/flows").json(&json!({ "name": "Each", "steps": steps })).ok().await["id"].clone()
}

async fn lead(node: &Node, name: &str) -> Value {
    node.post("/v1/records").json(&json!({ "type": "lead", "name": name, "metadata": { "n": 1 } })).ok().await["id"].clone()
}

async fn a_batch_is_made_and_read_under_both_names(world: Arc<World>) {
    let node = world.node();
    lead(&node, "a").await;
    let flow = saved(&node, json!([step("s", "transform-data", json!({ "script": "return _record.name;" }))])).await;
    let begun = node.post("/v1/batches").json(&json!({ "flowId": flow, "recordType": "lead", "options": { "concurrency": 5 } })).ok().await;
    assert_eq!((&begun["success"], &begun["completedAt"], &begun["results"]), (&json!(true), &json!(""), &json!([])), "{begun}");
    let batch = begun["batchId"].as_str().unwrap();
    let done = until(&node, &format!("/v1/batch/status/{batch}"), |batch| batch["status"] == "completed").await;
    assert_eq!((&done["totalRecords"], &done["processedRecords"], &done["failedRecords"]), (&json!(1), &json!(1), &json!(0)), "{done}");
    assert_eq!((&done["batchExecutionId"], &done["progress"], &done["flowId"]), (&json!(batch), &json!(100), &flow));
    assert_eq!(node.get(&format!("/v1/batch/{batch}/cost")).ok().await["totalCostUsd"], 0.0);
    let summary = node.get("/v1/batch/summary").ok().await;
    assert_eq!((&summary["activeBatches"], &summary["recent"][0]["flowName"]), (&json!(0), &json!("Each")), "{summary}");
    let none = node.post("/v1/batches").json(&json!({ "flowId": flow, "recordType": "none" })).ok().await;
    assert!(none["completedAt"].as_str().is_some_and(|at| !at.is_empty()), "{none}");
    let listed = node.get(&format!("/v1/batches?recordType=lead&status=completed&flowId={}", flow.as_str().unwrap())).ok().await;
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["data"][0]["batchId"]), (1, &json!(batch)));
    for (more, pointer) in [
        (json!({ "scheduledAt": "2099-01-01T00:00:00Z" }), "/scheduledAt"),
        (json!({ "options": { "modelOverride": "m" } }), "/options/modelOverride"),
        (json!({ "options": { "continueOnError": false } }), "/options/continueOnError"),
        (json!({ "flowId": "flow_01h455vb4pex5vsknk084sn02q" }), "/flowId"),
    ] {
        let mut body = json!({ "flowId": flow, "recordType": "lead" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(node.post("/v1/batches").json(&body).refused(422, "validation_failed").await.pointers(), [pointer]);
    }
}

async fn a_batch_of_chosen_records(world: Arc<World>) {
    let node = world.node();
    let kept = lead(&node, "kept").await;
    let flow = saved(&node, json!([step("s", "transform-data", json!({ "script": "return _record.name + _record.metadata.n;" }))])).await;
    let body = json!({ "flowId": flow, "recordIds": [kept], "records": [{ "type": "t", "name": "sent", "metadata": { "n": 2 } }] });
    let begun = node.post("/v1/batch/flow").json(&body).ok().await;
    let at = format!("/v1/batch/status/{}", begun["batchExecutionId"].as_str().unwrap());
    let done = until(&node, &at, |batch| batch["status"] == "completed").await;
    let mut said = Vec::new();
    for row in done["results"].as_array().unwrap() {
        said.push(node.execution(row["executionId"].as_str().unwrap()).await["output"].clone());
    }
    assert_eq!(said, [json!("kept1"), json!("sent2")]);
    let wrong = json!({ "flowId": flow, "agentId": "agent_1" });
    let wrong = node.post("/v1/batch/flow").json(&wrong).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/agentId", "/recordIds"]);
    let waits = json!([step("w", "wait-for-signal", json!({ "name": "go" }))]);
    let waits = node.post("/v1/flows").json(&json!({ "name": "Waits", "steps": waits })).ok().await["id"].clone();
    let begun = node.post("/v1/batch/flow").json(&json!({ "flowId": waits, "recordIds": [kept] })).ok().await;
    let batch = begun["batchExecutionId"].as_str().unwrap();
    assert_eq!(node.post(&format!("/v1/batch/cancel/{batch}")).ok().await["success"], true);
    assert_eq!(node.get(&format!("/v1/batch/status/{batch}")).ok().await["status"], "cancelled");
}

/// What the Python client sends.
fn submission(flow: &Value) -> Value {
    json!({
        "flowId": flow, "async": true,
        "records": [{ "name": "tea", "type": "word", "metadata": { "word": "Tea" } }, { "name": "sea", "metadata": { "word": "Sea" } }],
        "modelOverrides": [{ "stepName": "Say", "model": "local/echo", "temperature": 0.5 }],
    })
}

fn say() -> Value {
    let mut say = ask("say", "say {{_record.metadata.word}}");
    say["name"] = "Say".into();
    json!([say])
}

async fn an_eval_of_records_is_submitted(world: Arc<World>) {
    let node = world.node();
    let flow = saved(&node, say()).await;
    let begun = node.post("/v1/eval/submit").json(&submission(&flow)).ok().await;
    let eval = begun["batchExecutionId"].as_str().unwrap();
    assert_eq!((&begun["totalEvals"], &begun["submissions"][0]["batchExecutionId"]), (&json!(1), &json!(eval)), "{begun}");
    let done = until(&node, &format!("/v1/eval/{eval}/results"), |eval| eval["status"] == "completed").await;
    assert_eq!((&done["totalRecords"], &done["processedRecords"], &done["failedRecords"]), (&json!(2), &json!(2), &json!(0)), "{done}");
    assert_eq!((&done["batchExecutionId"], &done["flowId"], &done["caseErrors"]), (&json!(eval), &flow, &json!([])));
    let row = &done["resultsByRecord"]["tea"][0];
    assert_eq!((&row["output"], &row["stepType"], &row["toolCalls"]), (&json!("Tea"), &json!("flow"), &json!([])));
    assert!(row["stepResultId"].as_str().is_some_and(|id| id.starts_with("exec_")), "{row}");
    assert_eq!((&row["stepResultId"], &row["executedAt"], &row["totalCost"]), (&row["executionId"], &done["startedAt"], &row["cost"]));
    let listed = node.get("/v1/eval/batches?limit=1").ok().await;
    assert_eq!((&listed["count"], &listed["hasMore"], &listed["batches"][0]["batchExecutionId"]), (&json!(1), &json!(false), &json!(eval)));
    assert_eq!(node.get("/v1/eval").ok().await["data"][0]["id"], json!(eval));
    let mut wrong = submission(&flow);
    wrong["modelOverrides"][0]["stepName"] = "None".into();
    wrong["modelConfigs"] = json!([]);
    let refused = node.post("/v1/eval/submit").json(&wrong).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/modelOverrides/step"]);
    wrong.as_object_mut().unwrap().remove("records");
    let refused = node.post("/v1/eval/submit").json(&wrong).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/records"]);
}

async fn evals_of_a_group_are_compared(world: Arc<World>) {
    let node = world.node();
    let flow = saved(&node, say()).await;
    let mut body = submission(&flow);
    body.as_object_mut().unwrap().remove("modelOverrides");
    let polite = json!({ "stepName": "Say", "userPrompt": "say Please, {{_record.metadata.word}}" });
    body["modelConfigs"] = json!([[{ "stepName": "Say", "temperature": 0.1 }], [polite]]);
    let begun = node.post("/v1/eval/submit").json(&body).ok().await;
    let group = begun["evalGroupId"].as_str().unwrap();
    assert_eq!(begun["totalEvals"], 2, "{begun}");
    let second = begun["submissions"][1]["batchExecutionId"].as_str().unwrap();
    for eval in [group, second] {
        until(&node, &format!("/v1/eval/{eval}/results"), |eval| eval["status"] == "completed").await;
    }
    let listed = node.get(&format!("/v1/eval/group/{group}")).ok().await;
    assert_eq!((&listed["totalEvals"], &listed["batches"][1]["batchExecutionId"]), (&json!(2), &json!(second)));
    let compared = node.post("/v1/eval/compare").json(&json!({ "evalGroupId": group })).ok().await;
    let metrics = &compared["evals"][1]["metrics"];
    assert_eq!(
        (&metrics["totalSteps"], &metrics["failedSteps"], &metrics["successRate"]),
        (&json!(2), &json!(0), &json!(1.0)),
        "{compared}"
    );
    assert!(metrics["totalPromptTokens"].as_u64().unwrap() > 0, "{compared}");
    let record = json!({ "evalGroupId": group, "recordId": "sea" });
    let record = node.post("/v1/eval/compare-record").json(&record).ok().await;
    let outputs: Vec<&Value> = record["evals"].as_array().unwrap().iter().map(|eval| &eval["stepResults"][0]["output"]).collect();
    assert_eq!(outputs, [&json!("Sea"), &json!("Please, Sea")], "{record}");
    let step = &record["evals"][0]["stepResults"][0];
    assert_eq!((&step["stepName"], &step["toolCalls"]), (&json!("Say"), &json!([])));
    let missing = json!({ "evalGroupId": group, "recordId": "none" });
    assert_eq!(node.post("/v1/eval/compare-record").json(&missing).refused(422, "validation_failed").await.pointers(), ["/recordId"]);
    let stranger = world.strangers_key().await;
    let theirs = node.bare(reqwest::Method::GET, &format!("/v1/eval/group/{group}")).bearer(&stranger);
    theirs.refused(404, "not_found").await;
}

async fn an_eval_is_streamed(world: Arc<World>) {
    let node = world.node();
    let flow = saved(&node, say()).await;
    let mut body = submission(&flow);
    body["stream"] = true.into();
    let stream = || crate::support::app::within(node.post("/v1/eval/stream").header("idempotency-key", "k").json(&body).send());
    let answer = stream().await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"), "{}", answer.text());
    let text = answer.text();
    let events: Vec<Value> =
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap()).collect();
    let custom = |name: &str| events.iter().filter(|event| event["type"] == "custom" && event["name"] == name).count();
    assert_eq!(
        (custom("dispatch.eval_started"), custom("dispatch.eval_record_completed"), custom("dispatch.eval_completed")),
        (1, 2, 1),
        "{text}"
    );
    let ends: Vec<&Value> = events.iter().filter(|event| event["type"] == "execution_complete").map(|event| &event["success"]).collect();
    assert_eq!(ends, [&json!(true), &json!(true)], "{text}");
    let again = stream().await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert!(again.text().contains("dispatch.eval_completed"), "{}", again.text());
    assert_eq!(node.get("/v1/evals").ok().await["data"].as_array().unwrap().len(), 1);
}
