//! Waits and signals in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::runs::Runs;
use super::{MemoryStore, Tables};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId, WaitId};
use crate::model::RunState;
use crate::model::wait::{Resolution, Wait};
use crate::store::batch::json;
use crate::store::text::Fit;
use crate::store::waits::{MAX_SIGNAL_BYTES, MAX_SIGNALS, is_reserved_signal};
use crate::store::{Resolve, Resolved, Signal, SignalKey, StoreError, StoreResult};

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

    /// Deletes the waits of a run.
    pub fn remove_run(&mut self, run: RunId) {
        self.0.retain(|_, (wait, _)| wait.run != run);
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

/// Returns whether a run with these signals may store one more; a signal that it has already is always accepted.
fn has_room(kept: &[Signal], signal: &Signal) -> bool {
    if is_reserved_signal(&signal.name) || kept.iter().any(|known| known.name == signal.name && known.id == signal.id) {
        return true;
    }
    let counted: Vec<&Signal> = kept.iter().filter(|known| !is_reserved_signal(&known.name)).collect();
    let bytes: usize = counted.iter().map(|known| json(&known.payload).len()).sum();
    counted.len() < MAX_SIGNALS && bytes + json(&signal.payload).len() <= MAX_SIGNAL_BYTES
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
        let Some(row) = runs.get(run).filter(|row| row.run.tenant == tenant && takes(row.run.state)) else { return Ok(false) };
        if !has_room(&row.signals, &signal) {
            return Err(StoreError::TooManySignals);
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

    async fn list_signals(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<SignalKey>> {
        let tables = self.tables();
        let kept = tables.runs.get(run).filter(|row| row.run.tenant == tenant).into_iter().flat_map(|row| &row.signals);
        Ok(kept.map(|signal| SignalKey { name: signal.name.clone(), id: signal.id.clone() }).collect())
    }

    async fn find_signal(&self, tenant: TenantId, run: RunId, key: &SignalKey) -> StoreResult<Option<Signal>> {
        let tables = self.tables();
        let mut kept = tables.runs.get(run).filter(|row| row.run.tenant == tenant).into_iter().flat_map(|row| &row.signals);
        Ok(kept.find(|signal| signal.name == key.name && signal.id == key.id).cloned())
    }
}
