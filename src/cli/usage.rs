//! `dispatch usage`: what executions used and cost, read from the database itself; no server need run.

use serde_json::{Value, json};

use super::database::Location;
use super::output::Output;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::id::TenantId;
use crate::model::Target;
use crate::model::quota::day_of;
use crate::store::{SharedStore, UsageGrouping, UsageQuery, UsageTotal};

/// Rows that are read at once.
const PAGE: u32 = 1_000;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Location,
    /// Whose usage; every tenant's when absent. `dispatch tenants list` shows the ids.
    #[arg(long)]
    tenant: Option<String>,
    /// The first day in UTC, as in 2026-11-01; the first of this month when absent.
    #[arg(long, value_parser = parse_day)]
    from: Option<String>,
    /// The last day; today when absent.
    #[arg(long, value_parser = parse_day)]
    to: Option<String>,
    /// By what it is told apart; repeat or separate by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "day")]
    group_by: Vec<UsageDimension>,
}

/// A part of [`UsageGrouping`], on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum UsageDimension {
    Day,
    Key,
    Flow,
    Agent,
    Model,
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let clock = Clock::system();
    let Arguments { database, tenant, from, to, group_by } = arguments;
    let today = day_of(clock.now());
    let first_day = from.unwrap_or_else(|| format!("{}-01", today.get(..7).unwrap_or_default()));
    let query = UsageQuery { first_day, last_day: to.unwrap_or(today), by: grouping(&group_by), ..UsageQuery::default() };
    let (_, store) = database.open(&clock).await?;
    let found = read(&store, tenant.as_deref(), &query).await;
    store.close().await;
    let found = found?;
    found.iter().for_each(|(tenant, total)| output.say(line(*tenant, total)));
    let rows: Vec<Value> = found.iter().map(|(tenant, total)| shown(*tenant, total)).collect();
    output.envelope(json!({ "from": query.first_day, "to": query.last_day, "usage": rows }))
}

fn grouping(dimensions: &[UsageDimension]) -> UsageGrouping {
    UsageGrouping {
        day: dimensions.contains(&UsageDimension::Day),
        key: dimensions.contains(&UsageDimension::Key),
        flow: dimensions.contains(&UsageDimension::Flow),
        agent: dimensions.contains(&UsageDimension::Agent),
        model: dimensions.contains(&UsageDimension::Model),
    }
}

async fn read(store: &SharedStore, wanted: Option<&str>, query: &UsageQuery) -> Result<Vec<(TenantId, UsageTotal)>> {
    let tenants = store.list_tenants().await?.into_iter().map(|tenant| tenant.id);
    let tenants: Vec<TenantId> = tenants.filter(|tenant| wanted.is_none_or(|wanted| tenant.to_string() == wanted)).collect();
    if let Some(wanted) = wanted.filter(|_| tenants.is_empty()) {
        return Err(Error::new(Kind::Missing, "tenant_not_found", format!("there is no tenant `{wanted}`"))
            .next("`dispatch tenants list` shows the ids"));
    }
    let mut found = Vec::new();
    for tenant in tenants {
        let mut offset = 0;
        loop {
            let page = store.read_usage(tenant, UsageQuery { offset, limit: PAGE, ..query.clone() }).await?;
            let count = page.len() as u64;
            found.extend(page.into_iter().map(|total| (tenant, total)));
            offset += count;
            if count < u64::from(PAGE) {
                break;
            }
        }
    }
    Ok(found)
}

fn target_of(total: &UsageTotal) -> Option<String> {
    match total.target? {
        Target::Flow(id) => id.map(|id| id.to_string()),
        Target::Agent(id) => id.map(|id| id.to_string()),
        Target::Workflow(id) => Some(id.to_string()),
    }
}

/// One group as one line.
#[expect(clippy::cast_precision_loss, reason = "shown to people; the exact figure stays in nano-dollars")]
fn line(tenant: TenantId, total: &UsageTotal) -> String {
    let names = [total.day.clone(), total.key.map(|key| key.to_string()), target_of(total), total.model.clone()];
    let names: Vec<String> = names.into_iter().flatten().collect();
    let figures = &total.figures;
    format!(
        "{tenant}  {}  requests {}  executions {}  failures {}  tokens {} in, {} out  ${:.6}",
        names.join("  "),
        figures.requests,
        figures.executions,
        figures.failures,
        figures.input_tokens,
        figures.output_tokens,
        figures.cost as f64 / 1e9
    )
}

/// A group as the API shows it.
#[expect(clippy::cast_precision_loss, reason = "shown to people; the exact figure stays in nano-dollars")]
fn shown(tenant: TenantId, total: &UsageTotal) -> Value {
    let figures = &total.figures;
    json!({
        "tenant": tenant, "day": total.day, "keyId": total.key, "flowId": total.target.and_then(Target::flow_id),
        "agentId": total.target.and_then(Target::agent_id), "model": total.model, "requests": figures.requests,
        "executions": figures.executions, "failures": figures.failures, "inputTokens": figures.input_tokens,
        "outputTokens": figures.output_tokens, "cachedTokens": figures.cached_tokens, "reasoningTokens": figures.reasoning_tokens,
        "cost": figures.cost as f64 / 1e9,
    })
}

/// `2026-11-30`.
fn parse_day(text: &str) -> Result<String, String> {
    let day = text.parse::<jiff::civil::Date>().map_err(|_| format!("`{text}` is not a day; write it as in 2026-11-30"))?;
    Ok(day.to_string())
}
