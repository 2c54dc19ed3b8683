//! Flows and agents over cases, in variants, graded.

use std::sync::Arc;

use serde_json::{Value, json};

use super::ask;
use crate::support::world::{Node, World, until};

on_both!(variants_are_graded_and_compared, a_model_judges, an_eval_is_cancelled_and_deleted, wrong_evals_are_refused,);

async fn done(node: &Node, body: &Value) -> Value {
    let begun = node.post("/v1/evals").json(body).ok().await;
    until(node, &format!("/v1/evals/{}", begun["id"].as_str().unwrap()), |eval| eval["status"] == "completed").await
}

async fn variants_are_graded_and_compared(world: Arc<World>) {
    let node = world.node();
    let flow = json!({ "name": "Say", "steps": [ask("answer", "say {{word}}")] });
    let flow = node.post("/v1/flows").json(&flow).ok().await["id"].clone();
    let body = json!({
        "name": "Words", "target": { "flowId": flow },
        "cases": [
            { "name": "tea", "inputs": { "word": "Tea" }, "expected": "tea" },
            { "name": "sea", "inputs": { "word": "Sea" }, "expected": "lake" },
        ],
        "variants": [{ "name": "plain" }, { "name": "polite", "userPrompt": "say Please, {{word}}", "step": "answer" }],
        "graders": [{ "type": "no_error" }, { "type": "exact", "ignoreCase": true }],
    });
    let eval = done(&node, &body).await;
    let of = |name: &str| eval["variants"].as_array().unwrap().iter().find(|variant| variant["name"] == name).unwrap().clone();
    assert_eq!((&of("plain")["judged"], &of("plain")["passed"], &of("plain")["score"]), (&json!(2), &json!(1), &json!(0.75)), "{eval}");
    assert_eq!(of("polite")["passed"], 0);
    assert!(of("plain")["tokens"].as_u64().unwrap() > 0 && of("plain")["durationMs"].is_u64(), "{eval}");
    let id = eval["id"].as_str().unwrap();
    let results = node.get(&format!("/v1/eval/{id}/results")).ok().await;
    let row = results["data"].as_array().unwrap().iter().find(|row| row["case"] == "sea" && row["variant"] == "polite").unwrap();
    assert_eq!(
        (&row["output"], &row["pass"], &row["grades"][1]["reason"]),
        (&json!("Please, Sea"), &json!(false), &json!("expected \"lake\"")),
        "{row}"
    );
    assert_eq!(node.execution(row["executionId"].as_str().unwrap()).await["output"], "Please, Sea");
    let second = done(&node, &json!({ "name": "Again", "target": { "flowId": flow }, "cases": body["cases"], "graders": [{ "type": "contains", "ignoreCase": true }] })).await;
    let compared = node.post("/v1/evals/compare").json(&json!({ "evalIds": [id, second["id"]] })).ok().await;
    let names: Vec<&str> = compared["columns"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["plain", "polite", "as it is"]);
    assert_eq!(compared["rows"][0], json!({ "case": "tea", "scores": [1.0, 0.5, 1.0], "differs": true }), "{compared}");
    assert_eq!(compared["rows"][1]["differs"], false);
    let stranger = world.strangers_key().await;
    let theirs = node.bare(reqwest::Method::POST, "/v1/evals/compare").bearer(&stranger).json(&json!({ "evalIds": [id] }));
    assert_eq!(theirs.refused(422, "validation_failed").await.pointers(), ["/evalIds/0"]);
}

async fn a_model_judges(world: Arc<World>) {
    let node = world.node();
    let agent = json!({ "name": "Clerk", "model": "local/echo", "instructions": "Be brief." });
    let judge = |score: f64| json!({ "type": "ai", "model": "local/echo", "threshold": 0.6, "criteria": format!("Is it polite?\njson {{\"score\": {score}, \"reason\": \"because\"}}") });
    let body = json!({
        "name": "Judged", "target": { "agent": agent }, "cases": [{ "messages": "say hello" }],
        "graders": [judge(0.9), judge(0.3), { "type": "called_tool", "tool": "none" }],
    });
    let begun = node.post("/v1/evals").json(&body).ok().await;
    // Another server judges what this one began.
    let node = world.crash().await;
    let at = format!("/v1/evals/{}", begun["id"].as_str().unwrap());
    until(&node, &at, |eval| eval["status"] == "completed").await;
    let row = node.get(&format!("{at}/results")).ok().await["data"][0].clone();
    assert_eq!(row["output"], "hello", "{row}");
    let grades: Vec<(&Value, &Value)> = row["grades"].as_array().unwrap().iter().map(|grade| (&grade["pass"], &grade["score"])).collect();
    assert_eq!(grades, [(&json!(true), &json!(0.9)), (&json!(false), &json!(0.3)), (&json!(false), &json!(0.0))], "{row}");
    let judge = node.execution(row["grades"][0]["executionId"].as_str().unwrap()).await;
    assert_eq!((&judge["flowName"], &judge["output"]["reason"]), (&json!("judge"), &json!("because")));
    let judges = node.get("/v1/executions").ok().await["data"].as_array().unwrap().iter().filter(|run| run["flowName"] == "judge").count();
    assert_eq!(judges, 2, "each judged once");
}

async fn an_eval_is_cancelled_and_deleted(world: Arc<World>) {
    let node = world.node();
    let flow = json!({ "name": "Wait", "steps": [{ "id": "w", "type": "wait-for-signal", "config": { "name": "go" } }] });
    let begun = node.post("/v1/eval/submit").json(&json!({ "name": "x", "target": { "flow": flow }, "cases": [{}] })).ok().await;
    let at = format!("/v1/evals/{}", begun["id"].as_str().unwrap());
    let row = until(&node, &format!("{at}/results"), |results| results["data"][0]["executionId"].is_string()).await["data"][0].clone();
    assert_eq!(node.post(&format!("{at}/cancel")).ok().await["status"], "cancelled");
    until(&node, &format!("/v1/executions/{}", row["executionId"].as_str().unwrap()), |execution| execution["status"] == "cancelled").await;
    assert_eq!(node.get("/v1/evals").ok().await["data"][0]["id"], begun["id"]);
    node.bare(reqwest::Method::DELETE, &at).bearer(crate::support::world::KEY).ok().await;
    node.get(&at).refused(404, "not_found").await;
}

async fn wrong_evals_are_refused(world: Arc<World>) {
    let node = world.node();
    let flow = json!({ "name": "Say", "steps": [ask("answer", "say hi")] });
    let target = json!({ "flow": flow });
    for (body, pointers) in [
        (json!({ "name": " ", "target": {}, "cases": [] }), vec!["/name", "/cases", "/target"]),
        (json!({ "name": "x", "target": { "flowId": "flow_01h455vb4pex5vsknk084sn02q" }, "cases": [{}] }), vec!["/target/flowId"]),
        (json!({ "name": "x", "target": target, "cases": [{}], "variants": [{ "name": "a" }, { "name": "a" }] }), vec!["/variants/1/name"]),
        (
            json!({ "name": "x", "target": target, "cases": [{}], "variants": [{ "name": "a", "step": "none", "model": "local/echo" }] }),
            vec!["/variants/0/step"],
        ),
        // Nothing would differ, and yet somebody means a step.
        (json!({ "name": "x", "target": target, "cases": [{}], "variants": [{ "name": "a", "step": "none" }] }), vec!["/variants/0/step"]),
        (json!({ "name": "x", "target": target, "cases": [{ "messages": 5 }] }), vec!["/cases/0/messages"]),
        (
            json!({ "name": "x", "target": target, "cases": [{}], "variants": [{ "name": "a", "model": "nobody/knows" }] }),
            vec!["/variants/0/model"],
        ),
        (
            json!({ "name": "x", "target": target, "cases": [{}], "graders": [{ "type": "regex", "pattern": "(" }, { "type": "ai", "model": "nobody/knows", "criteria": "", "threshold": 2 }] }),
            vec!["/graders/0/pattern", "/graders/1/threshold", "/graders/1/criteria", "/graders/1/model"],
        ),
    ] {
        let refused = node.post("/v1/evals").json(&body).refused(422, "validation_failed").await;
        assert_eq!(refused.pointers(), pointers, "{body}: {}", refused.text());
    }
}
