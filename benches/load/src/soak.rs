//! A mixed load for long, with callers that come and go: what the server holds afterwards is what it held before.
//!
//! Streams that are read to their end, streams that are left in the middle, pauses that are answered, records, lists, keys that are
//! made and revoked; beside them one reader that takes a few bytes a second.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::bench::{self, Bench, KEY, MODEL, Subject};
use crate::http::{self, Connection};

#[derive(Args)]
pub struct Arguments {
    /// Minutes of load.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Callers at once.
    #[arg(long, default_value_t = 8)]
    callers: usize,
    /// Rounds a second of all callers together; 0 is as many as they can.
    #[arg(long, default_value_t = 200)]
    rate: u64,
}

/// Part of the load after which memory should not grow any more.
const WARM: f64 = 1.0 / 3.0;
/// How long what was left open may take to be closed.
const QUIET: Duration = Duration::from_secs(60);
const MOST_WAL: u64 = 64 * 1024 * 1024;
const EVERY: Duration = Duration::from_secs(2);

/// What the server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    tasks: u64,
    files: u64,
    kib: u64,
    wal: u64,
}

pub async fn run(subject: &Subject, arguments: Arguments) -> Result<()> {
    let bench = Arc::new(Bench::start(subject, &["--rate-limit", "0"]).await?);
    let rounds = Arc::new(AtomicU64::new(0));
    // What is made once at the first use belongs to the baseline.
    churn(&bench, 2, Duration::from_secs(5), 0, &rounds).await?;
    let before = settled(&bench, None).await?;
    rounds.store(0, Ordering::Relaxed);
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let over = Arc::new(AtomicBool::new(false));
    let slow = tokio::spawn(slow_reader(bench.clone(), over.clone()));
    let samples = tokio::spawn(sample(bench.clone(), time));
    churn(&bench, arguments.callers, time, arguments.rate, &rounds).await?;
    let samples = samples.await??;
    over.store(true, Ordering::Relaxed);
    slow.await??;
    let after = settled(&bench, Some(before)).await?;
    let wal = samples.iter().map(|(_, held)| held.wal).max().unwrap_or_default();
    let slope = slope(&samples);
    let report = json!({
        "minutes": arguments.minutes, "rounds": rounds.load(Ordering::Relaxed),
        "tasks": [before.tasks, after.tasks], "files": [before.files, after.files], "residentKib": [before.kib, after.kib],
        "memoryMiBPerHour": slope, "mostWalBytes": wal,
    });
    println!("{}", if subject.json { report.to_string() } else { serde_json::to_string_pretty(&report)? });
    ensure!(after.tasks <= before.tasks, "tasks were left behind");
    ensure!(after.files <= before.files, "files or sockets were left behind");
    ensure!(wal < MOST_WAL, "the write-ahead log grew too large");
    Ok(())
}

/// Callers that go through the rounds for some time.
async fn churn(bench: &Arc<Bench>, callers: usize, time: Duration, rate: u64, rounds: &Arc<AtomicU64>) -> Result<()> {
    let end = Instant::now() + time;
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (bench, rounds) = (bench.clone(), rounds.clone());
        tasks.push(tokio::spawn(async move {
            let pause = if rate == 0 { Duration::ZERO } else { Duration::from_secs_f64(callers as f64 / rate as f64) };
            while Instant::now() < end {
                let begun = Instant::now();
                let number = rounds.fetch_add(1, Ordering::Relaxed);
                round(&bench, number).await.with_context(|| format!("round {number}"))?;
                tokio::time::sleep(pause.saturating_sub(begun.elapsed())).await;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// One caller's visit, on a connection of its own.
async fn round(bench: &Bench, number: u64) -> Result<()> {
    let mut connection = Connection::open(&bench.server.address).await?;
    match number % 8 {
        0..4 => connection.exchange(&bench::ask_dispatch(MODEL)).await,
        4 => {
            // Hangs up in the middle of the answer; the execution goes on.
            connection.begin(&bench::ask_dispatch("fake-chunks-20-slow-20")).await
        }
        5 => pause(&mut connection).await,
        6 => {
            let record = json!({ "type": "soak", "name": format!("r{}", number % 64), "metadata": { "n": number } });
            let status = connection.ask(&http::post("/v1/records", KEY, &record.to_string())).await?;
            connection.finish().await?;
            ensure!(status < 300 || status == 409, "a record was answered with {status}");
            connection.exchange(&http::get("/v1/executions?limit=20", KEY)).await
        }
        _ => {
            let key = bench.new_key().await?;
            connection.exchange(&bench::with_key(&bench::ask_dispatch(MODEL), &key)).await
        }
    }
}

/// A run that pauses for its caller's tool, and is answered.
async fn pause(connection: &mut Connection) -> Result<()> {
    let tool =
        json!({ "name": "look", "toolType": "local", "description": "Looks", "parametersSchema": { "type": "object" }, "config": {} });
    let config = json!({ "model": "local/echo", "userPrompt": "call look {}", "tools": { "runtimeTools": [tool] } });
    connection.exchange(&bench::dispatch(&json!([{ "id": "ask", "type": "prompt", "config": config }]), false)).await?;
    let paused: Value = serde_json::from_slice(connection.body())?;
    let run = paused["executionId"].as_str().context("no execution")?.to_owned();
    let answer = json!({ "executionId": run, "toolOutputs": { "look": "seen" }, "streamResponse": false });
    connection.exchange(&http::post("/v1/dispatch/resume", KEY, &answer.to_string())).await
}

/// Reads one long answer a few bytes at a time, again and again.
async fn slow_reader(bench: Arc<Bench>, over: Arc<AtomicBool>) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let mut connection = Connection::open(&bench.server.address).await?;
        connection.begin(&bench::ask_dispatch("fake-chunks-5000")).await?;
        // A reader that is too slow is cut in the end, as it should be; then it comes again.
        while !over.load(Ordering::Relaxed) && connection.sip(64).await.is_ok_and(|bytes| bytes > 0) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    Ok(())
}

async fn sample(bench: Arc<Bench>, time: Duration) -> Result<Vec<(f64, Held)>> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    while begun.elapsed() < time {
        samples.push((begun.elapsed().as_secs_f64(), held(&bench).await?));
        tokio::time::sleep(EVERY).await;
    }
    Ok(samples)
}

/// What is held once nothing goes on any more: no more than `baseline`, or what it is after a while.
async fn settled(bench: &Bench, baseline: Option<Held>) -> Result<Held> {
    let begun = Instant::now();
    let mut last = held(bench).await?;
    let mut same = 0;
    while begun.elapsed() < QUIET && same < 5 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = held(bench).await?;
        let calm = baseline
            .map_or(now.tasks == last.tasks && now.files == last.files, |wanted| now.tasks <= wanted.tasks && now.files <= wanted.files);
        same = if calm { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

async fn held(bench: &Bench) -> Result<Held> {
    let mut connection = Connection::open(&bench.server.address).await?;
    connection.exchange(&http::get("/metrics", KEY)).await?;
    let text = String::from_utf8_lossy(connection.body()).into_owned();
    let tasks = text.lines().find_map(|line| line.strip_prefix("dispatch_tasks ")).and_then(|value| value.parse::<f64>().ok());
    let wal = std::fs::metadata(wal_of(bench.data.path())).map_or(0, |file| file.len());
    Ok(Held { tasks: tasks.context("no task count")? as u64, files: bench.server.open_files()?, kib: bench.server.resident_kib()?, wal })
}

fn wal_of(data: &Path) -> std::path::PathBuf {
    data.join("dispatch.db-wal")
}

/// The growth of memory after the warm-up in MiB an hour, by least squares.
fn slope(samples: &[(f64, Held)]) -> f64 {
    let from = (samples.len() as f64 * WARM) as usize;
    let points: Vec<(f64, f64)> = samples.iter().skip(from).map(|(at, held)| (at / 3_600.0, held.kib as f64 / 1_024.0)).collect();
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let upper: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let lower: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if lower > 0.0 { upper / lower } else { 0.0 }
}
