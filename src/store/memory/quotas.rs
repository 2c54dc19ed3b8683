//! Limits and their counters in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{MemoryStore, Tables};
use crate::clock::Timestamp;
use crate::id::{KeyId, RunId, TenantId};
use crate::model::{RunState, UsageLimits};
use crate::store::{LimitsRow, QuotaAnswer, QuotaChange, QuotaCount, QuotaSlot, QuotaTake, Quotas, StoreResult};

/// The tables of this noun.
#[derive(Default)]
pub(super) struct QuotaTables {
    limits: BTreeMap<(TenantId, Option<KeyId>), UsageLimits>,
    counters: BTreeMap<(TenantId, Option<KeyId>, String), QuotaCounter>,
    slots: BTreeMap<(TenantId, Option<KeyId>, RunId), Timestamp>,
}

#[derive(Clone, Copy, Default)]
struct QuotaCounter {
    cost: u64,
    tokens: u64,
    requests: u64,
    expires_at: Option<Timestamp>,
}

impl QuotaCounter {
    /// The counter after a booking, if it stays within the caps.
    fn after(self, take: &QuotaTake) -> Option<Self> {
        let within = |value: u64, max: Option<u64>| max.is_none_or(|max| value <= max);
        let next = Self {
            cost: self.cost.saturating_add(take.cost),
            tokens: self.tokens.saturating_add(take.tokens),
            requests: self.requests.saturating_add(take.requests),
            ..self
        };
        let fits = within(next.cost, take.max_cost) && within(next.tokens, take.max_tokens) && within(next.requests, take.max_requests);
        fits.then_some(next)
    }

    fn corrected(self, change: &QuotaChange) -> Self {
        let moved = |value: u64, by: i64| value.saturating_add_signed(by);
        Self {
            cost: moved(self.cost, change.cost),
            tokens: moved(self.tokens, change.tokens),
            requests: moved(self.requests, change.requests),
            ..self
        }
    }
}

impl Tables {
    fn counter(&self, tenant: TenantId, take: &QuotaTake) -> QuotaCounter {
        let known = self.quotas.counters.get(&(tenant, take.key, take.name.clone())).copied();
        known.unwrap_or_else(|| {
            let (cost, tokens) = take.first_day.as_ref().map_or((0, 0), |day| self.usage.since(tenant, take.key, day));
            QuotaCounter { cost, tokens, requests: 0, expires_at: take.expires_at }
        })
    }

    fn under_way(&self, tenant: TenantId, key: Option<KeyId>) -> usize {
        let active = |state: RunState| matches!(state, RunState::Queued | RunState::Running | RunState::Compensating);
        let runs = self.runs.all().map(|row| &row.run).filter(|run| {
            let of_key = key.is_none() || run.input.key_id == key;
            run.tenant == tenant && of_key && run.parent.is_none() && run.wake_at.is_some() && active(run.state)
        });
        let begins = |(of, by, run): &&(TenantId, Option<KeyId>, RunId)| *of == tenant && *by == key && self.runs.get(*run).is_none();
        runs.count() + self.quotas.slots.keys().filter(begins).count()
    }
}

#[async_trait]
impl Quotas for MemoryStore {
    async fn put_limits(&self, tenant: TenantId, row: LimitsRow, _: Timestamp) -> StoreResult<()> {
        let limits = &mut self.tables().quotas.limits;
        if row.limits.is_empty() {
            limits.remove(&(tenant, row.key));
        } else {
            limits.insert((tenant, row.key), row.limits);
        }
        Ok(())
    }

    async fn find_limits(&self, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Vec<LimitsRow>> {
        let all = self.list_limits(tenant).await?;
        Ok(all.into_iter().filter(|row| row.key.is_none() || row.key == key).collect())
    }

    async fn list_limits(&self, tenant: TenantId) -> StoreResult<Vec<LimitsRow>> {
        let tables = self.tables();
        let own = tables.quotas.limits.iter().filter(|((of, _), _)| *of == tenant);
        Ok(own.map(|((_, key), limits)| LimitsRow { key: *key, limits: limits.clone() }).collect())
    }

    async fn take_quota(&self, tenant: TenantId, takes: Vec<QuotaTake>) -> StoreResult<QuotaAnswer> {
        let mut tables = self.tables();
        let mut booked = Vec::with_capacity(takes.len());
        for (place, take) in takes.iter().enumerate() {
            let Some(next) = tables.counter(tenant, take).after(take) else { return Ok(QuotaAnswer::Refused(place)) };
            booked.push(next);
        }
        let requests = booked.iter().map(|counter| counter.requests).collect();
        for (take, counter) in takes.into_iter().zip(booked) {
            tables.quotas.counters.insert((tenant, take.key, take.name), counter);
        }
        Ok(QuotaAnswer::Taken(requests))
    }

    async fn correct_quota(&self, tenant: TenantId, changes: Vec<QuotaChange>) -> StoreResult<()> {
        let counters = &mut self.tables().quotas.counters;
        for change in changes {
            if let Some(counter) = counters.get_mut(&(tenant, change.key, change.name.clone())) {
                *counter = counter.corrected(&change);
            }
        }
        Ok(())
    }

    async fn count_quota(&self, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Vec<QuotaCount>> {
        let tables = self.tables();
        let own = tables.quotas.counters.iter().filter(|((of, by, _), _)| *of == tenant && (by.is_none() || *by == key));
        let count = |((_, key, name), counter): (&(TenantId, Option<KeyId>, String), &QuotaCounter)| QuotaCount {
            key: *key,
            name: name.clone(),
            cost: counter.cost,
            tokens: counter.tokens,
            requests: counter.requests,
        };
        Ok(own.map(count).collect())
    }

    async fn take_slots(
        &self,
        tenant: TenantId,
        run: RunId,
        slots: Vec<QuotaSlot>,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreResult<Option<usize>> {
        let mut tables = self.tables();
        tables.quotas.slots.retain(|_, expires_at| *expires_at > now);
        let full = slots.iter().position(|slot| tables.under_way(tenant, slot.key) >= slot.max as usize);
        if full.is_none() {
            tables.quotas.slots.extend(slots.iter().map(|slot| ((tenant, slot.key, run), until)));
        }
        Ok(full)
    }

    async fn purge_quotas(&self, now: Timestamp) -> StoreResult<u64> {
        let quotas = &mut self.tables().quotas;
        let before = quotas.counters.len() + quotas.slots.len();
        quotas.counters.retain(|_, counter| counter.expires_at.is_none_or(|at| at > now));
        quotas.slots.retain(|_, expires_at| *expires_at > now);
        Ok((before - quotas.counters.len() - quotas.slots.len()) as u64)
    }
}
