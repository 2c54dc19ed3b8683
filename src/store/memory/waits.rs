//! Waits and signals in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::runs::Runs;
use super::{MemoryStore, Tables};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId, WaitId};
use crate::model::RunState;
use crate::model::wait::{Resolution, Wait};
use crate::store::text::Fit;
use crate::store::{Resolve, Resolved, Signal, StoreResult};

/// By id; `true` while it can be answered.
#[derive(Default)]
pub(super) struct Waits(BTreeMap<WaitId, (Wait, bool)>);

impl Waits {
    pub fn open(&mut self, waits: Vec<Wait>) {
        for wait in waits {
            self.0.entry(wait.id).or_insert((Wait { resolution: None, resolved_at: None, resolved_after: None, ..wait }, true));
        }
    }

    pub fn is_open(&self, id: WaitId) -> bool {
        self.0.get(&id).is_some_and(|(_, open)| *open)
    }

    /// Nobody can answer an ended run.
    pub fn close_run(&mut self, runs: &Runs, run: RunId) {
        for id in runs.get(run).into_iter().flat_map(|row| &row.waits) {
            if let Some((_, open)) = self.0.get_mut(id) {
                *open = false;
            }
        }
    }

    pub fn of_run(&self, runs: &Runs, run: RunId) -> Vec<Wait> {
        let ids = runs.get(run).into_iter().flat_map(|row| &row.waits);
        ids.filter_map(|id| self.0.get(id)).map(|(wait, _)| wait.clone()).collect()
    }

    fn get(&self, tenant: TenantId, id: WaitId) -> Option<&Wait> {
        self.0.get(&id).map(|(wait, _)| wait).filter(|wait| wait.tenant == tenant)
    }
}

impl Tables {
    /// Answers an open wait and makes its run look; the run, if it did.
    pub fn resolve(&mut self, tenant: TenantId, id: WaitId, resolution: Resolution, now: Timestamp) -> Option<RunId> {
        let (wait, open) = self.waits.0.get_mut(&id).filter(|(wait, open)| *open && wait.tenant == tenant)?;
        *open = false;
        wait.resolution = Some(resolution);
        wait.resolved_at = Some(now);
        let run = wait.run;
        wait.resolved_after = self.runs.get(run).and_then(|row| row.log.keys().next_back().copied());
        self.runs.nudge(run, now);
        Some(run)
    }
}

#[async_trait]
impl crate::store::Waits for MemoryStore {
    async fn resolve_waits(&self, answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>> {
        let mut tables = self.tables();
        let results = answers.into_iter().map(|answer| match tables.resolve(answer.tenant, answer.wait, answer.resolution, answer.now) {
            Some(run) => {
                self.ring(run);
                Resolved::First
            }
            None => {
                let wait = tables.waits.get(answer.tenant, answer.wait);
                wait.and_then(|wait| wait.resolution.clone()).map_or(Resolved::Closed, Resolved::Before)
            }
        });
        Ok(results.collect())
    }

    async fn run_waits(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<Wait>> {
        let tables = self.tables();
        Ok(tables.waits.of_run(&tables.runs, run).into_iter().filter(|wait| wait.tenant == tenant).collect())
    }

    async fn find_wait(&self, tenant: TenantId, wait: WaitId) -> StoreResult<Option<Wait>> {
        Ok(self.tables().waits.get(tenant, wait).cloned())
    }

    async fn open_waits(&self, tenant: TenantId, after: Option<WaitId>, limit: u32) -> StoreResult<Vec<Wait>> {
        let tables = self.tables();
        let open =
            tables.waits.0.values().filter(|(wait, open)| *open && wait.tenant == tenant && after.is_none_or(|after| wait.id > after));
        Ok(open.take(limit as usize).map(|(wait, _)| wait.clone()).collect())
    }

    async fn send_signal(&self, tenant: TenantId, run: RunId, signal: Signal, now: Timestamp) -> StoreResult<bool> {
        signal.fit()?;
        let runs = &mut self.tables().runs;
        let takes = |state| matches!(state, RunState::Queued | RunState::Running | RunState::Paused);
        if !runs.get(run).is_some_and(|row| row.run.tenant == tenant && takes(row.run.state)) {
            return Ok(false);
        }
        runs.change(run, |row| {
            if !row.signals.iter().any(|kept| kept.name == signal.name && kept.id == signal.id) {
                row.signals.push(signal);
            }
        });
        runs.nudge(run, now);
        self.ring(run);
        Ok(true)
    }

    async fn kept_signals(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<Signal>> {
        let tables = self.tables();
        let row = tables.runs.get(run).filter(|row| row.run.tenant == tenant);
        Ok(row.map(|row| row.signals.clone()).unwrap_or_default())
    }
}
