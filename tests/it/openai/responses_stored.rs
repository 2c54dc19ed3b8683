//! Responses that were stored: read, continued, listed, deleted, cancelled, and in the background.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::responses::{asks, respond, text_of};
use super::with;
use crate::support::world::{KEY, Node, World, until};

on_both!(a_response_is_read_continued_and_deleted, a_response_in_the_background_is_waited_for, a_response_in_the_background_is_cancelled);
on_one!(Sqlite: what_was_not_stored_is_not_there, the_input_is_listed_in_pages, a_failed_response_says_why,
    what_waits_for_a_person_fails, only_responses_in_the_background_are_cancelled);

fn path(response: &Value, rest: &str) -> String {
    format!("/v1/responses/{}{rest}", response["id"].as_str().unwrap())
}

async fn delete(node: &Node, path: &str) -> Value {
    node.bare(Method::DELETE, path).bearer(KEY).ok().await
}

async fn a_response_is_read_continued_and_deleted(world: Arc<World>) {
    let node = world.node();
    let first = respond(&node, &with(asks("openai/fake-ok", "one"), json!({ "instructions": "Be brief." }))).await;
    assert_eq!(node.get(&path(&first, "")).ok().await, first);
    let second =
        respond(&node, &with(asks("openai/fake-ok", "two"), json!({ "previous_response_id": first["id"], "instructions": "Be long." })))
            .await;
    assert_eq!(second["previous_response_id"], first["id"]);
    let sent = world.asked("fake-ok").await;
    let said: Vec<(&str, &Value)> =
        sent["messages"].as_array().unwrap().iter().map(|message| (message["role"].as_str().unwrap(), &message["content"])).collect();
    let answer = json!(text_of(&first));
    assert_eq!(said, [("system", &json!("Be long.")), ("user", &json!("one")), ("assistant", &answer), ("user", &json!("two"))], "{sent}");
    // It belongs to its tenant.
    let stranger = world.strangers_key().await;
    let foreign = |method: Method, rest: &str| node.bare(method, &path(&first, rest)).bearer(&stranger);
    for (method, rest) in [(Method::GET, ""), (Method::DELETE, ""), (Method::GET, "/input_items"), (Method::POST, "/cancel")] {
        foreign(method, rest).refused(404, "not_found").await;
    }
    let taken = with(asks("local/echo", "three"), json!({ "previous_response_id": first["id"] }));
    let refused = node.bare(Method::POST, "/v1/responses").bearer(&stranger).json(&taken).refused(400, "previous_response_not_found").await;
    assert_eq!(refused.json()["error"]["param"], "previous_response_id");
    let receipt = delete(&node, &path(&first, "")).await;
    assert_eq!(receipt, json!({ "id": first["id"], "object": "response", "deleted": true }));
    node.get(&path(&first, "")).refused(404, "not_found").await;
    node.bare(Method::DELETE, &path(&first, "")).bearer(KEY).refused(404, "not_found").await;
    node.post("/v1/responses").json(&taken).refused(400, "previous_response_not_found").await;
    assert_eq!(node.get(&path(&second, "")).ok().await["status"], "completed", "the one that continued it stays");
}

async fn a_response_in_the_background_is_waited_for(world: Arc<World>) {
    let node = world.node();
    let begun = respond(&node, &with(asks("local/echo", "say done"), json!({ "background": true }))).await;
    assert_eq!((&begun["status"], &begun["background"], &begun["output"]), (&json!("queued"), &json!(true), &json!([])));
    let ended = until(&node, &path(&begun, ""), |shown| shown["status"] == "completed").await;
    assert_eq!((text_of(&ended).as_str(), &ended["created_at"]), ("done", &begun["created_at"]));
    // A response that has ended stays as it is.
    assert_eq!(node.post(&path(&begun, "/cancel")).ok().await, ended);
}

async fn a_response_in_the_background_is_cancelled(world: Arc<World>) {
    let node = world.node();
    let begun = respond(&node, &with(asks("local/echo", "slow 60000\nsay never"), json!({ "background": true }))).await;
    let going = node.get(&path(&begun, "")).ok().await;
    assert!(["queued", "in_progress"].contains(&going["status"].as_str().unwrap()), "{going}");
    let next = with(asks("local/echo", "x"), json!({ "previous_response_id": begun["id"] }));
    let refused = node.post("/v1/responses").json(&next).refused(400, "validation_failed").await;
    assert_eq!(refused.json()["error"]["param"], "previous_response_id");
    node.post(&path(&begun, "/cancel")).ok().await;
    let ended = until(&node, &path(&begun, ""), |shown| shown["status"] == "cancelled").await;
    assert_eq!((&ended["error"], &ended["output"]), (&Value::Null, &json!([])));
}

async fn only_responses_in_the_background_are_cancelled(world: Arc<World>) {
    let node = world.node();
    let ended = respond(&node, &asks("local/echo", "say done")).await;
    let refused = node.post(&path(&ended, "/cancel")).refused(400, "validation_failed").await;
    assert_eq!(refused.json()["error"]["param"], "response_id");
}

async fn what_was_not_stored_is_not_there(world: Arc<World>) {
    let node = world.node();
    let loose = respond(&node, &with(asks("local/echo", "say hi"), json!({ "store": false }))).await;
    assert_eq!(loose["store"], false);
    node.get(&path(&loose, "")).refused(404, "not_found").await;
    node.post("/v1/responses")
        .json(&with(asks("local/echo", "x"), json!({ "previous_response_id": loose["id"] })))
        .refused(400, "previous_response_not_found")
        .await;
    // Neither is an execution that was no response.
    let completion = super::complete(&node, &super::asks("local/echo", "say hi")).await;
    let id = completion["id"].as_str().unwrap().replace("chatcmpl-exec_", "resp_");
    node.get(&format!("/v1/responses/{id}")).refused(404, "not_found").await;
}

async fn the_input_is_listed_in_pages(world: Arc<World>) {
    let node = world.node();
    let tool = json!({ "type": "function", "name": "act", "parameters": { "type": "object", "properties": {} } });
    let first = respond(&node, &with(asks("local/echo", "call act {}"), json!({ "tools": [tool], "instructions": "Be brief." }))).await;
    let output = json!([{ "type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "done" }]);
    let second = respond(&node, &with(asks("local/echo", output), json!({ "tools": [tool], "previous_response_id": first["id"] }))).await;
    let list = node.get(&path(&second, "/input_items?order=asc")).ok().await;
    let kinds: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["message", "function_call", "function_call_output"], "{list}");
    assert_eq!((&list["object"], &list["has_more"], &list["first_id"]), (&json!("list"), &json!(false), &list["data"][0]["id"]));
    assert_eq!(list["data"][1]["id"], first["output"][0]["id"]);
    let page = node.get(&path(&second, "/input_items?limit=2")).ok().await;
    assert_eq!((&page["data"][0], &page["has_more"]), (&list["data"][2], &json!(true)), "newest first");
    let rest = node.get(&path(&second, &format!("/input_items?limit=2&after={}", page["last_id"].as_str().unwrap()))).ok().await;
    assert_eq!((&rest["data"], &rest["has_more"]), (&json!([list["data"][0]]), &json!(false)));
    for (query, param) in [("limit=0", "limit"), ("order=up", "order"), ("after=msg_9", "after"), ("include[]=made.up", "include[0]")] {
        let refused = node.get(&path(&second, &format!("/input_items?{query}"))).refused(400, "validation_failed").await;
        assert_eq!(refused.json()["error"]["param"], param, "{query}");
    }
    for (query, param) in
        [("stream=maybe", "stream"), ("stream=true&starting_after=x", "starting_after"), ("starting_after=1", "starting_after")]
    {
        let refused = node.get(&path(&second, &format!("?{query}"))).refused(400, "validation_failed").await;
        assert_eq!(refused.json()["error"]["param"], param, "{query}");
    }
}

async fn a_failed_response_says_why(world: Arc<World>) {
    let node = world.node();
    let begun = respond(&node, &with(asks("openai/fake-context", "hi"), json!({ "background": true }))).await;
    let failed = until(&node, &path(&begun, ""), |shown| shown["status"] == "failed").await;
    assert_eq!(
        (&failed["error"]["code"], &failed["error"]["type"]),
        (&json!("invalid_prompt"), &json!("context_length_exceeded")),
        "{failed}"
    );
    assert!(failed["error"]["message"].as_str().is_some_and(|text| !text.is_empty()) && failed["output"] == json!([]), "{failed}");
}

async fn what_waits_for_a_person_fails(world: Arc<World>) {
    let node = world.node();
    let tool = json!({ "name": "sum", "description": "Adds.", "toolType": "custom", "config": { "code": "return 1;" }, "parametersSchema": { "type": "object", "properties": {} } });
    let agent = json!({ "name": "Careful", "model": "local/echo", "tools": { "runtimeTools": [tool], "approval": { "require": true } } });
    node.post("/v1/agents").json(&agent).ok().await;
    let begun = respond(&node, &with(asks("agent:Careful", "call sum {}"), json!({ "background": true }))).await;
    let failed = until(&node, &path(&begun, ""), |shown| shown["status"] == "failed").await;
    assert_eq!(failed["error"]["type"], "execution_waits");
    // Its execution does not wait for ever, and the reason stays.
    let run = begun["id"].as_str().unwrap().replace("resp_", "exec_");
    until(&node, &format!("/v1/executions/{run}"), |shown| shown["status"] == "cancelled").await;
    assert_eq!(node.get(&path(&begun, "")).ok().await["error"], failed["error"]);
}
