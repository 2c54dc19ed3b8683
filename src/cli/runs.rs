//! `dispatch runs`: lists and discards unfinished executions directly in the database, also while every server is down.

use clap::Subcommand;
use serde_json::{Value, json};

use super::database::Location;
use super::output::Output;
use crate::app;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::id::{RunId, TenantId};
use crate::model::{Run, RunState};
use crate::store::{RunFilter, SharedStore};

/// Runs per page.
const PAGE: u32 = 500;
/// States in which a run has an owner, or had one that was lost.
const HELD: [RunState; 2] = [RunState::Running, RunState::Compensating];
const UNENDED: [RunState; 4] = [RunState::Queued, RunState::Running, RunState::Paused, RunState::Compensating];

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Location,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the unfinished executions of all tenants, newest first.
    List {
        /// Only executions that lost a server and have made no progress since.
        #[arg(long)]
        stuck: bool,
    },
    /// End an execution as failed. Refused while a server may be running it.
    Discard {
        /// Id of the execution, as shown by `dispatch runs list`.
        id: String,
    },
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let clock = Clock::system();
    match arguments.command {
        Command::List { stuck } => {
            let (_, store) = arguments.database.open(&clock).await?;
            let found = list(&store, stuck).await;
            store.close().await;
            let found = found?;
            found.iter().for_each(|run| output.say(line(run)));
            output.envelope(json!({ "runs": found.iter().map(shown).collect::<Vec<_>>() }))
        }
        Command::Discard { id } => {
            let missing = || Error::missing("execution").next("`dispatch runs list` shows the ids");
            let id: RunId = id.parse().map_err(|_| missing())?;
            let config = arguments.database.existing()?;
            let run = app::discard_run(&config, &clock, id).await?;
            output.say(format_args!("{id} was ended as failed with the code run_discarded"));
            output.envelope(json!({ "id": id, "tenant": run.tenant, "discarded": true }))
        }
    }
}

async fn list(store: &SharedStore, stuck: bool) -> Result<Vec<Run>> {
    let mut found = Vec::new();
    for tenant in store.list_tenants().await? {
        found.extend(of_tenant(store, tenant.id, stuck).await?);
    }
    Ok(found)
}

async fn of_tenant(store: &SharedStore, tenant: TenantId, stuck: bool) -> Result<Vec<Run>> {
    let states: &[RunState] = if stuck { &HELD } else { &UNENDED };
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let filter = RunFilter { states: states.to_vec(), before, limit: PAGE, ..RunFilter::default() };
        let page = store.list_runs(tenant, filter).await?;
        for summary in &page {
            // The run may end in the meantime.
            let run = store.find_run(tenant, summary.id).await?;
            found.extend(run.filter(|run| !stuck || run.recoveries > 0));
        }
        before = page.last().map(|summary| summary.id);
        if page.len() < PAGE as usize {
            return Ok(found);
        }
    }
}

/// Formats one run as a line of text.
fn line(run: &Run) -> String {
    let lost = run.recoveries;
    format!("{}  {:<12}  lost servers: {lost:<3}  {}  {}", run.id, run.state.as_str(), run.created_at, run.flow_name)
}

/// Formats a run as JSON.
fn shown(run: &Run) -> Value {
    json!({
        "id": run.id, "tenant": run.tenant, "status": run.state.as_str(), "name": run.flow_name, "lostServers": run.recoveries,
        "createdAt": run.created_at, "dueAt": run.wake_at,
    })
}
