//! Several times more requests than the server can do, for a while: how it refuses, what it keeps, how soon it is well again.
//!
//! The rate is fixed beforehand, so a server that answers slowly is not asked less often. Every request that was accepted is
//! looked up at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::bench::{self, Bench, KEY, MODEL, Subject, load};
use crate::http::{self, Connection};

#[derive(Args)]
pub struct Arguments {
    /// Seconds of overload.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many times the capacity is asked for.
    #[arg(long, default_value_t = 5)]
    times: u32,
}

/// Requests under way at most, so that the driver keeps its own files in bounds; beyond, a request is counted as unsent.
const OPEN: usize = 8_000;
/// How long the server may take to be well again.
const RECOVERY: Duration = Duration::from_secs(30);

/// What came of the requests.
#[derive(Default)]
struct Tally {
    accepted: Mutex<Vec<String>>,
    /// Milliseconds until a refusal, or a health check, was answered.
    refused: Mutex<Vec<f64>>,
    healthy: Mutex<Vec<f64>>,
    without_hint: AtomicU64,
    other: AtomicU64,
    broken: AtomicU64,
    /// Connections that were kept, and closed by the server meanwhile.
    stale: AtomicU64,
    unready: AtomicU64,
    most_kib: AtomicU64,
}

pub async fn run(subject: &Subject, arguments: Arguments) -> Result<()> {
    let bench = Arc::new(Bench::start(subject, &["--rate-limit", "0"]).await?);
    let request = bench::ask_dispatch(MODEL);
    let calm = load(&bench.server, &request, 1, Duration::from_secs(2)).await?;
    let full = load(&bench.server, &request, 64, Duration::from_secs(5)).await?;
    let rate = full.per_second() * f64::from(arguments.times);
    let tally = Arc::new(Tally::default());
    let over = Arc::new(AtomicBool::new(false));
    let watch = tokio::spawn(watch(bench.clone(), tally.clone(), over.clone()));
    let unsent = flood(&bench, &tally, &request, rate, Duration::from_secs(arguments.seconds)).await;
    let well_after = recovered(&bench, &request, calm.percentile(0.5)).await?;
    over.store(true, Ordering::Relaxed);
    watch.await??;
    let lost = lost(&bench, &tally).await?;
    let accepted = tally.accepted.lock().len();
    let percentile = |values: &Mutex<Vec<f64>>, part: f64| {
        let mut values = values.lock();
        values.sort_by(f64::total_cmp);
        values.get(((values.len() as f64 - 1.0) * part).max(0.0) as usize).copied().unwrap_or_default()
    };
    let report = json!({
        "capacityPerSecond": full.per_second(), "askedPerSecond": rate, "accepted": accepted, "refused": tally.refused.lock().len(),
        "refusedP50Ms": percentile(&tally.refused, 0.5), "refusedP99Ms": percentile(&tally.refused, 0.99),
        "refusedWithoutRetryAfter": tally.without_hint.load(Ordering::Relaxed), "otherAnswers": tally.other.load(Ordering::Relaxed),
        "brokenConnections": tally.broken.load(Ordering::Relaxed), "staleConnections": tally.stale.load(Ordering::Relaxed), "unsent": unsent,
        "livezP99Ms": percentile(&tally.healthy, 0.99), "readyzRefusals": tally.unready.load(Ordering::Relaxed),
        "mostKib": tally.most_kib.load(Ordering::Relaxed), "acceptedAndLost": lost, "wellAfterMs": well_after.as_millis() as u64,
    });
    println!("{}", if subject.json { report.to_string() } else { serde_json::to_string_pretty(&report)? });
    ensure!(lost == 0, "{lost} accepted executions did not end well");
    ensure!(tally.without_hint.load(Ordering::Relaxed) == 0, "a refusal without Retry-After");
    ensure!(tally.other.load(Ordering::Relaxed) == 0, "an answer that is neither 200, 429 nor 503");
    ensure!(well_after < RECOVERY, "the server did not recover in time");
    Ok(())
}

/// Sends at a fixed rate; how many could not be sent.
async fn flood(bench: &Arc<Bench>, tally: &Arc<Tally>, request: &[u8], rate: f64, time: Duration) -> u64 {
    let request: Arc<[u8]> = request.into();
    let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
    let open = Arc::new(Semaphore::new(OPEN));
    let begun = Instant::now();
    let (mut sent, mut unsent) = (0_u64, 0);
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        while sent < due {
            sent += 1;
            let Ok(permit) = open.clone().try_acquire_owned() else {
                unsent += 1;
                continue;
            };
            let (bench, tally, request, idle) = (bench.clone(), tally.clone(), request.clone(), idle.clone());
            tokio::spawn(async move {
                let kept = idle.lock().pop();
                let reused = kept.is_some();
                let mut answered = one(&bench, &tally, &request, kept).await;
                if answered.is_err() && reused {
                    // The server closes connections that were idle for long; a client opens another.
                    tally.stale.fetch_add(1, Ordering::Relaxed);
                    answered = one(&bench, &tally, &request, None).await;
                }
                match answered {
                    Ok(connection) => idle.lock().push(connection),
                    Err(_) => drop(tally.broken.fetch_add(1, Ordering::Relaxed)),
                }
                drop(permit);
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What is under way comes to its end.
    let _ = open.acquire_many(OPEN as u32).await;
    unsent
}

async fn one(bench: &Bench, tally: &Tally, request: &[u8], kept: Option<Connection>) -> Result<Connection> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(&bench.server.address).await?,
    };
    let begun = Instant::now();
    match connection.ask(request).await? {
        200 => tally.accepted.lock().extend(connection.header("x-execution-id").map(str::to_owned)),
        429 | 503 => {
            tally.refused.lock().push(begun.elapsed().as_secs_f64() * 1e3);
            tally.without_hint.fetch_add(u64::from(connection.header("retry-after").is_none()), Ordering::Relaxed);
        }
        _ => drop(tally.other.fetch_add(1, Ordering::Relaxed)),
    }
    connection.finish().await?;
    Ok(connection)
}

/// Asks for the server's health and memory, again and again.
async fn watch(bench: Arc<Bench>, tally: Arc<Tally>, over: Arc<AtomicBool>) -> Result<()> {
    let mut connection = Connection::open(&bench.server.address).await?;
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        connection.exchange(&http::get("/livez", KEY)).await?;
        tally.healthy.lock().push(begun.elapsed().as_secs_f64() * 1e3);
        let status = connection.ask(&http::get("/readyz", KEY)).await?;
        connection.finish().await?;
        tally.unready.fetch_add(u64::from(status == 503), Ordering::Relaxed);
        tally.most_kib.fetch_max(bench.server.resident_kib()?, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// How long it takes until a request alone is answered about as fast as before.
async fn recovered(bench: &Bench, request: &[u8], calm_ms: f64) -> Result<Duration> {
    let begun = Instant::now();
    let mut connection = Connection::open(&bench.server.address).await?;
    while begun.elapsed() < RECOVERY {
        let mut latencies = Vec::new();
        for _ in 0..20 {
            let one = Instant::now();
            if connection.ask(request).await? == 200 {
                connection.finish().await?;
                latencies.push(one.elapsed().as_secs_f64() * 1e3);
            } else {
                connection.finish().await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        latencies.sort_by(f64::total_cmp);
        if latencies.len() == 20 && latencies.get(10).is_some_and(|median| *median < calm_ms * 2.0) {
            break;
        }
    }
    Ok(begun.elapsed())
}

/// Accepted executions that did not come to a good end.
async fn lost(bench: &Bench, tally: &Tally) -> Result<usize> {
    let mut connection = Connection::open(&bench.server.address).await?;
    let accepted = std::mem::take(&mut *tally.accepted.lock());
    let mut lost = 0;
    for id in &accepted {
        connection.exchange(&http::get(&format!("/v1/executions/{id}"), KEY)).await?;
        let found: serde_json::Value = serde_json::from_slice(connection.body())?;
        lost += usize::from(found["status"] != "completed");
    }
    *tally.accepted.lock() = accepted;
    Ok(lost)
}
