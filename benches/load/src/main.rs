//! The load driver: starts `dispatch fake-provider` and `dispatch serve` as processes of their own on loopback, drives them over
//! plain HTTP/1.1 and reads their CPU time and memory from the system. Compare ratios of one run, not figures of two.

mod bench;
mod cuts;
mod fair;
mod http;
mod jobs;
mod overload;
mod process;
mod readers;
mod soak;
mod speed;
mod upstream;
mod wakes;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    subject: bench::Subject,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Latency, requests a second, CPU and memory, beside the provider called directly.
    Speed(speed::Arguments),
    /// Several times more requests than can be done: refusals, memory, recovery.
    Overload(overload::Arguments),
    /// Streams that are cut at random bytes and joined again.
    Cuts(cuts::Arguments),
    /// Readers that take one byte a second.
    Readers(readers::Arguments),
    /// Jobs put in their queue and done.
    Jobs(jobs::Arguments),
    /// From a signal to the next call of the run that it wakes.
    Wakes(wakes::Arguments),
    /// One tenant's latencies alone, and beside another tenant at full load.
    Fair(fair::Arguments),
    /// A mixed load for long: tasks, files, memory and the write-ahead log.
    Soak(soak::Arguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { subject, scenario } = Arguments::parse();
    match scenario {
        Scenario::Speed(arguments) => speed::run(&subject, arguments).await,
        Scenario::Overload(arguments) => overload::run(&subject, arguments).await,
        Scenario::Cuts(arguments) => cuts::run(&subject, arguments).await,
        Scenario::Readers(arguments) => readers::run(&subject, arguments).await,
        Scenario::Jobs(arguments) => jobs::run(&subject, arguments).await,
        Scenario::Wakes(arguments) => wakes::run(&subject, arguments).await,
        Scenario::Fair(arguments) => fair::run(&subject, arguments).await,
        Scenario::Soak(arguments) => soak::run(&subject, arguments).await,
    }
}
