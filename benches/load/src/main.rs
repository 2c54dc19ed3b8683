//! Measures what Dispatch adds to calling the provider directly, in one run: latency at concurrency 1, requests a second and
//! CPU per request at several concurrencies, memory per held stream.
//!
//! Starts `dispatch fake-provider` and `dispatch serve` as processes of their own on loopback (paths by `--binary`),
//! drives them over plain HTTP/1.1 and reads their CPU time from the system. Compare ratios of one run, not
//! figures of two.

mod http;
mod process;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Value, json};

use http::Connection;
use process::Server;

#[derive(Parser)]
struct Arguments {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/dispatch")]
    binary: PathBuf,
    /// `sqlite`, or a `postgres://` URL of an empty database.
    #[arg(long, default_value = "sqlite")]
    store: String,
    /// Seconds per figure.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Streams to hold open for the memory figure; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    held: usize,
    /// Only this concurrency.
    #[arg(long)]
    only: Option<usize>,
    #[arg(long)]
    json: bool,
    /// Pin the server to this core (needs `taskset`).
    #[arg(long)]
    pin: Option<usize>,
}

const MODEL: &str = "fake-chunks-20";
const KEY: &str = "bench-key-0123456789abcdef";

/// What one load came to.
struct Load {
    requests: usize,
    seconds: f64,
    /// Sorted, in microseconds.
    latencies: Vec<u64>,
    cpu_ms: f64,
}

impl Load {
    fn percentile(&self, part: f64) -> f64 {
        let index = ((self.latencies.len() as f64 - 1.0) * part).round().max(0.0) as usize;
        self.latencies.get(index).copied().unwrap_or_default() as f64 / 1_000.0
    }

    fn row(&self) -> Value {
        json!({
            "requests": self.requests, "perSecond": self.requests as f64 / self.seconds, "p50Ms": self.percentile(0.5),
            "p99Ms": self.percentile(0.99), "cpuMsPerRequest": self.cpu_ms / self.requests.max(1) as f64,
        })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let fake = Server::start(&arguments.binary, &["fake-provider", "--listen", "127.0.0.1:0", "--json"], &[], None).await?;
    let base = format!("{}/v1", fake.url);
    let data = folder.path().display().to_string();
    let database = if arguments.store == "sqlite" { String::new() } else { arguments.store.clone() };
    let mut environment = vec![("OPENAI_BASE_URL", base.as_str()), ("OPENAI_API_KEY", "sk-bench"), ("DISPATCH_API_KEY", KEY)];
    if !database.is_empty() {
        environment.push(("DISPATCH_DATABASE_URL", database.as_str()));
    }
    let begun = Instant::now();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", &data, "--rate-limit", "0", "--log", "warn", "--json"];
    let server = Server::start(&arguments.binary, &serve, &environment, arguments.pin).await?;
    let ready = begun.elapsed();
    let idle = server.resident_kib()?;
    let direct = http::post("/v1/chat/completions", "sk-bench", &provider_body());
    let through = http::post("/v1/dispatch", KEY, &dispatch_body());
    let mut rows = Vec::new();
    let levels: Vec<usize> = arguments.only.map_or_else(|| vec![1, 16, 64], |only| vec![only]);
    for concurrency in levels {
        let alone = load(&fake, &direct, concurrency, arguments.seconds).await?;
        let with = load(&server, &through, concurrency, arguments.seconds).await?;
        let row = json!({
            "concurrency": concurrency, "provider": alone.row(), "dispatch": with.row(),
            "addedP50Ms": with.percentile(0.5) - alone.percentile(0.5), "addedP99Ms": with.percentile(0.99) - alone.percentile(0.99),
        });
        if !arguments.json {
            println!("{}", line(&row));
        }
        rows.push(row);
    }
    let mut report = json!({
        "store": if database.is_empty() { "sqlite" } else { "postgres" }, "readyMs": ready.as_secs_f64() * 1e3, "idleKib": idle,
        "residentKib": server.resident_kib()?, "rows": rows,
    });
    if arguments.held > 0 {
        report["heldStreamKib"] = json!(hold(&server, arguments.held).await?);
    }
    if arguments.json {
        println!("{report}");
    } else {
        println!("ready {:.0} ms, idle {} KiB, resident {} KiB", ready.as_secs_f64() * 1e3, idle, server.resident_kib()?);
        if let Some(each) = report.get("heldStreamKib") {
            println!("held stream {each} KiB");
        }
    }
    Ok(())
}

fn line(row: &Value) -> String {
    let figure = |side: &str, name: &str| row[side][name].as_f64().unwrap_or_default();
    format!(
        "c={:<4} provider {:>8.0}/s p50 {:.2} p99 {:.2} cpu {:.3} | dispatch {:>8.0}/s p50 {:.2} p99 {:.2} cpu {:.3} | added p50 {:.2} p99 {:.2} ms",
        row["concurrency"],
        figure("provider", "perSecond"),
        figure("provider", "p50Ms"),
        figure("provider", "p99Ms"),
        figure("provider", "cpuMsPerRequest"),
        figure("dispatch", "perSecond"),
        figure("dispatch", "p50Ms"),
        figure("dispatch", "p99Ms"),
        figure("dispatch", "cpuMsPerRequest"),
        row["addedP50Ms"].as_f64().unwrap_or_default(),
        row["addedP99Ms"].as_f64().unwrap_or_default(),
    )
}

fn provider_body() -> String {
    json!({ "model": MODEL, "stream": true, "stream_options": { "include_usage": true }, "messages": [{ "role": "user", "content": "Say something." }] }).to_string()
}

fn dispatch_body() -> String {
    json!({
        "flow": { "name": "Bench", "steps": [{ "id": "say", "type": "prompt", "config": { "model": format!("openai/{MODEL}"), "userPrompt": "Say something about {{topic}}." } }] },
        "inputs": { "topic": "the sea" }, "options": { "streamResponse": true },
    })
    .to_string()
}

/// Posts the same request over `concurrency` kept connections for some seconds, after a short warm-up.
async fn load(server: &Server, request: &[u8], concurrency: usize, seconds: u64) -> Result<Load> {
    run(server, request, concurrency, Duration::from_millis(700)).await?;
    let before = server.cpu_ms()?;
    let begun = Instant::now();
    let mut latencies = run(server, request, concurrency, Duration::from_secs(seconds)).await?;
    let elapsed = begun.elapsed().as_secs_f64();
    let cpu_ms = server.cpu_ms()? - before;
    latencies.sort_unstable();
    Ok(Load { requests: latencies.len(), seconds: elapsed, latencies, cpu_ms })
}

async fn run(server: &Server, request: &[u8], concurrency: usize, duration: Duration) -> Result<Vec<u64>> {
    let until = Instant::now() + duration;
    let mut tasks = Vec::with_capacity(concurrency);
    for _ in 0..concurrency {
        let (address, request) = (server.address.clone(), request.to_vec());
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            let mut latencies = Vec::with_capacity(4_096);
            while Instant::now() < until {
                let begun = Instant::now();
                connection.exchange(&request).await?;
                latencies.push(begun.elapsed().as_micros() as u64);
            }
            anyhow::Ok(latencies)
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.context("a connection's task ended")??);
    }
    Ok(all)
}

/// KiB of server memory per stream that waits for a slow provider.
async fn hold(server: &Server, count: usize) -> Result<f64> {
    let slow = dispatch_body().replace(MODEL, "fake-stall-after-3");
    let request = http::post("/v1/dispatch", KEY, &slow);
    let before = server.resident_kib()?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = Connection::open(&server.address).await?;
        connection.begin(&request).await?;
        held.push(connection);
    }
    let after = server.resident_kib()?;
    Ok((after.saturating_sub(before)) as f64 / count as f64)
}
