//! What every answer carries: ids, headers, CORS, health, and the answers to routes that are not there.

use std::num::NonZeroU32;
use std::sync::Arc;

use dispatch::http::HttpOptions;
use dispatch::http::cors::Origins;
use dispatch::http::limits::{LimitOptions, Rate};
use dispatch::http::problem;
use metrics_exporter_prometheus::PrometheusBuilder;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::json;

use crate::support::app::{Setup, TestApp};

#[tokio::test]
async fn unknown_routes_say_the_agreed_words() {
    let app = TestApp::start().await;
    let answer = app.bare(Method::GET, "/v1/nowhere").refused(404, "route_not_found").await;
    assert_eq!(answer.json()["error"], "Not Found");
    app.get("/v1/flows/x/y/z").refused(404, "route_not_found").await;
    let wrong_method = app.call(Method::PATCH, "/v1/flows").refused(405, "method_not_allowed").await;
    let allowed = wrong_method.header("allow").unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
}

#[tokio::test]
async fn the_root_path_links_to_the_guide() {
    let app = TestApp::start().await;
    let links = app.bare(Method::GET, "/").ok().await;
    assert_eq!((&links["openapi"], &links["guide"]), (&"/v1/openapi.json".into(), &"/llms.txt".into()), "{links}");
    for path in ["guide", "openapi", "live", "ready"] {
        assert_eq!(app.bare(Method::GET, links[path].as_str().unwrap()).send().await.status, 200, "{path}");
    }
    let page = app.bare(Method::GET, "/").header("accept", "text/html,*/*;q=0.8").send().await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().contains("/llms.txt"), "{}", page.text());
}

#[tokio::test]
async fn sane_request_ids_come_back_and_others_are_replaced() {
    let app = TestApp::start().await;
    let own = app.get("/v1/flows").header("x-request-id", "job-17:a.b_c").send().await;
    assert_eq!(own.header("x-request-id"), Some("job-17:a.b_c"));
    for bad in ["", "a b", "x\"y", &"x".repeat(129)] {
        let answer = app.get("/v1/flows").header("x-request-id", bad).send().await;
        assert!(answer.header("x-request-id").unwrap().starts_with("req_"), "{bad}");
    }
    let (one, two) = (app.bare(Method::GET, "/nowhere").send().await, app.get("/v1/flows").send().await);
    assert_ne!(one.header("x-request-id").unwrap(), two.header("x-request-id").unwrap());
}

#[tokio::test]
async fn answers_of_all_kinds_carry_the_safe_headers() {
    let app = TestApp::start().await;
    for (path, status) in [("/v1/flows", 200), ("/v1/nowhere", 404), ("/livez", 200), ("/v1/flows/x", 404)] {
        let answer = app.get(path).send().await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("content-security-policy"), Some("default-src 'none'; frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("server"), None, "{path}");
    }
}

async fn app_for(origins: &[&str]) -> TestApp {
    let cors = Origins::parse(origins.iter().copied()).unwrap();
    TestApp::with(Setup { http: HttpOptions { cors, ..HttpOptions::default() }, ..Setup::default() }).await
}

#[tokio::test]
async fn listed_origins_are_granted_and_others_are_not() {
    let app = app_for(&["https://app.example.com"]).await;
    let preflight =
        |origin: &str| app.bare(Method::OPTIONS, "/v1/flows").header("origin", origin).header("access-control-request-method", "POST");
    let granted = preflight("https://app.example.com").send().await;
    assert_eq!(granted.status, 204);
    assert_eq!(granted.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(granted.header("access-control-allow-headers").unwrap().contains("Authorization"));
    assert!(granted.header("access-control-allow-methods").unwrap().contains("DELETE"));
    assert_eq!(granted.header("access-control-allow-credentials"), None);
    let refused = preflight("https://evil.example.com").refused(403, "origin_not_allowed").await;
    assert_eq!(refused.header("access-control-allow-origin"), None);
    let call = app.get("/v1/flows").header("origin", "https://app.example.com").send().await;
    assert_eq!(call.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(call.header("vary"), Some("Origin"));
    assert!(call.header("access-control-expose-headers").unwrap().contains("Retry-After"));
    let refusal = app.bare(Method::GET, "/v1/flows").header("origin", "https://app.example.com").refused(401, "missing_api_key").await;
    assert_eq!(refusal.header("access-control-allow-origin"), Some("https://app.example.com"));
    let other = app.get("/v1/flows").header("origin", "https://evil.example.com").send().await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    let none = TestApp::start().await;
    assert_eq!(none.get("/v1/flows").header("origin", "https://a.test").send().await.header("access-control-allow-origin"), None);
    let any = app_for(&["*"]).await;
    let call = any.get("/v1/flows").header("origin", "https://a.test").send().await;
    assert_eq!(call.header("access-control-allow-origin"), Some("https://a.test"));
}

#[tokio::test]
async fn a_page_may_send_and_read_every_header_that_matters() {
    let origin = "https://app.example.com";
    let rate = Some(Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(5).unwrap() });
    let http = HttpOptions { cors: Origins::parse([origin]).unwrap(), ..HttpOptions::default() };
    let app = TestApp::with(Setup { http, limits: LimitOptions { rate, ..LimitOptions::default() }, ..Setup::default() }).await;
    let preflight = app.bare(Method::OPTIONS, "/v1/dispatch").header("origin", origin).header("access-control-request-method", "POST");
    let preflight = preflight.send().await;
    let allowed = preflight.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    for sent in
        ["authorization", "x-api-key", "content-type", "content-encoding", "idempotency-key", "last-event-id", "prefer", "x-request-id"]
    {
        assert!(allowed.split(", ").any(|name| name == sent), "{sent} is not among {allowed}");
    }
    let flow = json!({ "flow": { "name": "x", "steps": [] }, "streamResponse": false });
    let dispatch = || app.post("/v1/dispatch").header("origin", origin).header("idempotency-key", "one").json(&flow);
    let first = dispatch().send().await;
    let mut answers = vec![
        first,
        dispatch().send().await,
        app.post("/v1/dispatch").header("origin", origin).header("prefer", "respond-async").json(&flow).send().await,
        app.call(Method::PATCH, "/v1/flows").header("origin", origin).refused(405, "method_not_allowed").await,
    ];
    // The allowance grows while the calls go on, more slowly than they come.
    while answers.last().is_none_or(|answer| answer.status != 429) && answers.len() < 1_000 {
        answers.push(app.get("/v1/flows").header("origin", origin).send().await);
    }
    // What a page may always read, what is for the browser itself, and what is for those in between.
    let others = [
        "cache-control",
        "content-type",
        "content-length",
        "date",
        "vary",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "content-security-policy",
        "referrer-policy",
        "x-content-type-options",
        "x-frame-options",
    ];
    let mut seen = std::collections::BTreeSet::new();
    for answer in &answers {
        let exposed = answer.header("access-control-expose-headers").unwrap().to_ascii_lowercase();
        for name in answer.headers.keys().map(|name| name.as_str()).filter(|name| !others.contains(name)) {
            assert!(exposed.split(", ").any(|known| known == name), "{name} is sent and not exposed: {exposed}");
            seen.insert(name.to_owned());
        }
    }
    for wanted in ["allow", "idempotency-replayed", "location", "ratelimit-remaining", "retry-after", "x-execution-id", "x-request-id"] {
        assert!(seen.contains(wanted), "no answer here had {wanted}: {seen:?}");
    }
}

#[tokio::test]
async fn health_follows_the_server() {
    let app = TestApp::start().await;
    assert_eq!(app.bare(Method::GET, "/livez").ok().await["status"], "ok");
    assert_eq!(app.bare(Method::GET, "/readyz").ok().await["status"], "ok");
    app.state.store.close().await;
    app.bare(Method::GET, "/readyz").refused(503, "store_unavailable").await;
    app.state.readiness.drain();
    app.bare(Method::GET, "/readyz").refused(503, "shutting_down").await;
    assert_eq!(app.bare(Method::GET, "/livez").ok().await["status"], "ok");
    app.get("/v1/flows").refused(503, "store_unavailable").await;
}

#[tokio::test]
async fn a_key_that_calls_too_often_is_told_when_to_come_back() {
    let rate = Some(Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(3).unwrap() });
    let app = TestApp::with(Setup { limits: LimitOptions { rate, ..LimitOptions::default() }, ..Setup::default() }).await;
    let (_, other) = app.key_with(&["*"]).await;
    for left in ["2", "1", "0"] {
        let answer = app.get("/v1/flows").send().await;
        assert_eq!((answer.status, answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")), (200, Some("3"), Some(left)));
    }
    let limited = app.get("/v1/flows").refused(429, "rate_limited").await;
    assert_eq!(limited.json()["retryable"], true);
    assert_eq!((limited.header("retry-after"), limited.header("ratelimit-remaining")), (Some("1"), Some("0")));
    app.bare(Method::GET, "/v1/flows").bearer(&other).ok().await;
    app.bare(Method::GET, "/livez").ok().await;
}

#[tokio::test]
async fn metrics_count_routes_not_paths() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let app = TestApp::with(Setup { http: HttpOptions { metrics: Some(handle), ..HttpOptions::default() }, ..Setup::default() }).await;
    app.get("/v1/flows/flow_01h455vb4pex5vsknk084sn02q?secret=canary").refused(404, "not_found").await;
    app.get("/somewhere/canary").send().await;
    let text = app.bare(Method::GET, "/metrics").send().await.text();
    assert!(text.contains(r#"dispatch_http_requests_total{method="GET",route="/v1/flows/{flowId}",status="404"} 1"#), "{text}");
    assert!(text.contains(r#"route="unmatched""#), "{text}");
    assert!(!text.contains("canary") && !text.contains("01h455"), "{text}");
    let without = TestApp::start().await;
    without.bare(Method::GET, "/metrics").refused(404, "route_not_found").await;
}

#[tokio::test]
async fn a_panic_is_an_envelope_that_tells_nothing() {
    let answer = problem::panicked(Box::new("canary"));
    assert_eq!(answer.status(), 500);
    let body = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains("internal_error") && !text.contains("canary"), "{text}");
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_names_the_request_and_keeps_its_contents_out() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let app = TestApp::start().await;
    let body = json!({ "type": "canary-type", "name": "canary-name" });
    app.post("/v1/records?token=canary-query").header("x-request-id", "find-me").json(&body).ok().await;
    app.put("/v1/credentials/openai").json(&json!({ "apiKey": "canary-key-0123" })).ok().await;
    app.get("/canary-path").send().await;
    let text = String::from_utf8(log.0.lock().clone()).unwrap();
    let own: Vec<&str> = text.lines().filter(|line| line.contains("dispatch::")).collect();
    let line = own.iter().find(|line| line.contains("request_id=\"find-me\"")).unwrap_or_else(|| panic!("{text}"));
    for part in ["method=\"POST\"", "route=\"/v1/records\"", "status=201", &format!("tenant={}", app.tenant().await)] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let leak = own.iter().find(|line| line.contains("canary") || line.contains(&app.key));
    assert_eq!(leak, None);
}
