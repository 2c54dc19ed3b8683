//! API keys and provider credentials.

use dispatch::auth::Auth;
use dispatch::secret::Secret;
use reqwest::Method;
use serde_json::json;

use crate::support::app::{Setup, TestApp};

#[tokio::test]
async fn a_key_is_accepted_in_each_of_its_places() {
    let app = TestApp::start().await;
    let bare = || app.bare(Method::GET, "/v1/flows");
    bare().bearer(&app.key).ok().await;
    bare().header("authorization", format!("bearer   {}", app.key)).ok().await;
    bare().header("authorization", &app.key).ok().await;
    bare().header("x-api-key", &app.key).ok().await;
    bare().bearer(&app.key).header("x-api-key", &app.key).ok().await;
    bare().bearer(&app.key).header("x-api-key", "another-key-entirely").refused(400, "ambiguous_credentials").await;
    bare().header("authorization", format!("Basic {}", app.key)).refused(401, "invalid_api_key").await;
    bare().header("authorization", [b'B', 0xff]).refused(401, "invalid_api_key").await;
    bare().bearer(&"x".repeat(600)).refused(401, "invalid_api_key").await;
    let missing = bare().refused(401, "missing_api_key").await;
    assert!(missing.json()["next"].as_str().unwrap().contains("Authorization"));
}

#[tokio::test]
async fn a_key_is_shown_once_and_revoked_at_once() {
    let app = TestApp::start().await;
    let made = app.post("/v1/api-keys").json(&json!({ "name": "ci", "scopes": vec!["FLOWS:READ"; 100] })).ok().await;
    assert_eq!(made["scopes"], json!(["FLOWS:READ"]));
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("dsp_live_") && key.len() == 52, "{key}");
    let list = app.get("/v1/api-keys").send().await.text();
    assert!(!list.contains(key) && list.contains(made["hint"].as_str().unwrap()));
    let call = || app.bare(Method::GET, "/v1/flows").bearer(key);
    call().ok().await;
    app.delete(&format!("/v1/api-keys/{}", made["id"].as_str().unwrap())).ok().await;
    call().refused(401, "revoked_api_key").await;
    app.delete("/v1/api-keys/key_01h455vb4pex5vsknk084sn02q").refused(404, "not_found").await;
}

#[tokio::test]
async fn a_revocation_on_another_node_holds_within_a_second() {
    let app = TestApp::start().await;
    let (id, key) = app.key_with(&["*"]).await;
    app.bare(Method::GET, "/v1/flows").bearer(&key).ok().await;
    let elsewhere = Auth::new(app.state.store.clone(), app.state.clock.clone());
    let start = app.state.clock.instant();
    elsewhere.revoke_key(app.tenant().await, id).await.unwrap();
    while app.bare(Method::GET, "/v1/flows").bearer(&key).send().await.status == 200 {
        assert!(start.elapsed().as_millis() < 1_000, "still valid");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_key_grants_no_more_than_it_holds() {
    let app = TestApp::start().await;
    let (_, key) = app.key_with(&["API_KEYS:WRITE", "FLOWS:*"]).await;
    let make = |scopes: &[&str]| app.bare(Method::POST, "/v1/api-keys").bearer(&key).json(&json!({ "name": "k", "scopes": scopes }));
    make(&["FLOWS:READ"]).ok().await;
    make(&["FLOWS:*", "API_KEYS:WRITE"]).ok().await;
    for more in ["*", "RECORDS:READ", "API_KEYS:*", "API_KEYS:READ"] {
        make(&["FLOWS:READ", more]).refused(403, "scope_not_held").await;
    }
    let wrong = make(&["flows:read", "FLOWS:READ", "X"]).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/scopes/0", "/scopes/2"]);
    make(&[]).refused(422, "validation_failed").await;
    let unfit = json!({ "name": "a\0b", "scopes": ["FLOWS:READ"] });
    let unfit = app.bare(Method::POST, "/v1/api-keys").bearer(&key).json(&unfit).refused(422, "validation_failed").await;
    assert_eq!(unfit.pointers(), ["/name"]);
    let past = json!({ "name": "k", "scopes": ["FLOWS:READ"], "expiresAt": "2020-01-01T00:00:00Z" });
    let past = app.bare(Method::POST, "/v1/api-keys").bearer(&key).json(&past).refused(422, "validation_failed").await;
    assert_eq!(past.pointers(), ["/expiresAt"]);
}

#[tokio::test]
async fn the_operators_own_key_works_and_survives_a_restart() {
    let preset = || Some(Secret::new("tv_live_chosen-by-the-operator"));
    let app = TestApp::with(Setup { preset: preset(), ..Setup::default() }).await;
    app.get("/v1/flows").ok().await;
    assert!(app.state.auth.bootstrap(preset()).await.unwrap().is_none());
    assert!(app.state.auth.bootstrap(None).await.unwrap().is_none());
    assert!(app.state.auth.bootstrap(Some(Secret::new("a-second-preset-key"))).await.unwrap().is_none());
    app.bare(Method::GET, "/v1/flows").bearer("a-second-preset-key").ok().await;
    assert_eq!(app.get("/v1/api-keys").ok().await["data"].as_array().unwrap().len(), 2);
    let weak = app.state.auth.bootstrap(Some(Secret::new("fifteen-letters"))).await.err().unwrap();
    assert_eq!(weak.code(), "weak_api_key");
}

#[tokio::test]
async fn provider_keys_are_sealed_masked_and_replaced() {
    let app = TestApp::start().await;
    let stored = app.put("/v1/credentials/openai").json(&json!({ "apiKey": "sk-canary-0001" })).ok().await;
    assert_eq!((&stored["provider"], &stored["hint"]), (&json!("openai"), &json!("...0001")));
    let replaced = app.put("/v1/credentials/openai").json(&json!({ "apiKey": "sk-canary-0002" })).ok().await;
    assert_eq!((&replaced["id"], &replaced["createdAt"]), (&stored["id"], &stored["createdAt"]));
    let list = app.get("/v1/credentials").send().await;
    assert!(!list.text().contains("canary"));
    assert_eq!(list.json()["data"].as_array().unwrap().len(), 1);
    let tenant = app.tenant().await;
    let row = app.state.store.list_credentials(tenant).await.unwrap().remove(0);
    assert!(!row.sealed.windows(6).any(|window| window == b"canary"));
    let opened = app.state.vault.open(&row.sealed, &format!("credential/{tenant}/openai")).unwrap();
    assert_eq!(opened.as_slice(), b"sk-canary-0002");
    app.put("/v1/credentials/openai").json(&json!({ "apiKey": "short" })).refused(422, "validation_failed").await;
    app.put("/v1/credentials/Not%20a%20name").json(&json!({ "apiKey": "sk-canary-0001" })).refused(404, "not_found").await;
    app.delete("/v1/credentials/openai").ok().await;
    app.delete("/v1/credentials/openai").refused(404, "not_found").await;
}
