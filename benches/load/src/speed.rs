//! What Dispatch adds to calling the provider directly: latency, requests a second and CPU per request at several
//! concurrencies; the same with many stored executions; steps of trivial HTTP calls; memory per held stream.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::bench::{self, Bench, KEY, Load, MODEL, STREAMS_PER_KEY, Subject, Until, load};
use crate::http::{self, Connection};
use crate::upstream;

#[derive(Args)]
pub struct Arguments {
    /// Seconds per figure.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only this concurrency.
    #[arg(long)]
    only: Option<usize>,
    /// Streams to hold open for the memory figure; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    held: usize,
    /// Executions to store before a second look at the cost of one; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    stored: usize,
    /// Also measure flows of five steps that call a trivial HTTP service.
    #[arg(long)]
    steps: bool,
}

/// Steps of the flow of HTTP calls.
const STEPS: usize = 5;
/// Requests at once while executions are being stored.
const FILLERS: usize = 64;

pub async fn run(subject: &Subject, arguments: Arguments) -> Result<()> {
    let bench = Bench::start(subject, &["--rate-limit", "0", "--allow-private", "127.0.0.1/32"]).await?;
    let idle = bench.server.resident_kib()?;
    let say = |text: String| {
        if !subject.json {
            println!("{text}");
        }
    };
    say(format!("ready {:.0} ms, idle {idle} KiB", bench.ready.as_secs_f64() * 1e3));
    let time = Duration::from_secs(arguments.seconds);
    let levels: Vec<usize> = arguments.only.map_or_else(|| vec![1, 16, 64], |only| vec![only]);
    let mut rows = Vec::new();
    for &concurrency in &levels {
        let alone = load(&bench.provider, &bench::ask_provider(), concurrency, time).await?;
        let with = load(&bench.server, &bench::ask_dispatch(MODEL), concurrency, time).await?;
        say(compared(concurrency, &alone, &with));
        rows.push(json!({
            "concurrency": concurrency, "provider": alone.row(), "dispatch": with.row(),
            "addedP50Ms": with.percentile(0.5) - alone.percentile(0.5), "addedP99Ms": with.percentile(0.99) - alone.percentile(0.99),
        }));
    }
    let mut report = json!({
        "store": if subject.store == "sqlite" { "sqlite" } else { "postgres" }, "readyMs": bench.ready.as_secs_f64() * 1e3, "idleKib": idle,
        "rows": rows,
    });
    if arguments.steps {
        report["steps"] = steps(&bench, &levels, time, &say).await?;
    }
    if arguments.stored > 0 {
        report["stored"] = stored(&bench, arguments.stored, time, &say).await?;
    }
    let resident = bench.server.resident_kib()?;
    report["residentKib"] = json!(resident);
    say(format!("resident {resident} KiB"));
    if arguments.held > 0 {
        let each = hold(subject, arguments.held).await?;
        say(format!("held stream {each:.1} KiB"));
        report["heldStreamKib"] = json!(each);
    }
    if subject.json {
        println!("{report}");
    }
    Ok(())
}

fn compared(concurrency: usize, alone: &Load, with: &Load) -> String {
    format!(
        "c={concurrency:<4} provider {:>7.0}/s p50 {:.2} p99 {:.2} | dispatch {:>7.0}/s p50 {:.2} p99 {:.2} cpu {:.3} | added p50 {:.2} p99 {:.2} ms",
        alone.per_second(),
        alone.percentile(0.5),
        alone.percentile(0.99),
        with.per_second(),
        with.percentile(0.5),
        with.percentile(0.99),
        with.cpu_ms(),
        with.percentile(0.5) - alone.percentile(0.5),
        with.percentile(0.99) - alone.percentile(0.99),
    )
}

/// Flows, and workflows, of five HTTP calls in a chain, each step durable before the next begins.
async fn steps(bench: &Bench, levels: &[usize], time: Duration, say: &impl Fn(String)) -> Result<Value> {
    let upstream = upstream::start().await?;
    let chain: Vec<Value> = (0..STEPS)
        .map(|index| json!({ "id": format!("s{index}"), "type": "fetch-url", "config": { "url": format!("http://{upstream}/"), "method": "GET" } }))
        .collect();
    let workflow: serde_json::Map<String, Value> = (0..STEPS)
        .map(|index| {
            let after: Vec<String> = index.checked_sub(1).map(|before| format!("s{before}")).into_iter().collect();
            (format!("s{index}"), json!({ "after": after, "request": { "url": format!("http://{upstream}/") } }))
        })
        .collect();
    let document = json!({ "name": "chain", "version": 1, "steps": workflow }).to_string();
    let mut connection = Connection::open(&bench.server.address).await?;
    connection.exchange(&http::with_body("PUT", "/api/workflows/chain", KEY, &document)).await?;
    let kinds = [("flow", bench::dispatch(&json!(chain), true)), ("workflow", http::post("/workflows/chain", KEY, "{}"))];
    let mut rows = Vec::new();
    for (kind, request) in &kinds {
        for &concurrency in levels {
            let found = load(&bench.server, request, concurrency, time).await?;
            let (per_second, cpu) = (found.per_second() * STEPS as f64, found.cpu_ms() / STEPS as f64);
            say(format!(
                "{kind:<8} c={concurrency:<4} {per_second:>7.0} steps/s, cpu {cpu:.3} ms a step, run p50 {:.2} p99 {:.2} ms",
                found.percentile(0.5),
                found.percentile(0.99)
            ));
            let figures = found.row();
            rows.push(
                json!({ "kind": kind, "concurrency": concurrency, "run": figures, "stepsPerSecond": per_second, "cpuMsPerStep": cpu }),
            );
        }
    }
    Ok(json!(rows))
}

/// The cost of an execution when few are stored, and when many are.
async fn stored(bench: &Bench, count: usize, time: Duration, say: &impl Fn(String)) -> Result<Value> {
    let request = bench::ask_dispatch(MODEL);
    let few = load(&bench.server, &request, 16, time).await?;
    let tiny =
        bench::dispatch(&json!([{ "id": "set", "type": "set-variable", "config": { "variableName": "x", "value": "{{topic}}" } }]), false);
    bench::repeat(&bench.server, &tiny, FILLERS, Until::Sent(count.div_ceil(FILLERS))).await?;
    let many = load(&bench.server, &request, 16, time).await?;
    say(format!(
        "with {count} more stored: cpu {:.3} -> {:.3} ms, p50 {:.2} -> {:.2} ms",
        few.cpu_ms(),
        many.cpu_ms(),
        few.percentile(0.5),
        many.percentile(0.5)
    ));
    Ok(json!({ "count": count, "before": few.row(), "after": many.row() }))
}

/// KiB of server memory for each stream that waits for a slow provider.
async fn hold(subject: &Subject, count: usize) -> Result<f64> {
    let bench = Bench::start(subject, &["--rate-limit", "0"]).await?;
    load(&bench.server, &bench::ask_dispatch(MODEL), 16, Duration::from_secs(1)).await?;
    let mut keys = Vec::new();
    for _ in 0..count.div_ceil(STREAMS_PER_KEY) {
        keys.push(bench.new_key().await?);
    }
    let before = bench.server.resident_kib()?;
    let mut held = Vec::with_capacity(count);
    for index in 0..count {
        let Some(key) = keys.get(index / STREAMS_PER_KEY) else { break };
        let request = bench::with_key(&bench::ask_dispatch("fake-stall-after-3"), key);
        let mut connection = Connection::open(&bench.server.address).await?;
        connection.begin(&request).await?;
        held.push(connection);
    }
    let after = bench.server.resident_kib()?;
    Ok(after.saturating_sub(before) as f64 / held.len() as f64)
}
