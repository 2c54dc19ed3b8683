//! `dispatch selftest crash`: kills a real server at every named point and at random moments, and compares what
//! its callers were told, what its logs hold and what really happened outside with what it promises.
//!
//! The server is this very binary, as a child with a database of its own. Everything runs on the loopback
//! interface: a sink that counts effects, and the fake provider. Must not know: anything of a server that its API does
//! not tell.

mod blows;
mod caller;
mod dice;
mod drive;
mod job;
mod kills;
mod ledger;
mod place;
mod points;
mod report;
mod sink;
mod site;
mod story;
mod told;
mod upstream;
mod verdict;
mod workflow;
mod world;

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::try_join_all;
use parking_lot::Mutex;

use super::output::Output;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::failpoint;
use blows::Blow;
use dice::Dice;
use kills::Storm;
use place::Store;
use report::Report;
use site::{Ground, Site};

/// Most runs in flight.
const WIDEST: usize = 200;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    test: Test,
}

#[derive(Debug, clap::Subcommand)]
enum Test {
    /// Kill a server at every named point and at random moments, and look for anything lost, redone or doubled.
    Crash(Crash),
}

/// See the module.
#[derive(Debug, Clone, clap::Args)]
struct Crash {
    /// How many blows are dealt at random moments.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// The database to test on.
    #[arg(long, value_enum, default_value_t = Store::Sqlite)]
    store: Store,
    /// A PostgreSQL database in which schemas for the test may be made and dropped.
    #[arg(long, env = "DISPATCH_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Kinds of blows, dealt in turn.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kill")]
    blows: Vec<Blow>,
    /// Servers over the one database; more than one needs PostgreSQL.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    nodes: u8,
    /// A shell command that restarts the database, for the blow `database`.
    #[arg(long)]
    restart_database: Option<String>,
    /// Named points to die at: `all`, `none`, or names separated by commas.
    #[arg(long, default_value = "all")]
    points: String,
    /// What is random is drawn from this number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs in flight while the server is killed at random; more kills, more runs, when absent.
    #[arg(long)]
    in_flight: Option<usize>,
    /// Servers that walk through the named points side by side.
    #[arg(long, default_value_t = 4)]
    lanes: usize,
}

/// Whether everything held.
pub async fn run(arguments: Arguments, output: &Output) -> Result<bool> {
    let Test::Crash(crash) = arguments.test;
    let points = crash.points()?;
    crash.check()?;
    let clock = Clock::system();
    let begun = clock.instant();
    let report = Arc::new(Mutex::new(Report::default()));
    output.say(format_args!("{} named points, then {} blows at random, on {}", points.len(), crash.kills, crash.store.name()));
    crash.walk(points, &clock, &report, output).await?;
    if crash.kills > 0 {
        crash.storm(&clock, &report, output).await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let report = report.lock();
    report.say(output, seconds);
    output.envelope(report.json(crash.store.name(), crash.seed, seconds))?;
    Ok(report.is_clean())
}

impl Crash {
    fn points(&self) -> Result<Vec<&'static str>> {
        match self.points.as_str() {
            "all" => return Ok(failpoint::ALL.to_vec()),
            "none" | "" => return Ok(Vec::new()),
            _ => {}
        }
        let known = |name: &str| {
            let found = failpoint::ALL.iter().find(|point| **point == name).copied();
            found.ok_or_else(|| Error::invalid_at("/points", format!("unknown point `{name}`; one of {}", failpoint::ALL.join(", "))))
        };
        self.points.split(',').map(|name| known(name.trim())).collect()
    }

    fn ground(&self, nodes: usize) -> Ground {
        let (database_url, restart_database) = (self.database_url.clone(), self.restart_database.clone());
        Ground { store: self.store, database_url, nodes, restart_database }
    }

    /// What cannot be done is said before anything is done.
    fn check(&self) -> Result<()> {
        let wants = |blow| self.blows.contains(&blow);
        let fault = match self.store {
            Store::Sqlite if self.nodes > 1 => ("/nodes", "several servers share a database on PostgreSQL only; add --store postgres"),
            Store::Sqlite if wants(Blow::Deaf) || wants(Blow::Database) => ("/blows", "deaf and database are blows to PostgreSQL"),
            Store::Postgres if wants(Blow::Disk) => {
                ("/blows", "disk is a blow to SQLite: on PostgreSQL, the server's disk is not the database's")
            }
            _ if wants(Blow::Database) && self.restart_database.is_none() => ("/restart-database", "the blow database needs this command"),
            _ => return Ok(()),
        };
        Err(Error::invalid_at(fault.0, fault.1.to_owned()))
    }

    /// Walks through the points, several side by side, each lane with a server and a database of its own.
    async fn walk(&self, points: Vec<&'static str>, clock: &Clock, report: &Mutex<Report>, output: &Output) -> Result<()> {
        let lanes = self.lanes.clamp(1, points.len().max(1));
        let left = Mutex::new(points.into_iter().enumerate().collect::<VecDeque<_>>());
        let lane = async || -> Result<()> {
            let next = || left.lock().pop_front();
            let Some(mut point) = next() else { return Ok(()) };
            let site = Site::open(&self.ground(1), clock).await?;
            let mut own = Report::default();
            let walked = loop {
                let (number, name) = point;
                let mut dice = Dice::for_part(self.seed, u64::try_from(number).unwrap_or(0) + 1);
                let before = own.violations.len();
                if let Err(error) = points::walk(&site, name, &mut dice, &mut own).await {
                    break Err(error);
                }
                let found = own.violations.len() - before;
                output.say(format_args!("{name:<24}{}", if found == 0 { "held".to_owned() } else { format!("{found} violations") }));
                match next() {
                    Some(more) => point = more,
                    None => break Ok(()),
                }
            };
            let keep = walked.is_err() || !own.is_clean();
            own.kept.extend(site.close(keep).await?);
            report.lock().absorb(own);
            walked
        };
        try_join_all((0..lanes).map(|_| lane())).await.map(drop)
    }

    async fn storm(&self, clock: &Clock, report: &Mutex<Report>, output: &Output) -> Result<()> {
        let wide = 20 + usize::try_from(self.kills).unwrap_or(WIDEST).saturating_mul(4);
        let width = self.in_flight.unwrap_or_else(|| wide.min(WIDEST));
        output.say(format_args!("{width} runs in flight"));
        let site = Site::open(&self.ground(usize::from(self.nodes)), clock).await?;
        let mut own = Report::default();
        let said = |number: u32| {
            if number.is_multiple_of(10) {
                output.say(format_args!("{number} blows"));
            }
        };
        let storm = Storm { blows: &self.blows, count: self.kills, width };
        let stormed = storm.rage(&site, Dice::for_part(self.seed, 0), &mut own, said).await;
        let keep = stormed.is_err() || !own.is_clean();
        own.kept.extend(site.close(keep).await?);
        report.lock().absorb(own);
        stormed
    }
}
