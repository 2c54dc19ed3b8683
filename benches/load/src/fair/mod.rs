//! Fairness: the latencies of one tenant's small work alone, and beside another tenant at full load of each kind.
//!
//! Each kind of load has a server of its own, and the tenant is measured alone on that server first. The load driver, the services that are called
//! and the server share the machine, so compare ratios: a part of each is the driver's own work.

mod flood;
mod probe;
mod services;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use self::flood::Flood;
use self::probe::{Probe, ProbeResult};
use self::services::Services;
use crate::bench::{Bench, Subject};
use crate::http::{self, Connection};

#[derive(Args)]
pub struct Arguments {
    /// Seconds for each measurement, alone and beside the other tenant.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections of the other tenant; sixteen times as many silent ones.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Fail when a 99th percentile beside the other tenant is more than this many times the one alone, or when a request fails.
    #[arg(long)]
    most: Option<f64>,
    /// Only these kinds of load; repeat or separate by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    flood: Vec<Flood>,
    /// Only these kinds of small work; repeat or separate by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    probe: Vec<Probe>,
}

/// From the start of a load until it is measured beside it.
const RAMP: Duration = Duration::from_secs(3);
/// Small work before anything is measured: processes start, caches fill.
const WARM_UP: Duration = Duration::from_millis(700);
/// How long what is left of a load may take to end.
const SETTLE: Duration = Duration::from_secs(120);
const ALL_PROBES: [Probe; 4] = [Probe::Prompt, Probe::Script, Probe::Pdf, Probe::Job];

/// One kind of small work beside one kind of load.
struct Cell {
    flood: Flood,
    probe: Probe,
    alone: ProbeResult,
    beside: ProbeResult,
}

pub async fn run(subject: &Subject, arguments: Arguments) -> Result<()> {
    let floods = if arguments.flood.is_empty() { Flood::ALL.to_vec() } else { arguments.flood.clone() };
    let probes = if arguments.probe.is_empty() { ALL_PROBES.to_vec() } else { arguments.probe.clone() };
    let services = Services::start().await?;
    if !subject.json {
        println!("{}", Cell::head());
    }
    let mut cells = Vec::new();
    for flood in floods {
        let measured = measure(subject, &arguments, flood, &probes, &services).await?;
        if !subject.json {
            measured.iter().for_each(|cell| println!("{}", cell.line()));
        }
        cells.extend(measured);
    }
    if subject.json {
        let rows: Vec<Value> = cells.iter().map(Cell::row).collect();
        println!("{}", json!({ "seconds": arguments.seconds, "connections": arguments.connections, "rows": rows }));
    }
    if let Some(most) = arguments.most {
        let unfair: Vec<String> = cells.iter().filter(|cell| cell.is_unfair(most)).map(Cell::line).collect();
        ensure!(unfair.is_empty(), "above {most} times, or with requests that failed:\n{}", unfair.join("\n"));
    }
    Ok(())
}

/// Measures each kind of small work alone, and then beside one kind of load.
async fn measure(subject: &Subject, arguments: &Arguments, flood: Flood, probes: &[Probe], services: &Services) -> Result<Vec<Cell>> {
    let bench = Bench::start(subject, &["--rate-limit", "0", "--allow-private", "127.0.0.1/32"]).await?;
    let loud = bench.new_tenant(subject, "loud").await?;
    let (address, time) = (&bench.server.address, Duration::from_secs(arguments.seconds));
    let mut alone = Vec::with_capacity(probes.len());
    for probe in probes {
        probe.measure(address, &services.arrivals, WARM_UP).await;
        let measured = probe.measure(address, &services.arrivals, time).await;
        ensure!(measured.count() > 0, "no {} succeeded alone", probe.name());
        alone.push(measured);
    }
    let load = flood.start(address, &loud, arguments.connections, services);
    tokio::time::sleep(RAMP).await;
    let mut cells = Vec::with_capacity(probes.len());
    for (probe, alone) in probes.iter().zip(alone) {
        let beside = probe.measure(address, &services.arrivals, time).await;
        cells.push(Cell { flood, probe: *probe, alone, beside });
    }
    ensure!(load.accepted() > 0, "the server accepted nothing of the load {}: {} requests were refused", flood.name(), load.refused());
    drop(load);
    // The next server has a database of its own, unless one was named.
    if subject.store != "sqlite" {
        settle(address, &loud).await?;
    }
    Ok(cells)
}

/// Cancels the jobs that are left of a load, and waits for the end of its executions.
async fn settle(address: &str, key: &str) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < SETTLE {
        if is_settled(address, key).await.unwrap_or(false) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("what the other tenant began did not end within {} s", SETTLE.as_secs())
}

async fn is_settled(address: &str, key: &str) -> Result<bool> {
    let mut connection = Connection::open(address).await?;
    connection.exchange(&http::post("/v1/jobs/cancel-all", key, "{}")).await?;
    connection.exchange(&http::get("/v1/stats", key)).await?;
    let stats: Value = serde_json::from_slice(connection.body()).context("the answer of /v1/stats")?;
    let counts = [&stats["jobs"]["pending"], &stats["jobs"]["running"], &stats["jobs"]["retrying"], &stats["workflows"]["running"]];
    Ok(counts.into_iter().all(|count| count == 0))
}

impl Cell {
    fn ratio(&self, part: f64) -> f64 {
        self.beside.percentile(part) / self.alone.percentile(part)
    }

    fn is_unfair(&self, most: f64) -> bool {
        self.ratio(0.99) > most || self.beside.failed > 0
    }

    fn head() -> String {
        let (load, work) = ("load", "work");
        format!(
            "{load:<10} {work:<6} | {:>9} {:>9} | {:>9} {:>9} | {:>6} {:>6} | {:>7} {:>7}",
            "alone p50", "p99", "beside", "p99 ms", "ratio", "p99", "asked", "failed"
        )
    }

    fn line(&self) -> String {
        format!(
            "{:<10} {:<6} | {:>9.2} {:>9.2} | {:>9.2} {:>9.2} | {:>6.2} {:>6.2} | {:>7} {:>7}",
            self.flood.name(),
            self.probe.name(),
            self.alone.percentile(0.5),
            self.alone.percentile(0.99),
            self.beside.percentile(0.5),
            self.beside.percentile(0.99),
            self.ratio(0.5),
            self.ratio(0.99),
            self.beside.count() + self.beside.failed,
            self.beside.failed,
        )
    }

    fn row(&self) -> Value {
        json!({
            "load": self.flood.name(), "work": self.probe.name(), "alone": self.alone.row(), "beside": self.beside.row(),
            "ratioP50": self.ratio(0.5), "ratioP99": self.ratio(0.99),
        })
    }
}
