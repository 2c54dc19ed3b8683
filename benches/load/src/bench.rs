//! What every scenario needs: a fake provider and a server as processes of their own, and the requests that drive them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::http::{self, Connection};
use crate::process::Server;

/// What is measured, and how it runs.
#[derive(Args, Clone)]
pub struct Subject {
    /// The binary to measure.
    #[arg(long, global = true, default_value = "target/release/dispatch")]
    pub binary: PathBuf,
    /// `sqlite`, or a `postgres://` URL of an empty database.
    #[arg(long, global = true, default_value = "sqlite")]
    pub store: String,
    /// Pin the server to this core (needs `taskset`).
    #[arg(long, global = true)]
    pub pin: Option<usize>,
    /// One JSON object instead of text.
    #[arg(long, global = true)]
    pub json: bool,
}

/// A server under test with its provider. Both end with it.
pub struct Bench {
    pub provider: Server,
    pub server: Server,
    /// From the start of the process until it said that it is ready.
    pub ready: Duration,
    pub data: TempDir,
}

/// A fake model that answers in 20 chunks.
pub const MODEL: &str = "fake-chunks-20";
/// What one key may hold open.
pub const STREAMS_PER_KEY: usize = 100;
pub const KEY: &str = "bench-key-0123456789abcdef";

impl Bench {
    /// Starts both; `flags` are added to `serve`.
    pub async fn start(subject: &Subject, flags: &[&str]) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let provider = Server::start(&subject.binary, &["fake-provider", "--listen", "127.0.0.1:0", "--json"], &[], None).await?;
        let base = format!("{}/v1", provider.url);
        let folder = data.path().display().to_string();
        let mut environment = vec![("OPENAI_BASE_URL", base.as_str()), ("OPENAI_API_KEY", "sk-bench"), ("DISPATCH_API_KEY", KEY)];
        if subject.store != "sqlite" {
            environment.push(("DISPATCH_DATABASE_URL", subject.store.as_str()));
        }
        let mut serve = vec!["serve", "--listen", "127.0.0.1:0", "--data", &folder, "--log", "warn", "--json"];
        serve.extend(flags);
        let begun = Instant::now();
        let server = Server::start(&subject.binary, &serve, &environment, subject.pin).await?;
        let ready = begun.elapsed();
        Ok(Self { provider, server, ready, data })
    }

    /// One more key of the same tenant.
    pub async fn new_key(&self) -> Result<String> {
        let mut connection = Connection::open(&self.server.address).await?;
        let status = connection.ask(&http::post("/v1/api-keys", KEY, &json!({ "name": "bench", "scopes": ["*"] }).to_string())).await?;
        connection.finish().await?;
        let made: serde_json::Value = serde_json::from_slice(connection.body()).with_context(|| format!("status {status}"))?;
        Ok(made["key"].as_str().context("no key")?.to_owned())
    }

    /// Another tenant in the server's database; its first key.
    pub async fn new_tenant(&self, subject: &Subject, name: &str) -> Result<String> {
        let mut command = Command::new(&subject.binary);
        command.args(["tenants", "create", "--json", "--name", name, "--data"]).arg(self.data.path());
        if subject.store != "sqlite" {
            command.env("DISPATCH_DATABASE_URL", &subject.store);
        }
        let output = command.output().await.context("dispatch tenants create")?;
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).context("the answer of `dispatch tenants create`")?;
        Ok(made["key"].as_str().with_context(|| format!("no tenant was made: {made}"))?.to_owned())
    }
}

/// The same request by another caller.
pub fn with_key(request: &[u8], key: &str) -> Vec<u8> {
    String::from_utf8_lossy(request).replacen(KEY, key, 1).into_bytes()
}

/// The request that goes to the provider directly.
pub fn ask_provider() -> Vec<u8> {
    let messages = json!([{ "role": "user", "content": "Say something." }]);
    let body = json!({ "model": MODEL, "stream": true, "stream_options": { "include_usage": true }, "messages": messages });
    http::post("/v1/chat/completions", "sk-bench", &body.to_string())
}

/// The same through Dispatch: one prompt step, streamed.
pub fn ask_dispatch(model: &str) -> Vec<u8> {
    let config = json!({ "model": format!("openai/{model}"), "userPrompt": "Say something about {{topic}}." });
    dispatch(&json!([{ "id": "say", "type": "prompt", "config": config }]), true)
}

/// A flow of these steps as a request.
pub fn dispatch(steps: &serde_json::Value, streamed: bool) -> Vec<u8> {
    let body = json!({
        "flow": { "name": "Bench", "steps": steps }, "inputs": { "topic": "the sea" }, "options": { "streamResponse": streamed },
    });
    http::post("/v1/dispatch", KEY, &body.to_string())
}

/// What one load came to.
pub struct Load {
    pub requests: usize,
    pub seconds: f64,
    /// Sorted, in microseconds.
    latencies: Vec<u64>,
    cpu_ms: f64,
}

impl Load {
    /// The latency that this part of the requests stays below, in milliseconds.
    pub fn percentile(&self, part: f64) -> f64 {
        let index = ((self.latencies.len() as f64 - 1.0) * part).round().max(0.0) as usize;
        self.latencies.get(index).copied().unwrap_or_default() as f64 / 1_000.0
    }

    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// Milliseconds of the server's CPU time for each request.
    pub fn cpu_ms(&self) -> f64 {
        self.cpu_ms / self.requests.max(1) as f64
    }

    pub fn row(&self) -> serde_json::Value {
        json!({
            "requests": self.requests, "perSecond": self.per_second(), "p50Ms": self.percentile(0.5), "p99Ms": self.percentile(0.99),
            "cpuMsPerRequest": self.cpu_ms(),
        })
    }
}

/// Posts the same request over `concurrency` kept connections for some time, after a short warm-up.
pub async fn load(server: &Server, request: &[u8], concurrency: usize, time: Duration) -> Result<Load> {
    repeat(server, request, concurrency, Until::After(Instant::now() + Duration::from_millis(700))).await?;
    let before = server.cpu_ms()?;
    let begun = Instant::now();
    let mut latencies = repeat(server, request, concurrency, Until::After(begun + time)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_ms = server.cpu_ms()? - before;
    latencies.sort_unstable();
    Ok(Load { requests: latencies.len(), seconds, latencies, cpu_ms })
}

/// When a connection stops repeating its request.
#[derive(Clone, Copy)]
pub enum Until {
    After(Instant),
    /// Each connection has sent so many.
    Sent(usize),
}

/// Repeats a request on several connections; the latencies in microseconds.
pub async fn repeat(server: &Server, request: &[u8], concurrency: usize, until: Until) -> Result<Vec<u64>> {
    let mut tasks = Vec::with_capacity(concurrency);
    for _ in 0..concurrency {
        let (address, request) = (server.address.clone(), request.to_vec());
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            let mut latencies = Vec::with_capacity(4_096);
            while match until {
                Until::After(end) => Instant::now() < end,
                Until::Sent(count) => latencies.len() < count,
            } {
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
