//! Whether an execution may begin.

use std::time::Duration;

use super::{BudgetShortage, KEPT_FOR, Quotas, count_refusal, find};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{KeyId, RunId, TenantId};
use crate::model::quota::minute_window;
use crate::store::{LimitsRow, QuotaAnswer, QuotaSlot, QuotaTake, StoreResult};

/// A server takes permits in portions of this part of the limit.
const PORTIONS: u32 = 50;
/// PermitPortion of one portion at most.
const MAX_PORTION: u32 = 100;
/// How long an admitted execution may take to have a row.
const BIRTH: Duration = Duration::from_secs(30);

/// What is left of a limit on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    pub limit: u32,
    /// As of when this server last asked the database, less what it gave out since.
    pub remaining: u32,
    /// Until all of it is back.
    pub reset: Duration,
}

/// Whether a call is admitted, and what is left of its rate if that is limited.
#[derive(Debug)]
pub struct Admission {
    pub rate: Option<RequestRate>,
    pub outcome: Result<()>,
}

/// PermitPortion of one minute that this server took and has not given out.
#[derive(Debug, Default)]
pub(super) struct PermitPortion {
    minute: String,
    left: u32,
    /// What all servers together had taken then.
    taken: u32,
}

impl Quotas {
    /// Admits a call of a key, or of a page of the tenant. `run`: the execution that it is going to start, if it starts one.
    ///
    /// Refusals: `budget_exceeded` (402), `rate_limited` and `too_many_executions` (429).
    pub async fn admit(&self, tenant: TenantId, key: Option<KeyId>, run: Option<RunId>) -> Admission {
        let mut rate = None;
        let outcome = self.judge(tenant, key, run, &mut rate).await;
        Admission { rate, outcome }
    }

    async fn judge(&self, tenant: TenantId, key: Option<KeyId>, run: Option<RunId>, rate: &mut Option<RequestRate>) -> Result<()> {
        let rows = self.limits(tenant, key).await?;
        if rows.is_empty() {
            return Ok(());
        }
        self.check_counters(tenant, key, &rows).await?;
        self.take_permits(tenant, &rows, rate).await?;
        let slots = rows.iter().filter_map(|row| Some(QuotaSlot { key: row.key, max: row.limits.rate_limit.concurrent? }));
        match run {
            Some(run) => self.take_room(tenant, run, slots.collect()).await,
            None => Ok(()),
        }
    }

    /// Refuses when a budget, or the tokens of this minute, are used up.
    async fn check_counters(&self, tenant: TenantId, key: Option<KeyId>, rows: &[LimitsRow]) -> Result<()> {
        let counted = |row: &LimitsRow| !row.limits.budgets.is_empty() || row.limits.rate_limit.tokens_per_minute.is_some();
        if !rows.iter().any(counted) {
            return Ok(());
        }
        let counts = self.counts(tenant, key, rows).await?;
        let now = self.clock.now();
        for row in rows {
            for budget in &row.limits.budgets {
                let window = budget.period.window(now);
                let count = find(&counts, row.key, &window.name);
                let no_money = budget.nano_dollars().is_some_and(|max| count.cost >= max);
                if no_money || budget.max_tokens.is_some_and(|max| count.tokens >= max) {
                    count_refusal("budget");
                    let shortage = BudgetShortage { of_key: row.key.is_some(), period: budget.period, resets_at: window.ends_at };
                    return Err(shortage.error(now));
                }
            }
            let minute = minute_window(now);
            let used = find(&counts, row.key, &minute.name).tokens;
            if row.limits.rate_limit.tokens_per_minute.is_some_and(|max| used >= max) {
                count_refusal("tokens");
                let message = "the tokens of this minute are used up, or set aside for calls that are under way";
                return Err(too_soon(message, minute.ends_at.map_or(Duration::ZERO, |at| at.since(now))));
            }
        }
        Ok(())
    }

    /// Takes one request of each limited rate; `rate`: the one with the least left.
    async fn take_permits(&self, tenant: TenantId, rows: &[LimitsRow], rate: &mut Option<RequestRate>) -> Result<()> {
        let mut given: Vec<Option<KeyId>> = Vec::new();
        for row in rows {
            let Some(limit) = row.limits.rate_limit.requests_per_minute else { continue };
            let now = self.clock.now();
            let left = self.permit(tenant, row.key, limit, now).await?;
            let refused = left.is_none();
            let left = left.unwrap_or_else(|| RequestRate { limit, remaining: 0, reset: reset(now) });
            if rate.is_none_or(|rate| left.remaining < rate.remaining) {
                *rate = Some(left);
            }
            if refused {
                given.iter().for_each(|key| self.give_back(tenant, *key, now));
                count_refusal("requests");
                let whose = if row.key.is_some() { "this key" } else { "the tenant" };
                return Err(too_soon(format!("{whose} may make {limit} requests a minute, and made them"), left.reset));
            }
            given.push(row.key);
        }
        Ok(())
    }

    /// One permit, of those that are here or of a new portion.
    async fn permit(&self, tenant: TenantId, key: Option<KeyId>, limit: u32, now: Timestamp) -> StoreResult<Option<RequestRate>> {
        if let Some(rate) = self.local_permit(tenant, key, limit, now) {
            return Ok(Some(rate));
        }
        let window = minute_window(now);
        let portion = (limit / PORTIONS).clamp(1, MAX_PORTION);
        // Near the limit a whole portion may not be had, and a single permit may.
        for wanted in [portion, 1].into_iter().take(if portion > 1 { 2 } else { 1 }) {
            let take = QuotaTake {
                key,
                name: window.name.clone(),
                requests: u64::from(wanted),
                max_requests: Some(u64::from(limit)),
                expires_at: window.ends_at.map(|at| at.after(KEPT_FOR)),
                ..QuotaTake::default()
            };
            if let QuotaAnswer::Taken(counts) = self.store.take_quota(tenant, vec![take]).await? {
                let taken = counts.first().map_or(limit, |count| u32::try_from(*count).unwrap_or(limit));
                return Ok(Some(self.keep_portion(
                    (tenant, key),
                    PermitPortion { minute: window.name, left: wanted - 1, taken },
                    limit,
                    now,
                )));
            }
        }
        Ok(None)
    }

    fn local_permit(&self, tenant: TenantId, key: Option<KeyId>, limit: u32, now: Timestamp) -> Option<RequestRate> {
        let mut permits = self.permits.lock();
        let kept = permits.get_mut(&(tenant, key)).filter(|kept| kept.minute == minute_window(now).name && kept.left > 0)?;
        kept.left -= 1;
        Some(kept.rate(limit, now))
    }

    /// Keeps the rest of a portion beside what is left of others of the same minute.
    fn keep_portion(&self, subject: super::Subject, portion: PermitPortion, limit: u32, now: Timestamp) -> RequestRate {
        let mut permits = self.permits.lock();
        permits.retain(|_, kept| kept.minute == portion.minute);
        let kept = permits.entry(subject).or_default();
        *kept =
            PermitPortion { left: portion.left.saturating_add(kept.left), taken: portion.taken.max(kept.taken), minute: portion.minute };
        kept.rate(limit, now)
    }

    fn give_back(&self, tenant: TenantId, key: Option<KeyId>, now: Timestamp) {
        let mut permits = self.permits.lock();
        if let Some(kept) = permits.get_mut(&(tenant, key)).filter(|kept| kept.minute == minute_window(now).name) {
            kept.left = kept.left.saturating_add(1);
        }
    }

    async fn take_room(&self, tenant: TenantId, run: RunId, slots: Vec<QuotaSlot>) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let Some(full) = self.store.take_slots(tenant, run, slots.clone(), now, now.after(BIRTH)).await? else { return Ok(()) };
        count_refusal("concurrent");
        let max = slots.get(full).map_or(0, |slot| slot.max);
        let whose = if slots.get(full).is_some_and(|slot| slot.key.is_some()) { "this key" } else { "the tenant" };
        let message = format!("{max} executions of {whose} are under way, the most at the same time");
        Err(Error::new(Kind::Limited, "too_many_executions", message)
            .retry_after(Duration::from_secs(1))
            .next("wait until one of them has ended, then call again"))
    }
}

impl PermitPortion {
    fn rate(&self, limit: u32, now: Timestamp) -> RequestRate {
        RequestRate { limit, remaining: limit.saturating_sub(self.taken).saturating_add(self.left), reset: reset(now) }
    }
}

/// Until the next minute.
fn reset(now: Timestamp) -> Duration {
    minute_window(now).ends_at.map_or(Duration::ZERO, |at| at.since(now))
}

fn too_soon(message: impl Into<String>, wait: Duration) -> Error {
    let wait = wait.max(Duration::from_millis(1));
    Error::new(Kind::Limited, "rate_limited", message)
        .retry_after(wait)
        .next(format!("wait {} s, until the next minute of the clock, then call again", wait.as_secs_f64().ceil()))
}
