//! Usage in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::id::{KeyId, TenantId};
use crate::model::quota::day_of;
use crate::model::{ModelUsage, Run};
use crate::store::usage::{UsageFigures, UsageLine, UsageQuery, UsageTotal, total};
use crate::store::{StoreResult, Usages};

/// Tenant, day, key, target and model, as the databases keep them.
type UsageKey = (TenantId, String, String, String, String);

/// The table of this noun.
#[derive(Default)]
pub(super) struct Usage(BTreeMap<UsageKey, UsageFigures>);

fn suffix(key: Option<KeyId>) -> String {
    key.map(KeyId::suffix).unwrap_or_default()
}

impl Usage {
    /// Adds what a run's commit used.
    pub fn add(&mut self, run: &Run, lines: &[UsageLine], now: Timestamp) {
        for line in lines {
            let target = run.target.stored().unwrap_or_default();
            let key = (run.tenant, day_of(now), suffix(run.input.key_id), target, line.usage.model.clone());
            self.0.entry(key).or_default().add(&UsageFigures::of(line));
        }
    }

    /// What a key, or all of a tenant, used from a day on: nano-dollars and tokens.
    pub fn since(&self, tenant: TenantId, key: Option<KeyId>, first_day: &str) -> (u64, u64) {
        let key = suffix(key);
        let wanted =
            self.0.iter().filter(|((of, day, by, ..), _)| *of == tenant && day.as_str() >= first_day && (key.is_empty() || *by == key));
        wanted.fold((0, 0), |(cost, tokens), (_, figures)| (cost + figures.cost, tokens + figures.input_tokens + figures.output_tokens))
    }
}

#[async_trait]
impl Usages for MemoryStore {
    async fn add_usage(&self, tenant: TenantId, key: Option<KeyId>, usage: ModelUsage, now: Timestamp) -> StoreResult<()> {
        let line = UsageLine { usage, executions: 0, failures: 0 };
        let place = (tenant, day_of(now), suffix(key), String::new(), line.usage.model.clone());
        self.tables().usage.0.entry(place).or_default().add(&UsageFigures::of(&line));
        Ok(())
    }

    async fn read_usage(&self, tenant: TenantId, query: UsageQuery) -> StoreResult<Vec<UsageTotal>> {
        let (by, only) = (query.by, query.key.map(KeyId::suffix));
        let mut groups: BTreeMap<(String, String, String, String), UsageFigures> = BTreeMap::new();
        for ((of, day, key, target, model), figures) in &self.tables().usage.0 {
            let of_key = only.as_ref().is_none_or(|only| only == key);
            if *of != tenant || *day < query.first_day || *day > query.last_day || !of_key {
                continue;
            }
            let kept = |wanted: bool, text: &str| if wanted { text.to_owned() } else { String::new() };
            let group = (kept(by.day, day), kept(by.key, key), by.target(target).to_owned(), kept(by.model, model));
            groups.entry(group).or_default().add(figures);
        }
        let skipped = usize::try_from(query.offset).unwrap_or(usize::MAX);
        let page = groups.into_iter().skip(skipped).take(query.limit as usize);
        page.map(|((day, key, target, model), figures)| total(&day, &key, &target, &model, figures)).collect()
    }
}
