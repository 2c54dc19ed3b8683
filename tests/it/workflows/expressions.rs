//! Conditions and values in three languages, and the limits of the two that run elsewhere.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{call, post, register, register_whole, run};
use crate::support::sink::Reply;
use crate::support::world::World;

on_both!(
    conditions_in_three_languages,
    values_in_three_languages,
    lua_loses_nothing_silently,
    scripts_have_limits,
    values_that_read_secrets_are_stored_nowhere,
);

async fn conditions_in_three_languages(world: Arc<World>) {
    let node = world.node();
    let when = |condition: Value| {
        let mut step = post(&world, "/called", &json!({}), &[]);
        step["when"] = condition;
        json!({ "a": step, "after": post(&world, "/after", &json!({ "status": "{{ steps.a.status }}", "got": "{{ steps.a.response.body }}" }), &["a"]) })
    };
    let body = json!({ "big": 9_007_199_254_740_993_u64, "less": 9_007_199_254_740_992_u64, "most": u64::MAX, "four": 4.0, "n": 4, "s": "x", "items": [{ "qty": 2 }, { "qty": 0 }], "odd key": { "a-b": true }, "none": null });
    let cases = [
        (json!("trigger.body.n == 4 and trigger.body.s in ['x', 'y']"), true),
        (json!("not trigger.body.n > 4 or false"), true),
        (json!("trigger.body.n == '4'"), false),
        (json!("trigger.body.n == trigger.body.four and not trigger.body.n > trigger.body.four"), true),
        (json!("trigger.body.big > trigger.body.less and trigger.body.less < trigger.body.big"), true),
        (json!("trigger.body.big <= trigger.body.less or trigger.body.big == trigger.body.less"), false),
        (json!("trigger.body.most >= trigger.body.big and trigger.body.most > 18446744073709551614"), true),
        (json!("trigger.body.missing == null and trigger.body.none == null"), true),
        (json!("trigger.body['odd key'].a-b == true"), true),
        (json!("trigger.body.items[1].qty >= 1"), false),
        (json!("trigger.body.items == [1]"), false),
        (json!("trigger.body.s < 3"), false),
        (json!("-1 < trigger.body.items[1].qty"), true),
        (json!("return trigger.body.n % 2 == 0 and #trigger.body.items == 2"), true),
        (json!("return trigger.body.none ~= nil"), false),
        (json!({ "expr": "trigger.body.n" }), true),
        (json!({ "expr": "$.trigger.body.items[?(@.qty > 1)]", "lang": "jsonpath" }), true),
        (json!({ "expr": "$.trigger.body.missing", "lang": "jsonpath" }), false),
        (json!({ "expr": "string.len(trigger.body.s) == 1", "lang": "lua" }), true),
    ];
    for (index, (condition, holds)) in cases.into_iter().enumerate() {
        let name = format!("when-{index}");
        register(&node, &name, when(condition.clone())).await;
        let view = run(&node, &name, &body).await.json();
        let status = if holds { "completed" } else { "skipped" };
        assert_eq!((&view["status"], &view["steps"]["a"]["status"]), (&json!("completed"), &json!(status)), "{condition}: {view}");
        assert_eq!(world.sink.seen("/after").last().unwrap().json()["status"], status, "those that come after run all the same");
    }
    register(&node, "fails", when(json!("return nothing.there"))).await;
    let failed = run(&node, "fails", &body).await.json();
    assert_eq!((&failed["code"], &failed["details"]["step"]), (&json!("condition_failed"), &json!("a")), "{failed}");
}

async fn values_in_three_languages(world: Arc<World>) {
    let node = world.node();
    let document = json!({
        "name": "values", "version": 1,
        "vars": { "total": { "expr": "local t = 0; for _, i in ipairs(trigger.body.items) do t = t + i.qty end; return t", "lang": "lua" }, "who": "{{ trigger.body.who }}!", "run": "{{ run.workflow }}/{{ run.version }}" },
        "steps": { "a": post(&world, "/values", &json!({
            "total": "{{ vars.total }}", "who": "{{ vars.who }}", "run": "{{ vars.run }}",
            "one": { "expr": "$.trigger.body.items[0].qty", "lang": "jsonpath" },
            "all": { "expr": "$.trigger.body.items[*].qty", "lang": "jsonpath" },
            "none": { "expr": "$.trigger.body.items[?@.qty > 9]", "lang": "jsonpath" },
            "mac": { "expr": "crypto.hmac('sha256', 'key', trigger.raw_body) == crypto.hmac('sha256', 'key', trigger.raw_body) and crypto.sha256('')", "lang": "lua" },
            "json": { "expr": "json.decode(json.encode({a = {1, 2}})).a[2] .. base64.decode(base64.encode('x'))", "lang": "lua" },
            "path": { "expr": "trigger.body.who" },
            "data": { "expr": "not a block", "of": "two members" },
        }), &[]) },
    });
    register_whole(&node, document).await;
    let answer = run(&node, "values", &json!({ "who": "eva", "items": [{ "qty": 2 }, { "qty": 3 }] })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let wanted = json!({
        "total": 5, "who": "eva!", "run": "values/1", "one": 2, "all": [2, 3], "none": [],
        "mac": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "json": "2x", "path": "eva",
        "data": { "expr": "not a block", "of": "two members" },
    });
    assert_eq!(world.sink.seen("/values")[0].json(), wanted);
}

async fn lua_loses_nothing_silently(world: Arc<World>) {
    let node = world.node();
    let lua = |code: &str| json!({ "expr": code, "lang": "lua" });
    let none =
        "local out = {} for _, x in ipairs(trigger.body.list) do if x ~= json.null and x > 9 then out[#out + 1] = x end end return out";
    let wanted = json!({
        "gap": { "1": "a", "3": "c" }, "mixed": { "1": 1, "2": 2, "x": 3 }, "list": [1, null, 3], "length": 3, "whole": { "a": null, "b": 1 },
        "nil": true, "none": [], "empty": {}, "decoded": [null, { "a": null }],
    });
    let body = json!({
        "gap": lua("return {[1] = 'a', [3] = 'c'}"),
        "mixed": lua("return {1, 2, x = 3}"),
        "list": lua("return trigger.body.list"),
        "length": lua("#trigger.body.list"),
        "whole": lua("return trigger.body.whole"),
        "nil": lua("trigger.body.whole.a == nil"),
        "none": lua(none),
        "empty": lua("return trigger.body.empty"),
        "decoded": lua("json.decode(json.encode(json.decode('[null,{\"a\":null}]')))"),
    });
    register(&node, "whole", json!({ "a": post(&world, "/whole", &body, &[]) })).await;
    let given = json!({ "list": [1, null, 3], "whole": { "a": null, "b": 1 }, "empty": {} });
    let view = run(&node, "whole", &given).await.json();
    assert_eq!(view["status"], "completed", "{view}");
    assert_eq!(world.sink.seen("/whole")[0].json(), wanted);
    for (number, (code, says)) in [
        ("return base64.decode('/w==')", "not UTF-8"),
        ("return {n = 0/0}", "number"),
        ("local t = {} t.t = t return t", "contains itself"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("refused-{number}");
        register(&node, &name, json!({ "a": post(&world, "/refused", &json!({ "v": lua(code) }), &[]) })).await;
        let failed = run(&node, &name, &json!({})).await;
        assert_eq!(failed.json()["code"], "script_failed", "{}", failed.text());
        assert!(failed.text().contains(says), "{code}: {}", failed.text());
    }
    assert!(world.sink.seen("/refused").is_empty());
}

async fn scripts_have_limits(world: Arc<World>) {
    let node = world.node();
    let script = async |name: &str, code: &str| {
        register(&node, name, json!({ "a": post(&world, "/never", &json!({ "expr": code, "lang": "lua" }), &[]) })).await;
        run(&node, name, &json!({})).await.json()["code"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(script("allocates", "local t = {} while true do t[#t + 1] = string.rep('x', 1000000) end").await, "script_memory");
    assert_eq!(script("raises", "error('no')").await, "script_failed");
    assert_eq!(script("hosts", "return os.time()").await, "script_failed");
    assert_eq!(script("loads", "return load('return 1')()").await, "script_failed");
    assert_eq!(script("gives-a-function", "return print or function() end").await, "script_failed");
    assert_eq!(script("large", "return string.rep('x', 2000000)").await, "script_output");
    let many = "local s = string.rep('x', 10000000) local t = {} for i = 1, 1000 do t[i] = s end return t";
    assert_eq!(script("repeats-itself", many).await, "script_memory");
    // One native call that no hook would end; and others run meanwhile.
    let stuck = script("loops", "return string.rep('', 1e18)");
    let other = script("others", "return {1, nil, 3}");
    let (stuck, other) = tokio::join!(stuck, other);
    assert_eq!((stuck.as_str(), other.as_str()), ("script_timeout", ""));
    assert_eq!(world.sink.seen("/never").len(), 1);
}

async fn values_that_read_secrets_are_stored_nowhere(world: Arc<World>) {
    let node = world.node();
    call(&node, Method::PUT, "/api/secrets/HOOK_KEY").json(&json!({ "value": "canary-of-a-hook" })).ok().await;
    let mut step = post(&world, "/sent", &json!({ "said": "{{ vars.auth }}" }), &[]);
    step["request"]["headers"] = json!({ "x-auth": "{{ vars.auth }}" });
    step["when"] = json!("return crypto.hmac('sha256', secrets.HOOK_KEY, trigger.raw_body) == trigger.headers['x-signature']");
    let document =
        json!({ "name": "open", "version": 1, "vars": { "auth": "Token {{ secrets.HOOK_KEY }}", "plain": 1 }, "steps": { "a": step } });
    register_whole(&node, document.clone()).await;
    // HMAC-SHA256 of `{"n":1}` under that key.
    let mut mac = <hmac::Hmac<sha2::Sha256> as hmac::KeyInit>::new_from_slice(b"canary-of-a-hook").unwrap();
    hmac::Mac::update(&mut mac, b"{\"n\":1}");
    let signature: String = hmac::Mac::finalize(mac).into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let answer =
        call(&node, Method::POST, "/workflows/open").header("x-signature", &signature).body("application/json", "{\"n\":1}").send().await;
    let view = answer.json();
    assert_eq!(view["steps"]["a"]["status"], "completed", "{view}");
    let seen = &world.sink.seen("/sent")[0];
    assert_eq!((seen.header("x-auth"), seen.json()), ("Token canary-of-a-hook", json!({ "said": "Token canary-of-a-hook" })));
    let events = node.get(&format!("/api/runs/{}/events", view["id"].as_str().unwrap())).ok().await.to_string();
    assert!(!events.contains("canary") && !view.to_string().contains("canary"), "{events}");
    // In another spelling it is hidden too.
    let odd = "canary/with+odd=\nletters";
    call(&node, Method::PUT, "/api/secrets/ODD_KEY").json(&json!({ "value": odd })).ok().await;
    let mut form = post(&world, "/form", &json!({ "key": "{{ secrets.ODD_KEY }}" }), &[]);
    form["request"]["headers"] = json!({ "content-type": "application/x-www-form-urlencoded", "x-basic": "{{ vars.basic }}" });
    let basic = json!({ "expr": "base64.encode('user:' .. secrets.ODD_KEY)", "lang": "lua" });
    register_whole(&node, json!({ "name": "odd", "version": 1, "vars": { "basic": basic }, "steps": { "a": form } })).await;
    world.sink.on("/form", [Reply::Mirror]);
    let view = run(&node, "odd", &json!({})).await.json();
    let events = node.get(&format!("/api/runs/{}/events", view["id"].as_str().unwrap())).ok().await.to_string();
    let sent = world.sink.seen("/form")[0].header("x-basic").to_owned();
    assert!(sent.len() > 20 && view["status"] == "completed", "{view}");
    for hidden in ["canary", sent.as_str()] {
        assert!(!events.contains(hidden) && !view.to_string().contains(hidden), "{hidden} in {view} {events}");
    }
    let forged = call(&node, Method::POST, "/workflows/open").header("x-signature", "0").json(&json!({ "n": 1 })).send().await.json();
    assert_eq!(forged["steps"]["a"]["status"], "skipped");
    let mut stored = document;
    stored["version"] = json!(2);
    stored["steps"]["b"] =
        json!({ "after": ["a"], "strategy": { "type": "fan_out", "over": "{{ vars.auth }}" }, "request": { "url": "http://x.example" } });
    let refused = call(&node, Method::PUT, "/api/workflows/open").json(&stored).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/steps/b"]);
}
