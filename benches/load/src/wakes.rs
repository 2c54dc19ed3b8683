//! Waking: from a signal's request to the arrival of the call that the woken run makes next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::{Bench, KEY, Subject};
use crate::http::{self, Connection};

#[derive(Args)]
pub struct Arguments {
    /// Runs that wait.
    #[arg(long, default_value_t = 1_000)]
    runs: usize,
}

/// Callers that signal at once, one after the other measured.
const CONCURRENCY: [usize; 3] = [1, 16, 64];
const PATIENCE: Duration = Duration::from_secs(60);

/// When which run's call arrived.
type Arrivals = Arc<Mutex<HashMap<String, Instant>>>;

pub async fn run(subject: &Subject, arguments: Arguments) -> Result<()> {
    let bench = Bench::start(subject, &["--rate-limit", "0", "--allow-private", "127.0.0.1/32"]).await?;
    let arrivals = Arrivals::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, arrivals.clone()));
    let document = json!({
        "name": "wake", "version": 1,
        "steps": {
            "hold": { "wait": { "signal": "go" } },
            "next": { "after": ["hold"], "request": { "url": format!("http://{address}/{{{{ trigger.body.n }}}}") } },
        },
    });
    let mut connection = Connection::open(&bench.server.address).await?;
    connection.exchange(&http::with_body("PUT", "/api/workflows/wake", KEY, &document.to_string())).await?;
    let mut rows = Vec::new();
    for (round, concurrency) in CONCURRENCY.into_iter().enumerate() {
        let mut waiting = Vec::new();
        for number in 0..arguments.runs {
            let name = format!("{round}-{number}");
            let body = json!({ "n": name }).to_string();
            let begin = http::post("/workflows/wake", KEY, &body);
            let text = String::from_utf8(begin)?.replacen("\r\n", "\r\nPrefer: respond-async\r\n", 1);
            connection.exchange(text.as_bytes()).await?;
            let begun: Value = serde_json::from_slice(connection.body())?;
            waiting.push((name, begun["run_id"].as_str().context("a run")?.to_owned()));
        }
        for (_, run) in &waiting {
            loop {
                connection.exchange(&http::get(&format!("/api/runs/{run}"), KEY)).await?;
                let found: Value = serde_json::from_slice(connection.body())?;
                if found["status"] == "waiting" {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let row = wake(&bench, waiting, concurrency, &arrivals).await?;
        if !subject.json {
            println!("{concurrency:>3} at once {row}");
        }
        rows.push(json!({ "concurrency": concurrency, "figures": row }));
    }
    if subject.json {
        println!("{}", json!({ "runs": arguments.runs, "rows": rows }));
    }
    Ok(())
}

/// Signals all of these, so many at once, and says how long each took to wake.
async fn wake(bench: &Bench, waiting: Vec<(String, String)>, concurrency: usize, arrivals: &Arrivals) -> Result<Value> {
    let share = waiting.len().div_ceil(concurrency);
    let callers: Vec<_> = waiting
        .chunks(share)
        .map(|share| {
            let (share, address, arrivals) = (share.to_vec(), bench.server.address.clone(), arrivals.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let mut taken = Vec::with_capacity(share.len());
                for (name, run) in share {
                    let sent = Instant::now();
                    connection.exchange(&http::post(&format!("/api/runs/{run}/signal/go"), KEY, "{}")).await?;
                    // The next is sent when this one is awake: what is measured is waking, not a queue before it.
                    while !arrivals.lock().contains_key(&name) {
                        if sent.elapsed() > PATIENCE {
                            bail!("the run {run} did not wake");
                        }
                        tokio::time::sleep(Duration::from_micros(200)).await;
                    }
                    let woken = arrivals.lock().get(&name).copied().context("an arrival")?;
                    taken.push(woken.saturating_duration_since(sent).as_micros() as f64 / 1e3);
                }
                Ok::<_, anyhow::Error>(taken)
            })
        })
        .collect();
    let mut taken = Vec::new();
    for caller in callers {
        taken.extend(caller.await??);
    }
    taken.sort_by(f64::total_cmp);
    let at = |part: f64| taken.get(((taken.len() - 1) as f64 * part) as usize).copied().unwrap_or_default();
    Ok(json!({ "woken": taken.len(), "p50Ms": at(0.5), "p99Ms": at(0.99), "maxMs": at(1.0) }))
}

/// Answers every call, and notes when it came and by which path.
async fn serve(listener: TcpListener, arrivals: Arrivals) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, arrivals.clone()));
    }
}

async fn answer(mut stream: TcpStream, arrivals: Arrivals) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        let mut piece = [0; 4_096];
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(piece.get(..read).unwrap_or_default());
        // Its calls have no body.
        if head.ends_with(b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head);
            let path = text.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
            arrivals.lock().insert(path, Instant::now());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}").await?;
            head.clear();
        }
    }
}
