//! Limits of keys and tenants: how they are set, and who may.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;

#[tokio::test]
async fn limits_are_set_read_and_removed() {
    let app = TestApp::start().await;
    let limits = json!({
        "budgets": [{ "period": "day", "maxTokens": 1000 }, { "period": "total", "maxCost": 2.5 }],
        "rateLimit": { "requestsPerMinute": 60, "tokensPerMinute": 5000, "concurrent": 3 },
    });
    let set = app.put("/v1/limits").json(&limits).ok().await;
    assert_eq!(set, app.get("/v1/limits").ok().await);
    assert_eq!((&set["keyId"], &set["rateLimit"]), (&Value::Null, &limits["rateLimit"]));
    let budgets = set["budgets"].as_array().unwrap();
    assert_eq!((&budgets[0]["usedTokens"], &budgets[0]["maxCost"], &budgets[1]["maxCost"]), (&json!(0), &Value::Null, &json!(2.5)));
    assert!(budgets[0]["resetsAt"].is_string() && budgets[1]["resetsAt"].is_null(), "{set}");
    let removed = app.put("/v1/limits").json(&json!({})).ok().await;
    assert_eq!((&removed["budgets"], &removed["rateLimit"]), (&json!([]), &json!({})));
    app.put("/v1/api-keys/key_01h455vb4pex5vsknk084sn02q/limits").json(&limits).refused(404, "not_found").await;
    let (id, _) = app.key_with(&["FLOWS:READ"]).await;
    let of_key = app.put(&format!("/v1/api-keys/{id}/limits")).json(&limits).ok().await;
    assert_eq!(of_key["keyId"], id.to_string());
    let keys = app.get("/v1/api-keys").ok().await;
    let shown = keys["data"].as_array().unwrap().iter().find(|key| key["id"] == id.to_string()).unwrap();
    assert_eq!((&shown["budgets"], &shown["rateLimit"]), (&limits["budgets"], &limits["rateLimit"]));
    let stranger = app.strangers_key().await;
    let theirs = app.bare(Method::GET, "/v1/limits").bearer(&stranger).ok().await;
    assert_eq!(theirs["budgets"], json!([]));
    app.bare(Method::GET, &format!("/v1/api-keys/{id}/limits")).bearer(&stranger).refused(404, "not_found").await;
}

#[tokio::test]
async fn wrong_limits_are_refused_with_every_fault() {
    let app = TestApp::start().await;
    let wrong = json!({
        "budgets": [{ "period": "day" }, { "period": "day", "maxCost": -1 }],
        "rateLimit": { "requestsPerMinute": 0, "concurrent": 0 },
    });
    let pointers = ["/budgets/0", "/budgets/1/period", "/budgets/1/maxCost", "/rateLimit/requestsPerMinute", "/rateLimit/concurrent"];
    assert_eq!(app.put("/v1/limits").json(&wrong).refused(422, "validation_failed").await.pointers(), pointers);
    let mut key = wrong.clone();
    key["name"] = json!("k");
    key["scopes"] = json!(["FLOWS:READ"]);
    assert_eq!(app.post("/v1/api-keys").json(&key).refused(422, "validation_failed").await.pointers(), pointers);
    // A misspelt limit would limit nothing.
    app.put("/v1/limits").json(&json!({ "budget": [] })).refused(422, "validation_failed").await;
    app.put("/v1/limits").json(&json!({ "budgets": [{ "period": "year", "maxCost": 1 }] })).refused(422, "validation_failed").await;
}

#[tokio::test]
async fn a_limited_key_cannot_get_around_its_limits() {
    let app = TestApp::start().await;
    let body = json!({ "name": "k", "scopes": ["*"], "rateLimit": { "requestsPerMinute": 5 } });
    let made = app.post("/v1/api-keys").json(&body).ok().await;
    let key = made["key"].as_str().unwrap();
    let own = format!("/v1/api-keys/{}/limits", made["id"].as_str().unwrap());
    for path in [own.as_str(), "/v1/limits"] {
        app.bare(Method::PUT, path).bearer(key).json(&json!({})).refused(403, "key_is_limited").await;
    }
    let another = json!({ "name": "free", "scopes": ["*"] });
    app.bare(Method::POST, "/v1/api-keys").bearer(key).json(&another).refused(403, "key_is_limited").await;
    app.put(&own).json(&json!({})).ok().await;
    app.bare(Method::POST, "/v1/api-keys").bearer(key).json(&another).ok().await;
}

#[tokio::test]
async fn queries_of_usage_are_checked() {
    let app = TestApp::start().await;
    let refused = app.get("/v1/usage?from=yesterday&groupBy=week").refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/from", "/groupBy"]);
    app.get("/v1/usage?from=2026-02-02&to=2026-02-01").refused(422, "validation_failed").await;
    app.get("/v1/usage?group=day").refused(422, "validation_failed").await;
    app.get("/v1/usage?keyId=nobody").refused(404, "not_found").await;
    let (_, key) = app.key_with(&["FLOWS:READ"]).await;
    app.bare(Method::GET, "/v1/usage").bearer(&key).refused(403, "missing_scope").await;
    assert_eq!(app.get("/v1/usage").ok().await["data"], json!([]));
}
