//! Budgets and rates of keys and tenants, which all servers of a database share.
//!
//! - [`Quotas::admit`] is asked before an execution is accepted ([`admit`]): it refuses when a budget is used up, a rate is exceeded, or too
//!   many executions are under way.
//! - Before each model call, what it may use at most is booked in the database, and corrected afterwards ([`hold`]).
//!
//! Limits are read at most once in [`LIMITS_TTL`] for each key, so calls of a key without limits ask the database for nothing else.
//! PermitPortion for requests are taken from the database in small portions, at most a fiftieth of the limit: a server may leave the rest of one
//! portion unused in a minute, and never gives out more than the limit together with the others.
//!
//! Must not know: HTTP, and who is calling but for a key's id.

mod admit;
mod hold;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::Mutex;

pub use admit::{Admission, RequestRate};
pub(super) use hold::QuotaHold;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::id::{KeyId, TenantId};
use crate::model::UsageLimits;
use crate::model::quota::{BudgetPeriod, PeriodBudget, QuotaWindow};
use crate::store::{LimitsRow, QuotaCount, QuotaTake, SharedStore, StoreError, StoreResult};
use admit::PermitPortion;

/// How long limits are believed without reading them again, and so how soon a change on another server holds here.
pub const LIMITS_TTL: Duration = Duration::from_secs(5);
/// Keys whose limits are remembered.
const MAX_KNOWN: u64 = 10_000;
/// How long a counter is kept after its window, for calls that end late.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
const REFUSALS: &str = "dispatch_limit_refusals_total";

/// Whose limits: a key's, or with no key those of its tenant.
type Subject = (TenantId, Option<KeyId>);

/// See the module.
pub struct Quotas {
    store: SharedStore,
    clock: Clock,
    known: Cache<Subject, (Timestamp, Arc<[LimitsRow]>)>,
    permits: Mutex<HashMap<Subject, PermitPortion>>,
}

/// How much of a budget is used.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetUse {
    pub budget: PeriodBudget,
    /// Nano-dollars, those set aside for calls under way included.
    pub cost: u64,
    pub tokens: u64,
    /// When the next period begins; `None`: never.
    pub resets_at: Option<Timestamp>,
}

/// A budget that does not cover what is asked for.
#[derive(Debug, Clone)]
pub(super) struct BudgetShortage {
    /// Of the key, else of the tenant.
    of_key: bool,
    period: BudgetPeriod,
    resets_at: Option<Timestamp>,
}

/// Tells the metrics recorder what the numbers mean.
pub(super) fn describe() {
    metrics::describe_counter!(REFUSALS, "Executions and model calls that a budget or a rate refused, by kind of limit");
}

/// Exports every counter with 0, so that the first increment is visible.
pub(super) fn register() {
    for kind in ["budget", "requests", "tokens", "concurrent"] {
        metrics::counter!(REFUSALS, "limit" => kind).increment(0);
    }
}

fn count_refusal(kind: &'static str) {
    metrics::counter!(REFUSALS, "limit" => kind).increment(1);
}

impl Quotas {
    pub(super) fn new(store: SharedStore, clock: Clock) -> Self {
        Self { store, clock, known: Cache::new(MAX_KNOWN), permits: Mutex::default() }
    }

    /// The limits that hold for calls of a key: those of its tenant and its own, as far as there are any.
    pub async fn limits(&self, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Arc<[LimitsRow]>> {
        let now = self.clock.now();
        let known = self.known.get(&(tenant, key));
        if let Some((read, rows)) = &known
            && now.since(*read) < LIMITS_TTL
        {
            return Ok(rows.clone());
        }
        match (self.store.find_limits(tenant, key).await, known) {
            (Ok(rows), _) => {
                let rows: Arc<[LimitsRow]> = rows.into();
                self.known.insert((tenant, key), (now, rows.clone()));
                Ok(rows)
            }
            // Limits that were read before hold on while the database is away; without any, work goes on as it does elsewhere.
            (Err(StoreError::Unavailable(_)), Some((_, rows))) => Ok(rows),
            (Err(error), _) => Err(error),
        }
    }

    /// The limits of a key itself, or of the tenant itself.
    pub async fn own_limits(&self, tenant: TenantId, key: Option<KeyId>) -> Result<UsageLimits> {
        let rows = self.store.find_limits(tenant, key).await?;
        Ok(rows.into_iter().find(|row| row.key == key).map(|row| row.limits).unwrap_or_default())
    }

    /// Replaces the limits of a key, or of the tenant. At once on this server, within [`LIMITS_TTL`] on others.
    pub async fn put(&self, tenant: TenantId, key: Option<KeyId>, limits: UsageLimits) -> Result<()> {
        self.store.put_limits(tenant, LimitsRow { key, limits }, self.clock.now()).await?;
        self.known.invalidate_all();
        Ok(())
    }

    /// How much of the budgets of a key, or of the tenant, is used.
    pub async fn used(&self, tenant: TenantId, key: Option<KeyId>, limits: &UsageLimits) -> Result<Vec<BudgetUse>> {
        let row = LimitsRow { key, limits: limits.clone() };
        let counts = self.counts(tenant, key, std::slice::from_ref(&row)).await?;
        let now = self.clock.now();
        let used = limits.budgets.iter().map(|budget| {
            let window = budget.period.window(now);
            let count = find(&counts, key, &window.name);
            BudgetUse { budget: *budget, cost: count.cost, tokens: count.tokens, resets_at: window.ends_at }
        });
        Ok(used.collect())
    }

    /// The counters of the budgets of these limits. One that was not opened yet is opened now, with what was used before.
    async fn counts(&self, tenant: TenantId, key: Option<KeyId>, rows: &[LimitsRow]) -> StoreResult<Vec<QuotaCount>> {
        let now = self.clock.now();
        let counts = self.store.count_quota(tenant, key).await?;
        let wanted = rows.iter().flat_map(|row| row.limits.budgets.iter().map(|budget| (row.key, budget.period.window(now))));
        let mut missing: Vec<QuotaTake> = wanted
            .filter(|(key, window)| !counts.iter().any(|count| count.key == *key && count.name == window.name))
            .map(|(key, window)| taken_in(key, window))
            .collect();
        if missing.is_empty() {
            return Ok(counts);
        }
        sort(&mut missing);
        self.store.take_quota(tenant, missing).await?;
        self.store.count_quota(tenant, key).await
    }
}

fn find(counts: &[QuotaCount], key: Option<KeyId>, name: &str) -> QuotaCount {
    counts.iter().find(|count| count.key == key && count.name == name).cloned().unwrap_or_default()
}

/// A booking of nothing in a window.
fn taken_in(key: Option<KeyId>, window: QuotaWindow) -> QuotaTake {
    QuotaTake {
        key,
        name: window.name,
        first_day: window.first_day,
        expires_at: window.ends_at.map(|ends_at| ends_at.after(KEPT_FOR)),
        ..QuotaTake::default()
    }
}

/// All servers book in one order, so that they do not block each other.
fn sort(takes: &mut [QuotaTake]) {
    takes.sort_by(|one, other| (one.key, &one.name).cmp(&(other.key, &other.name)));
}

impl BudgetShortage {
    fn message(&self) -> String {
        let whose = if self.of_key { "this key" } else { "the tenant" };
        format!("the {} budget of {whose} is used up, or set aside for calls that are under way", self.period.as_str())
    }

    fn next(&self) -> String {
        let raise = if self.of_key { "raise it at PUT /v1/api-keys/{keyId}/limits" } else { "raise it at PUT /v1/limits" };
        self.resets_at.map_or_else(|| raise.to_owned(), |at| format!("wait until {at}, when the next period begins, or {raise}"))
    }

    /// The refusal of a call: 402 `budget_exceeded`.
    fn error(&self, now: Timestamp) -> Error {
        let error = Error::new(Kind::Unconfigured, "budget_exceeded", self.message()).next(self.next());
        match self.resets_at {
            Some(at) => error.retry_after(at.since(now)),
            None => error,
        }
    }
}
