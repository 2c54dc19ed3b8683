//! Usage: what executions used, by day, key, target and model.
//!
//! The rows are counters that grow in the very transaction of the commit that used something, under the commit's own compare-and-set: a
//! crash loses both or neither, and a commit that is sent again adds nothing. The journal could tell the same, but only per step and by
//! reading every entry of a period; a sum over a month would read all of its executions. What a run spends in a commit that a crash
//! prevents is missing here and in the run's own figures alike, so both always agree.
//!
//! A run counts as an execution on the day of its first commit, under no model; as a failure on the day of its last.

use async_trait::async_trait;

use super::row::{Columns, broken};
use super::{Commit, StoreResult};
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};
use crate::model::{ModelUsage, RunState, Target};

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageFigures {
    /// Calls of models.
    pub requests: u64,
    pub executions: u64,
    /// Executions that failed, or completed with failed steps.
    pub failures: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cached_tokens: u64,
    pub reasoning_tokens: u64,
    /// Nano-dollars.
    pub cost: u64,
}

/// By what usage is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageGrouping {
    pub day: bool,
    pub key: bool,
    pub flow: bool,
    pub agent: bool,
    pub model: bool,
}

/// Which usage, in the order of days, keys, targets and models.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// `2026-11-30`.
    pub first_day: String,
    pub last_day: String,
    /// Only of this key.
    pub key: Option<KeyId>,
    pub by: UsageGrouping,
    pub offset: u64,
    pub limit: u32,
}

/// The usage of one group. What was not asked for, and what there is none of, is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageTotal {
    pub day: Option<String>,
    pub key: Option<KeyId>,
    pub target: Option<Target>,
    pub model: Option<String>,
    pub figures: UsageFigures,
}

/// The store of usage. Commits of runs add to it.
#[async_trait]
pub trait Usages {
    /// Adds what was used outside of executions.
    async fn add_usage(&self, tenant: TenantId, key: Option<KeyId>, usage: ModelUsage, now: Timestamp) -> StoreResult<()>;

    async fn read_usage(&self, tenant: TenantId, query: UsageQuery) -> StoreResult<Vec<UsageTotal>>;
}

/// What a commit adds under one model.
pub(super) struct UsageLine {
    pub usage: ModelUsage,
    pub executions: u64,
    pub failures: u64,
}

impl Commit {
    /// What this commit adds to its tenant's usage.
    pub(super) fn usage_lines(&self) -> Vec<UsageLine> {
        let failed = match self.state {
            RunState::Failed => true,
            RunState::Completed => self.failure.is_some(),
            _ => false,
        };
        let (executions, failures) = (u64::from(self.number == 1), u64::from(failed));
        let of_run = UsageLine { usage: ModelUsage::default(), executions, failures };
        let of_models = self.usage.iter().map(|usage| UsageLine { usage: usage.clone(), executions: 0, failures: 0 });
        of_models.chain((executions + failures > 0).then_some(of_run)).collect()
    }
}

impl UsageFigures {
    /// The figures of a line.
    pub(super) const fn of(line: &UsageLine) -> Self {
        let usage = &line.usage;
        Self {
            requests: usage.requests,
            executions: line.executions,
            failures: line.failures,
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cached_tokens: usage.cached_tokens,
            reasoning_tokens: usage.reasoning_tokens,
            cost: usage.cost,
        }
    }

    /// Adds other figures.
    pub const fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.executions = self.executions.saturating_add(other.executions);
        self.failures = self.failures.saturating_add(other.failures);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
        self.cost = self.cost.saturating_add(other.cost);
    }
}

impl UsageGrouping {
    /// The target as this grouping shows it. An agent's stored target begins with `agent`, which no suffix of a flow's id does.
    pub(super) fn target(self, stored: &str) -> &str {
        let is_agent = stored.starts_with("agent");
        if self.agent && is_agent || self.flow && !is_agent { stored } else { "" }
    }

    /// The query's statement.
    pub(super) fn statement(self) -> String {
        let column = |wanted: bool, name: &'static str| if wanted { name } else { "''" };
        let target = match (self.flow, self.agent) {
            (true, true) => "target",
            (true, false) => "case when substr(target, 1, 5) = 'agent' then '' else target end",
            (false, true) => "case when substr(target, 1, 5) = 'agent' then target else '' end",
            (false, false) => "''",
        };
        let (day, key, model) = (column(self.day, "day"), column(self.key, "api_key"), column(self.model, "model"));
        format!(
            "select u.day_shown, u.key_shown, u.target_shown, u.model_shown, cast(sum(requests) as bigint) as requests, \
                cast(sum(executions) as bigint) as executions, cast(sum(failures) as bigint) as failures, \
                cast(sum(input_tokens) as bigint) as input_tokens, cast(sum(output_tokens) as bigint) as output_tokens, \
                cast(sum(cached_tokens) as bigint) as cached_tokens, cast(sum(reasoning_tokens) as bigint) as reasoning_tokens, \
                cast(sum(cost) as bigint) as cost \
             from (select {day} as day_shown, {key} as key_shown, {target} as target_shown, {model} as model_shown, requests, executions, \
                failures, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost from usage_days \
                where tenant = $1 and day >= $2 and day <= $3 and (cast($4 as text) is null or api_key = $4)) as u \
             group by u.day_shown, u.key_shown, u.target_shown, u.model_shown \
             order by u.day_shown, u.key_shown, u.target_shown, u.model_shown limit $5 offset $6"
        )
    }
}

fn shown(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A group's usage from the texts that a database keeps.
pub(super) fn total(day: &str, key: &str, target: &str, model: &str, figures: UsageFigures) -> StoreResult<UsageTotal> {
    let key = shown(key).map(|key| KeyId::from_suffix(&key).map_err(|why| broken("usage_days", "api_key", &key, why))).transpose()?;
    let target = shown(target)
        .map(|target| Target::read(Some(&target)).ok_or_else(|| broken("usage_days", "target", &target, "unknown target")))
        .transpose()?;
    Ok(UsageTotal { day: shown(day), key, target, model: shown(model), figures })
}

/// A row of the query.
pub(super) fn read_total(row: &impl Columns) -> StoreResult<UsageTotal> {
    let text = |column: &'static str| -> StoreResult<String> { Ok(row.text(column)?.unwrap_or_default()) };
    let count =
        |column: &'static str| -> StoreResult<u64> { Ok(row.number(column)?.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)) };
    let figures = UsageFigures {
        requests: count("requests")?,
        executions: count("executions")?,
        failures: count("failures")?,
        input_tokens: count("input_tokens")?,
        output_tokens: count("output_tokens")?,
        cached_tokens: count("cached_tokens")?,
        reasoning_tokens: count("reasoning_tokens")?,
        cost: count("cost")?,
    };
    total(&text("day_shown")?, &text("key_shown")?, &text("target_shown")?, &text("model_shown")?, figures)
}

/// A count as a column of a database keeps it.
pub(super) fn column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The store of usage on a SQL database: the statements are the same on each.
macro_rules! in_sql {
    ($store:ty, |$this:ident| read: $read:expr, write: $write:expr) => {
        #[async_trait]
        impl Usages for $store {
            async fn add_usage(&$this, tenant: TenantId, key: Option<KeyId>, usage: ModelUsage, now: Timestamp) -> StoreResult<()> {
                sqlx::query(
                    "insert into usage_days (tenant, day, api_key, target, model, shard, requests, executions, failures, input_tokens, \
                        output_tokens, cached_tokens, reasoning_tokens, cost) \
                     values ($1, $2, $3, '', $4, 0, $5, 0, 0, $6, $7, $8, $9, $10) \
                     on conflict (tenant, day, api_key, target, model, shard) do update set \
                        requests = usage_days.requests + excluded.requests, input_tokens = usage_days.input_tokens + excluded.input_tokens, \
                        output_tokens = usage_days.output_tokens + excluded.output_tokens, \
                        cached_tokens = usage_days.cached_tokens + excluded.cached_tokens, \
                        reasoning_tokens = usage_days.reasoning_tokens + excluded.reasoning_tokens, cost = usage_days.cost + excluded.cost",
                )
                .bind(tenant.suffix())
                .bind(day_of(now))
                .bind(key.map(|key| key.suffix()).unwrap_or_default())
                .bind(usage.model)
                .bind(column(usage.requests))
                .bind(column(usage.input_tokens))
                .bind(column(usage.output_tokens))
                .bind(column(usage.cached_tokens))
                .bind(column(usage.reasoning_tokens))
                .bind(column(usage.cost))
                .execute($write)
                .await
                .map(drop)
                .map_err(failed)
            }

            async fn read_usage(&$this, tenant: TenantId, query: UsageQuery) -> StoreResult<Vec<UsageTotal>> {
                let rows = sqlx::query(sqlx::AssertSqlSafe(query.by.statement()))
                    .bind(tenant.suffix())
                    .bind(query.first_day)
                    .bind(query.last_day)
                    .bind(query.key.map(|key| key.suffix()))
                    .bind(i64::from(query.limit))
                    .bind(column(query.offset))
                    .fetch_all($read)
                    .await
                    .map_err(failed)?;
                rows.iter().map(read_total).collect()
            }
        }
    };
}
pub(super) use in_sql;
