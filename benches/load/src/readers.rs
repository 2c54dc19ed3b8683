//! Readers that take one byte a second: they neither slow the execution that they read nor cost more than their socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;

use crate::bench::{self, Bench, KEY, STREAMS_PER_KEY, Subject};
use crate::http::{self, Connection};

#[derive(Args)]
pub struct Arguments {
    #[arg(long, default_value_t = 1_000)]
    readers: usize,
    /// Executions that are timed without and with readers, in turn; the median of each counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Some seconds of words, one by one.
const PACED: &str = "fake-chunks-1500-slow-2";
/// How much slower the execution may become.
const MOST: f64 = 1.05;
/// KiB of the server's memory for each reader.
const MOST_KIB: f64 = 64.0;
const BYTE_EVERY: Duration = Duration::from_secs(1);

pub async fn run(subject: &Subject, arguments: Arguments) -> Result<()> {
    let bench = Bench::start(subject, &["--rate-limit", "0"]).await?;
    let mut keys = Vec::new();
    for _ in 0..arguments.readers.div_ceil(STREAMS_PER_KEY) {
        keys.push(bench.new_key().await?);
    }
    timed(&bench, &keys, 0).await?;
    let (mut alone, mut crowded, mut each) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        alone.push(timed(&bench, &keys, 0).await?.0);
        let (seconds, kib) = timed(&bench, &keys, arguments.readers).await?;
        crowded.push(seconds);
        each.push(kib);
    }
    let (alone, crowded) = (median(&mut alone), median(&mut crowded));
    let most = each.iter().copied().fold(0.0, f64::max);
    let report = json!({
        "readers": arguments.readers, "aloneSeconds": alone, "crowdedSeconds": crowded, "ratio": crowded / alone, "mostKibPerReader": most,
    });
    println!("{}", if subject.json { report.to_string() } else { serde_json::to_string_pretty(&report)? });
    ensure!(crowded / alone < MOST, "slow readers slow the execution");
    ensure!(most < MOST_KIB, "slow readers take memory");
    Ok(())
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// Seconds from the first to the last byte of an execution with so many slow readers, and KiB of memory for each of them.
async fn timed(bench: &Bench, keys: &[String], readers: usize) -> Result<(f64, f64)> {
    // A run of its own is there to be read, and outlives the readers' coming.
    let mut first = Connection::open(&bench.server.address).await?;
    let before = bench.server.resident_kib()?;
    let begun = Instant::now();
    first.begin(&bench::ask_dispatch(PACED)).await?;
    let run = first.header("x-execution-id").context("no execution")?.to_owned();
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::with_capacity(readers);
    for index in 0..readers {
        let key = keys.get(index / STREAMS_PER_KEY).context("no key")?;
        let request = bench::with_key(&http::get(&format!("/v1/executions/{run}/events"), KEY), key);
        let request = String::from_utf8(request)?.replacen("\r\n", "\r\naccept: text/event-stream\r\n", 1);
        let (address, over) = (bench.server.address.clone(), over.clone());
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            connection.begin(request.as_bytes()).await?;
            while !over.load(Ordering::Relaxed) && connection.sip(1).await? > 0 {
                tokio::time::sleep(BYTE_EVERY).await;
            }
            anyhow::Ok(())
        }));
    }
    first.finish().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let kib = bench.server.resident_kib()?.saturating_sub(before) as f64 / readers.max(1) as f64;
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    Ok((seconds, kib))
}
