//! Jobs: put in their queue as fast as it takes them, and done; how many a second, and the server's CPU time for each.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::bench::{self, Bench, KEY, Subject, Until};
use crate::http::{self, Connection};
use crate::upstream;

#[derive(Args)]
pub struct Arguments {
    /// Jobs of each kind.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// Jobs that the server does at once.
    #[arg(long, default_value_t = 100)]
    at_once: usize,
}

/// Connections that enqueue.
const CALLERS: usize = 64;
/// How often it is looked whether all are done.
const LOOK: Duration = Duration::from_millis(20);

pub async fn run(subject: &Subject, arguments: Arguments) -> Result<()> {
    let at_once = arguments.at_once.to_string();
    let bench = Bench::start(subject, &["--rate-limit", "0", "--allow-private", "127.0.0.1/32", "--jobs-at-once", &at_once]).await?;
    let upstream = upstream::start().await?;
    let flow = json!({ "name": "noop", "steps": [{ "id": "set", "type": "set-variable", "config": { "variableName": "x", "value": "{{payload}}" } }] });
    Connection::open(&bench.server.address).await?.exchange(&http::post("/v1/flows", KEY, &flow.to_string())).await?;
    let kinds = [
        ("flow", json!({ "name": "noop", "payload": { "n": 1 } })),
        ("callback", json!({ "name": "call", "payload": { "n": 1 }, "callback": { "url": format!("http://{upstream}/") } })),
    ];
    let mut rows = Vec::new();
    let mut done = 0;
    for (kind, body) in kinds {
        let each = arguments.count.div_ceil(CALLERS);
        done += (each * CALLERS) as u64;
        let row = measure(&bench, &http::post("/v1/jobs", KEY, &body.to_string()), each, done).await?;
        if !subject.json {
            println!("{kind:<9} {row}");
        }
        rows.push(json!({ "kind": kind, "figures": row }));
    }
    if subject.json {
        println!("{}", json!({ "atOnce": arguments.at_once, "rows": rows }));
    }
    Ok(())
}

/// Enqueues from every caller, and waits until so many are done in all.
async fn measure(bench: &Bench, request: &[u8], each: usize, done: u64) -> Result<Value> {
    let before = bench.server.cpu_ms()?;
    let begun = Instant::now();
    let mut latencies = bench::repeat(&bench.server, request, CALLERS, Until::Sent(each)).await?;
    let enqueued = begun.elapsed().as_secs_f64();
    let mut connection = Connection::open(&bench.server.address).await?;
    loop {
        connection.exchange(&http::get("/v1/jobs/counts", KEY)).await?;
        let counts: Value = serde_json::from_slice(connection.body()).context("counts")?;
        if counts["failed"] != 0 {
            bail!("jobs failed: {counts}");
        }
        if counts["completed"].as_u64() == Some(done) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let whole = begun.elapsed().as_secs_f64();
    let cpu = bench.server.cpu_ms()? - before;
    latencies.sort_unstable();
    let count = latencies.len();
    let p99 = latencies.get(count * 99 / 100).copied().unwrap_or_default() as f64 / 1e3;
    Ok(json!({
        "jobs": count, "enqueuedPerSecond": count as f64 / enqueued, "enqueueP99Ms": p99, "donePerSecond": count as f64 / whole,
        "cpuMsPerJob": cpu / count as f64,
    }))
}
