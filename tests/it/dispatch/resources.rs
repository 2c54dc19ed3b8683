//! The members and routes that clients of Runtype's API read beside those of our own.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, step};
use crate::support::call::Call;
use crate::support::world::{KEY, Node, World, until};

on_both!(
    flows_are_made_step_by_step,
    a_flow_says_whose_it_is_and_what_was_published,
    agents_and_their_versions_have_both_names,
    aliases_move_by_number_and_leave_receipts,
    an_agent_s_execution_lists_its_tool_calls,
    records_are_filtered_by_their_keys,
    records_say_what_they_have_and_cost,
    a_csv_is_uploaded_with_its_types,
    client_tokens_come_in_every_spelling,
    an_inactive_token_is_no_token,
    conversations_count_their_messages,
    secrets_are_wrapped_and_counted,
    tools_are_called_and_described,
    schedules_are_flat_and_counted_by_day,
    documents_are_validated,
);

fn call(node: &Node, method: Method, path: &str) -> Call {
    node.bare(method, path).bearer(KEY)
}

fn id(of: &Value) -> &str {
    of["id"].as_str().unwrap()
}

fn set(value: u32) -> Value {
    json!({ "id": "x", "type": "set-variable", "config": { "variableName": "x", "value": value } })
}

async fn flows_are_made_step_by_step(world: Arc<World>) {
    let node = world.node();
    let flow = node.post("/v1/flows").json(&json!({ "name": "Grows" })).ok().await;
    assert_eq!((&flow["stepCount"], &flow["flowSteps"]), (&json!(0), &json!([])));
    let steps = format!("/v1/flows/{}/steps", id(&flow));
    let last = node
        .post(&steps)
        .json(&json!({ "type": "set-variable", "name": "Last", "config": { "variableName": "x", "value": 2 } }))
        .ok()
        .await;
    assert_eq!((&last["name"], &last["order"], &last["flowId"]), (&json!("Last"), &json!(0), &flow["id"]));
    let first = json!({ "type": "set-variable", "name": "First", "order": 0, "config": { "variableName": "x", "value": 1 } });
    assert_eq!(node.post(&steps).json(&first).ok().await["order"], 0);
    let wrong = node.post(&steps).json(&json!({ "name": "No type" })).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/steps/2/type"]);
    let listed = node.get(&steps).ok().await;
    let names: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!((names, &listed["flowName"]), (vec![&json!("First"), &json!("Last")], &json!("Grows")));
    assert_eq!(node.get(&format!("/v1/flow-steps/flow/{}", id(&flow))).ok().await, listed);
    assert_eq!(node.result(&json!({ "flow": { "id": flow["id"] } })).await["result"], 2);
    let path = format!("/v1/flows/{}", id(&flow));
    let renamed = call(&node, Method::PATCH, &path).json(&json!({ "name": "Grown", "status": "draft" })).ok().await;
    assert_eq!((&renamed["name"], &renamed["stepCount"]), (&json!("Grown"), &json!(2)));
    let wrong = call(&node, Method::PATCH, &path).json(&json!({ "status": "active" })).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/status"]);
}

async fn a_flow_says_whose_it_is_and_what_was_published(world: Arc<World>) {
    let node = world.node();
    let flow = node.post("/v1/flows").json(&json!({ "name": "Owned", "steps": [set(1)] })).ok().await;
    let owner = &flow["userId"];
    assert!(owner.as_str().unwrap().starts_with("tenant_"), "{flow}");
    assert_eq!(node.get("/v1/flows").ok().await["data"][0]["userId"], *owner);
    let path = format!("/v1/flows/{}", id(&flow));
    let published = node.post(&format!("{path}/publish")).ok().await;
    let version = &flow["currentVersionId"];
    assert_eq!((&published["success"], &published["publishedVersionId"], &published["versionId"]), (&json!(true), version, version));
    assert!(published["message"].as_str().is_some_and(|text| !text.is_empty()) && published["applied"].is_object(), "{published}");
    // Nothing changed, so the version that was saved last is the published one; its id is given all the same.
    assert_eq!(call(&node, Method::PUT, &path).json(&json!({ "name": "Owned" })).ok().await["draftVersionId"], *version);
    let versions = node.get(&format!("/v1/flow-versions/{}", id(&flow))).ok().await;
    assert_eq!((&versions["flowId"], &versions["publishedVersionId"]), (&flow["id"], version));
    assert_eq!((&versions["versions"], &versions["versions"][0]["stepCount"]), (&versions["data"], &json!(1)));
    node.result(&json!({ "flow": { "id": flow["id"] } })).await;
    let rows = node.get(&format!("{path}/step-results")).ok().await;
    let row = &rows["data"][0];
    assert_eq!((&row["userId"], &row["flowId"], &row["stepName"]), (owner, &flow["id"], &json!("x")), "{row}");
    assert_eq!(row["createdAt"], row["startedAt"]);
}

async fn agents_and_their_versions_have_both_names(world: Arc<World>) {
    let node = world.node();
    let agent = node.post("/v1/agents").json(&json!({ "name": "Clerk", "config": { "model": "local/echo" } })).ok().await;
    assert_eq!((&agent["capabilities"], &agent["_warnings"], &agent["healthStatus"]), (&json!([]), &json!([]), &Value::Null));
    let row = node.get("/v1/agents").ok().await["data"][0].clone();
    assert_eq!((&row["agentType"], &row["capabilityCount"], &row["userId"]), (&json!("runtype"), &json!(0), &agent["userId"]));
    let versions = format!("/v1/agent-versions/{}", id(&agent));
    node.get(&format!("{versions}/published")).refused(404, "not_found").await;
    let published = node.post(&format!("{versions}/publish")).ok().await;
    assert_eq!((&published["agentId"], &published["versionId"]), (&agent["id"], &agent["currentVersionId"]));
    assert_eq!((&published["success"], &published["warnings"]), (&json!(true), &json!([])));
    assert_eq!(node.get(&format!("{versions}/published")).ok().await["id"], agent["currentVersionId"]);
    let listed = node.get(&versions).ok().await;
    assert_eq!((&listed["versions"][0]["versionType"], &listed["draftVersionId"]), (&json!("published"), &Value::Null));
    assert_eq!(node.get(&format!("/v1/agents/{}/versions", id(&agent))).ok().await, listed);
    let one = format!("{versions}/{}", agent["currentVersionId"].as_str().unwrap());
    assert_eq!(node.get(&one).ok().await, listed["data"][0]);
    let gone = call(&node, Method::DELETE, &format!("/v1/agents/{}", id(&agent))).ok().await;
    assert_eq!((&gone["success"], &gone["deletedId"]), (&json!(true), &agent["id"]));
}

async fn aliases_move_by_number_and_leave_receipts(world: Arc<World>) {
    let node = world.node();
    let config = |text: &str| json!({ "name": "Clerk", "config": { "model": "local/echo", "instructions": text } });
    let agent = node.post("/v1/agents").json(&config("one")).ok().await;
    let path = format!("/v1/agents/{}", id(&agent));
    let (old, new) =
        (agent["currentVersionId"].clone(), call(&node, Method::PUT, &path).json(&config("two")).ok().await["currentVersionId"].clone());
    let live = format!("{path}/aliases/live");
    let put = |version: &Value| call(&node, Method::PUT, &live).json(&json!({ "versionId": version, "reason": "because" }));
    let first = put(&old).ok().await;
    assert_eq!((&first["changed"], &first["versionNumber"], &first["bindingNames"]), (&json!(true), &json!(1), &json!([])));
    put(&new).refused(422, "validation_failed").await;
    put(&new).header("if-match", "7").refused(409, "release_moved").await;
    let again = put(&old).ok().await;
    assert_eq!((&again["changed"], &again["receiptId"]), (&json!(false), &first["receiptId"]), "the same activation once more");
    let read = node.get(&live).ok().await;
    assert_eq!((&read["revision"], &read["versionId"]), (&first["revision"], &old));
    let moved = put(&new).header("if-match", read["revision"].to_string()).ok().await;
    assert!(moved["revision"].as_u64() > read["revision"].as_u64() && moved["changed"] == true, "{moved}");
    assert_eq!(node.get(&format!("{path}/releases/live")).ok().await["versionId"], new);
    call(&node, Method::PUT, &format!("{path}/aliases/a")).json(&json!({ "versionId": old })).ok().await;
    let listed = node.get(&format!("{path}/aliases")).ok().await;
    let names: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|row| &row["alias"]).collect();
    assert_eq!((names, &listed["liveDefault"]), (vec![&json!("live"), &json!("a")], &json!(false)));
    let gone = call(&node, Method::DELETE, &live).ok().await;
    assert_eq!((&gone["archived"], &gone["alias"]), (&json!(true), &json!("live")));
    node.get(&live).refused(404, "not_found").await;
    let of_live = node.get(&format!("{path}/deployments?alias=live&limit=2")).ok().await;
    let moves: Vec<(&Value, &Value)> =
        of_live["data"].as_array().unwrap().iter().map(|row| (&row["action"], &row["previousVersionId"])).collect();
    assert_eq!(moves, [(&json!("archive"), &new), (&json!("activate"), &old)]);
    let more = of_live["pagination"]["nextCursor"].as_str().unwrap();
    let rest = node.get(&format!("{path}/deployments?alias=live&cursor={more}")).ok().await;
    assert_eq!((&rest["data"][0]["id"], &rest["data"][0]["reason"]), (&first["receiptId"], &json!("because")));
}

async fn an_agent_s_execution_lists_its_tool_calls(world: Arc<World>) {
    let node = world.node();
    let double = json!({
        "name": "double", "description": "Doubles.", "toolType": "custom", "config": { "code": "return n * 2;" },
        "parametersSchema": { "type": "object", "properties": { "n": { "type": "number" } } },
    });
    let agent = json!({ "name": "Clerk", "config": { "model": "local/echo", "tools": { "runtimeTools": [double] } } });
    let agent = node.post("/v1/agents").json(&agent).ok().await;
    let path = format!("/v1/agents/{}", id(&agent));
    let said = json!({ "messages": [{ "role": "user", "content": "call double {\"n\": 4}" }], "streamResponse": false });
    let run = node.post(&format!("{path}/execute")).json(&said).ok().await["executionId"].as_str().unwrap().to_owned();
    let executions = node.get(&format!("{path}/executions")).ok().await;
    let row = &executions["data"][0];
    assert_eq!((&row["executionId"], &row["agentTargetResolution"]), (&json!(run), &json!("version")));
    assert_eq!((&row["executionMode"], &row["notificationMode"]), (&json!("detached"), &json!("none")));
    assert!(row["totalCost"].is_string() && row["completedAt"].is_string(), "{row}");
    let at = format!("{path}/executions/{run}");
    assert_eq!(node.get(&at).ok().await["executionId"], json!(run));
    let calls = node.get(&format!("{at}/tool-calls")).ok().await;
    let made = &calls["toolCalls"][0];
    assert_eq!((&made["toolName"], &made["status"], &made["outputResult"]), (&json!("double"), &json!("completed"), &json!(8)), "{calls}");
    assert_eq!((&made["inputParameters"], &made["inputTruncated"]), (&json!({ "n": 4 }), &json!(false)));
    let one = made["toolCallId"].as_str().unwrap();
    assert_eq!(node.get(&format!("{at}/tool-calls/{one}")).ok().await, *made);
    assert_eq!(node.get(&format!("/v1/executions/{run}/tool-calls/{one}")).ok().await, *made);
    node.get(&format!("{at}/tool-calls/none")).refused(404, "not_found").await;
    // What has ended stays as it ended.
    assert_eq!(node.post(&format!("{at}/cancel")).ok().await, json!({ "executionId": run, "status": "completed" }));
}

async fn record(node: &Node, name: &str, metadata: Value) -> Value {
    node.post("/v1/records").json(&json!({ "type": "lead", "name": name, "metadata": metadata })).ok().await
}

async fn records_are_filtered_by_their_keys(world: Arc<World>) {
    let node = world.node();
    let first = record(&node, "a", json!({ "city": "Oslo" })).await;
    record(&node, "b", json!({ "city": "Rome", "plan": "pro" })).await;
    record(&node, "c", json!({ "plan": "free", "seats": 3, "dot.key": 1 })).await;
    let names = async |query: &str| {
        let page = node.get(&format!("/v1/records?{query}")).ok().await;
        page["data"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("metadata_keys=city,seats").await, ["c", "b", "a"]);
    assert_eq!(names("metadata_keys_all=city,plan").await, ["b"]);
    assert_eq!(names("metadata_keys=dot.key").await, ["c"]);
    assert_eq!(names("min_fields=2").await, ["c", "b"]);
    assert_eq!(names("maxFields=1").await, ["a"]);
    let filter = "%7B%22type%22%3A%22lead%22%2C%22where%22%3A%7B%22field%22%3A%22plan%22%2C%22op%22%3A%22isSet%22%7D%7D";
    assert_eq!(names(&format!("recordFilter={filter}")).await, ["c", "b"]);
    let with = node.get("/v1/records?name=a&include_fields=true").ok().await["data"][0].clone();
    assert_eq!((&with["availableFields"], &with["userId"]), (&json!(["city"]), &first["userId"]));
    node.get("/v1/records?sort_by=name").refused(400, "invalid_query").await;
    let path = format!("/v1/records/{}", id(&first));
    let changed = call(&node, Method::PATCH, &path).json(&json!({ "metadata": { "city": "Bern" } })).ok().await;
    assert_eq!(changed["metadata"], json!({ "city": "Bern" }));
    // Real names of the bulk edit, and a trial of it.
    let edit = |dry: bool| json!({ "recordIds": [first["id"]], "updates": { "plan": "pro" }, "deleteFields": ["city"], "dryRun": dry });
    let tried = node.post("/v1/records/bulk-edit").json(&edit(true)).ok().await;
    assert_eq!((&tried["updated"], &tried["data"][0]["after"]), (&json!(0), &json!({ "plan": "pro" })));
    assert_eq!(node.get(&path).ok().await["metadata"], json!({ "city": "Bern" }));
    assert_eq!(node.post("/v1/records/bulk-edit").json(&edit(false)).ok().await["updated"], 1);
    assert_eq!(node.get(&path).ok().await["metadata"], json!({ "plan": "pro" }));
    let filtered = json!({ "recordFilter": { "type": "lead", "where": { "field": "plan", "value": "pro" } }, "updates": { "seen": true } });
    assert_eq!(node.post("/v1/records/bulk-edit").json(&filtered).ok().await["recordIds"].as_array().unwrap().len(), 2);
    let wrong = json!({ "updates": {}, "applyToAll": true });
    let wrong = node.post("/v1/records/bulk-edit").json(&wrong).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/applyToAll", "/ids"]);
}

async fn records_say_what_they_have_and_cost(world: Arc<World>) {
    let node = world.node();
    let first = record(&node, "a", json!({ "city": "Oslo", "n": 1 })).await;
    record(&node, "b", json!({ "city": "Oslo", "n": "two" })).await;
    record(&node, "c", json!({ "city": "Rome" })).await;
    let schema = node.get("/v1/records/schema?type=lead").ok().await;
    assert_eq!((&schema["totalRecords"], &schema["sampledRecords"], &schema["truncated"]), (&json!(3), &json!(3), &json!(false)));
    let fields = json!([
        { "name": "city", "type": "string", "types": ["string"], "count": 3 },
        { "name": "n", "type": "mixed", "types": ["number", "string"], "count": 2 },
    ]);
    assert_eq!(schema["fields"], fields);
    let values = node.get("/v1/records/field-values?type=lead&field=city").ok().await;
    assert_eq!(values["values"], json!([{ "value": "Oslo", "count": 2 }, { "value": "Rome", "count": 1 }]));
    let preview = json!({ "type": "lead", "where": { "op": "and", "conditions": [{ "field": "city", "value": "Oslo" }] } });
    let preview = node.post("/v1/records/preview-filter").json(&preview).ok().await;
    assert_eq!((&preview["matchedCount"], preview["samples"].as_array().unwrap().len()), (&json!(2), 2));
    let prompt = json!({ "id": "p", "type": "prompt", "config": { "model": "openai/fake-ok", "userPrompt": "{{_record.name}}" } });
    node.result(&json!({ "flow": { "name": "Ask", "steps": [prompt] }, "record": { "id": first["id"] } })).await;
    let costs = node.get(&format!("/v1/records/{}/costs", id(&first))).ok().await;
    assert_eq!((&costs["executionCount"], &costs["totalCost"]), (&json!(1), &costs["total"]["cost"]));
    let model = &costs["modelBreakdown"][0];
    assert_eq!(
        (&model["model"], &model["count"], &model["tokens"]),
        (&json!("openai/fake-ok"), &json!(1), &costs["totalTokens"]),
        "{costs}"
    );
    let tokens = costs["promptTokens"].as_u64().unwrap() + costs["completionTokens"].as_u64().unwrap();
    assert_eq!(costs["totalTokens"], tokens);
    let results = node.get(&format!("/v1/records/{}/results", id(&first))).ok().await;
    assert_eq!((&results["data"][0]["recordId"], &results["pagination"]["page"]), (&first["id"], &json!(1)));
}

async fn a_csv_is_uploaded_with_its_types(world: Arc<World>) {
    let node = world.node();
    let file = "kind,name,n\nlead,Ada,1\nfriend,Bob,2\n,Eve,3\n";
    let told = node.post("/v1/records/upload-csv").json(&json!({ "file": file, "typeColumn": "kind" })).ok().await;
    assert_eq!((&told["success"], &told["created"], &told["errors"]), (&json!(false), &json!(2), &json!(1)), "{told}");
    assert!(told["errorDetails"][0].as_str().unwrap().starts_with("row 4:"), "{told}");
    let (made, kind) = (&told["records"][1], &told["records"][1]["type"]);
    assert_eq!((&made["name"], kind, &made["metadata"]), (&json!("Bob"), &json!("friend"), &json!({ "n": "2" })));
    let again = json!({ "file": "name\nAda\n", "typeValue": "lead" });
    assert_eq!(node.post("/v1/records/upload-csv").json(&again).ok().await["updated"], 1);
    let wrong = node.post("/v1/records/upload-csv").json(&json!({ "file": "name\nx\n" })).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/type"]);
}

async fn agent(node: &Node) -> Value {
    node.post("/v1/agents").json(&json!({ "name": "Desk", "config": { "model": "local/echo" } })).ok().await["id"].clone()
}

async fn client_tokens_come_in_every_spelling(world: Arc<World>) {
    let node = world.node();
    let flow = node.post("/v1/flows").json(&json!({ "name": "F", "steps": [ask("a", "say hi")] })).ok().await["id"].clone();
    let body =
        json!({ "name": "Shop", "flow_ids": [flow], "default_flow_id": flow, "allowed_origins": ["*"], "pin_to_version": "published" });
    let made = node.post("/v1/client-tokens").json(&body).ok().await;
    assert_eq!(made["clientToken"], made["client_token"]);
    assert!(made["embed_code"]["script"].is_string() && made["embed_code"]["react"].is_string(), "{made}");
    let row = &made["clientToken"];
    assert_eq!((&row["isActive"], &row["tokenPrefix"], &row["pinToVersion"]), (&json!(true), &json!("ct_live_"), &json!("published")));
    for (camel, snake) in
        [("flowIds", "flow_ids"), ("allowedOrigins", "allowed_origins"), ("isActive", "is_active"), ("createdAt", "created_at")]
    {
        assert_eq!(row[camel], row[snake], "{camel}");
    }
    assert_eq!(row["default_flow_id"], flow);
    let path = format!("/v1/client-tokens/{}", id(row));
    let read = node.get(&path).ok().await;
    assert_eq!((&read["clientToken"], &read["data"], &read["name"]), (row, row, &json!("Shop")));
    let list = node.get("/v1/client-tokens").ok().await;
    assert_eq!((&list["clientTokens"], &list["data"], &list["pagination"]["offset"]), (&json!([row]), &json!([row]), &json!(0)));
    let changed = call(&node, Method::PUT, &path).json(&json!({ "pinToVersion": "latest", "rate_limit_per_minute": 7 })).ok().await;
    assert_eq!((&changed["clientToken"]["pinToVersion"], &changed["clientToken"]["rateLimitPerMinute"]), (&Value::Null, &json!(7)));
    assert_eq!(changed["warnings"][0]["type"], "wildcard_origin");
    let wrong = call(&node, Method::PUT, &path).json(&json!({ "pinToVersion": "fver_1" })).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/pinToVersion"]);
    let next = node.post(&format!("{path}/regenerate")).ok().await;
    assert!(next["message"].is_string() && next["token"] != made["token"], "{next}");
    let gone = call(&node, Method::DELETE, &path).ok().await;
    assert_eq!((&gone["success"], &gone["message"]), (&json!(true), &json!("the client token was deleted")));
}

const ORIGIN: &str = "https://shop.example";

fn page(node: &Node, path: &str, body: &Value) -> Call {
    node.bare(Method::POST, path).header("origin", ORIGIN).json(body)
}

async fn an_inactive_token_is_no_token(world: Arc<World>) {
    let node = world.node();
    let body = json!({ "name": "Shop", "allowedOrigins": [ORIGIN], "agentIds": [agent(&node).await] });
    let made = node.post("/v1/client-tokens").json(&body).ok().await;
    let token = json!({ "token": made["token"] });
    let session = page(&node, "/v1/client/init", &token).ok().await["sessionId"].clone();
    let path = format!("/v1/client-tokens/{}", id(&made["clientToken"]));
    let off = call(&node, Method::PUT, &path).json(&json!({ "is_active": false })).ok().await;
    assert_eq!(off["clientToken"]["isActive"], false);
    page(&node, "/v1/client/init", &token).refused(401, "invalid_client_token").await;
    let chat = json!({ "sessionId": session, "messages": [{ "role": "user", "content": "say hi" }], "streamResponse": false });
    page(&node, "/v1/client/chat", &chat).refused(401, "session_expired").await;
    call(&node, Method::PUT, &path).json(&json!({ "isActive": true })).ok().await;
    assert_eq!(page(&node, "/v1/client/chat", &chat).ok().await["finalOutput"], "hi");
    // What is not there is missing, also when it is no id.
    let outputs = |execution: &str| json!({ "sessionId": session, "executionId": execution });
    for execution in ["exec_1", "exec_01h455vb4pex5vsknk084sn02q"] {
        page(&node, "/v1/client/resume", &outputs(execution)).refused(404, "execution_not_paused").await;
    }
}

async fn conversations_count_their_messages(world: Arc<World>) {
    let node = world.node();
    let body = json!({ "name": "Shop", "allowedOrigins": [ORIGIN], "agentIds": [agent(&node).await], "visitorHistory": true });
    let made = node.post("/v1/client-tokens").json(&body).ok().await;
    let token = made["token"].clone();
    let opened = page(&node, "/v1/client/init", &json!({ "token": token, "visitorHistory": true })).ok().await;
    let visitor = opened["visitor"]["token"].as_str().unwrap();
    let said = |messages: Value| json!({ "sessionId": opened["sessionId"], "messages": messages, "streamResponse": false });
    let user = |text: &str| json!({ "role": "user", "content": text });
    page(&node, "/v1/client/chat", &said(json!([user("one"), user("say two")]))).ok().await;
    let answer = json!({ "role": "assistant", "content": "two" });
    page(&node, "/v1/client/chat", &said(json!([user("one"), user("say two"), answer, user("say three")]))).ok().await;
    let path = format!("/v1/client/conversations?sessionId={}", opened["sessionId"].as_str().unwrap());
    let list = node.bare(Method::GET, &path).header("origin", ORIGIN).header("x-visitor-token", visitor).ok().await;
    let row = &list["data"][0];
    // Two messages and their answer, then one and its answer.
    assert_eq!((&row["messageCount"], &row["turnCount"]), (&json!(5), &json!(2)), "{row}");
    assert_eq!((&row["title"], &row["preview"]), (&json!("one"), &json!("say three")));
    let owned = node.get(&format!("/v1/client-tokens/{}/conversations", id(&made["clientToken"]))).ok().await;
    assert_eq!((&owned["conversations"], &owned["conversations"][0]["firstMessage"]), (&owned["data"], &json!("one")));
    let first = &owned["conversations"][0];
    assert_eq!((&first["message_count"], &owned["pagination"]["has_more"]), (&json!(5), &json!(false)));
    let none = node.get(&format!("/v1/client-tokens/{}/conversations?offset=1", id(&made["clientToken"]))).ok().await;
    assert_eq!((&none["data"], &none["pagination"]["offset"]), (&json!([]), &json!(1)));
    let all = node.get("/v1/conversations").ok().await;
    assert_eq!((&all["conversations"][0]["id"], &all["conversations"][0]["source"]), (&row["id"], &json!("client_token")));
    // A conversation that never was is missing, also with an id that is none of ours.
    for conversation in ["mconv_1", "conv_01h455vb4pex5vsknk084sn02q"] {
        let init = json!({ "token": token, "visitorToken": visitor, "conversationId": conversation });
        page(&node, "/v1/client/init", &init).refused(404, "not_found").await;
    }
}

async fn secrets_are_wrapped_and_counted(world: Arc<World>) {
    let node = world.node();
    let made = node.post("/v1/secrets").json(&json!({ "key": "crm", "value": "kept-and-never-shown" })).ok().await;
    node.post("/v1/secrets").json(&json!({ "key": "crm.other", "value": "kept-and-never-shown" })).ok().await;
    assert_eq!((&made["data"]["id"], &made["data"]["key"]), (&made["id"], &json!("crm")));
    let path = format!("/v1/secrets/{}", id(&made));
    assert_eq!(node.get(&path).ok().await["data"], made["data"]);
    let checked = node.post("/v1/secrets/check").json(&json!({ "keys": ["crm", "none"] })).ok().await;
    assert_eq!((&checked["found"], &checked["missing"], &checked["revoked"]), (&json!(["crm"]), &json!(["none"]), &json!([])));
    let uses = |name: &str, key: &str| {
        let config = json!({ "url": world.sink.url("/x"), "headers": { "x-key": format!("{{{{secret:{key}}}}}") } });
        json!({ "name": name, "steps": [step("c", "api-call", config)] })
    };
    node.post("/v1/flows").json(&uses("one", "crm")).ok().await;
    node.post("/v1/flows").json(&uses("two", "crm.other")).ok().await;
    let gone = call(&node, Method::DELETE, &path).ok().await;
    assert_eq!((&gone["success"], &gone["deletedId"], &gone["referenceCount"]), (&json!(true), &made["id"], &json!(1)));
}

async fn tools_are_called_and_described(world: Arc<World>) {
    let node = world.node();
    let double = json!({
        "name": "double", "description": "Doubles.", "toolType": "custom", "config": { "code": "return n * 2;" },
        "parametersSchema": { "type": "object", "properties": { "n": { "type": "number" } }, "required": ["n"] },
    });
    let tool = node.post("/v1/tools").json(&double).ok().await;
    assert_eq!((&tool["isActive"], tool["userId"].as_str().unwrap().starts_with("tenant_")), (&json!(true), true));
    let path = format!("/v1/tools/{}", id(&tool));
    assert_eq!(call(&node, Method::PUT, &path).json(&tool).ok().await["name"], "double", "the whole row can be sent back");
    let off = call(&node, Method::PUT, &path).json(&json!({ "isActive": false })).refused(422, "validation_failed").await;
    assert_eq!(off.pointers(), ["/isActive"]);
    // The answer is one JSON when nobody asks for events.
    let good = node.post(&format!("{path}/execute")).json(&json!({ "parameters": { "n": 4 } })).ok().await;
    assert_eq!((&good["status"], &good["result"], &good["executionStatus"]), (&json!("success"), &json!(8), &json!("completed")), "{good}");
    assert!(good["executionTimeMs"].is_u64() && good["executionId"].is_string(), "{good}");
    let bad = node.post(&format!("{path}/execute")).json(&json!({ "parameters": {} })).ok().await;
    assert!(bad["status"] == "failed" && bad["error"].is_string() && bad["failure"]["code"].is_string(), "{bad}");
    let schemas = node.get("/v1/tools/schema").ok().await;
    assert_eq!(schemas["tools"][0]["parametersSchema"], double["parametersSchema"]);
    assert_eq!(node.get("/v1/tools/schemas").ok().await, schemas);
    let builtin = node.get("/v1/tools/builtin").ok().await;
    assert_eq!(builtin["total"], builtin["data"].as_array().unwrap().len());
    let web = builtin["data"].as_array().unwrap().iter().find(|tool| tool["name"] == "fetch_url").unwrap();
    assert_eq!((&web["category"], &web["providers"]), (&json!("web"), &json!(["dispatch"])));
    assert_eq!(node.get("/v1/tools/builtin/compatible?model=m&provider=p").ok().await, builtin);
    assert_eq!(node.get("/v1/tools/builtin/builtin:fetch_url/schema").ok().await, *web);
    node.get("/v1/tools/builtin/nothing/schema").refused(404, "not_found").await;
    let gone = call(&node, Method::DELETE, &path).ok().await;
    assert_eq!((&gone["success"], &gone["deletedId"]), (&json!(true), &tool["id"]));
}

async fn schedules_are_flat_and_counted_by_day(world: Arc<World>) {
    let node = world.node();
    let flow = node.post("/v1/flows").json(&json!({ "name": "Nightly", "steps": [set(1)] })).ok().await["id"].clone();
    let daily = json!({ "type": "recurring", "cron": "0 3 * * *", "timezone": "Europe/Berlin" });
    let made = node.post("/v1/schedules").json(&json!({ "target": { "flowId": flow }, "trigger": daily })).ok().await;
    assert_eq!((&made["flowId"], &made["cron"], &made["timezone"]), (&flow, &json!("0 3 * * *"), &json!("Europe/Berlin")));
    assert_eq!((&made["enabled"], &made["triggerType"], &made["executionOptions"]), (&json!(true), &json!("recurring"), &json!({})));
    let path = format!("/v1/schedules/{}", id(&made));
    let fired = node.post(&format!("{path}/run-now")).ok().await;
    assert_eq!((&fired["status"], &fired["runId"], &fired["scheduleId"]), (&json!("queued"), &fired["id"], &made["id"]));
    let stats = until(&node, &format!("{path}/stats"), |stats| stats["completed"] == 1).await;
    assert_eq!((&stats["total"], &stats["failed"], &stats["unpricedExecutions"]), (&json!(1), &json!(0), &json!(0)));
    assert_eq!((&stats["successRate"], &stats["avgCostUsd"]), (&json!(1.0), &json!(0.0)));
    let days = stats["last7Days"].as_array().unwrap();
    assert_eq!(days.len(), 7);
    let began = fired["firedAt"].as_str().unwrap();
    assert_eq!(days.iter().map(|day| day["runs"].as_u64().unwrap()).sum::<u64>(), 1);
    assert!(days.iter().any(|day| began.starts_with(day["date"].as_str().unwrap())), "{stats}");
    assert_eq!(node.post(&format!("{path}/pause")).ok().await["enabled"], false);
    let options = json!({ "executionOptions": { "timeoutMs": 5, "chunkSize": 7 } });
    let wrong = call(&node, Method::PUT, &path).json(&options).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/executionOptions/chunkSize"]);
    assert_eq!(call(&node, Method::DELETE, &path).ok().await["success"], true);
}

async fn documents_are_validated(world: Arc<World>) {
    let node = world.node();
    let verdict = async |path: &str, body: Value| node.post(path).json(&body).ok().await;
    let good = verdict("/v1/public/flows/validate", json!({ "name": "F", "steps": [set(1)] })).await;
    assert_eq!((&good["valid"], &good["errors"], &good["context"]["authenticated"]), (&json!(true), &json!([]), &json!(true)));
    let wrong = json!({ "name": "F", "steps": [set(1), { "id": "p", "name": "Ask", "type": "prompt", "config": { "userPrompt": "x" } }] });
    let wrong = verdict("/v1/public/flows/validate", wrong).await;
    let error = &wrong["errors"][0];
    assert_eq!((&wrong["valid"], &error["pointer"]), (&json!(false), &json!("/steps/1/config/model")), "{wrong}");
    assert_eq!(error["step"], json!({ "index": 1, "name": "Ask", "type": "prompt" }));
    assert_eq!(node.get("/v1/flows").ok().await["data"], json!([]), "nothing is saved");
    for path in ["/v1/validate/liquid-template", "/v1/validate/liquid"] {
        assert_eq!(verdict(path, json!({ "template": "{{ name | upcase }}" })).await, json!({ "valid": true, "issues": [] }));
        assert_eq!(verdict(path, json!({ "template": "{% if x %}" })).await["valid"], false);
    }
    let path = "/v1/validate/transform-code";
    assert_eq!(verdict(path, json!({ "code": "return 1;" })).await["valid"], true);
    let wrong = verdict(path, json!({ "code": "return (;" })).await;
    assert_eq!((&wrong["valid"], &wrong["issues"][0]["severity"]), (&json!(false), &json!("error")), "{wrong}");
    let wrong = verdict(path, json!({ "code": "x", "language": "python" })).await;
    assert_eq!(wrong["issues"][0]["pointer"], "/language");
}
