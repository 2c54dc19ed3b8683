//! `/v1/flows` and its relatives.

use serde_json::{Value, json};

use crate::support::app::TestApp;

fn flow(name: &str) -> Value {
    json!({ "name": name, "description": "d", "steps": [
        { "id": "ask", "name": "Ask", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "{{q}}" }, "when": "x" },
        { "name": "Send", "type": "send-email", "enabled": false },
    ] })
}

#[tokio::test]
async fn what_a_flow_says_twice_or_in_a_wrong_type_is_refused() {
    let app = TestApp::start().await;
    let steps = json!([{ "id": "ask", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "x" } }]);
    let answer =
        app.post("/v1/flows").json(&json!({ "name": "one", "steps": [], "flowSteps": steps })).refused(422, "validation_failed").await;
    assert_eq!(answer.pointers(), ["/flowSteps"]);
    let answer =
        app.post("/v1/flows").json(&json!({ "name": "one", "description": {}, "steps": steps })).refused(422, "validation_failed").await;
    assert_eq!(answer.pointers(), ["/description"]);
    app.post("/v1/flows").json(&json!({ "name": "one", "steps": steps, "flowSteps": steps })).ok().await;
    app.post("/v1/flows").json(&json!({ "name": "two", "steps": null, "flowSteps": steps })).ok().await;
}

#[tokio::test]
async fn a_flow_is_saved_read_changed_and_deleted() {
    let app = TestApp::start().await;
    let answer = app.post("/v1/flows").json(&flow("one")).send().await;
    assert_eq!(answer.status, 201);
    let saved = answer.json();
    let id = saved["id"].as_str().unwrap();
    let path = format!("/v1/flows/{id}");
    assert_eq!(app.get(&path).ok().await, saved);
    assert_eq!(
        (&saved["name"], &saved["status"], &saved["stepCount"], &saved["lastRunAt"]),
        (&json!("one"), &json!("draft"), &json!(2), &Value::Null)
    );
    assert_eq!(saved["flowSteps"][0]["id"], "ask");
    assert_eq!(saved["draftVersionId"], saved["currentVersionId"]);

    let changed = app.put(&path).json(&json!({ "flowSteps": [{ "id": "b", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "x" } }], "name": "two" })).ok().await;
    assert_eq!((&changed["name"], &changed["description"], &changed["stepCount"]), (&json!("two"), &json!("d"), &json!(1)));
    assert_ne!(changed["draftVersionId"], saved["draftVersionId"]);
    assert_eq!(changed["createdAt"], saved["createdAt"]);
    let again = app.put(&path).json(&json!({ "name": "two" })).ok().await;
    assert_eq!(again["currentVersionId"], changed["currentVersionId"], "nothing changed, so there is no new version");

    let steps = app.get(&format!("/v1/flow-steps/flow/{id}")).ok().await;
    assert_eq!((&steps["flowName"], &steps["data"][0]["id"], &steps["data"][0]["order"]), (&json!("two"), &json!("b"), &json!(0)));
    let gone = json!({ "success": true, "id": id, "deletedId": id, "deleted": true, "message": "the flow was deleted" });
    assert_eq!(app.delete(&path).ok().await, gone);
    app.get(&path).refused(404, "not_found").await;
    app.delete(&path).refused(404, "not_found").await;
    app.put(&path).json(&json!({})).refused(404, "not_found").await;
}

#[tokio::test]
async fn versions_stay_as_they_were_and_one_is_published() {
    let app = TestApp::start().await;
    let saved = app.post("/v1/flows").json(&flow("one")).ok().await;
    let id = saved["id"].as_str().unwrap();
    let versions = format!("/v1/flow-versions/{id}");
    app.get(&format!("{versions}/published")).refused(404, "not_found").await;
    let published = app.post(&format!("/v1/flows/{id}/publish")).ok().await;
    assert_eq!((&published["status"], &published["draftVersionId"]), (&json!("published"), &Value::Null));
    app.put(&format!("/v1/flows/{id}")).json(&json!({ "description": "new" })).ok().await;

    let list = app.get(&versions).ok().await;
    let numbers: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|version| &version["versionNumber"]).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(list["data"][1]["flowConfig"], flow("one"), "kept as it was sent");
    assert_eq!(list["data"][0]["versionType"], "draft");
    let first = list["data"][1]["id"].as_str().unwrap();
    let second = list["data"][0]["id"].as_str().unwrap();
    assert_eq!(app.get(&format!("{versions}/published")).ok().await["id"], first);
    assert_eq!(app.get(&format!("{versions}/{second}")).ok().await, list["data"][0]);
    let chosen = app.post(&format!("{versions}/publish")).json(&json!({ "versionId": second })).ok().await;
    assert_eq!(chosen["publishedVersionId"], second);

    let other = app.post("/v1/flows").json(&flow("other")).ok().await;
    app.get(&format!("/v1/flow-versions/{}/{first}", other["id"].as_str().unwrap())).refused(404, "not_found").await;
    app.post(&format!("/v1/flows/{id}/publish")).json(&json!({ "versionId": other["currentVersionId"] })).refused(404, "not_found").await;
}

#[tokio::test]
async fn a_flow_that_cannot_run_is_not_saved() {
    let app = TestApp::start().await;
    let broken = json!({ "name": " ", "steps": [{ "type": "prompt", "id": "a" }, 5, { "id": "a", "type": "prompt" }, { "name": "x" }] });
    let answer = app.post("/v1/flows").json(&broken).refused(422, "validation_failed").await;
    let pointers = answer.pointers();
    for expected in ["/name", "/steps/1", "/steps/2/id", "/steps/3/type"] {
        assert!(pointers.iter().any(|pointer| pointer == expected), "{pointers:?}");
    }
    assert_eq!(app.get("/v1/flows").ok().await["data"], json!([]));
    app.post("/v1/flows").json(&flow("one")).ok().await;
    app.post("/v1/flows").json(&flow("one")).refused(409, "already_exists").await;
    let two = app.post("/v1/flows").json(&flow("two")).ok().await;
    let path = format!("/v1/flows/{}", two["id"].as_str().unwrap());
    app.put(&path).json(&json!({ "name": "one" })).refused(409, "already_exists").await;
    app.put(&path).json(&json!({ "name": "x".repeat(256) })).refused(422, "validation_failed").await;
    app.put(&path).json(&json!({ "steps": 5 })).refused(422, "validation_failed").await;
    assert_eq!(app.get(&path).ok().await, two);
}

#[tokio::test]
async fn lists_come_in_pages_that_lead_on_and_back() {
    let app = TestApp::start().await;
    for name in ["a1", "b1", "a2", "b2", "a3"] {
        app.post("/v1/flows").json(&flow(name)).ok().await;
    }
    let names = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = app.get("/v1/flows?limit=2").ok().await;
    assert_eq!(names(&first), ["a3", "b2"]);
    let pagination = &first["pagination"];
    assert_eq!((&pagination["hasMore"], &pagination["hasPrev"], &pagination["limit"]), (&json!(true), &json!(false), &json!(2)));
    let second = app.get(&format!("/v1/flows?limit=2&cursor={}", pagination["nextCursor"].as_str().unwrap())).ok().await;
    assert_eq!(names(&second), ["a2", "b1"]);
    assert_eq!(second["pagination"]["currentPage"], 2);
    let third = app.get(&format!("/v1/flows?limit=2&cursor={}", second["pagination"]["nextCursor"].as_str().unwrap())).ok().await;
    assert_eq!((names(&third), &third["pagination"]["hasMore"]), (vec!["a1".to_owned()], &json!(false)));
    assert_eq!(third["pagination"]["nextCursor"], Value::Null);
    let back = app.get(&format!("/v1/flows?limit=2&cursor={}", third["pagination"]["prevCursor"].as_str().unwrap())).ok().await;
    assert_eq!(names(&back), names(&second));
    assert_eq!(names(&app.get("/v1/flows?search=B").ok().await), ["b2", "b1"]);
    assert_eq!(app.get("/v1/flows?limit=100000").ok().await["pagination"]["limit"], 200);
}
