//! The metrics page, and that the dashboard queries nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, fails, flow, local, set};
use crate::support::app::within;
use crate::support::world::{Node, World};

on_both!(everything_is_counted_from_the_start, the_dashboard_asks_for_what_is_there);

async fn page(node: &Node) -> String {
    node.bare(Method::GET, "/metrics").send().await.text()
}

fn figure(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).map(|figure| figure.parse().unwrap())
}

/// Waits until a series has this value.
async fn until(node: &Node, series: &str, wanted: f64) {
    let look = async {
        while figure(&page(node).await, series) != Some(wanted) {
            tokio::task::yield_now().await;
        }
    };
    within(look).await;
}

async fn everything_is_counted_from_the_start(world: Arc<World>) {
    let node = world.node();
    let start = page(&node).await;
    for series in [
        r#"dispatch_runs_ended_total{state="completed",outcome="failure"}"#,
        r#"dispatch_runs_ended_total{state="failed",outcome="failure"}"#,
        r#"dispatch_model_calls_total{provider="local",model="echo",outcome="success"}"#,
        r#"dispatch_model_failures_total{provider="other",model="other",class="server_error"}"#,
        r#"dispatch_webhook_attempts_total{outcome="given_up"}"#,
        r#"dispatch_slots_fired_total{kind="schedule"}"#,
        r#"dispatch_jobs{state="ready"}"#,
        r#"dispatch_limit_refusals_total{limit="budget"}"#,
        "dispatch_runs_stuck_total",
        "dispatch_runs_active",
        "dispatch_dead_letters",
        "dispatch_webhook_deliveries_due",
    ] {
        assert_eq!(figure(&start, series), Some(0.0), "{series} is missing:\n{start}");
    }
    node.dispatch(&flow(json!([set("a", json!(1))]))).await;
    node.dispatch(&flow(json!([fails("bad")]))).await;
    let prompt = |model: &str| json!([{ "id": "p", "type": "prompt", "config": { "model": model, "userPrompt": "x" } }]);
    node.dispatch(&flow(prompt("openai/fake-401"))).await;
    // An end is counted behind the last event.
    until(&node, r#"dispatch_runs_ended_total{state="completed",outcome="success"}"#, 1.0).await;
    until(&node, r#"dispatch_runs_ended_total{state="completed",outcome="failure"}"#, 2.0).await;
    let told = page(&node).await;
    // A model that is not in the catalogue does not create a label.
    assert_eq!(figure(&told, r#"dispatch_model_calls_total{provider="openai",model="other",outcome="failure"}"#), Some(1.0), "{told}");
    assert_eq!(figure(&told, r#"dispatch_model_failures_total{provider="openai",model="other",class="auth"}"#), Some(1.0), "{told}");
    assert!(!told.contains("fake-401"), "{told}");
    // Histograms, not summaries.
    assert!(told.contains("dispatch_own_overhead_seconds_bucket{le=\"+Inf\"}") && !told.contains("quantile="), "{told}");
    assert!(told.contains(r#"dispatch_model_call_seconds_bucket{provider="openai",model="other",outcome="failure",le="600"}"#), "{told}");
    // No label names a tenant.
    assert!(!told.contains("tenant"), "{told}");
    let waits = super::ask_with("w", "call look {}", json!({ "runtimeTools": [local("look")] }));
    node.dispatch(&flow(json!([waits]))).await;
    // The next server counts afresh at its start.
    let node = world.crash().await;
    until(&node, r#"dispatch_runs_waiting{state="paused"}"#, 1.0).await;
    assert!(figure(&page(&node).await, r#"dispatch_database_connections{state="idle"}"#).is_some());
}

/// Returns the names of metrics in the dashboard's queries, as they are exported.
fn asked_for(dashboard: &Value) -> BTreeSet<String> {
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut names = BTreeSet::new();
    for target in targets {
        let query = target["expr"].as_str().unwrap();
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        names.extend(words.filter(|word| word.starts_with("dispatch_")).map(str::to_owned));
    }
    names
}

async fn the_dashboard_asks_for_what_is_there(world: Arc<World>) {
    let node = world.node();
    node.dispatch(&flow(json!([ask("a", "say a")]))).await;
    let told = page(&node).await;
    let there: BTreeSet<&str> =
        told.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/grafana/dispatch.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let asked = asked_for(&dashboard);
    assert!(asked.len() > 15, "{asked:?}");
    let missing: Vec<&String> = asked.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "the dashboard asks for {missing:?}, which is not there:\n{told}");
    // The dashboard shows every metric.
    let bare = |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned();
    let shown: BTreeSet<String> = asked.iter().map(|name| bare(name)).collect();
    let left_out: BTreeSet<String> =
        there.iter().map(|name| bare(name)).filter(|name| name.starts_with("dispatch_") && !shown.contains(name)).collect();
    assert!(left_out.is_empty(), "no panel shows {left_out:?}");
}
