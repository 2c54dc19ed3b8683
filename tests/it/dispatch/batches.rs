//! A flow over many records.

use std::sync::Arc;

use serde_json::{Value, json};

use super::step;
use crate::support::sink::Reply;
use crate::support::world::{Kind, Node, World, until};

on_both!(
    records_come_and_go_as_csv,
    a_flow_runs_for_each_record,
    what_was_executed_for_a_record_is_told,
    a_batch_outlives_its_server,
    a_batch_is_cancelled,
    wrong_batches_are_refused,
);

async fn leads(node: &Node, count: usize) {
    for number in 0..count {
        let record = json!({ "type": "lead", "name": format!("lead {number}"), "metadata": { "n": number } });
        node.post("/v1/records").json(&record).ok().await;
    }
}

async fn saved(node: &Node, steps: Value) -> String {
    node.post("/v1/flows").json(&json!({ "name": "Each", "steps": steps })).ok().await["id"].as_str().unwrap().to_owned()
}

async fn a_flow_runs_for_each_record(world: Arc<World>) {
    let node = world.node();
    leads(&node, 3).await;
    let script = "if (_record.metadata.n === 1) throw new Error('no one'); return _record.name + by;";
    let flow =
        saved(&node, json!([step("s", "transform-data", json!({ "script": script, "errorHandling": { "onError": "fail" } }))])).await;
    let path = format!("/v1/flows/{flow}/run-on-record-type");
    let body = json!({ "recordType": "lead", "inputs": { "by": "!" } });
    let begun = node.post(&path).header("idempotency-key", "one").json(&body).ok().await;
    assert_eq!((&begun["recordCount"], &begun["status"], &begun["flowId"]), (&json!(3), &json!("running"), &json!(flow)));
    let again = node.post(&path).header("idempotency-key", "one").json(&body).ok().await;
    assert_eq!(again["batchId"], begun["batchId"]);
    let at = format!("/v1/batches/{}", begun["batchId"].as_str().unwrap());
    let done = until(&node, &at, |batch| batch["status"] == "completed").await;
    assert_eq!((&done["successCount"], &done["failureCount"]), (&json!(2), &json!(1)), "{done}");
    let of = |name: &str| done["results"].as_array().unwrap().iter().find(|row| row["recordName"] == name).unwrap().clone();
    assert!(of("lead 1")["error"]["message"].as_str().unwrap().contains("no one"), "{done}");
    let execution = node.execution(of("lead 2")["executionId"].as_str().unwrap()).await;
    assert_eq!((&execution["output"], &execution["status"]), (&json!("lead 2!"), &json!("completed")));
    // Only those that pass a filter; a type without records is done at once.
    let body = json!({ "recordType": "lead", "filter": { "field": "n", "op": "gt", "value": 1 }, "inputs": { "by": "?" } });
    assert_eq!(node.post(&path).json(&body).ok().await["recordCount"], 1);
    let none = node.post(&path).json(&json!({ "recordType": "none" })).ok().await;
    assert_eq!((&none["recordCount"], &none["status"]), (&json!(0), &json!("completed")));
    assert_eq!(node.get("/v1/batches").ok().await["data"].as_array().unwrap().len(), 3);
    assert_eq!(node.get("/v1/batches?limit=1").ok().await["data"][0]["batchId"], none["batchId"]);
}

async fn a_batch_outlives_its_server(world: Arc<World>) {
    let node = world.node();
    leads(&node, 4).await;
    world.sink.on("/each", [Reply::json(json!({}))]);
    let call = json!({ "url": format!("{}?n={{{{_record.metadata.n}}}}", world.sink.url("/each")), "method": "PUT" });
    let flow = saved(&node, json!([step("c", "fetch-url", call)])).await;
    let begun = node.post(&format!("/v1/flows/{flow}/run-on-record-type")).json(&json!({ "recordType": "lead" })).ok().await;
    let node = world.crash().await;
    let second = if world.kind == Kind::Postgres { Some(world.start().await) } else { None };
    let at = format!("/v1/batches/{}", begun["batchId"].as_str().unwrap());
    let done = until(&node, &at, |batch| batch["status"] == "completed").await;
    assert_eq!(done["successCount"], 4, "{done}");
    if let Some(second) = second {
        second.stop().await;
    }
    let mut asked: Vec<String> = world.sink.all().into_iter().filter(|path| path.starts_with("/each")).collect();
    asked.sort();
    assert_eq!(asked, ["/each?n=0", "/each?n=1", "/each?n=2", "/each?n=3"], "each record once, by whichever server");
}

async fn a_batch_is_cancelled(world: Arc<World>) {
    let node = world.node();
    leads(&node, 2).await;
    let flow = saved(&node, json!([step("w", "wait-for-signal", json!({ "name": "go" }))])).await;
    let begun = node.post(&format!("/v1/flows/{flow}/run-on-record-type")).json(&json!({ "recordType": "lead" })).ok().await;
    let at = format!("/v1/batches/{}", begun["batchId"].as_str().unwrap());
    let started = until(&node, &at, |batch| batch["results"].as_array().unwrap().iter().all(|row| row["executionId"].is_string())).await;
    let cancelled = node.post(&format!("{at}/cancel")).ok().await;
    assert_eq!(cancelled["status"], "cancelled");
    for row in started["results"].as_array().unwrap() {
        let path = format!("/v1/executions/{}", row["executionId"].as_str().unwrap());
        until(&node, &path, |execution| execution["status"] == "cancelled").await;
    }
    let stranger = world.strangers_key().await;
    node.bare(reqwest::Method::GET, &at).bearer(&stranger).refused(404, "not_found").await;
}

async fn wrong_batches_are_refused(world: Arc<World>) {
    let node = world.node();
    let flow = saved(&node, json!([step("s", "set-variable", json!({ "variableName": "x", "value": 1 }))])).await;
    let path = format!("/v1/flows/{flow}/run-on-record-type");
    for (body, pointer) in [
        (json!({ "recordType": "" }), "/recordType"),
        (json!({ "recordType": "lead", "limit": 1001 }), "/limit"),
        (json!({ "recordType": "lead", "filter": { "field": "n", "op": "nearly", "value": 1 } }), "/filter/op"),
    ] {
        assert_eq!(node.post(&path).json(&body).refused(422, "validation_failed").await.pointers(), [pointer], "{body}");
    }
    let missing = "/v1/flows/flow_01h455vb4pex5vsknk084sn02q/run-on-record-type";
    node.post(missing).json(&json!({ "recordType": "lead" })).refused(404, "not_found").await;
    let done = node.post(&path).json(&json!({ "recordType": "none" })).ok().await;
    node.post(&format!("/v1/batches/{}/cancel", done["batchId"].as_str().unwrap())).refused(409, "batch_completed").await;
}

async fn records_come_and_go_as_csv(world: Arc<World>) {
    let node = world.node();
    let import =
        |csv: &str, existing: &str| json!({ "type": "lead", "csv": csv, "nameColumn": "who", "existing": existing, "parseValues": true });
    let csv = "\u{feff}who,city,n\r\nAda,\"Oslo, north\",1\r\nBob,,x\r\n,nowhere,2\r\n";
    let told = node.post("/v1/records/import").json(&import(csv, "replace")).ok().await;
    assert_eq!((&told["created"], &told["failed"], &told["errors"][0]["row"]), (&json!(2), &json!(1), &json!(4)), "{told}");
    let told = node.post("/v1/records/import").json(&import("who,n\nAda,2\nEve,true\n", "merge")).ok().await;
    assert_eq!((&told["created"], &told["updated"]), (&json!(1), &json!(1)));
    let told = node.post("/v1/records/import").json(&import("who,n\nAda,3\n", "skip")).ok().await;
    assert_eq!(told["skipped"], 1);
    let ada = node.get("/v1/records?type=lead&name=Ada").ok().await["data"][0]["metadata"].clone();
    assert_eq!(ada, json!({ "city": "Oslo, north", "n": 2 }));
    let answer = node.get("/v1/records/export?type=lead").send().await;
    assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8"));
    let text = answer.text();
    assert!(
        text.starts_with("id,name,createdAt,updatedAt,city,n\n") && text.contains(",Ada,") && text.contains("\"Oslo, north\",2"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 4);
    // What was exported can be imported again, whatever the keys are called, and is the same.
    let metadata = json!({ "id": 7, "createdAt": "once", "metadata.x": "y", "name": "own", "long": "123456789012345678901234567890" });
    node.post("/v1/records").json(&json!({ "type": "odd", "name": "One", "metadata": metadata })).ok().await;
    let csv = node.get("/v1/records/export?type=odd").send().await.text();
    let head = "id,name,createdAt,updatedAt,metadata.createdAt,metadata.id,long,metadata.metadata.x,metadata.name\n";
    assert!(csv.starts_with(head), "{csv}");
    let again = json!({ "type": "even", "csv": csv, "parseValues": true });
    assert_eq!(node.post("/v1/records/import").json(&again).ok().await["created"], 1);
    assert_eq!(node.get("/v1/records?type=even").ok().await["data"][0]["metadata"], metadata);
    // An id that is somebody's own is metadata.
    node.post("/v1/records/import").json(&json!({ "type": "own", "csv": "id,name\n5,One\n" })).ok().await;
    assert_eq!(node.get("/v1/records?type=own").ok().await["data"][0]["metadata"], json!({ "id": "5" }));
    for (body, pointer) in [
        (json!({ "type": "lead" }), "/csv"),
        (json!({ "type": "lead", "csv": "name,a,metadata.a\n1,2,3" }), "/csv"),
        (json!({ "type": "lead", "csv": "a,b\n1,2" }), "/nameColumn"),
        (json!({ "type": "lead", "csv": "name,b\n1,2,3" }), "/csv"),
        (json!({ "type": "lead", "csv": "name,name\n1,2" }), "/csv"),
    ] {
        assert_eq!(node.post("/v1/records/import").json(&body).refused(422, "validation_failed").await.pointers(), [pointer], "{body}");
    }
    // What a flow's steps came to, over its executions.
    let flow = saved(
        &node,
        json!([
            step("a", "set-variable", json!({ "variableName": "x", "value": "first" })),
            step("b", "transform-data", json!({ "script": "return x + '!';" }))
        ]),
    )
    .await;
    for _ in 0..2 {
        node.result(&json!({ "flow": { "id": flow } })).await;
    }
    let at = format!("/v1/flows/{flow}/step-results");
    let all = node.get(&at).ok().await;
    assert_eq!(all["pagination"], json!({ "limit": 50, "offset": 0, "returned": 4, "hasMore": false }));
    assert_eq!((&all["data"][1]["outputPreview"], &all["data"][1]["stepType"]), (&json!("first!"), &json!("transform-data")), "{all}");
    let some = node.get(&format!("{at}?limit=1&offset=2")).ok().await;
    assert_eq!((&some["data"][0]["id"], &some["pagination"]["hasMore"]), (&json!("a"), &json!(true)));
    node.get(&format!("{at}?limit=0")).refused(400, "invalid_query").await;
}

async fn what_was_executed_for_a_record_is_told(world: Arc<World>) {
    let node = world.node();
    leads(&node, 2).await;
    let records = node.get("/v1/records").ok().await;
    let id = |place: usize| records["data"][place]["id"].as_str().unwrap().to_owned();
    let prompt = json!({ "id": "p", "type": "prompt", "config": { "model": "openai/fake-ok", "userPrompt": "{{_record.name}}" } });
    for (name, record) in [("Ask", Some(id(0))), ("Ask", Some(id(0))), ("Once", Some(id(0))), ("Ask", Some(id(1))), ("Ask", None)] {
        let mut body = json!({ "flow": { "name": name, "steps": [prompt] } });
        if let Some(record) = record {
            body["record"] = json!({ "id": record });
        }
        node.result(&body).await;
    }
    let at = |what: &str| format!("/v1/records/{}/{what}", id(0));
    let results = node.get(&at("results?limit=2")).ok().await;
    assert_eq!((results["data"].as_array().unwrap().len(), &results["data"][0]["flowName"]), (2, &json!("Once")), "{results}");
    let rest = node.get(&at(&format!("results?cursor={}", results["pagination"]["nextCursor"].as_str().unwrap()))).ok().await;
    assert_eq!(rest["data"].as_array().unwrap().len(), 1);
    let steps = node.get(&at("step-results")).ok().await;
    assert_eq!((&steps["pagination"]["returned"], &steps["data"][0]["stepType"]), (&json!(3), &json!("prompt")), "{steps}");
    let costs = node.get(&at("costs")).ok().await;
    assert_eq!((&costs["total"]["executions"], &costs["byTarget"]["Ask"]["executions"]), (&json!(3), &json!(2)), "{costs}");
    let tokens = |of: &Value| of["inputTokens"].as_u64().unwrap() + of["outputTokens"].as_u64().unwrap();
    assert!(tokens(&costs["total"]) > 0, "{costs}");
    assert_eq!(tokens(&costs["total"]), tokens(&costs["byTarget"]["Ask"]) + tokens(&costs["byTarget"]["Once"]), "{costs}");
    node.get("/v1/records/record_01h455vb4pex5vsknk084sn02q/costs").refused(404, "not_found").await;
}
