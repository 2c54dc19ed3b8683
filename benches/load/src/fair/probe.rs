//! The small work of the tenant that is measured: one request after the other on one connection.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::services::Arrivals;
use crate::bench::{self, KEY};
use crate::http::{self, Connection};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// A flow with one prompt of `local/echo`.
    Prompt,
    /// A flow with one script.
    Script,
    /// A flow that prints one line.
    Pdf,
    /// A job, from its request to the arrival of its call.
    Job,
}

/// The result of one probe.
#[derive(Default)]
pub struct ProbeResult {
    /// Sorted, in milliseconds.
    latencies: Vec<f64>,
    /// Requests that were refused, failed or did not end in time.
    pub failed: usize,
}

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause after a request that failed.
const PAUSE: Duration = Duration::from_millis(20);

impl ProbeResult {
    pub fn count(&self) -> usize {
        self.latencies.len()
    }

    /// The latency that this part of the requests stays below, in milliseconds; endless when none succeeded.
    pub fn percentile(&self, part: f64) -> f64 {
        let index = ((self.latencies.len() as f64 - 1.0) * part).round().max(0.0) as usize;
        self.latencies.get(index).copied().unwrap_or(f64::INFINITY)
    }

    pub fn row(&self) -> Value {
        json!({ "requests": self.count(), "failed": self.failed, "p50Ms": self.percentile(0.5), "p99Ms": self.percentile(0.99) })
    }
}

impl Probe {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Script => "script",
            Self::Pdf => "pdf",
            Self::Job => "job",
        }
    }

    /// Asks again and again for some time.
    pub async fn measure(self, address: &str, arrivals: &Arrivals, time: Duration) -> ProbeResult {
        let mut measured = ProbeResult::default();
        let mut kept = None;
        let begun = Instant::now();
        while begun.elapsed() < time {
            let one = Instant::now();
            let reused = kept.is_some();
            let asked = tokio::time::timeout(PATIENCE, async {
                match self.ask(&mut kept, address, arrivals).await {
                    // The server closes connections to make room for others; a client opens another one.
                    Err(_) if reused => self.ask(&mut kept, address, arrivals).await,
                    asked => asked,
                }
            });
            if matches!(asked.await, Ok(Ok(true))) {
                measured.latencies.push(one.elapsed().as_secs_f64() * 1e3);
            } else {
                measured.failed += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
        measured.latencies.sort_by(f64::total_cmp);
        measured
    }

    /// Asks once; whether all went well.
    async fn ask(self, kept: &mut Option<Connection>, address: &str, arrivals: &Arrivals) -> Result<bool> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(address).await?,
        };
        let done = if let Some(step) = self.step() {
            let status = connection.ask(&bench::dispatch(&json!([step]), false)).await?;
            connection.finish().await?;
            status == 200 && serde_json::from_slice::<Value>(connection.body())?["success"] == true
        } else {
            let (url, arrived) = arrivals.expect_call();
            let body = json!({ "name": "probe", "payload": { "n": 1 }, "callback": { "url": url } });
            let status = connection.ask(&http::post("/v1/jobs", KEY, &body.to_string())).await?;
            connection.finish().await?;
            (200..300).contains(&status) && arrived.await.is_ok()
        };
        *kept = Some(connection);
        Ok(done)
    }

    /// The step of the flow that is dispatched; a job has none.
    fn step(self) -> Option<Value> {
        let (kind, config) = match self {
            Self::Prompt => ("prompt", json!({ "model": "local/echo", "userPrompt": "Say something about {{topic}}." })),
            Self::Script => ("transform-data", json!({ "script": "return 1+1" })),
            Self::Pdf => ("generate-pdf", json!({ "html": "<p>hi</p>" })),
            Self::Job => return None,
        };
        Some(json!({ "id": "probe", "type": kind, "config": config }))
    }
}
