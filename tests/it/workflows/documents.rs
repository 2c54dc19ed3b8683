//! Documents: kept, replaced, refused with the place of every fault.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{call, register, register_whole};
use crate::support::world::World;

on_both!(a_document_is_registered, the_calls_of_curl_are_understood, faults_are_pointed_at);

async fn a_document_is_registered(world: Arc<World>) {
    let node = world.node();
    let document = |version: u32, url: &str| json!({ "name": "kept", "version": version, "steps": { "a": { "request": { "url": url } } } });
    let put = |document: &Value| call(&node, Method::PUT, "/api/workflows/kept").json(document);
    let first = put(&document(2, "http://x.example/1")).send().await;
    assert_eq!((first.status, first.json()), (201, json!({ "name": "kept", "version": 2, "changed": true })));
    let same = put(&document(2, "http://x.example/1")).send().await;
    assert_eq!((same.status, same.json()["changed"].clone()), (200, json!(false)));
    assert_eq!(put(&document(3, "http://x.example/2")).send().await.json()["changed"], true);
    put(&document(2, "http://x.example/1")).refused(409, "version_lower").await;
    assert_eq!(node.get("/api/workflows/kept").ok().await, document(3, "http://x.example/2"));
    let yaml = "name: from-yaml\nversion: 1\nsteps:\n  old-style:\n    wait: {any: [yes, no], timeout: 30m}\n";
    let answer = call(&node, Method::PUT, "/api/workflows/from-yaml").body("application/yaml", yaml).send().await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(answer.json()["warnings"][0].as_str().unwrap().contains("old_style"));
    let zeros = "name: zeros\nversion: 1\nvars: {zip: 01234, mode: 0755, below: -08, ten: 10}\nsteps:\n  a:\n    wait: {signal: x}\n";
    assert_eq!(call(&node, Method::PUT, "/api/workflows/zeros").body("application/yaml", zeros).send().await.status, 201);
    let kept = node.get("/api/workflows/zeros").ok().await;
    assert_eq!(kept["vars"], json!({ "zip": "01234", "mode": "0755", "below": "-08", "ten": 10 }), "never other numbers");
    assert_eq!(call(&node, Method::DELETE, "/api/workflows/zeros").send().await.status, 204);
    let list = node.get("/api/workflows").ok().await;
    let names: Vec<&str> = list["workflows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["from-yaml", "kept"]);
    let stranger = world.strangers_key().await;
    node.bare(Method::GET, "/api/workflows/kept").bearer(&stranger).refused(404, "not_found").await;
    assert_eq!(call(&node, Method::DELETE, "/api/workflows/kept").send().await.status, 204);
    call(&node, Method::DELETE, "/api/workflows/kept").refused(404, "not_found").await;
    call(&node, Method::PUT, "/api/workflows/kept").body("text/plain", "x").refused(415, "unsupported_media_type").await;
    call(&node, Method::PUT, "/api/workflows/kept").body("application/yaml", "a: [").refused(400, "invalid_yaml").await;
    let steps = r#""steps":{"a":{"wait":{"signal":"x"}},"a":{"wait":{"signal":"y"}}}"#;
    let twice =
        call(&node, Method::PUT, "/api/workflows/kept").body("application/json", format!(r#"{{"name":"kept","version":9,{steps}}}"#));
    assert_eq!(twice.refused(422, "validation_failed").await.pointers(), ["/steps/a"]);
    call(&node, Method::GET, "/api/workflows/No").refused(404, "not_found").await;
}

/// curl gives `--data` the content type of forms; other clients give none.
async fn the_calls_of_curl_are_understood(world: Arc<World>) {
    const FORM: &str = "application/x-www-form-urlencoded";
    let node = world.node();
    for (kind, status) in [(FORM, 201), ("", 200)] {
        let put = call(&node, Method::PUT, "/api/secrets/STRIPE_KEY").body(kind, r#"{"value": "sk"}"#).send().await;
        assert_eq!((put.status, put.json()), (status, json!({ "name": "STRIPE_KEY" })), "{kind}");
        call(&node, Method::PUT, "/api/secrets/STRIPE_KEY").body(kind, "value=sk").refused(400, "invalid_json").await;
    }
    call(&node, Method::PUT, "/api/secrets/STRIPE_KEY")
        .body("text/plain", r#"{"value": "sk"}"#)
        .refused(415, "unsupported_media_type")
        .await;
    let yaml = "name: curled\nversion: 1\nsteps:\n  a:\n    request: {method: POST, url: \"URL\", body: \"{{ trigger.body.id }}\"}\n";
    let yaml = yaml.replace("URL", &world.sink.url("/curled"));
    for (kind, status) in [("", 201), (FORM, 200)] {
        let put = call(&node, Method::PUT, "/api/workflows/curled").body(kind, yaml.clone()).send().await;
        assert_eq!(put.status, status, "{}", put.text());
    }
    let document = node.get("/api/workflows/curled").ok().await;
    assert_eq!(call(&node, Method::PUT, "/api/workflows/curled").body("", document.to_string()).ok().await["changed"], false);
    for (body, seen) in [(r#"{"id": "o-7"}"#, "o-7"), ("id=o-8", "o-8")] {
        assert_eq!(call(&node, Method::POST, "/workflows/curled").body(FORM, body).send().await.status, 200);
        assert_eq!(world.sink.seen("/curled").last().unwrap().body, seen);
    }
    for name in ["Bad_Name", "a--b"] {
        let bad = call(&node, Method::PUT, &format!("/api/workflows/{name}")).json(&document).refused(422, "validation_failed").await;
        assert_eq!(bad.pointers(), ["/name"]);
    }
}

/// A schema whose references go so far before they lead anywhere.
fn chain(length: usize) -> Value {
    let mut links: serde_json::Map<String, Value> =
        (0..length).map(|link| (format!("a{link}"), json!({ "$ref": format!("#/$defs/a{}", link + 1) }))).collect();
    links.insert(format!("a{length}"), json!({}));
    json!({ "$ref": "#/$defs/a0", "$defs": links })
}

async fn faults_are_pointed_at(world: Arc<World>) {
    let node = world.node();
    register_whole(&node, json!({ "name": "stays", "version": 1, "steps": { "a": { "wait": { "signal": "x" } } } })).await;
    let request = json!({ "url": "http://x.example" });
    let step = |step: Value| json!({ "steps": { "a": step } });
    let cases = [
        (json!({ "steps": {} }), vec!["/steps"]),
        (json!({ "nam": 1, "steps": {} }), vec!["/nam"]),
        (json!({ "version": 0, "steps": { "a": { "request": request } } }), vec!["/version"]),
        (step(json!({})), vec!["/steps/a"]),
        (step(json!({ "request": request, "what": 1 })), vec!["/steps/a/what"]),
        (step(json!({ "request": { "url": "{{ steps.b.x }}" } })), vec!["/steps/a"]),
        (step(json!({ "request": { "url": "{{ nothing.x }}" } })), vec!["/steps/a"]),
        (step(json!({ "request": { "url": "{{ a + }}" } })), vec!["/steps/a/request/url"]),
        (step(json!({ "request": { "url": "http://x.example", "method": "BREW" } })), vec!["/steps/a/request/method"]),
        (
            step(json!({ "request": { "url": "ftp://x.example", "headers": { "a b": "c" } } })),
            vec!["/steps/a/request/headers/a b", "/steps/a/request/url"],
        ),
        (
            step(
                json!({ "request": { "url": "http://x.example", "body": { "b": [{ "expr": "return (", "lang": "lua" }] }, "method": "POST" } }),
            ),
            vec!["/steps/a/request/body/b/0/expr"],
        ),
        (step(json!({ "request": request, "body": 1 })), vec!["/steps/a/body"]),
        (step(json!({ "request": request, "after": ["b"] })), vec!["/steps/a/after/0"]),
        (step(json!({ "request": request, "when": "a ==" })), vec!["/steps/a/when"]),
        (step(json!({ "request": request, "when": { "expr": "$[", "lang": "jsonpath" } })), vec!["/steps/a/when"]),
        (step(json!({ "request": request, "when": "return while" })), vec!["/steps/a/when"]),
        (
            step(json!({ "request": request, "retry": { "max": 21, "on": [99], "delay": "soon" } })),
            vec!["/steps/a/retry/delay", "/steps/a/retry/max", "/steps/a/retry/on/0"],
        ),
        (step(json!({ "request": request, "compensate": { "url": "{{ x" } })), vec!["/steps/a/compensate/url"]),
        (step(json!({ "request": request, "response": { "schema": "Nope" } })), vec!["/steps/a/response/schema"]),
        (
            step(
                json!({ "request": request, "when": { "expr": format!("$.a{}@.b{}", "[?@".repeat(40), "]".repeat(40)), "lang": "jsonpath" } }),
            ),
            vec!["/steps/a/when"],
        ),
        (
            step(json!({ "request": request, "compensate": { "url": "http://x.example", "effect": "once" } })),
            vec!["/steps/a/compensate/effect"],
        ),
        (
            step(json!({ "strategy": { "type": "race", "requests": { "a": request, "compensate": request } } })),
            vec!["/steps/a/strategy/requests"],
        ),
        (step(json!({ "wait": { "all": ["b", "b"] } })), vec!["/steps/a/wait/all/1"]),
        (
            step(json!({ "request": request, "strategy": { "type": "fan_out", "over": "trigger.body.items ==" } })),
            vec!["/steps/a/strategy/over"],
        ),
        (step(json!({ "request": request, "strategy": { "type": "fan_out", "over": 7 } })), vec!["/steps/a/strategy/over"]),
        (step(json!({ "request": request, "strategy": { "type": "fan_out", "over": "nothing.items" } })), vec!["/steps/a"]),
        (step(json!({ "request": request, "strategy": { "type": "fan_out", "over": "secrets.X" } })), vec!["/steps/a/strategy/over"]),
        (
            step(json!({ "request": { "method": "POST", "url": "http://x.example", "body": { "n": { "expr": "a ==" } } } })),
            vec!["/steps/a/request/body/n/expr"],
        ),
        (step(json!({ "request": ["POST", "http://x.example"], "retry": [[500], 1] })), vec!["/steps/a/request", "/steps/a/retry"]),
        (step(json!({ "request": request, "response": { "schema": chain(1_000) } })), vec!["/steps/a/response/schema"]),
        (json!({ "steps": { "a": { "request": request } }, "schemas": { "s": chain(1_000) } }), vec!["/schemas/s"]),
        (json!({ "steps": { "a": { "request": request } }, "triggers": [["http"]] }), vec!["/triggers/0"]),
        (step(json!({ "wait": { "signal": "a", "any": ["b"] } })), vec!["/steps/a/wait"]),
        (step(json!({ "wait": { "signal": "$x", "timeout": "31d" } })), vec!["/steps/a/wait/signal", "/steps/a/wait/timeout"]),
        (step(json!({ "strategy": { "type": "fan_out", "over": "{{ secrets.X }}" } })), vec!["/steps/a/request", "/steps/a/strategy/over"]),
        (step(json!({ "strategy": { "type": "race", "requests": [request] } })), vec!["/steps/a/strategy/requests"]),
        (
            json!({ "steps": { "a": { "request": request, "after": ["b"] }, "b": { "request": request, "after": ["a"] } } }),
            vec!["/steps/a/after"],
        ),
        (
            json!({ "steps": { "a": { "request": request } }, "response": { "status": 101, "headers": { "a b": "1" } } }),
            vec!["/response/headers/a b", "/response/status"],
        ),
        (
            json!({ "steps": { "a": { "request": request } }, "response": { "headers": { "Set-Cookie": "a=1", "access-control-allow-origin": "*", "Content-Length": 1, "x-own": "1" } } }),
            vec!["/response/headers/Content-Length", "/response/headers/Set-Cookie", "/response/headers/access-control-allow-origin"],
        ),
        (
            json!({ "steps": { "a": { "request": request } }, "triggers": [{ "type": "cron", "schedule": "*/90 * * * *" }] }),
            vec!["/triggers/0/schedule"],
        ),
        (
            json!({ "steps": { "a": { "request": request } }, "triggers": [{ "type": "cron", "schedule": "0 0 30 2 *" }, { "type": "cron", "schedule": "x", "timezone": "Mars/Base" }] }),
            vec!["/triggers/0/schedule", "/triggers/1/schedule", "/triggers/1/timezone"],
        ),
        (
            json!({ "steps": { "a": { "request": request } }, "triggers": [{ "type": "http", "schema": "Nope" }] }),
            vec!["/triggers/0/schema"],
        ),
        (json!({ "steps": { "a": { "request": request } }, "vars": { "v": "{{ steps.a.status }}" } }), vec!["/vars/v"]),
        (json!({ "steps": { "a": { "request": request } }, "response": { "body": "{{ secrets.KEY }}" } }), vec!["/response"]),
        (json!({ "steps": { "a": { "request": request, "when": "vars.no" } } }), vec!["/steps/a/when"]),
        (json!({ "steps": { "1a": { "request": request } } }), vec!["/steps/1a"]),
    ];
    let mut wrong = Vec::new();
    for (mut document, pointers) in cases {
        document["name"] = json!("stays");
        if document.get("version").is_none() {
            document["version"] = json!(2);
        }
        let mut found = call(&node, Method::PUT, "/api/workflows/stays").json(&document).refused(422, "validation_failed").await.pointers();
        found.sort();
        found.dedup();
        if found != pointers {
            wrong.push(format!("{document}: {found:?}, not {pointers:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(node.get("/api/workflows/stays").ok().await["version"], 1, "nothing was half-written");
    register(&node, "other", json!({ "a": { "wait": { "signal": "x" } } })).await;
    let named = json!({ "name": "other", "version": 1, "steps": { "a": { "wait": { "signal": "x" } } } });
    assert_eq!(call(&node, Method::PUT, "/api/workflows/stays").json(&named).send().await.pointers(), ["/name"]);
    let many: serde_json::Map<String, Value> = (0..501).map(|index| (format!("s{index}"), json!({ "wait": { "signal": "x" } }))).collect();
    let answer = call(&node, Method::PUT, "/api/workflows/many").json(&json!({ "name": "many", "version": 1, "steps": many })).send().await;
    assert_eq!(answer.status, 422, "{}", answer.text());
}
