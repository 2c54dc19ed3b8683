//! What a model call may use at most, booked before it and corrected after it.
//!
//! A correction that does not reach the database is not tried again, for nobody would know whether it was made twice: the counter then
//! keeps the higher figure. So it does when a server dies, and when a call is dropped of which nobody knows what it used.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{BudgetShortage, Quotas, count_refusal, sort, taken_in};
use crate::engine::budget::Worst;
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::{Error, Kind, Result};
use crate::id::{KeyId, TenantId};
use crate::model::quota::minute_window;
use crate::store::{LimitsRow, QuotaAnswer, QuotaChange, QuotaTake, StoreResult};

/// No call uses more: larger figures only mean that nothing bounds it, and counters must not overflow.
const MAX_COST: u64 = 1_000_000_000_000_000;
const MAX_TOKENS: u64 = 1_000_000_000_000;

/// What came of the attempt to book a call.
pub(in crate::engine) enum QuotaRoom {
    /// Nothing limits it.
    Unlimited,
    Booked(QuotaHold),
    /// The tokens of this minute are used up; the next one begins in so long.
    Later(Duration),
    Exhausted(BudgetShortage),
}

/// The booking of one call.
pub(in crate::engine) struct QuotaHold {
    quotas: Arc<Quotas>,
    tenant: TenantId,
    takes: Vec<QuotaTake>,
    /// Nano-dollars and tokens, once they are known.
    used: Mutex<Option<(u64, u64)>>,
}

impl Quotas {
    /// Books what a call may use at most on every counter that limits it, or on none.
    pub(in crate::engine) async fn book(self: &Arc<Self>, tenant: TenantId, rows: &[LimitsRow], worst: Worst) -> StoreResult<QuotaRoom> {
        let takes = self.takes(rows, worst);
        if takes.is_empty() {
            return Ok(QuotaRoom::Unlimited);
        }
        match self.store.take_quota(tenant, takes.clone()).await? {
            QuotaAnswer::Taken(_) => Ok(QuotaRoom::Booked(QuotaHold { quotas: self.clone(), tenant, takes, used: Mutex::new(None) })),
            QuotaAnswer::Refused(place) => Ok(self.refusal(rows, takes.get(place))),
        }
    }

    fn takes(&self, rows: &[LimitsRow], worst: Worst) -> Vec<QuotaTake> {
        let now = self.clock.now();
        let (cost, tokens) = (worst.cost.min(MAX_COST), worst.tokens.min(MAX_TOKENS));
        let mut takes = Vec::new();
        for row in rows {
            takes.extend(row.limits.budgets.iter().map(|budget| QuotaTake {
                cost,
                tokens,
                max_cost: budget.nano_dollars(),
                max_tokens: budget.max_tokens,
                ..taken_in(row.key, budget.period.window(now))
            }));
            // A call that may use more than a minute's tokens has a minute to itself.
            takes.extend(row.limits.rate_limit.tokens_per_minute.map(|max| QuotaTake {
                cost,
                tokens: tokens.min(max),
                max_tokens: Some(max),
                ..taken_in(row.key, minute_window(now))
            }));
        }
        sort(&mut takes);
        takes
    }

    fn refusal(&self, rows: &[LimitsRow], take: Option<&QuotaTake>) -> QuotaRoom {
        let now = self.clock.now();
        let key = take.and_then(|take| take.key);
        let budgets = rows.iter().filter(|row| row.key == key).flat_map(|row| &row.limits.budgets);
        let mut windows = budgets.map(|budget| (budget.period, budget.period.window(now)));
        match windows.find(|(_, window)| take.is_some_and(|take| take.name == window.name)) {
            Some((period, window)) => QuotaRoom::Exhausted(BudgetShortage { of_key: key.is_some(), period, resets_at: window.ends_at }),
            None => {
                let wait = minute_window(now).ends_at.map_or(Duration::ZERO, |at| at.since(now));
                QuotaRoom::Later(wait.max(Duration::from_millis(1)))
            }
        }
    }

    /// Books a call for a caller who waits. Refusals: `budget_exceeded` (402), `rate_limited` (429).
    pub(in crate::engine) async fn book_or_refuse(
        self: &Arc<Self>,
        tenant: TenantId,
        key: Option<KeyId>,
        worst: Worst,
    ) -> Result<Option<QuotaHold>> {
        let rows = self.limits(tenant, key).await?;
        match self.book(tenant, &rows, worst).await? {
            QuotaRoom::Unlimited => Ok(None),
            QuotaRoom::Booked(hold) => Ok(Some(hold)),
            QuotaRoom::Later(wait) => {
                count_refusal("tokens");
                Err(Error::new(Kind::Limited, "rate_limited", "the tokens of this minute do not cover the call")
                    .retry_after(wait)
                    .next("wait as Retry-After says, then call again"))
            }
            QuotaRoom::Exhausted(shortage) => {
                count_refusal("budget");
                Err(shortage.error(self.clock.now()))
            }
        }
    }

    async fn correct(&self, tenant: TenantId, changes: Vec<QuotaChange>) {
        if let Err(error) = self.store.correct_quota(tenant, changes).await {
            tracing::warn!(%tenant, %error, "a booking was not corrected; the counters keep what the call might have used");
        }
    }
}

impl QuotaHold {
    /// Adds what the call is known to have used.
    pub fn note(&self, cost: u64, tokens: u64) {
        let mut used = self.used.lock();
        let (before_cost, before_tokens) = used.unwrap_or_default();
        *used = Some((before_cost.saturating_add(cost), before_tokens.saturating_add(tokens)));
    }

    /// Corrects the booking, now that the call has ended.
    pub async fn settle(mut self) {
        let changes = self.changes();
        if !changes.is_empty() {
            let quotas = self.quotas.clone();
            quotas.correct(self.tenant, changes).await;
        }
    }

    /// What turns the booking into what was used; only once, and nothing while that is not known.
    fn changes(&mut self) -> Vec<QuotaChange> {
        let Some((cost, tokens)) = *self.used.get_mut() else { return Vec::new() };
        let signed = |figure: u64| i64::try_from(figure).unwrap_or(i64::MAX);
        let changes = std::mem::take(&mut self.takes).into_iter().map(|take| QuotaChange {
            cost: signed(cost) - signed(take.cost),
            tokens: signed(tokens) - signed(take.tokens),
            key: take.key,
            name: take.name,
            requests: 0,
        });
        changes.collect()
    }
}

impl Drop for QuotaHold {
    fn drop(&mut self) {
        let changes = self.changes();
        if changes.is_empty() {
            return;
        }
        let (quotas, tenant) = (self.quotas.clone(), self.tenant);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { quotas.correct(tenant, changes).await });
        }
    }
}

impl StepContext<'_> {
    /// The limits of the key that started the run, and of its tenant.
    pub(in crate::engine) async fn usage_limits(&self) -> StepResult<Arc<[LimitsRow]>> {
        let (run, quotas) = (self.run, &self.run.engine.quotas);
        Ok(run.patiently(|| quotas.limits(run.tenant, run.input.key_id)).await?)
    }

    /// Books a model call against the limits; waits when only the minute's tokens are used up, and fails the run when a budget is.
    pub(in crate::engine) async fn hold(&self, limits: &[LimitsRow], worst: Worst) -> StepResult<Option<QuotaHold>> {
        if limits.is_empty() {
            return Ok(None);
        }
        let (run, quotas) = (self.run, &self.run.engine.quotas);
        loop {
            // Asked twice, it may be booked twice: then the counters keep too much, never too little.
            match run.patiently(|| quotas.book(run.tenant, limits, worst)).await? {
                QuotaRoom::Unlimited => return Ok(None),
                QuotaRoom::Booked(hold) => return Ok(Some(hold)),
                QuotaRoom::Later(wait) => self.outside(self.parts().clock.sleep(wait)).await,
                QuotaRoom::Exhausted(shortage) => {
                    count_refusal("budget");
                    let failure = StepFailure::new("budget_exceeded", shortage.message());
                    return Err(StepFailure { fatal: true, ..failure }.into());
                }
            }
        }
    }
}
