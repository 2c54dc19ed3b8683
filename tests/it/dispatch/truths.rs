//! Inputs, prompts and outcome of an execution are the same wherever they are shown.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, ask_with, fails, flow, local, set};
use crate::support::world::{KEY, Node, World, until};

on_both!(
    failed_steps_are_reported_everywhere,
    success_of_older_runs_is_read_from_the_log,
    inputs_and_prompts_are_shown,
    a_waiting_step_shows_its_prompt,
    an_agent_shows_its_prompt,
    lists_are_filtered,
    invalid_filters_are_refused,
);

/// Runs a dispatch asynchronously and returns the ended execution.
async fn ended(node: &Node, mut body: Value) -> Value {
    body["async"] = json!(true);
    let id = node.post("/v1/dispatch").json(&body).ok().await["executionId"].as_str().unwrap().to_owned();
    until(node, &format!("/v1/executions/{id}"), |execution| !execution["finishedAt"].is_null()).await
}

/// A flow with a failing step and one after it.
fn going_on() -> Value {
    flow(json!([fails("pull"), set("after", json!("done"))]))
}

async fn ids(node: &Node, query: &str) -> Vec<String> {
    let list = node.get(&format!("/v1/executions?{query}")).ok().await;
    list["data"].as_array().unwrap().iter().map(|execution| execution["id"].as_str().unwrap().to_owned()).collect()
}

async fn failed_steps_are_reported_everywhere(world: Arc<World>) {
    let node = world.node();
    node.post("/v1/webhooks").json(&json!({ "url": world.sink.url("/all") })).ok().await;
    let saved = json!({ "name": "Nightly sync", "steps": going_on()["flow"]["steps"] });
    let saved = node.post("/v1/flows").json(&saved).ok().await["id"].as_str().unwrap().to_owned();
    // Polling.
    let execution = ended(&node, json!({ "flow": { "id": saved } })).await;
    assert_eq!((&execution["status"], &execution["success"]), (&json!("completed"), &json!(false)), "{execution}");
    let error = &execution["error"];
    assert_eq!(
        (&error["code"], &error["stepId"], &error["retryable"]),
        (&json!("script_failed"), &json!("pull"), &json!(false)),
        "{error}"
    );
    assert!(error["message"].as_str().unwrap().contains("broken on purpose"), "{error}");
    // The blocking answer.
    let answer = node.result(&json!({ "flow": { "id": saved } })).await;
    assert_eq!(
        (&answer["success"], &answer["error"]["code"], &answer["error"]["stepId"]),
        (&json!(false), &error["code"], &error["stepId"])
    );
    // Lists.
    let good = ended(&node, flow(json!([set("a", json!(1))]))).await;
    let (id, good_id) = (execution["id"].as_str().unwrap().to_owned(), good["id"].as_str().unwrap().to_owned());
    assert_eq!((&good["success"], &good["error"]), (&json!(true), &Value::Null));
    assert!(ids(&node, "success=false").await.contains(&id) && !ids(&node, "success=false").await.contains(&good_id));
    assert_eq!(ids(&node, "success=true").await, [good_id]);
    assert_eq!(ids(&node, "status=failed").await, Vec::<String>::new(), "it came to its end");
    let rows = node.get("/v1/executions?success=false").ok().await;
    assert!(rows["data"].as_array().unwrap().iter().all(|row| row["success"] == false && row["error"]["stepId"] == "pull"), "{rows}");
    // Webhooks.
    let told = async |run: &str| loop {
        let seen = world.sink.seen("/all").iter().map(crate::support::sink::Seen::json).find(|body| body["data"]["run"]["id"] == run);
        match seen {
            Some(body) => return body,
            None => tokio::task::yield_now().await,
        }
    };
    let body = crate::support::app::within(told(&id)).await;
    let run = &body["data"]["run"];
    assert_eq!((&body["type"], &run["status"], &run["success"]), (&json!("run.failed"), &json!("completed"), &json!(false)), "{body}");
    assert_eq!((&run["error"]["code"], &run["error"]["stepId"]), (&json!("script_failed"), &json!("pull")));
    assert_eq!(
        (&run["flowId"], &run["kind"], &run["cost"], &run["scheduleId"]),
        (&json!(saved), &json!("flow"), &json!(0.0), &Value::Null)
    );
    // Schedules.
    let at = json!({ "type": "one_time", "runAt": "2099-01-01T00:00:00Z" });
    let schedule = node.post("/v1/schedules").json(&json!({ "target": { "flowId": saved }, "trigger": at })).ok().await;
    let schedule = schedule["id"].as_str().unwrap().to_owned();
    let fired = node.post(&format!("/v1/schedules/{schedule}/run")).ok().await;
    let run = fired["executionIds"][0].as_str().unwrap().to_owned();
    let path = format!("/v1/schedules/{schedule}/stats");
    let stats = until(&node, &path, |stats| stats["running"] == 0 && stats["executions"] == 1).await;
    assert_eq!((&stats["completed"], &stats["failed"]), (&json!(0), &json!(1)), "{stats}");
    let body = crate::support::app::within(told(&run)).await;
    assert_eq!((&body["type"], &body["data"]["run"]["scheduleId"]), (&json!("run.failed"), &json!(schedule)), "{body}");
    assert_eq!(node.execution(&run).await["scheduleId"], json!(schedule));
}

async fn success_of_older_runs_is_read_from_the_log(world: Arc<World>) {
    let node = world.node();
    let execution = ended(&node, going_on()).await;
    let id = execution["id"].as_str().unwrap();
    assert_eq!(world.meddle("update runs set success = null, failure = null where id = $1", id).await, 1);
    let found = node.execution(id).await;
    assert_eq!((&found["success"], &found["error"]), (&json!(false), &execution["error"]), "{found}");
    let listed = node.get("/v1/executions").ok().await;
    assert_eq!((&listed["data"][0]["success"], &listed["data"][0]["error"]["code"]), (&json!(false), &json!("script_failed")));
}

async fn inputs_and_prompts_are_shown(world: Arc<World>) {
    let node = world.node();
    let config =
        json!({ "model": "openai/fake-ok", "systemPrompt": "Sys {{who}}", "userPrompt": "Find {{who}} for {{_record.metadata.region}}" });
    let mut body = flow(json!([{ "id": "find", "name": "Find them", "type": "prompt", "config": config }, fails("bad")]));
    body["inputs"] = json!({ "who": "MARKER77" });
    body["record"] = json!({ "type": "lead", "name": "Ann", "metadata": { "region": "North" } });
    body["messages"] = json!([{ "role": "user", "content": "hello" }]);
    let saved = node.post("/v1/flows").json(&body["flow"]).ok().await["id"].as_str().unwrap().to_owned();
    body["flow"] = json!({ "id": saved });
    let execution = ended(&node, body).await;
    assert_eq!(
        (&execution["inputs"]["who"], &execution["record"]["metadata"]["region"]),
        (&json!("MARKER77"), &json!("North")),
        "{execution}"
    );
    assert_eq!(execution["messages"], json!([{ "role": "user", "content": "hello" }]));
    let id = execution["id"].as_str().unwrap();
    let steps = node.get(&format!("/v1/executions/{id}/steps")).ok().await;
    let step = &steps["data"][0];
    assert_eq!(
        (&step["resolvedPrompt"], &step["resolvedSystemPrompt"]),
        (&json!("Find MARKER77 for North"), &json!("Sys MARKER77")),
        "{step}"
    );
    assert_eq!((&step["stepId"], &step["stepName"], &step["order"]), (&json!("find"), &json!("Find them"), &json!(0)));
    assert_eq!((&step["modelUsed"], &step["errorMessage"], &step["retryCount"]), (&json!("openai/fake-ok"), &Value::Null, &json!(0)));
    let count = |name: &str| step[name].as_u64().unwrap();
    assert!(count("promptTokens") > 0 && count("completionTokens") > 0, "{step}");
    assert_eq!(count("promptTokens") + count("completionTokens"), count("totalTokens"));
    assert_eq!(step["tokensUsed"], step["totalTokens"], "the earlier names stay");
    let dollars: f64 = step["estimatedCost"].as_str().unwrap().parse().unwrap();
    assert_eq!(Some(dollars), step["cost"].as_f64());
    let failed = &steps["data"][1];
    assert_eq!((&failed["errorMessage"], &failed["resolvedPrompt"], &failed["modelUsed"]), (&failed["error"], &Value::Null, &Value::Null));
    // The rows of a flow.
    let rows = node.get(&format!("/v1/flows/{saved}/step-results")).ok().await;
    assert_eq!(
        (&rows["data"][0]["executionSessionId"], &rows["data"][0]["resolvedPrompt"]),
        (&json!(id), &step["resolvedPrompt"]),
        "{rows}"
    );
    assert_eq!((&rows["data"][0]["recordId"], &rows["data"][0]["outputPreview"]), (&execution["recordId"], &step["outputPreview"]));
}

async fn a_waiting_step_shows_its_prompt(world: Arc<World>) {
    let node = world.node();
    let mut body = flow(json!([ask_with("w", "call look {}\n{{long}}", json!({ "runtimeTools": [local("look")] }))]));
    body["inputs"] = json!({ "long": "x".repeat(30_000) });
    let run = node.dispatch(&body).await.run();
    let path = format!("/v1/executions/{run}/steps");
    let waiting = node.get(&path).ok().await["data"][0].clone();
    let prompt = waiting["resolvedPrompt"].as_str().unwrap().to_owned();
    assert!(prompt.starts_with("call look {}\nxxx") && prompt.len() < 20_000 && prompt.ends_with("more bytes)"), "{}", prompt.len());
    node.resume(&run, json!({ "look": "done" })).await;
    let done = node.get(&path).ok().await["data"][0].clone();
    assert_eq!((&done["status"], &done["resolvedPrompt"]), (&json!("completed"), &json!(prompt)));
}

async fn an_agent_shows_its_prompt(world: Arc<World>) {
    let node = world.node();
    let agent = json!({ "name": "Clerk", "model": "local/echo", "systemPrompt": "Be {{manner}}." });
    let body = json!({ "agent": agent, "inputs": { "manner": "brief" }, "messages": [{ "role": "user", "content": "say hello" }] });
    let execution = ended(&node, body).await;
    assert_eq!(execution["messages"][0]["content"], "say hello");
    let steps = node.get(&format!("/v1/executions/{}/steps", execution["id"].as_str().unwrap())).ok().await;
    let step = &steps["data"][0];
    assert_eq!((&step["resolvedPrompt"], &step["resolvedSystemPrompt"]), (&json!("say hello"), &json!("Be brief.")), "{steps}");
    assert_eq!((&step["status"], &step["modelUsed"]), (&json!("completed"), &json!("local/echo")));
}

async fn lists_are_filtered(world: Arc<World>) {
    let node = world.node();
    let record = node.post("/v1/records").json(&json!({ "type": "lead", "name": "Ann", "metadata": {} })).ok().await["id"].clone();
    let mut ann = flow(json!([set("a", json!(1))]));
    (ann["flow"]["name"], ann["record"]) = (json!("Of Ann"), json!({ "id": record }));
    let ann = ended(&node, ann).await;
    let other = ended(&node, flow(json!([ask("a", "say a")]))).await;
    let [ann_id, other_id] = [&ann, &other].map(|execution| execution["id"].as_str().unwrap().to_owned());
    assert_eq!(ids(&node, "name=Of%20Ann").await, std::slice::from_ref(&ann_id));
    assert_eq!(ids(&node, &format!("recordId={}", record.as_str().unwrap())).await, std::slice::from_ref(&ann_id));
    let between = other["createdAt"].as_str().unwrap().to_owned();
    if ann["createdAt"] != other["createdAt"] {
        assert_eq!(ids(&node, &format!("since={between}")).await, std::slice::from_ref(&other_id));
        assert_eq!(ids(&node, &format!("until={between}")).await, std::slice::from_ref(&ann_id));
    }
    assert_eq!(ids(&node, "since=2000-01-01T00:00:00Z&until=2100-01-01T00:00:00Z&status=completed&success=true").await, [other_id, ann_id]);
    assert!(ids(&node, "since=2100-01-01T00:00:00Z").await.is_empty());
    let of_record = node.get(&format!("/v1/records/{}/results?success=false", record.as_str().unwrap())).ok().await;
    assert_eq!(of_record["data"], json!([]));
}

async fn invalid_filters_are_refused(world: Arc<World>) {
    let node = world.node();
    let agent = node.post("/v1/agents").json(&json!({ "name": "Clerk", "config": { "model": "local/echo" } })).ok().await["id"].clone();
    let agent = format!("/v1/agents/{}/executions", agent.as_str().unwrap());
    let saved = node.post("/v1/flows").json(&going_on()["flow"]).ok().await["id"].as_str().unwrap().to_owned();
    let [of_agent, many_of_agent] = ["flowId=x", "limit=1000"].map(|query| format!("{agent}?{query}"));
    let of_flow = format!("/v1/flows/{saved}/step-results?page=2");
    for (path, pointers) in [
        ("/v1/executions?statuss=failed", vec!["/statuss"]),
        ("/v1/executions?statuss=failed&sinse=2026", vec!["/statuss", "/sinse"]),
        ("/v1/executions?limit=201", vec!["/limit"]),
        ("/v1/executions?limit=0", vec!["/limit"]),
        ("/v1/executions?since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z", vec!["/until"]),
        (of_agent.as_str(), vec!["/flowId"]),
        (many_of_agent.as_str(), vec!["/limit"]),
        (of_flow.as_str(), vec!["/page"]),
    ] {
        let refused = node.get(path).refused(422, "validation_failed").await;
        assert_eq!(refused.pointers(), pointers, "{path}");
    }
    let refused = node.get("/v1/executions?statuss=failed").send().await;
    assert!(refused.json()["error"].as_str().unwrap().contains("`status`"), "{}", refused.text());
    node.get("/v1/executions?status=gone").refused(400, "invalid_query").await;
    assert_eq!(node.bare(Method::GET, "/v1/executions?limit=200").bearer(KEY).ok().await["data"], json!([]));
}
