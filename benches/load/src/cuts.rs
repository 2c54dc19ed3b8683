//! Streams through a proxy that cuts them at random bytes: what a reader joins by `Last-Event-ID` is the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::{self, Bench, KEY, Subject};
use crate::http::{self, Connection};

#[derive(Args)]
pub struct Arguments {
    /// Connections to cut, in all.
    #[arg(long, default_value_t = 20_000)]
    cuts: usize,
    /// Readers at once, each of an execution of its own.
    #[arg(long, default_value_t = 16)]
    readers: usize,
    /// A connection lives for at most so many bytes.
    #[arg(long, default_value_t = 3_000)]
    bytes: usize,
    /// Where the cuts fall is drawn from this number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A model whose words come one by one, so that readers catch up with it now and then; no event of it is longer than a connection lives.
const PACED: &str = "fake-chunks-100-slow-2";

/// An event as a reader saw it: its number and its data.
type Event = (u64, Value);

pub async fn run(subject: &Subject, arguments: Arguments) -> Result<()> {
    let bench = Arc::new(Bench::start(subject, &["--rate-limit", "0"]).await?);
    let proxy = Proxy::start(&bench.server.address, arguments.bytes, arguments.seed).await?;
    let (cuts, runs) = (proxy.cuts.clone(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..arguments.readers {
        let (bench, address, cuts, runs) = (bench.clone(), proxy.address.clone(), cuts.clone(), runs.clone());
        tasks.push(tokio::spawn(async move {
            let mut events = 0;
            while cuts.load(Ordering::Relaxed) < arguments.cuts {
                events += follow(&bench, &address).await?;
                runs.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(events)
        }));
    }
    let mut events = 0;
    for task in tasks {
        events += task.await??;
    }
    let report = json!({
        "cuts": cuts.load(Ordering::Relaxed), "executions": runs.load(Ordering::Relaxed), "events": events, "missing": 0, "doubled": 0,
        "seed": arguments.seed,
    });
    println!("{}", if subject.json { report.to_string() } else { serde_json::to_string_pretty(&report)? });
    Ok(())
}

/// Starts an execution, reads it through the proxy to its end, and holds what was read against the log; how many events.
async fn follow(bench: &Bench, proxy: &str) -> Result<usize> {
    let mut direct = Connection::open(&bench.server.address).await?;
    let request = String::from_utf8(bench::ask_dispatch(PACED))?.replacen("\r\n", "\r\nprefer: respond-async\r\n", 1);
    let status = direct.ask(request.as_bytes()).await?;
    ensure!(status == 202, "an execution was answered with {status}");
    let run = direct.header("x-execution-id").context("no execution")?.to_owned();
    direct.finish().await?;
    let mut joined: Vec<Event> = Vec::new();
    while !joined.last().is_some_and(|(_, data)| is_end(data)) {
        let after = joined.last().map(|(id, _)| *id);
        let Some(frames) = read(proxy, &run, after).await? else { continue };
        for event in frames {
            ensure!(joined.last().is_none_or(|(last, _)| *last < event.0), "{run}: event {} came twice, or out of order", event.0);
            joined.push(event);
        }
    }
    let log = log(&mut direct, &run).await?;
    ensure!(joined == log, "{run}: {} events were joined, {} are in the log, or one differs", joined.len(), log.len());
    Ok(joined.len())
}

fn is_end(data: &Value) -> bool {
    matches!(data["type"].as_str(), Some("execution_complete" | "execution_error"))
}

/// What of the stream came through one connection; `None` when it was cut before the answer's head had come.
async fn read(proxy: &str, run: &str, after: Option<u64>) -> Result<Option<Vec<Event>>> {
    let mut stream = TcpStream::connect(proxy).await?;
    let cursor = after.map(|after| format!("last-event-id: {after}\r\n")).unwrap_or_default();
    // HTTP/1.0: the body is what comes, without marks of chunks.
    let request = format!(
        "GET /v1/executions/{run}/events HTTP/1.0\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\naccept: text/event-stream\r\n{cursor}\r\n"
    );
    let mut got = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        // An error is a cut like any other.
        let _ = stream.read_to_end(&mut got).await;
    }
    let Some(head) = got.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    ensure!(got.starts_with(b"HTTP/1.0 200") || got.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&got));
    let body = got.get(head + 4..).unwrap_or_default();
    let whole = body.windows(2).rposition(|window| window == b"\n\n").unwrap_or(0);
    let text = std::str::from_utf8(body.get(..whole).unwrap_or_default())?;
    text.split("\n\n").filter_map(event).collect::<Result<Vec<_>>>().map(Some)
}

/// The event of a frame; comments and `retry:` are none.
fn event(frame: &str) -> Option<Result<Event>> {
    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let (id, data) = (field("id:")?, field("data:")?);
    Some((|| Ok((id.parse()?, serde_json::from_str(data)?)))())
}

/// The whole log, page by page.
async fn log(direct: &mut Connection, run: &str) -> Result<Vec<Event>> {
    let (mut events, mut cursor) = (Vec::new(), String::new());
    loop {
        direct.exchange(&http::get(&format!("/v1/executions/{run}/events?wait=0{cursor}"), KEY)).await?;
        let page: Value = serde_json::from_slice(direct.body())?;
        let found = page["events"].as_array().context("no events")?;
        for event in found {
            events.push((event["seq"].as_u64().context("no number")?, event.clone()));
        }
        if found.is_empty() || found.last().is_some_and(is_end) {
            return Ok(events);
        }
        cursor = format!("&after={}", page["after"]);
    }
}

/// Forwards connections and cuts each after a random number of the answer's bytes.
struct Proxy {
    address: String,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(server: &str, bytes: usize, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, cuts) = (listener.local_addr()?.to_string(), Arc::new(AtomicUsize::new(0)));
        let (server, count, mut chance) = (server.to_owned(), cuts.clone(), fastrand::Rng::with_seed(seed));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (server, count, left) = (server.clone(), count.clone(), chance.usize(0..bytes));
                tokio::spawn(async move {
                    if let Ok(true) = forward(near, &server, left).await {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Ok(Self { address, cuts })
    }
}

/// Whether the answer was cut, rather than read to its end.
async fn forward(mut near: TcpStream, server: &str, mut left: usize) -> Result<bool> {
    let mut far = TcpStream::connect(server).await?;
    let (mut asked, mut answered) = ([0; 4_096], [0; 4_096]);
    loop {
        tokio::select! {
            count = near.read(&mut asked) => match count? {
                0 => return Ok(false),
                count => far.write_all(asked.get(..count).unwrap_or_default()).await?,
            },
            count = far.read(&mut answered) => match count? {
                0 => return Ok(false),
                count => {
                    near.write_all(answered.get(..count.min(left)).unwrap_or_default()).await?;
                    left = left.saturating_sub(count);
                    if left == 0 {
                        return Ok(true);
                    }
                }
            },
        }
    }
}
