//! What the fuzz targets feed: the same functions as a test replays the corpus through, so that they cannot drift.
//!
//! Each takes any bytes. It panics when the product does, and when an answer breaks a promise that holds for every input.

use std::collections::HashMap;

use dispatch::clock::{Clock, Timestamp};
use dispatch::engine::plan::Plan;
use dispatch::engine::step::ALL;
use dispatch::expr::{Condition, Document, Escape, Insert, Missing, Scope, Template, limits};
use dispatch::http::dispatch::document;
use dispatch::id::RunId;
use dispatch::model::event::{Rest, Segment};
use dispatch::net::{Policy, judge_host, parse_url};
use dispatch::provider::{fold_events, read_recorded};
use serde_json::{Map, Value, json};

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The bytes as a stream and as a whole answer of a wire format.
fn read_answers(wire: &str, bytes: &[u8]) {
    for streamed in [true, false] {
        if let Some(Ok(events)) = read_recorded(wire, bytes, streamed) {
            let _ = fold_events(&events);
        }
    }
}

/// Variables of every shape.
fn variables() -> Map<String, Value> {
    let value = json!({
        "a": { "b": [1, 2.5, "x", null, { "c": "\u{1F980} é" }], "b-c": "text", "n": -7 }, "s": "some words", "t": true, "l": [[1], [2, [3]]],
        "_record": { "metadata": { "quarter": "Q4" } }, "messages": [{ "role": "user", "content": "hello" }], "nothing": null,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn template(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let variables = variables();
    let scope = Scope::new([&variables]);
    if let Ok(template) = Template::parse(text) {
        if let Ok(rendered) = template.render_text(&scope) {
            assert!(rendered.len() <= limits::OUTPUT, "a text of {} bytes", rendered.len());
        }
        let _ = template.render(&scope);
        let _ = template.render_with(&scope, Missing::KeepPlaceholder, Insert::Json);
    }
    let clock = Clock::simulated(7, Timestamp::from_millis(1_700_000_000_000));
    for escape in [Escape::None, Escape::Html] {
        if let Ok(document) = Document::parse(text, escape) {
            let _ = document.render(&scope, &clock);
        }
    }
}

/// The text as the whole of a placeholder.
fn path(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let variables = variables();
    let scope = Scope::new([&variables]);
    if let Ok(template) = Template::parse(&format!("{{{{{text}}}}}")) {
        let first = template.render(&scope).ok().map(|rendered| rendered.value);
        let second = template.render(&scope).ok().map(|rendered| rendered.value);
        assert_eq!(first, second, "one source, two values");
    }
}

fn condition(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let variables = variables();
    if let Ok(condition) = Condition::parse(text) {
        let _ = condition.eval_native(&Scope::new([&variables]));
    }
}

fn flow(bytes: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else { return };
    if let Ok(flow) = document::compile(&document) {
        let types: HashMap<&'static str, _> = ALL.iter().map(|kind| (kind.action, *kind)).collect();
        let blob = flow.blob();
        let (plan, problems) = Plan::examine(flow, blob, &types);
        // With problems the plan is only good for telling more of them.
        if problems.into_result().is_err() {
            return;
        }
        for (place, step) in plan.steps.iter().enumerate() {
            assert!(step.after.iter().all(|before| *before < plan.steps.len() && *before != place), "a step waits for itself");
        }
    }
}

fn sse_openai(bytes: &[u8]) {
    read_answers("openai", bytes);
}

fn sse_anthropic(bytes: &[u8]) {
    read_answers("anthropic", bytes);
}

fn sse_gemini(bytes: &[u8]) {
    read_answers("gemini", bytes);
}

fn url(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Ok(url) = parse_url(text) else { return };
    if judge_host(&url, &Policy::default()).is_err() {
        return;
    }
    let port = url.port_or_known_default().unwrap_or(0);
    assert!(matches!(url.scheme(), "http" | "https") && port != 0 && url.username().is_empty());
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    if let Ok(std::net::IpAddr::V4(address)) = host.parse() {
        let forbidden =
            address.is_loopback() || address.is_private() || address.is_link_local() || address.is_unspecified() || address.is_multicast();
        assert!(!forbidden, "{text} was let through to {address}");
    }
    if let Ok(std::net::IpAddr::V6(address)) = host.parse() {
        let mapped = address.to_ipv4_mapped().is_some_and(|inner| inner.is_loopback() || inner.is_private() || inner.is_link_local());
        let forbidden =
            address.is_loopback() || address.is_unspecified() || address.is_unique_local() || address.is_unicast_link_local() || mapped;
        assert!(!forbidden, "{text} was let through to {address}");
    }
}

fn event(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Ok(segment) = Segment::decode(text, Rest::None) else { return };
    let Ok(run) = "exec_01h455vb4pex5vsknk084sn02q".parse::<RunId>() else { return };
    for event in &segment.events {
        let _ = (event.kind(), event.event());
        let _ = event.public_json(run);
    }
}

type Target = fn(&[u8]);

/// Feeds a target.
pub fn feed(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target is called {name}"));
    target(bytes);
}

/// Every target by its name.
const TARGETS: &[(&str, Target)] = &[
    ("template", template),
    ("path", path),
    ("condition", condition),
    ("flow", flow),
    ("sse_openai", sse_openai),
    ("sse_anthropic", sse_anthropic),
    ("sse_gemini", sse_gemini),
    ("url", url),
    ("event", event),
];
