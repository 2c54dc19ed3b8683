//! Built-in tools: definitions that nobody has to save. Each is made of what flows have anyway.

use std::sync::LazyLock;

use serde_json::{Value, json};

static ALL: LazyLock<Vec<Value>> =
    LazyLock::new(|| vec![current_time(), record_get(), record_list(), record_upsert(), fetch_url(), set_state()]);

/// Every built-in tool, by name.
pub fn all() -> Vec<Value> {
    ALL.clone()
}

/// What a built-in tool is about, by its name.
pub fn category(name: &str) -> &'static str {
    match name {
        "get_current_time" => "time",
        "fetch_url" => "web",
        "set_state" => "state",
        _ => "records",
    }
}

/// The definition of `builtin:name`.
pub fn find(name: &str) -> Option<Value> {
    ALL.iter().find(|tool| tool["name"] == name).cloned()
}

fn tool(name: &str, description: &str, properties: Value, required: &[&str], kind: &str, config: Value) -> Value {
    json!({
        "name": name,
        "description": description,
        "toolType": kind,
        "parametersSchema": { "type": "object", "properties": properties, "required": required },
        "config": config,
    })
}

/// A tool that is a flow of one step, whose output is the tool's.
fn of_step(name: &str, description: &str, properties: Value, required: &[&str], action: &str, config: Value) -> Value {
    let mut config = config;
    config["outputVariable"] = "result".into();
    config["errorHandling"] = json!({ "onError": "fail" });
    let flow = json!({ "name": name, "steps": [{ "id": "result", "name": name, "type": action, "config": config }] });
    tool(name, description, properties, required, "flow", json!({ "flow": flow }))
}

fn current_time() -> Value {
    let zone = json!({ "type": "string", "description": "An IANA time zone, such as Europe/Berlin; UTC when absent." });
    let code = "const now = new Date(); return { iso: now.toISOString(), unixMilliseconds: now.getTime() };";
    tool("get_current_time", "Tells the present time in UTC.", json!({ "timezone": zone }), &[], "custom", json!({ "code": code }))
}

fn record_get() -> Value {
    let properties = json!({ "type": { "type": "string" }, "name": { "type": "string" } });
    let config = json!({ "recordType": "{{type}}", "recordName": "{{name}}" });
    of_step("runtype_record_get", "Reads a record by its type and name.", properties, &["type", "name"], "get-record", config)
}

fn record_list() -> Value {
    let properties = json!({ "type": { "type": "string" } });
    let config = json!({ "recordFilter": { "type": "{{type}}" } });
    of_step("runtype_record_list", "Lists the records of a type, the last changed first.", properties, &["type"], "list-records", config)
}

fn record_upsert() -> Value {
    let properties = json!({ "type": { "type": "string" }, "name": { "type": "string" }, "metadata": { "type": "object" } });
    let config = json!({ "recordType": "{{type}}", "recordName": "{{name}}", "sourceVariable": "metadata" });
    let about = "Saves a record: makes it, or replaces what it holds.";
    of_step("runtype_record_upsert", about, properties, &["type", "name", "metadata"], "upsert-record", config)
}

fn fetch_url() -> Value {
    let properties = json!({ "url": { "type": "string", "format": "uri" } });
    let config = json!({ "http": { "url": "{{url}}", "method": "GET" }, "responseType": "text" });
    of_step("fetch_url", "Reads a page or a document of the web.", properties, &["url"], "fetch-url", config)
}

fn set_state() -> Value {
    let set = json!({ "type": "object", "description": "Members to set, by name; null removes one. Others stay." });
    let about = "Changes the state that the user's application shows beside the conversation: progress, a plan, a form.";
    tool("set_state", about, json!({ "set": set }), &["set"], "state", json!({}))
}
