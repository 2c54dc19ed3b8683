//! Every fault of a provider through the whole server: in each wire format, streamed and whole, with a model that takes over and
//! without one, it ends as docs/errors.md says.

use std::sync::Arc;
use std::time::Duration;

use dispatch::net::Deadlines;
use serde_json::{Value, json};

use super::flow;
use crate::support::transcript::Transcript;
use crate::support::world::{Kind, World};

/// A model of the fake provider, the code when it is asked for a stream, and the code when it is asked for a whole answer.
const FAULTS: &[(&str, &str, &str)] = &[
    ("fake-400", "provider_rejected_request", "provider_rejected_request"),
    ("fake-401", "provider_auth_failed", "provider_auth_failed"),
    ("fake-402", "provider_billing", "provider_billing"),
    ("fake-403", "provider_forbidden", "provider_forbidden"),
    ("fake-404", "provider_model_not_found", "provider_model_not_found"),
    ("fake-408", "provider_timeout", "provider_timeout"),
    ("fake-429-retry-after-3600", "provider_rate_limited", "provider_rate_limited"),
    ("fake-429", "provider_rate_limited", "provider_rate_limited"),
    ("fake-500", "provider_error", "provider_error"),
    ("fake-502", "provider_error", "provider_error"),
    ("fake-503", "provider_overloaded", "provider_overloaded"),
    ("fake-504", "provider_timeout", "provider_timeout"),
    ("fake-529", "provider_overloaded", "provider_overloaded"),
    ("fake-billing", "provider_billing", "provider_billing"),
    ("fake-context", "context_length_exceeded", "context_length_exceeded"),
    ("fake-filter", "content_filtered", "content_filtered"),
    ("fake-empty", "provider_cut", "provider_empty"),
    ("fake-blank", "provider_empty", "provider_empty"),
    ("fake-stall", "provider_timeout", "provider_timeout"),
    ("fake-stall-after-0", "provider_timeout", "provider_timeout"),
    ("fake-stall-after-3", "provider_timeout", "provider_timeout"),
    ("fake-cut-after-0", "provider_cut", "provider_cut"),
    ("fake-cut-after-3", "provider_cut", "provider_cut"),
    ("fake-end-after-3", "provider_cut", "provider_malformed"),
    ("fake-malformed", "provider_malformed", "provider_malformed"),
    ("fake-late-error", "provider_overloaded", "provider_overloaded"),
    ("fake-wrong-type", "provider_malformed", "provider_malformed"),
    ("fake-huge-line", "provider_malformed", "provider_malformed"),
];
/// What the model will not say, no other is asked to say.
const REFUSED: &str = "content_filtered";
const WHOLE: &str = "word1 word2 word3 word4 word5 ";

#[tokio::test]
async fn every_fault_of_openai() {
    World::run_with(Kind::Sqlite, patient, |world| matrix(world, "openai", false)).await;
    World::run_with(Kind::Sqlite, impatient, |world| matrix(world, "openai", true)).await;
}

#[tokio::test]
async fn every_fault_of_anthropic() {
    World::run_with(Kind::Sqlite, patient, |world| matrix(world, "anthropic", false)).await;
    World::run_with(Kind::Sqlite, impatient, |world| matrix(world, "anthropic", true)).await;
}

#[tokio::test]
async fn every_fault_of_gemini() {
    World::run_with(Kind::Sqlite, patient, |world| matrix(world, "gemini", false)).await;
    World::run_with(Kind::Sqlite, impatient, |world| matrix(world, "gemini", true)).await;
}

#[tokio::test]
async fn nobody_is_there() {
    World::run_with(Kind::Sqlite, unreachable, |world| all_unreachable(world, "provider_unreachable")).await;
}

#[tokio::test]
async fn nobody_speaks_tls_there() {
    World::run_with(Kind::Sqlite, untrusted, |world| all_unreachable(world, "provider_unreachable")).await;
}

/// Whether the fault is the provider's silence, so that a deadline ends it.
fn is_silent(model: &str) -> bool {
    model.starts_with("fake-stall")
}

/// Deadlines that no fault reaches, however busy the machine is.
fn patient(config: &mut dispatch::config::Config) {
    let long = Duration::from_secs(60);
    config.limits.models = Deadlines { first_byte: long, between_chunks: long, total: long };
}

fn impatient(config: &mut dispatch::config::Config) {
    let short = Duration::from_secs(1);
    config.limits.models = Deadlines { first_byte: short, between_chunks: short, total: Duration::from_secs(20) };
}

fn readdress(config: &mut dispatch::config::Config, change: impl Fn(&str) -> String) {
    for name in ["OPENAI", "ANTHROPIC", "GEMINI"] {
        let url = config.env.get_mut(&format!("{name}_BASE_URL")).unwrap();
        *url = change(url);
    }
}

fn unreachable(config: &mut dispatch::config::Config) {
    // A port that was free a moment ago.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    readdress(config, |_| format!("http://{closed}/"));
}

fn untrusted(config: &mut dispatch::config::Config) {
    readdress(config, |url| url.replacen("http:", "https:", 1));
}

async fn all_unreachable(world: Arc<World>, code: &str) {
    let node = world.node();
    for (wire, stream) in ["openai", "anthropic", "gemini"].into_iter().flat_map(|wire| [(wire, true), (wire, false)]) {
        let cell = format!("{wire} {stream}");
        let alone = node.dispatch(&flow(json!([prompt(&format!("{wire}/fake-ok"), stream, None)]))).await;
        failed(&alone, code, &cell);
        let chain = node.dispatch(&flow(json!([prompt(&format!("{wire}/fake-ok"), stream, Some("local/echo"))]))).await;
        assert_eq!((&chain.step("p")["success"], &chain.step("p")["result"]["model"]), (&json!(true), &json!("local/echo")), "{cell}");
    }
}

fn prompt(model: &str, stream: bool, fallback: Option<&str>) -> Value {
    let retry = json!({ "maxAttempts": 1, "delayMs": 1 });
    let fallbacks: Vec<&str> = fallback.into_iter().collect();
    let config = json!({
        "model": model, "userPrompt": "Go on.", "maxTokens": 100, "stream": stream, "fallbacks": fallbacks,
        "errorHandling": { "retry": retry },
    });
    json!({ "id": "p", "type": "prompt", "config": config })
}

/// The step failed so, and nothing of it is told as a whole answer.
fn failed(end: &Transcript, code: &str, cell: &str) {
    let step = end.step("p");
    assert_eq!((&step["success"], &step["code"]), (&json!(false), &json!(code)), "{cell}: {step}");
    assert!(!step["error"].as_str().unwrap().contains("canary"), "{cell}: {step}");
    assert!(step["result"].is_null(), "{cell}: {step}");
    assert_eq!(end.all("text_complete").count(), 0, "{cell}: a cut answer does not end as a whole one");
    let last = &end.last().data;
    assert_eq!((&last["success"], &last["failedSteps"]), (&json!(false), &json!(1)), "{cell}: {last}");
}

async fn matrix(world: Arc<World>, wire: &'static str, silent: bool) {
    let node = world.node();
    let good = format!("{wire}/fake-ok");
    let cell = async |model: &str, stream: bool, code: &str| {
        let (bad, cell) = (format!("{wire}/{model}"), format!("{wire}/{model}, {}", if stream { "streamed" } else { "whole" }));
        let alone = node.dispatch(&flow(json!([prompt(&bad, stream, None)]))).await;
        failed(&alone, code, &cell);
        let chain = node.dispatch(&flow(json!([prompt(&bad, stream, Some(&good))]))).await;
        if code == REFUSED {
            failed(&chain, code, &cell);
            return;
        }
        let step = chain.step("p");
        assert_eq!((&step["success"], &step["result"]["response"]), (&json!(true), &json!(WHOLE)), "{cell}: {step}");
        assert_eq!(step["result"]["model"], good, "{cell}");
        assert_eq!(chain.streamed_text(), WHOLE, "{cell}: an obedient reader sees the good answer and nothing else");
        assert_eq!(chain.all("text_complete").count(), 1, "{cell}");
        assert!(chain.customs("runtype.fallback").count() >= 1, "{cell}");
        // Told as one JSON, it is the same.
        let told = node.result(&flow(json!([prompt(&bad, stream, Some(&good))]))).await;
        assert_eq!(told["results"]["p"], json!(WHOLE), "{cell}: {told}");
    };
    let faults: Vec<_> = FAULTS.iter().filter(|(model, ..)| is_silent(model) == silent).collect();
    let cells = faults.iter().flat_map(|(model, streamed, whole)| [(*model, true, *streamed), (*model, false, *whole)]);
    let all: Vec<_> = cells.map(|(model, stream, code)| cell(model, stream, code)).collect();
    assert_eq!(all.len(), 2 * faults.len());
    assert!(!all.is_empty());
    futures_util::stream::StreamExt::for_each_concurrent(futures_util::stream::iter(all), 32, |cell| cell).await;
    // A byte-order mark is no fault.
    for stream in [true, false] {
        let end = node.dispatch(&flow(json!([prompt(&format!("{wire}/fake-bom"), stream, None)]))).await;
        assert_eq!(end.step("p")["result"]["response"], json!(WHOLE), "{wire} {stream}");
    }
}
