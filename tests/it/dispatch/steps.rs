//! Every step type once, with what it does in the world.

use std::sync::Arc;

use dispatch::model::event::Rest;
use serde_json::{Value, json};

use super::{ask, flow, set, step};
use crate::support::sink::Reply;
use crate::support::world::World;

on_both!(
    records_are_written_and_read,
    a_delay_outlives_a_crash,
    pages_are_read_to_their_end,
    memories_are_kept_and_found,
    calls_are_made_as_written,
    values_stay_in_their_part_of_a_url,
    a_failed_step_is_told_in_the_answer,
    signals_have_names,
    answers_are_read_as_asked,
    responses_are_read_by_content_type,
    writes_refuse_empty_path_segments,
    waits_end,
    polls_in_vain_are_not_repeated,
    documents_are_rendered,
    scripts_compute,
    values_keep_their_type,
    tools_are_called_by_name,
    prompts_say_what_they_were_given,
    records_are_made_with_the_dispatch,
    no_step_reaches_a_forbidden_address,
);

async fn records_are_written_and_read(world: Arc<World>) {
    let node = world.node();
    let steps = json!([
        set("meta", json!({ "stage": "new", "score": 3, "tags": { "a": 1 } })),
        step("saved", "upsert-record", json!({ "recordType": "lead", "recordName": "{{who}}", "sourceVariable": "meta" })),
        step(
            "changed",
            "update-record",
            json!({ "recordId": "{{saved.id}}", "updates": { "stage": "won", "tags": { "b": 2 } }, "mergeStrategy": "deep-merge" })
        ),
        step("one", "get-record", json!({ "recordType": "lead", "recordName": "{{who}}" })),
        step("all", "list-records", json!({ "recordFilter": { "type": "lead", "where": { "field": "score", "op": "gte", "value": 3 } } })),
        step(
            "none",
            "list-records",
            json!({ "recordFilter": { "type": "lead", "where": { "field": "stage", "op": "eq", "value": "new" } } })
        ),
        step("old", "retrieve-record", json!({ "recordType": "lead", "recordName": "{{who}}" })),
        step("missing", "get-record", json!({ "recordType": "lead", "recordName": "nobody" })),
        step("bad", "upsert-record", json!({ "recordType": "lead", "recordName": "x", "sourceVariable": "who" })),
        step("unnamed", "upsert-record", json!({ "recordType": "log", "sourceVariable": "meta" })),
    ]);
    let mut body = flow(steps);
    body["inputs"] = json!({ "who": "Ada" });
    let transcript = node.dispatch(&body).await;
    let result = |id: &str| transcript.step(id)["result"].clone();
    assert_eq!(result("changed")["metadata"], json!({ "stage": "won", "score": 3, "tags": { "a": 1, "b": 2 } }));
    assert_eq!(result("one"), result("changed"));
    assert_eq!(result("old"), result("changed"));
    assert_eq!((result("all").as_array().unwrap().len(), result("none")), (1, json!([])));
    assert_eq!(transcript.step("missing")["code"], "record_not_found");
    assert_eq!(transcript.step("bad")["code"], "invalid_record_source");
    assert_eq!(transcript.last().data["failedSteps"], 2);
    let kept = node.get("/v1/records?type=lead").ok().await;
    assert_eq!(kept["data"][0]["metadata"], result("changed")["metadata"]);
    // The same flow again makes no second record of the name, and one more of those without.
    node.dispatch(&body).await;
    assert_eq!(node.get("/v1/records?type=lead").ok().await["data"].as_array().unwrap().len(), 1);
    assert_eq!(node.get("/v1/records?type=log").ok().await["data"].as_array().unwrap().len(), 2);
}

async fn calls_are_made_as_written(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/mirror", [Reply::Mirror]);
    let url = world.sink.url("/mirror");
    let mut body = flow(json!([
        step("get", "fetch-url", json!({ "http": { "url": format!("{url}?q={{{{word}}}}"), "headers": { "x-one": "{{n}}" } } })),
        step(
            "post",
            "api-call",
            json!({ "http": { "url": url, "method": "post", "query": { "a b": "{{word}}" }, "body": { "n": "{{n}}", "s": "n is {{n}}", "gone": "{{nothing}}" } } })
        ),
        step("text", "fetch-url", json!({ "http": { "url": url, "method": "PUT", "body": "plain {{word}}" } })),
        step("delete", "fetch-url", json!({ "http": { "url": url, "method": "DELETE", "body": "ignored" } })),
        step("basic", "api-call", json!({ "http": { "url": url, "auth": { "type": "basic", "username": "u", "password": "p" } } })),
        step("template", "api-call", json!({ "http": { "url": url, "method": "PATCH" }, "requestTemplate": { "x": "{{word}}" } })),
    ]));
    body["inputs"] = json!({ "n": 7, "word": "wörd" });
    let transcript = node.dispatch(&body).await;
    let result = |id: &str| transcript.step(id)["result"].clone();
    assert_eq!((&result("get")["method"], &result("get")["headers"]["x-one"]), (&json!("GET"), &json!("7")));
    assert_eq!(result("get")["headers"].get("idempotency-key"), None);
    assert_eq!(
        serde_json::from_str::<Value>(result("post")["body"].as_str().unwrap()).unwrap(),
        json!({ "n": 7, "s": "n is 7", "gone": null })
    );
    assert_eq!(transcript.step("post")["unresolvedVariables"], json!(["nothing"]));
    assert_eq!(
        (&result("text")["body"], &result("text")["headers"]["content-type"]),
        (&json!("plain wörd"), &json!("text/plain; charset=utf-8"))
    );
    assert_eq!((&result("delete")["method"], &result("delete")["body"]), (&json!("DELETE"), &json!("")));
    assert_eq!(result("basic")["headers"]["authorization"], "Basic dTpw");
    assert_eq!(result("template")["body"], "{\"x\":\"wörd\"}");
    let keys: Vec<&Value> =
        ["post", "text", "delete", "template"].iter().map(|id| &transcript.step(id)["result"]["headers"]["idempotency-key"]).collect();
    assert_eq!(keys.iter().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>().len(), 4, "each effect has its own key");
}

async fn values_stay_in_their_part_of_a_url(world: Arc<World>) {
    let node = world.node();
    let base = world.sink.url("");
    let host = base.strip_prefix("http://").unwrap();
    let inputs = json!({
        "base": base, "host": host, "whole": world.sink.url("/whole?a=1"), "n": 7, "version": "1.2-x_~", "dot": ".", "dots": "..",
        "up": "../admin?x=1#y", "word": "a b/ü%2f&c=d", "at": "@example.com", "path": "/b", "slash": "\\b",
    });
    let secret = "Two words, of a secret";
    for (url, came) in [
        ("{{whole}}", "/whole?a=1"),
        ("{{whole}}&b={{word}}", "/whole?a=1&b=a%20b%2F%C3%BC%252f%26c%3Dd"),
        ("{{ nothing || whole }}&b={{n}}", "/whole?a=1&b=7"),
        ("{{base}}/p/{{up}}", "/p/..%2Fadmin%3Fx%3D1%23y"),
        ("{{base}}/p/{{ nothing || up }}/x", "/p/..%2Fadmin%3Fx%3D1%23y/x"),
        ("{{base}}/p/{{word}}/{{n}}", "/p/a%20b%2F%C3%BC%252f%26c%3Dd/7"),
        ("{{base}}/p/{{version}}.json", "/p/1.2-x_~.json"),
        ("{{base}}/p/{{dots}}.json", "/p/...json"),
        ("{{base}}/p?q={{word}}&{{word}}=1", "/p?q=a%20b%2F%C3%BC%252f%26c%3Dd&a%20b%2F%C3%BC%252f%26c%3Dd=1"),
        ("http://{{host}}/host/{{n}}", "/host/7"),
        ("{{base}}/p?key={{secrets.spaced}}", "/p?key=Two%20words%2C%20of%20a%20secret"),
    ] {
        let path = came.split('?').next().unwrap();
        world.sink.on(path, [Reply::text(&format!("you asked for {came}"))]);
        let before = world.sink.all().len();
        let mut body = flow(json!([step("call", "fetch-url", json!({ "url": url }))]));
        (body["inputs"], body["secrets"]) = (inputs.clone(), json!({ "spaced": secret }));
        let told = node.result(&body).await;
        assert_eq!(world.sink.all()[before..], [came.to_owned()], "{url}: {told}");
        assert!(!told.to_string().contains("words%2C"), "what a secret became is not repeated: {told}");
    }
    let tool = json!({ "name": "t", "toolType": "external", "config": { "url": format!("{base}/tool/{{{{up}}}}") } });
    let mut body = flow(json!([step("call", "tool-call", json!({ "tool": tool, "parameters": { "up": "../x" } }))]));
    body["inputs"] = inputs.clone();
    node.result(&body).await;
    assert_eq!(world.sink.all().last().map(String::as_str), Some("/tool/..%2Fx"));
    let before = world.sink.all().len();
    for url in [
        "{{base}}/p/{{dots}}",
        "{{base}}/p/{{dot}}/x",
        "{{base}}/p/.{{dot}}?q",
        "{{base}}/p/%2e{{dot}}",
        "{{base}}{{path}}",
        "{{base}}{{at}}/",
        "http://{{host}}{{slash}}/x",
        "http://{{up}}/x",
        "http://{{at}}:p@{{host}}/x",
        "http://{{word}}.example.com/x",
    ] {
        let mut body = flow(json!([step("call", "fetch-url", json!({ "url": url }))]));
        body["inputs"] = inputs.clone();
        let told = node.dispatch(&body).await;
        assert_eq!(told.step("call")["code"], "invalid_url", "{url}: {}", told.step("call"));
    }
    assert_eq!(world.sink.all().len(), before, "none of them went out");
}

async fn a_failed_step_is_told_in_the_answer(world: Arc<World>) {
    let node = world.node();
    let broken = |id: &str| step(id, "transform-data", json!({ "script": "throw new Error('broken ' + 1)" }));
    let told = node.result(&flow(json!([broken("first"), broken("second")]))).await;
    assert_eq!((&told["success"], &told["status"]), (&json!(false), &json!("completed")), "{told}");
    let error = &told["error"];
    assert_eq!(
        (&error["code"], &error["stepId"], &error["retryable"]),
        (&json!("script_failed"), &json!("first"), &json!(false)),
        "{told}"
    );
    assert!(error["message"].as_str().is_some_and(|text| text.contains("broken 1")), "{told}");
    assert_eq!(node.result(&flow(json!([super::set("fine", json!(1))]))).await.get("error"), None);
}

async fn signals_have_names(world: Arc<World>) {
    let node = world.node();
    for name in [json!(""), json!("x".repeat(201)), json!("a\0b")] {
        let mut body = flow(json!([step("wait", "wait-for-signal", json!({ "name": "{{name}}", "timeoutMs": 60_000 }))]));
        body["inputs"] = json!({ "name": name });
        let told = node.dispatch(&body).await;
        assert_eq!(told.step("wait")["code"], "invalid_signal_name", "{name}");
    }
}

async fn answers_are_read_as_asked(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/list", [Reply::json(json!({ "data": { "items": [{ "id": 5 }, { "id": 6 }] } }))]);
    world.sink.on("/text", [Reply::text("{\"a\": 1}")]);
    world.sink.on("/words", [Reply::text("just words")]);
    let steps = json!([
        step(
            "mapped",
            "api-call",
            json!({ "url": world.sink.url("/list"), "responseMapping": { "second": "data.items.1.id", "first": "$.data.items.0", "no": "data.x" } })
        ),
        step("guessed", "fetch-url", json!({ "url": world.sink.url("/text") })),
        step("kept", "fetch-url", json!({ "url": world.sink.url("/text"), "responseType": "text" })),
        step("wrong", "fetch-url", json!({ "url": world.sink.url("/words"), "responseType": "json" })),
        step("blocked", "fetch-url", json!({ "url": "http://169.254.169.254/latest/meta-data" })),
    ]);
    let transcript = node.dispatch(&flow(steps)).await;
    assert_eq!(transcript.step("mapped")["result"], json!({ "second": 6, "first": { "id": 5 }, "no": null }));
    assert_eq!(transcript.step("guessed")["result"], json!({ "a": 1 }));
    assert_eq!(transcript.step("kept")["result"], "{\"a\": 1}");
    assert_eq!(transcript.step("wrong")["code"], "invalid_json");
    assert_eq!(transcript.step("blocked")["code"], "egress_blocked");
}

async fn responses_are_read_by_content_type(world: Arc<World>) {
    let node = world.node();
    let said = |content_type: &str, body: &[u8]| Reply::Bytes(200, vec![("content-type", content_type.into())], body.to_vec());
    world.sink.on("/page", [said("application/json", b"<html>login</html>")]);
    world.sink.on("/latin", [said("application/json; charset=iso-8859-1", b"{\"name\": \"caf\xe9\"}")]);
    world.sink.on("/marked", [said("application/json", b"\xef\xbb\xbf{\"id\": 123456789012345678901234567890}")]);
    world.sink.on("/blank", [said("application/json", b"\n")]);
    let fetch = |id: &str, path: &str, more: Value| {
        let mut config = json!({ "url": world.sink.url(path) });
        config.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        step(id, "fetch-url", config)
    };
    let tool = json!({ "name": "t", "toolType": "external", "config": { "url": world.sink.url("/page") } });
    let steps = json!([
        fetch("page", "/page", json!({})),
        fetch("mapped", "/page", json!({ "responseMapping": { "id": "id" } })),
        fetch("text", "/page", json!({ "responseType": "text" })),
        fetch("asked", "/page", json!({ "responseType": "json" })),
        fetch("latin", "/latin", json!({})),
        fetch("marked", "/marked", json!({ "responseType": "json" })),
        fetch("blank", "/blank", json!({})),
        step("pages", "paginate-api", json!({ "url": world.sink.url("/page") })),
        step("polled", "wait-until", json!({ "poll": { "http": { "url": world.sink.url("/page") } } })),
        step("tool", "tool-call", json!({ "tool": tool, "parameters": {} })),
    ]);
    let told = node.dispatch(&flow(steps)).await;
    for (id, code) in [
        ("page", "reply_not_json"),
        ("mapped", "reply_not_json"),
        ("asked", "invalid_json"),
        ("pages", "reply_not_json"),
        ("polled", "reply_not_json"),
        ("tool", "reply_not_json"),
    ] {
        assert_eq!(told.step(id)["code"], code, "{}", told.step(id));
    }
    for (id, result) in [
        ("text", json!("<html>login</html>")),
        ("latin", json!({ "name": "café" })),
        ("marked", json!({ "id": "123456789012345678901234567890" })),
        ("blank", Value::Null),
    ] {
        assert_eq!((&told.step(id)["success"], &told.step(id)["result"]), (&json!(true), &result), "{}", told.step(id));
    }
    // A model gets the text with a note.
    let prompt = super::ask_with("p", "call t {}", json!({ "runtimeTools": [tool] }));
    let told = node.dispatch(&flow(json!([prompt]))).await;
    let called = told.one("tool_complete");
    assert_eq!((&called.data["success"], &called.data["result"]), (&json!(true), &json!("<html>login</html>")), "{called:?}");
    let answer = told.streamed_text();
    assert!(answer.contains("<html>login</html>") && answer.contains("is not JSON"), "{answer}");
}

async fn writes_refuse_empty_path_segments(world: Arc<World>) {
    let node = world.node();
    let call = |id: &str, method: &str| {
        step(id, "api-call", json!({ "url": world.sink.url("/things/{{none.id}}/parts"), "method": method, "query": { "n": "{{n}}" } }))
    };
    let tool = json!({
        "name": "t", "toolType": "external", "config": { "url": world.sink.url("/things/{{id}}"), "method": "DELETE" },
        "parametersSchema": { "type": "object", "properties": { "id": { "type": "string" } } },
    });
    let steps = json!([
        call("delete", "DELETE"),
        call("post", "POST"),
        call("get", "GET"),
        step("tool", "tool-call", json!({ "tool": tool, "parameters": { "id": "" } })),
    ]);
    let mut body = flow(steps);
    body["inputs"] = json!({ "n": 100.0 });
    let told = node.dispatch(&body).await;
    for id in ["delete", "post"] {
        assert_eq!(told.step(id)["code"], "invalid_url", "{}", told.step(id));
        assert!(told.step(id)["error"].as_str().unwrap().contains("{{none.id}}"), "{}", told.step(id));
    }
    assert_eq!((&told.step("get")["success"], &told.step("tool")["code"]), (&json!(true), &json!("tool_failed")));
    assert_eq!(world.sink.all(), ["/things//parts?n=100"]);
}

async fn waits_end(world: Arc<World>) {
    let node = world.node();
    world.sink.on(
        "/job",
        [Reply::json(json!({ "state": "busy" })), Reply::status(503, json!({})), Reply::json(json!({ "state": "done", "n": 4 }))],
    );
    let steps = json!([
        step("delay", "wait-until", json!({ "delayMs": 20 })),
        step(
            "poll",
            "wait-until",
            json!({ "poll": { "http": { "url": world.sink.url("/job") }, "success": "response.body.state == 'done'", "intervalMs": 100 } })
        ),
        step(
            "given_up",
            "wait-until",
            json!({ "poll": { "http": { "url": world.sink.url("/x") }, "success": "false", "intervalMs": 100, "maxAttempts": 2 } })
        ),
        step("holds", "wait-until", json!({ "condition": "poll.n == 4" })),
        step("never", "wait-until", json!({ "condition": "1 == 2", "pollIntervalMs": 100, "timeoutMs": 150 })),
    ]);
    let transcript = node.dispatch(&flow(steps)).await;
    assert!(transcript.step("delay")["durationMs"].as_u64().unwrap() >= 20);
    assert_eq!(transcript.step("poll")["result"], json!({ "state": "done", "n": 4 }));
    assert_eq!(world.sink.seen("/job").len(), 3);
    assert_eq!(transcript.step("given_up")["code"], "wait_exhausted");
    assert_eq!(transcript.step("holds")["result"], true);
    assert_eq!(transcript.step("never")["code"], "wait_exhausted");
}

async fn polls_in_vain_are_not_repeated(world: Arc<World>) {
    let node = world.node();
    let busy = || Reply::status(503, json!({}));
    world.sink.on("/poll", [busy(), busy(), Reply::json(json!({ "ready": true }))]);
    let poll = json!({ "http": { "url": world.sink.url("/poll") }, "intervalMs": 2_100, "maxAttempts": 5 });
    let end = node.dispatch(&flow(json!([{ "id": "poll", "type": "wait-until", "config": { "poll": poll } }]))).await;
    assert_eq!(end.step("poll")["result"], json!({ "ready": true }));
    assert_eq!(world.sink.seen("/poll").len(), 3, "each attempt once, though the execution slept between them");
}

async fn a_delay_outlives_a_crash(world: Arc<World>) {
    let node = world.node();
    let body = flow(json!([step("delay", "wait-until", json!({ "delayMs": 2_500 })), ask("end", "say woke")]));
    let mut reader = node.open(&body).await;
    let started = reader.until(|frame| frame.kind == "step_start").await;
    let run = started.text("executionId").to_owned();
    // Once the pause is committed no task holds the run. It is no event of its own: there was the step's start to tell it with.
    assert_eq!(node.rests(&run).await, Rest::Later);
    assert!(node.execution(&run).await["resumesAt"].is_string());
    let node = world.crash().await;
    let log = node.log(&run).await.fresh();
    assert_eq!(log.step("end")["result"]["response"], "woke");
    assert_eq!(log.customs("dispatch.attempt_discarded").count(), 0, "nothing was lost: the run slept");
}

async fn documents_are_rendered(world: Arc<World>) {
    let mut body = flow(json!([
        step(
            "html",
            "template",
            json!({ "template": "<b>{{ name }}</b>{% for item in items %}[{{ item.n | times: 2 }}]{% endfor %}", "outputFormat": "html" })
        ),
        step("text", "template", json!({ "template": "{{ name }} {{ extra | upcase }}", "inputs": { "extra": "x{{items.0.n}}y" } })),
    ]));
    body["inputs"] = json!({ "name": "<Ada>", "items": [{ "n": 1 }, { "n": 2 }] });
    let transcript = world.node().dispatch(&body).await;
    assert_eq!(transcript.step("html")["result"], "<b>&lt;Ada&gt;</b>[2][4]");
    assert_eq!(transcript.step("text")["result"], "<Ada> X1Y");
}

async fn scripts_compute(world: Arc<World>) {
    let mut body = flow(json!([
        step("three", "transform-data", json!({ "script": "return [n, input.n, variables.n]" })),
        step("awaits", "transform-data", json!({ "script": "return await Promise.all([1, 2].map(async x => x + three[0]))" })),
        step("nothing", "transform-data", json!({ "script": "return" })),
        step("throws", "transform-data", json!({ "script": "null.x" })),
        step("outside", "transform-data", json!({ "script": "return [typeof fetch, typeof require, typeof process]" })),
    ]));
    body["inputs"] = json!({ "n": 5 });
    let transcript = world.node().dispatch(&body).await;
    assert_eq!(transcript.step("three")["result"], json!([5, 5, 5]));
    assert_eq!(transcript.step("awaits")["result"], json!([6, 7]));
    assert_eq!(transcript.step("nothing")["success"], true);
    assert_eq!(transcript.step("throws")["success"], false);
    assert_eq!(transcript.step("outside")["result"], json!(["undefined", "undefined", "undefined"]));
}

async fn values_keep_their_type(world: Arc<World>) {
    let mut body = flow(json!([
        set("copy", json!("{{list}}")),
        set("text", json!("n={{list.1}} {{missing || copy.0 || \"z\"}} {{zero ?? 9}}")),
        set("tree", json!({ "a": ["{{zero}}", { "b": "{{flag}}" }] })),
        set("plain", json!(false)),
        set("words", json!("{{hostile}}")),
    ]));
    body["inputs"] = json!({ "list": [1, "two"], "zero": 0, "flag": true, "hostile": "{{list}} {% raw %}" });
    let transcript = world.node().dispatch(&body).await;
    let result = |id: &str| transcript.step(id)["result"].clone();
    assert_eq!(result("copy"), json!([1, "two"]));
    assert_eq!(result("text"), "n=two 1 0");
    assert_eq!(result("tree"), json!({ "a": [0, { "b": true }] }));
    assert_eq!(result("plain"), json!(false));
    assert_eq!(result("words"), "{{list}} {% raw %}", "data is never a template");
    assert_eq!(transcript.last().data["finalOutput"], result("words"));
}

async fn tools_are_called_by_name(world: Arc<World>) {
    world.sink.on("/mirror", [Reply::Mirror]);
    let tool = json!({
        "name": "mirror", "description": "Says back.", "toolType": "external", "hiddenParameterNames": ["account"],
        "parametersSchema": { "type": "object", "properties": { "q": { "type": "string" }, "account": { "type": "string" } }, "required": ["q", "account"] },
        "config": { "url": world.sink.url("/mirror"), "method": "PUT", "body": "{\"q\": {{q}}, \"account\": {{account}}, \"left\": {{out}}}" },
    });
    let custom = json!({ "name": "add", "description": "Adds.", "toolType": "custom", "parametersSchema": { "type": "object" }, "config": { "code": "return a + b" } });
    let mut body = flow(json!([
        step("mirrored", "tool-call", json!({ "tool": tool, "parameters": { "q": "say \"{{word}}\"" } })),
        step("added", "tool-call", json!({ "tool": custom, "parameters": { "a": 2, "b": "{{n}}" } })),
        step(
            "wrong",
            "tool-call",
            json!({ "tool": { "name": "t", "toolType": "custom", "config": { "code": "return 1" }, "parametersSchema": { "type": "object", "required": ["x"] } }, "parameters": {} })
        ),
        step(
            "asked",
            "prompt",
            json!({ "model": "local/echo", "userPrompt": "call mirror {\"q\": \"hi\", \"account\": \"forged\"}", "tools": { "runtimeTools": [tool] } })
        ),
    ]));
    body["inputs"] = json!({ "word": "hé", "n": 3, "account": "acc_7" });
    let transcript = world.node().dispatch(&body).await;
    assert_eq!(world.sink.seen("/mirror")[0].body, "{\"q\": \"say \\\"hé\\\"\", \"account\": \"acc_7\", \"left\": {{out}}}");
    assert_eq!(transcript.step("added")["result"], 5);
    assert_eq!(transcript.step("wrong")["code"], "invalid_tool_parameters");
    assert!(world.sink.seen("/mirror")[1].body.contains("acc_7"), "a model cannot choose a hidden parameter");
    let started = transcript.all("tool_start").find(|frame| frame.data["stepId"] == "asked").unwrap();
    assert_eq!(started.data["hiddenParameterNames"], json!(["account"]));
}

async fn prompts_say_what_they_were_given(world: Arc<World>) {
    let node = world.node();
    let prompt = json!({ "id": "chat", "type": "prompt", "config": {
        "model": "openai/fake-ok", "systemPrompt": "You serve {{tenant}}.", "userPrompt": "{{user_message}}", "previousMessages": "{{messages}}",
        "temperature": 0.5, "maxTokens": 50, "stop": ["END"],
    } });
    let mut body = flow(json!([prompt]));
    body["inputs"] = json!({ "tenant": "ACME" });
    body["messages"] = json!([
        { "role": "user", "content": "First.", "createdAt": "2026-01-01T00:00:00Z" },
        { "role": "assistant", "content": [{ "type": "text", "text": "Yes?" }] },
        { "role": "user", "content": [{ "type": "text", "text": "Second." }, { "type": "image", "image": "data:image/png;base64,AAAA" }] },
    ]);
    node.dispatch(&body).await;
    let asked = world.asked("fake-ok").await;
    let messages: Vec<(&Value, &Value)> =
        asked["messages"].as_array().unwrap().iter().map(|message| (&message["role"], &message["content"])).collect();
    assert_eq!(messages.len(), 4, "the last message is not sent twice: {asked}");
    assert_eq!(messages[0], (&json!("system"), &json!("You serve ACME.")));
    assert_eq!(asked["stop"], json!(["END"]));
    let json_prompt = |format: Value| json!({ "id": "j", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "json {\"n\": [1, 2]}", "responseFormat": format, "outputVariable": "j" } });
    let end = node.dispatch(&flow(json!([json_prompt(json!("JSON")), set("n", json!("{{j.n.1}}"))]))).await;
    assert_eq!((&end.step("n")["result"], &end.step("j")["result"]["json"]), (&json!(2), &json!({ "n": [1, 2] })));
    let schema = json!({ "type": "json_schema", "schema": { "type": "object", "required": ["missing"] } });
    let end = node.dispatch(&flow(json!([json_prompt(schema)]))).await;
    assert_eq!((&end.step("j")["success"], &end.step("j")["result"]["json"]["n"]), (&json!(true), &Value::Null), "it is mended once");
    let broken =
        json!({ "id": "j", "type": "prompt", "config": { "model": "openai/fake-ok", "userPrompt": "Go on.", "responseFormat": "json" } });
    let end = node.dispatch(&flow(json!([broken]))).await;
    assert_eq!(end.step("j")["code"], "invalid_json", "and only once");
}

async fn records_are_made_with_the_dispatch(world: Arc<World>) {
    let node = world.node();
    let body = |mode: &str, record: Value| {
        let mut body = flow(json!([set("seen", json!("{{_record}}"))]));
        body["record"] = record;
        body["options"] = json!({ "recordMode": mode });
        body
    };
    let lead = json!({ "type": "lead", "name": "Ada", "metadata": { "n": 1 } });
    let seen = node.dispatch(&body("virtual", lead.clone())).await.step("seen")["result"].clone();
    assert_eq!(seen, lead);
    assert_eq!(node.get("/v1/records").ok().await["data"], json!([]));
    let made = node.dispatch(&body("create", lead.clone())).await.step("seen")["result"].clone();
    node.post("/v1/dispatch").json(&body("create", lead)).refused(409, "already_exists").await;
    let changed = json!({ "type": "lead", "name": "Ada", "metadata": { "n": 2 } });
    let upserted = node.dispatch(&body("upsert", changed)).await.step("seen")["result"].clone();
    assert_eq!((&upserted["id"], &upserted["metadata"]), (&made["id"], &json!({ "n": 2 })));
    for found in [json!({ "id": made["id"] }), json!({ "type": "lead", "name": "Ada" })] {
        assert_eq!(node.dispatch(&body("existing", found)).await.step("seen")["result"], upserted);
    }
}

async fn no_step_reaches_a_forbidden_address(world: Arc<World>) {
    // The sink listens where nobody may call.
    world.configure(|config| config.allow_private.clear());
    let node = world.crash().await;
    let tool = |url: &str| json!({ "name": "reach", "description": "Calls.", "toolType": "external", "parametersSchema": { "type": "object" }, "config": { "url": url, "method": "GET" } });
    for host in ["127.0.0.1", "localhost", "[::ffff:7f00:1]", "2130706433"] {
        let url = world.sink.url("/inside").replace("127.0.0.1", host);
        let steps = json!([
            step("api", "api-call", json!({ "url": url })),
            step("fetch", "fetch-url", json!({ "http": { "url": url } })),
            step(
                "poll",
                "wait-until",
                json!({ "poll": { "http": { "url": url }, "success": "true", "intervalMs": 100, "maxAttempts": 1 } })
            ),
            step("tool", "tool-call", json!({ "tool": tool(&url), "parameters": {} })),
            step(
                "asked",
                "prompt",
                json!({ "model": "local/echo", "userPrompt": "call reach {}", "tools": { "runtimeTools": [tool(&url)] } })
            ),
        ]);
        let told = node.dispatch(&flow(steps)).await;
        for id in ["api", "fetch", "poll", "tool"] {
            assert_eq!(told.step(id)["success"], false, "{host}: {:?}", told.step(id));
        }
        assert_eq!(told.all("tool_complete").filter(|frame| frame.data["stepId"] == "asked" && frame.data["success"] == false).count(), 1);
    }
    assert_eq!(world.sink.seen("/inside").len(), 0);
}

async fn pages_are_read_to_their_end(world: Arc<World>) {
    let node = world.node();
    let page = |items: Value, next: Value| Reply::json(json!({ "data": { "items": items }, "next": next }));
    let run = async |config: Value| {
        let mut body = flow(json!([step("all", "paginate-api", config)]));
        body["secrets"] = json!({ "key": "canary-of-pages" });
        node.result(&body).await
    };
    let url = |path: &str| world.sink.url(path);
    // By number: a short page is the last.
    world.sink.on("/numbered", [page(json!([1, 2]), json!(null)), page(json!([3, 4]), json!(null)), page(json!([5]), json!(null))]);
    let config = json!({ "url": url("/numbered"), "headers": { "x-key": "{{secrets.key}}" }, "entityPath": "data.items", "pageSize": 2, "pageSizeParam": "limit" });
    assert_eq!(run(config).await["result"], json!([1, 2, 3, 4, 5]));
    let asked: Vec<String> = world.sink.all().into_iter().filter(|asked| asked.starts_with("/numbered")).collect();
    assert_eq!(asked, ["/numbered?page=1&limit=2", "/numbered?page=2&limit=2", "/numbered?page=3&limit=2"]);
    assert_eq!(world.sink.seen("/numbered")[2].header("x-key"), "canary-of-pages");
    // By cursor, in the place that the call names.
    world.sink.on("/cursor", [page(json!(["a"]), json!("c 2")), page(json!(["b"]), json!("c3")), page(json!(["c"]), json!(null))]);
    let config = json!({ "http": { "url": format!("{}?after={{{{cursor}}}}", url("/cursor")) }, "paginationType": "cursor", "cursorPath": "next", "entityPath": "data.items" });
    assert_eq!(run(config).await["result"], json!(["a", "b", "c"]));
    assert!(world.sink.all().contains(&"/cursor?after=c%202".to_owned()), "{:?}", world.sink.all());
    // By offset, and no further than it may.
    world.sink.on("/offset", (0..5).map(|number| Reply::json(json!([number]))));
    let config = json!({ "url": url("/offset"), "paginationType": "offset", "maxPages": 3 });
    assert_eq!(run(config).await["result"], json!([0, 1, 2]));
    assert_eq!(world.sink.all().last().map(String::as_str), Some("/offset?offset=2"));
    // What is no list, and a page that fails.
    world.sink.on("/none", [Reply::json(json!({ "items": 7 }))]);
    assert_eq!(run(json!({ "url": url("/none"), "entityPath": "items" })).await["error"]["code"], "not_a_list");
    world.sink.on("/broken", [Reply::json(json!([1])), Reply::status(404, json!({}))]);
    assert_eq!(run(json!({ "url": url("/broken") })).await["error"]["code"], "http_status");
    let wrong = json!({ "url": url("/x"), "method": "POST", "paginationType": "cursor", "maxPages": 0, "pageSizeParam": "n" });
    let refused =
        node.post("/v1/dispatch").json(&flow(json!([step("all", "paginate-api", wrong)]))).refused(422, "validation_failed").await;
    let at = |field: &str| format!("/flow/steps/0/config/{field}");
    assert_eq!(refused.pointers(), [at("pageSize"), at("cursorPath"), at("maxPages"), at("method")]);
}

async fn memories_are_kept_and_found(world: Arc<World>) {
    let node = world.node();
    let save = |text: &str, session: &str| {
        let mut body = flow(json!([step(
            "save",
            "save-memory",
            json!({ "profileTemplate": "user:{{email}}", "contentVariable": "note", "sessionId": session })
        )]));
        body["inputs"] = json!({ "email": "ada@example.com", "note": text });
        body
    };
    for (text, session) in
        [("Ada drinks tea in the morning.", "s1"), ("Ada rides a red bicycle.", "s1"), ("Ada is afraid of the sea.", "s2")]
    {
        assert_eq!(node.result(&save(text, session)).await["result"], text);
    }
    let read = async |kind: &str, config: Value, email: &str| {
        let mut body = flow(json!([step("read", kind, config)]));
        body["inputs"] = json!({ "email": email, "question": "Which bicycle?" });
        node.result(&body).await
    };
    let recall = json!({ "profileTemplate": "user:{{email}}", "queryTemplate": "{{question}}", "responseLength": "short" });
    assert_eq!(read("recall-memory", recall.clone(), "ada@example.com").await["result"], "Ada rides a red bicycle.");
    assert_eq!(read("recall-memory", recall.clone(), "bob@example.com").await["result"], "", "nobody else's");
    let all = read("memory-summary", json!({ "profileTemplate": "user:{{email}}" }), "ada@example.com").await["result"].clone();
    assert_eq!(all, "Ada is afraid of the sea.\nAda rides a red bicycle.\nAda drinks tea in the morning.");
    let session = json!({ "profileTemplate": "user:{{email}}", "sessionId": "s2" });
    assert_eq!(read("memory-summary", session, "ada@example.com").await["result"], "Ada is afraid of the sea.");
    // Who cannot be named has no memory: else all would share one.
    let nobody = json!({ "profileTemplate": "user:{{missing}}", "queryTemplate": "x" });
    assert_eq!(read("recall-memory", nobody, "x").await["error"]["code"], "invalid_profile");
    let mut empty = save("", "s1");
    empty["inputs"]["note"] = "".into();
    assert_eq!(node.result(&empty).await["error"]["code"], "invalid_memory");
    // Another tenant's are not there.
    let body = {
        let mut body = flow(json!([step("read", "recall-memory", recall)]));
        body["inputs"] = json!({ "email": "ada@example.com", "question": "bicycle" });
        body["streamResponse"] = json!(false);
        body
    };
    let stranger = world.strangers_key().await;
    let theirs = node.bare(reqwest::Method::POST, "/v1/dispatch").bearer(&stranger).json(&body).ok().await;
    assert_eq!(theirs["result"], "");
}
